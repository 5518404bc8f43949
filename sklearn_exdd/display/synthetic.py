"""Display of synthetic defects: a contact sheet to judge at a glance whether the defects look real."""

import textwrap

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_exdd._images import Images, Masks
from sklearn_exdd.display.panels import MASK_LINE, new_axes, outline, show, write_legend

_PANEL_WIDTH = 1.8  # inches
_LETTERS_PER_INCH = 12  # estimate for captions with some capital letters


class SyntheticDefectsDisplay:
    """Contact sheet of synthetic defects. Each defect is shown twice: outlined in its image, and enlarged.

    Create it with :meth:`from_estimator`, :meth:`from_samples` or :meth:`from_predictions`.

    Parameters
    ----------
    images : array of shape (n_images, height, width[, channels]), list of arrays or list of paths
        Images to show.
    masks : array of shape (n_images, height, width) or list of arrays or paths
        Masks of the images, which are True for the pixels of the defect.
    provenance : list of dict, default=None
        Provenance of each image, as written by the augmenters. The title of an image gives its "source". The caption
        quotes the "prompt". For a defect without a prompt, it gives the "augmenter" and the "region" instead. The
        caption also says if the defect is hardly visible.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of shape (n_images, n_panels), dtype object
        The axes. The panels of an image are the image and, if details are shown, the detail.
    """

    def __init__(self, *, images, masks, provenance=None):
        self.images = images
        self.masks = masks
        self.provenance = provenance

    @classmethod
    def from_estimator(cls, estimator, n_samples=12, *, random_state=None, **kwargs):
        """Show new defects of a fitted augmenter, or the synthetic defects that a detector was fitted with.

        Parameters
        ----------
        estimator : object
            Fitted augmenter, fitted detector, or a Pipeline or search around one of them. An augmenter draws new
            defects. For a detector, the first defects of its attribute `synthetic_` are shown. If a Pipeline contains
            an augmenter and a detector, the defects of the detector are shown.
        n_samples : int, default=12
            Number of images to show.
        random_state : int, default=None
            Seed that is passed to the method `sample` of an augmenter.
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : SyntheticDefectsDisplay
        """
        for step in _steps_from_the_end(estimator):
            if getattr(step, "synthetic_", None) is not None:
                return cls.from_samples(step.synthetic_, n_samples, **kwargs)
            if hasattr(step, "sample"):
                return cls.from_samples(step.sample(n_samples, random_state=random_state), n_samples, **kwargs)
        raise TypeError(
            "estimator: expected a fitted augmenter (with the method sample), a detector that was fitted with "
            "synthetic defects (with the attribute synthetic_), or a Pipeline or search around one of them, got none "
            f"of these in {type(estimator).__name__}. Fit the detector with an augmenter, as a parameter or as a step "
            "before the detector in the Pipeline."
        )

    @classmethod
    def from_samples(cls, synthetic, n_samples=None, **kwargs):
        """Show existing synthetic defects.

        Parameters
        ----------
        synthetic : object
            Result of the method `sample` of an augmenter, or a pair (images, masks). The `provenance` of such a result
            is shown, too.
        n_samples : int, default=None
            Number of images to show, beginning with the first. If it is None, all images are shown.
        **kwargs : dict
            The parameter `provenance` of the class, and arguments of :meth:`plot`.

        Returns
        -------
        display : SyntheticDefectsDisplay

        Examples
        --------
        >>> from sklearn_exdd import SyntheticDefectsDisplay
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, masks = make_surface_defects(4, defect_fraction=1, random_state=0)
        >>> display = SyntheticDefectsDisplay.from_samples((X, masks), n_samples=3)
        >>> display.axes_.shape
        (3, 2)
        """
        try:
            images, masks = synthetic
        except (TypeError, ValueError) as error:
            raise TypeError(
                "synthetic: expected the result of the method sample of an augmenter, or a pair (images, masks), got "
                f"{type(synthetic).__name__}."
            ) from error
        display = cls(
            images=images, masks=masks, provenance=kwargs.pop("provenance", getattr(synthetic, "provenance", None))
        )
        if n_samples is not None:
            display._check_lengths()
            for name, values in vars(display).items():
                setattr(display, name, values if values is None else values[:n_samples])
        return display.plot(**kwargs)

    @classmethod
    def from_predictions(cls, images, masks, *, provenance=None, **kwargs):
        """Show images with defects of any origin, including real ones.

        Parameters
        ----------
        images, masks, provenance
            Parameters of the class.
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : SyntheticDefectsDisplay

        Examples
        --------
        >>> from sklearn_exdd import SyntheticDefectsDisplay
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, masks = make_surface_defects(4, defect_fraction=1, random_state=0)
        >>> SyntheticDefectsDisplay.from_predictions(X, masks, detail=False).axes_.shape
        (4, 1)
        """
        return cls(images=images, masks=masks, provenance=provenance).plot(**kwargs)

    def plot(self, *, n_columns=None, axes=None, contour=True, detail=True):
        """Draw the panels.

        Parameters
        ----------
        n_columns : int, default=None
            Number of images side by side. The default is 3 if details are shown, and 6 otherwise.
        axes : array-like of matplotlib Axes, default=None
            The `n_images * n_panels` axes to draw on: first all panels of the first image, then those of the second
            image, and so on. By default, a new figure is created.
        contour : bool, default=True
            Whether to outline the mask in the image. The detail has no outline, because an outline would hide a thin
            defect.
        detail : bool, default=True
            Whether to show an enlarged detail of the defect in a second panel.

        Returns
        -------
        self : SyntheticDefectsDisplay
        """
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ImportError("SyntheticDefectsDisplay needs matplotlib: pip install 'sklearn_exdd[plot]'.") from error

        images, masks = zip(*self._checked_data())
        provenance = [{}] * len(images) if self.provenance is None else self.provenance
        n_panels = 1 + detail
        captions = [_describe(origin, n_panels) for origin in provenance]
        own_figure = axes is None
        if own_figure:
            n_lines = max(len(caption.splitlines()) for caption in captions)
            shapes = [image.shape for image in images]
            n_columns = n_columns or min(len(images), 6 // n_panels)
            self.axes_, _ = new_axes(shapes, n_panels, n_columns, n_lines, n_title_lines=1, width=_PANEL_WIDTH)
        else:
            self.axes_ = np.asarray(axes, dtype=object)
            if self.axes_.size != len(images) * n_panels:
                raise ValueError(
                    f"axes: expected {len(images) * n_panels} axes ({len(images)} images with {n_panels} panels "
                    f"each), got {self.axes_.size}."
                )
            self.axes_ = self.axes_.reshape(len(images), n_panels)
        self.figure_ = self.axes_[0, 0].figure
        # The brightest pixel of all images is shown in white. Dim images, such as 12-bit data in a 16-bit file, become
        # visible, and the brightness of the images can still be compared.
        white = max(image.max() for image in images)
        for i, (image, mask) in enumerate(zip(images, masks)):
            for ax in self.axes_[i]:
                show(ax, image, white)
            if contour:
                outline(self.axes_[i, 0], mask.astype(float), 0.5, MASK_LINE)
            if detail:
                rows, columns = _surroundings(mask)
                self.axes_[i, 1].set(xlim=columns, ylim=rows[::-1])
            source = provenance[i].get("source")
            title = f"[{i}]" if source is None else f"[{i}] from image {source}"
            self.axes_[i, 0].set_title(title, loc="left", fontsize="medium")
            self.axes_[i, 0].set_xlabel(captions[i], loc="left", fontsize="small", parse_math=False)
        if contour:
            write_legend(self.axes_, {"mask": MASK_LINE}, below=own_figure)
        return self

    def _check_lengths(self):
        """Check the numbers of masks and of provenance entries, and return images and masks."""
        images = Images(self.images, name="images")
        masks = Masks(self.masks, len(images))
        if self.provenance is not None and len(self.provenance) != len(images):
            raise ValueError(
                f"provenance: expected one entry for each of the {len(images)} images, got {len(self.provenance)}."
            )
        return images, masks

    def _checked_data(self):
        """Check images and masks, and return them as a list of pairs of arrays."""
        images, masks = self._check_lengths()
        read = []
        for i, image in enumerate(images):
            mask = masks.get(i, image.shape)
            if mask is None or not mask.any():
                came = "None" if mask is None else "an empty mask"
                raise ValueError(f"{masks.where(i)}: expected a mask that marks the defect, got {came}.")
            read.append((image, mask))
        return read


def _steps_from_the_end(estimator):
    """Yield the steps of an estimator from the last to the first, including those inside pipelines and searches."""
    if isinstance(estimator, Pipeline):
        for _, step in reversed(estimator.steps):
            yield from _steps_from_the_end(step)
    elif hasattr(estimator, "best_estimator_") or hasattr(estimator, "estimator_"):
        name = "best_estimator_" if hasattr(estimator, "best_estimator_") else "estimator_"
        yield from _steps_from_the_end(getattr(estimator, name))
    else:
        yield estimator


def _describe(origin, n_panels):
    """Return the caption of an image, wrapped to at most two lines that fit under its panels."""
    text = ", ".join(origin[key] for key in ("augmenter", "region") if origin.get(key))
    if origin.get("prompt"):
        text = f'"{origin["prompt"]}"'
    if origin.get("visible") is False:
        text = f"hardly visible: {text}"
    width = int(_LETTERS_PER_INCH * n_panels * _PANEL_WIDTH)
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" ..."))


def _surroundings(mask):
    """Return the ranges of rows and columns of a detail: a section around the mask, in the proportions of the image."""
    extents = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)]
    # The detail is 1.5 times as large as the defect, but at least a quarter of the height and width of the image. A
    # smaller detail would show only single pixels.
    share = max(1.5 * (stop - start) / size for (start, stop), size in zip(extents, mask.shape))
    ranges = []
    for (start, stop), size in zip(extents, mask.shape):
        length = size * min(max(share, 1 / 4), 1)
        low = min(max((start + stop - length) / 2, 0), size - length)
        ranges.append((low - 0.5, low + length - 0.5))
    return ranges
