r"""Windows of one shape over a layer: a balanced random partition, contiguous blocks, or the published grid.

.. math:: W_{rc} = W[\pi(r L + \cdot), \sigma(c w + \cdot)], \quad w = \lfloor Q L \rfloor

Notation  L height of a window along the smaller side of the layer; w width along the larger; R x C windows cover the
          layer once; pi, sigma permutations of rows and columns, drawn anew for each repeat; S slices of the layer.
Cost      2 L^2 w for each Gram matrix and 4/3 L^3 for its eigenvalues; memory: L rows of the layer and C windows.
Pitfalls  contiguous windows change with the order of the neurons, which the network does not know. The published grid
          covers a small part of a long layer.

References
----------
Y. Hu, K. Goel, V. Killiakov, Y. Yang, Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025,
arXiv 2506.06280.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.stats.spectra.gram_spectrum import complex_of, divided

LAYOUTS = ("partition", "contiguous", "grid")
MIN_HEIGHT = 16
MAX_HEIGHT = 1024
# More windows than these add precision that nobody needs: the rest of a very long layer is left to chance.
MAX_WINDOWS = 32


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of a layer lie.

    Parameters
    ----------
    height, width : int
        Sides of a window along the rows and the columns of the layer.
    n_down, n_across : int
        Windows used along the rows and the columns.
    repeats : int
        Times that the layer is cut anew.
    layout : str
        One of `LAYOUTS`.
    short : int
        The smaller side of a window, to which the share `rho` of the layer's smaller side refers.
    fraction : float
        Realised share: `short` over the smaller side of the layer.
    """

    height: int
    width: int
    n_down: int
    n_across: int
    repeats: int
    layout: str
    short: int
    fraction: float

    @property
    def n_windows(self):
        """Windows of one slice, over all repeats."""
        return self.n_down * self.n_across * self.repeats


def plan_windows(rows, cols, *, rho=0.5, Q=1.0, window=None, layout="partition", grid=9, repeats=None, min_windows=8,
                 n_slices=1):  # fmt: skip
    """Return the plan for a layer of living `rows` and `cols`, or None where no window fits."""
    small, large = min(rows, cols), max(rows, cols)
    short = min(max(MIN_HEIGHT, int(rho * small)), MAX_HEIGHT) if window is None else window
    if layout == "grid":
        short = min(short, small, int(large / Q))  # the published windows shrink with the layer
    elif window is None:
        short = min(short, int(large / Q))
    # The smaller side of a window lies along the smaller side of the layer; for Q < 1 its width is the smaller.
    long = int(Q * short)
    if short > small or long > large or long < 1:
        return None
    if window is None and layout != "grid" and min(short, long) < MIN_HEIGHT:
        return None
    height, width = (short, long) if rows <= cols else (long, short)
    if layout == "grid":
        down, across, repeats = grid, grid, 1
    else:
        down, across = rows // height, cols // width
        if not down or not across:
            return None
        if layout == "contiguous":
            repeats = 1
        else:
            down, across = _thinned(down, across, n_slices)
            repeats = math.ceil(min_windows / (down * across)) if repeats is None else repeats
            if n_slices > 1:
                repeats = max(1, min(repeats, MAX_WINDOWS // (down * across * n_slices)))
    return WindowPlan(height, width, down, across, repeats, layout, short, short / small)


def window_eigenvalues(layer, plan, *, rng=None, live_rows=None, live_cols=None, exponent=0, dtype, device="cpu"):
    """Return the eigenvalues of all windows, shape (repeats, n_down, n_across, S min(height, width)), not below 0.

    Eigenvalues that rounding cannot tell from zero are zero.
    """
    rows = np.arange(layer.rows) if live_rows is None else live_rows
    cols = np.arange(layer.cols) if live_cols is None else live_cols
    out = []
    for _ in range(plan.repeats):
        downs, acrosses = _positions(plan, rows, cols, rng)
        slices = [_slice_eigenvalues(layer, k, downs, acrosses, exponent, dtype, device) for k in range(layer.n_slices)]
        out.append(np.concatenate(slices, axis=-1))
    return np.stack(out)


def _thinned(down, across, n_slices):
    """Return fewer windows along the longer side where there are more than enough."""
    most = max(1, MAX_WINDOWS // n_slices)
    if down >= across:
        down = min(down, max(2, most // across))
    else:
        across = min(across, max(2, most // down))
    return down, across


def _positions(plan, rows, cols, rng):
    """Return the rows of each row of windows and the columns of each column of windows."""
    if plan.layout == "grid":
        return _grid(rows, plan.height, plan.n_down), _grid(cols, plan.width, plan.n_across)
    if plan.layout == "partition":
        rows, cols = rng.permutation(rows), rng.permutation(cols)
    return (
        [rows[i * plan.height : (i + 1) * plan.height] for i in range(plan.n_down)],
        [cols[i * plan.width : (i + 1) * plan.width] for i in range(plan.n_across)],
    )


def _grid(index, length, count):
    step = max(1, (len(index) - length) // max(1, count - 1))
    starts = [i * step for i in range(count) if i * step + length <= len(index)]
    return [index[start : start + length] for start in starts]


def _slice_eigenvalues(layer, k, downs, acrosses, exponent, dtype, device):
    kind = complex_of(dtype) if layer.is_complex else dtype
    across = np.concatenate(acrosses)
    out = []
    for down in downs:
        # The order within a window does not matter; rows are read fastest in order.
        stored = layer.take(np.sort(down), k)[:, torch.as_tensor(across)]
        block = divided(stored, exponent, kind, device)
        windows = block.unflatten(1, (len(acrosses), -1)).transpose(0, 1)
        out.append(batch_eigenvalues(windows))
    return np.stack(out)


def batch_eigenvalues(windows):
    """Return the eigenvalues of the smaller Gram matrices of windows (b, L, w), shape (b, min(L, w)), ascending."""
    L, w = windows.shape[-2:]
    G = windows @ windows.mH if w >= L else windows.mH @ windows
    if G.device.type == "cpu":
        # LAPACK as NumPy calls it takes less time for small matrices than as torch does.
        lam = np.linalg.eigvalsh(G.resolve_conj().numpy())
    else:
        lam = torch.linalg.eigvalsh(G).cpu().numpy()
    lam = lam.astype(np.float64)
    eps = np.finfo(np.float32 if windows.dtype in (torch.float32, torch.complex64) else np.float64).eps
    return np.where(lam > max(L, w) * eps * lam[..., -1:], lam, 0.0)
