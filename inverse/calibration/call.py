"""The arguments of one call of `self_calibrate`, checked, and what is said when it went wrong."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from sciml.exceptions import AmbiguityWarning, ConvergenceError, ConvergenceWarning, IdentifiabilityError
from sciml.inverse.calibration.priors import GainPrior
from sciml.iterate import Status, caller_level

__all__ = ["Call", "as_prior", "complain", "kept_matrices"]

METHODS = ("auto", "chain", "least-squares", "spectral", "eigenvector", "signal", "matrix-free")


@dataclasses.dataclass
class Call:
    """The arguments of one call, checked."""

    problem: object
    gauge: object
    method: str
    noise: str
    loss: str
    w: object
    prior: object
    refine: bool
    tol: float
    max_iter: int
    callback: object
    progress: object
    on_failure: str
    strict: bool
    s_basis: object
    d_basis: object
    n_samples: object = None

    def settings(self, **more):
        """What is needed to run again."""
        return {
            "model": self.problem.model,
            "method": self.method,
            "noise": self.noise,
            "loss": self.loss,
            "refine": self.refine,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "prior": None if self.prior is None else str(self.prior),
            "subspace": "gains" if self.d_basis is not None else "inverse gains" if self.s_basis is not None else None,
            "dtype": str(self.problem.working).removeprefix("torch."),
            "device": str(self.problem.y.device),
            "versions": {"torch": torch.__version__},
            **more,
        }


def as_prior(prior):
    if prior is None or isinstance(prior, GainPrior):
        return prior
    return GainPrior() if isinstance(prior, str) and prior == "auto" else GainPrior(mean=prior)


def kept_matrices(problem):
    """The matrices in the shape that they came in, for predictions."""
    A = problem.A * problem.A_unit
    lead = problem.batch if len(A) > 1 else ()
    if problem.model == "snapshots" or A.shape[1] == 1:
        A = A[:, 0]
    return problem.leave(A.reshape((*lead, *A.shape[1:])).to(problem.working))


def complain(call, result):
    """Warn or raise about ambiguities and missing convergence."""
    if call.on_failure == "ignore":
        return
    if result.ambiguity:
        text = f"the data do not determine all gains: {result.ambiguity}."
        if call.on_failure == "raise":
            raise IdentifiabilityError(text)
        warnings.warn(text, AmbiguityWarning, stacklevel=caller_level())
    if result.status not in (Status.CONVERGED, Status.STOPPED):
        text = (
            f"self_calibrate stopped after {result.n_iter} iterations without convergence, tol={call.tol:.0e}: raise "
            "max_iter, or pass prior, s_basis or d_basis."
        )
        if call.on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())
