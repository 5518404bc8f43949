"""Display of images and their anomaly maps side by side."""

import textwrap
from inspect import signature

import numpy as np

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images, Masks
from sklearn_exdd._map_colors import is_around_peak, map_threshold
from sklearn_exdd.display.panels import (
    MAP_LINE,
    MASK_LINE,
    PATCH_LINE,
    PEAK_LINE,
    box,
    mark_level,
    new_axes,
    outline,
    show,
    write_legend,
)
from sklearn_exdd.display.scores import are_defects, score_label

_WRONG_DECISION = "#D55E00"


class DefectMapDisplay:
    """Plot of images with their anomaly maps, outlines of marked pixels, and decisions.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. Each image gets two panels. The
    first panel shows the image with outlines of the true mask and of the marked pixels. The second panel shows the map
    laid over the image. All maps share one colour scale.

    If explanations are given, a box marks the deciding patch, which is the patch that determines the score. Up to two
    more panels show the nearest training patches. If the training images are not given, a line of text describes these
    patches instead.

    The title compares the score of the image with `threshold`. The arrow at the colour bar marks `pixel_threshold`. As
    in `predict_mask`, pixels above this threshold are outlined only if the image is called a defect. A bright spot in
    an image called normal is therefore not outlined. If an image is called a defect but no pixel exceeds the pixel
    threshold, the surroundings of the peak are marked. Their outline has a different dash pattern.

    Parameters
    ----------
    images : array of shape (n_images, height, width[, channels]), list of arrays or list of paths
        Images to show.
    maps : array-like of shape (n_images, height, width) or list of array-like of shape (height, width)
        Anomaly maps. Each map has the height and width of its image. Higher values are more defective.
    scores : array-like of shape (n_images,), default=None
        Scores of the images.
    threshold : float, default=None
        Score above which an image is called a defect.
    pixel_threshold : float, default=None
        Map value above which the pixels of a defect are marked, such as `pixel_threshold_` of a detector. By default,
        this is `threshold`. If `predicted_masks` are given, the default is None, and the colour bar is not marked.
    masks : array-like of shape (n_images, height, width) or list of (array-like or None), default=None
        True masks. The entry `None` means that the image has no defect.
    labels : array-like of shape (n_images,), default=None
        True labels: 1 (or True) for a defect, 0 for a normal image. If only `masks` is given, the images whose mask
        marks a pixel are defects.
    predicted_masks : array-like of shape (n_images, height, width) or list of array-like, default=None
        Pixels that the detector marks, as returned by `predict_mask`. By default, these are the pixels of the map
        above `pixel_threshold`. In an image whose score does not exceed `threshold`, no pixel is marked.
    explanations : list of dict, default=None
        Explanation of each image, as returned by the method `explain` of a detector.
    normal_images, defect_images, synthetic_images : images, default=None
        Training images. The entry `normal_image` of an explanation is an index into `normal_images`. The entry
        `defect_image` is an index into `synthetic_images` if the entry `synthetic` is True, and into `defect_images`
        otherwise. Only the images that are shown are read.
    map_range : tuple of (float, float), default=None
        Values at the ends of the colour scale. By default, these are the lowest and the highest value of all maps. If
        `pixel_threshold` is higher than all map values, the scale ends at `pixel_threshold`. Images without a defect
        then stay dark.
    map_label : str, default=None
        Label of the colour bar, including the unit, in at most 40 characters. By default, the label is "anomaly score
        (no unit)".

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure.
    axes_ : ndarray of shape (n_images, n_panels), dtype object
        The axes. The panels of an image are the image, the map and, if explanations with training images are given,
        the nearest normal patch and the nearest defect patch.
    colorbar_ : matplotlib.colorbar.Colorbar
        The colour bar shared by all maps.
    """

    def __init__(
        self,
        *,
        images,
        maps,
        scores=None,
        threshold=None,
        pixel_threshold=None,
        masks=None,
        labels=None,
        predicted_masks=None,
        explanations=None,
        normal_images=None,
        defect_images=None,
        synthetic_images=None,
        map_range=None,
        map_label=None,
    ):
        self.images = images
        self.maps = maps
        self.scores = scores
        self.threshold = threshold
        self.pixel_threshold = pixel_threshold
        self.masks = masks
        self.labels = labels
        self.predicted_masks = predicted_masks
        self.explanations = explanations
        self.normal_images = normal_images
        self.defect_images = defect_images
        self.synthetic_images = synthetic_images
        self.map_range = map_range
        self.map_label = map_label

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, masks=None, explain=False, X_normal=None, X_defect=None, map_range=None, **kwargs
    ):
        """Apply a fitted detector to images, and plot its anomaly maps, scores, masks and optionally explanations.

        Parameters
        ----------
        estimator : object
            Fitted detector, or a Pipeline or search around one.
        X : images
            Images to show.
        y : array-like of shape (n_images,), default=None
            True labels, in the classes of the estimator.
        masks, map_range : default=None
            Parameters of the class.
        explain : bool, default=False
            Whether to mark the deciding patch of each image. The training patches nearest to it are shown if their
            training images are given, and otherwise described in words.
        X_normal, X_defect : images, default=None
            Training images, as passed to `fit`. They are used only if `explain=True`. If the detector was fitted with
            `fit(X, y)`, pass this X for both parameters.
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : DefectMapDisplay
        """
        detector, X_detector = follow_to_detector(estimator, X)
        channels = getattr(detector, "image_channels", None)
        return cls(
            images=X if channels is None else Images(X, "images", channels=channels).raw(),
            **_predictions(detector, X_detector, explain),
            threshold=getattr(detector, "threshold_", None),
            pixel_threshold=map_threshold(detector),
            masks=masks,
            labels=None if y is None else are_defects(detector, y),
            normal_images=X_normal,
            defect_images=X_defect,
            synthetic_images=getattr(getattr(detector, "synthetic_", None), "images", None),
            map_range=map_range,
            map_label=score_label(detector),
        ).plot(**kwargs)

    @classmethod
    def from_predictions(cls, images, maps, *, scores=None, threshold=None, masks=None, labels=None, **kwargs):
        """Plot existing maps.

        Parameters
        ----------
        images, maps, scores, threshold, masks, labels : default=None
            Parameters of the class.
        **kwargs : dict
            Further parameters of the class (such as `pixel_threshold`) and of :meth:`plot`.

        Returns
        -------
        display : DefectMapDisplay

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_exdd import DefectMapDisplay
        >>> images = np.full((2, 32, 32), 128, dtype=np.uint8)
        >>> maps = np.zeros((2, 32, 32))
        >>> maps[1, 8:12, 8:20] = 3.0
        >>> display = DefectMapDisplay.from_predictions(images, maps, scores=[0, 3], threshold=1.0)
        >>> display.axes_.shape
        (2, 2)
        """
        names = [name for name in kwargs if name in signature(cls).parameters]
        data = {name: kwargs.pop(name) for name in names}
        data |= {"scores": scores, "threshold": threshold, "masks": masks, "labels": labels}
        return cls(images=images, maps=maps, **data).plot(**kwargs)

    def plot(
        self, *, n_columns=None, axes=None, cmap="magma", alpha=0.8, contour=True, pixel_threshold=None, patch_size=None
    ):
        """Draw the panels.

        Parameters
        ----------
        n_columns : int, default=None
            Number of images side by side. The default is 1 if training patches are shown, and 2 otherwise.
        axes : array-like of matplotlib Axes, default=None
            The `n_images * n_panels` axes to draw on: first all panels of the first image, then those of the second
            image, and so on. By default, a new figure is created.
        cmap : str or matplotlib Colormap, default="magma"
            Colour map of the anomaly maps. The lightness of the default rises evenly, so that it can be read with any
            colour vision.
        alpha : float, default=0.8
            Opacity of the maps over the images, in [0, 1].
        contour : bool, default=True
            Whether to outline the marked pixels on the image, and to mark the pixel threshold at the colour bar.
        pixel_threshold : float, default=None
            Map value to use instead of `predicted_masks` and the `pixel_threshold` of the class.
        patch_size : int, default=None
            Side length, in pixels, of the boxes around the deciding patch and the training patches. By default, a
            quarter of the shorter side of the image.

        Returns
        -------
        self : DefectMapDisplay
        """
        try:
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize
        except ImportError as error:
            raise ImportError("DefectMapDisplay needs matplotlib: pip install 'sklearn_exdd[plot]'.") from error

        images, maps, masks = self._checked_data()
        predicted = self.predicted_masks if pixel_threshold is None else None
        level = self.pixel_threshold if pixel_threshold is None else pixel_threshold
        if level is None and predicted is None:
            level = self.threshold
        lowest, highest = min(one.min() for one in maps), max(one.max() for one in maps)
        low, high = self.map_range or (lowest, max(highest, lowest if level is None else level))
        scale = ScalarMappable(Normalize(low, high if high > low else low + 1), cmap)
        panels = ["image", "map"]
        texts = [""] * len(images)
        if self.explanations is not None:
            panels += ["normal"] * (self.normal_images is not None)
            panels += ["defect"] * (self.defect_images is not None or self.synthetic_images is not None)
            texts = [_describe(explanation, panels) for explanation in self.explanations]
        if axes is None:
            n_columns = n_columns or min(len(images), 2 if len(panels) == 2 else 1)
            n_lines = max(len(text.splitlines()) for text in texts)
            self.axes_, bar = new_axes([image.shape for image in images], len(panels), n_columns, n_lines, bar=True)
        else:
            self.axes_, bar = np.asarray(axes, dtype=object), None
            if self.axes_.size != len(images) * len(panels):
                raise ValueError(
                    f"axes: expected {len(images) * len(panels)} axes ({len(images)} images with {len(panels)} panels "
                    f"each), got {self.axes_.size}."
                )
            self.axes_ = self.axes_.reshape(len(images), len(panels))
        self.figure_ = self.axes_[0, 0].figure
        # The brightest pixel of all images is shown in white. Dim images, such as 12-bit data in a 16-bit file, become
        # visible, and the brightness of the images can still be compared.
        white = max(image.max() for image in [*images, *self._neighbours(panels[2:])])
        lines = {}
        for i, (image, anomaly_map) in enumerate(zip(images, maps)):
            on_image, on_map = self.axes_[i, :2]
            show(on_image, image, white)
            show(on_map, image, white)
            on_map.imshow(anomaly_map, cmap=cmap, norm=scale.norm, alpha=alpha)
            if masks[i] is not None and masks[i].any():
                outline(on_image, masks[i].astype(float), 0.5, MASK_LINE)
                lines["true mask"] = MASK_LINE
            if contour:
                lines |= self._outline_marked(on_image, i, anomaly_map, level, predicted)
            if self.explanations is not None:
                side = patch_size or max(8, min(image.shape[:2]) // 4)
                box(on_image, self.explanations[i]["patch"], side)
                lines["patch that decided" + " and its nearest" * (len(panels) > 2)] = PATCH_LINE
                for kind, ax in zip(panels[2:], self.axes_[i, 2:]):
                    self._show_neighbour(ax, kind, self.explanations[i], side, white)
                on_image.set_xlabel(texts[i], loc="left", fontsize="small", parse_math=False)
            self._write_title(on_image, i, masks[i])
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[lowest < low, highest > high]
        place = {"ax": self.axes_.ravel().tolist()} if bar is None else {"cax": bar}
        if bar is None and self.figure_.get_layout_engine() is None:
            place["pad"] = 0.12  # room for the text beside the bar
        label = "anomaly score (no unit)" if self.map_label is None else self.map_label
        self.colorbar_ = self.figure_.colorbar(scale, label=label, extend=extend, alpha=alpha, **place)
        if contour and level is not None:
            follows_decisions = predicted is not None or (self.scores is not None and self.threshold is not None)
            condition = ",\nif called a defect" if follows_decisions else ""
            mark_level(self.colorbar_, level, f"outlined above {level:.4g}{condition}")
        if lines:
            # Sort the lines, so that their order is the same whichever image has added a line first.
            write_legend(self.axes_, dict(sorted(lines.items(), reverse=True)), below=bar is not None)
        return self

    def _checked_data(self):
        """Read the images and masks, check the number and size of all arguments, and return images, maps and masks."""
        images = list(Images(self.images, name="images"))
        for name in ("maps", "scores", "masks", "labels", "predicted_masks", "explanations"):
            values = getattr(self, name)
            if values is not None and len(values) != len(images):
                raise ValueError(f"{name}: expected one entry for each of the {len(images)} images, got {len(values)}.")
        maps = [np.asarray(anomaly_map, dtype=float) for anomaly_map in self.maps]
        for i, (image, anomaly_map) in enumerate(zip(images, maps)):
            if anomaly_map.shape != image.shape[:2]:
                raise ValueError(
                    f"maps[{i}]: expected the shape of its image, {image.shape[:2]}, got {anomaly_map.shape}. "
                    "Resize the map to the size of the image."
                )
        masks = None if self.masks is None else Masks(self.masks, len(images))
        return images, maps, [masks and masks.get(i, image.shape) for i, image in enumerate(images)]

    def _decision(self, i):
        """Return True if an image is called a defect, or None if the score or the threshold is not known."""
        return None if self.scores is None or self.threshold is None else bool(self.scores[i] > self.threshold)

    def _outline_marked(self, ax, i, anomaly_map, level, predicted):
        """Outline the marked pixels of an image. Return a dict from the label in the legend to the line style."""
        if predicted is not None:
            mask = np.asarray(predicted[i])
            if not mask.any():
                return {}
            label, line = "predicted mask", MAP_LINE
            if level is not None and is_around_peak(mask, np.asarray(self.maps[i]), level):
                label, line = "predicted around the peak", PEAK_LINE
            outline(ax, mask.astype(float), 0.5, line)
            return {label: line}
        if level is None or self._decision(i) is False or not anomaly_map.max() > level:
            return {}
        outline(ax, anomaly_map, level, MAP_LINE)
        return {f"map above {level:.4g}": MAP_LINE}

    def _write_title(self, ax, i, mask):
        """Write the score, the decision and the true label above the panels of an image."""
        title, decided, truth, style = f"[{i}]", self._decision(i), None, {}
        if self.scores is not None:
            words = ("score {:.4g}", "normal, score {:.4g} ≤ {:.4g}", "defect, score {:.4g} > {:.4g}")
            title += " " + words[0 if decided is None else 1 + decided].format(self.scores[i], self.threshold)
        if self.labels is not None or self.masks is not None:
            truth = bool(self.labels[i]) if self.labels is not None else mask is not None and bool(mask.any())
            title += f"\ntrue label: {'defect' if truth else 'normal'}"
        if None not in (decided, truth) and decided != truth:
            title += " (missed)" if truth else " (false alarm)"
            style = {"color": _WRONG_DECISION}
        ax.set_title(title, loc="left", fontsize="medium", **style)

    def _neighbours(self, kinds):
        """Return the nearest training images of all explanations, for the given kinds of panels."""
        found = [self._neighbour(kind, explanation) for kind in kinds for explanation in self.explanations]
        return [image for image in found if image is not None]

    def _neighbour(self, kind, explanation):
        """Return the nearest training image of one kind in an explanation, or None if this image was not given."""
        index = explanation[f"{kind}_image"]
        source = self.normal_images if kind == "normal" else self.defect_images
        if kind == "defect" and explanation["synthetic"]:
            source = self.synthetic_images
        return None if index is None or source is None else Images(source, name=f"{kind}_images")[index]

    def _show_neighbour(self, ax, kind, explanation, side, white):
        """Show the nearest training patch of one kind, within a section of its image that is twice as wide and high."""
        image, center = self._neighbour(kind, explanation), explanation[f"{kind}_patch"]
        if explanation[f"{kind}_image"] is not None:
            ax.set_title(_describe_neighbour(explanation, kind, "\n"), loc="left", fontsize="small")
        if image is None:
            ax.set_axis_off()
            return
        show(ax, image, white)
        box(ax, center, side)
        starts = [min(max(at - side, -0.5), max(n - 2 * side, 0) - 0.5) for at, n in zip(center, image.shape)]
        stops = [min(start + 2 * side, n - 0.5) for start, n in zip(starts, image.shape)]
        ax.set(ylim=(stops[0], starts[0]), xlim=(starts[1], stops[1]))


def _predictions(detector, X, explain):
    """Compute maps, scores, masks and explanations. Use a single pass if the detector has the method `inspect`."""
    if not hasattr(detector, "inspect"):
        explanations = detector.explain(X) if explain else None
        return {"maps": detector.predict_map(X), "scores": detector.score_samples(X), "explanations": explanations}
    if explain and not hasattr(detector, "explain"):
        raise TypeError(
            f"explain: expected False for a {type(detector).__name__}, which has no method explain, got True."
        )
    results = detector.inspect(X)
    if explain and "patch" not in results[0].explanation:
        raise TypeError(
            f"explain: expected False for a {type(detector).__name__}, because each member has a deciding patch of "
            "its own, got True. To explain one member, pass an item of the attribute detectors_."
        )
    masks = [result.mask for result in results]
    return {
        "maps": [result.map for result in results],
        "scores": [result.score for result in results],
        "predicted_masks": None if masks[0] is None else masks,
        "explanations": [result.explanation for result in results] if explain else None,
    }


def _describe_neighbour(explanation, kind, separator):
    synthetic = kind == "defect" and explanation["synthetic"]
    name = f"nearest {kind} [{'synthetic ' if synthetic else ''}{explanation[f'{kind}_image']}]"
    return f"{name}{separator}distance {explanation[f'{kind}_distance']:.4g}"


def _describe(explanation, panels):
    """Return the lines under an image: nearest patches that have no panel, and the prompt of a synthetic defect."""
    lines = []
    for kind in ("normal", "defect"):
        if kind not in panels and explanation[f"{kind}_image"] is not None:
            row, column = explanation[f"{kind}_patch"]
            lines.append(_describe_neighbour(explanation, kind, f" at row {row:.0f}, column {column:.0f}, "))
    if explanation["prompt"]:
        lines.append(f'prompt: "{textwrap.shorten(explanation["prompt"], 55, placeholder="...")}"')
    return "\n".join(lines)
