"""Published protocols, on miniatures of the data sets with random weights."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, precision_score, recall_score

from sklearn_exdd.datasets import make_surface_defects

pytest.importorskip("diffusers", reason="needs the extra diffusion")
pytest.importorskip("transformers", reason="needs the extra diffusion")

from tiny_pipelines import save_tiny_pipeline

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """Import the modules ksdd2 and mvtec."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import ksdd2
        import mvtec

        yield SimpleNamespace(ksdd2=ksdd2, mvtec=mvtec)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the path of a file of random weights for resnet18."""
    import torch
    from torchvision import models

    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


# KolektorSDD2


def write_ksdd2(folder):
    """Write 10 normal images and 4 defects for training and 5 and 3 for testing, in two sizes, and a copied pair."""
    for seed, (part, n_normal, n_defect) in enumerate([("train", 10, 4), ("test", 5, 3)]):
        n = n_normal + n_defect
        X, _, masks = make_surface_defects(
            n, defect_fraction=n_defect / n, image_shape=(96, 48), texture="cast", random_state=seed
        )
        (folder / part).mkdir(parents=True)
        for i in range(n):
            rows = np.flatnonzero(masks[i].any(axis=1))
            top = 2 if i % 2 and (len(rows) == 0 or rows[-1] > 2) else 0  # another size that keeps some of the defect
            stem = folder / part / f"{10000 + i}"
            Image.fromarray(np.stack([X[i][top:]] * 3, axis=2)).save(f"{stem}.png")
            Image.fromarray(masks[i][top:]).convert("L").save(f"{stem}_GT.png")
    for name in ("10001", "10001_GT"):
        Image.open(folder / "train" / f"{name}.png").save(folder / "train" / f"{name} (copy).png")
    return folder


def recording(detector_class, fits):
    """Return a subclass of the detector class that records the training data in `fits`."""

    class Recording(detector_class):
        def fit(self, X, y=None, **more):
            super().fit(X, y, **more)
            fits.append(SimpleNamespace(detector=self, X=list(X), y=np.asarray(y), synthetic=X.synthetic, **more))
            return self

    return Recording


@pytest.fixture(scope="module")
def ksdd2_run(scripts, weights, pipeline, tmp_path_factory):
    """Run the protocols of both papers, with two seeds and two numbers of synthetic images."""
    root = tmp_path_factory.mktemp("ksdd2")
    run = SimpleNamespace(root=root, folder=write_ksdd2(root / "data"), exdd=[], diag=[])
    run.command = [
        str(run.folder),
        *("--model", str(pipeline), "--inpainting-params", '{"n_inference_steps": 2, "working_size": 64}'),
        *("--exdd-backbone", "resnet18", "--exdd-weights", str(weights)),
        *("--diag-backbone", "resnet18", "--diag-weights", str(weights)),
        *("--diag-params", '{"image_size": [64, 32], "n_epochs": 1}'),
        *("--counts", "3", "4", "--seeds", "2", "--work", str(root / "work")),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.ksdd2, "ExDDDetector", recording(scripts.ksdd2.ExDDDetector, run.exdd))
        patch.setattr(scripts.ksdd2, "DefectClassifier", recording(scripts.ksdd2.DefectClassifier, run.diag))
        scripts.ksdd2.main([*run.command, "--json", str(root / "out" / "figures.json")])
    run.figures = json.loads((root / "out" / "figures.json").read_text())
    run.provenance = [
        json.loads(path.read_text())["provenance"] for path in sorted((root / "work" / "synthetic").rglob("*.json"))
    ]
    return run


def test_what_is_published_is_the_default(scripts):
    ksdd2 = scripts.ksdd2
    arguments = ksdd2.parse(["folder"])
    assert arguments.exdd
    assert arguments.diag
    assert (arguments.exdd_backbone, arguments.diag_backbone) == ("wide_resnet50_2", "resnet50")
    assert arguments.exdd_weights == arguments.diag_weights == "IMAGENET1K_V1"
    assert arguments.model == "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    assert ksdd2.SPLIT == {"train": (2085, 246), "test": (894, 110)}
    assert ksdd2.COUNTS == {"ExDD": [100], "DIAG": [80, 100, 120]}
    assert ksdd2.EXDD_SHAPE == (316, 112)
    exdd = ksdd2.ExDDDetector(**ksdd2.EXDD)
    assert (exdd.coreset, exdd.normal_coreset, exdd.defect_coreset, exdd.epsilon) == ("greedy", 0.01, 0.1, 1e-6)
    diag = ksdd2.DefectClassifier(**ksdd2.DIAG)
    assert (diag.learning_rate, diag.train_batch_size, diag.n_epochs, diag.patience) == (1e-4, 32, 30, None)
    inpainting = ksdd2.DiffusionDefectAugmenter(**ksdd2.INPAINTING)
    assert inpainting.n_inference_steps == 30
    assert inpainting.working_size == 1024


def test_the_published_figures_are_those_of_the_papers(scripts):
    published = scripts.ksdd2.PUBLISHED
    assert list(published["ExDD", 100].values()) == [0.942, 0.977]
    assert list(published["DIAG zero-shot", 100].values()) == [0.801, 0.924, 0.664]
    assert list(published["DIAG full-shot", 120].values()) == [0.924, 0.896, 0.864]
    assert scripts.mvtec.PUBLISHED == {"image AUROC": 0.984, "pixel AUROC": 0.983}


def test_diag_trains_without_real_defects_and_with_them(ksdd2_run):
    assert [(len(fit.X), fit.y.sum(), len(fit.synthetic.images)) for fit in ksdd2_run.diag] == 2 * [
        (10, 0, 3), (10, 0, 4), (14, 4, 3), (14, 4, 4),
    ]  # fmt: skip


def test_no_test_image_and_no_copy_is_trained_on(ksdd2_run):
    for fit in ksdd2_run.diag:
        assert {path.parent for path in fit.X} == {ksdd2_run.folder / "train"}
        assert not any("(copy)" in path.name or "_GT" in path.name for path in fit.X)
        assert len(set(fit.X)) == len(fit.X)


def test_synthetic_defects_are_on_normal_training_images_in_the_shape_of_real_masks(ksdd2_run, scripts):
    masks = [np.asarray(Image.open(path)) > 0 for path in sorted((ksdd2_run.folder / "train").glob("1????_GT.png"))]
    masks = [mask for mask in masks if mask.any()]
    fit = ksdd2_run.diag[-1]
    for image, mask, provenance in zip(fit.synthetic.images, fit.synthetic.masks, fit.synthetic.provenance):
        assert fit.y[provenance["source"]] == 0
        source = np.asarray(Image.open(fit.X[provenance["source"]]))
        np.testing.assert_array_equal(image[~mask], source[~mask])
        assert any((mask <= scripts.ksdd2.resized_mask(real, mask.shape)).all() for real in masks)


def test_fewer_synthetic_images_are_the_first_of_more_and_seeds_differ(ksdd2_run):
    three, four = (ksdd2_run.diag[i].synthetic.images for i in (0, 1))
    for image, same in zip(three, four):
        np.testing.assert_array_equal(image, same)
    assert len(ksdd2_run.provenance) == 8
    assert len({entry["generator_seed"] for entry in ksdd2_run.provenance}) == 8


def test_defects_are_painted_with_the_published_settings(ksdd2_run, pipeline):
    for entry in ksdd2_run.provenance:
        assert entry["prompt"] in ("white marks on the wall", "copper metal scratches")
        assert entry["negative_prompt"] == "smooth, plain, black, dark, shadow"
        assert (entry["guidance_scale"], entry["strength"], entry["padding_mask_crop"]) == (20.0, 0.99, 2)
        assert (entry["height"], entry["width"], entry["num_inference_steps"]) == (64, 64, 2)  # set by this run
        assert entry["model"] == str(pipeline)
    assert len({entry["prompt"] for entry in ksdd2_run.provenance}) == 2


def test_exdd_sees_real_and_synthetic_defects_in_boxes_at_its_size(ksdd2_run, scripts):
    fits = ksdd2_run.exdd
    assert [(len(fit.X), fit.y.sum(), len(fit.synthetic.images)) for fit in fits] == 2 * [(14, 4, 3), (14, 4, 4)]
    fit, same_seed = fits[0], ksdd2_run.diag[0]
    assert {image.shape for image in [*fit.X, *fit.synthetic.images]} == {(316, 112, 3)}
    real = [np.asarray(Image.open(path)) > 0 for path in sorted((ksdd2_run.folder / "train").glob("1????_GT.png"))]
    real = [mask for mask in real if mask.any()]
    assert fit.masks[:10] == [None] * 10
    for mask, original in zip([*fit.masks[10:], *fit.synthetic.masks], [*real, *same_seed.synthetic.masks]):
        np.testing.assert_array_equal(mask, scripts.ksdd2.boxes(scripts.ksdd2.resized_mask(original, (316, 112))))
    assert {bool(flag) for flag in fit.detector.defect_bank_.provenance["synthetic"]} == {False, True}
    assert fit.detector.feature_extractor_.layers == ("layer2", "layer3")
    # 1 % of the patches of the 10 normal images, which have 40 x 14 patches each.
    assert len(fit.detector.normal_bank_) == int(np.ceil(0.01 * 10 * 40 * 14))


def test_the_figures_are_of_the_test_part_at_a_threshold_from_training(ksdd2_run):
    test = sorted((ksdd2_run.folder / "test").glob("1????.png"))
    y = [int(np.asarray(Image.open(path.with_name(f"{path.stem}_GT.png"))).any()) for path in test]
    assert sum(y) == 3
    rows = {row["name"]: row["metrics"] for row in ksdd2_run.figures["rows"]}
    assert list(rows) == [
        f"{name}, {count}" for name in ("ExDD", "DIAG zero-shot", "DIAG full-shot") for count in (3, 4)
    ]
    for seed, fit in enumerate(ksdd2_run.diag[2::4]):
        scores = fit.detector.score_samples(test)
        found = fit.detector.predict(test)
        expected = {
            "AP": average_precision_score(y, scores),
            "precision": precision_score(y, found, zero_division=0),
            "recall": recall_score(y, found),
        }
        assert {name: figure["seeds"][seed] for name, figure in rows["DIAG full-shot, 3"].items()} == pytest.approx(
            expected
        )
    figure = rows["ExDD, 4"]["image AUROC"]
    assert figure["mean"] == pytest.approx(np.mean(figure["seeds"]))
    assert figure["deviation"] == pytest.approx(np.std(figure["seeds"], ddof=1))
    assert figure["published"] is None  # the papers have no result for 4 synthetic images
    assert ksdd2_run.figures["counts"] == {"train": [10, 4], "test": [5, 3]}


def test_finished_runs_are_not_computed_again(ksdd2_run, scripts, monkeypatch, capsys, tmp_path):
    for name in ("ExDDDetector", "DefectClassifier", "DiffusionDefectAugmenter"):
        monkeypatch.setattr(scripts.ksdd2, name, None)
    scripts.ksdd2.main([*ksdd2_run.command, "--json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == ksdd2_run.figures["rows"]
    out, err = capsys.readouterr()
    assert out.count("kept from an earlier run") == 12
    assert "Left out: 10001 (copy).png, 10001_GT (copy).png." in out
    assert "train: 10 normal images, 4 defects" in out
    assert "train is not the published split, 2085 normal images and 246 defects" in err
    assert "test is not the published split, 894 normal images and 110 defects" in err


def test_an_interrupted_command_goes_on_where_it_was(ksdd2_run, scripts, monkeypatch, tmp_path):
    ksdd2 = scripts.ksdd2
    command = [*ksdd2_run.command, "--diag", "--shots", "full", "--seeds", "2", "--counts", "3"]
    command += ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "figures.json")]
    run_diag, calls = ksdd2.run_diag, []

    def run_until_the_second(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_diag(*arguments)

    monkeypatch.setattr(ksdd2, "run_diag", run_until_the_second)
    with pytest.raises(SystemExit, match="Run the same command to resume"):
        ksdd2.main(command)
    assert not (tmp_path / "figures.json").exists()
    ksdd2.main(command)
    assert calls == [0, 1, 1]
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    (same,) = [other for other in ksdd2_run.figures["rows"] if other["name"] == row["name"]]
    assert row == same  # computed in another work folder


def test_a_training_cut_short_is_no_result(ksdd2_run, scripts, monkeypatch, tmp_path):
    from sklearn_exdd.detectors.defect_classifier import detector

    original, steps = detector.stack_images, []

    def interrupt(images):
        steps.append(len(images))
        if len(steps) == 2:
            raise KeyboardInterrupt
        return original(images)

    command = [*ksdd2_run.command, "--diag", "--shots", "full", "--seeds", "1", "--counts", "3"]
    command += ["--work", str(tmp_path / "work"), "--diag-params", '{"image_size": [64, 32], "train_batch_size": 4}']
    with monkeypatch.context() as patch:
        patch.setattr(detector, "stack_images", interrupt)
        with pytest.raises(SystemExit, match="Run the same command to resume"):
            scripts.ksdd2.main(command)
    assert list((tmp_path / "work" / "runs").iterdir()) == []


def test_a_damaged_or_another_run_is_computed_anew(scripts, tmp_path):
    values = iter([{"AP": 0.25}, {"AP": 0.5}, {"AP": 0.75}])

    def result(settings):
        return scripts.ksdd2.Runs(tmp_path, 1).result("DIAG, seed 0", settings, lambda: next(values))

    assert result({"count": 80}) == {"AP": 0.25}
    assert result({"count": 100}) == {"AP": 0.5}
    assert result({"count": 80}) == {"AP": 0.25}
    for path in tmp_path.iterdir():
        path.write_text("{")
    assert result({"count": 80}) == {"AP": 0.75}


def test_the_distance_of_synthetic_defects_is_reported_on_demand(ksdd2_run, scripts, capsys):
    scripts.ksdd2.main([*ksdd2_run.command, "--exdd", "--distance", "--seeds", "1", "--counts", "4"])
    out = capsys.readouterr().out
    assert "kernel distance, 4" in out
    assert "its standard error" in out
    assert "one seed" in out


def test_exdd_on_real_defects_alone_needs_no_diffusion_model(ksdd2_run, scripts, tmp_path, weights):
    command = [str(ksdd2_run.folder), "--exdd", "--exdd-backbone", "resnet18", "--exdd-weights", str(weights)]
    command += ["--model", "nobody/has-this", "--counts", "0", "--seeds", "1", "--work", str(tmp_path / "work")]
    scripts.ksdd2.main([*command, "--json", str(tmp_path / "figures.json")])
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["name"] == "ExDD, 0"
    assert row["metrics"]["image AUROC"]["deviation"] is None
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["runs"]


def test_the_published_figure_stands_beside_ours(scripts, capsys):
    results = [{"AP": 0.7, "precision": 0.8, "recall": 0.6}, {"AP": 0.8, "precision": 0.8, "recall": 0.5}]
    published = scripts.ksdd2.PUBLISHED["DIAG zero-shot", 100]
    scripts.ksdd2.show(2, [scripts.ksdd2.summary("DIAG zero-shot, 100", results, published)])
    head, row = capsys.readouterr().out.strip().splitlines()
    assert head.split() == [
        "mean",
        "±",
        "standard",
        "deviation,",
        "2",
        "seeds",
        "AP",
        "published",
        "precision",
        "published",
        "recall",
        "published",
    ]
    assert " ".join(row.split()[3:]) == "0.750 ± 0.071 0.801 0.800 ± 0.000 0.924 0.550 ± 0.071 0.664"


# Missing files are reported at the start


def test_missing_weights_are_named_with_the_place_they_belong_to(ksdd2_run, scripts, monkeypatch, tmp_path, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"IMAGENET1K_V1 of wide_resnet50_2 are not on this machine. Download\n.*\.pth"
    ) as error:
        scripts.ksdd2.main([str(ksdd2_run.folder), "--exdd"])
    assert str(tmp_path / "hub" / "checkpoints") in str(error.value)
    assert "--exdd-weights FILE" in str(error.value)
    with pytest.raises(SystemExit, match=r"--diag-weights: expected one of .* or a file, found no 'nothing.pth'"):
        scripts.ksdd2.main([str(ksdd2_run.folder), "--diag", "--diag-weights", "nothing.pth"])
    with pytest.raises(SystemExit, match=r"--diag-weights: expected weights of resnet50 in"):
        scripts.ksdd2.main([str(ksdd2_run.folder), "--diag", "--diag-weights", str(weights)])
    with pytest.raises(SystemExit, match=r"'resnet' is not a model of torchvision.models"):
        scripts.ksdd2.main([str(ksdd2_run.folder), "--diag", "--diag-backbone", "resnet"])


@pytest.mark.parametrize("model", ["nobody/has-this", "not here", "incomplete"])
def test_a_missing_diffusion_model_is_named_with_a_way_to_get_it(ksdd2_run, scripts, tmp_path, model):
    lacking = "model_index.json"
    if model == "incomplete":
        model, lacking = tmp_path / model, "weights in vae/"
        save_tiny_pipeline(model)
        (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SystemExit, match=f"not all of it: missing {lacking}.*\n.*snapshot_download"):
        scripts.ksdd2.main([*ksdd2_run.command, "--model", str(model)])


def test_weights_in_half_precision_are_found(scripts, pipeline, tmp_path):
    assert scripts.ksdd2.check_pipeline(str(pipeline)) == (str(pipeline), None)
    save_tiny_pipeline(tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert scripts.ksdd2.check_pipeline(str(tmp_path)) == (str(tmp_path), "fp16")


def test_another_folder_is_refused(scripts, tmp_path):
    with pytest.raises(SystemExit, match=r"Expected train/ and test/ with 10000.png.* Pass the folder of KolektorSDD2"):
        scripts.ksdd2.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="found no such folder"):
        scripts.ksdd2.main([str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="expected the folder of MVTec AD"):
        scripts.mvtec.main([str(tmp_path)])


def test_a_part_without_defects_is_refused(scripts, tmp_path):
    folder = write_ksdd2(tmp_path / "data")
    for path in (folder / "test").iterdir():
        path.unlink()
    with pytest.raises(SystemExit, match=r"test: expected normal images and defects, got 0 and 0"):
        scripts.ksdd2.main([str(folder)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "at least one seed"),
        (["--counts", "0"], "expected synthetic images for DIAG's zero-shot"),
        (["--exdd", "--counts", "2", "--distance"], "at least 3 synthetic images"),
        (["--diag-params", "[1]"], "invalid params value"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(scripts, capsys, options, message):
    with pytest.raises(SystemExit):
        scripts.ksdd2.main(["folder", *options])
    assert message in capsys.readouterr().err


def test_a_defect_that_would_vanish_keeps_a_pixel(scripts):
    mask = np.zeros((100, 100), dtype=bool)
    mask[50, 50] = True
    assert scripts.ksdd2.resized_mask(mask, (10, 10)).sum() == 1
    mask[:40, :40] = True
    assert scripts.ksdd2.resized_mask(mask, (10, 10)).sum() == 16
    assert not scripts.ksdd2.resized_mask(np.zeros((100, 100), dtype=bool), (10, 10)).any()


def test_boxes_hold_each_region(scripts):
    mask = np.zeros((8, 8), dtype=bool)
    mask[[0, 1, 2], [0, 1, 2]] = mask[6, 5:7] = True
    expected = np.zeros((8, 8), dtype=bool)
    expected[:3, :3] = expected[6, 5:7] = True
    np.testing.assert_array_equal(scripts.ksdd2.boxes(mask), expected)


# MVTec AD


def write_category(folder, seed):
    """Write 8 normal images for training, and 4 normal and 4 defect images of two kinds for testing, RGB or grey."""
    X, y, masks = make_surface_defects(16, defect_fraction=0.25, image_shape=(96, 80), random_state=seed)
    normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    places = [(i, "train/good") for i in normal[:8]] + [(i, "test/good") for i in normal[8:]]
    places += [(i, f"test/{kind}") for i, kind in zip(defect, ["crack", "hole"] * 2)]
    for i, place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).convert("L" if seed else "RGB").save(folder / place / f"{i:03d}.png")
        if y[i]:
            mask = folder / "ground_truth" / Path(place).name / f"{i:03d}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(masks[i]).convert("L").save(mask)


@pytest.fixture(scope="module")
def mvtec_run(scripts, weights, tmp_path_factory):
    """Run two categories with two seeds."""
    root = tmp_path_factory.mktemp("mvtec")
    run = SimpleNamespace(root=root, folder=root / "data", fits=[])
    for seed, name in enumerate(("carpet", "grid")):
        write_category(run.folder / name, seed)
    run.command = [
        str(run.folder),
        *("--teacher", "resnet18", "--weights", str(weights), "--size", "64", "--seeds", "2"),
        *("--params", '{"n_synthetic": 3, "max_steps": 3, "crop_size": 32, "train_batch_size": 4}'),
        "--augmenter-params",
        '{"crop_size": 16, "block_out_channels": [8], "max_steps": 5, "min_contrast": 0}',
        *("--work", str(root / "work")),
    ]

    class Recording(scripts.mvtec.StudentTeacherDetector):
        def fit(self, X, y=None, **more):
            super().fit(X, y, **more)
            run.fits.append(SimpleNamespace(detector=self, X=X, y=y))
            return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.mvtec, "StudentTeacherDetector", Recording)
        scripts.mvtec.main([*run.command, "--json", str(root / "out" / "figures.json")])
    run.figures = json.loads((root / "out" / "figures.json").read_text())
    return run


def test_the_split_of_mvtec_is_the_published_one(scripts):
    counts = np.array(list(scripts.mvtec.SPLIT.values()))
    assert len(counts) == 15
    assert counts.sum(axis=0).tolist() == [3629, 467, 1258]
    assert scripts.mvtec.SPLIT["toothbrush"] == (60, 12, 30)


def test_mvtec_trains_on_normal_images_and_what_the_ddpm_makes(mvtec_run):
    assert [(len(fit.X), fit.y) for fit in mvtec_run.fits] == 4 * [(8, None)]
    assert [fit.X[0].shape for fit in mvtec_run.fits] == 2 * [(64, 64, 3), (64, 64)]
    fit = mvtec_run.fits[0]
    train = sorted((mvtec_run.folder / "carpet" / "train" / "good").iterdir())
    first = np.asarray(Image.open(train[0]).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit.X[0], first)
    assert type(fit.detector.augmenter).__name__ == "DDPMDefectAugmenter"
    assert fit.detector.augmenter.perturbation == "correlated"
    assert fit.detector.augmenter.regions == "perlin"
    assert fit.detector.training == "joint"
    assert fit.detector.top_share == 100 / 256**2


def test_mvtec_reports_categories_and_their_mean(mvtec_run):
    rows = {row["name"]: row["metrics"] for row in mvtec_run.figures["rows"]}
    assert list(rows) == ["carpet", "grid", "mean of 2"]
    for metric in ("image AUROC", "pixel AUROC", "AUPRO"):
        one, other, mean = (rows[name][metric] for name in rows)
        assert mean["seeds"] == pytest.approx(np.mean([one["seeds"], other["seeds"]], axis=0))
        assert mean["published"] is None  # the published mean is over fifteen categories


def test_finished_categories_are_not_computed_again(mvtec_run, scripts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scripts.mvtec, "StudentTeacherDetector", None)
    scripts.mvtec.main([*mvtec_run.command, "--json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == mvtec_run.figures["rows"]
    out, err = capsys.readouterr()
    assert out.count("kept from an earlier run") == 4
    assert "8 normal training images, 4 normal test images and 4 defects differ from the published split" in err
    assert "2 of the 15 categories" in err


def test_one_category_can_be_given_alone(mvtec_run, scripts, capsys):
    scripts.mvtec.main([*mvtec_run.command, "--categories", "grid", "--seeds", "1"])
    assert capsys.readouterr().out.count("kept from an earlier run") == 1
    with pytest.raises(SystemExit, match="which contains bottle"):
        scripts.mvtec.main([*mvtec_run.command, "--categories", "grid", "bottle"])


def test_a_defect_without_a_mask_is_named(scripts, tmp_path):
    write_category(tmp_path / "tile", 0)
    mask = next((tmp_path / "tile" / "ground_truth" / "hole").iterdir())
    mask.unlink()
    with pytest.raises(SystemExit, match=f"found none for .*{mask.stem.removesuffix('_mask')}.png"):
        scripts.mvtec.main([str(tmp_path)])


def test_the_teacher_s_weights_are_looked_for_first(mvtec_run, scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="IMAGENET1K_V1 of resnet18 are not on this machine"):
        scripts.mvtec.main([str(mvtec_run.folder)])
