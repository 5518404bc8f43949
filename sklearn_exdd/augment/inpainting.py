"""Augmenter that paints defects from a prompt with a pretrained inpainting pipeline (ExDD, DIAG)."""

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

_MULTIPLE = 8  # number that must divide both sides of an image, as pipelines require
_BUSY = Lock()  # held while painting: a scheduler counts its steps, so threads must paint one after the other


class DiffusionDefectAugmenter(BaseDefectAugmenter):
    """Augmenter that paints defects with any inpainting pipeline of diffusers, as ExDD and DIAG do.

    Install its packages with ``pip install "sklearn_exdd[diffusion]"``.

    Parameters
    ----------
    model : str, path or callable, default="diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
        Inpainting pipeline, in one of three forms:

        * id of a pipeline on the hub, which is downloaded when the first image is made;
        * folder written by ``pipeline.save_pretrained(folder)``;
        * function without arguments that makes and returns a pipeline.

        The default is the pipeline of DIAG. Its size is about 7 GB with ``variant="fp16"`` and 14 GB otherwise. A
        pipeline object is not accepted, because ``clone`` would copy it.
    prompts : str or list of str, default=("white marks on the wall", "copper metal scratches")
        Descriptions of the defects. One description is selected at random for each image. The defaults are the
        prompts of DIAG.
    prompt_shares : array-like of shape (n_prompts,), default=None
        Relative frequency of each prompt. The sum need not be 1. None selects all prompts equally often.
    negative_prompt : str or None, default="smooth, plain, black, dark, shadow"
        Description of the appearance that defects must not have.
    n_inference_steps : int, default=30
        Number of denoising steps of the whole chain. Only ``int(n_inference_steps * strength)`` steps are run.
    guidance_scale : float, default=20.0
        Weight of the prompt. At 1 or less, guidance is off, and the negative prompt is ignored.
    strength : float, default=0.99
        Degree to which the region is painted anew, in (0, 1]. At 1, the source image under the region is ignored.
    padding_mask_crop : int or None, default=2
        Margin, in pixels, around the bounding box of the region. The box and its margin are cut out and enlarged to the
        working size before painting, so small defects are painted in full detail. If None, the network sees the whole
        image.
    working_size : int or None, default=1024
        Side, in pixels, of the square to which images are resized for painting. It must be a multiple of 8. Painted
        images are resized back to their original size. 1024 suits SDXL. 512 suits Stable Diffusion 1 and 2. If None,
        the sides of an image are only rounded up to multiples of 8.
    device : str, default=None
        Device of the model, for example "cpu" or "cuda:0". None uses CUDA if available.
    dtype : {"auto", "float16", "bfloat16", "float32"}, default="auto"
        Data type of the networks. "auto" selects float16 on CUDA and float32 on other devices. If `model` is a
        function, "auto" keeps the data type of the pipeline that the function returns.
    attention_slicing : bool, default=False
        Whether to compute attention in slices. This saves memory on small GPUs.
    cpu_offload : bool, default=False
        Whether to keep only the network in use on the GPU. This saves memory on small GPUs. It needs the package
        accelerate.
    variant : str, default=None
        Variant of the weights files, for example "fp16", if the model has one.
    lora : path, default=None
        Folder or file with LoRA weights to add to the model. Adding them needs the package peft.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects; see :class:`BaseDefectAugmenter`. If ``fit`` receives no masks of real
        defects, "auto" selects :class:`PerlinRegions` or :class:`RidgedRegions` at random.
    foreground : "otsu", callable or None, default=None
        Area of the image in which defects may lie; see :class:`BaseDefectAugmenter`.
    min_contrast : float, default=1.0
        Minimum contrast of a defect. The contrast is the mean change of the pixels, divided by the standard deviation
        of the texture. Fainter defects are drawn again.
    max_redraws : int, default=10
        Maximum number of redraws per defect. If all tries are too faint, the try with the highest contrast is kept, and
        a warning is issued.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder for finished images; see :class:`BaseDefectAugmenter`. The cache identifies a local model by the
        content of its files, a model on the hub by its id, and a function by its code. Empty the cache if the weights
        that a function loads have changed, but its code has not.
    pos_label : object, default=None
        Label of defect images in y. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenter. Image i depends only on the seed and on i. The first 50 images of a sample of 100 are
        therefore the same as a sample of 50.
    verbose : int, default=0
        If > 0, show a progress bar. If > 1, also show the progress bars of the pipeline.

    Attributes
    ----------
    sources_ : ndarray of shape (n_normal,)
        Index of each normal image in the X passed to ``fit``.
    seed_ : int
        Seed that ``sample`` uses if its `random_state` is None.

    Notes
    -----
    Nothing is trained, as in [1]_ and [2]_. A pipeline is loaded once per process, when the first image is made. It is
    stored neither in the estimator nor in its pickle. Arguments that a pipeline does not accept are left out, and a
    warning is issued. Grey images are painted as RGB and converted back. Painted images have 8 bits per channel.

    Safety checkers are not loaded, because they would blacken harmless images of metal. If a function returns a
    pipeline with a safety checker, the checker stays in use. An image that the checker blackens is drawn again.

    The networks see the region at an eighth of the working size. At this size, thin regions vanish unless
    `padding_mask_crop` enlarges them first.

    References
    ----------
    .. [1] F. Girella et al., "Leveraging latent diffusion models for training-free in-distribution data augmentation
       for surface defect detection" (DIAG), arXiv:2407.03961, CBMI 2024.
    .. [2] "ExDD: Explicit dual distribution learning for surface defect detection via diffusion synthesis",
       arXiv:2507.15335, 2025.

    Examples
    --------
    ``fit`` only checks the settings; ``sample`` loads the pipeline.

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
                f"{self.n_inference_steps} * {self.strength:g} = {n_steps:g}, which denoises nothing. Raise "
                f"n_inference_steps to at least {int(np.ceil(1 / self.strength))}, or raise the strength."
            )
        if self.working_size is not None and self.working_size % _MULTIPLE:
            raise ValueError(
                f"working_size: expected a multiple of {_MULTIPLE}, got {self.working_size}. Set it to "
                f"{_rounded_up(self.working_size)}."
            )
        if self.lora is not None and not Path(self.lora).exists():
            raise FileNotFoundError(
                f"lora: expected a folder or a file with LoRA weights, got {str(self.lora)!r}, which does not exist."
            )
        check_device(self.device)
        if self.cpu_offload and resolve_device(self.device).type == "cpu":
            raise ValueError("cpu_offload: expected a GPU as device, got the CPU. Set cpu_offload=False.")

    def _prompts(self):
        """Return the prompts and their probabilities."""
        prompts = [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)
        if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise ValueError(f"prompts: expected one or more non-empty texts, got {self.prompts!r}.")
        if self.prompt_shares is None:
            return prompts, np.full(len(prompts), 1 / len(prompts))
        shares = finite_numbers(self.prompt_shares)
        if shares is not None and len(shares) != len(prompts):
            raise ValueError(
                f"prompt_shares: expected {len(prompts)} numbers, one for each prompt, got {self.prompt_shares!r}."
            )
        if shares is None or (shares < 0).any() or not shares.any():
            raise ValueError(
                f"prompt_shares: expected numbers >= 0, at least one of them > 0, got {self.prompt_shares!r}."
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
                f"{type(pipeline).__name__} made a blank image (NaN, or blackened by a safety checker). The image is "
                "drawn again. If this persists, set dtype='float32', or make the pipeline without a safety checker.",
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
    """Paint the region of an image. Return the image as float32, or None if the pipeline made a blank image."""
    import torch
    from PIL import Image

    height, width, n_channels = image.shape
    size = settings["width"], settings["height"]
    rgb = np.repeat(np.rint(image * 255).astype(np.uint8), 3 // n_channels, axis=2)
    # Mark every pixel that the region touches. Otherwise, a thin region could vanish when the image is reduced.
    mask = np.asarray(Image.fromarray(region.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0
    arguments = {
        **{name: value for name, value in settings.items() if value is not None},
        "image": Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS),
        "mask_image": Image.fromarray(mask.astype(np.uint8) * 255),
        # The generator runs on the CPU for every device. A seed therefore gives the same noise on all devices.
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pil",
    }
    known = accepted_arguments(pipeline)
    invalid = []
    with np.errstate(invalid="call", call=lambda *_: invalid.append(True)):  # NaN would become 0 in 8 bits
        output = pipeline(**{name: value for name, value in arguments.items() if name in known})
    if invalid or any(getattr(output, "nsfw_content_detected", None) or ()):
        return None
    painted = output.images[0].convert("L" if n_channels == 1 else "RGB")
    painted = painted.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(painted, dtype=np.float32).reshape(image.shape) / 255
