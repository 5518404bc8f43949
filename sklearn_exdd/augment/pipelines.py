"""Pipelines of diffusers: which one is meant, loaded once in a process, without noise."""

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
    """Refuse what cannot be a pipeline, before anything is loaded.

    Parameters
    ----------
    model : object
        What a user passed as model.
    """
    if not isinstance(model, (str, os.PathLike)):
        if callable(model) and not hasattr(model, "components") and not hasattr(model, "parameters"):
            return
        raise TypeError(
            "model: expected the id of a pipeline on the hub, a folder, or a function that returns a pipeline, got "
            f"{type(model).__name__}. Wrap a pipeline in a function that makes it: clone would copy the pipeline."
        )
    path = Path(model)
    if path.is_file():
        raise ValueError(
            f"model: expected a folder with {_INDEX} in it, got the file {str(model)!r}. Turn it into such a folder "
            "once: StableDiffusionXLInpaintPipeline.from_single_file(file).save_pretrained(folder)."
        )
    if path.is_dir():
        if not (path / _INDEX).is_file():
            raise ValueError(
                f"model: expected a folder that pipeline.save_pretrained(folder) wrote, with {_INDEX} in it, got "
                f"{str(model)!r} without it. Give the folder that holds it."
            )
    elif not (isinstance(model, str) and _HUB_ID.fullmatch(model)):
        raise FileNotFoundError(
            f"model: expected an id 'owner/name' on the hub, or a folder with {_INDEX} in it, found no {str(model)!r}."
        )


def model_name(model):
    """How provenance and messages call a model."""
    if isinstance(model, (str, os.PathLike)):
        return str(model)
    named = model if hasattr(model, "__qualname__") else type(model)
    return f"{named.__module__}.{named.__qualname__}"


def model_key(model):
    """Return a machine-independent cache key of a model: its id, a checksum of its files, or one of its code."""
    if isinstance(model, (str, os.PathLike)):
        return _content(Path(model)) if Path(model).exists() else str(model)
    return fingerprint_of_code(model)


@dataclass(frozen=True)
class PipelineRecipe:
    """How to make a pipeline; equal where it would be the same one, so that a process holds it once.

    Parameters
    ----------
    model : str, path or callable
    variant : str or None
    lora : str, path or None
    dtype : str or None
        None keeps what a function's pipeline has.
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
    """The pipeline of a recipe, on its device.

    Parameters
    ----------
    recipe : PipelineRecipe

    Returns
    -------
    pipeline : DiffusionPipeline
    """
    import torch

    # Before gigabytes are downloaded.
    if recipe.lora is not None and find_spec("peft") is None:
        raise ImportError("lora needs peft: pip install peft.")
    if recipe.cpu_offload and find_spec("accelerate") is None:
        raise ImportError(f"cpu_offload needs accelerate: {_INSTALL}.")
    pipeline = recipe.model() if callable(recipe.model) else _from_pretrained(recipe)
    if not {"image", "mask_image"} <= accepted_arguments(pipeline):
        raise TypeError(
            "model: expected a function that returns an inpainting pipeline of diffusers, got "
            f"{type(pipeline).__name__} from it, whose call does not take image and mask_image."
        )
    left_out = sorted(_SETTINGS - accepted_arguments(pipeline))
    if left_out:
        warnings.warn(
            f"{type(pipeline).__name__} does not take {', '.join(left_out)}: left out.", RuntimeWarning, stacklevel=2
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
    """Names of the arguments that a pipeline's call has."""
    return set(inspect.signature(pipeline.__call__).parameters) if callable(pipeline) else set()


@contextmanager
def quiet(verbose):
    """Keep off what is not the user's doing: warnings of diffusers' own making, and bars unless verbose > 1."""
    bars = []
    if verbose <= 1 and find_spec("diffusers") and find_spec("transformers"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        bars = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    # SDXL casts its decoder twice an image, and is told each time that this is not how to load one.
    chatter = logging.getLogger("diffusers.models.modeling_utils")
    level = chatter.level
    with warnings.catch_warnings():
        # diffusers 0.42 itself makes arrays of tensors, and passes the hub an argument that it no longer takes.
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
        import transformers  # noqa: F401 (without it diffusers is imported all the same, and fails late)
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
                f"model: expected a whole pipeline in {name!r}, got an error: {error} Save it there again with "
                "pipeline.save_pretrained(folder)."
            ) from error
        raise OSError(
            f"model: {name!r} is no folder here and cannot be downloaded ({error}): where the hub can be reached, run "
            f"AutoPipelineForInpainting.from_pretrained({name!r}).save_pretrained(folder), bring that folder here and "
            "give it as model=folder; PerlinDefectAugmenter, CutPasteDefectAugmenter and DDPMDefectAugmenter need no "
            "download."
        ) from error
    except ValueError as error:
        if variant is not None and "variant" in str(error):
            raise ValueError(
                f"variant: expected weights files of variant {variant!r} in {name!r}, found none. Set variant=None."
            ) from error
        raise ValueError(
            f"model: expected a pipeline that diffusers can inpaint with in {name!r}, got an error: {error}"
        ) from error


def _add_lora(pipeline, lora):
    try:
        pipeline.load_lora_weights(os.fspath(lora))
    except (AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"lora: expected LoRA weights that fit {type(pipeline).__name__} in {str(lora)!r}, got an error: {error}"
        ) from error


def _state(model):
    """What tells, cheaply, that a model is still the same within a process."""
    if isinstance(model, (str, os.PathLike)):
        return str(model), tuple(_files(Path(model)))
    # A copy of a function is the function itself; a copy of another callable is a new object that does the same.
    return model if isinstance(model, FunctionType) else fingerprint_of_code(model)


def _content(path):
    """SHA-256 of a model's files and their names within it: the same wherever the folder lies."""
    return joblib.hash([(file.relative_to(path).as_posix(), _sha256(file, *stat)) for file, *stat in _files(path)])


def _files(path):
    """Path, size and time of each file that a model can be read from."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _MODEL_FILES)
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@lru_cache
def _sha256(path, *stat):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
