"""The same answers as linear_operator, where it is installed."""

import warnings

import numpy as np
import torch

from sciml.linalg.operators import Kronecker, LowRank, Toeplitz

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import linear_operator.operators as peer


def spd(n, rng):
    R = rng.standard_normal((n, n))
    return torch.from_numpy(R @ R.T / n + np.eye(n))


def test_kronecker_products_with_noise(rng):
    A, B, b = spd(8, rng), spd(6, rng), torch.from_numpy(rng.standard_normal(48))
    theirs = peer.KroneckerProductLinearOperator(*(peer.DenseLinearOperator(M) for M in (A, B))).add_jitter(0.3)
    ours = Kronecker(A, B, shift=0.3)
    torch.testing.assert_close(ours @ b, theirs @ b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.solve(b), theirs.solve(b), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.logdet(), theirs.logdet(), rtol=1e-10, atol=1e-10)


def test_toeplitz_products(rng):
    c, X = torch.from_numpy(0.5 ** np.arange(40)), torch.from_numpy(rng.standard_normal((40, 3)))
    torch.testing.assert_close(Toeplitz(c) @ X, peer.ToeplitzLinearOperator(c) @ X, rtol=1e-12, atol=1e-12)


def test_low_rank_plus_diagonal(rng):
    U, d = torch.from_numpy(rng.standard_normal((30, 3))), torch.from_numpy(rng.uniform(1, 2, 30))
    b = torch.from_numpy(rng.standard_normal(30))
    theirs = peer.LowRankRootLinearOperator(U).add_diagonal(d)
    torch.testing.assert_close(LowRank(U, diagonal=d).solve(b), theirs.solve(b), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(LowRank(U, diagonal=d).logdet(), theirs.logdet(), rtol=1e-9, atol=1e-9)
