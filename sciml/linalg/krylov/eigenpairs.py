r"""Extreme eigenpairs of a symmetric or Hermitian `A`: block Lanczos with thick restart, and LOBPCG.

Notation  A (n, n); V (n, j) orthonormal basis, W = A V; T = V^H W = Y diag(theta) Y^H; X = V Y_k Ritz vectors;
          R = A X - X diag(theta) residuals; p block size; M ~ A^-1.
Cost      p products with A a step, two passes of Gram-Schmidt of 4 n j p flops each, 2 j blocks of length n; a step of
          LOBPCG k products with A and M, and 6 k vectors.
Pitfalls  without reorthogonalisation eigenvalues appear several times; the basis is therefore kept orthonormal to
          rounding, and W with it, so that residuals cost no product. A block of size p finds eigenvalues of
          multiplicity up to p at once, larger ones by rounding or after a restart; residuals bound the distance of each
          value to *an* eigenvalue, they cannot show that none was missed.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Step, run
from sciml.linalg.krylov.result import SolveRun
from sciml.linalg.krylov.system import System, norm
from sciml.linalg.operators.base import as_operator
from sciml.random import generator, normal
from sciml.validation import check_number, check_option

_WHICH = ("largest", "smallest", "magnitude")


@dataclass(frozen=True, eq=False, repr=False)
class EigenRun(SolveRun):
    """Eigenpairs, with ``value`` the eigenvalues, shape (k,), and ``residual`` that of each pair.

    Parameters
    ----------
    vectors : array, shape (n, k)
        Orthonormal eigenvectors, a column each, in the order of the values.
    """

    vectors: Any = None


def lanczos(
    A,
    k=6,
    which="largest",
    *,
    block=None,
    basis=None,
    tol=1e-8,
    max_iter=1000,
    random_state=0,
    callback=None,
    on_failure=None,
    progress=None,
):
    r"""Return extreme eigenpairs of a symmetric or Hermitian `A` by block Lanczos with thick restart [1]_.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (n, n)
        Symmetric or Hermitian.
    k : int
        Eigenpairs wanted, 1 to n; 6 by default.
    which : {"largest", "smallest", "magnitude"}
        The largest (default) or smallest values, or those largest in modulus. For the smallest of a matrix with a wide
        spectrum :func:`lobpcg` with a preconditioner is much faster.
    block : int or None
        Vectors multiplied at once; None (the default) takes ``min(k, 4)``.
    basis : int or None
        Vectors kept at most; None (the default) takes ``max(3 k, k + 8 block, 20)``.
    tol : float
        Every pair satisfies ``norm(A @ x - value * x) <= tol * norm(A)``, recomputed in float64, norm(A) being the
        largest modulus of a value seen; 1e-8 by default.
    max_iter : int
        Steps at most; 1000 by default.
    random_state : None, int or numpy.random.Generator
        Of the first block; 0 by default.
    callback : callable or None
        ``callback(n_iter, step)``, once a step; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    EigenRun
        ``value`` in the order of `which`, ``vectors``, ``residual`` relative to norm(A); arrays of the kind of `A`.

    Raises
    ------
    InvalidInputError
        If `A` is not square, a batch, or an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If a residual stays above `tol`.

    References
    ----------
    .. [1] K. Wu, H. Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000.

    Examples
    --------
    >>> lanczos(np.diag([1.0, 5.0, 3.0]), 2).value.round(6)
    array([5., 3.])
    """
    space = _Space(A, k, which, None, random_state)
    p = min(space.k, 4) if block is None else min(check_number("block", block, low=1, integer=True), space.n)
    least = space.k + p
    size = max(3 * space.k, space.k + 8 * p, 20) if basis is None else check_number("basis", basis, integer=True)
    if size < least:
        raise InvalidInputError(f"basis must be at least k + block = {least}; got {size}. Pass a larger basis.")
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}
    done = run(
        _lanczos_steps(space, p, min(size, space.n)),
        name="lanczos",
        tol=tol,
        max_iter=max_iter,
        dtype="float64",
        **loop,
    )
    return space.report(done, "lanczos")


def lobpcg(
    A,
    k=6,
    which="smallest",
    *,
    M=None,
    X0=None,
    tol=1e-8,
    max_iter=500,
    random_state=0,
    callback=None,
    on_failure=None,
    progress=None,
):
    r"""Return extreme eigenpairs of a symmetric or Hermitian `A` by preconditioned block conjugate gradients [1]_.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (n, n)
        Symmetric or Hermitian.
    k : int
        Eigenpairs wanted, 1 to n; 6 by default.
    which : {"smallest", "largest", "magnitude"}
        As for :func:`lanczos`; the smallest by default, for which `M` is made.
    M : LinearOperator, preconditioner, array, callable or None
        Near the inverse of `A`, symmetric positive definite; None (the default) goes without.
    X0 : array, shape (n, k), or None
        First vectors, such as those of a neighbouring problem; None (the default) draws them.
    tol : float
        As for :func:`lanczos`; 1e-8 by default.
    max_iter : int
        Steps at most; 500 by default.
    random_state : None, int or numpy.random.Generator
        Of the first block; 0 by default.
    callback : callable or None
        ``callback(n_iter, step)``, once a step; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    EigenRun
        As for :func:`lanczos`.

    Raises
    ------
    InvalidInputError
        If `A` is not square, a batch, or an option is out of range.

    Warns
    -----
    ConvergenceWarning
        If a residual stays above `tol`.

    References
    ----------
    .. [1] A. V. Knyazev, Toward the optimal preconditioned eigensolver: locally optimal block preconditioned conjugate
       gradient method, 2001.

    Examples
    --------
    >>> lobpcg(np.diag([1.0, 5.0, 3.0, 9.0]), 2).value.round(6)
    array([1., 3.])
    """
    space = _Space(A, k, which, M, random_state, X0)
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}
    done = run(_lobpcg_steps(space), name="lobpcg", tol=tol, max_iter=max_iter, dtype="float64", **loop)
    return space.report(done, "lobpcg")


class _Space:
    """The subspace: orthonormal V and W = A V, with Ritz pairs and residuals."""

    def __init__(self, A, k, which, M, random_state, X0=None):
        self.operator = as_operator(A)
        n, m = self.operator.shape
        if n != m or self.operator.batch_shape:
            raise InvalidInputError(
                f"A must be one square matrix; got shape {(*self.operator.batch_shape, n, m)}. Take one of the batch."
            )
        self.n, self.k = n, check_number("k", k, low=1, high=n, integer=True)
        self.which, self.rng = check_option("which", which, _WHICH), generator(random_state)
        like = torch.zeros(n, 1, dtype=self.operator.dtype, device=self.operator.device)
        self.system = System(self.operator, self.operator._leave(like), M)  # for its precisions and its preconditioner
        self.dtype = self.system.long
        self.V = self.W = torch.zeros(n, 0, dtype=self.dtype, device=like.device)
        self.norm_A = 0.0
        self.first = None if X0 is None else torch.as_tensor(X0).to(self.V)
        if self.first is not None and self.first.shape != (n, self.k):
            raise InvalidInputError(f"X0 must have shape {(n, self.k)}; got {tuple(self.first.shape)}. Leave it out.")

    def draw(self, count):
        G = normal(self.rng, (self.n, count), device=self.V.device)
        return torch.complex(G, normal(self.rng, G.shape, device=G.device)) if self.dtype.is_complex else G

    def extend(self, block):
        """Add a block to V and its product to W, as far as there is room; columns without news become random."""
        block = block[:, : self.n - self.V.shape[1]].to(self.dtype)
        if block.shape[1] == 0:
            return
        for _ in range(5):
            size = norm(block)
            block = block / torch.where(size > 0, size, 1.0)
            block, R = torch.linalg.qr(block - self.V @ (self.V.mH @ block))
            poor = torch.diagonal(R).abs() < 1e-10
            if not bool(poor.any()):
                break
            block = torch.where(poor, self.draw(block.shape[1]), block)
        # The second pass removes what the first left by rounding.
        block = torch.linalg.qr(block - self.V @ (self.V.mH @ block))[0]
        self.V = torch.cat([self.V, block], 1)
        self.W = torch.cat([self.W, self.system.A_long(block)], 1)

    def ritz(self):
        """Return values and coordinates, the wanted ones first."""
        T = self.V.mH @ self.W
        theta, Y = torch.linalg.eigh((T + T.mH) / 2)
        key = {"largest": -theta, "smallest": theta, "magnitude": -theta.abs()}[self.which]
        order = key.argsort(stable=True)
        self.norm_A = max(self.norm_A, float(theta.abs().max()))
        return theta[order], Y[:, order]

    def pairs(self, theta, Y):
        """Return the wanted pairs, their residuals and the step that shows them."""
        k = min(self.k, len(theta))
        X, AX = self.V @ Y[:, :k], self.W @ Y[:, :k]
        R = AX - X * theta[:k]
        relative = norm(R) / (self.norm_A or 1.0)
        worst = float(relative.max()) if k == self.k else 1.0
        return R, relative, Step((theta[:k], X), worst, {"basis": self.V.shape[1]})

    def compress(self, C):
        self.V, self.W = self.V @ C, self.W @ C

    def report(self, run_, name):
        theta, X = run_.value
        with torch.no_grad():
            R = self.system.A_long(X) - X * theta
            residual = (norm(R) / (self.norm_A or 1.0)).cpu().numpy()
        solved = self.system.report(replace(run_, value=self.system.shaped(X)), tol=np.inf, name=name)
        leave = self.operator._leave
        real = torch.empty(0, dtype=self.system.dtype).real.dtype
        shared = {**vars(solved), "residual": residual, "reason": run_.reason, "status": run_.status}
        shared |= {"value": leave(theta.to(real)), "n_matvec": self.system.n_matvec}
        return EigenRun(**shared, vectors=leave(X.to(self.system.dtype)))


@torch.no_grad()
def _lanczos_steps(space, p, size):
    space.extend(space.draw(p))
    while True:
        theta, Y = space.ritz()
        R, relative, step = space.pairs(theta, Y)
        yield step
        if space.V.shape[1] + p > size:
            # The thick restart: the wanted Ritz vectors and as many of their neighbours as leave room for some blocks.
            keep = min(space.k + max((size - space.k) // 2, 0), max(size - p, space.k))
            if keep < space.V.shape[1]:
                space.compress(Y[:, :keep])
        if space.V.shape[1] >= space.n:
            return
        worst = relative.argsort(descending=True, stable=True)[:p]
        block = R[:, worst]
        space.extend(block if block.shape[1] == p else torch.cat([block, space.draw(p - block.shape[1])], 1))


@torch.no_grad()
def _lobpcg_steps(space):
    k, M = space.k, space.system.M or (lambda X: X)
    space.extend(space.draw(k) if space.first is None else space.first)
    while True:
        theta, Y = space.ritz()
        R, relative, step = space.pairs(theta, Y)
        yield step
        if space.V.shape[1] >= space.n and space.V.shape[1] <= 3 * k:
            return
        # Coordinates of X, and of the part P of X that the last block and the last P gave, made orthogonal to X.
        P = Y[:, :k].clone()
        P[:k] = 0
        has_news = len(Y) > k
        space.compress(torch.linalg.qr(torch.cat([Y[:, :k], P], 1))[0][:, : 2 * k] if has_news else Y[:, :k])
        space.extend(M(R))
