"""Display of a DriftMonitor: the evidence after each image that the stream of images has changed."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

# Okabe-Ito colours. Each curve also has its own dashes, so that it can be recognised in grey print and with any
# colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))


class DriftDisplay:
    """Plot of the martingales of a drift monitor against the number of images, with a line at the alarm value.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    n_seen : array-like of shape (n_points,)
        Numbers of images after which the martingales were recorded.
    log10_martingales : dict of str to array-like of shape (n_points,)
        Names of the statistics. The values are the decimal logarithms of the martingale at the points of `n_seen`.
    log10_threshold : float
        Decimal logarithm of the martingale at which an alarm is raised.
    alarms : dict of str to int, default=None
        Number of images after which a statistic raised its alarm. Statistics without an alarm are left out. Each
        alarm is marked with a dot.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure.
    ax_ : matplotlib Axes
        The axes.
    """

    def __init__(self, *, n_seen, log10_martingales, log10_threshold, alarms=None):
        self.n_seen = n_seen
        self.log10_martingales = log10_martingales
        self.log10_threshold = log10_threshold
        self.alarms = alarms

    @classmethod
    def from_estimator(cls, monitor, **kwargs):
        """Plot the martingales of a fitted monitor.

        Parameters
        ----------
        monitor : DriftMonitor
        **kwargs : dict
            Arguments of :meth:`plot`.

        Returns
        -------
        display : DriftDisplay

        Raises
        ------
        NotFittedError
            If the monitor is not fitted.

        Examples
        --------
        >>> from sklearn_exdd import DriftDisplay, DriftMonitor, ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, _, _ = make_surface_defects(60, defect_fraction=0, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:40])
        >>> monitor = DriftMonitor(detector, random_state=0).fit(X[:40])
        >>> result = monitor.update(X[40:])
        >>> display = DriftDisplay.from_estimator(monitor)
        >>> display.ax_.get_xlabel()
        'number of images'
        """
        check_is_fitted(monitor, "history_")
        curves = dict(zip(monitor.statistics_, monitor.history_[:, 1:].T))
        return cls(
            n_seen=monitor.history_[:, 0],
            log10_martingales=curves,
            log10_threshold=monitor.log10_threshold_,
            alarms=monitor.alarms_,
        ).plot(**kwargs)

    def plot(self, *, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. By default, a new figure is created. The vertical axis ends at twice the height of the
            alarm line. Curves that rise higher are cut off there.

        Returns
        -------
        self : DriftDisplay
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("DriftDisplay needs matplotlib: pip install 'sklearn_exdd[plot]'.") from error

        n_seen, alarms = np.asarray(self.n_seen), self.alarms or {}
        for name, values in self.log10_martingales.items():
            if np.shape(values) != n_seen.shape:
                raise ValueError(
                    f"log10_martingales[{name!r}]: expected one value for each of the {len(n_seen)} points of n_seen, "
                    f"got shape {np.shape(values)}."
                )
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        for number, (name, values) in enumerate(self.log10_martingales.items()):
            style = {"color": _COLORS[number % len(_COLORS)], "linestyle": _DASHES[number % len(_DASHES)]}
            text = name if name not in alarms else f"{name}: alarm after {alarms[name]} images"
            self.ax_.plot(n_seen, values, label=text, **style)
            if name in alarms:
                height = max(self.log10_threshold, np.interp(alarms[name], n_seen, values))
                self.ax_.plot(alarms[name], height, "o", color=style["color"], zorder=3)
        self.ax_.axhline(self.log10_threshold, color="black", linewidth=1, label=f"alarm at {self.log10_threshold:.3g}")
        lowest = min(np.min(values) for values in self.log10_martingales.values())
        self.ax_.set_ylim(min(lowest, -1) - 0.25, 2 * self.log10_threshold)
        self.ax_.set(xlabel="number of images", ylabel=r"$\log_{10}$ of the martingale (no unit)")
        self.ax_.legend()
        return self
