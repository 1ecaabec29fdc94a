r"""Hessians of few unknowns, formed once a level and factored: then every further linear system costs nothing.

.. math:: H e_k, \quad k = 1, \dots, d, \qquad H = R^T R

Notation  H (b, d, d) one Hessian a sample; R its Cholesky factor; d unknowns of a sample.
Cost      d products a level, as much as d steps of conjugate gradients for one of the n + 1 systems of a level; d^3 / 3
          operations a sample.
Pitfalls  products of a stack of matrices round otherwise in other company: residuals are summed elementwise.
"""

from __future__ import annotations

import torch

__all__ = ["MOST", "Factor", "form"]

# Unknowns, and numbers in all Hessians together, up to which they are formed.
MOST = 200
_NUMBERS = 20_000_000


def fits(n_samples, d):
    """Return whether Hessians of this size may be formed."""
    return d <= MOST and n_samples * d * d <= _NUMBERS


def form(point):
    """Return the Hessians of a point, symmetric, by products with the unit vectors.

    Parameters
    ----------
    point : Point
        Without a mask; it counts the products.

    Returns
    -------
    torch.Tensor, shape (b, d, d), float64
    """
    x = point.x
    b, d = len(x), x[0].numel()
    H = torch.empty(b, d, d, dtype=torch.float64, device=x.device)
    for k in range(d):
        e = torch.zeros(b, d, dtype=x.dtype, device=x.device)
        e[:, k] = 1
        H[:, k] = point.hvp(e.reshape(x.shape)).reshape(b, d)
    return 0.5 * (H + H.transpose(1, 2))


class Factor:
    """Hessians and their Cholesky factors.

    Parameters
    ----------
    H : torch.Tensor, shape (b, d, d)
        From :func:`form`.
    """

    def __init__(self, H):
        self.H = H
        self.R, failed = torch.linalg.cholesky_ex(H)
        self.sound = not bool(failed.any()) and bool(torch.isfinite(H).all())

    def solve(self, right):
        """Solve H x = right, with one correction, and return x and bounds of the residual norms.

        Parameters
        ----------
        right : torch.Tensor, shape (b, *shape)
            One right side a sample.

        Returns
        -------
        x : torch.Tensor, shape (b, *shape)
        residual : torch.Tensor, shape (b,), float64
        """
        b = right.reshape(len(right), -1).to(torch.float64)
        x = torch.cholesky_solve(b[:, :, None], self.R)[:, :, 0]
        r = b - (self.H * x[:, None]).sum(2)
        x = x + torch.cholesky_solve(r[:, :, None], self.R)[:, :, 0]
        out = x.reshape(right.shape).to(right.dtype)
        # What the dtype of x lost counts, and that the products that made H were rounded.
        x = out.reshape(b.shape).to(torch.float64)
        r = b - (self.H * x[:, None]).sum(2)
        unit = torch.finfo(right.dtype).eps
        slack = 2 * unit * self.H.flatten(1).norm(dim=1) * x.norm(dim=1)
        return out, r.norm(dim=1) + slack

    def precondition(self, r, rows):
        """Return H^-1 r for some samples.

        Parameters
        ----------
        r : torch.Tensor, shape (k, *shape)
            Residuals.
        rows : torch.Tensor of int64, shape (k,)
            Which samples.

        Returns
        -------
        torch.Tensor, shape (k, *shape)
        """
        flat = r.reshape(len(r), -1, 1).to(torch.float64)
        return torch.cholesky_solve(flat, self.R[rows]).reshape(r.shape).to(r.dtype)

    def spread(self, q, x):
        """Return the root of the sum of (q_i H_ij x_j)^2: a rounding of each H_ij x_j moves q^T H x by as much.

        Parameters
        ----------
        q, x : torch.Tensor, shape (b, *shape)
            One vector a sample.

        Returns
        -------
        torch.Tensor, shape (b,), float64
        """
        q, x = (v.reshape(len(v), -1).to(torch.float64) for v in (q, x))
        return (q[:, :, None] * self.H * x[:, None]).flatten(1).norm(dim=1)

    def lowest(self):
        """Return the smallest eigenvalues, (b,)."""
        return torch.linalg.eigvalsh(self.H)[:, 0]
