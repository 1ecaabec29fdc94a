r"""Descriptors as transformers of scikit-learn: trials in, symmetric positive semidefinite matrices out.

They take what pipelines for pyRiemann and MOABB pass, X of shape (trials, channels, times) and y, and return what the
steps that follow there expect, (trials, d, d). Lists of trials of unequal lengths and DataArrays work as well.

Cost      see `descriptor` and `lag_choice`.
Pitfalls  shapes have three axes, so ``set_output`` changes nothing here; it is there because a pipeline passes it on.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508. A. Barachant, M. Congedo, A plug and play P300 BCI using information geometry, 2014, arXiv
            1409.0107.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.lag_choice import METHODS, choose_lags
from sciml.stats.spd.trials import as_trials
from sciml.validation import check_option

__all__ = [
    "AugmentedCovariance",
    "Covariance",
    "FilterBankCovariance",
    "PrototypeCovariance",
    "TimeBasisCovariance",
]

_EQUAL_BANDS = tuple((i / 16, (i + 1) / 16) for i in range(8))  # all frequencies below the half, in equal bands


class _DescriptorTransformer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """What all share; a subclass says by `_descriptor` what it does."""

    def fit(self, X, y=None):
        """Learn what must come from training trials.

        Parameters
        ----------
        X : array, shape (N, n, T), list of arrays, xarray.DataArray or Trials
            Training trials; see `as_trials`.
        y : array, shape (N,), or None
            Labels; None, the default, where none are needed.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If trials or a parameter break their rule.
        """
        return self._fit(as_trials(X), y, self._descriptor())

    def _fit(self, trials, y, descriptor):
        self.descriptor_ = descriptor
        self.state_ = descriptor.fit(trials, y)
        self.n_features_in_ = trials.n_channels
        self.channels_ = trials.channels
        return self

    def transform(self, X):
        """Return the matrices of trials.

        Parameters
        ----------
        X : array, shape (N, n, T), list of arrays, xarray.DataArray or Trials
            Trials with the channels of those fitted.

        Returns
        -------
        ndarray of float64, shape (N, d, d), or (N, bands, d, d) for a stack of bands
            Symmetric positive semidefinite.

        Raises
        ------
        InvalidInputError
            If channels differ from those fitted, or a trial is too short or constant; its number is named.
        """
        check_is_fitted(self)
        return self.descriptor_.matrices(X, self.state_)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the rows, and columns, of the matrices.

        Parameters
        ----------
        input_features : sequence of str or None
            Names of the channels; None, the default: those of the training trials.

        Returns
        -------
        ndarray of str, shape (d,)

        Raises
        ------
        InvalidInputError
            If there is not one name for each channel.
        """
        check_is_fitted(self)
        channels = self.channels_ if input_features is None else tuple(map(str, input_features))
        if len(channels) != self.n_features_in_:
            raise InvalidInputError(
                f"input_features must name {self.n_features_in_} channels; got {len(channels)} names."
            )
        appended = self.state_["prototypes"].shape[1] if "prototypes" in self.state_ else 0
        return np.asarray(self.descriptor_.names(channels, appended), dtype=object)

    def set_output(self, *, transform=None):
        """Change nothing: matrices are no table.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            What a pipeline passes to all its steps; not used.

        Returns
        -------
        self
        """
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


class Covariance(_DescriptorTransformer):
    r"""Covariances of trials.

    .. math:: C = (1 - \gamma) \hat C + \gamma \frac{\operatorname{tr} \hat C}{n} I

    Parameters
    ----------
    estimator : str
        One of "scm" (divided by T; the default), "scm_unbiased", "lw", "oas", "ss", "tyler", "huber"; "cov",
        "lwf", "sch", "tyl" and "hub", as pyRiemann says, mean the same.
    shrink : float
        Relative shrinkage, from 0 to 1; 1e-3 by default, so that every matrix is regular.
    scale : {"rms"} or None
        Divide by the mean variance of the training trials; None, the default: squared units of the data.

    Attributes
    ----------
    descriptor_ : Descriptor
        What is done.
    state_ : dict
        What was learned.
    n_features_in_ : int
        Channels.
    channels_ : tuple of str
        Their names.

    References
    ----------
    O. Ledoit, M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor_estimator import Covariance
    >>> x = np.random.default_rng(0).normal(size=(10, 3, 200))
    >>> C = Covariance(shrink=0).fit_transform(x)
    >>> bool(np.allclose(C[0], np.cov(x[0], bias=True)))
    True
    """

    def __init__(self, estimator="scm", shrink=1e-3, *, scale=None):
        self.estimator = estimator
        self.shrink = shrink
        self.scale = scale

    def _descriptor(self):
        return Descriptor(estimator=self.estimator, shrink=self.shrink, scale=self.scale)


class AugmentedCovariance(_DescriptorTransformer):
    r"""Covariances of trials beside lagged copies of themselves, and of slow functions of time if wanted.

    .. math:: z_t = (x_t, x_{t+l}, \dots, x_{t+(p-1)l})

    Parameters
    ----------
    order : int
        Number of windows p; 2 by default. Not used where `choose` is given.
    lag : int
        Samples between windows l; 1 by default. Not used where `choose` is given.
    choose : {"screen", "bic", "hq", "mdop", "ami_fnn"} or None
        Choose order and lag from the training trials, as `choose_lags`; None, the default: those given.
    orders, lags : sequence of int
        What may be chosen; 1 to 10 by default.
    n_basis : int
        Polynomials of time; 0 by default, 1 adds the mean.
    estimator : str
        As for `Covariance`; "scm" by default.
    shrink : float
        Relative shrinkage, from 0 to 1; 1e-3 by default.
    lag_estimator : {"windowed", "toeplitz"}
        Over the samples common to all windows, the default, or from biased autocovariances.
    scale : {"auto", "rms"} or None
        "auto", the default: "rms" where polynomials are appended, whose unit is one, else None: units of the data.

    Attributes
    ----------
    order_, lag_ : int
        What is used.
    choice_ : LagChoice or None
        What was tried.
    descriptor_ : Descriptor
        What is done.
    state_ : dict
        What was learned.
    n_features_in_ : int
        Channels.
    channels_ : tuple of str
        Their names.

    References
    ----------
    I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv 2302.04508.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor_estimator import AugmentedCovariance
    >>> x = np.random.default_rng(0).normal(size=(10, 3, 200))
    >>> model = AugmentedCovariance(order=2, lag=4).fit(x)
    >>> model.transform(x).shape, model.get_feature_names_out().tolist()
    ((10, 6, 6), ['0', '1', '2', '0(t+4)', '1(t+4)', '2(t+4)'])
    """

    def __init__(
        self,
        order=2,
        lag=1,
        *,
        choose=None,
        orders=tuple(range(1, 11)),
        lags=tuple(range(1, 11)),
        n_basis=0,
        estimator="scm",
        shrink=1e-3,
        lag_estimator="windowed",
        scale="auto",
    ):
        self.order = order
        self.lag = lag
        self.choose = choose
        self.orders = orders
        self.lags = lags
        self.n_basis = n_basis
        self.estimator = estimator
        self.shrink = shrink
        self.lag_estimator = lag_estimator
        self.scale = scale

    def fit(self, X, y=None, groups=None):
        """Choose order and lag, if asked for, and learn the scale.

        Parameters
        ----------
        X : array, shape (N, n, T), list of arrays, xarray.DataArray or Trials
            Training trials.
        y : array, shape (N,), or None
            Labels; needed for ``choose="screen"`` only.
        groups : array, shape (N,), or None
            For ``choose="screen"``: groups of trials that are left out together. None, the default: single trials.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If trials are not longer than order * lag samples, or a parameter breaks its rule.
        """
        trials = as_trials(X)
        order, lag, self.choice_ = self.order, self.lag, None
        if self.choose is not None:
            check_option("choose", self.choose, METHODS)
            self.choice_ = choose_lags(
                trials,
                y,
                method=self.choose,
                orders=self.orders,
                lags=self.lags,
                groups=groups,
                descriptor=self._of(1, 1),
            )
            order, lag = self.choice_.order, self.choice_.lag
        self.order_, self.lag_ = order, lag
        return self._fit(trials, y, self._of(order, lag))

    def _of(self, order, lag):
        return Descriptor(
            n_basis=self.n_basis,
            order=order,
            lag=lag,
            estimator=self.estimator,
            shrink=self.shrink,
            lag_estimator=self.lag_estimator,
            scale=_scale(self.scale, self.n_basis),
        )


class TimeBasisCovariance(_DescriptorTransformer):
    r"""Second moments of trials beside slow polynomials of time: covariance, mean and trends in one matrix.

    .. math:: M = \begin{pmatrix} S + c c' & c \\ c' & I \end{pmatrix}

    Parameters
    ----------
    n_basis : int
        Polynomials K: 0 is the covariance, 1 adds the mean (Gaussian embedding), 3, the default, slow trends.
    estimator : str
        Of S, as for `Covariance`; "scm" by default.
    shrink : float
        Relative shrinkage of S, from 0 to 1; 1e-3 by default.
    scale : {"rms"} or None
        Divide trials by the root mean square of the training trials, the default, since polynomials have mean square
        one; or leave them.

    Attributes
    ----------
    descriptor_ : Descriptor
        What is done.
    state_ : dict
        What was learned.
    n_features_in_ : int
        Channels.
    channels_ : tuple of str
        Their names.

    References
    ----------
    M. Calvo, J. M. Oller, A distance between multivariate normal distributions based in an embedding into the Siegel
    group, 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor_estimator import TimeBasisCovariance
    >>> x = np.random.default_rng(0).normal(size=(10, 2, 200))
    >>> TimeBasisCovariance(3).fit(x).get_feature_names_out().tolist()
    ['0', '1', 'p0', 'p1', 'p2']
    """

    def __init__(self, n_basis=3, *, estimator="scm", shrink=1e-3, scale="rms"):
        self.n_basis = n_basis
        self.estimator = estimator
        self.shrink = shrink
        self.scale = scale

    def _descriptor(self):
        return Descriptor(n_basis=self.n_basis, estimator=self.estimator, shrink=self.shrink, scale=self.scale)


class PrototypeCovariance(_DescriptorTransformer):
    """Covariances of trials beside the mean series of each class, for event-related signals.

    Parameters
    ----------
    xdawn : int or None
        Components of each class mean that xDAWN keeps; None, the default: all channels.
    n_basis : int
        Polynomials of time; 0 by default, as published.
    estimator : str
        As for `Covariance`; "scm" by default.
    shrink : float
        Relative shrinkage, from 0 to 1; 1e-3 by default.
    scale : {"auto", "rms"} or None
        "auto", the default: "rms" where polynomials are appended, else None: units of the data.

    Attributes
    ----------
    prototypes_ : ndarray, shape (P, T)
        Mean series, the classes in sorted order; units of the data.
    descriptor_ : Descriptor
        What is done.
    state_ : dict
        What was learned.
    n_features_in_ : int
        Channels.
    channels_ : tuple of str
        Their names.

    References
    ----------
    A. Barachant, M. Congedo, A plug and play P300 BCI using information geometry, 2014, arXiv 1409.0107.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor_estimator import PrototypeCovariance
    >>> x = np.random.default_rng(0).normal(size=(10, 2, 50))
    >>> PrototypeCovariance().fit_transform(x, np.repeat([0, 1], 5)).shape
    (10, 6, 6)
    """

    def __init__(self, *, xdawn=None, n_basis=0, estimator="scm", shrink=1e-3, scale="auto"):
        self.xdawn = xdawn
        self.n_basis = n_basis
        self.estimator = estimator
        self.shrink = shrink
        self.scale = scale

    @property
    def prototypes_(self):
        """ndarray, shape (P, T): mean series of the classes."""
        check_is_fitted(self)
        return self.state_["prototypes"][0]

    def _descriptor(self):
        return Descriptor(
            prototypes=True,
            xdawn=self.xdawn,
            n_basis=self.n_basis,
            estimator=self.estimator,
            shrink=self.shrink,
            scale=_scale(self.scale, self.n_basis),
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class FilterBankCovariance(_DescriptorTransformer):
    """Covariances of trials in several bands of frequencies.

    Parameters
    ----------
    bands : sequence of (float, float)
        Pass bands in units of `fs`; eight of an eighth of the range by default.
    fs : float
        Sampling rate; 1, the default: bands are fractions of it, from 0 to 0.5.
    layout : {"block", "stack"}
        One block-diagonal matrix, the default, which any following step takes; or a stack (N, bands, d, d).
    n_basis, order, lag : int
        As for `AugmentedCovariance`, in each band; 0, 1 and 1 by default: covariances.
    estimator : str
        As for `Covariance`; "scm" by default.
    shrink : float
        Relative shrinkage in each band, from 0 to 1; 1e-3 by default.
    scale : {"rms"} or None
        Divide each band by its root mean square in the training trials, the default, so that weak bands count as much
        as strong ones; or leave them.

    Attributes
    ----------
    descriptor_ : Descriptor
        What is done.
    state_ : dict
        What was learned.
    n_features_in_ : int
        Channels.
    channels_ : tuple of str
        Their names.

    References
    ----------
    K. Ang, Z. Chin, H. Zhang, C. Guan, Filter bank common spatial pattern, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.descriptor_estimator import FilterBankCovariance
    >>> x = np.random.default_rng(0).normal(size=(10, 2, 200))
    >>> FilterBankCovariance([(8, 13), (13, 30)], fs=100).fit_transform(x).shape
    (10, 4, 4)
    """

    def __init__(
        self,
        bands=_EQUAL_BANDS,
        fs=1.0,
        *,
        layout="block",
        n_basis=0,
        order=1,
        lag=1,
        estimator="scm",
        shrink=1e-3,
        scale="rms",
    ):
        self.bands = bands
        self.fs = fs
        self.layout = layout
        self.n_basis = n_basis
        self.order = order
        self.lag = lag
        self.estimator = estimator
        self.shrink = shrink
        self.scale = scale

    def _descriptor(self):
        if self.bands is None:
            raise InvalidInputError("bands must be pairs (low, high); got None. Use Covariance for no filter.")
        return Descriptor(
            bands=self.bands,
            fs=self.fs,
            band_layout=self.layout,
            n_basis=self.n_basis,
            order=self.order,
            lag=self.lag,
            estimator=self.estimator,
            shrink=self.shrink,
            scale=self.scale,
        )


def _scale(scale, n_basis):
    if scale == "auto":
        return "rms" if n_basis else None
    return scale
