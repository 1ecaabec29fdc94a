r"""Preconditioners: matrices P near A whose inverse is cheap, with their determinant and a way to draw from N(0, P).

Notation  A = K + mu I (n, n) the system, mu its shift; P^-1 what is applied; U (n, k) orthonormal; lam (k,) the largest
          eigenvalues of K that a sketch found; F (n, k) with F F^T near K.
Cost      Nystrom: k products with A and 2 n k^2 flops; pivoted Cholesky: about (k + 1) n entries of A; each
          application 4 n k flops. Jacobi and circulant: n and n log n.
Pitfalls  a low-rank preconditioner pays where the spectrum of K falls fast, as for smooth kernels; where it falls
          slowly, as for discrete Laplacians, it gains nothing and is dropped with a reason.

References
----------
Z. Frangella, J. Tropp, M. Udell, Randomized Nystrom preconditioning, 2021, arXiv 2110.02820.
E. Epperly, J. Tropp, R. Webber, Embrace rejection: kernel matrix approximation by accelerated randomly pivoted
Cholesky, 2024, arXiv 2410.03969.
T. Chan, An optimal circulant preconditioner for Toeplitz systems, 1988.
"""

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.arrays import enter
from sciml.linalg.operators.base import LinearOperator, as_operator
from sciml.linalg.operators.dense import Dense
from sciml.linalg.operators.kernel import KernelOperator, kernel_matrix
from sciml.random import generator, normal
from sciml.validation import check_number

_FIRST_RANK = 100  # of an adaptive sketch
_LARGEST_RANK = 1000  # of one that nobody asked for: 8 MB for each thousand unknowns
_STEPS_PER_ROOT = 9.5  # conjugate gradients take log(2 / 1e-8) / 2 times the root of the condition number


class Preconditioner(LinearOperator):
    r"""An operator that applies :math:`P^{-1}`, symmetric positive definite.

    Parameters
    ----------
    n : int
        Order of the matrix.
    name : str
        For reports.
    like : Tensor
        Gives dtype and device.
    rank : int or None
        Rank of a low-rank part; None where there is none.
    reason : str
        Why it is what it is, for reports.
    batch_shape : tuple of int
        Leading axes; none by default.

    Examples
    --------
    >>> M = jacobi(np.diag([1.0, 4.0]))
    >>> M @ np.ones(2), float(M.logdet())
    (array([1.  , 0.25]), 1.3862943611198906)
    """

    def __init__(self, n, *, name, like, rank=None, reason="", batch_shape=()):
        super().__init__((n, n), dtype=like.dtype, device=like.device, posdef=True, batch_shape=batch_shape)
        self.name, self.rank, self.reason = name, rank, reason

    def __repr__(self):
        return (
            f"<{self.name} preconditioner {self.shape[0]}x{self.shape[1]}{f': {self.reason}' if self.reason else ''}>"
        )

    def _refilled(self):
        tensors = self.parameters()
        if tensors:
            is_complex = self.dtype.is_complex
            real = tensors[0].real.dtype if tensors[0].is_complex() else tensors[0].dtype
            self.dtype = torch.promote_types(real, torch.complex32) if is_complex else real

    def logdet(self):  # type: ignore[override]
        """Return log det P, not of the inverse that is applied: a float, or a tensor for a batch."""
        raise NotImplementedError(f"{self.name} has no determinant")

    def sample(self, n_samples, random_state=None):
        """Return draws from the normal distribution with mean zero and covariance P, as columns.

        Parameters
        ----------
        n_samples : int
            Number of draws.
        random_state : None, int or numpy.random.Generator
            None (the default) draws a fresh seed.

        Returns
        -------
        Tensor, shape (..., n, n_samples)
            For complex P circular: real and imaginary parts have covariance P / 2.
        """
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
        rng = generator(random_state)
        shape = (*self.batch_shape, self.shape[0], n_samples)
        real = torch.empty(0, dtype=self.dtype).real.dtype
        Z = normal(rng, shape, device=self.device, dtype=real)
        if self.dtype.is_complex:
            Z = torch.complex(Z, normal(rng, shape, device=self.device, dtype=real)) / math.sqrt(2)
        return self._root(Z)

    def _root(self, Z):
        """Return L Z with L L^H = P."""
        raise NotImplementedError(f"{self.name} has no root")


class _Diagonal(Preconditioner):
    _fields = ("d",)

    def __init__(self, d, name, reason=""):
        self.d = d
        super().__init__(d.shape[-1], name=name, like=d, reason=reason, batch_shape=d.shape[:-1])

    def _apply(self, X):
        return X / self.d[..., None]

    def logdet(self):
        return _number(self.d.log().sum(-1))

    def _root(self, Z):
        return self.d.sqrt()[..., None] * Z


class _Blocks(Preconditioner):
    _fields = ("L",)

    def __init__(self, L, n, name):
        self.L = L  # (..., n_blocks, size, size)
        super().__init__(n, name=name, like=L, batch_shape=L.shape[:-3])

    def _blocked(self, X, act):
        count, size = self.L.shape[-3], self.L.shape[-1]
        padded = torch.nn.functional.pad(X, (0, 0, 0, count * size - X.shape[-2]))
        Y = act(padded.reshape(*X.shape[:-2], count, size, X.shape[-1]))
        return Y.reshape(*Y.shape[:-3], count * size, X.shape[-1])[..., : self.shape[0], :]

    def _apply(self, X):
        return self._blocked(X, lambda blocks: torch.cholesky_solve(blocks, self.L))

    def logdet(self):
        return _number(2 * torch.diagonal(self.L, dim1=-2, dim2=-1).real.log().sum((-2, -1)))

    def _root(self, Z):
        return self._blocked(Z, lambda blocks: self.L @ blocks)


class _Circulant(Preconditioner):
    _fields = ("values",)

    def __init__(self, values, like):
        self.values = values  # eigenvalues, real and positive
        super().__init__(values.shape[-1], name="circulant", like=like, batch_shape=values.shape[:-1])

    def _filter(self, X, factor):
        Y = torch.fft.ifft(factor[..., None] * torch.fft.fft(X, dim=-2), dim=-2)
        return Y if X.is_complex() or self.dtype.is_complex else Y.real

    def _apply(self, X):
        return self._filter(X, 1 / self.values)

    def logdet(self):
        return _number(self.values.log().sum(-1))

    def _root(self, Z):
        return self._filter(Z, self.values.sqrt())


class _LowRank(Preconditioner):
    """P = U diag(values) U^H + rest (I - U U^H)."""

    _fields = ("U", "values", "rest")

    def __init__(self, U, values, rest, name, reason=""):
        self.U, self.values, self.rest = U, values, rest
        super().__init__(U.shape[0], name=f"{name}({U.shape[1]})", like=U, rank=U.shape[1], reason=reason)

    def _spectral(self, X, f):
        inside = self.U.mH @ X
        outside = X - self.U @ inside
        # Projected twice: what rounding leaves of the large values inside would outweigh the small ones outside, and
        # in float32 P would no longer be positive definite.
        outside = outside - self.U @ (self.U.mH @ outside)
        return f(self.rest) * outside + self.U @ (f(self.values)[:, None] * inside)

    def _apply(self, X):
        return self._spectral(X, torch.reciprocal)

    def logdet(self):
        return _number(self.values.log().sum() + (self.shape[0] - self.rank) * self.rest.log())

    def _root(self, Z):
        return self._spectral(Z, torch.sqrt)


def _number(value):
    return float(value) if value.ndim == 0 else value


def _square(A):
    operator = as_operator(A)
    if operator.shape[0] != operator.shape[1]:
        raise InvalidInputError(f"A must be square; got shape {operator.shape}. Only square systems have a P near A.")
    return operator


def _refuse(name, values, what, remedy):
    """Refuse values that are not positive, naming the first."""
    bad = ~(values > 0)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        index = index[0] if len(index) == 1 else index
        raise NotPositiveDefiniteError(
            f"A must be positive definite for {name}: {what} {index} is {float(values[index]):.3g}. {remedy}",
            index=index,
            smallest=float(values[index]),
        )


@torch.no_grad()
def jacobi(A):
    """Return the diagonal of `A` as a preconditioner: it undoes rows and columns in different units.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (..., n, n)
        With a positive diagonal.

    Returns
    -------
    Preconditioner

    Raises
    ------
    NotPositiveDefiniteError
        If an entry of the diagonal is not positive.

    Examples
    --------
    >>> jacobi(np.array([[4.0, 1.0], [1.0, 9.0]])) @ np.ones(2)
    array([0.25      , 0.11111111])
    """
    d = _square(A)._diag().real
    _refuse("jacobi", d, "its diagonal entry", "Use minres without a preconditioner.")
    return _Diagonal(d.clone(), "jacobi")


@torch.no_grad()
def block_jacobi(A, size):
    """Return the diagonal blocks of `A` as a preconditioner: it undoes what couples neighbours in the ordering.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (..., n, n)
        Positive definite.
    size : int
        Rows of a block, at least 1; the last block may be shorter.

    Returns
    -------
    Preconditioner

    Raises
    ------
    NotPositiveDefiniteError
        If a block is not positive definite.

    Notes
    -----
    An operator without entries takes n products.

    Examples
    --------
    >>> A = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    >>> (block_jacobi(A, 2) @ (A @ np.ones(3))).round(12)
    array([1., 1., 1.])
    """
    operator = _square(A)
    n = operator.shape[0]
    size = min(check_number("size", size, low=1, integer=True), max(n, 1))
    count = -(-n // size)
    blocks = torch.eye(size, dtype=operator.dtype, device=operator.device).repeat(*operator.batch_shape, count, 1, 1)
    for i in range(count):
        rows = torch.arange(i * size, min((i + 1) * size, n), device=operator.device)
        blocks[..., i, : len(rows), : len(rows)] = _columns(operator, rows)[..., rows, :]
    L, info = torch.linalg.cholesky_ex(blocks)
    _refuse("block_jacobi", 1 - info.double(), "the sign of block", "Use minres without a preconditioner.")
    return _Blocks(L, n, f"block_jacobi({size})")


def _columns(operator, index):
    """Return columns of an operator, (..., n, len(index)): by their entries where it knows them, else by products."""
    if isinstance(operator, Dense):
        return operator.A[..., index]
    if isinstance(operator, KernelOperator) and operator.y is None:
        K = kernel_matrix(operator.x, operator.x[index], **operator._function())
        if operator.diagonal is not None:
            K[index, torch.arange(len(index), device=K.device)] += operator.diagonal[index]
        return K
    unit = torch.zeros(operator.shape[1], len(index), dtype=operator.dtype, device=operator.device)
    unit[index, torch.arange(len(index), device=operator.device)] = 1
    return operator._matmat(unit)


@torch.no_grad()
def circulant(A):
    r"""Return the circulant matrix nearest to `A` in the Frobenius norm as a preconditioner, for Toeplitz systems.

    .. math:: c_k = \frac1n \sum_{i - j = k \bmod n} a_{ij}

    which for a Toeplitz matrix is :math:`((n - k) t_k + k t_{k-n}) / n`; it is positive definite where `A` is.

    Parameters
    ----------
    A : LinearOperator or array, shape (..., n, n)
        Positive definite. An operator named Toeplitz takes two products, any other its n^2 entries.

    Returns
    -------
    Preconditioner

    Raises
    ------
    InvalidInputError
        If A has no row.
    NotPositiveDefiniteError
        If an eigenvalue of the circulant matrix is not positive.

    Examples
    --------
    >>> A = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])
    >>> circulant(A).values.numpy().round(3)
    array([0.667, 2.667, 2.667])
    """
    operator = _square(A)
    n = operator.shape[0]
    if n == 0:
        raise InvalidInputError(f"A must have at least one row for circulant; got shape {operator.shape}.")
    k = torch.arange(n, device=operator.device)
    if type(operator).__name__ in ("Toeplitz", "Circulant"):
        first = torch.zeros(n, 1, dtype=operator.dtype, device=operator.device)
        first[:1] = 1
        below, above = operator._matmat(first)[..., 0], operator._rmatmat(first)[..., 0].conj()
        # t_{k - n} lies n - k to the right of the diagonal.
        c = ((n - k) * below + k * above[..., (n - k) % n]) / n
    else:
        dense = operator._to_dense()
        c = torch.stack([dense[..., (k + j) % n, k].mean(-1) for j in range(n)], -1)
    values = torch.fft.fft(c, dim=-1).real
    _refuse("circulant", values, "eigenvalue", "Use jacobi, or none.")
    return _Circulant(values, c)


@torch.no_grad()
def nystrom(A, shift, rank=None, *, random_state=0):
    r"""Return a randomised Nystrom preconditioner for ``A = K + shift I``, K positive semidefinite [1]_.

    .. math:: P = U \,\mathrm{diag}(\lambda + \mu)\, U^H + (\lambda_k + \mu)(I - U U^H)

    with the eigenpairs of the approximation :math:`K \Omega (\Omega^H K \Omega)^{-1} \Omega^H K`, :math:`\Omega` a
    random orthonormal basis.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (n, n)
        The matrix of the system, its shift included.
    shift : float
        :math:`\mu`, the multiple of the identity in `A`, such as the variance of the noise; positive.
    rank : int or None
        k; None (the default) begins with ``min(n / 4, 100)`` and doubles while :math:`\lambda_k > 10 \mu` and the
        iterations that it saves pay for its products. The answer has rank 0, with a reason, where the spectrum falls
        so slowly, :math:`\lambda_k > \lambda_1 / 10`, that nothing is gained.
    random_state : None, int or numpy.random.Generator
        0 by default, so that the same call gives the same preconditioner.

    Returns
    -------
    Preconditioner
        ``rank``, ``reason`` and ``name`` say what was chosen.

    Raises
    ------
    InvalidInputError
        If `shift` is not positive or `A` is not square.
    NotPositiveDefiniteError
        If ``A - shift I`` is not positive semidefinite.

    References
    ----------
    .. [1] Z. Frangella, J. Tropp, M. Udell, Randomized Nystrom preconditioning, 2021, arXiv 2110.02820.

    Examples
    --------
    >>> A = np.diag([100.0, 10.0, 1e-6, 0.0, 0.0, 0.0, 0.0, 0.0]) + 0.1 * np.eye(8)
    >>> M = nystrom(A, 0.1, rank=3)
    >>> bool(np.allclose(M @ (A @ np.ones(8)), np.ones(8), rtol=1e-4))
    True
    """
    operator = _square(A)
    mu = check_number("shift", shift, low=0, inclusive="neither")
    n, rng = operator.shape[0], generator(random_state)
    adaptive = rank is None
    rank = min(max(n // 4, 1), _FIRST_RANK) if adaptive else check_number("rank", rank, low=0, integer=True)
    rank, largest = min(rank, n), min(n // 2, _LARGEST_RANK)
    like = torch.empty(0, dtype=operator.dtype, device=operator.device)
    if n == 0 or rank == 0:
        return _identity(n, mu, like, "nystrom", "rank 0 was asked for")
    Omega, Y = like.new_zeros(n, 0), like.new_zeros(n, 0)
    while True:
        fresh = _orthonormal(Omega, rank - Omega.shape[1], rng)
        Y = torch.cat([Y, operator._matmat(fresh) - mu * fresh], -1)
        Omega = torch.cat([Omega, fresh], -1)
        U, lam = _nystrom_pairs(Omega, Y)
        if not adaptive or 2 * rank > largest or not _doubling_pays(lam, mu):
            break
        rank *= 2
    reason = f"rank {rank}: lambda_k = {float(lam[-1]):.1e}, lambda_1 = {float(lam[0]):.1e}, shift = {mu:.1e}"
    if rank < n and float(lam[-1]) > 0.1 * float(lam[0]):
        if adaptive:
            return _identity(
                n, mu + float(lam[0]), like, "none", f"the spectrum falls slowly, a sketch gains nothing; {reason}"
            )
        reason += "; the spectrum falls slowly, so it gains little"
    return _LowRank(U, lam + mu, lam[-1] + mu, "nystrom", reason)


def _identity(n, scale, like, name, reason):
    d = torch.full((n,), scale, dtype=like.real.dtype, device=like.device)
    M = _Diagonal(d, name, reason)
    M.rank = 0
    return M


def _orthonormal(Omega, count, rng):
    """Return random orthonormal columns that are orthogonal to those given."""
    real = Omega.real.dtype
    G = normal(rng, (len(Omega), count), device=Omega.device, dtype=real).to(Omega.dtype)
    if Omega.dtype.is_complex:
        G = G + 1j * normal(rng, (len(Omega), count), device=Omega.device, dtype=real)
    for _ in range(2):  # the second pass removes what the first left by rounding
        G = torch.linalg.qr(G - Omega @ (Omega.mH @ G))[0]
    return G


def _nystrom_pairs(Omega, Y):
    """Return orthonormal U and eigenvalues, decreasing, of Y (Omega^H Y)^{-1} Y^H."""
    nu = torch.finfo(Y.dtype).eps * torch.linalg.matrix_norm(Y)
    core = Omega.mH @ Y
    core = (core + core.mH) / 2
    for _ in range(12):
        L, info = torch.linalg.cholesky_ex(core + nu * torch.eye(len(core), dtype=Y.dtype, device=Y.device))
        if int(info) == 0 and float(nu) > 0:
            break
        nu = 10 * nu
    else:
        smallest = float(torch.linalg.eigvalsh(core)[0])
        raise NotPositiveDefiniteError(
            f"A - shift I must be positive semidefinite; a projection of it has the eigenvalue {smallest:.3g}. Pass "
            "the matrix of the system, its shift included, and no larger shift.",
            smallest=smallest,
        )
    B = torch.linalg.solve_triangular(L.mH, Y + nu * Omega, upper=True, left=False)
    U, s, _ = torch.linalg.svd(B, full_matrices=False)
    return U, torch.clamp(s**2 - nu, min=0)


def _doubling_pays(lam, mu):
    """Whether twice the rank saves more iterations than it costs products, if the spectrum goes on to fall."""
    last, middle = float(lam[-1]), float(lam[(len(lam) - 1) // 2])
    if last <= 10 * mu or last > 0.1 * float(lam[0]):
        return False
    expected = last * (last / middle) ** 2  # k / 2 further columns gained a factor last / middle
    now, then = (_STEPS_PER_ROOT * math.sqrt(1 + value / mu) for value in (last, expected))
    return now - then > len(lam)


@torch.no_grad()
def pivoted_cholesky(A, shift, *, X=None, rank=None, random_state=0):
    r"""Return a preconditioner by accelerated randomly pivoted Cholesky [1]_ for ``A = K + shift I``.

    .. math:: P = F F^H + \mu I, \qquad F F^H = K_{:,S} K_{S,S}^{-1} K_{S,:}

    with pivots S drawn with probabilities proportional to the diagonal of what is left of K, many at a time; those that
    earlier ones of the same draw have made redundant are rejected. It looks at about ``(k + 1) n`` entries.

    Parameters
    ----------
    A : LinearOperator, array, sparse matrix or kernel
        The matrix of the system, its shift included; with `X`, a kernel (an object of `sciml.kernels`), whose matrix
        K does not include the shift.
    shift : float
        :math:`\mu`, the multiple of the identity in the system; positive.
    X : array, shape (n, d), or None
        Points of the kernel; None (the default) where `A` is a matrix.
    rank : int or None
        k; None (the default) goes on until the trace of what is left is below ``10 shift``, so that the condition
        number is at most 11, or to ``min(n / 2, 1000)``.
    random_state : None, int or numpy.random.Generator
        0 by default, so that the same call gives the same preconditioner.

    Returns
    -------
    Preconditioner

    Raises
    ------
    InvalidInputError
        If `shift` is not positive or `A` is not square.
    NotPositiveDefiniteError
        If an entry of the diagonal of K is negative.

    References
    ----------
    .. [1] E. Epperly, J. Tropp, R. Webber, Embrace rejection: kernel matrix approximation by accelerated randomly
       pivoted Cholesky, 2024, arXiv 2410.03969.

    Examples
    --------
    >>> x = np.linspace(0, 1, 50)
    >>> A = np.exp(-((x[:, None] - x) ** 2)) + 1e-3 * np.eye(50)
    >>> M = pivoted_cholesky(A, 1e-3)
    >>> M.rank < 10, bool(np.linalg.cond(M @ A) < 11)
    (True, True)
    """
    mu = check_number("shift", shift, low=0, inclusive="neither")
    diagonal, columns, block = _entries(A, X, mu)
    n, rng = len(diagonal), generator(random_state)
    slack = 100 * torch.finfo(diagonal.dtype).eps * (float(diagonal.abs().max()) if n else 0.0) + 1e-6 * mu
    _refuse("pivoted_cholesky", diagonal + slack + 1e-300, "entry of the diagonal of A - shift I", "Check the shift.")
    cap = min(n // 2 + 1, n, _LARGEST_RANK) if rank is None else min(check_number("rank", rank, low=0, integer=True), n)
    F, left = _accelerated(diagonal.clamp(min=0), columns, block, cap, 10 * mu if rank is None else 0.0, rng)
    reason = f"rank {F.shape[1]}: trace left {left:.1e} of {float(diagonal.sum()):.1e}, shift = {mu:.1e}"
    if F.shape[1] == 0:
        return _identity(n, mu, diagonal, "pivoted_cholesky", reason)
    U, s, _ = torch.linalg.svd(F, full_matrices=False)
    return _LowRank(U, s**2 + mu, torch.full((), mu, dtype=s.dtype, device=s.device), "pivoted_cholesky", reason)


def _entries(A, X, mu):
    """Return the diagonal of K, and functions that give columns of K and square blocks of it."""
    if X is not None:
        (X,), _ = enter(X, names=("X",))
        X = X[:, None] if X.ndim == 1 else X
        return A.diag(X), lambda S: A(X, X[S]), lambda S: A(X[S], X[S])
    operator = _square(A)
    if operator.batch_shape:
        raise InvalidInputError(f"A must be one matrix; got batch dimensions {operator.batch_shape}. Take one of them.")

    def columns(S):
        C = _columns(operator, S).clone()
        C[S, torch.arange(len(S), device=C.device)] -= mu
        return C

    def block(S):
        if isinstance(operator, Dense):
            return operator.A[S][:, S] - mu * (S[:, None] == S).to(operator.dtype)
        # Proposals may repeat; one product each is enough.
        unique, inverse = torch.unique(S, return_inverse=True)
        return columns(unique)[S][:, inverse]

    return operator._diag().real - mu, columns, block


def _accelerated(d, columns, block, cap, enough, rng):
    """Return F (n, k) with k <= cap, and the trace of K - F F^H, once it is below `enough`."""
    F, taken, d, trace = None, 0, d.clone(), float(d.sum())
    n_proposals = max(10, math.ceil(cap / 10))
    floor = 10 * torch.finfo(d.dtype).eps * trace
    while taken < cap and float(d.sum()) > max(enough, floor):
        p = d.double().cpu().numpy()
        proposals = torch.as_tensor(rng.choice(len(p), n_proposals, p=p / p.sum()), device=d.device)
        H = block(proposals)
        if F is not None:
            H = H - F[proposals, :taken] @ F[proposals, :taken].mH
        accepted, L = _rejection(H, rng, cap - taken)
        if not accepted:
            break
        S = proposals[torch.as_tensor(accepted, device=d.device)]
        G = columns(S)
        if F is None:
            F = torch.zeros(len(d), cap, dtype=G.dtype, device=d.device)
        G = G - F[:, :taken] @ F[S, :taken].mH
        new = torch.linalg.solve_triangular(L.mH, G, upper=True, left=False)
        F[:, taken : taken + len(S)] = new
        taken += len(S)
        d = (d - new.abs().square().sum(-1)).clamp(min=0)
        d[S] = 0
    if F is None:
        return torch.zeros(len(d), 0, dtype=d.dtype, device=d.device), trace
    return F[:, :taken].clone(), float(d.sum())


def _rejection(H, rng, most):
    """Return which proposals are kept, each with the probability that what is left of its diagonal has, and their L."""
    H = H.cpu().numpy().copy()
    u, accepted = H.diagonal().real.copy(), []
    columns = np.zeros_like(H)
    for j in range(len(H)):
        left = H[j, j].real
        if left > 1e-12 * u[j] and rng.random() * u[j] < left and len(accepted) < most:
            column = H[:, j] / math.sqrt(left)
            columns[:, len(accepted)] = column
            accepted.append(j)
            H = H - np.outer(column, column.conj())
    L = np.tril(columns[accepted][:, : len(accepted)])
    return accepted, torch.as_tensor(L)
