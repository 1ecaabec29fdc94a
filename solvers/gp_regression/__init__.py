"""Gaussian-process regression: a function with its uncertainty from noisy values at scattered points.

Question  What is f, and how sure is that, if y = f(x) + noise was measured at n points?
Prior     f is a Gaussian process with a kernel of sciml.kernels; its numbers and the noise are learned by the evidence.
Answer    Mean, variance, samples and log evidence, each with its error where it is not exact.
Start     ``sciml.fit_gp(X, y, kernel)``, or the scikit-learn estimator ``GPRegressor``.
Neighbour Below 8000 points Cholesky; above, conjugate gradients with a low-rank preconditioner, to 1e5 and beyond.
"""

from sciml.solvers.gp_regression.fit import fit_gp as fit_gp
from sciml.solvers.gp_regression.iterative import Iterative as Iterative
from sciml.solvers.gp_regression.result import GPRegression as GPRegression
from sciml.solvers.gp_regression.result import Prediction as Prediction


def __getattr__(name):
    # scikit-learn is loaded with the estimator, not with the function.
    if name == "GPRegressor":
        from sciml.solvers.gp_regression.estimator import GPRegressor

        return GPRegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
