"""Cache of synthetic defects on disk: reading and continuing entries, keys, damage and full disks."""

import json
import multiprocessing
import os
from pathlib import Path

import joblib
import numpy as np
import pytest
from assertions import assert_same_samples, beginning
from sklearn.base import clone

from sklearn_exdd._files import write_whole
from sklearn_exdd.augment import (
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    PerlinRegions,
    RidgedRegions,
    sample_cache,
)

AUGMENTERS = [
    CutPasteDefectAugmenter(min_contrast=0.3, random_state=0),
    DefectPasteAugmenter(min_contrast=0.3, random_state=0),
    OffsetDefectAugmenter(random_state=0),
    PerlinDefectAugmenter(random_state=0),
]


class Counting(OffsetDefectAugmenter):
    """Augmenter that counts the images it makes."""

    n_made = 0

    def _one(self, number, seed):
        type(self).n_made += 1
        return super()._one(number, seed)


@pytest.fixture
def made(monkeypatch):
    """Return a function that counts the images that Counting has made since its last call."""
    monkeypatch.setattr(Counting, "n_made", 0)

    def since_last_asked():
        n_made, Counting.n_made = Counting.n_made, 0
        return n_made

    return since_last_asked


@pytest.fixture
def normals(surfaces):
    X, y, _ = surfaces
    return X[y == 0][:6]


def counting(memory, **params):
    return Counting(memory=memory, **{"random_state": 0, **params})


def files(folder):
    """Return the names of the files in the only entry."""
    (entry,) = folder.iterdir()
    return sorted(path.name for path in entry.iterdir())


def names_of(n_samples):
    return sorted(f"{i:06d}{end}" for i in range(n_samples) for end in (".json", ".png", "_mask.png"))


# Reading and continuing entries


def test_a_second_call_reads_what_the_first_has_made(normals, tmp_path, made):
    first = counting(tmp_path).fit(normals).sample(4)
    assert made() == 4
    assert files(tmp_path) == names_of(4)
    second = counting(tmp_path).fit(normals).sample(4)
    assert made() == 0
    assert_same_samples(first, second)
    assert_same_samples(second, counting(None).fit(normals).sample(4))


def test_a_greater_number_continues_and_a_smaller_one_reads(normals, tmp_path, made):
    expected = counting(None).fit(normals).sample(7)
    made()
    counting(tmp_path).fit(normals).sample(4)
    assert made() == 4
    assert_same_samples(counting(tmp_path).fit(normals).sample(7), expected)
    assert made() == 3
    assert_same_samples(counting(tmp_path).fit(normals).sample(2), beginning(expected, 2))
    assert made() == 0
    assert files(tmp_path) == names_of(7)


@pytest.mark.parametrize("augmenter", AUGMENTERS, ids=lambda augmenter: type(augmenter).__name__)
@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X,
        lambda X: X[..., None],
        lambda X: X.astype(np.uint16) * 256 + X[:, ::-1],
        lambda X: (X / 255).astype(np.float32),
        lambda X: X / 255,
        lambda X: np.stack([X, X // 2, 255 - X], axis=3),
        lambda X: np.stack([X, X // 2, 255 - X], axis=3).astype(np.uint16) * 257,
    ],
    ids=["uint8", "one channel", "uint16", "float32", "float64", "RGB", "RGB of 16 bits"],
)
def test_what_is_read_is_what_was_made_to_the_bit(augmenter, convert, surfaces, tmp_path):
    X, y, masks = surfaces
    X = convert(X)
    fresh = clone(augmenter).fit(X, y, masks=masks).sample(3)
    kept, read = (clone(augmenter).set_params(memory=tmp_path).fit(X, y, masks=masks).sample(3) for _ in range(2))
    assert_same_samples(kept, fresh)
    assert_same_samples(read, fresh)


def test_a_cache_serves_a_list_of_sizes_and_a_folder_given_as_text(tmp_path, made):
    rng = np.random.RandomState(0)
    X = [rng.randint(90, 110, size=shape).astype(np.uint8) for shape in [(50, 60), (64, 64), (41, 70)]]
    first, second = (counting(str(tmp_path / "deep" / "er")).fit(X).sample(4) for _ in range(2))
    assert made() == 4
    assert_same_samples(first, second)


def test_members_of_a_mixture_keep_their_own(normals, tmp_path, made):
    mixed = MixedDefectAugmenter([("a", counting(tmp_path, random_state=None)), ("b", PerlinDefectAugmenter())])
    first, second = (clone(mixed).set_params(random_state=0).fit(normals).sample(6) for _ in range(2))
    assert made() == 3
    assert_same_samples(first, second)


# Keys


OTHERS = {
    "offset": {"offset": (0.3, 0.6)},
    "sign": {"sign": "dark"},
    "min_contrast": {"min_contrast": 0.5},
    "max_redraws": {"max_redraws": 9},
    "regions": {"regions": "ridged"},
    "a drawer": {"regions": RidgedRegions(width=(2, 3))},
    "another drawer": {"regions": RidgedRegions(width=(2, 4))},
    "drawers": {"regions": [PerlinRegions(), RidgedRegions()]},
    "foreground": {"foreground": "otsu", "min_contrast": 0},
    "a seed": {"random_state": 1},
}


@pytest.mark.parametrize("params", OTHERS.values(), ids=OTHERS)
def test_another_parameter_or_seed_is_another_entry(params, normals, tmp_path, made):
    counting(tmp_path).fit(normals).sample(2)
    made()
    expected = counting(None, **params).fit(normals).sample(2)
    assert made() == 2
    assert_same_samples(counting(tmp_path, **params).fit(normals).sample(2), expected)
    assert made() == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert_same_samples(counting(tmp_path, **params).fit(normals).sample(2), expected)
    assert made() == 0


def test_a_parameter_within_a_drawer_is_in_the_key(normals, tmp_path, made):
    augmenter = counting(tmp_path, regions=RidgedRegions())
    augmenter.fit(normals).sample(2)
    augmenter.set_params(regions__width=(3, 6)).fit(normals).sample(2)
    assert made() == 4


def test_the_seed_of_a_call_is_in_the_key(normals, tmp_path, made):
    augmenter = counting(tmp_path).fit(normals)
    for seed in (None, 3, 4, 3, None):
        augmenter.sample(2, random_state=seed)
    assert made() == 6


def test_how_many_and_how_loud_are_not_in_the_key(normals, tmp_path, made):
    counting(tmp_path).fit(normals).sample(3)
    assert made() == 3
    labels = ["good"] * len(normals)
    for params in ({"n_synthetic": 3}, {"n_synthetic": 2, "verbose": 1}, {"pos_label": "bad"}):
        counting(tmp_path, **params).fit_transform(normals, labels) if "n_synthetic" in params else counting(
            tmp_path, **params
        ).fit(normals, labels).sample(3)
        assert made() == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_one_other_pixel_is_another_entry(normals, tmp_path, made):
    counting(tmp_path).fit(normals).sample(2)
    changed = normals.copy()
    changed[5, 63, 63] += 1
    counting(tmp_path).fit(changed).sample(2)
    counting(tmp_path).fit(normals[:5]).sample(2)
    counting(tmp_path).fit(normals[::-1]).sample(2)
    assert made() == 8


@pytest.mark.parametrize(
    "convert",
    [lambda X: X[..., None], lambda X: X.astype(np.uint16) * 257, lambda X: (X / 255).astype(np.float32)],
    ids=["one channel", "uint16", "float32"],
)
def test_the_same_pixels_in_another_form_are_another_entry(convert, normals, tmp_path, made):
    counting(tmp_path).fit(normals).sample(2)
    converted = convert(normals)
    synthetic = counting(tmp_path).fit(converted).sample(2)
    assert synthetic.images.dtype == converted.dtype
    assert synthetic.images.shape == (2, *converted.shape[1:])
    assert made() == 4


def test_real_defects_and_their_masks_are_in_the_key(surfaces, tmp_path, made):
    X, y, masks = surfaces
    other = masks.copy()
    other[np.flatnonzero(y)[0], :9, :9] = True
    changed = X.copy()
    changed[np.flatnonzero(y)[0], 0, 0] += 1
    for images, their_masks in [(X, masks), (X, None), (X, other), (changed, masks), (X, masks)]:
        counting(tmp_path).fit(images, y, masks=their_masks).sample(1)
    assert made() == 4


def test_the_source_is_right_where_the_same_normals_stand_elsewhere_in_x(surfaces, tmp_path):
    X, y, masks = surfaces
    order = np.argsort(y, kind="stable")
    for rows in (np.arange(len(y)), order):
        synthetic = counting(tmp_path).fit(X[rows], y[rows], masks=masks[rows]).sample(6)
        for image, mask, provenance in zip(*synthetic, synthetic.provenance):
            np.testing.assert_array_equal(image[~mask], X[rows][provenance["source"]][~mask])


def test_images_in_files_are_known_by_their_pixels(normals, tmp_path, made, write_images):
    counting(tmp_path / "cache").fit(normals).sample(2)
    paths = write_images(normals)
    counting(tmp_path / "cache").fit(paths).sample(2)
    assert made() == 2
    paths = write_images(normals + 1, "others")
    counting(tmp_path / "cache").fit(paths).sample(2)
    assert made() == 2


def test_a_function_for_the_foreground_is_known_by_what_it_does(normals, tmp_path, made):
    def above(level):
        return {
            1: lambda image: image[..., 0] > 0.01,
            2: lambda image: image[..., 0] > 0.02,
            3: lambda image: image[..., 0] >= 0.01,
        }[level]

    for level, n_made in [(1, 2), (2, 2), (1, 0), (3, 2)]:
        counting(tmp_path, foreground=above(level)).fit(normals).sample(2)
        assert made() == n_made


def test_foreign_textures_are_known_by_their_pixels(normals, tmp_path, write_images):
    textures = np.random.RandomState(0).randint(0, 256, size=(3, 70, 70)).astype(np.uint8)
    results = [
        PerlinDefectAugmenter(texture=texture, memory=tmp_path / "cache", random_state=0).fit(normals).sample(2)
        for texture in (textures, list(textures), write_images(textures), textures[:2])
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert_same_samples(results[0], results[2])
    fresh = PerlinDefectAugmenter(texture=textures[:2], random_state=0).fit(normals).sample(2)
    assert_same_samples(results[3], fresh)


def test_without_a_seed_each_fit_has_its_own_entry(normals, tmp_path, made):
    augmenter = counting(tmp_path, random_state=None).fit(normals)
    assert_same_samples(augmenter.sample(2), augmenter.sample(2))
    assert made() == 2
    counting(tmp_path, random_state=None).fit(normals).sample(2)
    assert made() == 2


def test_a_cache_that_fit_knew_nothing_of_is_refused(normals, tmp_path):
    augmenter = counting(None).fit(normals)
    with pytest.raises(
        ValueError, match=r"^memory: expected a folder that was set before fit, got None in fit. Call fit again"
    ):
        augmenter.set_params(memory=tmp_path).sample(1)


# Damaged entries


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def garble(path):
    path.write_bytes(os.urandom(300))


def replace_with(text):
    def replace(path):
        path.write_text(text)

    return replace


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("000001.png", truncate),
        ("000001.png", empty),
        ("000001.png", flip),
        ("000001.png", lambda path: path.unlink()),
        ("000001_mask.png", truncate),
        ("000001_mask.png", flip),
        ("000001_mask.png", lambda path: path.unlink()),
        ("000001.json", truncate),
        ("000001.json", empty),
        ("000001.json", flip),
        ("000001.json", garble),
        ("000001.json", replace_with("{}")),
        ("000001.json", replace_with("[1, 2]")),
        ("000001.json", replace_with('"text"')),
        ("000001.json", replace_with("null")),
        ("000001.json", replace_with('{"image": 3, "mask": 4, "provenance": {}, "sha256": ""}')),
    ],
)
def test_a_damaged_entry_is_made_again_with_a_warning(name, damage, normals, tmp_path, made):
    expected = counting(tmp_path).fit(normals).sample(3)
    made()
    (entry,) = tmp_path.iterdir()
    damage(entry / name)
    message = r"000001\.json: expected a finished sample, got a damaged one \(.*\)\. The sample is made again"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        again = counting(tmp_path).fit(normals).sample(3)
    assert len(warned) == 1
    assert made() == 1
    assert_same_samples(again, expected)
    assert_same_samples(counting(tmp_path).fit(normals).sample(3), expected)
    assert made() == 0
    assert files(tmp_path) == names_of(3)


@pytest.mark.parametrize("part", [".json", ".png", "_mask.png"])
@pytest.mark.filterwarnings("ignore:.*expected a finished sample:RuntimeWarning")
def test_no_flipped_bit_goes_unseen(part, tmp_path, made):
    X = np.random.RandomState(0).randint(90, 110, size=(2, 16, 16)).astype(np.uint8)
    augmenter = counting(tmp_path, regions="rectangle", min_contrast=0).fit(X)
    expected = augmenter.sample(1)
    (entry,) = tmp_path.iterdir()
    path = entry / f"000000{part}"
    content = path.read_bytes()
    positions = np.linspace(0, len(content) - 1, 24).astype(int)
    for number, position in enumerate(positions):
        damaged = bytearray(content)
        damaged[position] ^= 1 << number % 8
        path.write_bytes(bytes(damaged))
        assert_same_samples(augmenter.sample(1), expected)


def test_an_entry_whose_numbers_were_swapped_is_made_again(normals, tmp_path):
    expected = counting(tmp_path).fit(normals).sample(2)
    (entry,) = tmp_path.iterdir()
    images = [(entry / f"00000{i}.png").read_bytes() for i in range(2)]
    for i in range(2):
        (entry / f"00000{i}.png").write_bytes(images[1 - i])
    with pytest.warns(RuntimeWarning, match="has changed"):
        assert_same_samples(counting(tmp_path).fit(normals).sample(2), expected)


def test_files_that_belong_to_no_entry_do_no_harm(normals, tmp_path, made):
    counting(tmp_path).fit(normals).sample(2)
    (entry,) = tmp_path.iterdir()
    (entry / "000002.png").write_bytes(b"the rest of a crash")
    (entry / "notes.txt").write_text("mine")
    made()
    assert_same_samples(counting(tmp_path).fit(normals).sample(4), counting(None).fit(normals).sample(4))
    assert made() == 2 + 4
    assert files(tmp_path) == sorted([*names_of(4), "notes.txt"])


def test_an_entry_is_readable_by_a_person(normals, tmp_path):
    from PIL import Image

    synthetic = counting(tmp_path).fit(normals).sample(1)
    (entry,) = tmp_path.iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(entry / "000000.png")), synthetic.images[0])
    np.testing.assert_array_equal(np.asarray(Image.open(entry / "000000_mask.png")) > 127, synthetic.masks[0])
    assert json.loads((entry / "000000.json").read_text())["provenance"] == synthetic.provenance[0]
    assert entry.name.startswith("Counting-")


# Failed writes


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5, 6])
def test_a_full_disk_is_told_once_and_changes_no_sample(fails_at, normals, tmp_path, monkeypatch, made):
    writes = []

    def write(path, content):
        writes.append(path)
        if len(writes) >= fails_at:
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    expected = counting(None).fit(normals).sample(4)
    monkeypatch.setattr(sample_cache, "write_whole", write)
    message = r"^memory: expected to write into .*Counting-.*, got OSError: .*No space left.*are still made, but"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        synthetic = counting(tmp_path).fit(normals).sample(4)
    assert len(warned) == 1
    assert len(writes) == fails_at
    assert_same_samples(synthetic, expected)
    # Samples that were written completely are in the cache, the others are not.
    monkeypatch.setattr(sample_cache, "write_whole", write_whole)
    made()
    assert_same_samples(counting(tmp_path).fit(normals).sample(4), expected)
    assert made() == 4 - (fails_at - 1) // 3
    assert files(tmp_path) == names_of(4)


def test_a_disk_that_fills_up_within_a_file_leaves_nothing_of_it(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    path = tmp_path / "whole.bin"
    write_whole(path, b"before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after that")
    assert [one.name for one in tmp_path.iterdir()] == ["whole.bin"]
    assert path.read_bytes() == b"before"


def test_an_interruption_within_a_file_leaves_nothing_of_it(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "whole.bin", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_once(normals, tmp_path):
    (tmp_path / "file").write_text("no folder")
    augmenter = counting(tmp_path / "file").fit(normals)
    with pytest.warns(RuntimeWarning, match="^memory: expected to write into") as warned:
        synthetic = augmenter.sample(3)
    assert len(warned) == 1
    assert_same_samples(synthetic, counting(None).fit(normals).sample(3))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write anywhere")
def test_a_read_only_folder_is_read_and_told_once(normals, tmp_path, made):
    expected = counting(tmp_path).fit(normals).sample(2)
    (entry,) = tmp_path.iterdir()
    made()
    entry.chmod(0o500)
    try:
        with pytest.warns(RuntimeWarning, match="^memory: expected to write into") as warned:
            synthetic = counting(tmp_path).fit(normals).sample(4)
    finally:
        entry.chmod(0o700)
    assert len(warned) == 1
    assert made() == 2
    assert_same_samples(beginning(synthetic, 2), expected)


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_was_finished_before_an_interruption_is_not_made_again(error, normals, tmp_path, made, monkeypatch):
    expected = counting(None).fit(normals).sample(6)
    made()
    # Patch the library's class, because the code of Counting is part of the key.
    paint, one = OffsetDefectAugmenter._paint, OffsetDefectAugmenter._one

    def interrupted(self, number, seed):
        if number == 3:

            def fail(image, region, random_state):
                raise error

            monkeypatch.setattr(OffsetDefectAugmenter, "_paint", lambda self, *args: fail(*args))
        return one(self, number, seed)

    monkeypatch.setattr(OffsetDefectAugmenter, "_one", interrupted)
    with pytest.raises(error):
        counting(tmp_path).fit(normals).sample(6)
    assert files(tmp_path) == names_of(3)
    monkeypatch.setattr(OffsetDefectAugmenter, "_paint", paint)
    monkeypatch.setattr(OffsetDefectAugmenter, "_one", one)
    made()
    assert_same_samples(counting(tmp_path).fit(normals).sample(6), expected)
    assert made() == 3
    assert files(tmp_path) == names_of(6)


def test_faint_ones_are_reported_from_the_cache_too(normals, tmp_path):
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="^2 of 2 synthetic defects .* stayed below min_contrast=1000"):
            counting(tmp_path, min_contrast=1000, max_redraws=1).fit(normals).sample(2)


# Concurrent processes


def sample_in_a_process(X, memory, barrier, n_samples, results):
    augmenter = OffsetDefectAugmenter(memory=memory, random_state=0).fit(X)
    barrier.wait(300)
    synthetic = augmenter.sample(n_samples)
    results.put(joblib.hash([synthetic.images, synthetic.masks, synthetic.provenance]))


@pytest.mark.slow
def test_two_processes_at_once_give_the_same_and_leave_whole_entries(normals, tmp_path):
    # Spawn the processes: a fork of a process with threads of torch may hang.
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=sample_in_a_process, args=(normals, tmp_path, barrier, 20, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    hashes = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    expected = OffsetDefectAugmenter(random_state=0).fit(normals).sample(20)
    assert set(hashes) == {joblib.hash([expected.images, expected.masks, expected.provenance])}
    assert files(tmp_path) == names_of(20)
    assert_same_samples(OffsetDefectAugmenter(memory=tmp_path, random_state=0).fit(normals).sample(20), expected)


def test_threads_at_once_give_the_same(normals, tmp_path):
    expected = OffsetDefectAugmenter(random_state=0).fit(normals).sample(10)
    augmenter = OffsetDefectAugmenter(memory=tmp_path, random_state=0).fit(normals)
    results = joblib.Parallel(4, backend="threading")(joblib.delayed(augmenter.sample)(10) for _ in range(4))
    for synthetic in results:
        assert_same_samples(synthetic, expected)
    assert files(tmp_path) == names_of(10)


@pytest.mark.parametrize("as_memory", [str, Path, lambda folder: joblib.Memory(folder, verbose=0)])
def test_the_cache_is_given_as_a_path_or_a_memory(as_memory, surfaces, tmp_path):
    X, y, _ = surfaces
    augmenter = OffsetDefectAugmenter(memory=as_memory(tmp_path), min_contrast=0, random_state=0).fit(X[y == 0])
    assert len(augmenter.sample(2).images) == 2
    assert len(list(tmp_path.glob("OffsetDefectAugmenter-*/*.json"))) == 2


def test_a_memory_without_a_folder_caches_nothing_and_another_object_is_refused(surfaces):
    X, y, _ = surfaces
    OffsetDefectAugmenter(memory=joblib.Memory(None), min_contrast=0, random_state=0).fit(X[y == 0]).sample(1)

    class Elsewhere:
        location = 5

        def cache(self, function):
            return function

    with pytest.raises(ValueError, match=r"^memory: expected a path or a joblib.Memory in a folder, got .*Pass a path"):
        OffsetDefectAugmenter(memory=Elsewhere()).fit(X[y == 0])
