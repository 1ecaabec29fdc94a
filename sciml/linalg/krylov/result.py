"""What a Krylov method returns: the answer, how far it can be trusted, and why each choice was made."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciml.iterate import Run


@dataclass(frozen=True, eq=False)
class SolveRun(Run):
    """The answer of a Krylov method, with its residual recomputed from the value that is returned.

    Parameters
    ----------
    value : array, shape of the right side
        The answer, of the kind and on the device of the right side.
    status : Status
        How the iteration ended.
    n_iter : int
        Iterations: products of A with a block of columns; those of inner solves included.
    history : dict of ndarray, shape (n_iter + 1,)
        ``"criterion"`` (the largest relative residual of a column), ``"seconds"``, ``"active"`` (columns left).
    reason : str
        Why the iteration ended.
    residual : float or ndarray, shape (..., R)
        What the criterion of the method became for each column of `value`, recomputed in float64; for a linear system
        the relative residual ``norm(b - A @ x) / norm(b)``. Dimensionless.
    n_matvec : int
        Products of A or its adjoint with one column; a batch of matrices counts once.
    engine : str
        The kind of operator that made the products.
    device : str
        Where the products were made.
    preconditioner : str
        Name of the preconditioner; "none" without one.
    condition : float
        Estimate of the condition number of the preconditioned matrix, from below; NaN where there is none.
    error_estimate : float
        What the condition number makes of the residual: an estimate of the largest relative error of a column of
        `value`, as good as the estimate of the condition number, which comes from below; NaN where there is none.
    choices : dict of str
        What was chosen on the way, each with its reason.
    """

    residual: Any = np.nan
    n_matvec: int = 0
    engine: str = ""
    device: str = "cpu"
    preconditioner: str = "none"
    condition: float = np.nan
    error_estimate: float = np.nan
    choices: dict = field(default_factory=dict)

    def __repr__(self):
        worst = float(np.max(self.residual, initial=0.0))
        lines = [
            f"<{type(self).__name__} {self.status.name}: {self.reason}",
            f"  value      {tuple(self.value.shape)} {str(self.value.dtype).removeprefix('torch.')} on {self.device}",
            f"  residual   {worst:.2e}, recomputed" + (", the largest" if np.ndim(self.residual) else ""),
            f"  work       {self.n_iter} iterations, {self.n_matvec} products ({self.engine})",
            f"  condition  about {self.condition:.1e}, preconditioner: {self.preconditioner}",
        ]
        if np.isfinite(self.error_estimate):
            lines.append(f"  error      about {self.error_estimate:.0e} of the answer at most, by that condition")
        lines += [f"  {name:10s} {reason}" for name, reason in self.choices.items()]
        return "\n".join(lines) + ">"
