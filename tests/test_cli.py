import csv
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import asdict
from html.parser import HTMLParser
from importlib.metadata import entry_points

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from sklearn_exdd import ExDDDetector, persistence
from sklearn_exdd.banks.dual_bank import DualBank
from sklearn_exdd.cli import predict
from sklearn_exdd.cli.arguments import AUGMENTERS, DETECTORS, parser
from sklearn_exdd.cli.command import main
from sklearn_exdd.cli.fit import make_detector
from sklearn_exdd.cli.map_colors import MapColors
from sklearn_exdd.cli.model import load
from sklearn_exdd.cli.pictures import list_images, load_labelled
from sklearn_exdd.cli.report import Thumbnails
from sklearn_exdd.datasets import load_folder, make_surface_defects
from sklearn_exdd.metrics import operating_points, per_region_overlap_score, pixel_roc_auc_score


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_parts(folder, data):
    """Write normal/, defect/ with two kinds, and masks/."""
    for i, (image, label, mask) in enumerate(zip(*data)):
        kind = f"{'scratch' if i % 2 else 'pit'}/"
        write(folder / (f"defect/{kind}" if label else "normal") / f"{i:02d}.png", image)
        if label:
            write(folder / "masks" / kind / f"{i:02d}.png", mask)
    return folder


@pytest.fixture(scope="module")
def parts(surfaces, tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"), surfaces)


@pytest.fixture(scope="module")
def unseen(unseen_surfaces, tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("unseen"), unseen_surfaces)


@pytest.fixture(scope="module")
def model(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    assert main(["fit", str(parts), "--out", str(path), "--max-false-alarm-rate", "0.1"]) == 0
    return path


@pytest.fixture(scope="module")
def report(model, unseen, tmp_path_factory):
    path = tmp_path_factory.mktemp("reports") / "report"
    assert main(["predict", str(model), str(unseen), "--out", str(path)]) == 0
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def read_table(report):
    with open(report / "scores.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Contents of a page: its texts, and its tags with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        if text.strip():
            self.texts.append(" ".join(text.split()))

    def count(self, tag):
        return sum(one == tag for one, _ in self.tags)


# Fit


def test_a_fitted_model_is_the_one_that_python_fits(parts, model, unseen):
    data = load_folder(parts)
    same = ExDDDetector(max_false_alarm_rate=0.1, random_state=0).fit(data.X, data.y, masks=data.masks)
    X, detector = load_folder(unseen).X, persistence.load(model)
    np.testing.assert_array_equal(detector.decision_function(X), same.decision_function(X))


def test_fit_says_what_it_has_learned_from_and_what_it_promises(parts, tmp_path, capsys):
    assert run("fit", parts, "-o", tmp_path / "model", "--n-neighbors", 2) == 0
    said = capsys.readouterr().out
    assert "16 normal images, 8 with a defect, 8 of them with a mask." in said
    assert re.search(r"ExDDDetector fitted in \d+ s: threshold [\d.]+, at most 5.9 % false alarms", said)


def test_a_folder_of_nothing_but_images_is_normal(parts, tmp_path, capsys):
    assert run("fit", parts / "normal", "-o", tmp_path / "model") == 0
    assert "16 images without labels. All are assumed to be normal." in capsys.readouterr().out
    assert persistence.load(tmp_path / "model").defect_bank_ is None


def test_fit_names_images_that_it_does_not_use(parts, tmp_path, capsys):
    shutil.copytree(parts, tmp_path / "parts")
    shutil.move(tmp_path / "parts" / "defect", tmp_path / "parts" / "bad")
    shutil.rmtree(tmp_path / "parts" / "masks")
    assert run("fit", tmp_path / "parts", "-o", tmp_path / "model") == 0
    said = capsys.readouterr()
    assert "16 normal images, 0 with a defect" in said.out
    assert re.search(r"8 files in .* left out, such as 'bad/.*': expected .*defect/", said.err)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_options_become_the_parameters_of_the_same_name(detector, augmenter):
    given = ["fit", "parts", "-o", "model", "--detector", detector, "--augmenter", augmenter, "--n-synthetic", "7"]
    made = make_detector(parser().parse_args([*given, "--max-false-alarm-rate", "0.2", "--random-state", "5"]))
    kinds = {"student_teacher": "StudentTeacherDetector", "segmentation": "SegmentationDetector"}
    kinds |= {"exdd": "ExDDDetector", "classifier": "DefectClassifier"}
    assert type(made).__name__ == kinds[detector]
    assert (made.n_synthetic, made.max_false_alarm_rate, made.random_state) == (7, 0.2, 5)
    augmenters = {"cutpaste": "CutPaste", "perlin": "Perlin", "offset": "Offset", "mixed": "Mixed", "ddpm": "DDPM"}
    assert type(made.augmenter).__name__ == f"{augmenters[augmenter]}DefectAugmenter"


def test_params_reach_the_detector_and_what_is_inside_it():
    params = {"blur": 2, "feature_extractor__image_size": [64, 96], "augmenter__jitter": 0.5}
    given = ["fit", "parts", "-o", "m", "--feature-extractor", "resnet18", "--augmenter", "cutpaste"]
    made = make_detector(parser().parse_args([*given, "--n-neighbors", "auto", "--params", json.dumps(params)]))
    assert (made.n_neighbors, made.blur, made.augmenter.jitter) == ("auto", 2, 0.5)
    assert (made.feature_extractor.backbone, made.feature_extractor.image_size) == ("resnet18", (64, 96))
    given = ["fit", "parts", "-o", "m", "--detector", "segmentation", "--params", '{"feature_extractor__max_steps": 3}']
    assert make_detector(parser().parse_args(given)).feature_extractor.max_steps == 3


# Bad use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere", "-o", "{new}"], "'nowhere': expected a folder of images, found no such folder"),
        (["fit", "{image}", "-o", "{new}"], ".png': expected a folder of images, got a file. Put it into a folder"),
        (["fit", "{parts}", "-o", "{parts}"], "--out: expected a file to write, got .*: it is a folder"),
        (["fit", "{parts}", "-o", "{new}/model"], "--out: expected a file to write, got .*: no folder"),
        (["fit", "{parts}/defect", "-o", "{new}"], "or only normal images, without sub-folders"),
        (["fit", "{parts}", "-o", "{new}", "--n-neighbors", "0"], "'n_neighbors' parameter of ExDDDetector must be"),
        (["fit", "{parts}", "-o", "{new}", "--params", '{"blurr": 1}'], "Invalid parameter 'blurr'"),
        (["fit", "{parts}", "-o", "{new}", "--params", '{"random_state": 1}'], "not set by another option"),
        (["fit", "{parts}", "-o", "{new}", "--detector", "classifier", "--n-neighbors", "1"], "'n_neighbors'"),
        (["predict", "nowhere", "{parts}", "-o", "{new}"], "nowhere: expected a model file written by fit, found no"),
        (["predict", "{image}", "{parts}", "-o", "{new}"], ".png: expected a file written by .*dump, got another"),
        (["predict", "{model}", "nowhere", "-o", "{new}"], "'nowhere': expected a folder of images"),
        (["predict", "{model}", "{empty}", "-o", "{new}"], "expected images, found none"),
        (["predict", "{model}", "{parts}", "-o", "{parts}"], "new, empty or an earlier report, got .* with 'defect'"),
        (["predict", "{model}", "{parts}", "-o", "{model}"], "or an earlier report, got .*: a file"),
        (["predict", "{model}", "{parts}", "-o", "{new}", "--n-shown", "-1"], "--n-shown: expected 0 or more, got -1"),
        (["evaluate", "{model}", "{parts}", "-o", "{new}"], "--out: expected the name of an HTML page to write, such"),
        (
            ["evaluate", "{model}", "{parts}", "-o", "{new}/a.html"],
            "--out: expected a file to write, got .*: no folder",
        ),
        (["check", "{parts}", "-o", "{new}"], "--out: expected the name of an HTML page to write, such as report.html"),
        (["check", "nowhere"], "'nowhere': expected a folder of images, found no such folder"),
        (["check", "{empty}"], "expected images, found none"),
        (["check", "{parts}/defect"], "or only normal images, without sub-folders"),
        (
            ["predict", "{model}", "{parts}", "-o", "{new}", "--min-area", "-1"],
            "min_area: expected a number >= 0, got -1",
        ),
        (["predict", "{model}", "{parts}", "-o", "{new}", "--pixel-size", "0"], "pixel_size: expected .*, got 0"),
        (["evaluate", "{model}", "{parts}/normal"], "expected labels to compare with, in one of these layouts: "),
        (["evaluate", "{rows}", "{parts}"], "expected a detector fitted on images, got one fitted on feature rows"),
        (
            ["evaluate", "{gabor}", "{parts}"],
            "expected a detector with predict_map, got EfficientNetLite",
        ),
    ],
)
def test_bad_use_ends_with_2_and_a_message(arguments, message, parts, model, tmp_path, capsys):
    places = {
        "parts": parts,
        "model": model,
        "image": list_images(parts)[0],
        "new": tmp_path / "new",
        "empty": tmp_path / "empty",
    }
    places |= {"rows": tmp_path / "rows", "gabor": tmp_path / "gabor"}
    places["empty"].mkdir()
    detector = ExDDDetector().fit(np.random.RandomState(0).rand(20, 3))
    persistence.dump(detector, places["rows"])
    persistence.dump(persistence.load(model).feature_extractor_, places["gabor"])
    before = sorted(tmp_path.rglob("*"))
    assert main([re.sub(r"\{(\w+)\}", lambda name: str(places[name[1]]), one) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before
    assert len(list_images(parts)) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "parts", "-o", "model", "--params", "[1]"], "--params: expected an object such as"),
        (["fit", "parts", "-o", "model", "--params", "{blur: 1}"], "--params: expected JSON, got '{blur: 1}'"),
        (["fit", "parts", "-o", "model", "--detector", "patch_classifier"], "and save it with skops.io"),
        (["evaluate", "model", "parts", "--threshold", "nan"], "--threshold: expected a finite number, got 'nan'"),
        (["evaluate", "model", "parts", "--cost-miss", "0"], "--cost-miss: expected a number > 0, got '0'"),
        (["evaluate", "model", "parts", "--cost-false-alarm", "nan"], "expected a finite number, got 'nan'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_arguments_end_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('this file ran code')",)


def test_a_model_from_a_stranger_runs_no_code(unseen, tmp_path, capsys):
    (tmp_path / "model").write_bytes(pickle.dumps(Trap()))
    assert run("evaluate", tmp_path / "model", unseen) == 2
    assert "ran code" not in capsys.readouterr().err


def test_an_unexpected_error_is_not_taken_for_a_defect(model, unseen, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "write_report", lambda *_: 1 / 0)
    assert run("predict", model, unseen, "-o", tmp_path / "report", "--fail-on-defect") == 4
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_report_leaves_the_earlier_one(model, report, unseen, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    shutil.copytree(report, tmp_path / "report")
    monkeypatch.setattr(predict, "_write_table", interrupt)
    assert run("predict", model, unseen, "-o", tmp_path / "report") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert read_table(tmp_path / "report") == read_table(report)


# Predict


def test_the_table_has_the_scores_and_decisions_of_all_images(model, unseen, report):
    rows, detector, X = read_table(report), persistence.load(model), list_images(unseen)
    assert [row["image"] for row in rows] == [path.relative_to(unseen).as_posix() for path in X]
    np.testing.assert_array_equal([float(row["score"]) for row in rows], detector.score_samples(X))
    assert [row["decision"] == "defect" for row in rows] == (detector.predict(X) == 1).tolist()
    assert {row["decision"] for row in rows} == {"defect", "normal"}
    assert {float(row["threshold"]) for row in rows} == {detector.threshold_}
    np.testing.assert_array_equal([float(row["p_value"]) for row in rows], detector.p_values(X))
    for row, regions in zip(rows, detector.predict_regions(X)):
        assert (int(row["n_regions"]), int(row["area"])) == (len(regions), sum(region.area for region in regions))
        first = [float(row[name] or "nan") for name in ("diameter", "peak_row", "peak_column")]
        np.testing.assert_array_equal(
            first, [regions[0].equivalent_diameter, *regions[0].peak] if regions else [np.nan] * 3
        )
    assert not any(row["problem"] for row in rows)
    assert [row["kind"] for row in rows] == [kind or "" for kind in detector.predict_kind(X)[0]]
    assert {row["kind"] for row in rows} <= {"", "pit", "scratch"}


def test_programs_can_read_the_maps(model, unseen, report):
    detector = persistence.load(model)
    maps = detector.predict_map(list_images(unseen))
    for row, pixel_map in zip(read_table(report), maps):
        with Image.open(report / row["map"]) as picture:
            low, threshold = (float(picture.text[name]) for name in ("low", "threshold"))
            numbers = np.asarray(picture).astype(float)
        assert threshold == detector.pixel_threshold_
        times = np.where(numbers <= 127.5, numbers / 127.5, 127.5 / (255 - numbers))
        found = low + (threshold - low) * times
        assert (found - threshold)[pixel_map > threshold * 1.01].min(initial=0) >= 0
        np.testing.assert_allclose(found, pixel_map.clip(low), rtol=0.05, atol=0.02 * (threshold - low))


def test_the_report_is_one_file_with_the_worst_images_first(unseen, report):
    page, rows = Page(report / "report.html"), read_table(report)
    n_defects = sum(row["decision"] == "defect" for row in rows)
    assert f"{n_defects} of 12 images called defective" in page.texts
    ranking = sorted(rows, key=lambda row: -float(row["score"]))
    assert [text for text in page.texts if text.endswith(".png")] == [row["image"] for row in ranking]
    assert [row["map"].split("/")[1][:4] for row in ranking] == [f"{i:04d}" for i in range(1, 13)]
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 24
    assert all(picture["src"].startswith("data:image/jpeg;base64,") and picture["alt"] for picture in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in re.sub('data:[^"]*|http-equiv', "", (report / "report.html").read_text())
    badges = [attributes["class"] for tag, attributes in page.tags if tag == "span" and "badge" in str(attributes)]
    assert sum("defect" in badge for badge in badges) == n_defects


def pixels_of(source):
    """Decode an image of a page."""
    with Image.open(io.BytesIO(b64decode(source.partition(",")[2]))) as picture:
        return np.asarray(picture).astype(int)


def is_outline(pixels):
    return (pixels[..., 0] < 110) & (pixels[..., 2] > 170)


def test_maps_of_the_report_have_outlines_around_the_marked_pixels(model, unseen, report):
    detector, paths = persistence.load(model), list_images(unseen)
    masks = dict(zip([path.relative_to(unseen).as_posix() for path in paths], detector.predict_mask(paths)))
    page = Page(report / "report.html")
    names = [text for text in page.texts if text.endswith(".png")]
    shown = [(pixels_of(attributes["src"]), attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    for name, (image, _), (over, alternative) in zip(names, shown[::2], shown[1::2], strict=True):
        mask = masks[name].repeat(5, axis=0).repeat(5, axis=1)  # images of 64 pixels are enlarged
        near = ndimage.binary_dilation(mask, iterations=5) & ~ndimage.binary_erosion(mask, iterations=5)
        assert not is_outline(image).any()
        assert is_outline(over).any() == mask.any() == ("outlines" in alternative)
        assert not is_outline(over)[~near].any()
    assert f"the pixel threshold {detector.pixel_threshold_:.4g} is in the middle" in " ".join(page.texts)


def test_a_single_marked_pixel_of_a_large_image_is_outlined():
    image, pixel_map = np.full((3000, 3000), 100, np.uint8), np.zeros((3000, 3000), np.float32)
    pixel_map[1501, 707] = 1.0
    pictures = Thumbnails(1).make(image, pixel_map, pixel_map > 0.5, MapColors([pixel_map], 0.5))
    rows, columns = np.nonzero(is_outline(pixels_of(pictures.map)))
    np.testing.assert_allclose([rows.mean(), columns.mean()], [1501 * 640 / 3000, 707 * 640 / 3000], atol=2)


def test_the_histogram_counts_all_images_on_their_side_of_the_threshold(report):
    bars = [attributes for tag, attributes in Page(report / "report.html").tags if tag == "i" and "title" in attributes]
    counts = {is_defect: 0 for is_defect in (True, False)}
    for bar in bars:
        counts[bar.get("class") == "defect"] += int(bar["title"].split()[0])
    n_defects = sum(row["decision"] == "defect" for row in read_table(report))
    assert counts == {True: n_defects, False: 12 - n_defects}


def test_sizes_are_in_millimetres_and_small_regions_left_out_where_asked(model, unseen, report, tmp_path):
    before = read_table(report)
    rows = run_and_read(model, unseen, tmp_path / "mm", "--pixel-size", 0.5)
    for row, own in zip(rows, before):
        assert float(row["area"]) == 0.25 * float(own["area"])
        assert row["decision"] == own["decision"]
    text = (tmp_path / "mm" / "report.html").read_text()
    assert "mm²" in text
    assert "p-value" in text
    rows = run_and_read(model, unseen, tmp_path / "large", "--min-area", 1e6)
    assert {row["n_regions"] for row in rows} == {"0"}
    assert [row["decision"] for row in rows] == [row["decision"] for row in before]
    page = Page(tmp_path / "large" / "report.html")
    n_defects = sum(row["decision"] == "defect" for row in rows)
    assert page.texts.count("All regions are smaller than the minimum area.") == n_defects > 0
    assert any("smaller than 1e+06 pixels are outlined but not listed" in text for text in page.texts)


def run_and_read(model, folder, out, *options):
    assert run("predict", model, folder, "-o", out, *options) == 0
    return read_table(out)


def test_a_threshold_of_ones_own_marks_what_it_calls_defective(model, unseen, tmp_path):
    scores = persistence.load(model).score_samples(list_images(unseen))
    rows = run_and_read(model, unseen, tmp_path / "report", "--threshold", f"{np.median(scores)}")
    assert [row["decision"] == "defect" for row in rows] == [int(row["n_regions"]) > 0 for row in rows]
    assert sum(row["decision"] == "defect" for row in rows) == 6


def test_sizes_do_not_depend_on_a_threshold_of_ones_own(model, unseen, tmp_path):
    detector, paths = persistence.load(model), list_images(unseen)
    scores, maxima = np.sort(detector.score_samples(paths)), detector.predict_map(paths).max(axis=(1, 2))
    tables = [run_and_read(model, unseen, tmp_path / "report", "--threshold", scores[i]) for i in (8, 5, 1)]
    names = ("n_regions", "area", "diameter", "peak_row", "peak_column", "marked")
    for rows, n_defects in zip(tables, (3, 6, 10), strict=True):
        assert sum(row["decision"] == "defect" for row in rows) == n_defects
        for row, reference, highest in zip(rows, tables[-1], maxima):
            if row["decision"] == "normal":
                assert [row[name] for name in names] == ["0", "0", "", "", "", ""]
            else:
                assert [row[name] for name in names] == [reference[name] for name in names]
                exceeds = highest > detector.pixel_threshold_
                assert row["marked"] == ("above the pixel threshold" if exceeds else "around the peak")
    assert {row["marked"] for row in rows} == {"", "above the pixel threshold", "around the peak"}
    text = " ".join(Page(tmp_path / "report" / "report.html").texts)
    n_around = sum(row["marked"] == "around the peak" for row in rows)
    assert text.count("do not compare this size with others") == n_around


def test_a_threshold_of_ones_own_leaves_the_pixel_threshold(model):
    own, other = load(model), load(model, 0.25)
    assert other.threshold_ == 0.25 != own.threshold_
    assert other.pixel_threshold_ == own.pixel_threshold_


def test_a_model_without_a_pixel_threshold_has_no_regions(model, unseen, tmp_path):
    detector = persistence.load(model)
    del detector.pixel_threshold_
    persistence.dump(detector, tmp_path / "old")
    rows = run_and_read(tmp_path / "old", unseen, tmp_path / "report")
    assert {(row["n_regions"], row["area"], row["peak_row"], row["marked"]) for row in rows} == {("", "", "", "")}
    assert all(row["map"] for row in rows)
    page = Page(tmp_path / "report" / "report.html")
    assert f"the threshold {detector.threshold_:.4g} is in the middle" in " ".join(page.texts)
    assert "Nothing is outlined, because the model has no pixel threshold. Fit it again." in page.texts
    assert not any(is_outline(pixels_of(attributes["src"])).any() for tag, attributes in page.tags if tag == "img")


def test_only_the_worst_are_shown_where_asked(model, unseen, tmp_path):
    assert run("predict", model, unseen, "-o", tmp_path / "few", "--n-shown", 3) == 0
    page, rows = Page(tmp_path / "few" / "report.html"), read_table(tmp_path / "few")
    assert page.count("img") == 6
    assert any("9 images with the lowest scores are listed only in scores.csv" in text for text in page.texts)
    worst = sorted(rows, key=lambda row: -float(row["score"]))[:3]
    assert sorted(row["map"] for row in rows if row["map"]) == [row["map"] for row in worst]
    assert len(list((tmp_path / "few" / "maps").iterdir())) == 3
    assert run("predict", model, unseen, "-o", tmp_path / "few", "--n-shown", 0) == 0
    assert Page(tmp_path / "few" / "report.html").count("img") == 0
    assert list((tmp_path / "few" / "maps").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code"), [([], 0), (["--fail-on-defect"], 1), (["--fail-on-defect", "--threshold", "1e9"], 0)]
)
def test_scripts_learn_of_a_defect_if_they_ask(options, code, model, unseen, tmp_path):
    assert run("predict", model, unseen, "-o", tmp_path / "report", "--n-shown", 0, *options) == code


def test_a_threshold_of_ones_own_decides_and_promises_nothing(model, unseen, report, tmp_path):
    threshold = np.median([float(row["score"]) for row in read_table(report)])
    run("predict", model, unseen, "-o", tmp_path / "report", "--threshold", threshold)
    assert sum(row["decision"] == "defect" for row in read_table(tmp_path / "report")) == 6
    text = (tmp_path / "report" / "report.html").read_text()
    assert "promises" not in text
    assert "promises at most 10 % false alarms" in (report / "report.html").read_text()


def test_what_cannot_be_used_is_reported_and_the_others_are_done(model, unseen, tmp_path, capsys):
    folder = tmp_path / "today"
    shutil.copytree(unseen / "normal", folder / "shift 1")
    (folder / "torn.png").write_bytes(list_images(unseen)[0].read_bytes()[:500])
    (folder / "text.jpg").write_text("no image")
    write(folder / "colour.png", np.zeros((64, 64, 3), np.uint8))
    write(folder / "tiny.png", np.zeros((5, 5), np.uint8))
    assert run("predict", model, folder, "-o", tmp_path / "report", "--fail-on-defect", "--threshold", 0) == 3
    rows = {row["image"]: row for row in read_table(tmp_path / "report")}
    problems = {name: row["problem"] for name, row in rows.items() if row["problem"]}
    assert problems.keys() == {"torn.png", "text.jpg", "colour.png", "tiny.png"}
    assert problems["text.jpg"].startswith("expected an image that Pillow can decode")
    assert problems["colour.png"].startswith("expected 1 channel (grey) as in fit, got 3 channels. Convert it, or set")
    assert problems["tiny.png"].startswith("expected at least 16 pixels a side")
    assert all(rows[name]["decision"] == rows[name]["map"] == "" for name in problems)
    assert sum(row["decision"] == "defect" for row in rows.values()) == 6
    captured = capsys.readouterr()
    assert "'text.jpg': expected an image" in captured.err
    assert "10 images: 6 called defective, 4 could not be used." in captured.out
    assert set(problems) <= {text.removesuffix(":") for text in Page(tmp_path / "report" / "report.html").texts}


def test_a_score_that_is_no_number_is_not_called_normal(model, unseen, tmp_path, monkeypatch):
    monkeypatch.setattr(DualBank, "score_image", lambda *_: np.nan)
    assert run("predict", model, unseen, "-o", tmp_path / "report") == 3
    assert {(row["decision"], row["problem"]) for row in read_table(tmp_path / "report")} == {
        ("", "expected a finite score, got nan.")
    }


def test_what_no_other_image_would_change_ends_the_run(model, unseen, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ImportError("This backbone needs timm.")

    monkeypatch.setattr(ExDDDetector, "score_samples", fail)
    assert run("predict", model, unseen, "-o", tmp_path / "report") == 2
    assert capsys.readouterr().err == "Error: This backbone needs timm.\n"


def test_a_report_of_nothing_but_defects_spreads_them(model, unseen, report, tmp_path):
    assert run("predict", model, unseen, "-o", tmp_path / "report", "--threshold", "-1", "--n-shown", 0) == 0
    page = Page(tmp_path / "report" / "report.html")
    bars = [attributes for tag, attributes in page.tags if tag == "i" and "title" in attributes]
    assert sum(int(bar["title"].split()[0]) > 0 for bar in bars) > 3


def test_a_folder_without_a_usable_image_still_gets_a_report(model, tmp_path):
    write(tmp_path / "colour.png", np.zeros((64, 64, 3), np.uint8))
    assert run("predict", model, tmp_path, "-o", tmp_path / "report") == 3
    assert "0 of 1 images called defective, 1 could not be used" in Page(tmp_path / "report" / "report.html").texts


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>&amp;'\".png", "new\nline.png", b"\xff\xfe.png", "=1+1.png"]
)
def test_odd_names_stay_names(name, model, unseen, tmp_path, capsys):
    name = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
    (tmp_path / "parts").mkdir()
    content = list_images(unseen)[0].read_bytes()
    try:
        (tmp_path / "parts" / name).write_bytes(content)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system does not allow such names")
    assert run("predict", model, tmp_path / "parts", "-o", tmp_path / "report") == 0
    (row,) = read_table(tmp_path / "report")
    assert row["image"] == name
    assert (tmp_path / "report" / row["map"]).is_file()
    page = Page(tmp_path / "report" / "report.html")
    assert page.count("img") == 2
    shown = " ".join(name.encode(errors="surrogateescape").decode(errors="replace").split())
    assert any(text.endswith(shown) for text in page.texts)


def test_bars_are_those_of_the_command_alone(model, unseen, tmp_path, capsys):
    detector = persistence.load(model)
    detector.verbose = detector.feature_extractor_.verbose = 1
    persistence.dump(detector, tmp_path / "model")
    assert run("predict", tmp_path / "model", unseen, "-o", tmp_path / "report", "--verbose", 1) == 0
    said = capsys.readouterr().err
    assert "images: 100%" in said
    assert "features" not in said
    assert run("predict", tmp_path / "model", unseen, "-o", tmp_path / "report", "--verbose", 0) == 0
    assert capsys.readouterr().err == ""


# Images of the report


def test_a_thousand_images_stay_below_fifty_megabytes():
    rng = np.random.RandomState(0)
    image, pixel_map = rng.randint(0, 256, (512, 512, 3)).astype(np.uint8), rng.rand(512, 512).astype(np.float32)
    mask, colors = pixel_map > 0.5, MapColors([pixel_map], 0.5)
    small, large = (Thumbnails(n).make(image, pixel_map, mask, colors) for n in (1000, 1))
    assert 1000 * (len(small.image) + len(small.map)) < 50e6
    assert large.width == 512


def test_dim_images_of_twelve_bits_are_visible_and_tiny_ones_enlarged():
    image, pixel_map = np.full((20, 40), 4095, np.uint16), np.zeros((20, 40), np.float32)
    pictures = Thumbnails(1).make(image, pixel_map, None, MapColors([pixel_map], 1.0))
    assert pictures.width == 2 * pictures.height == 320
    assert pixels_of(pictures.image).min() > 250


def test_the_threshold_is_in_the_middle_of_the_scale():
    colors = MapColors([np.full((2, 2), low) for low in (0.0, 1.0, 9.0)], threshold=3.0)
    np.testing.assert_array_equal(
        colors.shares(np.array([0.0, 1.0, 2.0, 3.0, 5.0, 9.0])), [0, 0, 0.25, 0.5, 0.75, 0.875]
    )
    hopeless = MapColors([np.full((2, 2), 9.0)], threshold=3.0)
    assert hopeless.shares(np.array([0.0, 3.0, 6.0])).tolist() == [0, 0.5, 0.75]


# Evaluate


@pytest.fixture(scope="module")
def answers(model, unseen):
    data, detector = load_folder(unseen), persistence.load(model)
    masks = [None if path is None else np.asarray(Image.open(path)) > 0 for path in data.masks]
    return data.y, detector.score_samples(data.X), masks, detector.predict_map(data.X), detector.threshold_


def test_the_figures_are_those_of_scikit_learn_and_of_our_metrics(model, unseen, answers, capsys):
    assert run("evaluate", model, unseen, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    y, scores, masks, maps, threshold = answers
    assert figures["image_roc_auc"] == roc_auc_score(y, scores)
    assert figures["image_average_precision"] == average_precision_score(y, scores)
    assert figures["pixel_roc_auc"] == pytest.approx(pixel_roc_auc_score(masks, maps))
    assert figures["per_region_overlap"] == pytest.approx(per_region_overlap_score(masks, maps))
    assert figures["found"] == ((scores > threshold) & (y == 1)).sum()
    assert figures["false_alarms"] == ((scores > threshold) & (y == 0)).sum()
    counts = {name: figures[name] for name in ("n_normal", "n_defect", "n_masks", "n_unusable")}
    assert counts == {"n_normal": 6, "n_defect": 6, "n_masks": 6, "n_unusable": 0}
    assert figures["n_training"] == 0
    assert sum(kind["found"] for kind in figures["found_by_kind"].values()) == figures["found"]
    assert figures["found_by_kind"].keys() == {"pit", "scratch"}


def test_images_that_fit_has_seen_are_counted(model, parts, capsys):
    n_images = len(load_folder(parts).y)
    assert run("evaluate", model, parts, "--no-maps", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_training"] == n_images
    assert run("evaluate", model, parts, "--no-maps") == 0
    said = capsys.readouterr().out
    assert f"{n_images} of these images were used in fit. Leave them out: results on new images are worse." in said


def test_operating_points_are_those_of_the_detector_and_of_the_costs(model, unseen, answers, capsys):
    assert run("evaluate", model, unseen, "--no-maps", "--json", "--cost-miss", 5) == 0
    points = json.loads(capsys.readouterr().out)["operating_points"]
    y, scores = answers[:2]
    known = persistence.load(model).calibration_scores_
    assert points == [asdict(point) for point in operating_points(y, scores, known, cost_miss=5)]
    assert run("evaluate", model, unseen, "--no-maps") == 0
    said = capsys.readouterr().out
    assert re.search(r"--threshold +false alarms +misses +cost\npromised 5.9 % +[\d.]+ +\d of 6 +\d of 6 +\d", said)
    assert "A false alarm costs 1 and a miss 1 (--cost-false-alarm, --cost-miss)." in said
    assert "fit had too few normal images to promise 1 %. This takes 99 normal images or groups." in said


def test_the_page_of_an_evaluation_shows_the_operating_points(model, unseen, tmp_path, capsys):
    assert run("evaluate", model, unseen, "--no-maps", "-o", tmp_path / "page.html", "--cost-miss", 5) == 0
    assert "Written to" in capsys.readouterr().out
    page = Page(tmp_path / "page.html")
    assert {"lowest cost", "promised 5.9 %", "promised 20 %"} <= set(page.texts)
    assert page.count("tr") == 6
    assert page.count("rect") > 40
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.tags}
    assert "http" not in (tmp_path / "page.html").read_text().replace("http-equiv", "")


def test_the_page_of_an_evaluation_is_written_if_one_class_is_missing(model, unseen, tmp_path):
    shutil.copytree(unseen / "defect", tmp_path / "parts" / "defect")
    assert run("evaluate", model, tmp_path / "parts", "-o", tmp_path / "page.html") == 0
    assert "Other thresholds are compared only if there are both" in (tmp_path / "page.html").read_text()


def test_people_get_a_table(model, unseen, answers, capsys):
    y, scores = answers[:2]
    threshold = np.sort(scores[y == 0])[-2]
    assert run("evaluate", model, unseen, "--threshold", threshold) == 0
    said = capsys.readouterr().out
    n_found = (scores[y == 1] > threshold).sum()
    assert re.search(rf"normal images +5 +1 +16.7 % false alarms\ndefects +{6 - n_found} +{n_found} ", said)
    assert f"image AUROC    {roc_auc_score(y, scores):.3f}" in said
    assert "AUPRO" in said
    assert "Found, by kind: pit " in said


def as_index(data, folder):
    rows = ["image,label,mask"]
    for i, (image, label, mask) in enumerate(zip(*data)):
        write(folder / f"images/{i}.png", image)
        if label:
            write(folder / f"marks/{i}.png", mask)
        rows.append(f"images/{i}.png,{label},{f'marks/{i}.png' if label else ''}")
    (folder / "index.csv").write_text("\n".join(rows))


def as_mvtec(data, folder):
    write(folder / "train/good/0.png", data[0][0])
    for i, (image, label, mask) in enumerate(zip(*data)):
        write(folder / "test" / ("hole" if label else "good") / f"{i}.png", image)
        if label:
            write(folder / f"ground_truth/hole/{i}_mask.png", mask)


def as_ksdd2(data, folder):
    for i, (image, _, mask) in enumerate(zip(*data)):
        write(folder / f"test/{i}.png", image)
        write(folder / f"test/{i}_GT.png", mask)


@pytest.mark.parametrize("layout", [as_index, as_mvtec, as_ksdd2])
def test_all_layouts_give_the_same_figures(layout, model, unseen_surfaces, answers, tmp_path, capsys):
    layout(unseen_surfaces, tmp_path)
    assert run("evaluate", model, tmp_path, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    y, scores, masks, maps, _ = answers
    assert figures["image_roc_auc"] == roc_auc_score(y, scores)
    assert figures["pixel_roc_auc"] == pytest.approx(pixel_roc_auc_score(masks, maps))
    assert len([path for path in list_images(tmp_path) if "train" not in path.parts]) == 12


def test_figures_that_need_what_is_missing_are_left_open(model, unseen, tmp_path, capsys):
    shutil.copytree(unseen / "defect", tmp_path / "defect")
    assert run("evaluate", model, tmp_path, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n_normal"], figures["n_defect"], figures["n_masks"]) == (0, 6, 0)
    assert figures["image_roc_auc"] is figures["pixel_roc_auc"] is figures["per_region_overlap"] is None
    assert run("evaluate", model, tmp_path) == 0
    assert "image AUROC       -" in capsys.readouterr().out


def test_maps_are_not_computed_where_not_wanted(model, unseen, capsys, monkeypatch):
    monkeypatch.setattr(ExDDDetector, "predict_map", None)
    assert run("evaluate", model, unseen, "--no-maps", "--json") == 0
    assert "pixel_roc_auc" not in json.loads(capsys.readouterr().out)


def test_an_unusable_image_is_left_out_of_the_figures(model, unseen, tmp_path, capsys):
    shutil.copytree(unseen, tmp_path / "parts")
    (tmp_path / "parts" / "normal" / "torn.png").write_text("no image")
    assert run("evaluate", model, tmp_path / "parts", "--json") == 3
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert (figures["n_normal"], figures["n_unusable"]) == (6, 1)
    assert "torn.png': expected an image" in captured.err


# Check


@pytest.fixture
def tidy(tmp_path):
    return write_parts(tmp_path / "tidy", make_surface_defects(12, image_shape=(64, 64), random_state=0))


def test_a_folder_without_mistakes_ends_with_0(tidy, capsys):
    assert run("check", tidy, "--no-scores") == 0
    assert capsys.readouterr().out == (
        "12 images checked: 0 errors, 0 warnings.\nNot checked: placement of masks: expected at least 8 masks, got 4.\n"
    )


def test_errors_end_with_1_and_warnings_with_0(tidy, tmp_path, capsys):
    first, second = sorted((tidy / "normal").iterdir())[:2]
    shutil.copy(first, tidy / "normal" / "copy.png")
    (tidy / "normal" / "part.heic").write_text("another format")
    assert run("check", tidy, "--no-scores") == 0
    said = capsys.readouterr()
    assert "warning  duplicate: 2 images have the same pixels" in said.out
    assert "    normal/part.heic" in said.out
    assert said.err == ""
    second.write_text("no image")
    assert run("check", tidy, "--no-scores", "--json", "-o", tmp_path / "page.html") == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n_images"], figures["n_errors"]) == (13, 1)
    assert [finding["kind"] for finding in figures["findings"]] == ["unreadable", "duplicate", "left_out"]
    assert figures["findings"][0]["images"] == [f"normal/{second.name}"]


def test_the_page_of_a_check_shows_the_images_of_the_findings(tidy, tmp_path):
    defect = sorted((tidy / "defect").rglob("*.png"))[0]
    shutil.copy(defect, tidy / "normal" / "copy.png")
    mask = tidy / "masks" / defect.relative_to(tidy / "defect")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
    (tidy / "normal" / "<b>&.png").write_text("no image")
    assert run("check", tidy, "--no-scores", "-o", tmp_path / "page.html") == 1
    page = Page(tmp_path / "page.html")
    assert page.texts[0] == "14 images checked: 3 errors, 0 warnings."
    assert {"unreadable", "duplicate", "mask empty"} <= set(page.texts)
    assert "normal/<b>&.png" in page.texts
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in pictures)
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in page.tags}


def test_all_wrong_rows_of_a_table_are_named_at_once(unseen_surfaces, tmp_path, capsys):
    as_index(unseen_surfaces, tmp_path)
    rows = [*(f"gone/{i}.png,0," for i in range(9)), "images/0.png,0,", "images/1.png,maybe,", "images/1.png,1,no.png"]
    with open(tmp_path / "index.csv", "a") as table:
        table.write("\n" + "\n".join(rows))
    assert run("check", tmp_path, "--no-scores") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"Error: {tmp_path / 'index.csv'}: expected only valid rows, got 12 wrong rows:"
    assert said[1:10] == [f"line {14 + i}: the folder contains no file 'gone/{i}.png'." for i in range(9)]
    assert said[10].startswith(
        "line 23: expected one row for each image, got 'images/0.png' again, as in line 2. Remove"
    )
    assert said[11:] == ["and 2 more"]


def test_both_parts_of_a_data_set_are_compared(unseen_surfaces, tmp_path, capsys):
    as_mvtec(unseen_surfaces, tmp_path)
    (normal, *_) = np.flatnonzero(unseen_surfaces[1] == 0)
    write(tmp_path / "train/good/1.png", unseen_surfaces[0][normal])
    assert run("check", tmp_path, "--no-scores") == 1
    assert f"    train/good/1.png, test/good/{normal}.png\n" in capsys.readouterr().out


def test_a_check_scores_the_normal_images_unless_told_otherwise(tidy, monkeypatch, capsys):
    def score(self, X, y=None, *, groups=None):
        self.calibration_scores_ = np.append(np.linspace(1, 1.1, len(X) - 1), 9.0)

    monkeypatch.setattr(ExDDDetector, "fit", score)
    assert run("check", tidy) == 0
    name = sorted((tidy / "normal").iterdir())[-1].name
    said = capsys.readouterr().out
    assert "warning  score: 1 normal image stands out. ExDDDetector, fitted without it, gives a score of 9" in said
    assert f"    normal/{name}\n" in said
    assert run("check", tidy / "normal", "--no-scores") == 0
    assert "8 images checked: 0 errors" in capsys.readouterr().out


# Folders


def test_masks_reports_and_hidden_files_are_no_images(report, parts, tmp_path):
    shutil.copytree(parts, tmp_path / "parts")
    shutil.copytree(report, tmp_path / "parts" / "reports" / "monday")
    shutil.copytree(parts / "normal", tmp_path / "parts" / "review" / "images")
    shutil.copytree(parts / "normal", tmp_path / "parts" / ".trash")
    shutil.copytree(parts / "normal", tmp_path / "parts" / "today" / "masks")
    found = {path.relative_to(tmp_path / "parts").parts[0] for path in list_images(tmp_path / "parts")}
    assert found == {"normal", "defect", "today"}


def test_the_parts_of_a_data_set_are_kept_apart(unseen_surfaces, tmp_path):
    as_mvtec(unseen_surfaces, tmp_path)
    assert len(load_labelled(tmp_path, "train").X) == 1
    assert len(load_labelled(tmp_path, "test").X) == 12
    assert load_labelled(tmp_path / "test" / "hole", "test") is None


def test_options_may_be_written_with_underscores():
    given = ["fit", "my-parts", "-o", "m", "--{}", "0.2", "--{}=5", "--params", '{"image_size": 2}']
    hyphens, underscores = (
        [word.format(name) if "{}" in word else word for word, name in zip(given, names)]
        for names in (
            [None] * 4 + ["max-false-alarm-rate", None, "random-state", None, None],
            [None] * 4 + ["max_false_alarm_rate", None, "random_state", None, None],
        )
    )
    assert parser().parse_args(underscores) == parser().parse_args(hyphens)
    options = parser().parse_args(["predict", "my_model", "--fail_on_defect", "-o", "a_b", "--", "--x_y"])
    assert (options.model, options.fail_on_defect, options.out, options.folder) == ("my_model", True, "a_b", "--x_y")


def test_the_console_script_is_the_module(monkeypatch):
    (script,) = entry_points(group="console_scripts", name="sklearn-exdd")
    assert script.load() is main
    for name, usage in (("sklearn-exdd", "usage: sklearn-exdd "), ("__main__.py", "usage: python -m sklearn_exdd ")):
        monkeypatch.setattr(sys, "argv", [name])
        assert parser().format_usage().startswith(usage)


@pytest.mark.slow
def test_it_runs_as_a_module(model, unseen, tmp_path):
    command = [sys.executable, "-m", "sklearn_exdd", "predict", model, unseen, "-o", tmp_path / "report"]
    done = subprocess.run([*command, "--fail-on-defect", "--n-shown", "1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("12 images: ")
    assert done.stderr == ""
