r"""Distances of all pairs of two lists of positive definite matrices.

Log-Euclidean, log-Cholesky and Euclidean distances are those of vectors after one map of each matrix; for the other
geometries every matrix is factored once and the pairs go through one batched decomposition of (n, n) products, a block
of pairs at a time.

Notation  A (N, n, n), B (K, n, n); d (N, K).
Cost      N + K factorisations and N K singular value decompositions (12 n^3 each); N K n^2 numbers for vectors.
Pitfalls  `fast` subtracts numbers of the size of the matrices: distances below the root of eps are then rounding.
References  see :mod:`sciml.linalg.spd.distances`.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.memory import budget
from sciml.linalg.spd.distances import (
    affine_invariant_of_factors,
    bures_of_factors,
    check_parameters,
    definite_factor,
    deform,
    enter_metric,
    enter_pair,
    log_cholesky_coordinates,
    logarithm,
)
from sciml.linalg.spd.factors import factor

__all__ = ["pairwise_distances"]

_BLOCK = 256 * 2**20  # bytes that the temporaries of one block of pairs may take


def pairwise_distances(A, B=None, *, metric="bw", theta=1.0, M=None, squared=False, fast=False):
    r"""Return the distances of all pairs, :math:`d_{ij} = d(A_i, B_j)`.

    Parameters
    ----------
    A : array, shape (N, n, n)
        Positive definite matrices, for "bw", "gbw" and "euclid" also singular ones.
    B : array, shape (K, n, n), or None
        The same, in the units of `A`; None (the default) stands for `A`, and half of the pairs are saved.
    metric, theta, M
        As in :func:`spd_distance`: "bw", 1 and None by default.
    squared : bool
        Return squared distances; False by default.
    fast : bool
        Take differences of traces or of squared lengths, which need fewer operations and lose distances below about
        1e-8 of the matrices' size; False by default. Tensors that ask for a gradient take the exact way.

    Returns
    -------
    array, shape (N, K)
        Zeros on the diagonal and symmetric where `B` is None.

    Raises
    ------
    InvalidInputError
        If an option is unknown, or the matrices are no lists of square, symmetric, finite ones of one size.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import pairwise_distances
    >>> A = np.array([[[1.0]], [[4.0]], [[9.0]]])
    >>> pairwise_distances(A, metric="bw").round(12)
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    """
    metric, theta = check_parameters(metric, theta, M)
    alone = B is None
    for name, X in (("A", A), ("B", A if alone else B)):
        if getattr(X, "ndim", 3) != 3:
            raise InvalidInputError(
                f"{name} must be a list of matrices of shape (N, n, n); got shape {tuple(X.shape)}. For single "
                "matrices use spd_distance."
            )
    # The leading axes of the two lists are set against each other at the end only.
    (A, B), leave, eps = _enter_lists(A, A if alone else B)
    M = enter_metric(M, A)
    A = deform(A, "A", metric, theta, M, eps)
    B = A if alone else deform(B, "B", metric, theta, M, eps)
    fast = fast and not (A.requires_grad or B.requires_grad)
    if metric in ("bw", "gbw", "airm"):
        d = _by_blocks(A, B, _pair_function(metric, A, B, fast, eps), alone)
    else:
        d = _by_vectors(metric, A, B, fast, eps)
    if alone:
        upper = d.triu(1)
        d = upper + upper.mT
    d = d / abs(theta)
    return leave(d.square() if squared else d)


def _enter_lists(A, B):
    expand = lambda X: X[:, None] if hasattr(X, "ndim") else [[row] for row in X]  # noqa: E731
    lists = lambda X: X[None] if hasattr(X, "ndim") else [list(X)]  # noqa: E731
    (A, B), leave, eps = enter_pair(expand(A), lists(B))
    return (A[:, 0], B[0]), leave, eps


def _pair_function(metric, A, B, fast, eps):
    """Return f(rows, columns), the distances of a block."""
    if metric == "airm":
        L_A, L_B = definite_factor(A, "A", eps), definite_factor(B, "B", eps)
        if fast:

            def log_values(rows, columns):
                W = torch.linalg.solve_triangular(L_A[rows, None], L_B[None, columns], upper=False)
                return 2 * torch.linalg.vector_norm(torch.linalg.svdvals(W).log(), dim=-1)

            return log_values
        return lambda i, j: affine_invariant_of_factors(A[i, None], B[None, j], L_A[i, None], L_B[None, j])
    (L_A, lost_A), (L_B, lost_B) = factor(A.detach(), "A", eps), factor(B.detach(), "B", eps)
    if fast:
        trace_A, trace_B = (X.diagonal(dim1=-2, dim2=-1).real.sum(-1) for X in (A, B))

        def traces(rows, columns):
            nuclear = torch.linalg.svdvals(L_B[None, columns].mH @ L_A[rows, None]).sum(-1)
            return (trace_A[rows, None] + trace_B[None, columns] - 2 * nuclear).clamp_min(0).sqrt()

        return traces
    return lambda i, j: bures_of_factors(
        A[i, None], B[None, j], L_A[i, None], L_B[None, j], lost_A[i, None], lost_B[None, j]
    )


def _by_blocks(A, B, function, alone):
    """Return the distances of all pairs, or of those above the diagonal, a block of rows at a time."""
    n = A.shape[-1]
    pair = 6 * n * n * A.element_size()
    allowed = min(_BLOCK, budget(device=A.device) // 4)
    rows = max(1, allowed // max(pair * len(B), 1))
    if alone:
        rows = min(rows, max(1, -(-len(A) // 8)))  # eight steps of stairs spare 7 / 16 of the square
    strips = []
    for start in range(0, len(A), rows):
        first = start if alone else 0
        strip = function(slice(start, start + rows), slice(first, None))
        strips.append(torch.nn.functional.pad(strip, (first, 0)))
    return torch.cat(strips) if strips else A.new_zeros((0, len(B)), dtype=A.real.dtype)


def _by_vectors(metric, A, B, fast, eps):
    maps = {"logeuclid": logarithm, "logchol": log_cholesky_coordinates, "euclid": lambda X, name, eps: X}
    a = maps[metric](A, "A", eps)
    b = a if B is A else maps[metric](B, "B", eps)
    a, b = (torch.view_as_real(v) if v.is_complex() else v for v in (a, b))
    way = "use_mm_for_euclid_dist" if fast else "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.flatten(1), b.flatten(1), compute_mode=way)
