"""Commands on real-world folders: files left out, damaged files, and the cause named in the message."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from sklearn_exdd import ExDDDetector, TimmFeatureExtractor, TorchvisionFeatureExtractor, persistence
from sklearn_exdd._images import read_image
from sklearn_exdd.cli import model as cli_model
from sklearn_exdd.cli.command import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def read_table(report):
    with open(report / "scores.csv", newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def as_plain(data, folder):
    for i, (image, label, mask) in enumerate(zip(*data)):
        write(folder / ("defect" if label else "good") / f"{i}.png", image)
        if label:
            write(folder / f"masks/{i}.png", mask)


def as_index(data, folder):
    rows = ["image,label,mask"]
    for i, (image, label, mask) in enumerate(zip(*data)):
        write(folder / f"good/{i}.png", image)
        if label:
            write(folder / f"masks/{i}.png", mask)
        rows.append(f"good/{i}.png,{label},{f'masks/{i}.png' if label else ''}")
    (folder / "index.csv").write_text("\n".join(rows))


def as_mvtec(data, folder):
    for i, (image, label, mask) in enumerate(zip(*data)):
        write(folder / "test" / ("hole" if label else "good") / f"{i}.png", image)
        if label:
            write(folder / f"ground_truth/hole/{i}.png", mask)


def as_ksdd2(data, folder):
    for i, (image, _, mask) in enumerate(zip(*data)):
        write(folder / f"test/{i}.png", image)
        write(folder / f"test/{i}_GT.png", mask)


LAYOUTS = {as_plain: "good", as_mvtec: "test/good", as_ksdd2: "test"}
MASKS = {as_plain: "masks/{}.png", as_index: "masks/{}.png", as_mvtec: "ground_truth/hole/{}.png"}


@pytest.fixture(scope="module")
def model(surfaces, tmp_path_factory):
    X, y, masks = surfaces
    path = tmp_path_factory.mktemp("models") / "model"
    persistence.dump(ExDDDetector(random_state=0).fit(X, y, masks=list(masks)), path)
    return path


@pytest.fixture
def today(unseen_surfaces, tmp_path):
    for i, image in enumerate(unseen_surfaces[0][:4]):
        write(tmp_path / "today" / f"{i}.png", image)
    return tmp_path / "today"


# Files left out


@pytest.mark.parametrize("suffix", [".pgm", ".GIF", ".jp2", ".ppm", ".dib", ".webp", ".tiff", ".jfif"])
def test_all_formats_that_are_read_are_scored(suffix, model, today, tmp_path):
    image = Image.open(today / "0.png")
    image.convert("L" if suffix != ".ppm" else "RGB").save(
        today / f"a{suffix}", format=None if suffix != ".jfif" else "JPEG"
    )
    code = run("predict", model, today, "-o", tmp_path / "report", "--n-shown", 0)
    row = read_table(tmp_path / "report")[f"a{suffix}"]
    assert code == (0 if row["score"] else 3)
    assert bool(row["score"]) != bool(row["problem"])


@pytest.mark.parametrize("name", ["a.heic", "sub/a.RAW", "a.dcm", "a.svg", "a", "a.png.bak"])
def test_a_file_that_may_be_an_image_is_a_problem(name, model, today, tmp_path, capsys):
    (today / name).parent.mkdir(exist_ok=True)
    (today / name).write_bytes(b"?")
    assert run("predict", model, today, "-o", tmp_path / "report", "--threshold", 1e9) == 3
    row = read_table(tmp_path / "report")[name]
    assert row["problem"].startswith("expected an image, with one of the suffixes .png, .jpg")
    assert row["decision"] == row["score"] == ""
    said = capsys.readouterr()
    assert "5 images: 0 called defective, 1 could not be used." in said.out
    assert f"{name!r}: expected an image, with one of the suffixes" in said.err
    assert f"<bdi>{name}</bdi>" in (tmp_path / "report" / "report.html").read_text()


def test_files_beside_images_are_no_problem(model, today, tmp_path):
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png", "notes.txt", "0.json", "@eaDir/0.png/T.jpg"):
        (today / name).parent.mkdir(parents=True, exist_ok=True)
        (today / name).write_bytes(b"?")
    (today / "part.png").mkdir()
    shutil.copy(model, today / "model")  # the file has no suffix
    assert run("predict", today / "model", today, "-o", tmp_path / "report") == 0
    assert len(read_table(tmp_path / "report")) == 4


def test_a_folder_of_nothing_but_other_files_gets_a_report(model, tmp_path):
    (tmp_path / "today").mkdir()
    (tmp_path / "today" / "a.heic").touch()
    assert run("predict", model, tmp_path / "today", "-o", tmp_path / "report") == 3
    assert read_table(tmp_path / "report").keys() == {"a.heic"}
    assert run("fit", tmp_path / "today", "-o", tmp_path / "new") == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evaluate_says_what_it_leaves_out(layout, model, unseen_surfaces, tmp_path, capsys):
    layout(unseen_surfaces, tmp_path)
    (tmp_path / LAYOUTS[layout] / "a.heic").touch()
    (tmp_path / LAYOUTS[layout] / "part.png").mkdir()
    assert run("evaluate", model, tmp_path, "--no-maps") == 0
    said = capsys.readouterr()
    assert said.out.startswith("6 normal images, 6 with a defect, 0 could not be used")
    assert re.match(r"^1 file in '.*' left out, such as '.*a\.heic': expected ", said.err)
    assert "Warning" not in said.err


@pytest.mark.parametrize("labelled", [True, False])
def test_fit_says_what_it_leaves_out(labelled, surfaces, tmp_path, capsys):
    folder = tmp_path / "parts"
    if labelled:
        as_plain(surfaces, folder)
    else:
        for i, image in enumerate(surfaces[0][surfaces[1] == 0]):
            write(folder / f"{i}.png", image)
    (folder / ("good/a.heic" if labelled else "a.heic")).touch()
    assert run("fit", folder, "-o", folder / "model") == 0
    assert "a.heic': expected" in capsys.readouterr().err
    assert run("fit", folder, "-o", folder / "model") == 0
    assert "model'" not in capsys.readouterr().err


def test_masks_of_ksdd2_are_not_scored_whatever_their_suffix(model, today, tmp_path):
    write(today / "0_GT.bmp", np.zeros((64, 64), np.uint8))
    assert run("predict", model, today, "-o", tmp_path / "report", "--n-shown", 0) == 0
    assert len(read_table(tmp_path / "report")) == 4


# Model and machine


def without_weights(tmp_path, monkeypatch):
    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "w.pth")
    yield TorchvisionFeatureExtractor("resnet18", weights=str(tmp_path / "w.pth"), layers=("layer1",))
    (tmp_path / "w.pth").unlink()
    yield r"weights: expected one of .* or an existing file, got '.*w\.pth'"


def with_damaged_weights(tmp_path, monkeypatch):
    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "w.pth")
    yield TorchvisionFeatureExtractor("resnet18", weights=str(tmp_path / "w.pth"), layers=("layer1",))
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:5000])
    yield r"weights: expected weights in .*w\.pth, got a file that is damaged"


def without_its_package(tmp_path, monkeypatch):
    yield TimmFeatureExtractor("resnet10t", weights=None, layers=(1,))
    monkeypatch.setitem(sys.modules, "timm", None)
    yield r"needs timm: pip install"


def with_a_name_of_another_version(tmp_path, monkeypatch):
    yield TimmFeatureExtractor("resnet10t", weights=None, layers=(1,))
    import timm

    monkeypatch.setattr(timm, "is_model", lambda name: False)
    yield r"backbone: expected a name of timm\.list_models\(\), got 'resnet10t'"


def without_its_device(tmp_path, monkeypatch):
    yield TorchvisionFeatureExtractor("resnet18", weights=None, layers=("layer1",), device="cuda:7")
    yield r"device: expected an available device, got 'cuda:7'"


SCENES = [
    *(without_weights, with_damaged_weights, without_its_package, with_a_name_of_another_version, without_its_device),
]


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("scene", SCENES)
def test_what_lies_in_the_model_or_the_machine_ends_the_run_at_once(
    scene, command, unseen_surfaces, tmp_path, monkeypatch, capsys
):
    as_plain(unseen_surfaces, tmp_path / "parts")
    steps = scene(tmp_path, monkeypatch)
    extractor = next(steps)
    device, extractor.device = extractor.device, None
    detector = ExDDDetector(extractor, normal_coreset=50, random_state=0).fit(unseen_surfaces[0][:4])
    extractor.device = detector.feature_extractor_.device = device
    persistence.dump(detector, tmp_path / "model")
    message = next(steps)
    from sklearn_exdd.features import network

    network._load.cache_clear()
    read = []
    monkeypatch.setattr("sklearn_exdd._images.read_image", lambda *given: read.append(given) or read_image(*given))
    options = ["-o", tmp_path / "report"] if command == "predict" else ["--json"]
    assert run(command, tmp_path / "model", tmp_path / "parts", *options) == 2
    said = capsys.readouterr()
    assert re.search(rf"^Error: .*{message}", said.err)
    assert len(re.findall("^(?:Error: |')", said.err, re.MULTILINE)) == 1
    assert said.out == ""
    assert read == []
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("error", [RuntimeError("CUDA driver is too old"), OSError("no such library"), ValueError("?")])
def test_errors_of_the_machine_name_the_model(error, model, today, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(ExDDDetector, "score_samples", fail)
    assert run("predict", model, today, "-o", tmp_path / "report") == 2
    assert capsys.readouterr().err == f"Error: {model}: this model cannot be used here. {error}\n"


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("side", [64, 300])
def test_a_model_of_any_images_is_tried_out(colour, side, tmp_path):
    shape = (4, side, side, 3) if colour else (4, side, side)
    X = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    persistence.dump(ExDDDetector(random_state=0).fit(X), tmp_path / "model")
    assert cli_model.load(tmp_path / "model").n_channels_ == (3 if colour else 1)


def test_one_bad_image_is_its_own_problem(model, today, tmp_path):
    (today / "torn.png").write_bytes((today / "0.png").read_bytes()[:300])
    (today / "folder.png").mkdir()
    assert run("predict", model, today, "-o", tmp_path / "report") == 3
    assert [name for name, row in read_table(tmp_path / "report").items() if row["problem"]] == ["torn.png"]


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_folder_is_not_a_model(command, today, tmp_path, capsys):
    options = ["-o", tmp_path / "report"] if command == "predict" else []
    assert run(command, today, today, *options) == 2
    assert "expected a model file written by fit, got a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "params",
    [
        {"blur": "2"},
        {"feature_extractor__image_size": "64"},
        {"feature_extractor__image_size": [64, "64"]},
        {"feature_extractor__nothing": 1},
        {"feature_extractor": 5},
        {"feature_extractor": {"a": 1}},
        {"feature_extractor__tile_size": None},
        {"augmenter": "perlin"},
        {"augmenter": 3},
        {"augmenter__jitter": 1},
        {"memory": 3},
        {"normal_coreset": "all of them"},
        {"normal_coreset": [1]},
        {"blur__size": 3},
        {"n_jobs": 1.5},
        {"": 1},
    ],
    ids=str,
)
def test_parameters_of_a_wrong_type_are_bad_use(params, surfaces, tmp_path, capsys):
    fails_with(params, "exdd", surfaces, tmp_path, capsys)


@pytest.mark.parametrize("detector", ["student_teacher", "segmentation", "classifier"])
@pytest.mark.parametrize(
    "params",
    [
        {"augmenter": "perlin"},
        {"augmenter__jitter": 1},
        {"feature_extractor": 5},
        {"max_steps": "many"},
        {"crop_size": "64"},
        {"device": 3},
        {"device": "cuda:7"},
        {"weights": 5},
        {"backbone": "resnet_18"},
        {"teacher": "resnet_18"},
        {"teacher": 4},
        {"layers": 3},
        {"verbose": "yes"},
        {"blur": {"a": 1}},
    ],
    ids=str,
)
def test_parameters_of_other_detectors_too(params, detector, surfaces, tmp_path, capsys):
    fails_with(params, detector, surfaces, tmp_path, capsys)


def fails_with(params, detector, surfaces, tmp_path, capsys):
    as_plain(surfaces, tmp_path / "parts")
    given = ["--detector", detector, "--params", json.dumps(params)]
    assert run("fit", tmp_path / "parts", "-o", tmp_path / "model", *given) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "Error: " in said
    assert not (tmp_path / "model").exists()


# Masks


@pytest.fixture(scope="module")
def right(model, unseen_surfaces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    as_plain(unseen_surfaces, folder)
    detector, X = persistence.load(model), unseen_surfaces[0]
    return folder, detector.score_samples(X)


@pytest.fixture(params=MASKS, ids=lambda layout: layout.__name__)
def labelled(request, unseen_surfaces, tmp_path):
    """Return a folder, and the paths of the masks of its defects."""
    request.param(unseen_surfaces, tmp_path)
    return tmp_path, [tmp_path / MASKS[request.param].format(i) for i in np.flatnonzero(unseen_surfaces[1])]


def evaluate(model, folder, capsys, code):
    assert run("evaluate", model, folder, "--json") == code
    figures = json.loads(capsys.readouterr().out)
    assert run("evaluate", model, folder) == code
    said = capsys.readouterr()
    assert figures["image_roc_auc"] is not None
    assert f"image AUROC    {figures['image_roc_auc']:.3f}" in said.out
    return figures, said


def test_masks_that_mark_nothing_cost_the_pixel_figures_only(model, labelled, capsys):
    folder, masks = labelled
    for mask in masks:
        Image.new("L", (64, 64)).save(mask)
    figures, said = evaluate(model, folder, capsys, 0)
    assert figures["pixel_roc_auc"] is figures["per_region_overlap"] is None
    assert (figures["n_masks"], figures["n_empty_masks"], figures["n_unusable_masks"]) == (0, 6, 0)
    assert re.search(r"pixel AUROC +-  \(on the 0 defects with a mask\)", said.out)
    assert re.search(r"Masks that mark nothing: 6, such as '.*\.png'\. They are left out\.", said.out)


DAMAGED_MASKS = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "text": lambda path: path.write_text("no image"),
    "too small": lambda path: Image.new("L", (32, 32), 255).save(path),
    "too wide": lambda path: Image.new("L", (65, 64), 255).save(path),
}


@pytest.mark.parametrize("damage", DAMAGED_MASKS)
def test_a_mask_of_no_use_costs_itself_only(damage, model, labelled, capsys):
    folder, masks = labelled
    DAMAGED_MASKS[damage](masks[0])
    figures, said = evaluate(model, folder, capsys, 3)
    assert (figures["n_masks"], figures["n_unusable_masks"], figures["n_defect"]) == (5, 1, 6)
    assert figures["pixel_roc_auc"] is not None
    assert re.search(rf"Masks that could not be used: 1, such as '.*{masks[0].name}'", said.out)
    assert re.search(rf"^'.*{masks[0].name}': expected ", said.err, re.M)
    for mask in masks[1:]:
        DAMAGED_MASKS[damage](mask)
    assert evaluate(model, folder, capsys, 3)[0]["pixel_roc_auc"] is None


def test_a_folder_without_masks_gets_image_figures(model, unseen_surfaces, tmp_path, capsys):
    as_plain(unseen_surfaces, tmp_path)
    shutil.rmtree(tmp_path / "masks")
    figures = evaluate(model, tmp_path, capsys, 0)[0]
    assert (figures["n_masks"], figures["n_empty_masks"], figures["pixel_roc_auc"]) == (0, 0, None)


def test_masks_of_normal_images_are_used_if_they_are_empty(model, unseen_surfaces, tmp_path, capsys):
    as_plain(unseen_surfaces, tmp_path)
    expected = evaluate(model, tmp_path, capsys, 0)[0]
    normal = np.flatnonzero(unseen_surfaces[1] == 0)
    for i in normal:
        write(tmp_path / f"masks/{i}.png", np.zeros((64, 64), np.uint8))
    assert evaluate(model, tmp_path, capsys, 0)[0] == expected
    write(tmp_path / f"masks/{normal[0]}.png", np.full((64, 64), 255, np.uint8))
    figures, said = evaluate(model, tmp_path, capsys, 3)
    assert figures["n_unusable_masks"] == 1
    assert "expected an empty mask of a normal image, got a mask with 4096 defect pixels." in said.err


def test_a_map_of_no_use_costs_no_score(model, unseen_surfaces, tmp_path, capsys, monkeypatch):
    as_plain(unseen_surfaces, tmp_path)
    predict_map = ExDDDetector.predict_map

    def fail(self, X):
        if any(path.name == "0.png" for path in X):
            raise RuntimeError("out of memory")
        return predict_map(self, X)

    monkeypatch.setattr(ExDDDetector, "predict_map", fail)
    figures, said = evaluate(model, tmp_path, capsys, 3)
    assert figures["n_unusable_masks"] == 1
    assert "out of memory" in said.err


def test_masks_of_whole_images_leave_the_pixel_figures_open(model, unseen_surfaces, tmp_path, capsys):
    X, y, masks = unseen_surfaces
    as_plain((X[y == 1], y[y == 1], np.ones_like(masks[y == 1])), tmp_path)
    assert run("evaluate", model, tmp_path, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["pixel_roc_auc"] is None
    assert "expected at least one defect pixel and one normal pixel" in said.err


def test_a_score_that_is_no_number_costs_its_image_only(model, unseen_surfaces, tmp_path, capsys, monkeypatch):
    as_plain(unseen_surfaces, tmp_path)
    score_samples = ExDDDetector.score_samples

    def nan_for_the_first(self, X):
        scores = score_samples(self, X)
        return np.where([getattr(path, "name", "") == "0.png" for path in X], np.nan, scores)

    monkeypatch.setattr(ExDDDetector, "score_samples", nan_for_the_first)
    figures, said = evaluate(model, tmp_path, capsys, 3)
    assert figures["n_unusable"] == 1
    assert "expected a finite score, got nan" in said.err


@pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="this system has no symbolic links")
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_links_that_lead_nowhere_stop_nothing(command, model, unseen_surfaces, tmp_path, capsys):
    folder = tmp_path / "parts"
    as_plain(unseen_surfaces, folder)
    place = next(folder.rglob("0.png")).parent
    (place / "circle.png").symlink_to("circle.png")
    (place / "gone.png").symlink_to("nothing.png")
    (place / "again").symlink_to("..", target_is_directory=True)
    assert run(command, model, folder, *(["-o", tmp_path / "out"] if command == "predict" else [])) == 3
    said = capsys.readouterr().err
    assert {name for name in ("circle.png", "gone.png", "0.png") if name in said} == {"circle.png", "gone.png"}
