"""Training of the student-teacher detector. Importing this module does not import torch."""

from functools import cache
from types import SimpleNamespace

from sklearn_exdd._cache import fingerprint, fingerprint_of_pixels, folder_of
from sklearn_exdd._code import fingerprint_of_code
from sklearn_exdd._params import validate_parts
from sklearn_exdd._torch import arrays_of, load_weights, resolve_device, resolve_precision, seeded
from sklearn_exdd._training import train
from sklearn_exdd._weights import read_weights, write_weights
from sklearn_exdd.detectors.student_teacher.defects import Defects
from sklearn_exdd.features.torchvision import load_backbone
from sklearn_exdd.features.weights import file_sha256

_CHECKPOINT_EVERY = 100  # number of steps between checkpoints
_TEACHER_SHARE = 0.3  # fraction of the training steps and of the time limit that a learned teacher gets

# Parameters that determine the trained weights, together with the images.
_TEACHER_FROM = (
    "teacher", "layers", "weights", "channels", "augmenter", "n_synthetic", "focal_gamma", "crop_size", "max_steps",
    "max_seconds", "train_batch_size", "learning_rate", "validation_fraction",
)  # fmt: skip
_STUDENT_FROM = (*_TEACHER_FROM, "symmetric", "cosine_weight", "segmentation_weight", "training")


class Training:
    """Training of the networks of a :class:`StudentTeacherDetector`.

    Parameters
    ----------
    params : dict
        Parameters of the detector.
    seeds : dict of str to int
        Seeds for "teacher" and "student".
    n_channels : int
        Number of channels of the images.
    extractor : BaseFeatureExtractor or None
        Fitted teacher if it is a feature extractor, and None otherwise.
    """

    def __init__(self, params, seeds, n_channels, extractor):
        self.params, self.seeds = SimpleNamespace(**params), seeds
        self.n_channels, self.extractor = n_channels, extractor

    @property
    def learns_teacher(self):
        """Whether the teacher is trained."""
        return isinstance(self.params.teacher, str) and self.params.teacher == "learned"

    def build(self, pretrained=False):
        """Build the networks.

        Parameters
        ----------
        pretrained : bool, default=False
            Whether to load pretrained weights into a torchvision teacher. Training needs them. Use False if fitted
            weights are loaded afterwards.

        Returns
        -------
        network : StudentTeacher
        """
        import torch

        from sklearn_exdd.detectors.student_teacher import networks

        params, seeds, device = self.params, self.seeds, resolve_device(self.params.device)
        layers, model = tuple(params.layers), None
        if self.extractor is None and not self.learns_teacher:
            model = load_backbone(params.teacher, params.weights if pretrained else None, seeds["teacher"])
        with seeded(seeds["teacher"]):
            if self.extractor is not None:
                teacher = networks.Extracted(self.extractor)
            else:
                teacher = networks.build_teacher(model, layers, params.channels, self.n_channels)
        levels = networks.level_shapes(teacher, self.n_channels)
        with seeded(seeds["student"]):
            if params.symmetric:
                if model is not None:
                    model = load_backbone(params.teacher, None, seeds["student"])
                student = networks.build_teacher(model, layers, params.channels, self.n_channels)
            else:
                student = networks.build_student(teacher, levels, self.n_channels)
            head = networks.Head(levels) if params.segmentation_weight > 0 else None
        network = networks.StudentTeacher(teacher, student, head, levels)
        # All parts, whether they are trained here or loaded: the order in memory affects how results are rounded.
        return network.to(device, memory_format=torch.channels_last)

    def run(self, network, normal, real, synthesize):
        """Train the networks in place, or load their weights from the cache.

        Parameters
        ----------
        network : StudentTeacher
        normal : TrainingSet
            Normal images to train on.
        real : TrainingSet or None
            Defect images to train on.
        synthesize : callable
            Function that takes no arguments and returns SyntheticDefects or None. It is called only if something is
            trained.

        Returns
        -------
        losses : dict of str to ndarray
            Loss of each training step, for "teacher" (if it is learned), "student" and "head". In joint training,
            "student" includes the loss of the head, and the entry "head" is missing.
        """
        from sklearn_exdd.detectors.student_teacher.networks import Trained

        real_defects = None if real is None else Defects.from_training_set(real)
        pixels = None if folder_of(self.params.memory) is None else _fingerprint(normal, real_defects)

        @cache
        def crops():
            synthetic = synthesize()
            if synthetic is not None:
                synthetic = Defects.from_synthetic(synthetic, normal.samples)
            return self._crops(network.levels, normal.samples, real_defects, synthetic)

        def learn_teacher(folder):
            return self._train_teacher(network, crops(), folder)

        def learn_student(folder):
            return self._train_student(network, rest, crops(), folder)

        losses = self._part("teacher", network.teacher, pixels, learn_teacher) if self.learns_teacher else {}
        network.teacher.eval().requires_grad_(False)
        rest = Trained(network.student, network.head)
        return losses | self._part("student", rest, pixels, learn_student)

    def _part(self, name, module, pixels, learn):
        """Load the weights of a part from the cache or train the part. Return its losses."""
        folder = folder_of(self.params.memory)
        if folder is not None:
            folder = folder / f"StudentTeacherDetector-{name}-{self._key(name, pixels)}"
        learned = None if folder is None else read_weights(folder / "weights.safetensors")
        if learned is None:
            runs = learn(folder)
            learned = {**arrays_of(module), **{f"losses.{stage}": run.losses for stage, run in runs.items()}}
            complete = all(run.complete for run in runs.values())
            if folder is not None and complete and write_weights(folder / "weights.safetensors", learned):
                for stage in runs:
                    (folder / f"{stage}.pt").unlink(missing_ok=True)
        stages = [entry for entry in learned if entry.startswith("losses.")]
        losses = {stage.removeprefix("losses."): learned.pop(stage) for stage in stages}
        load_weights(module, learned)
        return losses

    def _key(self, name, pixels):
        names = _TEACHER_FROM if name == "teacher" else _STUDENT_FROM
        params = {name: getattr(self.params, name) for name in names}
        params["weights"] = str(self.params.weights), file_sha256(self.params.weights)
        return fingerprint_of_code(params, self._bfloat16(), self.seeds, pixels, packages=("torchvision",))[:20]

    def _crops(self, levels, normals, real, synthetic):
        from sklearn_exdd.detectors.student_teacher.crops import DefectCrops, crop_shape, shares_of

        has_masks = real is not None and any(mask is not None for mask in real.masks)
        needed = "teacher='learned'" if self.learns_teacher else "segmentation_weight > 0"
        if synthetic is None and not has_masks and (self.learns_teacher or self.params.segmentation_weight > 0):
            raise ValueError(
                f"n_synthetic: expected synthetic defects, or defect images with masks, for {needed}, got neither. Set "
                "n_synthetic to a number > 0."
            )
        shape = crop_shape(normals, self.params.crop_size, levels[-1][1])
        return DefectCrops(normals, synthetic, real, shape, shares_of(synthetic, real))

    def _train_teacher(self, network, crops, folder):
        import torch

        from sklearn_exdd.detectors.student_teacher.losses import teacher_loss
        from sklearn_exdd.detectors.student_teacher.networks import Head, Trained

        with seeded(self.seeds["teacher"]):
            head = Head(network.levels).to(memory_format=torch.channels_last)
        loss = teacher_loss(network.teacher, head, self.params.focal_gamma)
        run = self._train(Trained(network.teacher, head), loss, crops, "teacher", _TEACHER_SHARE, folder)
        if run.stopped_by == "interrupt":
            raise KeyboardInterrupt("interrupted during the training of the teacher; the student is not trained")
        return {"teacher": run}

    def _train_student(self, network, rest, crops, folder):
        from sklearn_exdd.detectors.student_teacher.losses import student_loss

        params = self.params
        cosine, segmentation, gamma = params.cosine_weight, params.segmentation_weight, params.focal_gamma
        share = 1 - (_TEACHER_SHARE if self.learns_teacher else 0)
        if params.training == "joint" or network.head is None:
            loss = student_loss(network, cosine, segmentation, gamma)
            return {"student": self._train(rest, loss, crops, "student", share, folder)}
        loss = student_loss(network, cosine, 0, gamma)
        runs = {"student": self._train(network.student, loss, crops, "student", share / 2, folder)}
        if runs["student"].stopped_by != "interrupt":
            network.student.requires_grad_(False)
            loss = student_loss(network, 0, segmentation, gamma)
            runs["head"] = self._train(network.head, loss, crops, "head", share / 2, folder)
        return runs

    def _train(self, module, loss_of_batch, crops, name, share, folder):
        """Train a module on batches of crops. `share` is its fraction of `max_steps` and `max_seconds`."""
        import torch

        params, device = self.params, resolve_device(self.params.device)

        def loss_of_step(step, random_state):
            batch = crops.draw(params.train_batch_size, random_state)
            batch = type(batch)(*(part.to(device) for part in batch))
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16()):
                return loss_of_batch(batch)

        return train(
            module,
            loss_of_step,
            max_steps=max(1, round(share * params.max_steps)),
            max_seconds=None if params.max_seconds is None else share * params.max_seconds,
            seed=self.seeds["teacher" if name == "teacher" else "student"],
            learning_rate=params.learning_rate,
            weight_decay=1e-3,
            ema_decay=0.99,
            checkpoint=None if folder is None else folder / f"{name}.pt",
            checkpoint_every=_CHECKPOINT_EVERY,
            verbose=params.verbose,
            description=name if name == "teacher" else f"{name} of the teacher",
        )

    def _bfloat16(self):
        return resolve_precision(self.params.precision, resolve_device(self.params.device))


def check_extractor(extractor, crop_size, symmetric):
    """Check that a feature extractor can be the teacher."""
    validate_parts([extractor])
    if symmetric:
        raise ValueError(
            "symmetric: expected False with a feature extractor as the teacher, because a student cannot have the "
            "architecture of an extractor, got True."
        )
    if extractor.image_size is not None:
        raise ValueError(
            "teacher: expected an extractor with image_size=None, because the teacher receives crops of the images, "
            f"got {extractor.image_size!r}."
        )
    if crop_size < extractor.min_size:
        raise ValueError(
            f"crop_size: expected at least {extractor.min_size} for {type(extractor).__name__} as the teacher, got "
            f"{crop_size}."
        )


def _fingerprint(normal, real):
    """Return a checksum of all images and masks that are used for training."""
    parts = [fingerprint_of_pixels(normal.samples)]
    if real is not None:
        parts.append(fingerprint_of_pixels(real.images, real.masks))
    if normal.synthetic is not None:
        parts += [fingerprint(*pair) for pair in zip(*normal.synthetic)]
    return fingerprint(*parts)
