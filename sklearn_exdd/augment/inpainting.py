"""Diffusion inpainting: a prompt and a region become a defect (ExDD, DIAG)."""

import os
import warnings
from numbers import Integral, Real
from pathlib import Path
from threading import Lock

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd._params import finite_numbers
from sklearn_exdd._torch import check_device, resolve_device
from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.pipelines import (
    PipelineRecipe,
    accepted_arguments,
    check_model,
    load_pipeline,
    model_key,
    model_name,
    quiet,
)
from sklearn_exdd.augment.regions import PerlinRegions, RidgedRegions

_MULTIPLE = 8  # of which the sides of what a pipeline paints have to be
_BUSY = Lock()  # a scheduler counts its steps: one image at a time, under threads too


class DiffusionDefectAugmenter(BaseDefectAugmenter):
    """Paint defects by any inpainting pipeline of diffusers (extra ``diffusion``), as ExDD and DIAG do.

    Parameters
    ----------
    model : str, path or callable, default="diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
        Id of a pipeline on the hub, downloaded when the first image is made (DIAG's by default: about 7 GB as
        ``variant="fp16"``, twice that otherwise); or folder that ``pipeline.save_pretrained(folder)`` wrote; or
        function without arguments that makes and returns a pipeline, never the pipeline itself, which ``clone`` would
        copy.
    prompts : str or list of str, default=("white marks on the wall", "copper metal scratches")
        What the defects look like; one is drawn for each image (DIAG's by default).
    prompt_shares : array-like of shape (n_prompts,), default=None
        How often each of them is drawn, in any unit; None draws all alike.
    negative_prompt : str or None, default="smooth, plain, black, dark, shadow"
        What they do not look like.
    n_inference_steps : int, default=30
        Denoising steps, of which ``int(n_inference_steps * strength)`` are run.
    guidance_scale : float, default=20.0
        How closely the prompt is followed; 1 or less switches this, and the negative prompt, off.
    strength : float, default=0.99
        In (0, 1]: how much of the source under the region is forgotten.
    padding_mask_crop : int or None, default=2
        Paint only the region's bounding box, so many pixels wider on each side, enlarged to the working size: small
        defects get all the detail that the network has. None shows it the whole image.
    working_size : int or None, default=1024
        Images are squashed to a square with so many pixels a side, a multiple of 8, and what is painted is brought
        back: 1024 suits SDXL, 512 Stable Diffusion 1 and 2. None keeps each image's size, both sides rounded up to
        multiples of 8.
    device : str, default=None
        For example "cpu" or "cuda:0"; None takes CUDA where there is some.
    dtype : {"auto", "float16", "bfloat16", "float32"}, default="auto"
        In which the networks compute. "auto" is float16 on CUDA and float32 elsewhere, and leaves what a function
        returned as it is.
    attention_slicing : bool, default=False
        For small GPUs: compute attention in slices.
    cpu_offload : bool, default=False
        For small GPUs: keep only the network that is at work on the GPU (needs accelerate).
    variant : str, default=None
        Of the weights files, for example "fp16", where the model has such.
    lora : path, default=None
        Folder or file with LoRA weights that are put on top (needs peft).
    n_synthetic : int, default=100
    regions : str, region drawer or list of them, default="auto"
        "auto" without real masks: :class:`PerlinRegions` or :class:`RidgedRegions`.
    foreground : "otsu", callable or None, default=None
    min_contrast : float, default=1.0
    max_redraws : int, default=10
    memory : str, path-like or joblib.Memory, default=None
        A local folder is identified by the content of its files, a model on the hub by its id, and a function by its
        code: empty `memory` if the function loads other weights from the same place.
    pos_label : object, default=None
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0
        Above 1 the pipeline's own progress bars are shown too.
        These are explained in :class:`BaseDefectAugmenter`.

    Attributes
    ----------
    sources_ : ndarray of shape (n_normal,)
        Indices of the normal images in the X of fit.
    seed_ : int
        Seed of ``sample()``.

    Notes
    -----
    Nothing is trained [1]_ [2]_. A pipeline is loaded once in a process, when the first image is made, and is part of
    neither the estimator nor its pickle. Arguments that a pipeline does not know are left out, with a warning. Grey
    images are painted as RGB and turned back; what is painted has 8 bits a channel. A safety checker is not loaded:
    it would blacken harmless pictures of metal. One that a function's pipeline has is left to it, and what it blackens
    is drawn again.

    Networks see the region at an eighth of the working size: without `padding_mask_crop`, thin ones get lost.

    References
    ----------
    .. [1] F. Girella et al., "Leveraging latent diffusion models for training-free in-distribution data augmentation
       for surface defect detection" (DIAG), arXiv:2407.03961, CBMI 2024.
    .. [2] "ExDD: Explicit dual distribution learning for surface defect detection via diffusion synthesis",
       arXiv:2507.15335, 2025.

    Examples
    --------
    ``fit`` checks the settings and loads nothing yet; ``sample`` does.

    >>> from sklearn_exdd.augment import DiffusionDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(8, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> augmenter = DiffusionDefectAugmenter(prompts=["deep scratch", "rust stain"], prompt_shares=[3, 1]).fit(X)
    >>> synthetic = augmenter.sample(20)  # doctest: +SKIP
    """

    _parameter_constraints = {
        **BaseDefectAugmenter._parameter_constraints,
        "model": "no_validation",
        "prompts": [str, list, tuple],
        "prompt_shares": ["array-like", None],
        "negative_prompt": [str, None],
        "n_inference_steps": [Interval(Integral, 1, None, closed="left")],
        "guidance_scale": [Interval(Real, 0, None, closed="left")],
        "strength": [Interval(Real, 0, 1, closed="right")],
        "padding_mask_crop": [Interval(Integral, 0, None, closed="left"), None],
        "working_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float16", "bfloat16", "float32"})],
        "attention_slicing": ["boolean"],
        "cpu_offload": ["boolean"],
        "variant": [str, None],
        "lora": [str, os.PathLike, None],
    }

    _not_in_key = ("device", "attention_slicing", "cpu_offload")
    _packages = ("diffusers", "transformers")

    def __init__(
        self,
        model="diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        *,
        prompts=("white marks on the wall", "copper metal scratches"),
        prompt_shares=None,
        negative_prompt="smooth, plain, black, dark, shadow",
        n_inference_steps=30,
        guidance_scale=20.0,
        strength=0.99,
        padding_mask_crop=2,
        working_size=1024,
        device=None,
        dtype="auto",
        attention_slicing=False,
        cpu_offload=False,
        variant=None,
        lora=None,
        n_synthetic=100,
        regions="auto",
        foreground=None,
        min_contrast=1.0,
        max_redraws=10,
        memory=None,
        pos_label=None,
        random_state=None,
        verbose=0,
    ):
        self.model = model
        self.prompts = prompts
        self.prompt_shares = prompt_shares
        self.negative_prompt = negative_prompt
        self.n_inference_steps = n_inference_steps
        self.guidance_scale = guidance_scale
        self.strength = strength
        self.padding_mask_crop = padding_mask_crop
        self.working_size = working_size
        self.device = device
        self.dtype = dtype
        self.attention_slicing = attention_slicing
        self.cpu_offload = cpu_offload
        self.variant = variant
        self.lora = lora
        self.n_synthetic = n_synthetic
        self.regions = regions
        self.foreground = foreground
        self.min_contrast = min_contrast
        self.max_redraws = max_redraws
        self.memory = memory
        self.pos_label = pos_label
        self.random_state = random_state
        self.verbose = verbose

    def _default_regions(self):
        return [PerlinRegions(), RidgedRegions()]

    def _check_params(self):
        super()._check_params()
        check_model(self.model)
        self._prompts()
        n_steps = self.n_inference_steps * self.strength
        if int(n_steps) < 1:
            raise ValueError(
                "n_inference_steps: expected n_inference_steps * strength of at least 1, got "
                f"{self.n_inference_steps} * {self.strength:g} = {n_steps:g}: nothing would be denoised. Raise "
                f"n_inference_steps to at least {int(np.ceil(1 / self.strength))}, or raise the strength."
            )
        if self.working_size is not None and self.working_size % _MULTIPLE:
            raise ValueError(
                f"working_size: expected a multiple of {_MULTIPLE}, got {self.working_size}. Take "
                f"{_rounded_up(self.working_size)}."
            )
        if self.lora is not None and not Path(self.lora).exists():
            raise FileNotFoundError(
                f"lora: expected a folder or a file with LoRA weights, found no {str(self.lora)!r}."
            )
        check_device(self.device)
        if self.cpu_offload and resolve_device(self.device).type == "cpu":
            raise ValueError("cpu_offload: expected a GPU to relieve, got the CPU as device. Set cpu_offload=False.")

    def _prompts(self):
        """The prompts, and how probable each of them is."""
        prompts = [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)
        if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise ValueError(f"prompts: expected one or more texts that are not empty, got {self.prompts!r}.")
        if self.prompt_shares is None:
            return prompts, np.full(len(prompts), 1 / len(prompts))
        shares = finite_numbers(self.prompt_shares)
        if shares is not None and len(shares) != len(prompts):
            raise ValueError(
                f"prompt_shares: expected {len(prompts)} numbers, one for each prompt, got {self.prompt_shares!r}."
            )
        if shares is None or (shares < 0).any() or not shares.any():
            raise ValueError(
                f"prompt_shares: expected numbers of at least 0, one of them above 0, got {self.prompt_shares!r}."
            )
        return prompts, shares / shares.sum()

    def _key_of(self, name, value):
        if name == "model" or (name == "lora" and value is not None):
            return model_key(value)
        return value

    def _paint(self, image, region, random_state):
        import torch

        prompts, shares = self._prompts()
        prompt = prompts[random_state.choice(len(prompts), p=shares)]
        seed = int(random_state.randint(2**31 - 1))
        height, width = image.shape[:2] if self.working_size is None else (self.working_size,) * 2
        settings = {
            "prompt": prompt,
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.n_inference_steps,
            "guidance_scale": float(self.guidance_scale),
            "strength": float(self.strength),
            "padding_mask_crop": self.padding_mask_crop,
            "height": _rounded_up(height),
            "width": _rounded_up(width),
        }
        device = resolve_device(self.device)
        try:
            with _BUSY, quiet(self.verbose):
                pipeline = load_pipeline(self._recipe(device))
                pipeline.set_progress_bar_config(disable=self.verbose <= 1)
                painted = _inpaint(pipeline, settings, image, region, seed)
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(self._remedies(device, settings)) from error
        if painted is None:
            warnings.warn(
                f"{type(pipeline).__name__} made a blank image (NaN, or blackened by a safety checker); it is drawn "
                "again. If this goes on, set dtype='float32', or make the pipeline without a safety checker.",
                RuntimeWarning,
                stacklevel=2,
            )
            painted = image
        return painted, {**settings, "model": model_name(self.model), "generator_seed": seed}

    def _recipe(self, device):
        dtype = self.dtype
        if dtype == "auto":
            dtype = None if callable(self.model) else "float16" if device.type == "cuda" else "float32"
        return PipelineRecipe(
            model=self.model,
            variant=self.variant,
            lora=self.lora,
            dtype=dtype,
            device=device,
            attention_slicing=self.attention_slicing,
            cpu_offload=self.cpu_offload,
        )

    def _remedies(self, device, settings):
        remedies = [f"working_size to less than {max(settings['height'], settings['width'])}"]
        if self.dtype == "float32":
            remedies.append("dtype to 'float16'")
        remedies += [f"{name} to True" for name in ("attention_slicing", "cpu_offload") if not getattr(self, name)]
        return (
            f"{model_name(self.model)}: expected enough memory on {device} for {settings['height']} x "
            f"{settings['width']} pixels, ran out of it. Set {', or '.join(remedies)}."
        )


def _rounded_up(size):
    return -(-size // _MULTIPLE) * _MULTIPLE


def _inpaint(pipeline, settings, image, region, seed):
    """The image with its region painted, float32, or None where the pipeline made nothing."""
    import torch
    from PIL import Image

    height, width, n_channels = image.shape
    size = settings["width"], settings["height"]
    rgb = np.repeat(np.rint(image * 255).astype(np.uint8), 3 // n_channels, axis=2)
    # All that the region touches, so that a thin one survives when the image becomes smaller.
    mask = np.asarray(Image.fromarray(region.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0
    arguments = {
        **{name: value for name, value in settings.items() if value is not None},
        "image": Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS),
        "mask_image": Image.fromarray(mask.astype(np.uint8) * 255),
        # On the CPU whatever the device, so that a seed means the same noise on all of them.
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pil",
    }
    known = accepted_arguments(pipeline)
    invalid = []
    with np.errstate(invalid="call", call=lambda *_: invalid.append(True)):  # NaN becomes 0 in 8 bits
        output = pipeline(**{name: value for name, value in arguments.items() if name in known})
    if invalid or any(getattr(output, "nsfw_content_detected", None) or ()):
        return None
    painted = output.images[0].convert("L" if n_channels == 1 else "RGB")
    painted = painted.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(painted, dtype=np.float32).reshape(image.shape) / 255
