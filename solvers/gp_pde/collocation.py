r"""Scattered least squares: the equation at interior points, the conditions at boundary points, one factorisation.

Any domain, any linear operator: the domain enters through the points alone.  Every row is divided by its norm, so that
none drowns another: near a face the second derivative of a polynomial of degree 400 is 1e5 times that in the middle.

Notation  A (n, P) scaled rows; y right sides; theta coefficients; s prior standard deviations; sigma noise (rounding).
Cost      2 n P^2 for one QR; memory 8 n P bytes, twice.
Pitfalls  Without the row scaling the rows of the equation (of size omega^2) drown those of the boundary.
          Norms of the rows, not one symbol for all: 4e-8 against 5e-12 on u'' = f, u = sin 100x, 400 polynomials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sciml.linalg.gaussian_model import GaussianLinearModel

__all__ = ["System", "assemble", "condition_block", "operator_rows", "scaled", "symbol_size"]

ROUNDING = 1e-15  # noise of a row against the size of the right side: what float64 leaves of it


def symbol_size(terms, frequency):
    """Largest size of an operator's symbol at the frequencies (d,): the sum of |c| omega^alpha, a float.

    Examples
    --------
    >>> symbol_size({(2, 0): 1.0, (0, 2): 1.0}, [10.0, 20.0])
    500.0
    """
    omega = np.asarray(frequency, float)
    d = len(omega)  # the index of a system's derivative begins with its unknown
    size = sum(float(np.max(np.abs(c))) * float(np.prod(omega ** np.array(a[-d:]))) for a, c in terms.items())
    return float(size) or 1.0


def operator_rows(basis, X, terms, device="cpu"):
    """Rows ``sum_alpha c_alpha(x_i) (d^alpha phi_j)(x_i)``, shape (n, P)."""
    points = torch.as_tensor(X, dtype=torch.float64, device=device)
    out = None
    if not terms:
        return points.new_zeros((len(points), basis.n_features))
    for alpha, c in terms.items():
        block = basis.evaluate(points, alpha)
        if isinstance(c, float):
            block = block if c == 1.0 else block * c
        else:
            block = block * torch.as_tensor(c, dtype=torch.float64, device=device)[:, None]
        out = block if out is None else out.add_(block)
    return out


@dataclass
class System:
    """Rows, right side and what was divided out.

    Parameters
    ----------
    A : torch.Tensor, shape (n, P)
        Scaled rows: the equation first, then the conditions.
    y : torch.Tensor, shape (n,)
        Scaled right side.
    size : torch.Tensor, shape (n,)
        Norms of the rows, which were divided out.
    n_interior : int
        Number of rows of the equation.
    """

    A: torch.Tensor
    y: torch.Tensor
    size: torch.Tensor
    n_interior: int

    def solve(self):
        """Posterior of the coefficients, with the noise at rounding level; returns (posterior, unit).

        ``unit`` is the size by which the right side was divided, in units of u.
        """
        unit = float(self.y.abs().max()) or 1.0
        columns = torch.linalg.norm(self.A, dim=0)
        columns = torch.where(columns > 0, columns, torch.ones_like(columns))
        model = GaussianLinearModel(self.A, self.y / unit, prior_std=1 / columns, noise_std=ROUNDING)
        return model.posterior(), unit


def assemble(basis, interior, terms, rhs, rows, device="cpu"):
    """Build the scaled system: every row is divided by its norm.

    Parameters
    ----------
    basis : JointBasis, ProductBasis or SystemBasis
        Features.
    interior : numpy.ndarray, shape (n, d)
        Points of the equation.
    terms : dict, or list of dict
        Operator there: index to a float or an array (n,); one dict for each equation of a system.
    rhs : numpy.ndarray, shape (n,), or list of those
        Source there.
    rows : list of ConditionRows
        Conditions.
    device : str or torch.device
        Where to build it.

    Returns
    -------
    System
    """
    terms, right = ([terms], [rhs]) if isinstance(terms, dict) else (terms, list(rhs))
    blocks = [operator_rows(basis, interior, t, device) for t in terms]
    sizes = [torch.linalg.norm(block, dim=1) for block in blocks]
    block, size, rhs = condition_block(basis, rows, device)
    return scaled(
        torch.cat([*blocks, block]),
        np.concatenate([*right, rhs]),
        torch.cat([*sizes, size]),
        len(interior) * len(terms),
    )


def condition_block(basis, rows, device="cpu"):
    """Rows of the conditions (n, P), their norms (n,) and right sides (n,)."""
    blocks, sizes, right = [torch.zeros((0, basis.n_features), dtype=torch.float64, device=device)], [], []
    for group in rows:
        block = operator_rows(basis, group.X, group.terms, device)
        sizes.append(torch.linalg.norm(block, dim=1))  # before subtracting: what is left of a met condition is rounding
        if group.minus is not None:
            block = block - operator_rows(basis, group.minus, group.terms, device)
        blocks.append(block)
        right.append(group.rhs)
    size = torch.cat(sizes) if sizes else blocks[0].new_zeros(0)
    return torch.cat(blocks), size, np.concatenate(right) if right else np.zeros(0)


def scaled(A, rhs, size, n_interior):
    """A system with every row divided by its `size`."""
    size = torch.where(size > 0, size, torch.ones_like(size))
    y = torch.as_tensor(rhs, dtype=torch.float64, device=A.device)
    return System(A / size[:, None], y / size, size, n_interior)
