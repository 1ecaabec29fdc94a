r"""The posterior by preconditioned conjugate gradients, for more points than can be factorised.

Notation  X (n, d) points; K = k(X, X) + s^2 I, formed only where it fits; P = F F^T + s^2 I near K, by randomly
          pivoted Cholesky; A = K^{-1} Y; x* (m, d) new points; Z (r, d) some of the points, Q = k(., Z) k(Z, Z)^{-1}
          k(Z, .) the part of the kernel that they explain.
Cost      n^2 evaluations of k a step, some tens of steps; n r numbers for F, and a few times that while it is made.
Pitfalls  products in float32 leave a residual near eps times the norm of K over s^2: the conjugate gradients refine and
          confirm in float64, and the residual that is reported is the true one. Parameters learned on parts of the data
          carry a standard error, which is reported, too. The variance at many points is that of the model Q, which is
          measured against exact solves at a few of them.

References
----------
J. Gardner, G. Pleiss, D. Bindel, K. Weinberger, A. Wilson, GPyTorch, 2018, arXiv 1809.11165.
J. Quinonero-Candela, C. E. Rasmussen, A unifying view of sparse approximate Gaussian process regression, 2005.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import ConditioningWarning, ConvergenceWarning, InvalidInputError
from sciml.iterate import caller_level
from sciml.linalg import kernel_matrix, kernel_sum
from sciml.linalg.krylov import cg, pivoted_cholesky, stochastic_logdet
from sciml.linalg.memory import budget, require
from sciml.linalg.operators import Function
from sciml.solvers.gp_regression.evidence import floor, variance_of
from sciml.solvers.gp_regression.parameters import multiplied
from sciml.validation import check_number, check_option

__all__ = ["Iterative", "IterativePosterior", "blocks", "condition"]

_EXACT_WORK = 2e11  # n^2 m up to which variances are solved for: 20 points at n = 1e5
_CHECKED = 8  # points at which the variance of the model Q is measured
_VARIANCE_TOL = 1e-4  # residual of those solves; the error of the variance is its square
_POOR = 0.1  # relative error of a variance beyond which it is warned about
_COPIES = 4  # of F, while its singular vectors are found
_EXPECTED = 40  # products of one solve, when it is asked whether compiling pays
_ROWS = 2**24  # entries of k(Z, X) at a time


@dataclass(frozen=True)
class Iterative:
    """Options of the iterative method.

    Parameters
    ----------
    tol : float
        Bound on ``norm(y - K a) / norm(y)``, confirmed in float64; 1e-6 by default.
    max_iter : int
        Steps of conjugate gradients; 1000 by default.
    rank : int or None
        Of the preconditioner; None (the default) takes up to 600 as memory allows.
    n_blocks : int
        Parts of the data on which the parameters are learned, half of them random and half neighbourhoods, so that
        long and short lengths are seen; 4 by default.
    block_size : int
        Points of each; 1500 by default: a step of learning then takes a second or two.
    n_probes : int
        Random vectors for the log-determinant; 8 by default, 0 leaves the evidence out, which halves the time.
    n_inducing : int
        Points that carry the variance at many new points; 1000 by default.
    precision : {"mixed", "float64"}
        "mixed" (the default) multiplies in float32 and refines in float64.
    engine : {"auto", "dense", "eager", "compiled", "keops"}
        For the products, see :func:`sciml.linalg.kernel_sum`; "auto" by default.

    Raises
    ------
    InvalidInputError
        If a number is out of range.

    Examples
    --------
    >>> Iterative(rank=300).n_blocks
    4
    """

    tol: float = 1e-6
    max_iter: int = 1000
    rank: int | None = None
    n_blocks: int = 4
    block_size: int = 1500
    n_probes: int = 8
    n_inducing: int = 1000
    precision: str = "mixed"
    engine: str = "auto"

    def __post_init__(self):
        check_number("tol", self.tol, low=0, inclusive="neither")
        for name, low in (("max_iter", 0), ("n_blocks", 1), ("block_size", 10), ("n_inducing", 1), ("n_probes", 0)):
            check_number(name, getattr(self, name), low=low, integer=True)
        if self.rank is not None:
            check_number("rank", self.rank, low=1, integer=True)
        if self.n_probes == 1:
            raise InvalidInputError("n_probes must be 0 or at least 2; got 1, which has no standard error.")
        check_option("precision", self.precision, ("mixed", "float64"))
        check_option("engine", self.engine, ("auto", "dense", "eager", "compiled", "keops"))


def blocks(X, Y, options, rng):
    """Return parts (X_b, Y_b) of the data: random samples in even places, the neighbourhoods of points in odd ones.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    Y : torch.Tensor, shape (n, q)
        Targets.
    options : Iterative
        Gives number and size.
    rng : numpy.random.Generator
        Source.
    """
    n, parts = len(X), []
    size = min(options.block_size, n)
    spread = X.std(0, unbiased=False)
    scaled = X / torch.where(spread > 0, spread, 1.0)
    for b in range(options.n_blocks):
        if b % 2 == 0:
            chosen = torch.as_tensor(np.sort(rng.choice(n, size, replace=False)), device=X.device)
        else:
            distance = (scaled - scaled[int(rng.integers(n))]).square().sum(1)
            chosen = distance.topk(size, largest=False).indices.sort().values
        parts.append((X[chosen], Y[chosen]))
    return parts


def jittered(X, kernel):
    """Return the least noise variance that a factorisation could need: conjugate gradients divide by it.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    kernel : sciml.kernels.Kernel
        Prior covariance.
    """
    jitter = float(floor(variance_of(kernel, X), len(X)))
    warnings.warn(
        f"noise=0 with the iterative method takes a noise of {math.sqrt(jitter / float(variance_of(kernel, X))):.1e} "
        "standard deviations of f. Pass noise=, or method='exact'.",
        ConditioningWarning,
        stacklevel=caller_level(),
    )
    return jitter


def condition(X, kernel, noise_variance, Y, options, *, rng, on_failure, memory):
    """Return the posterior, and a dict of weights, log evidence, residual and what was chosen.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    kernel : sciml.kernels.Kernel
        Prior covariance.
    noise_variance : float
        s^2.
    Y : torch.Tensor, shape (n, q)
        Centred targets.
    options : Iterative
        Tolerances and sizes.
    rng : numpy.random.Generator
        Source of pivots, probes and inducing points.
    on_failure : str or None
        What conjugate gradients do above their tolerance.
    memory : int, float, str or None
        What matrices may take.
    """
    n, q = Y.shape
    seed = int(rng.integers(2**31))
    posterior = IterativePosterior(X, kernel, noise_variance, options, seed, memory=memory)
    # What is stated is what is taken: the factor of the preconditioner, with its copies, and the dense matrix if kept.
    needed = _COPIES * 8 * n * posterior.rank + posterior.dense_bytes + 8 * n * (2 * X.shape[1] + 12 * q)
    require(
        needed,
        what=f"the iterative method for {n} points with rank {posterior.rank}",
        remedy="pass iterative_options=Iterative(rank=...) with a smaller rank",
        memory=memory,
        device=X.device,
    )
    A, run, residual = posterior.solve(Y, options.tol, on_failure=on_failure)
    logdet, error = math.nan, math.nan
    if options.n_probes:
        found = stochastic_logdet(
            posterior.operator(), n_probes=options.n_probes, M=posterior.preconditioner, random_state=seed
        )
        logdet, error = float(found.value), float(np.hypot(found.standard_error, found.quadrature_error))
    log_evidence = -0.5 * float((Y * A).sum()) - 0.5 * q * logdet - 0.5 * n * q * math.log(2 * math.pi)
    chosen = {
        "iterative": dataclasses.asdict(options),
        "preconditioner": run.preconditioner,
        "n_iter_solve": run.n_iter,
        "n_products": run.n_matvec,
        "condition": run.condition,
        "engine": posterior.engine,
        "choices": run.choices,
        "memory_bytes": needed,
        "random_state": seed,
    }
    return posterior, {
        "weights": A,
        "log_evidence": log_evidence,
        "log_evidence_error": 0.5 * q * error,
        "residual": residual,
        "converged": run.converged,
        "settings": chosen,
    }


class IterativePosterior:
    """Posterior of a latent function f given Y = f(X) + noise, mean zero.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    kernel : sciml.kernels.Kernel
        Prior covariance of f.
    noise_variance : float
        s^2.
    options : Iterative
        Tolerances and sizes.
    seed : int
        Of pivots and inducing points.
    memory : int, float, str or None
        What matrices may take; None (the default) asks the configuration.
    """

    def __init__(self, X, kernel, noise_variance, options, seed, memory=None):
        self.X, self.kernel, self.noise_variance = X, kernel, noise_variance
        self.options, self.seed, self.memory = options, seed, memory
        n, allowed = len(X), budget(memory, X.device)
        self._X32 = (X - X.mean(0)).float()  # centred before it is rounded
        # The dense matrix of the working precision is kept where it takes at most a quarter of the budget.
        self.dense_bytes = n * n * self._itemsize if n * n * self._itemsize <= allowed / 4 else 0
        if options.engine not in ("auto", "dense"):
            self.dense_bytes = 0
        self.rank = options.rank or max(1, min(600, n // 4, int(allowed / 2 / (_COPIES * 8 * n))))
        self._M = self._dense = self._inducing = None

    @property
    def _itemsize(self):
        return 4 if self.options.precision == "mixed" else 8

    @property
    def engine(self):
        """What multiplies: the dense matrix, or the engine of the kernel sums."""
        return "dense" if self.dense_bytes else self.options.engine

    @property
    def preconditioner(self):
        """P^{-1} as an operator, made when it is first needed."""
        if self._M is None:
            self._M = pivoted_cholesky(
                self.kernel, self.noise_variance, X=self.X, rank=self.rank, random_state=self.seed
            )
        return self._M

    def operator(self):
        """Return K as an operator that multiplies in the dtype of what it is given."""
        n = len(self.X)
        dtype = "float32" if self.options.precision == "mixed" else "float64"
        return Function(
            self._product, (n, n), columns="all", dtype=dtype, device=self.X.device, symmetric=True, posdef=True,
            check=False,
        )  # fmt: skip

    def _product(self, V):
        points = self.X if V.dtype == torch.float64 else self._X32
        if self.dense_bytes and V.element_size() == self._itemsize:
            if self._dense is None:
                self._dense = kernel_matrix(points, points, kernel=self.kernel, check_finite=False)
            return self._dense @ V + self.noise_variance * V
        KV = kernel_sum(
            points, points, V, kernel=self.kernel, engine=self.options.engine, products=_EXPECTED, check_finite=False
        )
        return KV + self.noise_variance * V

    def solve(self, B, tol, on_failure=None):
        """Return K^{-1} B in float64, the run, and the largest relative residual.

        Parameters
        ----------
        B : torch.Tensor, shape (n, r)
            Right sides.
        tol : float
            Of the relative residuals.
        on_failure : str or None
            What to do above it.
        """
        short = B.float() if self.options.precision == "mixed" else B
        run = cg(
            self.operator(), short, M=self.preconditioner, tol=tol, max_iter=self.options.max_iter,
            on_failure=on_failure,
        )  # fmt: skip
        norms = torch.linalg.vector_norm(B, dim=0)
        # The system that was solved has B rounded to float32, which is known exactly.
        rounding = torch.linalg.vector_norm(B - short.double(), dim=0) / torch.where(norms > 0, norms, 1.0)
        residual = float(np.max(run.residual + rounding.cpu().numpy(), initial=0.0))
        return run.value.double(), run, residual

    def rescale(self, scale):
        """Change to targets that are `scale`, a power of two, times as large."""
        self.kernel, self.noise_variance = multiplied(self.kernel, scale**2), self.noise_variance * scale**2
        # A preconditioner serves up to a factor; the dense matrix would not, and is not needed soon.
        self._dense = self._inducing = None

    # ------------------------------------------------------------ variances
    def variance_with_error(self, points):
        """Return the posterior variance of f at points (m, d), shape (m,), and an estimate of its relative error."""
        m, n = len(points), len(self.X)
        if m == 0:
            return points.new_zeros(0), 0.0
        if m * float(n) ** 2 <= _EXACT_WORK:
            return self._solved_variance(points)
        found = self._explained_variance(points)
        rng = np.random.default_rng(self.seed)
        few = torch.as_tensor(rng.choice(m, min(_CHECKED, m), replace=False), device=points.device)
        exact, _ = self._solved_variance(points[few])
        error = float(((found[few] - exact).abs() / exact.clamp_min(1e-300)).max())
        if error > _POOR:
            warnings.warn(
                f"the variance at {m} points is {error:.0%} off at the worst of {len(few)} where it was solved for. "
                f"Raise n_inducing={self.options.n_inducing} in Iterative, or ask at fewer points.",
                ConvergenceWarning,
                stacklevel=caller_level(),
            )
        return found, error

    def _solved_variance(self, points):
        size, parts, worst = variance_of(self.kernel, self.X), [], 0.0
        for part in points.split(64):
            cross = kernel_matrix(self.X, part, kernel=self.kernel, check_finite=False)  # (n, m)
            S, run, _ = self.solve(cross, _VARIANCE_TOL)
            parts.append((size - (cross * S).sum(0)).clamp_min(0.0))
            # k^T S misses k^T K^{-1} k by r^T K^{-1} r <= |r|^2 / s^2 for conjugate gradients.
            missed = (torch.as_tensor(run.residual) * torch.linalg.vector_norm(cross, dim=0).cpu()).square()
            relative = missed / self.noise_variance / parts[-1].cpu().clamp_min(1e-300)
            worst = max(worst, float(relative.max()))
        return torch.cat(parts), worst

    def _explained_variance(self, points):
        """Return k - q + s^2 phi^T (s^2 I + Phi Phi^T)^{-1} phi with Q = Phi^T Phi."""
        size, parts = variance_of(self.kernel, self.X), []
        for part in points.split(max(1, _ROWS // self.options.n_inducing)):
            phi, inner = self._features(part)
            parts.append((size - phi.square().sum(0)).clamp_min(0.0) + self.noise_variance * inner.square().sum(0))
        return torch.cat(parts)

    def _features(self, points):
        """Return phi (r, m) of points and L_B^{-1} phi, where L_B L_B^T = s^2 I + Phi Phi^T over the data."""
        if self._inducing is None:
            rng = np.random.default_rng(self.seed)
            r = min(self.options.n_inducing, len(self.X))
            Z = self.X[torch.as_tensor(rng.choice(len(self.X), r, replace=False), device=self.X.device)]
            K = kernel_matrix(Z, Z, kernel=self.kernel, check_finite=False)
            K.diagonal().add_(floor(variance_of(self.kernel, Z), r))
            L = torch.linalg.cholesky(K)
            B = torch.zeros_like(K)
            for part in self.X.split(max(1, _ROWS // r)):
                Phi = self._phi(L, Z, part)
                B.addmm_(Phi, Phi.T)
            B.diagonal().add_(self.noise_variance)
            self._inducing = Z, L, torch.linalg.cholesky(B)
        Z, L, L_B = self._inducing
        phi = self._phi(L, Z, points)
        return phi, torch.linalg.solve_triangular(L_B, phi, upper=False)

    def _phi(self, L, Z, points):
        cross = kernel_matrix(Z, points, kernel=self.kernel, check_finite=False)
        return torch.linalg.solve_triangular(L, cross, upper=False)

    def covariance(self, points):
        """Return the posterior covariance of f between points (m, d), shape (m, m)."""
        prior = kernel_matrix(points, points, kernel=self.kernel, check_finite=False)
        if len(points) * float(len(self.X)) ** 2 <= _EXACT_WORK:
            cross = kernel_matrix(self.X, points, kernel=self.kernel, check_finite=False)
            S, _, _ = self.solve(cross, _VARIANCE_TOL)
            return prior - cross.T @ S
        phi, inner = self._features(points)
        return prior - phi.T @ phi + self.noise_variance * inner.T @ inner

    # ------------------------------------------------------------ saving
    def state(self):
        """Return what a saved posterior needs besides the points: options and seed."""
        return {"iterative": dataclasses.asdict(self.options), "seed": self.seed}

    @classmethod
    def restored(cls, X, kernel, noise_variance, state):
        """Return the posterior that `state` was taken from."""
        return cls(X, kernel, noise_variance, Iterative(**state["iterative"]), state["seed"])
