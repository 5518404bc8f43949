"""Functions that check a pipeline of diffusers, load it once per process, and silence its warnings."""

import hashlib
import inspect
import logging
import os
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import joblib

from sklearn_exdd._code import fingerprint_of_code

_INDEX = "model_index.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(?<!\.safetensors)(?<!\.ckpt)")
_MODEL_FILES = {".json", ".txt", ".model", ".safetensors", ".bin"}
_SETTINGS = {"negative_prompt", "num_inference_steps", "guidance_scale", "strength", "padding_mask_crop"}
_INSTALL = 'pip install "sklearn_exdd[diffusion]"'


def check_model(model):
    """Check that the parameter `model` of an augmenter can be a pipeline, without loading anything.

    Parameters
    ----------
    model : object
        Value of the parameter.
    """
    if not isinstance(model, (str, os.PathLike)):
        if callable(model) and not hasattr(model, "components") and not hasattr(model, "parameters"):
            return
        raise TypeError(
            "model: expected the id of a pipeline on the hub, a folder, or a function that returns a pipeline, got "
            f"{type(model).__name__}. Wrap a pipeline in a function that makes it, or clone would copy it."
        )
    path = Path(model)
    if path.is_file():
        raise ValueError(
            f"model: expected a folder with {_INDEX} in it, got the file {str(model)!r}. Convert the file to a "
            "folder: StableDiffusionXLInpaintPipeline.from_single_file(file).save_pretrained(folder)."
        )
    if path.is_dir():
        if not (path / _INDEX).is_file():
            raise ValueError(
                f"model: expected a folder that pipeline.save_pretrained(folder) wrote, with {_INDEX} in it, got "
                f"{str(model)!r} without {_INDEX}. Pass the folder that contains this file."
            )
    elif not (isinstance(model, str) and _HUB_ID.fullmatch(model)):
        raise FileNotFoundError(
            f"model: expected an id 'owner/name' on the hub, or a folder with {_INDEX} in it, got {str(model)!r}, "
            "which is neither."
        )


def model_name(model):
    """Return the name that provenance and messages give to a model."""
    if isinstance(model, (str, os.PathLike)):
        return str(model)
    named = model if hasattr(model, "__qualname__") else type(model)
    return f"{named.__module__}.{named.__qualname__}"


def model_key(model):
    """Return a machine-independent cache key of a model: its id, a checksum of its files, or a checksum of its code."""
    if isinstance(model, (str, os.PathLike)):
        return _content(Path(model)) if Path(model).exists() else str(model)
    return fingerprint_of_code(model)


@dataclass(frozen=True)
class PipelineRecipe:
    """Settings that a pipeline is loaded with. A process loads pipelines with equal settings only once.

    Parameters
    ----------
    model : str, path or callable
    variant : str or None
    lora : str, path or None
    dtype : str or None
        Data type of the networks. None keeps the data type of a pipeline that a function returns.
    device : torch.device
    attention_slicing, cpu_offload : bool
    """

    model: object = field(compare=False)
    variant: str
    lora: object = field(compare=False)
    dtype: str
    device: object
    attention_slicing: bool
    cpu_offload: bool
    state: object = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "state", (_state(self.model), None if self.lora is None else _state(self.lora)))


@lru_cache(maxsize=2)
def load_pipeline(recipe):
    """Load the pipeline of a recipe onto its device.

    Parameters
    ----------
    recipe : PipelineRecipe

    Returns
    -------
    pipeline : DiffusionPipeline
    """
    import torch

    # Check the packages before gigabytes are downloaded.
    if recipe.lora is not None and find_spec("peft") is None:
        raise ImportError("lora needs peft: pip install peft.")
    if recipe.cpu_offload and find_spec("accelerate") is None:
        raise ImportError(f"cpu_offload needs accelerate: {_INSTALL}.")
    pipeline = recipe.model() if callable(recipe.model) else _from_pretrained(recipe)
    if not {"image", "mask_image"} <= accepted_arguments(pipeline):
        raise TypeError(
            "model: expected a function that returns an inpainting pipeline of diffusers, got a function that returns "
            f"{type(pipeline).__name__}, whose call does not accept image and mask_image."
        )
    left_out = sorted(_SETTINGS - accepted_arguments(pipeline))
    if left_out:
        warnings.warn(
            f"{type(pipeline).__name__} does not accept {', '.join(left_out)}. These arguments are left out.",
            RuntimeWarning,
            stacklevel=2,
        )
    if recipe.lora is not None:
        _add_lora(pipeline, recipe.lora)
    if callable(recipe.model) and recipe.dtype is not None:
        pipeline.to(getattr(torch, recipe.dtype))
    if recipe.attention_slicing:
        pipeline.enable_attention_slicing()
    if not recipe.cpu_offload:
        return pipeline.to(recipe.device)
    pipeline.enable_model_cpu_offload(device=recipe.device)
    return pipeline


def accepted_arguments(pipeline):
    """Return the names of the arguments that a pipeline's call accepts."""
    return set(inspect.signature(pipeline.__call__).parameters) if callable(pipeline) else set()


@contextmanager
def quiet(verbose):
    """Silence warnings that diffusers itself causes. Unless verbose > 1, also hide progress bars."""
    bars = []
    if verbose <= 1 and find_spec("diffusers") and find_spec("transformers"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        bars = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    # SDXL casts its decoder twice per image. Each time, diffusers warns that models should not be loaded by a cast.
    chatter = logging.getLogger("diffusers.models.modeling_utils")
    level = chatter.level
    with warnings.catch_warnings():
        # diffusers 0.42 itself causes two warnings: it makes arrays of tensors, and it passes a deprecated argument.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument is deprecated", UserWarning)
        try:
            chatter.setLevel(logging.ERROR)
            for module in bars:
                module.disable_progress_bar()
            yield
        finally:
            chatter.setLevel(level)
            for module in bars:
                module.enable_progress_bar()


def _from_pretrained(recipe):
    import torch

    name, variant = str(recipe.model), recipe.variant
    try:
        import transformers  # noqa: F401 (without transformers, diffusers can be imported but fails late)
        from diffusers import AutoPipelineForInpainting, DiffusionPipeline
    except ImportError as error:
        raise ImportError(f"DiffusionDefectAugmenter needs diffusers and transformers: {_INSTALL}.") from error
    options = {"dtype": getattr(torch, recipe.dtype), "variant": variant}
    try:
        if "safety_checker" in DiffusionPipeline.load_config(name):
            options |= {"safety_checker": None, "requires_safety_checker": False}
        return AutoPipelineForInpainting.from_pretrained(name, **options)
    except OSError as error:
        if Path(name).is_dir():
            raise OSError(
                f"model: expected a whole pipeline in {name!r}, got an error: {error} Save the pipeline there again "
                "with pipeline.save_pretrained(folder)."
            ) from error
        raise OSError(
            f"model: expected a folder or an id on the hub, got {name!r}, which is not a folder on this machine and "
            f"cannot be downloaded ({error}). On a machine that can reach the hub, run "
            f"AutoPipelineForInpainting.from_pretrained({name!r}).save_pretrained(folder), copy that folder here and "
            "pass model=folder. The augmenters PerlinDefectAugmenter, CutPasteDefectAugmenter and "
            "DDPMDefectAugmenter need no download."
        ) from error
    except ValueError as error:
        if variant is not None and "variant" in str(error):
            raise ValueError(
                f"variant: expected weights files of variant {variant!r} in {name!r}, found none. Set variant=None."
            ) from error
        raise ValueError(
            f"model: expected {name!r} to be a pipeline that diffusers can use for inpainting, got an error: {error}"
        ) from error


def _add_lora(pipeline, lora):
    try:
        pipeline.load_lora_weights(os.fspath(lora))
    except (AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"lora: expected LoRA weights that fit {type(pipeline).__name__} in {str(lora)!r}, got an error: {error}"
        ) from error


def _state(model):
    """Return a token that identifies a model within a process. Computing the token is cheap."""
    if isinstance(model, (str, os.PathLike)):
        return str(model), tuple(_files(Path(model)))
    # A function is its own token, because copying a function returns the same function. Copying another callable makes
    # a new object with the same behaviour. Its token is therefore a fingerprint of its code.
    return model if isinstance(model, FunctionType) else fingerprint_of_code(model)


def _content(path):
    """Return a checksum of a model's files and their names within the folder. The path of the folder has no effect."""
    return joblib.hash([(file.relative_to(path).as_posix(), _sha256(file, *stat)) for file, *stat in _files(path)])


def _files(path):
    """Return the path, size and modification time of each file that a model can be read from."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _MODEL_FILES)
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@lru_cache
def _sha256(path, *stat):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
