r"""Compare ways of pruning one network, the plain ones always among them.

Notation  S target, the share of zeros over all matrices; eps spread of the ratios that follow exponents.
Cost      a copy, a pruning and an evaluation of the network for each row.
Pitfalls  the best of many rows on few data is partly luck: the score of the winner is too good. Score it again on data
          that chose nothing. Rules from exponents are heuristics; uniform and per-row pruning often win.
References  H. Lu and others, AlphaPruning, 2024, arXiv 2410.10912. M. Sun and others, A simple and effective pruning
          approach for large language models, 2023, arXiv 2306.11695.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.exponents import by_tensor, model_exponents, read_exponents
from sciml.stats.spectra.input_activity import evaluating
from sciml.stats.spectra.pruning import prune
from sciml.stats.spectra.sparsity import assign_sparsity
from sciml.stats.spectra.weight_views import prunable_weights, resolve_names
from sciml.validation import check_option

__all__ = ["PruningTable", "compare_pruning"]


@dataclass(frozen=True)
class PruningTable:
    """What `compare_pruning` returns.

    Parameters
    ----------
    rows : list of dict
        One a way: ``name``, ``criterion``, ``eps`` (None without exponents), ``score``, ``zeros`` (share over the
        pruned tensors). "dense", the network as it is, comes first.
    target : float
        Share of zeros asked for.
    ratios : dict of str to dict
        By name of the row, the ratio of each tensor.

    Examples
    --------
    >>> from sciml.stats.spectra.pruning_baselines import PruningTable
    >>> rows = [{"name": "dense", "score": 0.9}, {"name": "uniform", "score": 0.5}, {"name": "row", "score": 0.7}]
    >>> PruningTable(rows, 0.6, {}).best["name"]
    'row'
    """

    rows: list
    target: float
    ratios: dict

    @property
    def best(self):
        """The row with the highest score among the pruned ones."""
        pruned = [row for row in self.rows if row["name"] != "dense" and not math.isnan(row["score"])]
        return max(pruned, key=lambda row: row["score"]) if pruned else None

    def score(self, name):
        """Return the score of a row.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        float

        Examples
        --------
        >>> from sciml.stats.spectra.pruning_baselines import PruningTable
        >>> PruningTable([{"name": "uniform", "score": 0.5}], 0.6, {}).score("uniform")
        0.5
        """
        names = [row["name"] for row in self.rows]
        return self.rows[names.index(check_option("name", name, names))]["score"]

    def to_dict(self):
        """Return the rows as columns, as a data frame takes them.

        Returns
        -------
        dict of str to list

        Examples
        --------
        >>> from sciml.stats.spectra.pruning_baselines import PruningTable
        >>> PruningTable([{"name": "uniform", "score": 0.5}], 0.6, {}).to_dict()
        {'name': ['uniform'], 'score': [0.5]}
        """
        return {key: [row[key] for row in self.rows] for key in self.rows[0]}


def compare_pruning(
    model,
    evaluate,
    target,
    *,
    calibration=None,
    eps=(-0.3, -0.1, 0.1, 0.3),
    alphas=None,
    metric="alpha_farms",
    criterion="magnitude",
    unit="block",
    include=None,
):
    """Prune copies of a network in several ways to one sparsity and score each.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is: copies are pruned.
    evaluate : callable
        ``evaluate(model)`` returns a score, higher is better; called in evaluation mode, without gradients.
    target : float
        Share of zeros over all matrices but embeddings and heads.
    calibration : tensor, tuple or dict of tensors, or iterable of those
        For Wanda, as for `prune`; None, the default, leaves Wanda out.
    eps : sequence of float
        Spreads of ratios that follow the exponents; by default two of either sign, since it is not known beforehand
        which sign is right.
    alphas : None, or as for `assign_sparsity`
        Exponents of the layers; None, the default: the model is diagnosed.
    metric : str
        Exponent; "alpha_farms" by default.
    criterion : {"magnitude", "row", "wanda"}
        How tensors are pruned under ratios that follow exponents; "magnitude" by default, as the published rule was.
    unit : {"block", "layer"}
        As for `assign_sparsity`; "block" by default.
    include : sequence of str or None
        Tensors to prune; None, the default: all matrices but embeddings and heads.

    Returns
    -------
    PruningTable
        Rows "dense", "uniform" (magnitudes), "row", "wanda" (with calibration) and one "eps=..." each. Every row but
        the first has the same number of zeros.

    Raises
    ------
    InvalidInputError
        If an argument is out of its range, or "wanda" has no calibration.

    Notes
    -----
    The rule is a heuristic. On a sentence encoder of six blocks its published sign lost against uniform ratios at 40,
    50 and 60 %, and pruning within rows, without any spectra, beat it: hence this table.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.pruning_baselines import compare_pruning
    >>> rng = torch.Generator().manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20, bias=False), torch.nn.Linear(20, 20, bias=False))
    >>> for layer in model:
    ...     layer.weight.data = torch.randn(layer.weight.shape, generator=rng)
    >>> x = torch.randn(50, 30, generator=rng) * torch.logspace(-2, 0, 30)
    >>> y = model(x).detach()
    >>> table = compare_pruning(
    ...     model, lambda net: -float((net(x) - y).square().mean()), 0.5, calibration=x, alphas=[2.0, 3.0]
    ... )
    >>> table.to_dict()["name"]
    ['dense', 'uniform', 'row', 'wanda', 'eps=-0.3', 'eps=-0.1', 'eps=0.1', 'eps=0.3']
    >>> table.score("wanda") > table.score("uniform")
    True
    """
    check_option("criterion", criterion, ("magnitude", "row", "wanda"))
    if not callable(evaluate):
        raise InvalidInputError(f"evaluate must be a callable that returns a score; got {evaluate!r}.")
    if criterion == "wanda" and calibration is None:
        raise InvalidInputError("calibration must be given for criterion 'wanda'; got None. Pass inputs of the model.")
    weights = [weight for weight in prunable_weights(model) if not weight.embedding]
    if include is not None:
        weights = resolve_names(prunable_weights(model), list(include), "include")
    sizes = {weight.name: weight.parameter.numel() for weight in weights}
    known = _exponents(model, weights, alphas, metric)
    if calibration is not None and hasattr(calibration, "__next__"):
        calibration = list(calibration)  # every row of Wanda reads it

    ways = [("uniform", "magnitude", None), ("row", "row", None)]
    ways += [("wanda", "wanda", None)] if calibration is not None else []
    spreads = np.atleast_1d(np.asarray(eps, dtype=np.float64)).tolist()
    ways += [(f"eps={one:g}", criterion, one) for one in spreads]
    with evaluating(model):
        rows = [{"name": "dense", "criterion": None, "eps": None, "score": float(evaluate(model)), "zeros": 0.0}]
    ratios = {}
    for name, way, spread in ways:
        plan = assign_sparsity(known, target, sizes=sizes, eps=spread or 0.0, unit=unit)
        pruned = copy.deepcopy(model)
        masks = prune(pruned, plan, criterion=way, calibration=calibration)
        with evaluating(pruned):
            score = float(evaluate(pruned))
        zeros = sum(int((~mask).sum()) for mask in masks.values()) / sum(sizes.values())
        rows.append({"name": name, "criterion": way, "eps": spread, "score": score, "zeros": zeros})
        ratios[name] = dict(plan.ratios)
    return PruningTable(rows=rows, target=float(target), ratios=ratios)


def _exponents(model, weights, alphas, metric):
    """Return an exponent by tensor, NaN where there is none."""
    given, names = alphas is not None, [weight.name for weight in weights]
    table = by_tensor(read_exponents(alphas, metric=metric)) if given else model_exponents(model, names, metric)
    if table.names is None:
        if len(table.alpha) != len(names):
            raise InvalidInputError(
                f"alphas must be one number for each of the {len(names)} matrices; got {len(table.alpha)}."
            )
        return dict(zip(names, table.alpha.tolist(), strict=True))
    found = dict(zip(table.names, table.alpha.tolist(), strict=True))
    keys = {weight.name: next((k for k in (weight.name, *weight.aliases) if k in found), None) for weight in weights}
    return {name: found.get(key, math.nan) for name, key in keys.items()}
