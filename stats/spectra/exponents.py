r"""Exponents of layers from whatever holds them: a result, its Dataset, a dict of names, an array.

.. math:: \bar\alpha_t = \sum_{l \in t} d_l \alpha_l \Big/ \sum_{l \in t} d_l

Notation  alpha (n,) exponents of n layers; se (n,) standard errors; d (n,) numbers of weights; t a tensor, of which
          layers may be parts, such as the query, key and value of a fused projection.
Cost      that of reading a table.
Pitfalls  embeddings and heads have spectra of their own kind, and adapters have no exponent: they are marked, and what
          allocates leaves them out.
References  Y. Hu and others, Eigenspectrum analysis of neural networks without aspect ratio bias, 2025,
          arXiv 2506.06280.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.weight_views import prunable_weights

__all__ = ["ExponentTable", "by_tensor", "model_exponents", "read_exponents"]

_PART = re.compile(r"\[[^\[\]]*\]$")
_SUM = "[base+adapter"


@dataclass(frozen=True)
class ExponentTable:
    """Exponents of layers with what is known about the layers.

    Parameters
    ----------
    names : list of str or None
        Layers; None where an array came.
    alpha : ndarray, shape (n,)
        Exponents, dimensionless; NaN where there is none.
    se : ndarray, shape (n,), or None
        Standard errors, dimensionless; NaN where unknown.
    sizes : ndarray, shape (n,), or None
        Numbers of weights.
    tensors : list of str
        The tensor that each layer belongs to.
    tuned : ndarray of bool, shape (n,)
        False for embeddings, heads and adapters, which allocations leave out.
    comparable : ndarray of bool, shape (n,)
        False where the window was another than for the other layers.

    Examples
    --------
    >>> from sciml.stats.spectra.exponents import read_exponents
    >>> read_exponents({"a": 2.0, "b[q]": 3.0}).tensors
    ['a', 'b']
    """

    names: list | None
    alpha: np.ndarray
    se: np.ndarray | None
    sizes: np.ndarray | None
    tensors: list
    tuned: np.ndarray
    comparable: np.ndarray


def read_exponents(alphas, *, metric="alpha_farms", se=None, sizes=None, name="alphas"):
    """Return the exponents of layers as one table.

    Parameters
    ----------
    alphas : SpectraResult, xarray.Dataset or DataArray, dict of str to float, or array_like of shape (n,)
        What holds them. Names of the form ``key[q]`` are parts of the tensor ``key``.
    metric : str
        Variable of a result; "alpha_farms" by default, since plain exponents depend on the shapes.
    se, sizes : None, dict of str to float, or array_like of shape (n,)
        Standard errors and numbers of weights; None, the default: those of the result (``alpha_se`` belongs to
        ``alpha_farms``), if any.
    name : str
        What the argument is called in messages.

    Returns
    -------
    ExponentTable

    Raises
    ------
    InvalidInputError
        If there are no layers, the metric is missing, or lengths or names differ.

    Examples
    --------
    >>> from sciml.stats.spectra.exponents import read_exponents
    >>> read_exponents([2.0, 3.0], sizes=[10, 20]).sizes
    array([10., 20.])
    """
    if hasattr(alphas, "to_xarray") and not hasattr(alphas, "data_vars"):
        alphas = alphas.to_xarray()
    if hasattr(alphas, "data_vars"):
        table = _from_dataset(alphas, metric, se, sizes, name)
    else:
        names = None
        if hasattr(alphas, "items"):
            names, alphas = [str(key) for key in alphas], list(alphas.values())
        elif getattr(alphas, "dims", None) == ("layer",) and "layer" in alphas.coords:
            names, alphas = [str(key) for key in alphas["layer"].values], alphas.values
        alpha = _numbers(name, alphas)
        n = len(alpha)
        tensors = [_PART.sub("", key) for key in names] if names else [str(i) for i in range(n)]
        yes = np.ones(n, dtype=bool)
        table = ExponentTable(
            names, alpha, _like("se", se, names, n), _like("sizes", sizes, names, n), tensors, yes, yes.copy()
        )
    if not len(table.alpha):
        raise InvalidInputError(f"{name} must hold at least one layer; got none. Diagnose a model with matrices.")
    return table


def _from_dataset(data, metric, se, sizes, name):
    if metric not in data:
        known = sorted(key for key in data.data_vars if str(key).startswith("alpha"))
        raise InvalidInputError(
            f"metric must be a variable of {name}; got {metric!r}, but there are {', '.join(known) or 'none'}. "
            f"Diagnose with metrics=({metric!r},)."
        )
    names = [str(key) for key in data["layer"].values]
    n = len(names)
    alpha = _numbers(metric, data[metric].values)
    if se is None and metric == "alpha_farms" and "alpha_se" in data:
        se = data["alpha_se"].values
    if sizes is None and "numel" in data:
        sizes = data["numel"].values
    tensors = [str(key) for key in data["tensor"].values] if "tensor" in data else [_PART.sub("", k) for k in names]
    kinds = [str(kind) for kind in data["kind"].values] if "kind" in data else [""] * n
    tuned = np.array([kind not in ("embedding", "head", "adapter") for kind in kinds], dtype=bool)
    comparable = np.asarray(data["comparable"].values, dtype=bool) if "comparable" in data else np.ones(n, dtype=bool)
    return ExponentTable(
        names, alpha, _like("se", se, names, n), _like("sizes", sizes, names, n), tensors, tuned, comparable
    )


def by_tensor(table):
    """Return the exponents of whole tensors: means over their parts, weighted by the numbers of weights.

    Parameters
    ----------
    table : ExponentTable
        Of layers.

    Returns
    -------
    ExponentTable
        Of tensors, in the order of their first parts; sizes are sums. Parts without an exponent do not count, and a
        tensor is tuned if one of its parts is. A base with its adapter is no further part of the base.

    Examples
    --------
    >>> from sciml.stats.spectra.exponents import by_tensor, read_exponents
    >>> table = by_tensor(read_exponents({"w[q]": 2.0, "w[k]": 4.0}, sizes={"w[q]": 300, "w[k]": 100}))
    >>> table.names, table.alpha.tolist(), table.sizes.tolist()
    (['w'], [2.5], [400.0])
    """
    table = _without_sums(table)
    keys = list(dict.fromkeys(table.tensors))
    where = {key: i for i, key in enumerate(keys)}
    owner = np.array([where[key] for key in table.tensors])
    n = len(keys)
    d = np.ones(len(owner)) if table.sizes is None else table.sizes
    # An infinite exponent in one part makes that of the tensor infinite: it is not averaged away.
    known = ~np.isnan(table.alpha)
    weight = np.bincount(owner, d * known, n)
    share = d * known / np.where(weight > 0, weight, 1.0)[owner]  # exactly 1 for a tensor of one part
    alpha = np.where(weight > 0, _sums(owner, np.where(known, share * table.alpha, 0.0), n), np.nan)
    se = None
    if table.se is not None:
        # Parts share neither rows nor windows: their errors are independent.
        squares = np.where(known, (share * table.se) ** 2, 0.0)
        se = np.where(weight > 0, np.sqrt(_sums(owner, squares, n)), np.nan)
    sizes = None if table.sizes is None else np.bincount(owner, table.sizes, n)
    tuned = np.bincount(owner, table.tuned, n) > 0
    comparable = np.bincount(owner, ~table.comparable, n) == 0
    names = None if table.names is None else keys
    return ExponentTable(names, alpha, se, sizes, keys, tuned, comparable)


def _without_sums(table):
    """Leave out the rows of bases with their adapters: their weights are those of the bases, counted already."""
    alone = [k for k, name in enumerate(table.names or ()) if _SUM not in name]
    if table.names is None or len(alone) in (0, len(table.names)):
        return table

    def chosen(values):
        if values is None:
            return None
        return values[alone] if isinstance(values, np.ndarray) else [values[k] for k in alone]

    return ExponentTable(**{field.name: chosen(getattr(table, field.name)) for field in fields(table)})


def model_exponents(model, names, metric="alpha_farms"):
    """Return the exponents of some weights of a model, whole tensors.

    Parameters
    ----------
    model : torch.nn.Module
        Any.
    names : sequence of str
        Keys of the state dict.
    metric : str
        Exponent; "alpha_farms" by default.

    Returns
    -------
    ExponentTable
        Of those of the weights that have a row in the diagnosis; windows are the same from call to call.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.exponents import model_exponents
    >>> model = torch.nn.Linear(40, 40)
    >>> model_exponents(model, ["weight"]).names
    ['weight']
    """
    # Not at the top: what diagnoses is not needed where exponents are given.
    from sciml.stats.spectra.solve import diagnose

    # A diagnosis calls a parametrised weight by the name of what is made of it.
    keys = {key: w.name for w in prunable_weights(model) if w.name in names for key in (w.name, *w.aliases)}
    # A name may hold brackets, which patterns read as sets.
    chosen = [re.sub(r"([*?[])", r"[\1]", key) for key in keys]
    found = diagnose(model, metrics=(metric,), include=chosen, on_error="flag", progress=False)
    table = by_tensor(read_exponents(found, metric=metric))
    return replace(table, names=[keys[key] for key in table.names])


def _sums(owner, values, n):
    sums = np.zeros(n)
    with np.errstate(invalid="ignore"):
        np.add.at(sums, owner, values)
    return sums


def _numbers(name, values):
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    try:
        array = np.asarray(values)
        # None stands for an exponent that is not there, as in a JSON table.
        array = array.astype(np.float64) if array.dtype.kind in "fiuO" else None
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1:
        raise InvalidInputError(
            f"{name} must be one real number for each layer; got {type(values).__name__} of shape {np.shape(values)}. "
            "Pass a list of floats, or a dict of layer to float."
        )
    return array


def _like(name, values, names, n):
    """Return numbers in the order of the layers, or None."""
    if values is None:
        return None
    if hasattr(values, "items"):
        missing = [key for key in names or [] if key not in values]
        if names is None or missing:
            what = f"it lacks {missing[0]!r}" if missing else "the layers have no names"
            raise InvalidInputError(f"{name} must have the layers as keys; {what}. Pass one number for each layer.")
        values = [values[key] for key in names]
    array = _numbers(name, values)
    if len(array) != n:
        raise InvalidInputError(f"{name} must be one number for each of the {n} layers; got {len(array)}.")
    bad = np.flatnonzero(~(array > 0) if name == "sizes" else array < 0)
    if len(bad):
        raise InvalidInputError(
            f"{name} must be {'above' if name == 'sizes' else 'at least'} 0; got {array[bad[0]]} for layer "
            f"{names[bad[0]] if names else bad[0]}."
        )
    return array
