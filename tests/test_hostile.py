"""Files from strangers: fake images, and names that lead elsewhere. benchmarks/fuzz_images.py tries more files."""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor
from sklearn_exdd._images import Images, Masks, read_image
from sklearn_exdd.augment import PerlinDefectAugmenter, sample_cache
from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.review import ReviewFolder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("resource", reason="the script needs POSIX to measure memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import fuzz_images

        yield fuzz_images


def saved(path, content):
    path.write_bytes(content)
    return path


def encoded(file_format, shape=(40, 50), **options):
    buffer = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)).save(
        buffer, file_format, **options
    )
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow warns about files that it repairs
def test_hundreds_of_hostile_files_give_an_image_or_an_error_that_names_them(script, tmp_path):
    counts, failures, (slowest, _) = script.fuzz(300, seed=1, folder=tmp_path)
    assert failures == []
    assert slowest < 60
    assert sum(counts.values()) == 300
    assert min(sum(n for (_, result), n in counts.items() if result == wanted) for wanted in ("image", "refused")) > 50
    assert list(tmp_path.iterdir()) == []


def test_the_script_notices_what_it_is_there_to_notice(script, tmp_path, monkeypatch):
    good = saved(tmp_path / "good.png", encoded("PNG"))
    assert script.outcome(good) == "image"
    assert script.outcome(saved(tmp_path / "bad.png", b"text")) == "refused"

    def read(path, where=None):
        raise ValueError("no")

    monkeypatch.setattr(script, "read_image", read)
    with pytest.raises(AssertionError, match=r"good\.png is not named in no"):
        script.outcome(good)
    monkeypatch.setattr(script, "read_image", lambda path: np.zeros((0, 5)))
    with pytest.raises(AssertionError, match="float64 of shape"):
        script.outcome(good)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_damaged_avif_file_is_refused(share, tmp_path):
    if "AVIF" not in {Image.init() or name for name in Image.OPEN}:
        pytest.skip("this Pillow cannot read AVIF")
    content = bytearray(encoded("AVIF", (64, 64, 3)))
    start = int(share * len(content))
    content[start : start + 40] = b"\xff" * 40
    path = saved(tmp_path / "part.avif", content)
    try:
        result = read_image(path).shape
    except ValueError as error:
        result = str(error)
    assert result == (64, 64, 3) or "part.avif: expected an image that Pillow can decode" in result


def test_a_decoder_that_fails_in_its_own_way_is_named_with_the_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "part.png", encoded("PNG"))

    def load(self):
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(
        ValueError, match=r"part\.png: .* got RuntimeError: Failed to decode frame 0\. Replace the file"
    ):
        read_image(path)


@pytest.fixture
def no_programs(monkeypatch):
    def run(*arguments, **options):
        pytest.fail("a program was started")

    for starter in ("call", "check_call", "check_output", "run", "Popen"):
        monkeypatch.setattr(subprocess, starter, run)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)


@pytest.mark.parametrize("name", ["part.eps", "part.png", "part.jpg"])
def test_postscript_is_never_handed_to_a_program(name, tmp_path, no_programs):
    path = saved(tmp_path / name, encoded("EPS", (9, 9, 3)))
    with pytest.raises(ValueError, match=r"got UnidentifiedImageError\. Replace"):
        read_image(path)


def test_postscript_as_the_mask_of_a_data_set_is_not_either(tmp_path, no_programs):
    (tmp_path / "test").mkdir()
    saved(tmp_path / "test" / "1.png", encoded("PNG"))
    saved(tmp_path / "test" / "1_GT.png", encoded("EPS", (9, 9, 3)))
    with pytest.raises(ValueError, match=r"1_GT\.png\): expected an image that Pillow can decode"):
        load_ksdd2(tmp_path)


def test_postscript_in_a_cache_is_not_either(surfaces, tmp_path, no_programs):
    X = surfaces[0][:4]
    expected = PerlinDefectAugmenter(memory=tmp_path, random_state=0).fit(X).sample(1).images[0]
    (path,) = tmp_path.rglob("*.json")
    entry = json.loads(path.read_text())
    content = encoded("EPS", X.shape[1:])
    saved(path.with_name(entry["image"]["file"]), content)
    entry["image"]["sha256"] = hashlib.sha256(content).hexdigest()
    del entry["sha256"]
    path.write_text(json.dumps({**entry, "sha256": sample_cache._digest(entry)}))
    with pytest.warns(RuntimeWarning, match="cannot identify image file"):
        found = PerlinDefectAugmenter(memory=tmp_path, random_state=0).fit(X).sample(1).images[0]
    np.testing.assert_array_equal(found, expected)


def png_of_size(height, width, script):
    parts = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(script.chunk(*part) for part in parts)


@pytest.mark.parametrize("shape", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_in_memory(shape, script, tmp_path):
    path = saved(tmp_path / "bomb.png", png_of_size(*shape, script))
    with pytest.raises(ValueError, match=r"bomb\.png: .* got DecompressionBombError: Image size"):
        read_image(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs setrlimit")
def test_hostile_files_stay_within_a_limit_of_memory(script, tmp_path):
    rng = np.random.RandomState(0)
    contents = [script.bomb(rng) for _ in range(12)]
    paths = [saved(tmp_path / f"{i}.png", content) for i, content in enumerate(contents) if len(content) < 60_000]
    assert len(paths) > 6
    code = (
        "import resource, sys; from sklearn_exdd._images import read_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except ValueError as error: assert path in str(error)\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["done"]


def test_a_picture_without_pixels_is_refused(tmp_path):
    path = saved(tmp_path / "nothing.pgm", b"P5\n0 4\n255\n")
    with pytest.raises(ValueError, match=r"nothing\.pgm: expected"):
        read_image(path)


def test_a_text_of_a_picture_that_swells_is_refused(script, tmp_path):
    import zlib

    header = struct.pack(">2I5B", 4, 4, 8, 0, 0, 0, 0)
    text = b"Comment\0\0" + zlib.compress(bytes(50_000_000))
    parts = [(b"IHDR", header), (b"zTXt", text), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b"")]
    path = saved(tmp_path / "text.png", b"\x89PNG\r\n\x1a\n" + b"".join(script.chunk(*part) for part in parts))
    with pytest.raises(ValueError, match=r"text\.png: .* got ValueError: Decompressed (?i:data too large)"):
        read_image(path)


def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path):
    frames = [Image.fromarray(np.full((5, 6), value, dtype=np.uint8)) for value in (10, 200)]
    for name in ("pages.tif", "moving.webp", "moving.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(read_image(tmp_path / name).reshape(5, 6, -1)[..., 0], 10)


def test_a_file_of_one_format_under_the_name_of_another_is_read(tmp_path):
    for number, file_format in enumerate(["PNG", "BMP", "TIFF", "GIF"]):
        path = saved(tmp_path / f"{number}.jpg", encoded(file_format))
        np.testing.assert_array_equal(read_image(path), read_image(saved(tmp_path / "same.png", encoded("PNG"))))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b.png", "", "/", "/dev/null"])
def test_names_that_cannot_be_files_are_refused(name):
    came = "got a folder" if name == "/" else "found no such file"
    with pytest.raises(FileNotFoundError, match=f"expected an image file, {came}"):
        read_image(name)


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc/self/mem, which not even root can read")
def test_a_file_that_cannot_be_read_is_refused_and_closed():
    with pytest.raises(ValueError, match=r"mem: expected an image that Pillow can decode, got OSError"):
        read_image("/proc/self/mem")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match=r"pipe\.png: expected an image file"):
        read_image(tmp_path / "pipe.png")


def test_a_hostile_file_among_good_ones_is_named_and_changes_no_detector(tmp_path, write_images, surfaces):
    X, y, _ = surfaces
    paths = write_images(X)
    detector = ExDDDetector(GaborFeatureExtractor(n_levels=2), random_state=0).fit(paths, y)
    scores = detector.score_samples(paths[:3])
    broken = saved(tmp_path / "broken.png", encoded("PNG", (64, 64))[:-300])
    for act in (detector.predict, detector.predict_map, detector.explain, detector.fit):
        with pytest.raises(ValueError, match=r"X\[2\] \(.*broken\.png\): expected an image that Pillow can decode"):
            act([*paths[:2], broken])
    with pytest.raises(ValueError, match=r"X\[1\] \(.*broken\.png\)"):
        detector.partial_fit([paths[0], broken], [0, 1])
    np.testing.assert_array_equal(detector.score_samples(paths[:3]), scores)


def test_a_hostile_mask_is_named(tmp_path):
    path = saved(tmp_path / "mask.png", b"<svg/>")
    with pytest.raises(ValueError, match=r"masks\[0\] \(.*mask\.png\): expected an image that Pillow can decode"):
        Masks([path], 1).get(0, (5, 5))


def test_warnings_as_errors_become_errors_that_name_the_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "large.png", encoded("PNG", (40, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"large\.png: .* got DecompressionBombWarning"):
            read_image(path)
    with pytest.warns(Image.DecompressionBombWarning, match="Image size"):
        assert read_image(path).shape == (40, 50)


LAYOUTS = {
    load_folder: ("normal/a.png", "defect/b.png", "masks/b.png"),
    load_mvtec: ("train/good/a.png", "test/hole/b.png", "ground_truth/hole/b.png"),
    load_ksdd2: ("test/b.png", "test/b_GT.png"),
    load_index: ("a.png", "b.png", "b_mask.png"),
}
ROWS = "image,label,mask\na.png,0,\nb.png,1,b_mask.png\n"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
@pytest.mark.parametrize("whole_part", [False, True])
@pytest.mark.parametrize(("load", "name"), [(load, name) for load, names in LAYOUTS.items() for name in names])
def test_links_that_lead_out_of_a_folder_are_refused(load, name, whole_part, tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for place in LAYOUTS[load]:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        saved(folder / place, encoded("PNG"))
    saved(folder / "index.csv", ROWS.encode())
    (tmp_path / "the same").symlink_to(folder)  # the folder itself may be a link
    assert len(load(tmp_path / "the same").X) == len(load(folder).X)
    moved = Path(name).parts[0] if whole_part else name
    (folder / moved).rename(outside)
    (folder / moved).symlink_to(outside)
    with pytest.raises(ValueError, match=r"expected a file within '.*folder', got .* a link that leads to '.*outside"):
        load(folder)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("name", ["../outside.png", "{tmp_path}/outside.png", "inner/../../outside.png"])
def test_names_that_lead_out_of_a_folder_are_refused(name, column, tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    saved(tmp_path / "outside.png", encoded("PNG"))
    saved(tmp_path / "folder" / "a.png", encoded("PNG"))
    name = name.format(tmp_path=tmp_path)
    row = [f"{name},1,", f"a.png,1,{name}"][column]
    saved(tmp_path / "folder" / "index.csv", f"image,label,mask\n{row}\n".encode())
    with pytest.raises(ValueError, match=r"outside\.png: expected a file within '.*folder', got a name or a link"):
        load_index(tmp_path / "folder")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
def test_links_in_a_circle_end_no_listing(tmp_path):
    (tmp_path / "normal").mkdir()
    saved(tmp_path / "normal" / "a.png", encoded("PNG"))
    (tmp_path / "normal" / "again").symlink_to(tmp_path)
    (tmp_path / "normal" / "itself.png").symlink_to(tmp_path / "normal" / "itself.png")
    data = load_folder(tmp_path)
    assert [path.name for path in data.X] == ["a.png", "itself.png"]
    assert [entry.problem is None for entry in ReviewFolder(tmp_path).entries()] == [True, False]
    with pytest.raises(
        FileNotFoundError, match=r"X\[1\] \(.*itself\.png\): expected an image file, found no such file"
    ):
        Images(data.X)[1]


@pytest.mark.parametrize("name", ["a\0b.png", "a" * 5000, "../outside.png", "inner/../../outside.png", "//etc/passwd"])
def test_a_review_reads_nothing_under_such_names(name, tmp_path):
    (tmp_path / "folder").mkdir()
    saved(tmp_path / "outside.png", encoded("PNG"))
    folder = ReviewFolder(tmp_path / "folder")
    for act in (folder.locate, folder.read, lambda name: folder.correct(name, 0)):
        with pytest.raises((ValueError, OSError)):
            act(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "outside.png"] or folder.decisions() == []


def test_images_of_one_list_do_not_lead_each_other_astray(tmp_path):
    good = saved(tmp_path / "good.png", encoded("PNG"))
    images = Images([good, saved(tmp_path / "bad.png", b"GIF89a"), good])
    assert images[0].shape == (40, 50, 1)
    with pytest.raises(ValueError, match=r"X\[1\] \(.*bad\.png\)"):
        images[1]
    np.testing.assert_array_equal(images[2], images[0])
