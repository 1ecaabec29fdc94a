r"""FARMS: one exponent from the pooled eigenvalues of many windows of one shape, with its standard error.

.. math:: \alpha = 1 + K \Big/ \sum_{j \ge i} \ln(\lambda_j / \lambda_i), \quad
          \lambda = \bigcup_{rc} \operatorname{eig}(W_{rc} W_{rc}^H)

Notation  W_rc windows of `windows.py`; lambda their eigenvalues in one list; alpha_0 what Gaussian noise gives.
Cost      that of the eigenvalues of the windows: a 4096 x 4096 layer takes 16 windows of 1024.
Pitfalls  pool the eigenvalues, never the exponents of windows: small windows are biased, their pool is not. A window is
          a share of the layer, not one size for all layers; where its limits bind, exponents compare less well, and
          `comparable` says so. Dead neurons look like a heavy tail: they are dropped first and counted.

References
----------
Y. Hu, K. Goel, V. Killiakov, Y. Yang, Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025,
arXiv 2506.06280.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.stats.spectra.gram_spectrum import DEAD, ArrayLayer, real_dtype, scan, times_power_of_two
from sciml.stats.spectra.jackknife import pooled_hill, student_quantile, variance
from sciml.stats.spectra.published_kernels import block_eigenvalues, mean_exponent
from sciml.stats.spectra.windows import LAYOUTS, plan_windows, window_eigenvalues
from sciml.validation import check_number, check_option

__all__ = ["FarmsSpectrum", "farms_spectrum"]


@dataclass(frozen=True)
class FarmsSpectrum:
    """The pooled spectrum of windows.

    Parameters
    ----------
    alpha : float
        Hill's exponent of the pooled eigenvalues; NaN where no window fits.
    se : float
        Its standard error; NaN with fewer than two windows, and for the published grid, whose windows overlap.
    lo, hi : float
        Ends of its interval of 95 percent.
    height, width : int
        Sides of a window along rows and columns; 0 where no window fits.
    n_windows : int
        Windows of all slices and repeats.
    fraction : float
        Smaller side of a window over that of the living layer.
    n_dead_rows, n_dead_cols : int
        Rows and columns that were dropped.
    deficient : bool
        Whether eigenvalues that are zero reached the threshold and were left out.
    eigenvalues : ndarray, shape (N,)
        The pool, ascending.
    influence : ndarray, shape (repeats, windows down, windows across), or None
        Influence of each window, over all slices, on alpha.
    design : (int, int, int)
        That shape.

    Examples
    --------
    >>> import numpy as np
    >>> found = farms_spectrum(np.random.default_rng(0).standard_normal((128, 512)))
    >>> found.height, found.n_windows, round(found.alpha, 1)
    (64, 16, 2.1)
    """

    alpha: float
    se: float
    lo: float = math.nan
    hi: float = math.nan
    height: int = 0
    width: int = 0
    n_windows: int = 0
    fraction: float = math.nan
    n_dead_rows: int = 0
    n_dead_cols: int = 0
    deficient: bool = False
    eigenvalues: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    influence: np.ndarray | None = field(default=None, repr=False)
    design: tuple = (0, 0, 0)


def farms_spectrum(
    W,
    *,
    rho=0.5,
    Q=1.0,
    q=0.5,
    repeats=None,
    min_windows=8,
    layout="partition",
    window=None,
    grid=9,
    dtype=None,
    device=None,
    random_state=0,
):
    """Pool the eigenvalues of windows of one shape and return their Hill exponent with its standard error.

    Parameters
    ----------
    W : array, shape (m, n)
        Real or complex matrix.
    rho : float
        Smaller side of a window as a share of the smaller side of W, 0 < rho <= 1; the default 0.5 makes exponents of
        layers of different shapes and structures differ least. At least 16 and at most 1024 rows are taken.
    Q : float
        Width of a window over its height, above 0; 1 by default, the published choice.
    q : float
        Share of the pooled eigenvalues below the threshold of Hill's estimator, 0 < q < 1; 0.5 by default.
    repeats : int or None
        Times that W is cut anew. None, the default, repeats until there are `min_windows`.
    min_windows : int
        Windows that suffice; with 8, the default, the exponent moves less with the order of neurons than that of the
        published grid of 5 x 5 overlapping windows.
    layout : {"partition", "contiguous", "grid"}
        "partition" (the default) permutes rows and columns and cuts them; "contiguous" cuts them as they are; "grid"
        lays `grid` x `grid` overlapping windows as published.
    window : int or None
        Smaller side of a window in rows, in place of `rho`.
    grid : int
        Windows along each side for layout="grid"; 9 by default, as published.
    dtype, device : optional
        Where and in which precision to compute; None, the default, keeps those of W.
    random_state : None, int or numpy.random.Generator
        Of the permutations; 0 by default, so that a diagnosis can be repeated.

    Returns
    -------
    FarmsSpectrum
        With alpha NaN where W is smaller than 16 on a side.

    Raises
    ------
    InvalidInputError
        If W is no matrix or not finite, or an option is out of its range.

    References
    ----------
    Y. Hu et al., Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025, arXiv 2506.06280,
    section 3. The random partition, the share of the layer and the standard error are additions.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> square, wide = rng.standard_normal((128, 128)), rng.standard_normal((128, 1024))
    >>> round(farms_spectrum(square).alpha, 1), round(farms_spectrum(wide).alpha, 1)      # noise, whatever the shape
    (2.1, 2.1)
    """
    options = check_options(rho, Q, q, repeats, min_windows, layout, window, grid)
    (W,), _ = enter(W, names=("W",), dtype=dtype, device=device)
    if W is None or W.ndim != 2 or not W.numel():
        got = "None" if W is None else f"shape {tuple(W.shape)}"
        raise InvalidInputError(
            f"W must be a matrix, shape (m, n); got {got}. For all layers of a network use diagnose."
        )
    layer = ArrayLayer(W)
    precision = real_dtype(W.dtype)
    scanned = scan(layer, dtype=precision, device=W.device, grams=False)
    return farms_of(layer, scanned, options, rng=generator(random_state), dtype=precision, device=W.device)


def check_options(rho, Q, q, repeats, min_windows, layout, window, grid):
    """Return the options of FARMS, checked, as a dict."""
    check_option("layout", layout, LAYOUTS)
    return {
        "rho": check_number("rho", rho, low=0, high=1, inclusive="high"),
        "Q": check_number("Q", Q, low=0, inclusive="neither"),
        "q": check_number("q", q, low=0, high=1, inclusive="neither"),
        "repeats": None if repeats is None else check_number("repeats", repeats, low=1, integer=True),
        "min_windows": check_number("min_windows", min_windows, low=1, integer=True),
        "layout": layout,
        "window": None if window is None else check_number("window", window, low=1, integer=True),
        "grid": check_number("grid", grid, low=1, integer=True),
    }


def farms_of(layer, scanned, options, *, rng, dtype, device="cpu"):
    """Return the FARMS spectrum of a layer that has been scanned."""
    rows, cols = alive(scanned.row_squares), alive(scanned.col_squares)
    dead = {"n_dead_rows": layer.rows - len(rows), "n_dead_cols": layer.cols - len(cols)}
    options = dict(options)
    q = options.pop("q")
    if options["layout"] == "grid" and layer.n_slices > 1:
        return _published_kernel(layer, scanned, dead, options["Q"], q, dtype, device)
    if options["layout"] == "grid":
        rows, cols = np.arange(layer.rows), np.arange(layer.cols)
    plan = plan_windows(len(rows), len(cols), n_slices=layer.n_slices, **options) if len(rows) and len(cols) else None
    if plan is None:
        return FarmsSpectrum(math.nan, math.nan, **dead)
    values = window_eigenvalues(
        layer, plan, rng=rng, live_rows=rows, live_cols=cols, exponent=scanned.shift // 2, dtype=dtype, device=device
    )
    alpha, influence, deficient = pooled_hill(values, q)
    se = math.nan
    if influence is not None and plan.layout != "grid":
        se = math.sqrt(variance(influence))
    half = se * student_quantile(influence.shape) if se >= 0 else math.nan
    return FarmsSpectrum(
        alpha=alpha,
        se=se,
        lo=alpha - half,
        hi=alpha + half,
        height=plan.height,
        width=plan.width,
        n_windows=values.shape[0] * values.shape[1] * values.shape[2] * layer.n_slices,
        fraction=plan.fraction,
        deficient=deficient,
        eigenvalues=times_power_of_two(np.sort(values, axis=None), scanned.shift),
        influence=influence,
        design=values.shape[:3],
        **dead,
    )


def _published_kernel(layer, scanned, dead, Q, q, dtype, device):
    values = block_eigenvalues(layer, Q, exponent=scanned.shift // 2, dtype=dtype, device=device)
    size = min(layer.rows, layer.cols)
    return FarmsSpectrum(
        alpha=mean_exponent(values, q),
        se=math.nan,
        height=size,
        width=size,
        n_windows=len(values) * layer.n_slices,
        fraction=1.0,
        eigenvalues=times_power_of_two(np.sort(values, axis=None), scanned.shift),
        **dead,
    )


def alive(squares):
    """Return the indices of rows or columns that are not numerically dead, from their squared norms."""
    largest = squares.max(initial=0.0)
    return np.flatnonzero(squares >= DEAD**2 * largest) if largest > 0 else np.empty(0, int)
