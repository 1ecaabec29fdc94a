"""Self-calibration as a transformer of scikit-learn: learn gains from snapshots, divide others by them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ensemble_adapters import as_ensemble
from sciml.inverse.calibration.streaming import SnapshotStream, calibrate_stream, held_out_chi2
from sciml.validation import check_number

__all__ = ["SelfCalibrator"]


class SelfCalibrator(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Learn the gains of an instrument from its snapshots, one after another if need be, and take them out.

    .. math:: y_l = \mathrm{diag}(d) A x_l + \varepsilon_l

    The model is "snapshots" of `self_calibrate`: one matrix, a signal for each snapshot. Rows are snapshots, columns
    sensors. What is kept of the data is a triangular factor of m by m numbers, so that a stream may be endless.

    Parameters
    ----------
    A : array or operator, shape (m, n), or None
        What the sensors see of a signal with n unknowns, such as `Steering`. None, the default: all sensors see the
        same one number, ``ones((m, 1))``.
    gauge : {"norm", "sum", "mean-phase"} or ("reference", sensor)
        The common factor, as for `self_calibrate`; "norm" by default. A sensor is named as by `sensors`.
    method : str
        As for `self_calibrate`; "auto" by default. It judges by the residuals alone, since the snapshots are gone.
    refine : bool
        Whether to go on to maximum likelihood; True by default.
    prior : GainPrior, "auto", number or array (m,), or None
        As for `self_calibrate`; None by default.
    s_basis, d_basis : array, shape (m, k), or None
        Subspace of the inverse gains, or of the gains; None by default: all gains are free.
    noise : {"white", "per-sensor"}
        Whether all sensors have the same noise, the default, or each its own, which is then learned.
    noise_std : number or array (m,), or None
        Standard deviation of the noise, units of the data; None, the default: unknown, and estimated.
    forgetting : float
        Weight of a snapshot beside the one after it, above 0 and at most 1. 1, the default: all count alike. Gains that
        drift are followed over the last ``1 / (1 - forgetting)`` snapshots.
    sensors : sequence or None
        Names of the sensors; None, the default, takes the columns of a data frame, else "x0", "x1", ...
    tol : float
        As for `self_calibrate`; 1e-10 by default.
    max_iter : int
        As for `self_calibrate`; 300 by default.
    on_failure : {"warn", "raise", "ignore"} or None
        As for `self_calibrate`; None, the default: too few snapshots raise, ambiguities warn.

    Attributes
    ----------
    gains_ : ndarray, shape (m,)
        Gains, dimensionless; NaN where unidentified.
    gains_std_ : ndarray, shape (m,)
        Their standard deviations; infinite where unidentified.
    noise_std_ : float
        Estimate of the standard deviation of the noise, units of the data; a factor on `noise_std` if that is an array.
    result_ : CalibrationResult
        All that is known, but no signals.
    n_samples_seen_ : int
        Snapshots so far.
    n_iter_ : int
        Steps of the refinement, at least 1.
    n_features_in_ : int
        Sensors.
    feature_names_in_ : ndarray of str, shape (m,)
        Columns of the data frame, where one came.

    Raises
    ------
    InvalidInputError
        If a parameter breaks its rule, or data hold a NaN.
    IdentifiabilityError
        If there are too few snapshots; when the gains are asked for, not when data are added.

    Notes
    -----
    `fit` and any sequence of `partial_fit` give the same answer, to rounding. 2 m^2 operations a snapshot; the gains
    are computed when they are first asked for, some ten factorisations of m by m. Data may be complex. Means are not
    subtracted: remove offsets first. Unidentified sensors come out of `transform` as NaN, never as raw data.

    References
    ----------
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196.

    Examples
    --------
    Three sensors see one source of varying strength, the second twice as well as the first, the third half as well:

    >>> import numpy as np
    >>> from sciml.inverse.calibration.estimator import SelfCalibrator
    >>> Y = np.array([[1.0], [2.0], [-1.0], [0.5]]) * np.array([1.0, 2.0, 0.5])
    >>> model = SelfCalibrator(gauge=("reference", "x0")).partial_fit(Y[:2]).partial_fit(Y[2:])
    >>> model.gains_.round(6)
    array([1. , 2. , 0.5])
    >>> model.transform([[3.0, 6.0, 1.5]]).round(6)
    array([[3., 3., 3.]])
    """

    def __init__(
        self,
        A=None,
        *,
        gauge="norm",
        method="auto",
        refine=True,
        prior=None,
        s_basis=None,
        d_basis=None,
        noise="white",
        noise_std=None,
        forgetting=1.0,
        sensors=None,
        tol=1e-10,
        max_iter=300,
        on_failure=None,
    ):
        self.A = A
        self.gauge = gauge
        self.method = method
        self.refine = refine
        self.prior = prior
        self.s_basis = s_basis
        self.d_basis = d_basis
        self.noise = noise
        self.noise_std = noise_std
        self.forgetting = forgetting
        self.sensors = sensors
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure

    def fit(self, X, y=None):
        """Forget what was seen, and learn the gains from snapshots.

        Parameters
        ----------
        X : array, shape (p, m)
            Snapshots, real or complex.
        y : None
            Not used; there for pipelines.

        Returns
        -------
        self
        """
        X = self._data(X, reset=True)
        self._stream = SnapshotStream(X.shape[1], self.forgetting).add(X)
        self._result = None
        self._solve()
        return self

    def partial_fit(self, X, y=None):
        """Take more snapshots into account, the newest last.

        Parameters
        ----------
        X : array, shape (p, m)
            Snapshots, real or complex.
        y : None
            Not used; there for pipelines.

        Returns
        -------
        self
            The gains are computed when they are asked for.
        """
        first = not hasattr(self, "_stream")
        X = self._data(X, reset=first)
        if first:
            self._stream = SnapshotStream(X.shape[1], self.forgetting)
        self._stream.add(X)
        self._result = None
        return self

    def fit_covariance(self, C, n_samples):
        r"""Forget what was seen, and learn the gains from a covariance, :math:`C = \frac1p \sum_l y_l y_l^H`.

        Parameters
        ----------
        C : array, shape (m, m)
            Hermitian, noise included and no mean subtracted: ``Y.T @ Y.conj() / len(Y)``.
        n_samples : int
            Number of snapshots p behind it.

        Returns
        -------
        self
            Gains have half the digits that snapshots give for exact data, and the same where there is noise.

        Raises
        ------
        InvalidInputError
            If C is not square, not Hermitian or not finite.
        NotPositiveDefiniteError
            If an eigenvalue of C is negative.
        """
        C = np.asarray(C)
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
        if C.ndim != 2 or C.shape[0] != C.shape[1] or not np.all(np.isfinite(C)):
            raise InvalidInputError(
                f"C must be a finite square matrix; got shape {C.shape} with {np.sum(~np.isfinite(C))} entries that "
                "are NaN or infinite. Pass Y.T @ Y.conj() / len(Y)."
            )
        gap = np.abs(C - C.conj().T).max(initial=0.0)
        if gap > 1e-8 * np.abs(C).max(initial=0.0):
            raise InvalidInputError(
                f"C must be Hermitian; got a largest difference of {gap:.3g}. Pass (C + C.conj().T) / 2."
            )
        validate_data(self, C, reset=True, skip_check_array=True)
        self._stream = SnapshotStream(len(C), self.forgetting).add_covariance(C, n_samples)
        self._result = None
        self._solve()
        return self

    def transform(self, X):
        """Divide snapshots by the gains.

        Parameters
        ----------
        X : array, shape (p, m)
            Snapshots of the same sensors.

        Returns
        -------
        ndarray, shape (p, m)
            What sensors of gain one would have seen; NaN for unidentified sensors.
        """
        gains = self._solve().gains
        X = self._data(X, reset=False)
        return (X / gains).astype(_type_of(X, gains), copy=False)

    def inverse_transform(self, X):
        """Multiply what sensors of gain one see by the gains.

        Parameters
        ----------
        X : array, shape (p, m)
            Calibrated snapshots; NaN where a sensor is unidentified.

        Returns
        -------
        ndarray, shape (p, m)
            What the sensors would have measured; NaN for unidentified ones.
        """
        gains = self._solve().gains
        X = self._data(X, reset=False, missing=True)
        return (X * gains).astype(_type_of(X, gains), copy=False)

    def score(self, X, y=None):
        """Return minus the reduced chi2 of other snapshots under the gains: about -1 if all is well, less if not.

        Parameters
        ----------
        X : array, shape (p, m)
            Snapshots that were not fitted.
        y : None
            Not used; there for pipelines.

        Returns
        -------
        float
            With the noise of `noise_std`; without, that of the fit, which no two models share: pass `noise_std` where
            models are compared.
        """
        result = self._solve()
        X = torch.from_numpy(np.array(self._data(X, reset=False)))
        gains = torch.from_numpy(result.gains)
        sigma = result.noise_std if self.noise_std is None else np.asarray(self.noise_std, float)
        if self.noise_std is None and result.sensor_noise_std is not None:
            sigma = np.nan_to_num(result.sensor_noise_std, nan=1.0)
        # Residuals of exact data are rounding: judged by that, and not by zero.
        least = np.finfo(float).eps * float(X.abs().square().mean()) ** 0.5
        A = self._matrix()
        dtype = torch.complex128 if gains.is_complex() or X.is_complex() or A.is_complex() else torch.float64
        sigma = torch.as_tensor(np.maximum(sigma, max(least, np.finfo(float).tiny)))
        return -held_out_chi2(X.to(dtype), gains.to(dtype), A.to(dtype), sigma)

    @property
    def result_(self):
        """The result, without signals; computed if data came since it was last asked for."""
        return self._solve()

    @property
    def gains_(self):
        """Gains (m,), NaN where unidentified."""
        return self._solve().gains

    @property
    def gains_std_(self):
        """Standard deviations of the gains (m,)."""
        return self._solve().gains_std

    @property
    def noise_std_(self):
        """Standard deviation of the noise."""
        return float(self._solve().noise_std)

    @property
    def n_iter_(self):
        """Steps of the refinement; scikit-learn counts a fit without a step as one."""
        return max(1, self._solve().n_iter)

    @property
    def n_samples_seen_(self):
        """Snapshots so far."""
        self._check()
        return self._stream.n_seen

    def get_feature_names_out(self, input_features=None):
        """Return the names of the sensors.

        Parameters
        ----------
        input_features : sequence of str or None
            Names in place of those that came with the data; None by default.

        Returns
        -------
        ndarray of str, shape (m,)
            Names.
        """
        self._check()
        if self.sensors is not None and input_features is None:
            return np.asarray([str(name) for name in self.sensors], dtype=object)
        return super().get_feature_names_out(input_features)

    def _solve(self):
        """Return the result, computed if data came since it was last asked for."""
        self._check()
        if self._result is None:
            names = self.sensors if self.sensors is not None else self.get_feature_names_out().tolist()
            found = calibrate_stream(
                self._stream,
                self._matrix(),
                s_basis=self.s_basis,
                d_basis=self.d_basis,
                prior=self.prior,
                gauge=self.gauge,
                refine=self.refine,
                method=self.method,
                noise=self.noise,
                noise_std=self.noise_std,
                sensors=names,
                tol=self.tol,
                max_iter=self.max_iter,
                on_failure=self.on_failure,
            )
            self._result = found
        return self._result

    def _matrix(self):
        m = self.n_features_in_
        if self.A is None:
            return torch.ones(m, 1, dtype=torch.float64)
        if isinstance(self.A, (np.ndarray, list, tuple, torch.Tensor)):
            A = torch.as_tensor(np.asarray(self.A))
        else:
            A = torch.as_tensor(as_ensemble(self.A, 1, m).to_dense())
            A = A[0] if A.ndim == 3 and len(A) == 1 else A
        if A.ndim != 2 or len(A) != m:
            raise InvalidInputError(
                f"A must have shape ({m}, n), a row for each column of X; got {tuple(A.shape)}. For matrices that "
                "differ from snapshot to snapshot use self_calibrate."
            )
        return A.to(torch.complex128 if A.is_complex() else torch.float64)

    def _data(self, X, reset, missing=False):
        """Return snapshots as an array of floats or complex numbers."""
        if np.ma.is_masked(X):
            raise InvalidInputError(
                f"X must hold no masked entries; got {np.ma.count_masked(X)}. Flags of single entries need the "
                "snapshots themselves: pass them to self_calibrate, or leave these snapshots out."
            )
        if "complex" in str(X.dtype if hasattr(X, "dtype") else np.asarray(X).dtype):
            validate_data(self, X, reset=reset, skip_check_array=True)
            X = np.asarray(X)
            if X.ndim != 2 or 0 in X.shape:
                raise InvalidInputError(f"X must have shape (p, m) with p, m > 0; got {X.shape}. Reshape it.")
        else:
            X = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        bad = ~np.isfinite(X) if not missing else np.isinf(X)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InvalidInputError(
                f"X must be finite, without NaN or inf; the entry at {where} is {X[where]}. Flags of single entries "
                "need the snapshots themselves: pass them to self_calibrate, or leave these snapshots out."
            )
        return X

    def _check(self):
        if not hasattr(self, "_stream"):
            raise NotFittedError(f"this {type(self).__name__} has seen no snapshots. Call fit or partial_fit first.")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_stream")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _type_of(X, gains):
    """Precision of the data, complex where the gains are."""
    return X.dtype if not np.iscomplexobj(gains) else np.result_type(X.dtype, np.complex64)
