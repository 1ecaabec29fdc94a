r"""Order and lag of a delay embedding: mutual information, false neighbours, and derivatives on the projected manifold.

.. math:: \beta(\tau) = \Big\langle \log \frac{|x_{t-\tau} - x_{t'-\tau}|}{|z_t - z_{t'}|} \Big\rangle_t

Notation  x_t (n,) sample, each channel divided by its standard deviation; z_t the embedding so far; t' nearest
          neighbour of t in z, more than the Theiler window w away in time; tau delay; r ratio beyond which a neighbour
          is false.
Cost      M n for each delay tried and M T n for each added, M reference points, at most 400 of a trial; 20 trials,
          evenly spaced, are looked at.
Pitfalls  meant for smooth, nearly deterministic signals: in noise every neighbour is false, and the order runs to its
          upper end. Labels are not used, so what is chosen need not tell the classes apart.
References  C. Nichkawde, Optimal state-space reconstruction using derivatives on projected manifold, 2013, arXiv
            1308.3071. A. Fraser, H. Swinney, Independent coordinates for strange attractors from mutual information,
            1986. M. Kennel, R. Brown, H. Abarbanel, Determining embedding dimension, 1992.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["ami_fnn", "first_minimum_of_information", "mdop"]

_TRIALS = 20
_POINTS = 400
_FALSE = 0.05  # an order is enough when fewer neighbours than this share are false


def first_minimum_of_information(x, max_lag):
    r"""Return the first minimum of the mutual information between a signal and itself delayed.

    Parameters
    ----------
    x : ndarray, shape (T,)
        Signal, any units: only the order of the values counts.
    max_lag : int
        Largest delay looked at, in samples.

    Returns
    -------
    int
        Samples, at least 1; `max_lag` where the information falls all the way.

    Notes
    -----
    The histogram has :math:`T^{1/3}` equally filled bins, and its bias of (bins - 1)^2 / 2 T nats is the same at all
    lags but for the shrinking T. A rise counts only beyond twice the standard deviation of that bias.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.delay_embedding import first_minimum_of_information
    >>> from scipy.signal import lfilter
    >>> noise = np.random.default_rng(0).normal(size=4000)
    >>> x = lfilter([1], [1, -1.96 * np.cos(np.pi / 12), 0.98**2], noise)  # a period of 24 samples
    >>> first_minimum_of_information(x, 30)
    6
    """
    x = np.asarray(x, dtype=np.float64)
    T = len(x)
    bins = int(np.clip(round(T ** (1 / 3)), 2, 32))
    codes = np.argsort(np.argsort(x, kind="stable"), kind="stable") * bins // T
    noise = 2 * np.sqrt((bins - 1) ** 2 / 2) / T
    lowest, where = np.inf, 1
    for lag in range(1, min(max_lag, T - 2) + 1):
        joint = np.bincount(codes[lag:] * bins + codes[: T - lag], minlength=bins**2).reshape(bins, bins) / (T - lag)
        product = joint.sum(axis=1)[:, None] * joint.sum(axis=0)
        full = joint > 0
        information = (joint[full] * np.log(joint[full] / product[full])).sum() - (bins - 1) ** 2 / (2 * (T - lag))
        if information < lowest:
            lowest, where = information, lag
        elif information > lowest + noise:
            return where
    return where


def ami_fnn(trials, *, max_order=10, max_lag=10, ratio=10.0):
    """Return order and lag by the first minimum of mutual information and the share of false neighbours.

    Parameters
    ----------
    trials : Trials
        Series.
    max_order, max_lag : int
        Upper ends; 10 by default, as in the published grids.
    ratio : float
        A neighbour is false if it moves away by more than that many times its distance; 10 by default, as published.

    Returns
    -------
    order, lag : int
        The lag is the median over channels and trials, the order the mean over trials, both rounded.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule, or trials are too short for any embedding.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.delay_embedding import ami_fnn
    >>> from sciml.stats.spd.trials import as_trials
    >>> from scipy.signal import lfilter
    >>> noise = np.random.default_rng(0).normal(size=1000)
    >>> x = lfilter([1], [1, -1.96 * np.cos(np.pi / 12), 0.98**2], noise)  # a period of 24 samples
    >>> ami_fnn(as_trials(x[None, None]))
    (4, 6)
    """
    series, max_order, max_lag = _entered(trials, max_order, max_lag, ratio)
    minima = [[first_minimum_of_information(c, max_lag) for c in x] for x in series]
    lag = int(round(float(np.median(np.concatenate(minima)))))
    orders = []
    for x, own in zip(series, minima, strict=True):
        top = min(max_order, (x.shape[1] - 2) // (2 * lag))
        cloud = _Cloud(x, window=max(own), span=max(top - 1, 0) * lag)
        order = 1
        while order < top and cloud.false_share(order * lag, ratio) > _FALSE:
            cloud.append(order * lag)
            order += 1
        orders.append(order)
    return int(round(float(np.mean(orders)))), lag


def mdop(trials, *, max_order=10, max_lag=10, ratio=2.0):
    """Return order and lag by the delays that separate neighbours fastest.

    Parameters
    ----------
    trials : Trials
        Series.
    max_order, max_lag : int
        Upper ends; 10 by default. Delays up to ``min(30, max_order * max_lag)`` are tried.
    ratio : float
        A neighbour is false if it moves away by more than that many times its distance; 2 by default. Delays are added
        as long as more than 5 % of all neighbours are false.

    Returns
    -------
    order, lag : int
        Number of coordinates, and their mean spacing (largest delay over order - 1), means over trials, rounded.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule, or trials are too short for any embedding.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.delay_embedding import mdop
    >>> from sciml.stats.spd.trials import as_trials
    >>> from scipy.signal import lfilter
    >>> noise = np.random.default_rng(0).normal(size=1000)
    >>> x = lfilter([1], [1, -1.96 * np.cos(np.pi / 12), 0.98**2], noise)  # a period of 24 samples
    >>> mdop(as_trials(x[None, None]))
    (5, 7)
    """
    series, max_order, max_lag = _entered(trials, max_order, max_lag, ratio)
    orders, spacings = [], []
    for x in series:
        longest = min(30, max_order * max_lag, (x.shape[1] - 2) // 2)
        window = max(first_minimum_of_information(c, max_lag) for c in x)
        cloud = _Cloud(x, window=window, span=longest)
        delays = []
        while len(delays) + 1 < max_order and len(delays) < longest:
            free = [tau for tau in range(1, longest + 1) if tau not in delays]
            tau = free[int(np.argmax([cloud.derivative(tau) for tau in free]))]
            if cloud.false_share(tau, ratio) <= _FALSE:
                break
            cloud.append(tau)
            delays.append(tau)
        orders.append(len(delays) + 1)
        if delays:
            spacings.append(max(delays) / len(delays))
    lag = int(np.clip(round(float(np.mean(spacings))), 1, max_lag)) if spacings else 1
    return int(round(float(np.mean(orders)))), lag


def _entered(trials, max_order, max_lag, ratio):
    """Return a spread of the trials, standardised, and the checked options."""
    max_order = check_number("max_order", max_order, low=1, integer=True)
    max_lag = check_number("max_lag", max_lag, low=1, integer=True)
    check_number("ratio", ratio, low=1, inclusive="neither")
    if trials.kind == "matrices" or trials.lengths.min() < 8:
        what = "matrices" if trials.kind == "matrices" else f"{trials.lengths.min()} samples"
        raise InvalidInputError(f"embeddings need series of at least 8 samples; got {what}.")
    rows = np.unique(np.linspace(0, len(trials) - 1, _TRIALS).round().astype(int))
    chosen = trials.subset(rows)
    series = []
    for _, block in chosen.groups:
        for x in block:
            spread = x.std(axis=1)
            live = spread > 1e-12 * np.abs(x).max(axis=1)
            if live.any():
                series.append((x[live] - x[live].mean(axis=1, keepdims=True)) / spread[live, None])
    if not series:
        raise InvalidInputError("embeddings need trials that vary in time; all are constant.")
    return series, max_order, max_lag


class _Cloud:
    """Points of an embedding and the nearest neighbour of some of them."""

    def __init__(self, x, window, span):
        self.x, self.span = x.T, span
        last = len(self.x) - 1
        self.points = np.unique(np.linspace(span, last, _POINTS).round().astype(int))
        self.others = np.arange(span, last + 1)
        self.near = np.abs(self.points[:, None] - self.others) <= window
        if self.near.all():
            self.near = self.points[:, None] == self.others
        self.squares = np.where(self.near, np.inf, 0.0)
        self.append(0)

    def append(self, tau):
        a, b = self.x[self.points - tau], self.x[self.others - tau]
        # |a - b|^2 by one product: neighbours need no more digits than that.
        new = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        self.squares += np.maximum(new, 0.0)
        best = self.squares.argmin(axis=1)
        self.neighbour = self.others[best]
        self.distance = np.sqrt(self.squares[np.arange(len(best)), best])

    def _moves(self, tau):
        """Return how far neighbours are apart at a delay, over their distance."""
        apart = np.linalg.norm(self.x[self.points - tau] - self.x[self.neighbour - tau], axis=1)
        # Coordinates are standardised, so a distance of rounding size is none.
        return np.maximum(apart, 1e-12) / np.maximum(self.distance, 1e-6)

    def derivative(self, tau):
        return np.log(self._moves(tau)).mean()

    def false_share(self, tau, ratio):
        return float((self._moves(tau) > ratio).mean())
