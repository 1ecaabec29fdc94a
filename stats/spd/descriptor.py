r"""Descriptors: from trials to one symmetric positive semidefinite matrix each.

.. math:: x \mapsto M = \begin{pmatrix} (1 - \gamma) S + \gamma \frac{\operatorname{tr} S}{n p} I + c c' & c \\
          c' & I \end{pmatrix}

One frozen object says what is done; `Descriptor.fit` learns what must come from the training trials (their scale, the
mean series of each class, spatial filters), `Descriptor.matrices` applies it to any trials.

Notation  x (n, T) trial; S covariance of the lagged trial about its trends; c trends (see `augmented`); gamma
          shrinkage; p order; K number of polynomials; d = (n + prototypes) p + K rows of M.
Cost      see `lag_bank`; `descriptor_grid` shares the products of lags among all descriptors of the same series.
Pitfalls  prototypes are means of classes: fit them inside cross-validation, on the training labels only. A constant
          trial has no covariance: take n_basis >= 1, which keeps its level.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508. A. Barachant, M. Congedo, A plug and play P300 BCI using information geometry, 2014, arXiv
            1409.0107.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.augmented import LAG_ESTIMATORS, augmented_covariance, check_length
from sciml.stats.spd.covariance import check_estimator_name, shrunk
from sciml.stats.spd.filter_bank import check_bands, filtered
from sciml.stats.spd.lag_bank import LagBank
from sciml.stats.spd.prototypes import append_prototypes, class_prototypes
from sciml.stats.spd.trials import as_trials
from sciml.validation import check_number, check_option

__all__ = ["Descriptor", "descriptor_grid"]


@dataclass(frozen=True)
class Descriptor:
    r"""How a trial becomes a matrix.

    Parameters
    ----------
    n_basis : int
        Polynomials of time K that are appended: 0, the default, is the covariance; 1 adds the mean (Gaussian
        embedding); 3 to 12 add slow trends.
    order : int
        Number of lagged windows p; 1, the default: none.
    lag : int
        Samples between windows l; 1 by default. It says nothing where the order is 1.
    estimator : str
        One of `covariance.ESTIMATORS`; "scm" by default.
    shrink : float
        Relative shrinkage of S towards its mean variance, from 0 to 1; 1e-3 by default: every matrix is regular.
    lag_estimator : {"windowed", "toeplitz"}
        See `augmented`; "windowed" by default. "toeplitz" goes with the estimator "scm" only.
    scale : {"rms"} or None
        Divide trials by the root mean square of the training trials about their own means (the default), so that no
        unit of measurement changes a decision; or leave them, so that matrices are in squared units of the data.
    prototypes : bool
        Append the mean series of each class as channels (event-related signals); False by default. Needs labels in
        `fit` and trials of equal length.
    xdawn : int or None
        Reduce each class mean to that many components by xDAWN; None, the default: all channels.
    bands : tuple of (float, float), or None
        Pass bands (low, high) in units of `fs`: hertz, where `fs` is given in hertz. None, the default: no filter.
    fs : float
        Sampling rate; 1, the default: bands are fractions of the sampling rate, below 0.5.
    band_layout : {"stack", "block"}
        A matrix for each band, (N, bands, d, d), the default; or one block-diagonal matrix.

    Raises
    ------
    InvalidInputError
        If a parameter breaks its rule.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor import Descriptor
    >>> x = np.random.default_rng(0).normal(size=(5, 3, 60))
    >>> descriptor = Descriptor(n_basis=1, order=2, lag=4)
    >>> state = descriptor.fit(x)
    >>> descriptor.matrices(x, state).shape, descriptor.label
    ((5, 7, 7), 'order 2, lag 4, mean')
    """

    n_basis: int = 0
    order: int = 1
    lag: int = 1
    estimator: str = "scm"
    shrink: float = 1e-3
    lag_estimator: str = "windowed"
    scale: str | None = "rms"
    prototypes: bool = False
    xdawn: int | None = None
    bands: tuple | None = field(default=None)
    fs: float = 1.0
    band_layout: str = "stack"

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("n_basis", check_number("n_basis", self.n_basis, low=0, integer=True))
        put("order", check_number("order", self.order, low=1, integer=True))
        put("lag", check_number("lag", self.lag, low=1, integer=True))
        put("estimator", check_estimator_name(self.estimator))
        put("shrink", check_number("shrink", self.shrink, low=0, high=1))
        check_option("lag_estimator", self.lag_estimator, LAG_ESTIMATORS)
        check_option("band_layout", self.band_layout, ("stack", "block"))
        put("fs", check_number("fs", self.fs, low=0, inclusive="neither"))
        put("prototypes", bool(self.prototypes))
        if self.scale is not None:
            check_option("scale", self.scale, ("rms",))
        if self.bands is not None:
            put("bands", check_bands(self.bands, self.fs))
        if self.xdawn is not None:
            put("xdawn", check_number("xdawn", self.xdawn, low=1, integer=True))
            if not self.prototypes:
                raise InvalidInputError(f"xdawn goes with prototypes=True; got xdawn={self.xdawn} without.")
        if self.lag_estimator == "toeplitz" and self.estimator != "scm":
            raise InvalidInputError(
                f'lag_estimator="toeplitz" goes with estimator="scm" only; got {self.estimator!r}. Use "windowed".'
            )

    @property
    def label(self):
        """str: a few words for tables."""
        words = [] if self.order == 1 else [f"order {self.order}, lag {self.lag}"]
        if self.n_basis:
            words.append("mean" if self.n_basis == 1 else f"time basis {self.n_basis}")
        if self.prototypes:
            words.append("prototypes")
        if self.bands:
            words.append(f"{len(self.bands)} bands")
        if self.estimator != "scm":
            words.append(self.estimator)
        return ", ".join(words) or "covariance"

    def settings(self):
        """Return the parameters as plain values, such that ``Descriptor(**settings)`` is equal.

        Returns
        -------
        dict
        """
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def names(self, channels, n_prototypes=0):
        """Return the names of the rows of the matrices.

        Parameters
        ----------
        channels : sequence of str
            Names of the channels.
        n_prototypes : int
            Number of appended series, ``state["prototypes"].shape[1]``; 0 by default.

        Returns
        -------
        list of str
            Such as "Cz", "Cz(t+4)" and "p0"; with block-diagonal bands each name is preceded by its band.
        """
        series = [f"prototype{i}" for i in range(n_prototypes)] + list(channels)
        names = [f"{c}(t+{i * self.lag})" if i else c for i in range(self.order) for c in series]
        names += [f"p{k}" for k in range(self.n_basis)]
        if self.bands and self.band_layout == "block":
            names = [f"{low:g}-{high:g}:{name}" for low, high in self.bands for name in names]
        return names

    def fit(self, trials, y=None):
        """Return what must be learned from training trials.

        Parameters
        ----------
        trials : Trials or array
            Training trials.
        y : array, shape (N,), or None
            Labels; needed for prototypes only.

        Returns
        -------
        dict
            "n_channels", "scale" (bands,), and for prototypes "prototypes" (bands, P, T): plain numbers and arrays.

        Raises
        ------
        InvalidInputError
            If labels are missing, or matrices came where series are needed.
        """
        trials = self._checked(trials)
        state = {"n_channels": trials.n_channels}
        scales, prototypes = [], []
        for part in self._parts(trials):
            scales.append(1.0 if self.scale is None else _rms(part))
            if self.prototypes:
                prototypes.append(class_prototypes(part, y, n_components=self.xdawn))
        state["scale"] = np.array(scales)
        if self.prototypes:
            state["prototypes"] = np.stack([series for series, _ in prototypes])
        return state

    def matrices(self, trials, state):
        """Return the matrices of trials.

        Parameters
        ----------
        trials : Trials or array
            Trials with the channels of those fitted.
        state : dict
            What `fit` returned.

        Returns
        -------
        ndarray of float64, shape (N, d, d), or (N, bands, d, d)
            Symmetric positive semidefinite.

        Raises
        ------
        InvalidInputError
            If channels differ from those fitted, or a trial is too short or constant; its number is named.
        """
        return next(descriptor_grid(trials, [self], [state]))

    def _checked(self, trials):
        trials = as_trials(trials)
        if trials.kind == "matrices":
            wanted = [name for name in ("prototypes", "bands", "n_basis") if getattr(self, name)]
            wanted += ["order"] if self.order > 1 else []
            if wanted:
                raise InvalidInputError(
                    f"descriptor needs series for {', '.join(wanted)}, but X holds {trials.n_channels} x "
                    f"{trials.n_channels} matrices. Pass X of shape (n_trials, channels, times)."
                )
        return trials

    def _parts(self, trials):
        """Return the trials of each band."""
        return [trials] if self.bands is None else [filtered(trials, band, self.fs) for band in self.bands]


def descriptor_grid(trials, descriptors, states=None, *, banks=None):
    """Yield the matrices of many descriptors; those that share their series share the products of lags.

    Parameters
    ----------
    trials : Trials or array
        Trials.
    descriptors : iterable of Descriptor
        What to compute, in the order wanted. Descriptors of one lag following each other cost least.
    states : iterable of dict, or None
        What each `fit` returned; None, the default, fits each descriptor to these trials, which needs labels for none.
    banks : dict or None
        Products of lags to use and add to, where the same trials come again; start with an empty one. None, the
        default: they are dropped in the end.

    Yields
    ------
    ndarray of float64, shape (N, d, d), or (N, bands, d, d)
        Matrices of one descriptor.

    Raises
    ------
    InvalidInputError
        As `Descriptor.matrices`.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor import Descriptor, descriptor_grid
    >>> x = np.random.default_rng(0).normal(size=(5, 3, 60))
    >>> grid = [Descriptor(order=p, lag=l) for p in (1, 2) for l in (1, 2)]
    >>> [matrices.shape for matrices in descriptor_grid(x, grid)]
    [(5, 3, 3), (5, 3, 3), (5, 6, 6), (5, 6, 6)]
    """
    trials, descriptors = as_trials(trials), list(descriptors)
    states = [None] * len(descriptors) if states is None else list(states)
    if len(states) != len(descriptors):
        raise InvalidInputError(f"states must be one for each descriptor; got {len(states)} for {len(descriptors)}.")
    return _grid(trials, descriptors, states, {} if banks is None else banks)


def _grid(trials, descriptors, states, banks):
    for descriptor, state in zip(descriptors, states, strict=True):
        trials = descriptor._checked(trials)
        if state is None:
            learned = (descriptor.bands, descriptor.fs, descriptor.scale, descriptor.prototypes)
            if learned not in banks:
                banks[learned] = descriptor.fit(trials)
            state = banks[learned]
        if state["n_channels"] != trials.n_channels:
            raise InvalidInputError(
                f"X must have the {state['n_channels']} channels of the training trials; got {trials.n_channels}."
            )
        if trials.kind == "matrices":
            yield shrunk(trials.matrices / float(state["scale"][0]) ** 2, descriptor.shrink)
            continue
        yield _of_series(descriptor, state, trials, banks)


def _of_series(descriptor, state, trials, banks):
    bands = [None] if descriptor.bands is None else descriptor.bands
    stack = []
    for b, band in enumerate(bands):
        appended = state["prototypes"][b] if descriptor.prototypes else None
        key = (band, descriptor.fs if band else None, None if appended is None else appended.tobytes())
        if key not in banks:
            part = trials if band is None else filtered(trials, band, descriptor.fs)
            banks[key] = [part if appended is None else append_prototypes(part, appended), {}]
        part, kept = banks[key]
        stack.append(_matrices(descriptor, float(state["scale"][b]), part, kept))
    if descriptor.bands is None:
        return stack[0]
    return np.stack(stack, axis=1) if descriptor.band_layout == "stack" else _block_diagonal(stack)


def _matrices(descriptor, scale, trials, banks):
    p, lag, K = descriptor.order, descriptor.lag, descriptor.n_basis
    for rows, block in trials.groups:
        check_length(block.shape[2], p, lag, K, trial=int(rows[0]))
    d = trials.n_channels * p + K
    out = np.empty((trials.n_trials, d, d))
    for g, (rows, block) in enumerate(trials.groups):
        if g not in banks:
            bank = LagBank(block)
            # A constant trial does not vary beyond the rounding of its mean.
            noise = 16 * np.finfo(np.float64).eps * np.abs(block).max(axis=(1, 2))
            banks[g] = bank, np.abs(bank.x).max(axis=(1, 2)) <= noise
        bank, constant = banks[g]
        if not K and constant.any():
            raise InvalidInputError(
                f"X must vary in every trial; trial {rows[constant][0]} is constant, so its covariance is zero. Remove "
                'it, or pass n_basis=1, which keeps the level; its matrix is singular and needs metric="bw".'
            )
        out[rows] = augmented_covariance(
            bank,
            p,
            lag,
            n_basis=K,
            scale=scale,
            estimator=descriptor.estimator,
            shrink=descriptor.shrink,
            lag_estimator=descriptor.lag_estimator,
        )
    return out


def _block_diagonal(stack):
    d = stack[0].shape[1]
    whole = np.zeros((len(stack[0]), len(stack) * d, len(stack) * d))
    for b, C in enumerate(stack):
        whole[:, b * d : (b + 1) * d, b * d : (b + 1) * d] = C
    return whole


def _rms(trials):
    """Return the root mean square of trials about their own means, each trial counting the same."""
    if trials.kind == "matrices":
        return float(np.sqrt(np.trace(trials.matrices, axis1=1, axis2=2).mean() / trials.n_channels))
    total = sum(block.var(axis=2).mean(axis=1).sum() for _, block in trials.groups)
    if not total > 0:
        total = sum((block**2).mean(axis=(1, 2)).sum() for _, block in trials.groups)
    return float(np.sqrt(total / trials.n_trials))
