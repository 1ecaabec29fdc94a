"""The answer of `fit_gp`: a random function given data, with its mean, variance, samples and evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.memory import require
from sciml.random import generator, normal
from sciml.results import Result, array, internal
from sciml.solvers.gp_regression import exact
from sciml.solvers.gp_regression.evidence import variance_of
from sciml.solvers.gp_regression.iterative import IterativePosterior
from sciml.solvers.gp_regression.parameters import read, written
from sciml.validation import check_number

__all__ = ["GPRegression", "Prediction"]

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says at new points.

    Parameters
    ----------
    mean : array, shape (m,) or (m, q)
        Expectation of the function f, units of y.
    variance : array, shape (m,)
        Variance of f, without noise, units of y squared; the same for all outputs.
    noise_std : float
        Standard deviation of the noise, units of y.
    variance_error : float
        Estimate of the relative error of ``variance``; 0 for the exact method.
    """

    mean: Array
    variance: Array
    noise_std: float
    variance_error: float = 0.0

    @property
    def std(self) -> Array:
        """Standard deviation of f, shape (m,), units of y."""
        return self.variance**0.5

    @property
    def observation_std(self) -> Array:
        """Standard deviation of a new noisy observation, shape (m,), units of y."""
        return (self.variance + self.noise_std**2) ** 0.5


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GPRegression(Result):
    """A Gaussian process given data; see `fit_gp`.

    Parameters
    ----------
    log_evidence : float
        Logarithm of the density of the data under the model; NaN where it was not asked for.
    log_evidence_error : float
        Its standard error: 0 for the exact method.
    noise_std : float
        Standard deviation of the noise, units of y.
    residual : float
        Largest relative residual of the linear systems behind the mean, recomputed in float64.
    single_output : bool
        Whether y had shape (n,).
    """

    points: np.ndarray = array("point", "coordinate", units="units of X", help="where the data are")
    targets: np.ndarray = array("point", "output", units="units of y", help="the data")
    weights: np.ndarray = array("point", "output", units="1 / units of y", help="weights of the kernel functions")
    fitted: np.ndarray = array("point", "output", units="units of y", help="posterior mean at the points")
    prior_mean: np.ndarray = array("output", units="units of y", help="mean of the prior")
    log_evidence: float
    log_evidence_error: float = 0.0
    noise_std: float
    residual: float = 0.0
    single_output: bool = True
    kernel: Any = internal(default=None)
    posterior: Any = internal(default=None)

    def __repr__(self):
        spread = f" +- {self.log_evidence_error:.1g}" if self.log_evidence_error else ""
        return (
            f"<GPRegression {getattr(self.status, 'name', self.status)} n={len(self.points)} kernel={self.kernel} "
            f"noise_std={self.noise_std:.3g} log_evidence={self.log_evidence:.6g}{spread} "
            f"method={self.settings.get('method')}>"
        )

    def mean(self, X):
        """Evaluate the posterior mean.

        Parameters
        ----------
        X : array, shape (m, d)
            Points. NumPy, torch or xarray.

        Returns
        -------
        array, shape (m,) or (m, q)
            Units of y; of the kind, dtype and device of `X`, and differentiable in it if it is a tensor.

        Raises
        ------
        InvalidInputError
            If the shape does not fit, or an entry is not finite.
        """
        points, leave = self._enter(X)
        return leave(self._mean(points))

    def variance(self, X):
        """Evaluate the posterior variance of the function, without noise.

        Parameters
        ----------
        X : array, shape (m, d)
            Points.

        Returns
        -------
        array, shape (m,)
            Units of y squared; the same for all outputs. See `predict` for its error.

        Raises
        ------
        InvalidInputError
            If the shape does not fit, or an entry is not finite.
        """
        return self.predict(X).variance

    def predict(self, X):
        """Evaluate mean and variance.

        Parameters
        ----------
        X : array, shape (m, d)
            Points.

        Returns
        -------
        Prediction
            With arrays of the kind, dtype and device of `X`.

        Raises
        ------
        InvalidInputError
            If the shape does not fit, or an entry is not finite.

        Warns
        -----
        ConvergenceWarning
            If the variance of the iterative method is less exact than 10 percent.
        """
        points, leave = self._enter(X)
        with torch.no_grad():
            variance, error = self.posterior.variance_with_error(points)
        return Prediction(leave(self._mean(points)), leave(variance), self.noise_std, error)

    def sample(self, X, n_samples=1, random_state=None):
        """Draw functions from the posterior at points, without noise.

        Parameters
        ----------
        X : array, shape (m, d)
            Points.
        n_samples : int
            Number of draws; 1 by default.
        random_state : None, int or numpy.random.Generator
            Source of the numbers.

        Returns
        -------
        array, shape (n_samples, m) or (n_samples, m, q)
            Draws, joint over the points and independent over the outputs; units of y.

        Raises
        ------
        InvalidInputError
            If the shape does not fit, or an entry is not finite.
        MemoryBudgetError
            If the covariance of the points does not fit into memory.
        """
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
        points, leave = self._enter(X)
        m, q = len(points), len(self.prior_mean)
        require(32 * m * m, what=f"the covariance of {m} points", remedy="draw at fewer points at a time")
        with torch.no_grad():
            R = exact.root(self.posterior.covariance(points), float(variance_of(self.kernel, self.posterior.X)))
            draws = normal(generator(random_state), (n_samples, q, m), device=points.device)
            values = self._mean(points).reshape(m, q) + (draws @ R.T).transpose(1, 2)
        return leave(values[..., 0] if self.single_output else values)

    def _mean(self, points):
        P = self.posterior
        A = torch.as_tensor(self.weights, device=points.device)
        values = exact.mean(points, P.X, A, self.kernel) + torch.as_tensor(self.prior_mean, device=points.device)
        return values[:, 0] if self.single_output else values

    def _enter(self, X):
        (points,), leave = enter(X, names=("X",))
        given, home, d = points.dtype, points.device, self.points.shape[1]
        if points.is_complex() or points.ndim != 2 or points.shape[1] != d:
            raise InvalidInputError(
                f"X must be real of shape (m, {d}), one row a point; got {tuple(points.shape)}, {given}. Stack the "
                f"coordinates as columns."
            )
        points = points.double().to(self.posterior.X.device)
        return points, lambda values: leave(values.to(home).to(given))

    def _state(self):
        return {"kernel": written(self.kernel), **self.posterior.state()}

    @classmethod
    def _restore(cls, fields, state):
        kernel, points = read(state["kernel"]), torch.as_tensor(fields["points"])
        kind = IterativePosterior if "iterative" in state else exact.ExactPosterior
        return cls(**fields, kernel=kernel, posterior=kind.restored(points, kernel, fields["noise_std"] ** 2, state))

    def __reduce__(self):
        # Kernels hold functions that pickle and copy cannot carry; their texts can.
        fields = {**self._plain_fields(), "history": self.history}
        fields |= {name: getattr(self, name) for name in self._array_fields()}
        return _restored, (type(self), fields, self._state())


def _restored(cls, fields, state):
    return cls._restore(fields, state)
