"""The eager engine: tiles by torch, operation by operation; always there, nothing to compile.

Cost      some 20 operations a tile of 256 x 1024 pairs; a few tiles of memory, whatever the numbers of points. Kernels
          of the distance work in two tiles that are allocated once, which is twice as fast: new memory of a megabyte
          is fetched from the system, page by page, at every operation.
"""

import torch

from sciml.linalg import memory as _memory
from sciml.linalg.engines.accumulate import Sums

NAME = "eager"
_ROWS, _BYTES = 256, 2**20


def columns(dtype):
    """Return the columns of a tile: together with 256 rows about a megabyte, so that it stays in the cache."""
    return _BYTES // (_ROWS * dtype.itemsize)


def peak(tile, m, n, width, dtype):
    """Return the bytes of the temporaries: a tile for each coordinate that may be alive, and more for derivatives."""
    area = min(m, _ROWS) * min(n, columns(dtype)) * dtype.itemsize
    return (6 + 2 * width) * (1 + 2 * tile.order) * area + 16 * (m + n) * width


def run(tile, rows, cols, params, place):
    """Return the outputs of a tile over all rows and columns.

    Parameters
    ----------
    tile : tile
        See :mod:`sciml.linalg.engines.tile`.
    rows, cols : list of torch.Tensor, shapes (m, w) and (n, w)
        Points, weights, upstream gradients.
    params : list of torch.Tensor
        Parameters, and upstream gradients of "all" outputs.
    place : str
        What is computed, for messages.

    Returns
    -------
    list of torch.Tensor
        "row" outputs (m, w), "col" outputs (n, w), "all" outputs.
    """
    m, n, dtype, device = rows[0].shape[0], cols[0].shape[0], rows[0].dtype, rows[0].device
    thin = [col.T.contiguous() for col in cols]
    # A device works through a larger tile in the time that it takes to start.
    scale = 1 if device.type == "cpu" else 8

    def all_tiles(size):
        sums, width = Sums(tile.kinds, m, n), columns(dtype) * scale
        values = in_place(tile.pair, min(size, m), min(width, n), rows[0]) if tile.order == 0 else None
        options = {} if values is None else {"values": values}
        for i in range(0, m, size):
            for j in range(0, n, width):
                own, other = [row[i : i + size] for row in rows], [col[:, j : j + width] for col in thin]
                sums.add(tile(own, other, params, **options), i, j)
        return sums.finish(dtype)

    with torch.no_grad():
        return _memory.halving(
            all_tiles, _ROWS * scale, what=place, remedy="take fewer points or right sides", device=device
        )[0]


def in_place(pair, m, n, like):
    """Return the pair function as one that gives its values in the same memory every time; None where it cannot.

    Parameters
    ----------
    pair : Pair
        The pair function.
    m, n : int
        Rows and columns of the largest tile.
    like : torch.Tensor
        Of the dtype and device of the points.

    Returns
    -------
    callable or None
        ``values(Y, X, params)``, shape (rows of Y, columns of X); overwritten by the next call.
    """
    if pair.fill is None:
        return None
    q, t = (torch.empty((m, n), dtype=like.dtype, device=like.device) for _ in range(2))

    def values(Y, X, params):
        size, width = Y.shape[0], X.shape[1]
        return pair.fill(q[:size, :width], t[:size, :width], Y, X, *params)

    return values
