"""Every operator beside a dense twin written another way, for the generic tests.

A case makes an operator, and its dense matrix, from the same tensors; ``square`` says whether it can be solved.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sciml.kernels import Gaussian
from sciml.linalg.operators import (
    Block2x2,
    BlockDiag,
    BlockToeplitz,
    Circulant,
    Dense,
    Diagonal,
    Function,
    Inverse,
    KernelOperator,
    Kronecker,
    KroneckerSum,
    LowRank,
    Mask,
    Permutation,
    Product,
    Scaled,
    ScaledIdentity,
    SecondDifference,
    Selection,
    Sparse,
    Sum,
    Toeplitz,
    Transpose,
    Triangular,
    laplacian,
)


@dataclass(frozen=True)
class Case:
    """One operator: `make(*tensors)`, its matrix `twin(*tensors)`, and the tensors, drawn by `draw(rng)`."""

    name: str
    make: Callable
    twin: Callable
    draw: Callable
    square: bool = True
    units: bool = True  # whether scaling all tensors by a power of two scales the matrix so


def normal(*shape):
    """Draw one standard normal array."""
    return lambda rng: (rng.standard_normal(shape),)


def spd(n):
    """A well-conditioned positive definite matrix as a function of any square one."""
    return lambda R: R @ R.mH / n + torch.eye(n, dtype=R.dtype)


def steady(rng, n):
    """A random matrix of small condition."""
    return rng.standard_normal((n, n)) / n + 2 * np.eye(n)


def kron(A, B):
    """The Kronecker product of two tensors, entry by entry."""
    return torch.einsum("ij,kl->ikjl", A, B).reshape(A.shape[0] * B.shape[0], -1)


def eye(n):
    """The identity in float64."""
    return torch.eye(n, dtype=torch.float64)


def toeplitz(c, r):
    """A Toeplitz matrix, entry by entry."""
    return torch.stack([torch.stack([c[i - j] if i >= j else r[j - i] for j in range(len(r))]) for i in range(len(c))])


def two_level(T):
    """A two-level Toeplitz matrix, entry by entry."""
    n1, n2 = ((s + 1) // 2 for s in T.shape)
    pixels = [(i, j) for i in range(n1) for j in range(n2)]
    rows = [torch.stack([T[n1 - 1 + p[0] - q[0], n2 - 1 + p[1] - q[1]] for q in pixels]) for p in pixels]
    return torch.stack(rows)


def second_difference(n, ends=2.0):
    """The second difference matrix with given first and last entries."""
    D = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    D[0, 0] = D[-1, -1] = ends
    return torch.from_numpy(D)


ROWS, COLUMNS = np.array([0, 0, 1, 2, 2, 3, 4, 4]), np.array([0, 3, 1, 2, 0, 3, 4, 1])


def dense_of(values):
    """The same as a dense tensor."""
    flat = torch.zeros(25, dtype=values.dtype)
    return flat.index_add(0, torch.from_numpy(ROWS * 5 + COLUMNS), values).reshape(5, 5)


def gaussian(x, length, variance, noise):
    """The Gaussian kernel's matrix plus noise."""
    square = ((x[:, None] - x) ** 2).sum(-1)
    return variance * torch.exp(-square / (2 * length**2)) + noise * torch.eye(len(x), dtype=x.dtype)


def complex_spd(R, Q):
    """A Hermitian positive definite matrix of two real ones."""
    Z = torch.complex(R, Q)
    return Z @ Z.mH / len(R) + torch.eye(len(R), dtype=Z.dtype)


def pair(first, second):
    """Draw two or more arrays."""
    return lambda rng: (*first(rng), *second(rng))


def one_level(rng):
    """The column of a Toeplitz matrix with a dominant diagonal."""
    return (np.r_[3.0, rng.uniform(-0.3, 0.3, 4)],)


def offsets(rng):
    """Offsets of a two-level Toeplitz matrix with a dominant centre."""
    T = rng.uniform(-0.3, 0.3, (3, 5))
    T[1, 2] = 5.0
    return (T,)


def mixed(rng):
    """Points, a length, a variance and a noise."""
    return rng.uniform(-1, 1, (5, 2)), np.array(0.8), np.array(1.5), np.array(0.3)


CASES = [
    Case("dense", Dense, lambda A: A, lambda rng: (steady(rng, 5),)),
    Case("dense posdef", lambda R: Dense(spd(5)(R), posdef=True), spd(5), normal(5, 5), units=False),
    Case(
        "dense hermitian",
        lambda R, Q: Dense(complex_spd(R, Q), posdef=True),
        complex_spd,
        pair(normal(4, 4), normal(4, 4)),
        units=False,
    ),
    Case("dense batch", Dense, lambda A: A, lambda rng: (np.stack([steady(rng, 4) for _ in range(3)]),)),
    Case("dense wide", Dense, lambda A: A, normal(3, 5), square=False),
    Case("diagonal", Diagonal, torch.diag, lambda rng: (rng.uniform(1, 2, 5) * [1, -1, 1, 1, -1],)),
    Case("diagonal batch", Diagonal, torch.diag_embed, lambda rng: (rng.uniform(1, 2, (2, 4)),)),
    Case("scaled identity", lambda c: ScaledIdentity(4, c), lambda c: c * eye(4), lambda rng: (np.array(-1.5),)),
    Case("lower triangle", Triangular, torch.tril, lambda rng: (steady(rng, 5),)),
    Case("upper triangle", lambda A: Triangular(A, lower=False), torch.triu, lambda rng: (steady(rng, 5),)),
    Case(
        "sparse", lambda v: Sparse.from_entries(ROWS, COLUMNS, v, (5, 5)), dense_of, lambda rng: (rng.uniform(1, 2, 8),)
    ),
    Case("kronecker", Kronecker, kron, lambda rng: (steady(rng, 2), steady(rng, 3)), units=False),
    Case("kronecker wide", Kronecker, kron, pair(normal(2, 3), normal(3, 1)), square=False),
    Case(
        "kronecker shifted",
        lambda R, S, s: Kronecker(spd(2)(R), spd(3)(S), shift=s),
        lambda R, S, s: kron(spd(2)(R), spd(3)(S)) + s * eye(6),
        lambda rng: (rng.standard_normal((2, 2)), rng.standard_normal((3, 3)), np.array(0.5)),
        units=False,
    ),
    Case(
        "kronecker of three",
        lambda R: Kronecker(spd(2)(R), spd(2)(R), spd(2)(R), shift=0.1),
        lambda R: kron(kron(spd(2)(R), spd(2)(R)), spd(2)(R)) + 0.1 * eye(8),
        normal(2, 2),
        units=False,
    ),
    Case(
        "kronecker sum",
        lambda R, S, s: KroneckerSum(spd(2)(R), spd(3)(S), shift=s),
        lambda R, S, s: kron(spd(2)(R), eye(3)) + kron(eye(2), spd(3)(S)) + s * eye(6),
        lambda rng: (rng.standard_normal((2, 2)), rng.standard_normal((3, 3)), np.array(0.5)),
        units=False,
    ),
    Case(
        "kronecker sum, not symmetric",
        KroneckerSum,
        lambda A, B: kron(A, eye(3)) + kron(eye(2), B),
        lambda rng: (steady(rng, 2), steady(rng, 3)),
    ),
    Case(
        "laplacian",
        lambda s: laplacian((3, 2), 0.5, shift=s),
        lambda s: 4 * kron(second_difference(3), eye(2)) + 4 * kron(eye(3), second_difference(2)) + s * eye(6),
        lambda rng: (np.array(0.7),),
        units=False,
    ),
    Case(
        "laplacian, mixed ends",
        lambda s: laplacian((4, 3), boundary=("periodic", "neumann"), shift=s),
        lambda s: (
            kron(second_difference(4) - _corner(4), eye(3)) + kron(eye(4), second_difference(3, ends=1.0)) + s * eye(12)
        ),
        lambda rng: (np.array(0.7),),
        units=False,
    ),
    Case(
        "second difference",
        lambda s: s * SecondDifference(4),
        lambda s: s * second_difference(4),
        lambda rng: (np.array(2.0),),
    ),
    Case(
        "block diagonal",
        lambda A, d: BlockDiag(A, Diagonal(d)),
        lambda A, d: torch.block_diag(A, torch.diag(d)),
        lambda rng: (steady(rng, 3), rng.uniform(1, 2, 2)),
    ),
    Case(
        "two by two",
        Block2x2,
        lambda A, B, C, D: torch.cat([torch.cat([A, B], 1), torch.cat([C, D], 1)]),
        lambda rng: (steady(rng, 3), rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), steady(rng, 2)),
    ),
    Case(
        "saddle point",
        lambda R, B: Block2x2(Dense(spd(3)(R), posdef=True), B),
        lambda R, B: torch.cat([torch.cat([spd(3)(R), B], 1), torch.cat([B.T, 0 * B.T @ B], 1)]),
        pair(normal(3, 3), normal(3, 2)),
        units=False,
    ),
    Case("toeplitz", Toeplitz, lambda c: toeplitz(c, c), one_level),
    Case("toeplitz, not symmetric", Toeplitz, toeplitz, pair(one_level, one_level)),
    Case("toeplitz wide", Toeplitz, toeplitz, pair(normal(3), normal(5)), square=False),
    Case(
        "toeplitz batch",
        Toeplitz,
        lambda c: torch.stack([toeplitz(x, x) for x in c]),
        lambda rng: (np.stack([one_level(rng)[0] for _ in range(2)]),),
    ),
    Case("circulant", Circulant, lambda c: torch.stack([c.roll(k) for k in range(5)], 1), one_level),
    Case(
        "complex circulant",
        lambda a, b: Circulant(torch.complex(a, b)),
        lambda a, b: torch.stack([torch.complex(a, b).roll(k) for k in range(5)], 1),
        pair(one_level, normal(5)),
    ),
    Case("two-level toeplitz", BlockToeplitz, two_level, offsets),
    Case(
        "low rank plus diagonal",
        lambda U, d: LowRank(U, diagonal=d),
        lambda U, d: U @ U.T + torch.diag(d),
        lambda rng: (rng.standard_normal((5, 2)), rng.uniform(1, 2, 5)),
        units=False,
    ),
    Case(
        "low rank with a core",
        lambda U, R, d: LowRank(U, spd(2)(R), diagonal=d),
        lambda U, R, d: U @ spd(2)(R) @ U.T + torch.diag(d),
        lambda rng: (rng.standard_normal((5, 2)), rng.standard_normal((2, 2)), rng.uniform(1, 2, 5)),
        units=False,
    ),
    Case(
        "low rank, indefinite core",
        lambda U, c, d: LowRank(U, torch.diag(c), diagonal=d),
        lambda U, c, d: U @ torch.diag(c) @ U.T + torch.diag(d),
        lambda rng: (rng.standard_normal((5, 2)), np.array([2.0, -3.0]), rng.uniform(1, 2, 5)),
        units=False,
    ),
    Case(
        "kernel",
        lambda x, length, variance, noise: KernelOperator(x, variance * Gaussian(lengthscale=length), diagonal=noise),
        gaussian,
        mixed,
        units=False,
    ),
    Case(
        "cross kernel",
        lambda x, y: KernelOperator(x, Gaussian(lengthscale=1.0), y),
        lambda x, y: torch.exp(-((y[:, None] - x) ** 2).sum(-1) / 2),
        pair(normal(4, 2), normal(3, 2)),
        square=False,
        units=False,
    ),
    Case(
        "selection",
        lambda c: c * Selection(np.array([2, 0, 2]), 4),
        lambda c: c * eye(4)[[2, 0, 2]],
        lambda rng: (np.array(2.0),),
        square=False,
    ),
    Case(
        "mask",
        lambda c: c * Mask(np.array([True, False, True])),
        lambda c: c * eye(3)[[0, 2]],
        lambda rng: (np.array(2.0),),
        square=False,
    ),
    Case(
        "permutation",
        lambda c: c * Permutation(np.array([2, 0, 1, 3])),
        lambda c: c * eye(4)[[2, 0, 1, 3]],
        lambda rng: (np.array(2.0),),
    ),
    Case(
        "sum",
        lambda A, d: Sum(Dense(A), Circulant(d)),
        lambda A, d: A + torch.stack([d.roll(k) for k in range(4)], 1),
        lambda rng: (steady(rng, 4), rng.uniform(0, 0.2, 4)),
    ),
    Case(
        "product",
        lambda A, d: Product(Dense(A), Diagonal(d)),
        lambda A, d: A @ torch.diag(d),
        lambda rng: (steady(rng, 4), rng.uniform(1, 2, 4)),
        units=False,
    ),
    Case(
        "scaled",
        lambda A, c: Scaled(Dense(A), c),
        lambda A, c: c * A,
        lambda rng: (steady(rng, 4), np.array(-2.5)),
        units=False,
    ),
    Case(
        "complex multiple",
        lambda A, c: Scaled(Dense(A), torch.complex(c, 2 * c)),
        lambda A, c: torch.complex(c, 2 * c) * A,
        lambda rng: (steady(rng, 3), np.array(-2.5)),
        units=False,
    ),
    Case("transpose", lambda A: Transpose(Toeplitz(A, A / 2)), lambda A: toeplitz(A, A / 2).T, one_level),
    Case("inverse", lambda A: Inverse(Dense(A)), torch.linalg.inv, lambda rng: (steady(rng, 4),), units=False),
    Case(
        "function",
        lambda A: Function(lambda x, A: A @ x, (4, 4), lambda y, A: A.T @ y, parameters=(A,)),
        lambda A: A,
        lambda rng: (steady(rng, 4),),
    ),
    Case(
        "function, adjoint derived",
        lambda A: Function(lambda x, A: A @ x, (4, 4), parameters=(A,), columns="all"),
        lambda A: A,
        lambda rng: (steady(rng, 4),),
    ),
]


def hermitian_column(a, b):
    """A complex column with a real beginning."""
    return torch.complex(a, 0.2 * b * torch.tensor([0.0, 1, 1, 1, 1], dtype=b.dtype))


def toeplitz_of(c):
    """A Hermitian Toeplitz matrix, entry by entry."""
    n = len(c)
    return torch.stack([torch.stack([c[i - j] if i >= j else c[j - i].conj() for j in range(n)]) for i in range(n)])


CASES += [
    Case(
        "hermitian toeplitz",
        lambda a, b: Toeplitz(hermitian_column(a, b)),
        lambda a, b: toeplitz_of(hermitian_column(a, b)),
        pair(one_level, normal(5)),
    ),
    Case(
        "complex toeplitz",
        lambda a, b: Toeplitz(torch.complex(a, b), torch.complex(a, -b)[:3]),
        lambda a, b: toeplitz(torch.complex(a, b), torch.complex(a, -b)[:3]),
        pair(normal(4), normal(4)),
        square=False,
    ),
    Case(
        "complex kronecker shifted",
        lambda R, Q: Kronecker(complex_spd(R, Q), complex_spd(R.T, Q), shift=0.5),
        lambda R, Q: kron(complex_spd(R, Q), complex_spd(R.T, Q)) + 0.5 * eye(4),
        pair(normal(2, 2), normal(2, 2)),
        units=False,
    ),
    Case(
        "complex kronecker sum, not hermitian",
        lambda R, Q: KroneckerSum(torch.complex(R, Q), R + 3 * torch.eye(2, dtype=R.dtype)),
        lambda R, Q: kron(torch.complex(R, Q), eye(2)) + kron(eye(2), R + 3 * eye(2)),
        pair(normal(2, 2), normal(2, 2)),
        units=False,
    ),
    Case(
        "complex low rank",
        lambda U, V, d: LowRank(torch.complex(U, V), diagonal=d),
        lambda U, V, d: torch.complex(U, V) @ torch.complex(U, V).mH + torch.diag(d),
        lambda rng: (rng.standard_normal((4, 2)), rng.standard_normal((4, 2)), rng.uniform(1, 2, 4)),
        units=False,
    ),
    Case(
        "complex triangle",
        lambda R, Q: Triangular(torch.complex(R, Q)),
        lambda R, Q: torch.complex(R, Q).tril(),
        lambda rng: (steady(rng, 3), rng.standard_normal((3, 3))),
    ),
    Case(
        "complex sparse",
        lambda v, w: Sparse.from_entries(ROWS, COLUMNS, torch.complex(v, w), (5, 5)),
        lambda v, w: dense_of(torch.complex(v, w)),
        lambda rng: (rng.uniform(1, 2, 8), rng.uniform(1, 2, 8)),
    ),
    Case(
        "complex saddle point",
        lambda R, Q, B: Block2x2(Dense(complex_spd(R, Q), posdef=True), torch.complex(B, 2 * B)),
        lambda R, Q, B: torch.cat(
            [
                torch.cat([complex_spd(R, Q), torch.complex(B, 2 * B)], 1),
                torch.cat([torch.complex(B, 2 * B).mH, torch.zeros(1, 1, dtype=torch.complex128)], 1),
            ]
        ),
        lambda rng: (rng.standard_normal((3, 3)), rng.standard_normal((3, 3)), rng.standard_normal((3, 1))),
        units=False,
    ),
]


def _corner(n):
    """The two corners that close a periodic difference."""
    C = torch.zeros(n, n, dtype=torch.float64)
    C[0, -1] = C[-1, 0] = 1.0
    return C


def tensors(case, rng, **options):
    """Draw the tensors of a case."""
    return [torch.tensor(np.asarray(t), dtype=torch.float64, **options) for t in case.draw(rng)]
