"""The dense engine: form the matrix, then multiply; best for small problems.

Cost      m n numbers of memory; one matrix product.
Pitfalls  derivatives need no matrix: they take the tiles of the eager engine.
"""

import torch

from sciml.linalg import memory as _memory
from sciml.linalg.engines import eager
from sciml.linalg.engines.tile import LogSumExpTile, SumTile

NAME = "dense"


def peak(tile, m, n, width, dtype):
    """Return the bytes of the matrix, and of the tile by which it is filled."""
    return m * n * dtype.itemsize + eager.peak(tile, m, n, width, dtype)


def matrix(pair, Y, X, params):
    """Return the matrix of a pair function, shape (m, n); filled by tiles, so that only itself takes memory."""
    K = torch.empty((Y.shape[0], X.shape[0]), dtype=Y.dtype, device=Y.device)
    thin, size, width = X.T.contiguous(), 256, eager.columns(Y.dtype)
    if Y.device.type != "cpu":
        size, width = 8 * size, 8 * width
    tile = (min(size, K.shape[0]), min(width, K.shape[1]))
    scratch = None if pair.fill is None else torch.empty(tile, dtype=K.dtype, device=K.device)
    for i in range(0, K.shape[0], size):
        for j in range(0, K.shape[1], width):
            own, other, part = Y[i : i + size], thin[:, j : j + width], K[i : i + size, j : j + width]
            if scratch is None:
                part.copy_(pair(own, other, params))
            else:
                found = pair.fill(part, scratch[: part.shape[0], : part.shape[1]], own, other, *params)
                if found.data_ptr() != part.data_ptr():
                    part.copy_(found)
    return K


def _product(K, B):
    """Return the matrix product; in float32, sums of many columns are added up in float64."""
    width = 256  # a BLAS may add up a row one by one: a few hundred numbers cost a digit, a million cost six
    if K.dtype != torch.float32 or K.shape[1] <= width or K.device.type == "mps":
        return K @ B
    total = torch.zeros((K.shape[0], B.shape[1]), dtype=torch.float64, device=K.device)
    for j in range(0, K.shape[1], width):
        total += K[:, j : j + width] @ B[j : j + width]
    return total.to(K.dtype)


def run(tile, rows, cols, params, place):
    """Return the outputs of a tile over all rows and columns, as :func:`sciml.linalg.engines.eager.run` does."""
    if not isinstance(tile, (SumTile, LogSumExpTile)):
        return eager.run(tile, rows, cols, params, place)
    remedy = "pass engine='eager'"
    with torch.no_grad(), _memory.exhaustion(what=place, remedy=remedy, device=rows[0].device):
        K = matrix(tile.pair, rows[0], cols[0], params)
        if isinstance(tile, SumTile):
            return [_product(K, cols[1])]
        K += cols[1].T
        return [torch.logsumexp(K, 1, keepdim=True)]
