"""Conformal test martingales, which test the hypothesis that a stream is exchangeable.

A martingale is the capital of a player who bets against the hypothesis. The capital starts at 1, and its expected value
stays 1 as long as the hypothesis holds. By Ville's inequality, the probability that the capital ever reaches
``1 / alpha`` is then at most ``alpha``, for streams of any length.
"""

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

# Parameters (a, b) of the beta densities to bet on, and the change for which each bet pays. Strong bets detect a large
# change after few images. Only weak bets detect a small change.
_BETS = {
    (1 / 4, 1): "higher",
    (1 / 2, 1): "higher",
    (1, 3 / 2): "higher",
    (1, 1 / 4): "lower",
    (1, 1 / 2): "lower",
    (3 / 2, 1): "lower",
    (1 / 2, 1 / 2): "more spread",
    (2, 2): "less spread",
}
_A, _B = np.array(list(_BETS), dtype=float).T
_CHANGES = list(_BETS.values())
_LOWEST = 1e-15  # lower limit of p-values, which are exact to about 1e-16; at 0, densities are infinite


def smoothed_p_value(pool, value, tie_break):
    """Return the fraction of a pool that is at least as high as a value, including a random fraction of the ties.

    If the value is exchangeable with the pool, the p-value is uniform on [0, 1]. If each value then joins the pool, the
    p-values of a stream are also independent. With a fixed pool, they are not independent. For example, if a few
    hundred reference values happen to be low, all later p-values are too small.

    Parameters
    ----------
    pool : ndarray of shape (n,)
        Values to compare with, sorted in ascending order.
    value : float
    tie_break : float
        Uniform random number in [0, 1).

    Returns
    -------
    p_value : float
        Fraction in (0, 1]. It is small if the value is high.

    References
    ----------
    V. Vovk, A. Gammerman and G. Shafer, "Algorithmic learning in a random world", 2005, theorem 8.2 and equation 2.20
    (smoothed conformal p-values).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.monitor.martingales import smoothed_p_value
    >>> smoothed_p_value(np.array([1.0, 2.0, 2.0]), 3.0, 0.5)
    0.125
    >>> smoothed_p_value(np.array([1.0, 2.0, 2.0]), 2.0, 0.5)
    0.375
    """
    low, high = np.searchsorted(pool, value, "left"), np.searchsorted(pool, value, "right")
    n_higher, n_ties = len(pool) - high, high - low + 1  # the value itself also counts as a tie
    return float((n_higher + (1 - tie_break) * n_ties) / (len(pool) + 1))


def no_bets(n_martingales):
    """Return the log capitals before the first image. All are -inf, because no bet holds any capital yet."""
    return np.full((n_martingales, len(_BETS)), -np.inf)


def bet(log_capitals, p_values, n_seen):
    """Let martingales bet on the p-values of one more image.

    Parameters
    ----------
    log_capitals : ndarray of shape (n_martingales, n_bets)
        Natural logarithm of the capital in each bet.
    p_values : ndarray of shape (n_martingales,)
        p-values of the image, one per martingale, in [0, 1].
    n_seen : int
        Number of images before this one.

    Returns
    -------
    log_capitals : ndarray of shape (n_martingales, n_bets)
        Capitals after this image.
    log10_martingales : ndarray of shape (n_martingales,)
        Decimal logarithm of each martingale. A martingale is the sum of the capital in its bets and its reserve.

    Notes
    -----
    The time of a change is unknown, so the initial capital is bet little by little. The rest is the reserve. Before
    image t = 1, 2, ..., the reserve is ``R(t) = 1 / (1 + log(t))``. Then the amount ``R(t) - R(t + 1)`` is taken from
    the reserve and divided evenly among the bets. With each image, the capital in a bet is multiplied by the beta
    density of the p-value. The reserve falls very slowly: a change after a million images is detected only about three
    images later than a change after a thousand images. The alternative is the simple jumper, which moves a fixed share
    of the capital from bet to bet. It loses capital exponentially as long as nothing changes.

    References
    ----------
    V. Vovk, I. Nouretdinov and A. Gammerman, "Testing exchangeability on-line", ICML 2003: power martingales.
    D. Volkhonskiy et al., "Inductive conformal martingales for change-point detection", COPA 2017.
    V. Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection", COPA 2021: the
    simple jumper.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.monitor.martingales import bet, no_bets
    >>> log_capitals = no_bets(2)
    >>> for n_seen in range(10):
    ...     log_capitals, values = bet(log_capitals, np.array([0.5, 0.001]), n_seen)
    >>> values.round(1).tolist()
    [0.6, 15.2]
    """
    p_values = np.clip(p_values, _LOWEST, 1 - _LOWEST)[:, None]
    log_densities = xlogy(_A - 1, p_values) + xlog1py(_B - 1, -p_values) - betaln(_A, _B)
    reserve, rest = 1 / (1 + np.log(n_seen + 1)), 1 / (1 + np.log(n_seen + 2))
    log_capitals = np.logaddexp(log_capitals, np.log((reserve - rest) / len(_BETS))) + log_densities
    return log_capitals, np.logaddexp(np.logaddexp.reduce(log_capitals, axis=1), np.log(rest)) / np.log(10)


def paying_change(log_capitals):
    """Return the change, such as "higher", whose bet holds the largest part of the capital of a martingale.

    Parameters
    ----------
    log_capitals : ndarray of shape (n_bets,)

    Returns
    -------
    change : {"higher", "lower", "more spread", "less spread"}

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.monitor.martingales import bet, no_bets, paying_change
    >>> paying_change(bet(no_bets(1), np.array([0.99]), 0)[0][0])
    'lower'
    """
    return _CHANGES[int(np.argmax(log_capitals))]
