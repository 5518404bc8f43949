"""The expert's decisions on disk, and the page that admits nobody else. test_review_page.py clicks through it."""

import asyncio
import http.client
import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import skops.io
from PIL import Image
from sklearn.base import BaseEstimator, clone

from sklearn_exdd import ExDDDetector
from sklearn_exdd.augment import BaseDefectAugmenter, DiffusionDefectAugmenter, PerlinRegions
from sklearn_exdd.review import ReviewFolder, load_review
from sklearn_exdd.review.__main__ import load_model, main, parser
from sklearn_exdd.review.drawing import Stroke, heat, page_scale, preview, rasterize, svg
from sklearn_exdd.review.guard import Guard
from sklearn_exdd.review.session import Judged, ReviewSession
from sklearn_exdd.review.store import Entry

OFFSET = "Offset: pits, stains, scratches"


def write_folder(root, X, y=None, masks=None):
    """Write images into normal/ and defect/ and masks into masks/. Without y, write all images into one folder."""
    for i, image in enumerate(X):
        kind = "" if y is None else ("normal", "defect")[y[i]]
        for folder, pixels in ((kind, image), ("masks", masks[i] if kind == "defect" and masks is not None else None)):
            if pixels is not None:
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / f"{i:03d}.png")
    return ReviewFolder(root)


@pytest.fixture
def folder(tmp_path, surfaces):
    X, y, masks = surfaces
    return write_folder(tmp_path / "parts", X, y, masks)


@pytest.fixture
def source(folder):
    return next(entry.name for entry in folder.entries() if entry.label == 0)


@pytest.fixture
def region():
    region = np.zeros((64, 64), dtype=bool)
    region[20:40, 10:50] = True
    return region


def lines_of(folder):
    lines = (folder.path / "review" / "decisions.jsonl").read_text().splitlines()
    return [line for line in lines if line]


# Folder


def test_entries_have_the_label_of_their_folder(tmp_path):
    for name in ("normal/1.png", "good/2.JPG", "defect/scratch/3.png", "new/4.tif", "5.bmp", "masks/scratch/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("review/images/6.png", ".hidden/7.png", "normal/.8.png", "notes.txt", "normal/review/9.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {entry.name: entry.label for entry in ReviewFolder(str(tmp_path)).entries()}
    labelled = {"normal/1.png": 0, "good/2.JPG": 0, "normal/review/9.png": 0, "defect/scratch/3.png": 1}
    assert found == {**labelled, "new/4.tif": None, "5.bmp": None}


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere': expected a folder of images, found no such folder"):
        ReviewFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="found no such folder"):
        load_review(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["../secret.png", "normal/../../secret.png", "{outside}", "link.png", "linked/secret.png"]
)
def test_nothing_outside_the_folder_is_read(tmp_path, name):
    (tmp_path / "inside").mkdir()
    Image.new("L", (64, 64)).save(tmp_path / "secret.png")
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "inside" / "linked").symlink_to(tmp_path)
    folder = ReviewFolder(tmp_path / "inside")
    name = name.format(outside=tmp_path / "secret.png")
    for act in (folder.locate, folder.read, lambda name: folder.correct(name, 0)):
        with pytest.raises(ValueError, match="expected a file within the folder, got a path that leads outside"):
            act(name)
    assert [(entry.name, "outside" in entry.problem) for entry in folder.entries()] == [("link.png", True)]
    assert not (tmp_path / "inside" / "review").exists()


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path):
    (tmp_path / "inside").mkdir()
    Image.new("L", (64, 64)).save(tmp_path / "inside" / "1.png")
    (tmp_path / "inside" / "2.png").symlink_to("1.png")
    (tmp_path / "door").symlink_to(tmp_path / "inside")
    folder = ReviewFolder(tmp_path / "door")
    assert [entry.problem for entry in folder.entries()] == [None, None]
    assert folder.read("2.png").shape == (64, 64)


def test_what_is_no_file_is_listed_with_its_problem_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait forever
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    problems = {entry.name: entry.problem for entry in ReviewFolder(tmp_path).entries()}
    assert "no such file" in problems["pipe.png"]
    assert "no such file" in problems["gone.png"]
    assert "within the folder" in problems["circle.png"] or "no such file" in problems["circle.png"]


# Decisions


def test_an_accepted_defect_is_kept_as_it_is(folder, source, region):
    image = np.where(region, np.uint8(7), folder.read(source))
    decision = folder.decide("accepted", source, image, region, generator="Perlin", prompt="a pit", seed=3)
    data = load_review(folder.path)
    np.testing.assert_array_equal(np.asarray(Image.open(data.X[0])), image)
    np.testing.assert_array_equal(np.asarray(Image.open(data.masks[0])), region * 255)
    assert (data.y.tolist(), data.kinds.tolist()) == ([1], ["a pit"])
    assert data.provenance == [decision]
    assert json.loads(lines_of(folder)[0]) == decision
    wanted = {"what": "accepted", "source": source, "generator": "Perlin", "prompt": "a pit", "seed": 3, "label": 1}
    assert wanted.items() <= decision.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", decision["time"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_keep_their_depth(folder, source, region, dtype):
    image = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    image = image.astype(dtype) if dtype == np.float32 else np.rint(image * np.iinfo(dtype).max).astype(dtype)
    folder.decide("accepted", source, image, region)
    kept = np.asarray(Image.open(load_review(folder.path).X[0]))
    np.testing.assert_array_equal(kept, np.rint(image * 65535) if dtype == np.float32 else image)
    assert kept.dtype == (np.uint8 if dtype == np.uint8 else np.uint16)


def test_corrections_point_to_the_image_itself(folder, source, region):
    folder.correct(source, 1, region)
    folder.correct("defect/" + sorted(path.name for path in (folder.path / "defect").iterdir())[0], 0)
    data = load_review(folder.path)
    assert data.X[0] == folder.path / source
    assert (data.y.tolist(), data.kinds.tolist()) == ([1, 0], ["defect", "normal"])
    assert data.masks[0].parent == folder.path / "review" / "masks"
    assert data.masks[1] is None


def test_the_latest_decision_on_the_same_item_counts(folder, source, region):
    folder.correct(source, 1, region)
    made = source, folder.read(source), region
    folder.decide("accepted", *made)
    folder.decide("rejected", *made)
    folder.correct(source, 0)
    data = load_review(folder.path)
    assert (data.X, data.y.tolist(), data.masks) == ([folder.path / source], [0], [None])
    assert folder.counts() == {"rejected": 1, "corrected": 1}


def test_a_decision_can_be_taken_back(folder, source):
    folder.withdraw(folder.correct(source, 1))
    assert load_review(folder.path).X == []
    assert folder.counts() == {}
    folder.correct(source, 0)
    assert load_review(folder.path).y.tolist() == [0]


def test_a_folder_without_decisions_gives_none(folder):
    data = load_review(folder.path)
    assert (data.X, data.y.tolist(), data.masks, data.provenance) == ([], [], [], [])


@pytest.mark.parametrize("n_kept", [1, 30, -1])
def test_a_line_torn_by_a_crash_is_skipped_and_swallows_no_other(folder, source, n_kept):
    folder.correct(source, 1)
    folder.correct("normal/" + source.rpartition("/")[2], 0)
    log = folder.path / "review" / "decisions.jsonl"
    first, second = log.read_bytes().splitlines()
    log.write_bytes(first + b"\n" + second[:n_kept])
    with pytest.warns(RuntimeWarning, match=r"decisions\.jsonl, line 2: expected .* as JSON, got an incomplete line"):
        assert load_review(folder.path).y.tolist() == [1]
    folder.correct(source, 0)
    with pytest.warns(RuntimeWarning, match="line 2"):
        assert load_review(folder.path).y.tolist() == [0]


def test_a_last_line_without_its_end_is_read_if_it_is_whole(folder, source):
    folder.correct(source, 1)
    log = folder.path / "review" / "decisions.jsonl"
    log.write_bytes(log.read_bytes().rstrip())
    folder.correct(source, 0)
    assert [json.loads(line)["label"] for line in lines_of(folder)] == [1, 0]


@pytest.mark.parametrize(
    "line",
    [
        '"text"',
        "{}",
        '{"what": "stolen", "source": "1.png", "label": 1}',
        '{"what": "corrected", "source": "1.png", "label": 2}',
        '{"what": "corrected", "source": ["1.png"], "label": 1}',
        '{"what": "accepted", "source": "1.png", "image": 7, "label": 1}',
    ],
)
def test_a_line_that_is_no_decision_is_refused(folder, source, line):
    folder.correct(source, 0)
    with open(folder.path / "review" / "decisions.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2: expected a decision: a JSON object with the keys what"):
        load_review(folder.path)


@pytest.mark.parametrize("item", ["image", "mask", "source"])
def test_a_line_that_names_a_file_outside_is_refused(folder, source, item, tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "secret.png")
    decision = {"what": "corrected", "source": source, "label": 1, item: "../secret.png"}
    (folder.path / "review").mkdir()
    (folder.path / "review" / "decisions.jsonl").write_text(json.dumps(decision) + "\n")
    with pytest.raises(ValueError, match=r"'\.\./secret\.png': expected a file within the folder"):
        load_review(folder.path)


def test_a_file_that_is_gone_is_named(folder, source):
    folder.correct(source, 0)
    (folder.path / source).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{source!r}: the folder contains no such file")):
        load_review(folder.path)


@pytest.mark.parametrize("place", ["review", "review/images", "review/masks", "review/decisions.jsonl"])
def test_nothing_is_written_through_a_link_that_leads_outside(folder, source, region, place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (folder.path / place).parent.mkdir(exist_ok=True)
    (folder.path / place).symlink_to(outside / "file" if place.endswith("l") else outside)
    with pytest.raises(ValueError, match="expected a path within the folder, got a link"):
        folder.decide("accepted", source, folder.read(source), region)
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b""


HOSTILE_NAMES = [
    "<img src=x onerror=alert(1)>.png",
    "a\nb.png",
    'it\'s "quoted" & `${7*7}`.png',
    "x\udcff\u202egnp.png",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_decisions_on_images_with_strange_names_are_read_again(tmp_path, name, region):
    Image.new("L", (64, 64), 90).save(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / name)
    folder = ReviewFolder(tmp_path)
    assert [(entry.name, entry.problem) for entry in folder.entries()] == [(name, None)]
    folder.correct(name, 1, region)
    folder.decide("accepted", name, folder.read(name), region, prompt="<script>\n\udcff")
    data = load_review(tmp_path)
    assert data.X[0] == tmp_path / name
    assert data.provenance[1]["prompt"] == "<script>\n\udcff"
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", path.name) for path in (data.X[1], *data.masks))


@pytest.mark.slow
def test_two_processes_write_into_one_folder(folder, source):
    code = (
        "import sys; from sklearn_exdd.review import ReviewFolder; folder = ReviewFolder(sys.argv[1])\n"
        "for i in range(100): folder.withdraw({'what': 'corrected', 'source': f'{sys.argv[2]}-{i}', 'image': None})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(folder.path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    sources = [json.loads(line)["source"] for line in lines_of(folder)]
    assert sorted(sources) == sorted(f"{name}-{i}" for name in "ab" for i in range(100))


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_half_done(folder, source):
    code = (
        "import sys, numpy as np; from sklearn_exdd.review import ReviewFolder\n"
        "folder, rng = ReviewFolder(sys.argv[1]), np.random.RandomState(int(sys.argv[3]))\n"
        "for number in range(10_000):\n"
        "    image = rng.randint(0, 255, (64, 64)).astype('u1')\n"
        "    folder.decide('accepted', sys.argv[2], image, image > 9)\n"
        "    print(number, flush=True)"
    )
    for milliseconds in (30, 45, 60):
        command = [sys.executable, "-c", code, str(folder.path), source, str(milliseconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(milliseconds / 1000)
            writer.send_signal(signal.SIGKILL)
    data = load_review(folder.path)
    assert len(data.X) >= 3
    assert all(np.asarray(Image.open(path)).shape == (64, 64) for path in [*data.X, *data.masks])


# Readers of decisions


def test_detectors_and_augmenters_read_the_decisions(folder, region, cells):
    session = ReviewSession(folder)
    for seed, entry in enumerate(session.sources()[:6]):
        session.decide(session.make(entry.name, region, OFFSET, seed=seed), accept=seed < 5)
    normal = [folder.path / entry.name for entry in session.sources()]
    folder.correct(session.sources()[0].name, 1, region)
    folder.correct(session.sources()[1].name, 0)
    data = load_review(folder.path)
    assert data.y.tolist() == [1] * 6 + [0]
    y = np.r_[np.zeros(len(normal), dtype=int), data.y]
    masks = [None] * len(normal) + data.masks
    fitted = ExDDDetector(cells, random_state=0).fit(normal + data.X, y, masks=masks)
    assert len(fitted.defect_bank_) > 0
    updated = ExDDDetector(cells, random_state=0).fit(normal).partial_fit(data.X, data.y, masks=data.masks)
    assert len(updated.defect_bank_) > 0


# Drawing


def test_a_brush_paints_as_wide_as_it_is():
    region = rasterize([Stroke("brush", 5, [(10, 20), (50, 20)])], (64, 64))
    assert region[20, 8:53].all()
    np.testing.assert_array_equal(np.flatnonzero(region[:, 30]), np.arange(18, 23))


def test_a_click_is_a_dot():
    region = rasterize([Stroke("brush", 8, [(30, 30)])], (64, 64))
    assert 40 < region.sum() < 70
    assert rasterize([Stroke("outline", 8, [(30, 30)])], (64, 64))[30, 30]


def test_an_outline_is_filled_and_a_box_spans_its_corners():
    outline = rasterize([Stroke("outline", 1, [(10, 10), (50, 10), (50, 50), (10, 50)])], (64, 64))
    box = rasterize([Stroke("box", 1, [(50, 50), (30, 3), (10, 10)])], (64, 64))
    np.testing.assert_array_equal(outline, box)
    assert box.sum() == 41 * 41


def test_no_strokes_cover_nothing():
    assert not rasterize([], (8, 8)).any()
    assert svg([], 2.0) == ""


@pytest.mark.parametrize("tool", ["brush", "outline", "box"])
def test_the_strokes_are_shown_at_the_scale_of_the_page(tool):
    content = svg([Stroke(tool, 3, [(10, 20), (30, 40)])], 2.0)
    assert "20.0" in content
    assert "40.0" in content
    assert content.startswith({"brush": "<polyline", "outline": "<polygon", "box": "<rect"}[tool])


@pytest.mark.parametrize(("shape", "scale"), [((64, 64), 7), ((480, 300), 1), ((1100, 900), 1), ((2400, 3000), 0.4)])
def test_small_images_are_enlarged_and_large_ones_fit_the_page(shape, scale):
    assert page_scale(shape) == scale
    pixels = Image.open(io.BytesIO(preview(np.zeros(shape, dtype=np.uint8))))
    assert pixels.size == (round(shape[1] * scale), round(shape[0] * scale))


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, ()), (np.uint8, (3,)), (np.uint16, ()), (np.float32, ())])
def test_images_of_all_kinds_are_shown(dtype, channels, region):
    value = {np.uint8: 128, np.uint16: 128 * 256, np.float32: 128 / 255}[dtype]
    image = np.full((64, 64, *channels), value, dtype=dtype)
    plain, outlined = (np.asarray(Image.open(io.BytesIO(preview(image, mask)))) for mask in (None, region))
    assert (plain == 128).all()
    assert (outlined != 128).any()


def test_what_is_normal_stays_dark_on_the_map():
    image, ramp = np.full((8, 8, 3), 100, dtype=np.uint8), np.linspace(0, 1, 64).reshape(8, 8)
    brightness = heat(image, ramp, 0.5).astype(int).sum(axis=2).ravel()
    assert (np.diff(brightness) >= -1).all()
    assert heat(image, ramp, 10.0).astype(int).sum() < heat(image, ramp, 0.5).astype(int).sum()
    assert len(np.unique(heat(image, np.ones((8, 8)), 1.0))) <= 3


# Session


def test_defects_are_made_on_the_given_image_in_the_given_region(folder, source, region):
    made = ReviewSession(folder).make(source, region, OFFSET, seed=4)
    image = folder.read(source)
    np.testing.assert_array_equal(made.image[~region], image[~region])
    np.testing.assert_array_equal((made.image != image) & ~made.mask, False)
    assert made.mask.any()
    assert made.recipe == {
        **{"source": source, "generator": "OffsetDefectAugmenter", "prompt": None, "model": None, "seed": 4},
    }
    np.testing.assert_array_equal(made.image, ReviewSession(folder).make(source, region, OFFSET, seed=4).image)


def test_all_generators_work_on_grey_and_colour_images_of_odd_sizes(tmp_path, surfaces):
    grey = surfaces[0][0][:61, :49]
    folder = write_folder(tmp_path, [grey, np.stack([grey] * 3, axis=2)])
    session, region = ReviewSession(folder), np.zeros(grey.shape, dtype=bool)
    region[20:50, 5:40] = True
    for generator in session.generators:
        for name in ("000.png", "001.png"):
            made = session.make(name, region, generator)
            assert made.image.shape == folder.read(name).shape
            assert made.image.dtype == np.uint8


class Prompted(BaseDefectAugmenter):
    """Augmenter that darkens the region and records its prompt."""

    def __init__(self, prompts=("a", "b"), prompt_shares=(1, 2), max_redraws=0, random_state=None):
        self.prompts, self.prompt_shares = prompts, prompt_shares
        self.max_redraws, self.random_state = max_redraws, random_state
        self.regions, self.foreground, self.min_contrast = "auto", None, 0.0
        self.memory, self.pos_label, self.n_synthetic, self.verbose = None, None, 1, 0

    def _default_regions(self):
        return PerlinRegions()

    def _paint(self, image, region, random_state):
        return image * 0.2, {"prompt": self.prompts[0], "model": "none"}


def test_a_generator_that_takes_prompts_gets_the_experts(folder, source, region):
    session = ReviewSession(folder, augmenters={"asked": Prompted()})
    assert next(iter(session.generators)) == "asked"
    assert session.takes_prompt("asked")
    assert not session.takes_prompt(OFFSET)
    made = session.make(source, region, "asked", prompt="<b>a deep pit</b>")
    assert made.recipe["prompt"] == "<b>a deep pit</b>"
    assert made.recipe["model"] == "none"
    assert session.generators["asked"].prompts == ("a", "b")


def test_the_diffusion_augmenter_takes_prompts(folder):
    augmenter = DiffusionDefectAugmenter("nowhere", max_redraws=1)
    assert ReviewSession(folder, augmenters={"diffusion": augmenter}).takes_prompt("diffusion")
    assert clone(augmenter).set_params(prompts=["a pit"], prompt_shares=None).prompts == ["a pit"]


def test_an_empty_region_is_refused(folder, source):
    with pytest.raises(ValueError, match="Expected a region, got an empty one"):
        ReviewSession(folder).make(source, np.zeros((64, 64), dtype=bool), OFFSET)


def test_sources_are_the_normal_images_or_all_but_defects(folder, tmp_path):
    assert {entry.label for entry in ReviewSession(folder).sources()} == {0}
    plain = write_folder(tmp_path / "plain", [np.zeros((64, 64), dtype=np.uint8)] * 2)
    assert [entry.name for entry in ReviewSession(plain).sources()] == ["000.png", "001.png"]


def test_what_looks_most_wrong_comes_first():
    judged = [
        *(
            Judged(Entry(name, label, None), score, None)
            for name, label, score in [("a", 0, -1), ("b", 0, 2), ("c", 1, -5)]
        ),
        *(Judged(Entry(name, label, None), score, None) for name, label, score in [("d", 1, 3), ("e", None, 1)]),
        Judged(Entry("f", None, None), None, "unreadable"),
    ]
    ranking = ReviewSession(None).worst_first(judged)
    assert [item.entry.name for item in ranking] == ["c", "b", "e", "a", "d", "f"]


def test_an_image_that_cannot_be_read_is_listed_with_its_problem(folder, cells, surfaces):
    (folder.path / "normal" / "broken.png").write_bytes(b"not an image")
    X, y, _ = surfaces
    session = ReviewSession(folder, ExDDDetector(cells).fit(X[y == 0]))
    entries = {entry.name: entry for entry in folder.entries()}
    broken = session.judge(entries["normal/broken.png"])
    assert broken.score is None
    assert "'normal/broken.png'" in session.thumbnail(entries["normal/broken.png"])[1]
    assert "broken.png" in broken.problem
    content, problem = session.thumbnail(entries[next(name for name in entries if name.startswith("defect"))])
    assert content.startswith(b"\x89PNG")
    assert problem is None


@pytest.mark.parametrize("found_by", ["thumbnail", "judge"])
def test_what_is_left_out_is_listed_with_the_reason(folder, cells, surfaces, found_by, tmp_path_factory):
    X, y, _ = surfaces
    place = folder.path
    for name in ("normal/photo.heic", "masks/draft.psd", "review/scan.raw", "normal/notes.txt", "normal/.hidden.heic"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"?")
    (place / "archive").symlink_to(tmp_path_factory.mktemp("archive"), target_is_directory=True)
    (place / "normal" / "broken.png").write_bytes(b"not an image")
    (place / "normal" / "gone.png").symlink_to("nothing.png")
    session = ReviewSession(folder, ExDDDetector(cells).fit(X[y == 0]))
    reasons = dict(session.left_out())
    assert list(reasons) == ["archive", "normal/gone.png", "normal/photo.heic"]
    assert "a link to a folder, which is not followed" in reasons["archive"]
    assert "got the suffix '.heic'" in reasons["normal/photo.heic"]
    for entry in folder.entries():
        getattr(session, found_by)(entry)
    reasons = dict(session.left_out())
    assert list(reasons) == ["archive", "normal/broken.png", "normal/gone.png", "normal/photo.heic"]
    assert "expected an image that Pillow can decode" in reasons["normal/broken.png"]
    (place / "normal" / "broken.png").unlink()
    assert "normal/broken.png" not in dict(session.left_out())


def test_the_detector_is_asked_once_and_may_have_no_maps(folder, source):
    class Counting(BaseEstimator):
        n_calls = 0

        def decision_function(self, X):
            self.n_calls += 1
            return np.array([0.5])

    session, entry = ReviewSession(folder, Counting()), Entry(source, 0, None)
    assert session.judge(entry) == session.judge(entry) == Judged(entry, 0.5, None)
    assert session.detector.n_calls == 1
    assert session.locate(source) is None


def test_the_page_shows_the_marked_pixels(folder, source, surfaces, cells):
    X, y, _ = surfaces
    detector = ExDDDetector(cells, random_state=0).fit(X[y == 0])
    detector.threshold_ = -1.0  # every image counts as a defect
    (result,) = detector.inspect([folder.locate(source)])
    located = ReviewSession(folder, detector).locate(source)
    np.testing.assert_array_equal(located.map, result.map)
    np.testing.assert_array_equal(located.mask, result.mask)
    assert located.found.startswith(f"Outlined: {len(result.regions)} region")
    assert located.threshold == detector.pixel_threshold_
    assert result.map.max() < detector.pixel_threshold_
    found = f"of {result.mask.sum()} pixels around the peak; none exceeds the pixel threshold. P-value "
    assert found in located.found
    detector.pixel_threshold_ = float(result.map.min()) - 1
    located = ReviewSession(folder, detector).locate(source)
    assert f"of {(result.map > detector.pixel_threshold_).sum()} pixels above the pixel threshold." in located.found
    detector.threshold_ = 1e9
    located = ReviewSession(folder, detector).locate(source)
    assert located.found.startswith("Normal. P-value ")
    assert not located.mask.any()
    del detector.pixel_threshold_
    located = ReviewSession(folder, detector).locate(source)
    assert (located.found, located.mask.any()) == ("Normal.", False)
    detector.threshold_ = result.score - 0.01
    located = ReviewSession(folder, detector).locate(source)
    assert located.found == "Outlined: pixels above the threshold."
    np.testing.assert_array_equal(located.mask, result.map > detector.threshold_)


def test_a_detector_that_fails_stops_nothing(folder, source):
    class Failing(BaseEstimator):
        def decision_function(self, X):
            raise RuntimeError("out of memory")

    entry = Entry(source, 0, None)
    assert ReviewSession(folder, Failing()).judge(entry) == Judged(entry, None, "out of memory")


# Command line


@pytest.fixture
def detector(surfaces, cells):
    X, y, _ = surfaces
    return ExDDDetector(random_state=0).fit(X[y == 0])


@pytest.mark.parametrize("suffix", ["pkl", "joblib", "skops"])
def test_detectors_are_loaded_from_files(detector, surfaces, tmp_path, suffix):
    path = tmp_path / f"detector.{suffix}"
    {"pkl": lambda: path.write_bytes(pickle.dumps(detector)), "joblib": lambda: joblib.dump(detector, path)}.get(
        suffix, lambda: skops.io.dump(detector, path)
    )()
    loaded = load_model(str(path), "decision_function")
    np.testing.assert_array_equal(loaded.decision_function(surfaces[0]), detector.decision_function(surfaces[0]))


class Foreign(BaseEstimator):
    def decision_function(self, X):
        raise AssertionError("never called")


def test_a_skops_file_with_types_of_others_is_refused(tmp_path):
    skops.io.dump(Foreign(), tmp_path / "foreign.skops")
    with pytest.raises(ValueError, match=r"expected types of sklearn_exdd only, got \['.*Foreign'\]"):
        load_model(str(tmp_path / "foreign.skops"), "decision_function")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere': expected a folder of images, found no such folder"),
        ([".", "--detector", "nowhere.pkl"], "No such file or directory: 'nowhere.pkl'"),
        ([".", "--detector", "unfitted.pkl"], "not fitted yet"),
        ([".", "--augmenter", "unfitted.pkl"], "expected an estimator with the method paint, got ExDDDetector"),
        (
            [".", "--augmenter", "broken.pkl"],
            "broken.pkl: expected a saved estimator, got a file that cannot be loaded",
        ),
        ([".", "--port", "99999"], "--port: expected a number from 0 to 65535, got 99999"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_before_the_page_starts(tmp_path, monkeypatch, arguments, message):
    pytest.importorskip("nicegui")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unfitted.pkl").write_bytes(pickle.dumps(ExDDDetector()))
    (tmp_path / "broken.pkl").write_bytes(b"no pickle")
    with pytest.raises(SystemExit, match=message):
        main(arguments)


def test_help_warns_of_files_from_strangers():
    text = " ".join(parser().format_help().split())
    assert text.count("Loading such a file can run code: pass only files that you trust") == 2


# Guard

OWN = {"host": "127.0.0.1:7860"}


def ask(headers, *, method="GET", path="/", query="", kind="http", names=(), twice=()):
    """Return the status that the guard gives to a request (200 if it passes) and the headers of the answer."""

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": kind, "method": method, "path": path, "query_string": query.encode(), "server": ("127.0.0.1", 7860)},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (*headers.items(), *twice)],
    }
    asyncio.run(Guard(application, "secret", names)(scope, None, send))
    return sent[0].get("status", sent[0].get("code")), dict(sent[0].get("headers", []))


KEY = {"cookie": "other=1; review_7860=secret"}


def test_the_printed_address_gives_a_cookie_and_the_cookie_opens_the_page():
    status, headers = ask(OWN, query="token=secret")
    assert status == 303
    assert headers[b"location"] == b"/"
    assert headers[b"set-cookie"] == b"review_7860=secret; HttpOnly; SameSite=Lax; Path=/"
    assert ask(OWN | KEY)[0] == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({}, "token=guessed"),
        ({}, "token=secret%00"),
        ({}, "token=%ff"),
        ({"cookie": "review_7860=guessed"}, ""),
        ({"cookie": "review_7861=secret"}, ""),
        ({"cookie": "review_7860=sécret; ="}, ""),
    ],
)
def test_nobody_enters_without_the_key(headers, query):
    assert ask(OWN | headers, query=query)[0] == 403


def test_the_key_in_an_address_opens_only_the_front_door():
    assert ask(OWN, query="token=secret", path="/pictures/x")[0] == 403
    assert ask(OWN | {"origin": "http://127.0.0.1:7860"}, query="token=secret", method="POST")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example:7860", "localhost.evil:1", "", "[", "a b"]
)
def test_another_name_is_refused(host):
    assert ask({"host": host} | KEY)[0] == 403


def test_a_request_without_a_name_or_with_two_is_refused():
    assert ask(KEY)[0] == 403
    assert ask(KEY, twice=[("host", "localhost"), ("host", "evil.example")])[0] == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:9000", "LOCALHOST", "[::1]:7860", "10.1.2.3:7860", "station-3:7860"]
)
def test_addresses_and_known_names_are_let_in(host):
    assert ask({"host": host} | KEY, names={"Station-3"})[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:8000", "http://localhost:7860", "null", "file://", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_other_origins_are_refused(origin, method):
    assert ask(OWN | KEY | {"origin": origin}, method=method)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_changes_something_must_name_its_origin(method):
    assert ask(OWN | KEY, method=method)[0] == 403
    assert ask(OWN | KEY | {"origin": "http://127.0.0.1:7860"}, method=method)[0] == 200


@pytest.mark.parametrize("origin", [{}, {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:8000"}])
def test_web_sockets_of_other_origins_are_closed(origin):
    assert ask(OWN | KEY | origin, kind="websocket")[0] == 1008


def test_web_sockets_of_the_page_are_opened_with_the_key_only():
    own = OWN | {"origin": "http://127.0.0.1:7860"}
    assert ask(own | KEY, kind="websocket")[0] == 200
    assert ask(own, kind="websocket")[0] == 1008


@pytest.mark.parametrize(
    ("site", "mode", "destination", "status"),
    [
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
        ("cross-site", "navigate", "document", 200),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "no-cors", "script", 403),
    ],
)
def test_links_may_lead_here_but_other_pages_may_not_embed(site, mode, destination, status):
    fetch = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": destination}
    assert ask(OWN | KEY | fetch)[0] == status


def test_answers_forbid_frames_and_foreign_sources():
    for headers in (OWN, OWN | KEY):
        answer = ask(headers)[1]
        assert answer[b"x-frame-options"] == b"DENY"
        assert b"default-src 'self'" in answer[b"content-security-policy"]
        assert b"frame-ancestors 'none'" in answer[b"content-security-policy"]


# Running server


@contextmanager
def running_page(folder, *options):
    """Run the page on a free port, in a process of its own, and yield its address."""
    pytest.importorskip("nicegui")
    command = [sys.executable, "-m", "sklearn_exdd.review", str(folder), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__)}
    # Errors go to a file: reading a pipe would wait for every process that has inherited it.
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as page,
    ):

        def told():
            errors.seek(0)
            return errors.read()

        try:
            line = page.stdout.readline()
            address = re.search(r"http://\S+", line)
            assert address, line + told()
            yield address.group()
        finally:
            page.send_signal(signal.SIGINT)
            try:
                page.wait(60)
            except subprocess.TimeoutExpired:
                page.kill()
        assert "Traceback" not in told()


def request(address, path, headers=(), method="GET"):
    host, port = re.match(r"http://([^:/]+):(\d+)", address).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.putrequest(method, path, skip_host="Host" in dict(headers), skip_accept_encoding=True)
        for name, value in dict(headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.slow
def test_the_server_serves_the_page_to_its_user_and_no_files_to_anybody(folder, tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "secret.png")
    with running_page(folder.path) as address:
        port, token = re.search(r":(\d+)/\?token=(.+)", address).groups()
        assert request(address, "/")[0] == 403
        status, headers, _ = request(address, f"/?token={token}")
        assert status == 303
        key = {"Cookie": headers["set-cookie"].partition(";")[0]}
        status, headers, body = request(address, "/", key)
        assert status == 200
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert not re.findall(rb"(?:src|href)=\"(?:https?:)?//", body)
        for path in ("/../secret.png", "/%2e%2e/secret.png", "/normal/000.png", f"/{folder.path}/normal/000.png"):
            assert request(address, path, key)[0] == 404
        for path in ("/pictures/..%2f..%2fsecret.png", "/pictures/x", "/openapi.json", "/docs", "/_nicegui/../../x"):
            assert request(address, path, key)[0] == 404
        socket_path = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        own = {"Origin": f"http://127.0.0.1:{port}"}
        assert request(address, socket_path, key | own)[0] == 200
        assert request(address, socket_path, own)[0] == 403
        assert request(address, socket_path, key | {"Origin": "http://evil.example"})[0] == 403
        assert request(address, socket_path, key | {"Origin": "http://evil.example"}, method="POST")[0] == 403
        assert request(address, socket_path, key, method="POST")[0] == 403
        assert request(address, "/", key | {"Host": f"evil.example:{port}"})[0] == 403
        assert request(address, "/", key | {"Host": f"localhost:{port}"})[0] == 200
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        socket_path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        assert request(address, socket_path, upgrade | key | {"Origin": "http://evil.example"})[0] == 403
        assert request(address, socket_path, upgrade | own)[0] == 403
        # The server listens on this address only. 127.0.0.2 belongs to this machine as well.
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", int(port)), timeout=5):
            pass


def test_a_port_that_is_taken_is_said(folder):
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="in use"):
        main([str(folder.path), "--port", str(taken.getsockname()[1])])


def test_listening_beyond_this_machine_is_warned_of(folder, monkeypatch, capsys):
    page = pytest.importorskip("sklearn_exdd.review.page")
    served = []
    monkeypatch.setattr(page, "serve", lambda session, listener, token, names: served.append((listener, token, names)))
    main([str(folder.path), "--port", "0", "--host", "0.0.0.0"])
    main([str(folder.path), "--port", "0"])
    output = capsys.readouterr()
    assert output.err.count("Warning: the page listens on 0.0.0.0. Other machines can reach it") == 1
    assert f"http://{socket.gethostname()}:" in output.out
    assert all(token in output.out for _, token, _ in served)
    assert served[0][1] != served[1][1]
    for listener, _, _ in served:
        listener.close()
