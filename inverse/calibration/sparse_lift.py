r"""SparseLift: gains in a subspace and a sparse signal from one snapshot, by lifting both to one matrix.

.. math:: y = \mathrm{diag}(B h)\, A\, x + \varepsilon, \qquad
          \min_X \sum_j \|X_{:j}\|_2 \quad\text{subject to}\quad \|\mathcal{A}(X) - y\| \le \epsilon,
          \quad X = h x^T

Notation  A (m, n), B (m, k), X (k, n) lifted matrix, linear in the data: A(X)_i = sum_j A_ij (B X)_ij; its adjoint
          u -> B^* diag(u) conj(A); its Gram matrix G = (B B^*) o (A A^*) of m rows only. x sparse: whole columns of X
          vanish, so that the sum of their norms ("l21") asks for more than the sum of moduli ("l1").
Cost      one eigenvalue decomposition of G, then two products with k m n multiplications a step; 100 to 1000 steps.
Pitfalls  the convex program succeeds for small k times sparsity only; its ratio of singular values says whether. Where
          it does not, its largest columns still hold the support as a rule, and least squares on them ends with zero
          residual, which is a certificate too as long as there are more data than unknowns.
References  S. Ling, T. Strohmer, Self-calibration and biconvex compressive sensing, Inverse Problems 31, 2015, arXiv
          1501.06864. E. Candes et al., Enhancing sparsity by reweighted l1 minimization, 2008, arXiv 0711.1612 (the
          second stage). S. Boyd et al., Distributed optimization and statistical learning via the
          alternating direction method of multipliers, 2011, section 3.4 (penalty and stopping).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from sciml._config import resolve
from sciml.exceptions import AmbiguityWarning, IdentifiabilityError, InvalidInputError
from sciml.iterate import Step, caller_level, run
from sciml.linalg.arrays import enter
from sciml.results import Result, array
from sciml.validation import check_number, check_option

__all__ = ["SparseLiftResult", "sparse_lift"]

Array = np.ndarray | torch.Tensor
# Residuals below this times the data count as zero where epsilon is zero: least squares ends near eps times condition.
_ZERO = 1e-8
# A component is kept if it is this many standard deviations long; for n of 1e4, chance keeps one in a few runs at most.
_KEEP = 4.5
# Columns of norm below this times the largest weigh alike in the next round.
_FLOOR = 0.05


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SparseLiftResult(Result):
    """Gains and a sparse signal; see `sparse_lift`.

    Parameters
    ----------
    rank_gap : float
        Second over first singular value of the lifted matrix of the convex program: near 0 (as `tol`) where that
        program alone has found gains and signal, which is the certificate of the published method.
    residual : float
        Norm of y - diag(gains) A signal over that of y.
    success : bool
        Whether the residual is within `epsilon` (or rounding) with fewer unknowns than data: the answer explains the
        data, and a wrong one would not.
    """

    gains: Array = array("sensor", help="gains, with root mean square 1")
    signal: Array = array("unknown", help="sparse signal")
    coefficients: Array = array("basis", help="gains in the basis")
    support: Array = array("component", help="which entries of the signal are not zero, ascending")
    gains_std: Array = array("sensor", help="standard deviations of the gains, at norm 1 and the support found")
    rank_gap: float = float("nan")
    residual: float = float("nan")
    success: bool = False


def sparse_lift(
    y, A, d_basis, *, penalty="l21", epsilon=0.0, n_reweight=4, tol=1e-5, max_iter=3000, callback=None, on_failure=None
):
    r"""Recover gains d = B h and a sparse x from one snapshot :math:`y = \mathrm{diag}(d) A x` [1]_.

    The lifted problem is solved by ADMM with an exact projection on the data. Its largest columns are then fitted by
    least squares in h and x together, insignificant components are dropped, and the fit is repeated; if that does not
    explain the data, columns are reweighted by the inverse of their norm [2]_ and all is done again.

    Parameters
    ----------
    y : array, shape (m,)
        The snapshot, real or complex; NaN: no datum.
    A : array, shape (m, n)
        Known matrix; n may be larger than m.
    d_basis : array, shape (m, k)
        Basis B of the gains, of full rank.
    penalty : {"l21", "l1"}
        Sum of the norms of the columns (the default: they share their support), or of all moduli, as published.
    epsilon : float
        Bound on the norm of the noise, in units of y; 0 (the default) for exact data. For noise of standard deviation
        sigma an entry take about ``1.1 * sigma * sqrt(m)``.
    n_reweight : int
        Rounds of reweighting at most, taken where the data are not yet explained; 4 by default, 0 leaves the method
        as published.
    tol : float
        Bound on the larger of the relative distance of the two copies of X and the relative change of the dual
        variable, dimensionless.
    max_iter : int
        Steps of ADMM at most, in each round.
    callback : callable or None
        ``callback(n_iter, step)`` of the first round; a true value stops it.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the program did not converge, or the answer does not explain the data; None asks the
        configuration.

    Returns
    -------
    SparseLiftResult
        Status, n_iter and history are those of the first round. The gains have root mean square 1.

    Raises
    ------
    InvalidInputError
        If shapes differ, d_basis is not of full rank, or y is zero.
    IdentifiabilityError
        If there are no more data than gains; if `on_failure` is "raise" and the answer does not explain the data.
    ConvergenceError
        If `on_failure` is "raise" and the program did not converge.

    Warns
    -----
    ConvergenceWarning
        If the program did not converge.
    AmbiguityWarning
        If the answer does not explain the data.

    References
    ----------
    .. [1] S. Ling, T. Strohmer, Self-calibration and biconvex compressive sensing, 2015, arXiv 1501.06864.
    .. [2] E. Candes et al., Enhancing sparsity by reweighted l1 minimization, 2008, arXiv 0711.1612.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.sparse_lift import sparse_lift
    >>> from sciml.random import generator
    >>> A, B, x = generator(0).standard_normal((40, 60)), np.vander(np.linspace(-1, 1, 40), 2), np.zeros(60)
    >>> x[[7, 30]] = 1.0, -2.0
    >>> found = sparse_lift((B @ [0.5, 1.0]) * (A @ x), A, B)
    >>> found.support, bool(found.success)
    (array([ 7, 30]), True)
    >>> float((found.coefficients[0] / found.coefficients[1]).round(6))
    0.5
    """
    check_option("penalty", penalty, ("l21", "l1"))
    epsilon = check_number("epsilon", epsilon, low=0)
    n_reweight = check_number("n_reweight", n_reweight, low=0, integer=True)
    (y, A, B), leave = enter(y, A, d_basis, names=("y", "A", "d_basis"), check_finite=False)
    dtype = y.dtype
    y, A, B = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (y, A, B))
    known, scales = _check(y, A, B, epsilon)
    lifted = _Lifted(y[known] / scales[0], A[known] / scales[1], B[known] / scales[2], epsilon / scales[0])

    steps = _admm(lifted, penalty, torch.ones(A.shape[1], dtype=torch.float64, device=A.device))
    first = run(
        steps, name="sparse_lift", tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure, dtype=A.dtype
    )
    X, rounds = first.value, 0
    singular = torch.linalg.svdvals(X)
    rank_gap = float(singular[1] / singular[0]) if len(singular) > 1 and float(singular[0]) > 0 else 0.0
    best = _fit_columns(lifted, X)
    while not best.success and rounds < n_reweight:
        size = X.norm(dim=0)
        weights = 1 / (size / size.amax().clamp_min(1e-300) + _FLOOR)
        steps = _admm(lifted, penalty, weights / weights.mean())
        X = run(steps, name="", tol=tol, max_iter=max_iter, on_failure="ignore", dtype=A.dtype).value
        best, rounds = min(best, _fit_columns(lifted, X), key=lambda fit: (not fit.success, fit.residual)), rounds + 1
    if not best.success:
        _complain(best, rank_gap, len(lifted.y), on_failure)

    # Back to the units that came, and to gains of root mean square one.
    d = B @ best.h / scales[2]
    unit = torch.linalg.vector_norm(d) / math.sqrt(len(d))
    gauge = torch.where(unit > 0, unit, 1)
    x = torch.zeros(A.shape[1], dtype=A.dtype, device=A.device)
    x[best.support] = best.x * (scales[0] / scales[1]) * gauge
    std = _gains_std(lifted, best, B / scales[2]) / gauge
    out = (d / gauge, x, best.h / scales[2] / gauge)
    real = std.to(torch.float32 if dtype in (torch.float32, torch.complex64) else torch.float64)
    settings = {"penalty": penalty, "epsilon": epsilon, "tol": tol, "max_iter": max_iter, "n_reweight": n_reweight}
    return SparseLiftResult.of(
        first,
        {**settings, "rounds of reweighting": rounds},
        **dict(zip(("gains", "signal", "coefficients"), (leave(t.to(dtype)) for t in out), strict=True)),
        support=leave(best.support),
        gains_std=leave(real),
        rank_gap=rank_gap,
        residual=best.residual,
        success=best.success,
    )


def _check(y, A, B, epsilon):
    """Return which rows count, and the sizes of y, of a column of A and of B."""
    if y.ndim != 1 or A.ndim != 2 or B.ndim != 2 or not len(y) == len(A) == len(B) or 0 in A.shape + B.shape:
        raise InvalidInputError(
            f"y, A and d_basis must have shapes (m,), (m, n) and (m, k); got {tuple(y.shape)}, {tuple(A.shape)} and "
            f"{tuple(B.shape)}. Give one snapshot, and one row of A and d_basis for each of its entries."
        )
    for name, t in (("y", y), ("A", A), ("d_basis", B)):
        bad = t.isinf() if name == "y" else ~t.isfinite()
        if bool(bad.any()):
            where = tuple(int(v) for v in bad.nonzero()[0])
            raise InvalidInputError(
                f"{name} must be finite; the entry at {where} is {t[where].item()}. Set y to NaN where there is no "
                "datum, and remove such rows of A."
            )
    known = ~y.isnan()
    y, A, B = y[known], A[known], B[known]
    m, k = B.shape
    if m <= k:
        raise IdentifiabilityError(
            f"y must have more data than d_basis has columns; got {m} data for {k} columns. Take a smaller basis.",
            missing=k + 1 - m,
        )
    scales = [float(y.norm()), float(A.norm()) / math.sqrt(A.shape[1]), float(B.norm()) / math.sqrt(k)]
    if scales[0] <= epsilon:
        raise InvalidInputError(
            f"y must be larger than epsilon; its norm is {scales[0]:.3g} and epsilon is {epsilon:.3g}, so that zero "
            "explains it. Lower epsilon."
        )
    singular = torch.linalg.svdvals(B)
    if scales[1] == 0 or not float(singular[-1]) > 1e-10 * float(singular[0]):
        name, what = ("A", "not be zero") if scales[1] == 0 else ("d_basis", "have independent columns")
        raise InvalidInputError(f"{name} must {what}; got rank-deficient rows with data. Remove columns.")
    return known, scales


class _Lifted:
    """The linear map X -> A(X), and the projection on what explains the data."""

    def __init__(self, y, A, B, epsilon):
        self.y, self.A, self.B, self.epsilon = y, A, B, epsilon
        values, self.vectors = torch.linalg.eigh((B @ B.mH) * (A @ A.mH))
        self.values = torch.where(values > 1e-13 * values[-1], values, 0)

    def forward(self, X):
        return (self.A * (self.B @ X)).sum(1)

    def adjoint(self, u):
        return self.B.mH @ (u[:, None] * self.A.conj())

    def project(self, X):
        """Return the nearest matrix within epsilon of the data, or as near to them as there is."""
        c = self.vectors.mH @ (self.y - self.forward(X))
        inverse = torch.where(self.values > 0, 1 / self.values, 0)
        if self.epsilon > 0:
            power, multiplier = c.abs() ** 2, self._multiplier(c.abs() ** 2)
            if multiplier == 0 or float(power.sum()) == 0:
                return X
            inverse = inverse if multiplier is None else multiplier / (1 + multiplier * self.values)
        return X + self.adjoint(self.vectors @ (inverse * c))

    def _multiplier(self, power):
        """Return tau >= 0 with sum power / (1 + tau values)^2 = epsilon^2 by Newton's method; None for infinity."""
        if float(power[self.values == 0].sum()) >= self.epsilon**2:
            return None
        tau = 0.0
        for _ in range(50):
            left = power / (1 + tau * self.values) ** 2
            size = float(left.sum()) ** 0.5
            if size <= self.epsilon * (1 + 1e-10):
                break
            # 1 / size is nearly linear in tau, and concave or convex enough for steps that never overshoot.
            slope = float((left * self.values / (1 + tau * self.values)).sum()) / size**3
            tau += (1 / self.epsilon - 1 / size) / slope
        return tau


def _admm(lifted, penalty, weights):
    """Yield Z, the sparse copy of X; the penalty rho is balanced in the first 500 steps."""
    X = lifted.project(torch.zeros(lifted.B.shape[1], lifted.A.shape[1], dtype=lifted.y.dtype, device=lifted.y.device))
    Z, U = torch.zeros_like(X), torch.zeros_like(X)
    rho = 1 / float(X.norm(dim=0).amax())
    yield Step(Z, 1.0, {"penalty": rho})
    for k in range(10**9):
        T = X + U
        size = T.norm(dim=0) if penalty == "l21" else T.abs()
        new = T * (1 - weights / rho / size.clamp_min(1e-300)).clamp_min(0)
        X = lifted.project(new - U)
        U = U + X - new
        apart = float((X - new).norm()) / max(float(X.norm()), float(new.norm()), 1e-300)
        moved = float((new - Z).norm()) / max(float(U.norm()), 1e-300)
        Z = new
        yield Step(Z, max(apart, moved), {"penalty": rho})
        if k < 500 and k % 10 == 9 and max(apart, moved) > 5 * min(apart, moved):
            factor = 2.0 if apart > moved else 0.5
            rho, U = rho * factor, U / factor


@dataclass
class _Fit:
    h: torch.Tensor
    x: torch.Tensor  # on the support
    support: torch.Tensor
    residual: float
    success: bool


def _fit_columns(lifted, X):
    """Return the least-squares fit on the largest columns of X that explains the data, or else the closest one."""
    m, k = lifted.B.shape
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    order = torch.argsort(X.norm(dim=0), descending=True)
    most = min((m - k) // 2 + 1, X.shape[1])
    sizes = sorted({min(size, most) for size in (_gap(X.norm(dim=0)[order][: most + 1]), m // 8 + 1, m // 4 + 1, most)})
    fits = []
    for size in sizes:
        support = order[:size].sort()[0]
        fit = _pruned(lifted, U[:, 0], S[0] * Vh[0, support], support)
        fits.append(fit)
        if fit.success:
            break
    return min(fits, key=lambda fit: (not fit.success, fit.residual))


def _gap(size):
    """Return how many of the sorted numbers come before their largest drop, at least one."""
    size = size.clamp_min(1e-6 * float(size[0])).clamp_min(1e-300)
    return 1 + int((size[:-1] / size[1:]).argmax()) if len(size) > 1 else 1


def _pruned(lifted, h, x, support):
    """Fit h and x, drop components that are noise, and fit again until there is none."""
    m, k = lifted.B.shape
    limit = max(lifted.epsilon, _ZERO)
    for _ in range(10):
        h, x, r = _least_squares(lifted, lifted.A[:, support], h, x)
        residual = float(r.norm())
        dof = m - k - len(support) + 1
        std = residual / math.sqrt(dof) * _pseudo_inverse(lifted, support, h, x)[k:].norm(dim=1)
        keep = x.abs() > torch.maximum(_KEEP * std, 1e-7 * x.abs().amax())
        if bool(keep.all()) or not bool(keep.any()):
            break
        x, support = x[keep], support[keep]
    return _Fit(h, x, support, residual, residual <= limit and m > k + len(support) - 1)


def _jacobian(lifted, A, h, x):
    return torch.cat([(A @ x)[:, None] * lifted.B, (lifted.B @ h)[:, None] * A], 1)


def _pseudo_inverse(lifted, support, h, x):
    # The scale between h and x is free: one singular value is zero.
    return torch.linalg.pinv(_jacobian(lifted, lifted.A[:, support], h, x), rtol=1e-11)


def _least_squares(lifted, A, h, x):
    """Return h, x and the residual of y = diag(B h) A x by Gauss-Newton with a growing ridge."""
    k, mu = len(h), 0.0
    r = lifted.y - (lifted.B @ h) * (A @ x)
    for _ in range(60):
        # Equal norms of both keep the Jacobian as well conditioned as it can be.
        balance = float((x.norm() / h.norm().clamp_min(1e-300)).clamp(1e-150, 1e150)) ** 0.5
        h, x = h * balance, x / balance
        J = _jacobian(lifted, A, h, x)
        U, S, Vh = torch.linalg.svd(J, full_matrices=False)
        damped = torch.where(1e-11 * S[0] < S, S / (S**2 + mu * S[0] ** 2), 0)
        step = Vh.mH @ (damped * (U.mH @ r))
        h_new, x_new = h + step[:k], x + step[k:]
        r_new = lifted.y - (lifted.B @ h_new) * (A @ x_new)
        old, new = float(r.norm()), float(r_new.norm())
        if new < old:
            h, x, r, mu = h_new, x_new, r_new, 0.0 if mu < 1e-8 else mu / 10
            if old - new < 1e-12 * old or new < 1e-14:
                break
        elif mu > 1e3 or old < 1e-14:
            break
        else:
            mu = max(1e-6, 10 * mu)
    return h, x, r


def _gains_std(lifted, fit, B):
    """Return standard deviations of B h with the component along B h left out: that is the gauge."""
    m, k = lifted.B.shape
    dof = m - k - len(fit.support) + 1
    T = B @ _pseudo_inverse(lifted, fit.support, fit.h, fit.x)[:k]
    d = B @ fit.h
    T = T - d[:, None] * (d.conj() @ T)[None] / (d.conj() @ d).abs().clamp_min(1e-300)
    return fit.residual / math.sqrt(dof) * T.norm(dim=1)


def _complain(fit, rank_gap, m, on_failure):
    text = (
        f"sparse_lift found no answer that explains the data: the ratio of singular values is {rank_gap:.2g} and the "
        f"residual {fit.residual:.2g} of y with {len(fit.support)} components. The signal may not be sparse enough for "
        f"{m} data: take a smaller basis or more data, or raise epsilon if there is more noise."
    )
    on_failure = resolve("on_failure", on_failure)
    if on_failure == "raise":
        raise IdentifiabilityError(text)
    if on_failure != "ignore":
        warnings.warn(text, AmbiguityWarning, stacklevel=caller_level())
