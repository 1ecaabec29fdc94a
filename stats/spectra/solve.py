r"""Diagnose the layers of a network by the eigenvalues of their weights: the front door.

.. math:: W_l \to \alpha_l \pm t_{0.975} \sqrt{V_l}, \quad z_l = (\alpha_0 - \alpha_l) / \sigma_0

Notation  W_l the matrices of layer l; alpha_l their FARMS exponent; V_l its variance; t_0.975 Student's quantile;
          alpha_0, sigma_0 mean and standard deviation of the exponent of Gaussian noise in the same windows.
Cost      a layer of m x n, m <= n: 2 m^2 n for the Gram matrix, 4/3 m^3 for its eigenvalues, about as much again for
          windows. One layer at a time is in memory: m^2 numbers, and a block of rows.
Pitfalls  a small exponent is no proof of a good network, nor a large one of a bad one; what a layer is compared with
          must have the same windows (`comparable`).

References
----------
Y. Hu, K. Goel, V. Killiakov, Y. Yang, Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025,
arXiv 2506.06280.
C. Martin, M. Mahoney, Implicit self-regularization in deep neural networks, 2018, arXiv 1810.01075.
"""

from __future__ import annotations

import math
import zlib
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from sciml._config import resolve
from sciml._versions import versions
from sciml.exceptions import InvalidInputError, NonFiniteWeightError
from sciml.iterate import Step, run
from sciml.linalg.memory import budget, trim
from sciml.random import generator
from sciml.stats.spectra.farms import alive, check_options, farms_of
from sciml.stats.spectra.gram_spectrum import eigenvalues, held, low_rank_eigenvalues, scan, times_power_of_two
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.metrics import SPECTRAL, spectral_metrics
from sciml.stats.spectra.noise_baseline import null_alpha, null_std
from sciml.stats.spectra.optional_metrics import estimated_metrics, extra_metrics
from sciml.stats.spectra.result import SpectraResult
from sciml.stats.spectra.sources import open_weights
from sciml.stats.spectra.views import forget
from sciml.validation import check_option

__all__ = ["diagnose"]

# Spectra are kept for pictures as long as they take less than this.
_KEPT_BYTES = 64 << 20
# Shares of the layer's smaller side that differ by less than this are the same.
_SAME_SHARE = 0.05
# Numbers of a layer from which its temporary arrays are worth giving back.
_TRIM_FROM = 1 << 20
# Larger Gram matrices are not formed: their eigenvalues would take minutes.
_DENSE_SIDE = 8192
EXTRA = (
    "alpha_hill_5",
    "alpha_hill_10",
    "alpha_hill_20",
    "alpha_moment",
    "tail_vs_mp",
    "p_tail",
    "rand_distance",
)
FARMS_METRICS = ("alpha_farms", "alpha_se", "alpha_lo", "alpha_hi", "alpha_null", "z_null")
_WHOLE = (
    "num_spikes",
    "rank",
    "num_eigenvalues",
    "n_dead_rows",
    "n_dead_cols",
    "window",
    "n_windows",
    "rows",
    "cols",
    "n_slices",
    "numel",
)
ROW_FIELDS = {
    **dict.fromkeys(("layer", "tensor", "module", "kind", "shape", "status", "noise_status"), str),
    **dict.fromkeys((*SPECTRAL, *FARMS_METRICS, "alpha_error"), float),
    **dict.fromkeys(_WHOLE, int),
}


@dataclass(frozen=True)
class _Plan:
    """What is computed of each layer."""

    spectral: bool
    noise: bool
    farms: dict | None
    extra: tuple
    q: float
    dtype: torch.dtype
    device: str | None
    seed: int
    on_error: str
    memory: object


def diagnose(
    obj,
    *,
    metrics="default",
    farms=True,
    rho=0.5,
    q=0.5,
    Q=1.0,
    repeats=None,
    min_windows=8,
    layout="partition",
    window=None,
    grid=9,
    conv="slice",
    split_fused=True,
    qkv_layout=None,
    num_heads=None,
    num_kv_heads=None,
    include=None,
    exclude=None,
    dtype=None,
    device=None,
    memory=None,
    random_state=0,
    on_error="raise",
    callback=None,
    progress=None,
):
    r"""Diagnose the layers of a network by the eigenvalues of their weights.

    Parameters
    ----------
    obj : torch.nn.Module, mapping, array, str or path-like
        A module; a state dict, possibly of dicts; a single matrix; a .safetensors, .pt, .pth, .bin, .ckpt or .npz file,
        an index of shards, or a folder. Files are read by rows, one layer at a time; nothing is unpickled.
    metrics : "default", "all" or sequence of str
        Names of variables to compute; those that nothing asked for are NaN, or come along where they cost nothing.
        "default" is all variables of the result; "all" adds "alpha_hill_5", "alpha_hill_10", "alpha_hill_20" (Hill
        exponents of the upper 5, 10, 20 percent), "alpha_moment" (moment estimator), "tail_vs_mp" (log-likelihood ratio
        of the tail against noise), "p_tail" (p value of the power law by 200 bootstrap draws) and "rand_distance" (from
        the spectrum of the shuffled layer; these two take as long as all else). Exponents of a tail are wild where
        there is no tail.
    farms : bool
        Whether to cut windows; True by default.
    rho, q, Q, repeats, min_windows, layout, window, grid
        The windows, as in :func:`farms_spectrum`; `q` is that of `alpha`, too. With layout="grid" the kernels of a
        convolution are treated as published: square blocks, pooled over positions, and the mean of their exponents.
    conv : {"slice", "flatten"}
        A kernel as one matrix for each of its positions, pooled (the default), or as one of outputs x (inputs
        positions).
    split_fused : bool
        Cut recurrent gates, queries with keys and values, gate with up projections into layers; True by default.
    qkv_layout : {None, "contiguous", "interleaved"}
        Order of fused attention weights; None, the default, goes by names.
    num_heads, num_kv_heads : int or None
        Heads, where fused weights need them; None, the default, asks the module or the configuration beside the file.
    include, exclude : str, sequence of str or None
        Shell patterns over keys, such as "*.mlp.*"; None, the default: all, none.
    dtype : {None, "float64", "float32"}
        Precision of the computation; None, the default, is float64, in which exponents equal those of singular values
        to 1e-9. "float32" saves a third of the time; ranks and entropies are rough then.
    device : str, torch.device or None
        Where to compute; None, the default, where each tensor is (the CPU for files).
    memory : int, float, str or None
        Bytes that one layer may take; a layer whose Gram matrix needs more, or has more than 8192 rows, is estimated by
        stochastic Lanczos quadrature. None, the default, asks the configuration.
    random_state : None, int or numpy.random.Generator
        Of the windows. The default 0 makes a diagnosis repeatable. Each layer has a generator of its own, made of this
        and its name, so that leaving out others does not change it.
    on_error : {"raise", "flag"}
        What to do with a layer that holds NaN or infinities: raise (the default), or give it a row of NaN with the
        status "non_finite".
    callback : callable or None
        ``callback(n_iter, step)`` after each layer; ``step.value`` holds the rows so far as a list of dicts, the last
        one new. A true value stops.
    progress : bool or None
        Show a bar over the layers; None, the default, asks the configuration.

    Returns
    -------
    SpectraResult
        One row a layer; every tensor without a row is in ``skipped`` with the reason. Ctrl-C returns the rows so far,
        with status STOPPED.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule or `obj` holds no weights.
    NonFiniteWeightError
        If a layer holds NaN or infinities and `on_error` is "raise"; names the layer and the number.
    CheckpointError, UnsafeCheckpointError
        If a file is broken, or could be read by running what it names only.

    Notes
    -----
    The interval is for the exponent of the population that the layer is a draw from; `python -m benchmarks
    bench_spectra` prints its coverage for five of them. Fluctuations that all windows share, of a few dominant
    directions in a very long layer, cannot be seen within one layer, and make it too short there.

    References
    ----------
    .. [1] Y. Hu, K. Goel, V. Killiakov, Y. Yang, Eigenspectrum analysis of neural networks without aspect ratio bias,
       ICML 2025, arXiv 2506.06280.
    .. [2] C. Martin, M. Mahoney, Implicit self-regularization in deep neural networks, 2018, arXiv 1810.01075.

    Examples
    --------
    >>> import torch
    >>> from sciml import diagnose
    >>> torch.manual_seed(0)                                                        # doctest: +ELLIPSIS
    <torch._C.Generator ...>
    >>> model = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.Linear(128, 512))
    >>> found = diagnose(model)
    >>> [str(name) for name in found.layer], found.skipped[0]
    (['0.weight', '1.weight'], ('0.bias', '1 dimension'))
    >>> found.alpha.round(1), found.alpha_farms.round(1)                            # untrained: noise
    (array([2.1, 3.4]), array([2.1, 2.1]))
    """
    windows = check_options(rho, Q, q, repeats, min_windows, layout, window, grid)
    plan = _plan(metrics, farms, windows, dtype, device, memory, random_state, on_error)
    # A default device of torch's, such as "cuda", is for new tensors of the user's, not for those that files hold.
    # The context costs a few percent, so that it is entered where it makes a difference only.
    usual = torch.get_default_device().type == "cpu"
    with nullcontext() if usual else torch.device("cpu"), open_weights(obj) as source:
        if not source.tensors:
            first = "".join(f", such as {name!r} ({reason})" for name, reason in source.skipped[:1])
            raise InvalidInputError(f"obj must hold weights; got none{first}. Pass a module, a state dict or a file.")
        layers, skipped = layers_of(
            source,
            conv=conv,
            split_fused=split_fused,
            qkv_layout=qkv_layout,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            include=include,
            exclude=exclude,
        )
        skipped = list(source.skipped) + list(skipped)
        done = run(
            _steps(layers, plan),
            name="diagnose",
            tol=1e-12,
            max_iter=len(layers),
            callback=callback,
            progress=progress,
            dtype="float64",
        )
    rows = done.value
    skipped += [(layer.name, "not reached: the diagnosis was stopped") for layer in layers[len(rows) :]]
    settings = {
        **{key: value for key, value in windows.items()},
        "metrics": metrics if isinstance(metrics, str) else list(metrics),
        "farms": bool(farms),
        "conv": conv,
        "split_fused": bool(split_fused),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "seed": plan.seed,
        "versions": versions(),
    }
    return _result(rows, skipped, done, settings, plan.extra)


def _plan(metrics, farms, windows, dtype, device, memory, random_state, on_error):
    """Return what is computed, from checked arguments."""
    check_option("on_error", on_error, ("raise", "flag"))
    known = (*SPECTRAL, *FARMS_METRICS, *EXTRA)
    if isinstance(metrics, str):
        check_option("metrics", metrics, ("default", "all"))
        wanted = known if metrics == "all" else (*SPECTRAL, *FARMS_METRICS)
    else:
        if not isinstance(metrics, (list, tuple, set, frozenset)):
            raise InvalidInputError(f'metrics must be "default", "all" or a list of names; got {metrics!r}.')
        wanted = tuple(check_option("metrics", name, known) for name in metrics)
        if not wanted:
            raise InvalidInputError('metrics must name at least one variable; got none. "default" computes all.')
    extra = tuple(name for name in EXTRA if name in wanted)
    dtype = torch.float32 if str(resolve("dtype", dtype)).endswith("float32") else torch.float64
    return _Plan(
        spectral=bool(set(wanted) & set(SPECTRAL)) or bool(extra),
        noise=bool(set(wanted) & {"num_spikes", "sigma_mp", "lambda_plus", "mp_softrank", "ks_mp"}),
        farms=windows if farms and set(wanted) & set(FARMS_METRICS) else None,
        extra=extra,
        q=windows["q"],
        dtype=dtype,
        device=None if (place := resolve("device", device)) == "auto" else place,
        seed=int(generator(random_state).integers(2**63)),
        on_error=on_error,
        memory=memory,
    )


def _steps(layers, plan):
    """Yield the rows so far, the empty list first; the criterion is the share of weights that is left."""
    rows = []
    total = sum(layer.numel for layer in layers) or 1
    left = total
    yield Step(rows, float(bool(layers)))
    for layer in layers:
        rows.append(_row(layer, plan))
        forget()
        if layer.numel > _TRIM_FROM:
            trim()
        left -= layer.numel
        yield Step(rows, left / total)


def _row(layer, plan):
    """Return all numbers of one layer by name."""
    row = dict.fromkeys((*SPECTRAL, *FARMS_METRICS, *plan.extra), math.nan)
    row |= {
        **{name: getattr(layer, name) for name in ("tensor", "module", "kind", "rows", "cols", "n_slices", "numel")},
        **dict.fromkeys(("num_spikes", "rank", "num_eigenvalues", "window", "n_windows", "fraction"), 0),
        **dict.fromkeys(("n_dead_rows", "n_dead_cols", "alpha_error"), 0),
        "layer": layer.name,
        "shape": " x ".join(map(str, layer.shape)),
        "spectrum": np.empty(0),
        "influence": np.empty(0),
        "design": (0, 0, 0),
        "status": "ok",
        "noise_status": "",
    }
    if layer.low_rank is not None:
        return _adapter_row(layer, plan, row)
    large = min(layer.rows, layer.cols) > _largest_side(plan)
    try:
        layer = held(layer)
        scanned = scan(layer, dtype=plan.dtype, device=plan.device, grams=plan.spectral and not large)
    except (RuntimeError, MemoryError) as error:
        error.add_note(f"while reading layer {layer.name!r}")
        raise
    if scanned.n_bad:
        return _bad_row(layer, plan, row, scanned.n_bad)
    if plan.spectral:
        _add_spectral(row, layer, scanned, plan, large)
    elif scanned.largest == 0:
        row["status"] = "zero"
    if plan.farms is not None and row["status"] != "zero":
        _add_farms(row, layer, scanned, plan)
    return row


def _add_spectral(row, layer, scanned, plan, large):
    if large:
        row |= estimated_metrics(layer, q=plan.q, seed=_seed(plan, layer), fit_noise=plan.noise)
        row["status"] = "estimated"
        return
    lam = np.sort(np.concatenate([np.asarray(_cpu(eigenvalues(G)), dtype=float) for G in _popped(scanned.grams)]))
    found, row["status"] = spectral_metrics(
        lam,
        rows=layer.rows,
        cols=layer.cols,
        n_slices=layer.n_slices,
        q=plan.q,
        shift=scanned.shift,
        eps=torch.finfo(plan.dtype).eps,
        fit_noise=plan.noise,
        living=(len(alive(scanned.row_squares)), len(alive(scanned.col_squares))),
    )
    row |= found
    row["num_eigenvalues"] = len(lam)
    row["spectrum"] = times_power_of_two(lam, scanned.shift)
    if plan.extra:
        row |= extra_metrics(plan.extra, lam, layer, dtype=plan.dtype, seed=_seed(plan, layer))


def _add_farms(row, layer, scanned, plan):
    rng = np.random.default_rng(_seed(plan, layer))
    found = farms_of(layer, scanned, plan.farms, rng=rng, dtype=plan.dtype, device=plan.device)
    row |= {"n_dead_rows": found.n_dead_rows, "n_dead_cols": found.n_dead_cols, "n_windows": found.n_windows}
    if not found.n_windows:
        if row["status"] == "ok":
            row["status"] = "too_small"
        return
    row |= {
        "alpha_farms": found.alpha,
        "alpha_se": found.se,
        "alpha_lo": found.lo,
        "alpha_hi": found.hi,
        "window": min(found.height, found.width),
        # Windows without their zeros are no squares any more.
        "fraction": 0.0 if found.deficient else found.fraction,
    }
    if found.influence is not None:
        row |= {"influence": found.influence.ravel(), "design": found.influence.shape}
    if row["status"] == "ok" and found.deficient:
        row["status"] = "rank_deficient"
    if row["status"] == "ok" and not found.se >= 0 and plan.farms["layout"] != "grid":
        row["status"] = "one_window"
    row |= _distance_from_noise(layer, scanned, found, plan)


def _distance_from_noise(layer, scanned, found, plan):
    """Return the exponent that noise has in the same windows, and the distance from it in its standard deviations."""
    if plan.farms["layout"] == "grid":
        return {"alpha_null": null_alpha(found.height, found.width, plan.q)}
    repeats, down, across = found.design
    count = repeats * down * across * layer.n_slices
    null = null_alpha(
        found.height,
        found.width,
        plan.q,
        count,
        is_complex=layer.is_complex,
        kurtosis=scanned.flatness(layer.is_complex),
    )
    if found.deficient or not math.isfinite(found.alpha):
        return {"alpha_null": null}
    sigma = null_std(
        layer.rows - found.n_dead_rows,
        layer.cols - found.n_dead_cols,
        found.height,
        found.width,
        repeats,
        plan.q,
        n_windows=down * across,
        n_matrices=layer.n_slices,
        is_complex=layer.is_complex,
    )
    return {"alpha_null": null, "z_null": (null - found.alpha) / sigma}


def _adapter_row(layer, plan, row):
    """Return the row of a product of two thin factors: its few eigenvalues from the core."""
    B, A, scale = layer.factors()
    n_bad = int((~torch.isfinite(B)).sum() + (~torch.isfinite(A)).sum())
    if n_bad or not math.isfinite(scale):
        return _bad_row(layer, plan, row, max(n_bad, 1))
    lam = low_rank_eigenvalues(B, A, scale)
    found, status = spectral_metrics(
        np.maximum(lam, 0), rows=layer.rows, cols=layer.cols, q=plan.q, fit_noise=False, count=len(lam)
    )
    row |= found | {"num_eigenvalues": len(lam), "spectrum": lam}
    row |= {
        "alpha_mp": math.nan,
        "alpha_mp_ratio": math.nan,
        "rank_fraction": found["rank"] / min(layer.rows, layer.cols),
    }
    row["status"] = "zero" if status == "zero" else "low_rank"
    return row


def _bad_row(layer, plan, row, n_bad):
    if plan.on_error == "raise":
        raise NonFiniteWeightError(
            f"obj must hold finite weights; layer {layer.name!r} ({row['shape']}) has {n_bad} NaN or infinite entries. "
            'Leave it out by exclude=, or pass on_error="flag" to have it marked.',
            layer=layer.name,
            count=n_bad,
        )
    row |= {"num_spikes": 0, "status": "non_finite"}
    return row


def _largest_side(plan):
    """Return the largest number of rows whose Gram matrix is formed: two of them must fit."""
    size = torch.finfo(plan.dtype).bits // 8
    return min(_DENSE_SIDE, int(math.sqrt(budget(plan.memory, plan.device) / (2.5 * size))))


def _seed(plan, layer):
    return [plan.seed, zlib.crc32(layer.name.encode())]


def _popped(grams):
    while grams:
        yield grams.pop(0)


def _cpu(values):
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def _result(rows, skipped, done, settings, extra):
    """Gather the rows in arrays."""
    columns = {}
    for name in ROW_FIELDS:
        values = [row[name] for row in rows]
        columns["layer_status" if name == "status" else name] = np.array(values, dtype=ROW_FIELDS[name])
    columns["comparable"] = _comparable(rows)
    influence = _padded([row["influence"] for row in rows])
    design = np.array([row["design"] for row in rows], dtype=int).reshape(len(rows), 3)
    longest = max((len(row["spectrum"]) for row in rows), default=0)
    spectra = _padded([row["spectrum"] for row in rows]) if longest * len(rows) * 8 <= _KEPT_BYTES and longest else None
    return SpectraResult(
        **columns,
        spectra=spectra,
        influence=influence,
        design=design,
        extra={name: [float(row[name]) for row in rows] for name in extra},
        skipped=skipped,
        status=done.status,
        n_iter=done.n_iter,
        history=done.history,
        settings=settings,
    )


def _comparable(rows):
    """Return which windows are the share of their layer that most weights have."""
    shares = np.array([row["fraction"] for row in rows], dtype=float)
    if not (shares > 0).any():
        return np.zeros(len(rows), dtype=bool)
    order = np.argsort(shares)
    weight = np.cumsum(np.where(shares > 0, [row["numel"] for row in rows], 0)[order])
    usual = shares[order][np.searchsorted(weight, weight[-1] / 2)]
    return np.abs(shares - usual) <= _SAME_SHARE * usual


def _padded(lists):
    out = np.full((len(lists), max(map(len, lists), default=0)), np.nan)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out
