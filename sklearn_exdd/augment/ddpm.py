"""Augmenter with a diffusion model of the normal surface. Perturbing its reverse chain makes defects."""

from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd._params import check_interval
from sklearn_exdd._torch import arrays_of, check_device, load_weights, resolve_device, seeded
from sklearn_exdd._training import train
from sklearn_exdd._weights import checksum, read_weights, write_weights
from sklearn_exdd.augment.base import BaseDefectAugmenter
from sklearn_exdd.augment.curves import RidgedRegions
from sklearn_exdd.augment.diffusion import (
    FLOOR,
    N_TIMESTEPS,
    Tiles,
    make_scheduler,
    perturbation_of,
    relative_contrast,
    reverse,
    timesteps_of,
    window_around,
)
from sklearn_exdd.augment.regions import PerlinRegions

_POOL_PIXELS = 2**23  # number of pixels in all training crops: 2048 crops of 64 x 64 pixels


class DDPMDefectAugmenter(BaseDefectAugmenter):
    """Augmenter with a diffusion model. The model is trained on the normal images and needs no download.

    ``fit`` trains a small diffusion model (DDPM) on crops of the normal images. To make a defect, the model generates
    the surface within a region anew. After every reverse step, Gaussian noise that the model does not expect is added
    to the region. The rest of the image is unchanged.

    Parameters
    ----------
    perturbation : {"correlated", "white", "held"}, default="correlated"
        Noise added to the region after each reverse step; see Notes.

        * "correlated": smooth Gaussian noise, mostly drawn anew at each step.
        * "white": white Gaussian noise of constant variance, the literal reading of [1]_.
        * "held": smooth Gaussian noise, drawn once per defect.
    amplitude : tuple of (float, float), default=(0.2, 0.5)
        Range of the standard deviation of the added noise. One value is drawn per defect. For comparison, the normal
        texture has a standard deviation of 0.5. White noise needs a range of about (0.4, 0.8) to be visible.
    sign : {"both", "dark", "bright"}, default="both"
        Direction of the offset, which is the part of the noise that is drawn once per defect. "both" draws dark twice
        as often as bright. White noise has no offset and ignores `sign`.
    correlation_length : float, default=3.0
        Standard deviation, in pixels, of the Gaussian that smooths the noise.
    min_timestep : int, default=30
        Minimum timestep (out of 1000) at which noise is added. The steps at smaller timesteps add no noise. They only
        clean up the image.
    strength : float, default=0.4
        Fraction of the chain to run, in (0, 1]. The chain starts from the source image, noised to this fraction of the
        timesteps. At 1, nothing of the source image is left in the region.
    n_inference_steps : int, default=25
        Number of DDIM steps of the whole chain. The noise per step is scaled to the number of steps, so the defects
        hardly depend on this number.
    context : int, default=16
        Minimum margin around the region that the model sees, in pixels. The margin ends at the border of the image.
    crop_size : int, default=64
        Side, in pixels, of the training crops and of the tiles that the model generates. At least one normal image must
        be this large. To paint on a smaller image, the image is extended by mirroring.
    block_out_channels : tuple of int, default=(16, 32, 64, 96)
        Number of channels of the U-Net at each resolution. Each number is a multiple of 8.
    max_steps : int, default=1400
        Maximum number of training steps. 1400 steps take about 8 minutes on one core.
    max_seconds : float, default=None
        Time limit for training, in seconds. If training reaches the limit, the weights depend on the machine.
    patience : int or None, default=500
        Number of steps within which the smoothed loss must fall by 1 %. Otherwise, training ends early. None disables
        this rule.
    learning_rate : float, default=2e-3
        Learning rate of AdamW, with a cosine schedule.
    train_batch_size : int, default=8
        Number of crops per training step.
    flip : bool, default=False
        Whether to mirror training crops at random along both axes. This suits surfaces that look the same in light from
        any side.
    batch_size : int, default=8
        Number of tiles that the model generates at a time.
    device : str, default=None
        Device of the model, for example "cpu" or "cuda:0". None uses CUDA if available.
    n_synthetic : int, default=100
        Number of synthetic defects that ``fit_transform`` attaches to the images.
    regions : str, region drawer or list of them, default="auto"
        Shapes and positions of the defects; see :class:`BaseDefectAugmenter`. If ``fit`` receives no masks of real
        defects, "auto" draws compact Perlin blobs and thin curves.
    foreground : "otsu", callable or None, default=None
        Area of the image in which defects may lie; see :class:`BaseDefectAugmenter`.
    min_contrast : float, default=0.5
        Minimum contrast of a defect. The contrast is the mean change of the pixels, divided by the standard deviation
        of the texture. Fainter defects are drawn again.
    max_redraws : int, default=10
        Maximum number of redraws per defect. If all tries are too faint, the try with the highest contrast is kept, and
        a warning is issued.
    memory : str, path-like or joblib.Memory, default=None
        Cache folder for finished images; see :class:`BaseDefectAugmenter`. The folder also stores the trained weights
        as safetensors. An interrupted training run is resumed from the folder.
    pos_label : object, default=None
        Label of defect images in y. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    random_state : int, RandomState instance or None, default=None
        Seed of the augmenter. Image i depends only on the seed and on i. The first 50 images of a sample of 100 are
        therefore the same as a sample of 50.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    weights_ : dict of str to ndarray, float32
        Weights of the ``UNet2DModel`` of diffusers, averaged over the training steps.
    scale_ : float
        Number by which contrasts are divided before the model sees them.
    losses_ : ndarray of shape (n_steps,)
        Mean squared error of each training step. The error of a model that has learned nothing is 1.
    model_ : str
        Fingerprint of the weights, recorded in the provenance of each image.
    sources_ : ndarray of shape (n_normal,)
        Index of each normal image in the X passed to ``fit``.
    seed_ : int
        Seed that ``sample`` uses if its `random_state` is None.

    Notes
    -----
    The method follows the abstract of [1]_, the only part of the paper known to us. The abstract names a DDPM trained
    on normal images, Gaussian perturbations of constant variance, and Perlin masks. The details are our own.

    The model works on the contrast ``log((image + 0.1) / (local mean + 0.1))``, divided by twice its standard
    deviation. The chain starts from the source image, noised to timestep ``1000 * strength``. After each DDIM step,
    noise is added within the region r:

        x_{t-1} <- x_{t-1} + a sqrt(alpha_{t-1}) r (sqrt(1 - h) f_t + sqrt(h) o).

    Here, a is the amplitude, and alpha is the scheduler's cumulative alpha. The factor sqrt(alpha) makes a refer to the
    clean image. The smooth field f_t is drawn at each step. The offset o, of either sign, is drawn once per defect. The
    weight h is 0.3. In a curve thinner than the correlation length, independent draws of f_t would cancel out.
    Therefore, h approaches 1 in such a region.

    White noise z_t is added as ``x_{t-1} + a z_t``. RealNet [2]_ also adds white noise, scaled by the scheduler's
    sigma. But the model is trained to remove white noise. It therefore removes this perturbation as well, or leaves it
    as salt-and-pepper noise.

    Outside the region, x is the noised source image. Large regions are generated in overlapping tiles. At each step,
    the predictions for the tiles are averaged where they overlap [3]_.

    References
    ----------
    .. [1] arXiv 2604.19240, 2026.
    .. [2] X. Zhang et al., "RealNet", CVPR 2024, section 3.1.
    .. [3] O. Bar-Tal et al., "MultiDiffusion", ICML 2023.

    Examples
    --------
    >>> from sklearn_exdd.augment import DDPMDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(4, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> augmenter = DDPMDefectAugmenter(crop_size=16, block_out_channels=(8,), max_steps=5, random_state=0)
    >>> images, masks = augmenter.fit(X).sample(2)
    >>> images.shape, masks.dtype
    ((2, 64, 64), dtype('bool'))
    """

    _learned_from = (
        "crop_size",
        "block_out_channels",
        "max_steps",
        "max_seconds",
        "patience",
        "learning_rate",
        "train_batch_size",
        "flip",
    )
    _not_in_key = ("batch_size", "device")
    _packages = ("diffusers",)

    _parameter_constraints = {
        **BaseDefectAugmenter._parameter_constraints,
        "perturbation": [StrOptions({"correlated", "white", "held"})],
        "amplitude": [tuple, list],
        "sign": [StrOptions({"both", "dark", "bright"})],
        "correlation_length": [Interval(Real, 0, None, closed="left")],
        "min_timestep": [Interval(Integral, 0, N_TIMESTEPS, closed="left")],
        "strength": [Interval(Real, 0, 1, closed="right")],
        "n_inference_steps": [Interval(Integral, 1, N_TIMESTEPS, closed="both")],
        "context": [Interval(Integral, 0, None, closed="left")],
        "crop_size": [Interval(Integral, 8, None, closed="left")],
        "block_out_channels": [tuple, list],
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "train_batch_size": [Interval(Integral, 1, None, closed="left")],
        "flip": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
    }

    def __init__(
        self,
        *,
        perturbation="correlated",
        amplitude=(0.2, 0.5),
        sign="both",
        correlation_length=3.0,
        min_timestep=30,
        strength=0.4,
        n_inference_steps=25,
        context=16,
        crop_size=64,
        block_out_channels=(16, 32, 64, 96),
        max_steps=1400,
        max_seconds=None,
        patience=500,
        learning_rate=2e-3,
        train_batch_size=8,
        flip=False,
        batch_size=8,
        device=None,
        n_synthetic=100,
        regions="auto",
        foreground=None,
        min_contrast=0.5,
        max_redraws=10,
        memory=None,
        pos_label=None,
        random_state=None,
        verbose=0,
    ):
        self.perturbation = perturbation
        self.amplitude = amplitude
        self.sign = sign
        self.correlation_length = correlation_length
        self.min_timestep = min_timestep
        self.strength = strength
        self.n_inference_steps = n_inference_steps
        self.context = context
        self.crop_size = crop_size
        self.block_out_channels = block_out_channels
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.patience = patience
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.flip = flip
        self.batch_size = batch_size
        self.device = device
        self.n_synthetic = n_synthetic
        self.regions = regions
        self.foreground = foreground
        self.min_contrast = min_contrast
        self.max_redraws = max_redraws
        self.memory = memory
        self.pos_label = pos_label
        self.random_state = random_state
        self.verbose = verbose

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_module"}

    def _default_regions(self):
        return [PerlinRegions(scales=(2, 5), n_blobs=1, max_area=0.1), RidgedRegions()]

    def _check_params(self):
        super()._check_params()
        check_interval("amplitude", self.amplitude, 0)
        if not (self._timesteps()[1:] >= self.min_timestep).any():
            raise ValueError(
                f"n_inference_steps: expected at least one step that ends at min_timestep={self.min_timestep} or above "
                f"and adds noise, got no such step with n_inference_steps={self.n_inference_steps} and "
                f"strength={self.strength}. Raise n_inference_steps or strength."
            )
        channels = self.block_out_channels
        if len(channels) == 0 or any(not isinstance(n, Integral) or n < 8 or n % 8 for n in channels):
            raise ValueError(f"block_out_channels: expected multiples of 8, got {channels!r}.")
        smallest = 2 ** (len(channels) - 1)
        if self.crop_size % smallest:
            raise ValueError(
                f"crop_size: expected a multiple of {smallest} for {len(channels)} resolutions, got {self.crop_size}. "
                "Change it, or the length of block_out_channels."
            )
        check_device(self.device)

    # Training

    def _learn(self, images, defects, masks, random_state):
        self._module = None  # built on first use, and never pickled
        seed = int(random_state.randint(2**31 - 1))
        folder = self._fit_dir()
        learned = None if folder is None else read_weights(folder / "weights.safetensors")
        if learned is None:
            learned, complete = self._train(images, seed, folder)
            if folder is not None and complete and write_weights(folder / "weights.safetensors", learned):
                (folder / "training.pt").unlink(missing_ok=True)
        self.scale_ = float(learned.pop("scale"))
        self.losses_ = learned.pop("losses")
        self.weights_ = learned
        self.model_ = f"DDPM {checksum(learned)[:12]}"

    def _crops(self, images, random_state):
        """Return the relative contrast of random crops, as an array (n, crop_size, crop_size, channels)."""
        size = self.crop_size
        large = [i for i in range(len(images)) if min(images.shape(i)) >= size]
        if not large:
            largest = max((images.shape(i) for i in range(len(images))), key=min)
            raise ValueError(
                f"X: expected at least one normal image with sides >= crop_size={size} pixels, got images of at most "
                f"{largest[0]} x {largest[1]} pixels. Lower crop_size."
            )
        crops = []
        n_crops = min(max(_POOL_PIXELS // size**2, self.train_batch_size), self.max_steps * self.train_batch_size)
        for number, share in zip(large, np.array_split(np.arange(n_crops), len(large))):
            image = images[number] if len(share) else None
            for _ in share:
                top, left = (random_state.randint(own - size + 1) for own in image.shape[:2])
                crops.append(relative_contrast(image, (top, left, top + size, left + size), size / 4)[0])
        return np.stack(crops)

    def _train(self, images, seed, folder):
        import torch
        from torch.nn import functional

        device = resolve_device(self.device)
        crops = self._crops(images, np.random.RandomState(seed))
        scale = 2 * np.sqrt(np.mean(np.square(crops), dtype=np.float64))
        if not scale > 1e-6:
            raise ValueError(
                "X: expected normal images with some texture to learn from, got constant images. Pass other images."
            )
        crops = torch.from_numpy((crops / scale).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
        module = self._build(crops.shape[1], seed).to(device)
        scheduler = make_scheduler()

        def loss_of_step(step, random_state):
            batch = crops[random_state.randint(len(crops), size=self.train_batch_size)]
            if self.flip:
                for axis in (2, 3):
                    flipped = random_state.randint(2, size=(len(batch), 1, 1, 1)) > 0
                    batch = torch.where(torch.from_numpy(flipped), batch.flip(axis), batch)
            noise = torch.from_numpy(random_state.standard_normal(batch.shape).astype(np.float32))
            # The timesteps of a batch are spread over the whole chain, because the loss depends mostly on the timestep.
            spread = (np.arange(len(batch)) + random_state.uniform(size=len(batch))) / len(batch)
            timesteps = torch.from_numpy((N_TIMESTEPS * spread).astype(np.int64))
            noised = scheduler.add_noise(batch, noise, timesteps).to(device)
            return functional.mse_loss(module(noised, timesteps.to(device)).sample, noise.to(device))

        with _advice_on_memory("train_batch_size or crop_size"):
            run = train(
                module,
                loss_of_step,
                max_steps=self.max_steps,
                max_seconds=self.max_seconds,
                seed=seed,
                learning_rate=self.learning_rate,
                patience=self.patience,
                checkpoint=None if folder is None else folder / "training.pt",
                verbose=self.verbose,
                description="DDPM of the normal images",
            )
        return {**arrays_of(module), "scale": np.array(scale), "losses": run.losses}, run.complete

    def _build(self, n_channels, seed):
        """Return the U-Net with random weights."""
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise ImportError("DDPMDefectAugmenter needs diffusers: pip install diffusers.") from error
        n_levels = len(self.block_out_channels)
        with seeded(seed):
            return UNet2DModel(
                sample_size=self.crop_size,
                in_channels=n_channels,
                out_channels=n_channels,
                layers_per_block=1,
                block_out_channels=tuple(self.block_out_channels),
                down_block_types=("DownBlock2D",) * n_levels,
                up_block_types=("UpBlock2D",) * n_levels,
                norm_num_groups=8,
                add_attention=False,
            )

    # Painting

    def _paint(self, image, region, random_state):
        import torch

        amplitude = random_state.uniform(*self.amplitude)
        shape = region.shape
        missing = [max(0, self.crop_size - own) for own in shape]
        padding = [(gap // 2, gap - gap // 2) for gap in missing]
        image = np.pad(image, [*padding, (0, 0)], mode="symmetric")
        region = np.pad(region, padding)
        box = window_around(region, self.context, self.crop_size)
        relative, base = relative_contrast(image, box, self.crop_size / 4)
        inside = region[box[0] : box[2], box[1] : box[3]]
        draw = perturbation_of(
            self.perturbation,
            inside,
            image.shape[2],
            sign=self.sign,
            correlation_length=self.correlation_length,
            n_steps=self.n_inference_steps,
            random_state=random_state,
        )
        with torch.inference_mode(), _advice_on_memory("batch_size"):
            made = reverse(
                self._fitted_module(),
                relative / self.scale_,
                inside,
                Tiles(inside, self.crop_size, self.batch_size),
                self._timesteps(),
                lambda alpha: amplitude * draw(alpha),
                min_timestep=self.min_timestep,
                random_state=random_state,
            )
        painted = image.copy()
        painted[box[0] : box[2], box[1] : box[3]] = base * np.exp(made * self.scale_) - FLOOR
        (top, _), (left, _) = padding
        return painted[top : top + shape[0], left : left + shape[1]], {
            "amplitude": float(amplitude),
            "model": self.model_,
        }

    def _timesteps(self):
        return timesteps_of(self.strength, self.n_inference_steps)

    def _fitted_module(self):
        if getattr(self, "_module", None) is None:
            self._module = self._build(self.n_channels_, 0).eval()
            load_weights(self._module, self.weights_)
        return self._module.to(resolve_device(self.device))


@contextmanager
def _advice_on_memory(parameters):
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise torch.cuda.OutOfMemoryError(
            f"The GPU's memory is full: lower {parameters}, or set device='cpu'. ({error})"
        ) from error
