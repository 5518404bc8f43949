import json
import pickle
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from assertions import assert_same_samples, beginning
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import ExDDDetector
from sklearn_exdd.augment import pipelines
from sklearn_exdd.augment.inpainting import DiffusionDefectAugmenter
from sklearn_exdd.augment.pipelines import PipelineRecipe, load_pipeline, model_key
from sklearn_exdd.augment.regions import MaskRegions, RectangleRegions

pytest.importorskip("diffusers", reason="needs the extra diffusion")
pytest.importorskip("transformers", reason="needs the extra diffusion")

from tiny_pipelines import save_tiny_pipeline

KINDS = [("sdxl", 9), ("sdxl", 4), ("sd", 9), ("sd", 4)]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Return a function that returns the folder of a tiny pipeline."""
    folders = {}

    def folder(kind="sdxl", unet_channels=9, seed=0):
        key = kind, unet_channels, seed
        if key not in folders:
            folders[key] = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"), kind, unet_channels, seed)
        return folders[key]

    return folder


@pytest.fixture
def own_sdxl(tiny_folder, tmp_path):
    """Return the folder of a tiny pipeline that a test may change."""
    return Path(shutil.copytree(tiny_folder(), tmp_path / "own"))


class WhitePainter:
    """Stand-in for a pipeline that paints white and records its arguments."""

    calls = []

    def to(self, device):
        return self

    def set_progress_bar_config(self, **options):
        pass

    def __call__(
        self,
        prompt,
        image,
        mask_image,
        height,
        width,
        strength,
        num_inference_steps,
        guidance_scale,
        negative_prompt=None,
        padding_mask_crop=None,
        generator=None,
        output_type="pil",
    ):
        self.calls.append({name: value for name, value in locals().items() if name != "self"})
        return SimpleNamespace(images=[Image.new("RGB", image.size, "white")])


class Modest(WhitePainter):
    """Pipeline with few arguments."""

    def __call__(self, prompt, image, mask_image, height, width):
        return SimpleNamespace(images=[Image.new("RGB", image.size, "white")])


class Censored(WhitePainter):
    """Pipeline that blackens its first image, as a safety checker would."""

    n_calls = 0

    def __call__(
        self,
        prompt,
        image,
        mask_image,
        strength,
        num_inference_steps,
        guidance_scale,
        negative_prompt,
        padding_mask_crop,
    ):
        type(self).n_calls += 1
        is_first = self.n_calls == 1
        image = Image.new("RGB", image.size, "black" if is_first else "white")
        return SimpleNamespace(images=[image], nsfw_content_detected=[is_first])


class Exhausted(WhitePainter):
    def to(self, device):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.fixture
def calls(monkeypatch):
    """Return the arguments of the calls of WhitePainter in a test."""
    monkeypatch.setattr(WhitePainter, "calls", [])
    load_pipeline.cache_clear()
    return WhitePainter.calls


def augmenter_of(model, **options):
    options = {"working_size": 64, "n_inference_steps": 2, "random_state": 0, "device": "cpu", **options}
    return DiffusionDefectAugmenter(model, **options)


def textures(seed, *shapes):
    return [np.random.RandomState(seed).randint(60, 120, shape).astype(np.uint8) for shape in shapes]


def square(shape, top=20, left=24, side=24):
    region = np.zeros(shape, dtype=bool)
    region[top : top + side, left : left + side] = True
    return region


# Painted pixels


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids="{0[0]}-{0[1]}".format)
@pytest.mark.parametrize("padding_mask_crop", [None, 2])
def test_inside_the_region_an_image_is_what_the_pipeline_itself_paints(tiny_folder, kind, padding_mask_crop):
    from diffusers import AutoPipelineForInpainting

    (image,) = textures(0, (64, 64, 3))
    region = square(image.shape[:2])
    augmenter = augmenter_of(tiny_folder(*kind), padding_mask_crop=padding_mask_crop).fit([image])
    synthetic = augmenter.paint(image, region, random_state=3)
    settings = synthetic.provenance[0]
    with pipelines.quiet(0):
        expected = AutoPipelineForInpainting.from_pretrained(tiny_folder(*kind))(
            prompt=settings["prompt"],
            negative_prompt=augmenter.negative_prompt,
            image=Image.fromarray(image),
            mask_image=Image.fromarray(region.astype(np.uint8) * 255),
            height=64,
            width=64,
            strength=0.99,
            num_inference_steps=2,
            guidance_scale=20.0,
            padding_mask_crop=padding_mask_crop,
            generator=torch.Generator().manual_seed(settings["generator_seed"]),
        ).images[0]
    mask = synthetic.masks[0]
    assert mask.sum() > region.sum() / 2
    assert not (mask & ~region).any()
    np.testing.assert_array_equal(synthetic.images[0][mask], np.asarray(expected)[mask])
    np.testing.assert_array_equal(synthetic.images[0][~mask], image[~mask])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids="{0[0]}-{0[1]}".format)
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "rgb"])
def test_pixels_outside_the_mask_are_the_source_s_for_odd_sizes(tiny_folder, kind, channels):
    X = textures(1, (61, 75, *channels), (53, 41, *channels))
    for options in ({}, {"working_size": None, "padding_mask_crop": None}):
        synthetic = augmenter_of(tiny_folder(*kind), **options).fit(X).sample(3)
        for image, mask, provenance in zip(synthetic.images, synthetic.masks, synthetic.provenance):
            source = X[provenance["source"]]
            assert image.dtype == source.dtype
            assert image.shape == source.shape
            assert mask.any()
            assert not mask.all()
            np.testing.assert_array_equal(image[~mask], source[~mask])
            assert (image[mask] != source[mask]).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids="{0[0]}-{0[1]}".format)
def test_same_seed_same_images_also_in_a_pipeline_loaded_anew(tiny_folder, kind, surfaces):
    X = surfaces[0][:4]
    synthetic = augmenter_of(tiny_folder(*kind)).fit(X).sample(3)
    load_pipeline.cache_clear()
    again = augmenter_of(tiny_folder(*kind)).fit(X)
    assert_same_samples(again.sample(2), beginning(synthetic, 2))
    assert_same_samples(again.sample(3), synthetic)
    others = again.sample(3, random_state=1)
    assert not any(np.array_equal(one, other) for one, other in zip(synthetic.images, others.images))


@pytest.mark.slow
def test_paths_and_floats_give_what_arrays_give(tiny_folder, surfaces, write_images):
    X = surfaces[0][:3]
    synthetic = augmenter_of(tiny_folder()).fit(X).sample(2)
    assert synthetic.images.dtype == np.uint8
    assert_same_samples(augmenter_of(tiny_folder()).fit(write_images(X)).sample(2), synthetic)
    floats = augmenter_of(tiny_folder()).fit(X.astype(np.float32) / 255).sample(2)
    np.testing.assert_allclose(floats.images * 255, synthetic.images, atol=1e-3)


def test_global_random_states_are_left_alone(tiny_folder, surfaces):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    augmenter_of(tiny_folder()).fit(surfaces[0][:2]).sample(1)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.slow
def test_threads_that_share_a_pipeline_do_not_disturb_each_other(tiny_folder, surfaces):
    augmenter = augmenter_of(tiny_folder()).fit(surfaces[0][:4])
    one_by_one = [augmenter.sample(1, random_state=seed) for seed in range(4)]
    at_once = joblib.Parallel(4, prefer="threads")(joblib.delayed(augmenter.sample)(1, seed) for seed in range(4))
    for samples, expected in zip(at_once, one_by_one):
        assert_same_samples(samples, expected)


def test_thin_regions_survive_a_smaller_working_size(calls):
    (image,) = textures(0, (400, 300))
    region = np.zeros(image.shape, dtype=bool)
    region[10:390, 151] = True
    augmenter_of(WhitePainter).fit([image]).paint(image, region)
    mask = np.asarray(calls[0]["mask_image"])
    assert mask.shape == (64, 64)
    assert (mask[2:62] == 255).any(axis=1).all()


def test_sizes_are_squashed_to_a_square_or_rounded_up_to_multiples_of_eight(calls):
    (image,) = textures(0, (61, 75))
    for working_size, expected in ((128, (128, 128)), (None, (64, 80))):
        synthetic = augmenter_of(WhitePainter, working_size=working_size).fit([image]).sample(1)
        assert (calls[-1]["height"], calls[-1]["width"]) == expected
        assert calls[-1]["image"].size == calls[-1]["mask_image"].size == expected[::-1]
        assert calls[-1]["image"].mode == "RGB"
        assert synthetic.images.shape == (1, 61, 75)


@pytest.mark.slow
def test_bfloat16_and_attention_slicing_come_close_to_the_plain_result(tiny_folder, surfaces):
    X = surfaces[0][:2]
    plain = augmenter_of(tiny_folder(), guidance_scale=3).fit(X).sample(2)
    for options, tolerance in (({"attention_slicing": True}, 1), ({"dtype": "bfloat16"}, 20)):
        other = augmenter_of(tiny_folder(), guidance_scale=3, **options).fit(X).sample(2)
        both = plain.masks & other.masks
        error = np.abs(plain.images[both].astype(float) - other.images[both])
        assert error.mean() <= tolerance


# Prompts, regions and provenance


def test_the_prompts_decide_what_is_painted(tiny_folder, surfaces):
    X = surfaces[0][:2]
    one, other = (augmenter_of(tiny_folder(), prompts=prompt).fit(X).sample(1) for prompt in ("a scratch", "the rust"))
    assert not np.array_equal(one.images, other.images)
    assert [one.provenance[0]["prompt"], other.provenance[0]["prompt"]] == ["a scratch", "the rust"]


@pytest.mark.slow
def test_prompts_are_drawn_by_their_shares(calls):
    X = textures(0, (40, 40))
    for shares, expected in ((None, (1 / 3, 1 / 3, 1 / 3)), ([6, 2, 0], (3 / 4, 1 / 4, 0))):
        augmenter = augmenter_of(WhitePainter, prompts=["pit", "scratch", "stain"], prompt_shares=shares)
        drawn = [entry["prompt"] for entry in augmenter.fit(X).sample(200).provenance]
        np.testing.assert_allclose([drawn.count(prompt) / 200 for prompt in augmenter.prompts], expected, atol=0.1)


def test_the_defaults_are_those_of_diag(calls):
    DiffusionDefectAugmenter(WhitePainter, device="cpu", random_state=0).fit(textures(0, (40, 40))).sample(5)
    assert {call["prompt"] for call in calls} == {"white marks on the wall", "copper metal scratches"}
    call = calls[0]
    assert call["negative_prompt"] == "smooth, plain, black, dark, shadow"
    assert (call["num_inference_steps"], call["guidance_scale"], call["strength"]) == (30, 20.0, 0.99)
    assert (call["padding_mask_crop"], call["height"], call["width"]) == (2, 1024, 1024)
    assert DiffusionDefectAugmenter().model == "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"


def test_provenance_says_how_an_image_was_made(tiny_folder, surfaces, calls):
    entry = augmenter_of(tiny_folder(), prompts="a scratch").fit(surfaces[0][:2]).sample(1).provenance[0]
    assert entry["model"] == str(tiny_folder())
    assert entry["region"] in ("PerlinRegions", "RidgedRegions")
    expected = {"prompt": "a scratch", "num_inference_steps": 2, "guidance_scale": 20.0, "strength": 0.99, "height": 64}
    assert expected.items() <= entry.items()
    assert entry["negative_prompt"] == "smooth, plain, black, dark, shadow"
    assert json.loads(json.dumps(entry)) == entry
    entry = augmenter_of(WhitePainter).fit(surfaces[0][:2]).sample(1).provenance[0]
    assert entry["model"] == "test_inpainting.WhitePainter"


def test_real_masks_are_the_regions_where_fit_gets_some(surfaces, calls):
    X, y, masks = surfaces
    provenance = augmenter_of(WhitePainter).fit(X, y, masks=masks).sample(3).provenance
    assert {entry["region"] for entry in provenance} == {MaskRegions.__name__}
    assert all(y[entry["source"]] == 0 for entry in provenance)


# The pipeline: loaded once, not stored in estimators


n_built = []


def build_counted(folder):
    from diffusers import AutoPipelineForInpainting

    n_built.append(folder)
    return AutoPipelineForInpainting.from_pretrained(folder)


class FakePipelineOfATest:
    components = {}

    def __call__(self, image, mask_image):
        raise AssertionError


@pytest.mark.slow
def test_a_function_that_returns_the_pipeline_gives_what_its_folder_gives(tiny_folder, surfaces):
    X = surfaces[0][:2]
    expected = augmenter_of(tiny_folder()).fit(X).sample(2)
    samples = augmenter_of(partial(build_counted, str(tiny_folder()))).fit(X).sample(2)
    assert_same_samples(samples, expected, provenance=False)


@pytest.mark.slow
def test_a_search_over_an_augmenter_loads_one_pipeline_and_copies_none(tiny_folder, surfaces, cells):
    X, y, _ = surfaces
    n_built.clear()
    load_pipeline.cache_clear()
    augmenter = augmenter_of(partial(build_counted, str(tiny_folder())), regions=RectangleRegions())
    pipeline = make_pipeline(augmenter, ExDDDetector(cells))
    search = GridSearchCV(pipeline, {"diffusiondefectaugmenter__n_synthetic": [0, 2]}, cv=2, error_score="raise")
    search.fit(X, y)
    assert len(n_built) == 1
    assert search.best_estimator_.predict(X).shape == y.shape


@pytest.mark.slow
def test_copies_and_pickles_hold_no_pipeline(tiny_folder, surfaces, tmp_path):
    X = surfaces[0][:2]
    augmenter = augmenter_of(tiny_folder()).fit(X)
    expected = augmenter.sample(1)
    assert len(pickle.dumps(augmenter)) < 100_000
    joblib.dump(augmenter, tmp_path / "augmenter.joblib")
    assert_same_samples(joblib.load(tmp_path / "augmenter.joblib").sample(1), expected)
    assert_same_samples(pickle.loads(pickle.dumps(augmenter)).sample(1), expected)
    assert_same_samples(clone(augmenter).fit(X).sample(1), expected)


@pytest.mark.slow
def test_a_changed_folder_is_loaded_anew(own_sdxl, tiny_folder, surfaces):
    X = surfaces[0][:2]
    before = augmenter_of(own_sdxl).fit(X).sample(1)
    shutil.copytree(tiny_folder(seed=1), own_sdxl, dirs_exist_ok=True)
    after = augmenter_of(own_sdxl).fit(X).sample(1)
    assert not np.array_equal(before.images, after.images)
    assert_same_samples(augmenter_of(tiny_folder(seed=1)).fit(X).sample(1), after, provenance=False)


def test_the_safety_checker_of_a_folder_is_not_loaded(tiny_folder, tmp_path, surfaces):
    folder = Path(shutil.copytree(tiny_folder("sd"), tmp_path / "checked"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    X = surfaces[0][:2]
    unchecked = augmenter_of(tiny_folder("sd")).fit(X).sample(1)
    assert_same_samples(augmenter_of(folder).fit(X).sample(1), unchecked, provenance=False)


def test_a_text_to_image_folder_is_inpainted_with_too(own_sdxl, surfaces):
    index = json.loads((own_sdxl / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionXLPipeline"
    (own_sdxl / "model_index.json").write_text(json.dumps(index))
    assert augmenter_of(own_sdxl).fit(surfaces[0][:2]).sample(1).masks.any()


def test_offloading_is_left_to_the_pipeline(monkeypatch):
    offloaded = []
    monkeypatch.setattr(
        WhitePainter, "enable_model_cpu_offload", lambda self, device: offloaded.append(device), raising=False
    )
    recipe = PipelineRecipe(WhitePainter, None, None, None, torch.device("cuda"), False, True)
    assert isinstance(load_pipeline(recipe), WhitePainter)
    assert offloaded == [torch.device("cuda")]


def test_bars_are_shown_only_when_asked_for(tiny_folder, surfaces, capfd):
    load_pipeline.cache_clear()
    augmenter = augmenter_of(tiny_folder()).fit(surfaces[0][:2])
    augmenter.sample(1)
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
    augmenter.set_params(verbose=2).sample(1)
    assert "it/s]" in capfd.readouterr().err


# The cache


def test_finished_images_are_not_painted_again(surfaces, calls, tmp_path):
    X = surfaces[0][:2]
    first = augmenter_of(WhitePainter, memory=tmp_path).fit(X).sample(2)
    n_calls = len(calls)
    other_device = augmenter_of(WhitePainter, memory=tmp_path, attention_slicing=True)
    assert_same_samples(other_device.fit(X).sample(2), first)
    assert len(calls) == n_calls
    augmenter_of(WhitePainter, memory=tmp_path, guidance_scale=7).fit(X).sample(1)
    assert len(calls) > n_calls


def test_a_folder_s_key_is_its_content_wherever_it_lies(tiny_folder, tmp_path):
    key = model_key(tiny_folder())
    moved = Path(shutil.copytree(tiny_folder(), tmp_path / "moved"))
    assert model_key(str(moved)) == key
    (moved / "README.md").write_text("not part of the model")
    assert model_key(moved) == key
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_key(moved) != key
    assert model_key(tiny_folder(seed=1)) != key
    assert model_key("owner/name") == "owner/name"


def test_a_function_s_key_is_its_code_and_its_arguments():
    one, same, other = (model_key(partial(build_counted, name)) for name in "aab")
    assert one == same
    assert one != other
    assert model_key(build_counted) not in (one, other)


def test_a_lambda_is_known_by_what_it_does():
    key, same, other = (
        model_key(model) for model in (lambda: WhitePainter(), lambda: WhitePainter(), lambda: Modest())
    )
    assert key == same
    assert key != other


# LoRA


def write_lora(folder, scale):
    """Write LoRA weights for one layer of the tiny networks and return their folder."""
    from safetensors.torch import save_file

    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
    folder.mkdir()
    weights = {f"{layer}.lora_A.weight": torch.ones(2, 32) * scale, f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(weights, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.mark.slow
def test_lora_weights_change_what_is_painted(tiny_folder, surfaces, tmp_path):
    pytest.importorskip("peft")
    X = surfaces[0][:2]
    folder = write_lora(tmp_path / "lora", 1.0)
    plain = augmenter_of(tiny_folder()).fit(X).sample(1)
    changed = augmenter_of(tiny_folder(), lora=folder).fit(X).sample(1)
    assert not np.array_equal(plain.images, changed.images)
    file = folder / "pytorch_lora_weights.safetensors"
    assert_same_samples(augmenter_of(tiny_folder(), lora=str(file)).fit(X).sample(1), changed)
    assert_same_samples(augmenter_of(tiny_folder()).fit(X).sample(1), plain)
    file.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"^lora: expected .* that fit StableDiffusionXLInpaintPipeline in "):
        augmenter_of(tiny_folder(), lora=folder).fit(X).sample(1)


def test_lora_says_what_to_install(surfaces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    augmenter = augmenter_of(WhitePainter, lora=write_lora(tmp_path / "lora", 2.0)).fit(surfaces[0][:2])
    with pytest.raises(ImportError, match=r"^lora needs peft: pip install peft\.$"):
        augmenter.sample(1)


def test_lora_weights_belong_to_the_key(tmp_path, surfaces):
    keys = [augmenter_of(WhitePainter)._key_of("lora", write_lora(tmp_path / str(i), i)) for i in range(2)]
    assert keys[0] != keys[1]
    assert augmenter_of(WhitePainter)._key_of("lora", None) is None


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_inference_steps": 2, "strength": 0.3},
            r"^n_inference_steps: expected n_inference_steps \* strength of at least 1, got 2 \* 0.3 = 0.6, which "
            "denoises nothing. Raise n_inference_steps to at least 4, or raise the strength",
        ),
        ({"working_size": 100}, r"^working_size: expected a multiple of 8, got 100. Set it to 104\.$"),
        ({"prompts": []}, r"^prompts: expected one or more non-empty texts, got \[\]"),
        ({"prompts": ["pit", " "]}, r"^prompts: expected one or more non-empty texts, got \['pit', ' '\]"),
        ({"prompts": ["pit", 3]}, "^prompts: expected one or more non-empty texts"),
        ({"prompt_shares": [1, 2, 3]}, "^prompt_shares: expected 2 numbers, one for each prompt, got"),
        ({"prompt_shares": [1, -1]}, "^prompt_shares: expected numbers >= 0, at least one of them > 0, got"),
        ({"prompt_shares": [0, 0]}, "^prompt_shares: expected numbers >= 0, at least one of them > 0, got"),
        ({"prompt_shares": [1, np.nan]}, "^prompt_shares: expected numbers >= 0, at least one of them > 0, got"),
        ({"cpu_offload": True}, r"^cpu_offload: expected a GPU as device, got the CPU\. Set cpu_offload=False\.$"),
        ({"lora": "nowhere"}, "^lora: expected a folder or a file with LoRA weights, got 'nowhere'"),
        ({"n_inference_steps": 0}, "The 'n_inference_steps' parameter of DiffusionDefectAugmenter must be"),
        ({"strength": 0}, "The 'strength' parameter of DiffusionDefectAugmenter must be"),
        ({"strength": 1.1}, "The 'strength' parameter of DiffusionDefectAugmenter must be"),
        ({"guidance_scale": -1}, "The 'guidance_scale' parameter of DiffusionDefectAugmenter must be"),
        ({"padding_mask_crop": -1}, "The 'padding_mask_crop' parameter of DiffusionDefectAugmenter must be"),
        ({"padding_mask_crop": 2.5}, "The 'padding_mask_crop' parameter of DiffusionDefectAugmenter must be"),
        ({"dtype": "half"}, "The 'dtype' parameter of DiffusionDefectAugmenter must be"),
        ({"model": "nowhere"}, "^model: expected an id 'owner/name' on the hub, or a folder .* got 'nowhere', which"),
        ({"model": "./not/here"}, "^model: expected an id 'owner/name' on the hub, or a folder"),
        ({"model": Path("owner/name")}, "^model: expected an id 'owner/name' on the hub, or a folder"),
        ({"model": "owner/name.safetensors"}, "^model: expected an id 'owner/name' on the hub, or a folder"),
        ({"model": 7}, "^model: expected the id of a pipeline on the hub, a folder, or a function .*, got int"),
        (
            {"model": FakePipelineOfATest()},
            "^model: expected .* got FakePipelineOfATest. Wrap a pipeline in a function that makes it",
        ),
        ({"model": torch.nn.Linear(1, 1)}, "^model: expected .* got Linear. Wrap a pipeline in a function"),
    ],
)
def test_fit_refuses_what_no_pipeline_could_do(options, message, surfaces):
    augmenter = augmenter_of(**{"model": "owner/name", **options})
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        augmenter.fit(surfaces[0][:2])


def test_fit_says_what_is_wrong_with_a_folder(own_sdxl, surfaces):
    X = surfaces[0][:2]
    with pytest.raises(
        ValueError, match=r"^model: expected a folder .*, with model_index.json in it, got .* without model_index"
    ):
        augmenter_of(own_sdxl / "unet").fit(X)
    weights = own_sdxl / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match=r"^model: expected a folder .*, got the file .*from_single_file\(file\)"):
        augmenter_of(str(weights)).fit(X)


def test_sample_says_what_is_wrong_with_a_pipeline(own_sdxl, surfaces):
    X = surfaces[0][:2]
    with pytest.raises(ValueError, match=r"^variant: expected weights files of variant 'fp16' .* Set variant=None\.$"):
        augmenter_of(own_sdxl, variant="fp16").fit(X).sample(1)
    weights = own_sdxl / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"torn")
    with pytest.raises(OSError, match=r"^model: expected a whole pipeline in .*, got an error: .*save_pretrained"):
        augmenter_of(own_sdxl).fit(X).sample(1)
    index = json.loads((own_sdxl / "model_index.json").read_text())
    index["_class_name"] = "DDPMPipeline"
    (own_sdxl / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"^model: expected .* that diffusers can use for inpainting, .*DDPMPipeline"):
        augmenter_of(own_sdxl).fit(X).sample(1)
    with pytest.raises(TypeError, match=r"^model: expected a function that returns an inpainting .* returns dict"):
        augmenter_of(dict).fit(X).sample(1)


def test_a_model_that_cannot_be_downloaded_says_what_works_instead(surfaces, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    augmenter = augmenter_of("sklearn-exdd/not-there").fit(surfaces[0][:2])
    with pytest.raises(OSError, match=r"not a folder .* cannot be downloaded .*model=folder.*PerlinDefectAugmenter"):
        augmenter.sample(1)


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_missing_packages_are_named_with_their_extra(package, surfaces, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    augmenter = augmenter_of("sklearn-exdd/not-there").fit(surfaces[0][:2])
    with pytest.raises(ImportError, match=r'^DiffusionDefectAugmenter needs .*"sklearn_exdd\[diffusion\]"\.$'):
        augmenter.sample(1)


def test_offloading_without_accelerate_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    recipe = PipelineRecipe(WhitePainter, None, None, None, torch.device("cuda:1"), False, True)
    with pytest.raises(ImportError, match=r"^cpu_offload needs accelerate: pip install"):
        load_pipeline(recipe)


def test_out_of_memory_says_what_to_lower(surfaces):
    augmenter = augmenter_of(Exhausted, working_size=512, dtype="float32").fit(surfaces[0][:2])
    with pytest.raises(
        MemoryError, match=r"^test_inpainting.Exhausted: expected enough memory on cpu for 512 x 512"
    ) as caught:
        augmenter.sample(1)
    assert str(caught.value).endswith(
        "Set working_size to less than 512, or dtype to 'float16', or attention_slicing to True, "
        "or cpu_offload to True."
    )


def test_arguments_that_a_pipeline_does_not_take_are_left_out_with_a_warning(surfaces):
    augmenter = augmenter_of(Modest).fit(surfaces[0][:2])
    with pytest.warns(RuntimeWarning, match="^Modest does not accept guidance_scale, negative_prompt, .* left out"):
        assert augmenter.sample(1).masks.any()


def test_a_blackened_image_is_drawn_again(surfaces):
    augmenter = augmenter_of(Censored).fit(surfaces[0][:2])
    with pytest.warns(RuntimeWarning, match="^Censored made a blank image .* is drawn again"):
        synthetic = augmenter.sample(1)
    assert synthetic.provenance[0]["n_redraws"] >= 1
    assert (synthetic.images[synthetic.masks] == 255).all()


def build_overflowing(folder):
    """Return a pipeline whose decoder returns NaN, as may happen in half precision."""
    pipeline = build_counted(folder)
    torch.nn.init.constant_(pipeline.vae.decoder.conv_out.bias, np.nan)
    return pipeline


def test_nan_is_reported_and_never_kept(tiny_folder, surfaces):
    augmenter = augmenter_of(partial(build_overflowing, str(tiny_folder())), max_redraws=1).fit(surfaces[0][:2])
    with (
        pytest.warns(RuntimeWarning, match=r"made a blank image \(NaN, .*set dtype='float32'"),
        pytest.raises(ValueError, match="expected a visible change"),
    ):
        augmenter.sample(1)


# With a detector


@pytest.mark.slow
def test_a_tiny_sdxl_in_a_pipeline_fills_the_detector_s_defect_bank(tiny_folder, surfaces, cells):
    X, y, _ = surfaces
    normal = X[y == 0]
    augmenter = augmenter_of(tiny_folder(), n_synthetic=4, prompts="a deep scratch")
    pipeline = make_pipeline(augmenter, ExDDDetector(cells, random_state=0)).fit(normal)
    detector = pipeline[-1]
    assert len(detector.defect_bank_) > 0
    assert {entry["prompt"] for entry in detector.synthetic_.provenance} == {"a deep scratch"}
    assert pipeline.decision_function(X).shape == (len(X),)
    assert len(pipeline[:-1].transform(X)) == len(X)
