"""Display of scores: histogram of normal images and of defects, with the threshold between them."""

import numpy as np
from sklearn.utils import column_or_1d

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd.display.scores import are_defects, count_scores, score_edges, score_label

# Okabe-Ito blue and vermilion. The bars of defects are also hatched, so that they can be recognised in grey print and
# with any colour vision.
_NORMAL_COLOR, _DEFECT_COLOR = "#0072B2", "#D55E00"


class ScoreHistogramDisplay:
    """Histogram of the scores of normal images and of defects, with the threshold.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. The threshold is an edge between two bins, so
    no bar crosses the threshold. The legend gives the number of mistakes.

    Parameters
    ----------
    y : array-like of shape (n_images,)
        Labels of the images: 1 (or True) for a defect, 0 for a normal image.
    scores : array-like of shape (n_images,)
        Scores of the images, higher = more defective.
    threshold : float, default=None
        Score above which an image is called a defect.
    score_label : str, default=None
        Label of the score axis, including the unit. By default, the label is "anomaly score (no unit)".

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure.
    ax_ : matplotlib Axes
        The axes.
    """

    def __init__(self, *, y, scores, threshold=None, score_label=None):
        self.y = y
        self.scores = scores
        self.threshold = threshold
        self.score_label = score_label

    @classmethod
    def from_estimator(cls, estimator, X, y, *, threshold=None, **kwargs):
        """Score images with a fitted detector and plot the scores.

        Parameters
        ----------
        estimator : object
            Fitted detector, or a Pipeline or search around one.
        X : images or array-like of shape (n_images, n_features)
            Images to score, in the form that the estimator was fitted on.
        y : array-like of shape (n_images,)
            True labels, in the classes of the estimator.
        threshold : float, default=None
            Score above which an image is called a defect. By default, this is the threshold of the detector itself. If
            the detector is inside a TunedThresholdClassifierCV, the tuned threshold is not used.
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : ScoreHistogramDisplay

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> from sklearn_exdd.display import ScoreHistogramDisplay
        >>> X, y, masks = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector(random_state=0).fit(X[:30], y[:30], masks=masks[:30])
        >>> display = ScoreHistogramDisplay.from_estimator(detector, X[30:], y[30:])
        >>> display.ax_.get_ylabel()
        'number of images'
        """
        detector, X = follow_to_detector(estimator, X)
        return cls(
            y=are_defects(detector, y),
            scores=detector.score_samples(X),
            threshold=getattr(detector, "threshold_", None) if threshold is None else threshold,
            score_label=score_label(detector),
        ).plot(**kwargs)

    @classmethod
    def from_predictions(cls, y, scores, *, threshold=None, score_label=None, **kwargs):
        """Plot existing scores.

        Parameters
        ----------
        y, scores, threshold, score_label : default=None
            Parameters of the class.
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : ScoreHistogramDisplay

        Examples
        --------
        >>> from sklearn_exdd.display import ScoreHistogramDisplay
        >>> display = ScoreHistogramDisplay.from_predictions([0, 0, 0, 1], [0.8, 1.1, 1.4, 2.5], threshold=1.2)
        >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
        ['normal: 3, 1 false alarm (33.3 %)', 'defect: 1, 0 missed (0 %)', 'threshold 1.2']
        """
        return cls(y=y, scores=scores, threshold=threshold, score_label=score_label).plot(**kwargs)

    def plot(self, *, ax=None, n_bins=30):
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created.
        n_bins : int, default=30
            Number of bins of equal width. One more bin is added if this is necessary to put an edge at the threshold.

        Returns
        -------
        self : ScoreHistogramDisplay
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("ScoreHistogramDisplay needs matplotlib: pip install 'sklearn_exdd[plot]'.") from error

        is_defect, scores = self._checked_data()
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        edges = score_edges(scores, self.threshold, n_bins)
        styles = {
            "normal": {"color": _NORMAL_COLOR, "alpha": 0.55},
            "defect": {"facecolor": "none", "edgecolor": _DEFECT_COLOR, "hatch": "////", "linewidth": 1.2},
        }
        for (kind, style), chosen in zip(styles.items(), (~is_defect, is_defect)):
            label = self._describe(kind, scores[chosen])
            self.ax_.stairs(count_scores(scores[chosen], edges), edges, fill=True, label=label, **style)
        if self.threshold is not None:
            self.ax_.axvline(self.threshold, color="black", linestyle="--", label=f"threshold {self.threshold:.4g}")
        self.ax_.yaxis.get_major_locator().set_params(integer=True)
        label = "anomaly score (no unit)" if self.score_label is None else self.score_label
        self.ax_.set(xlabel=label, ylabel="number of images")
        self.ax_.legend()
        return self

    def _describe(self, kind, scores):
        """Return the legend entry of one kind of images: the number of images and the number of mistakes."""
        text = f"{kind}: {len(scores)}"
        if self.threshold is None or not len(scores):
            return text
        called = scores > self.threshold
        n_wrong = int(called.sum() if kind == "normal" else (~called).sum())
        mistake = "missed" if kind == "defect" else "false alarm" if n_wrong == 1 else "false alarms"
        return f"{text}, {n_wrong} {mistake} ({100 * n_wrong / len(scores):.3g} %)"

    def _checked_data(self):
        """Check labels and scores. Return the labels as booleans (True for a defect), and the scores."""
        y, scores = column_or_1d(self.y), column_or_1d(self.scores, dtype=float)
        if len(y) != len(scores) or not len(y):
            raise ValueError(
                f"y, scores: expected one label and one score per image, got {len(y)} labels and {len(scores)} scores."
            )
        if not np.isfinite(scores).all():
            index = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise ValueError(f"scores[{index}]: expected a finite number, got {scores[index]}.")
        others = sorted(set(y.tolist()) - {0, 1})
        if others:
            raise ValueError(
                f"y: expected 1 (or True) for a defect and 0 for a normal image, got {others[0]!r}. Pass the result of "
                "y == label, where label is the label of defects."
            )
        return y.astype(bool), scores
