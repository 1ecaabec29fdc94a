r"""A sparsity for each layer from the exponents of its spectrum, with the budget kept exactly.

.. math:: w_l = (1 - \varepsilon) + 2 \varepsilon \frac{\alpha_l - \alpha_{\min}}{\alpha_{\max} - \alpha_{\min}}, \qquad
          r_l = \min(\max(c\, w_l,\ r_{\min}),\ r_{\max}), \qquad \sum_l d_l r_l = S \sum_l d_l

Notation  alpha (n,) exponents; d (n,) numbers of weights; S target; eps spread; w raw ratios; c the one scale that
          keeps the budget; r (n,) ratios, the shares of weights set to zero.
Cost      that of a sort.
Pitfalls  the rule is a heuristic. On a sentence encoder of six blocks, at 40, 50 and 60 %, it lost against uniform
          magnitude pruning, and the inverted rule and plain per-row pruning won: measure, by `validate` or by
          `compare_pruning`, before you believe it.
References  H. Lu and others, AlphaPruning: using heavy-tailed self regularization theory for improved layer-wise
          pruning of large language models, 2024, arXiv 2410.10912. Y. Hu and others, Eigenspectrum analysis of neural
          networks without aspect ratio bias, 2025, arXiv 2506.06280.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.stats.spectra.exponents import by_tensor, read_exponents
from sciml.stats.spectra.water_filling import allocate, exact_counts
from sciml.validation import check_number, check_option

__all__ = ["Ratios", "SparsityPlan", "assign_sparsity", "block_of"]

# "blocks" names transformer blocks also where they sit in "layers" (stages) or hold "layer" (halves of a block).
_BLOCKS = (re.compile(r"^(?:.*\.)?blocks?\.\d+(?=\.|$)"), re.compile(r"^(?:.*?\.)?(?:layers?|h)\.\d+(?=\.|$)"))
_TOLERANCE = 1e-12


class Ratios(dict):
    """Ratios by tensor that know how they are meant to be pruned: a dict with a word.

    Parameters
    ----------
    ratios : dict of str to float
        Share of weights to set to zero, by tensor.
    criterion : {"magnitude", "row", "wanda"} or None
        What `prune` uses where it is not told otherwise; None, the default: magnitudes.

    Examples
    --------
    >>> from sciml.stats.spectra.sparsity import Ratios
    >>> Ratios({"fc.weight": 0.5}, "row").criterion
    'row'
    """

    def __init__(self, ratios=(), criterion=None):
        super().__init__(ratios)
        self.criterion = criterion


@dataclass(frozen=True, eq=False)
class SparsityPlan(Mapping):
    """What `assign_sparsity` returns: a mapping of tensors to ratios, with counts and with what was tried.

    Parameters
    ----------
    ratios : Ratios
        Share of weights to set to zero by tensor (by index where the tensors have no names).
    counts : dict of str to int, or None
        Number of weights to set to zero, exact in sum; None where sizes are unknown.
    eps : float or None
        Spread of the plan; 0 for the uniform ones.
    target : float
        Share of zeros over all planned tensors.
    criterion : {"magnitude", "row"}
        How the plan was scored, and how `prune` follows it.
    name : str
        "eps=..." , "uniform" or "row": the row of `scores` that the plan is.
    baselines : dict of str to Ratios
        "uniform" and "row": the same ratio for all, by magnitudes over the tensor and within every row.
    scores : list of dict
        One row a candidate, the baselines among them: name, eps, criterion, score (NaN without `validate`), best.

    Examples
    --------
    >>> from sciml.stats.spectra.sparsity import assign_sparsity
    >>> plan = assign_sparsity({"a": 2.0, "b": 4.0}, 0.5, sizes={"a": 100, "b": 100})
    >>> round(plan["a"], 6), plan.counts, plan.name
    (0.4, {'a': 40, 'b': 60}, 'eps=0.2')
    """

    ratios: Ratios
    counts: dict | None
    eps: float | None
    target: float
    criterion: str
    name: str
    baselines: dict = field(default_factory=dict)
    scores: list = field(default_factory=list)

    def __getitem__(self, key):
        return self.ratios[key]

    def __iter__(self):
        return iter(self.ratios)

    def __len__(self):
        return len(self.ratios)

    def __array__(self, dtype=None, copy=None):
        return np.array(list(self.ratios.values()), dtype=dtype or np.float64)

    def to_dict(self):
        """Return the scores as columns, as a data frame takes them.

        Returns
        -------
        dict of str to list
            Columns "name", "eps", "criterion", "score" and "best".

        Examples
        --------
        >>> from sciml.stats.spectra.sparsity import assign_sparsity
        >>> assign_sparsity({"a": 2.0, "b": 4.0}, 0.5).to_dict()["name"]
        ['eps=0.2', 'uniform', 'row']
        """
        return {key: [row[key] for row in self.scores] for key in ("name", "eps", "criterion", "score", "best")}


def assign_sparsity(
    alphas,
    target,
    *,
    sizes=None,
    eps=0.2,
    unit="block",
    r_min=0.0,
    r_max=0.99,
    blocks=None,
    validate=None,
    metric="alpha_farms",
    embeddings=False,
):
    """Return a share of zeros for each tensor: more where the exponent is high, in sum exactly the target [1]_.

    Parameters
    ----------
    alphas : SpectraResult, xarray.Dataset or DataArray, dict of str to float, or array_like of shape (n,)
        Exponents, dimensionless. Parts of one tensor, named ``key[q]``, are planned as one, with their mean exponent.
    target : float
        Share of zeros over all planned tensors, between `r_min` and `r_max`.
    sizes : None, dict of str to float, or array_like of shape (n,)
        Numbers of weights; None, the default: those of the result, or equal ones.
    eps : float or sequence of float
        Spread: raw ratios lie between 1 - eps and 1 + eps; 0.2 by default, in the middle of what was published. A
        negative one prunes most where the exponent is low. Several need `validate`.
    unit : {"block", "layer"}
        Whether the layers of one transformer block share their mean exponent; "block" by default, as published. Where
        names show no blocks, every tensor is a block.
    r_min, r_max : float
        Bounds on a ratio; 0 and 0.99 by default: nothing dies wholly.
    blocks : None, dict of str to str, or callable
        Names of the blocks by tensor; None, the default: `block_of`.
    validate : callable or None
        ``validate(ratios)`` returns a score, higher is better; `ratios` is a dict that knows its criterion, so that
        ``prune(copy, ratios)`` does the per-row baseline per row. A callable with a second positional argument
        without a default gets the criterion there. The best of all eps, uniform and per-row is returned: the rule
        often is not. None, the default: nothing is scored.
    metric : str
        Variable of a result; "alpha_farms" by default.
    embeddings : bool
        Whether embeddings and heads of a result are planned, too; False by default.

    Returns
    -------
    SparsityPlan
        A mapping of tensors to ratios, with counts, baselines and scores.

    Raises
    ------
    InvalidInputError
        If the target is out of reach, with the admissible range, or an argument is out of its range.

    Warns
    -----
    FallbackWarning
        If exponents are not finite: these tensors get the target itself.

    Notes
    -----
    Published code clips ratios above 1 and loses the budget; here what is clipped is given to the others, in proportion
    to their raw ratios, and the budget holds to 1e-12. Raw ratios below 0 count as 0.

    References
    ----------
    .. [1] H. Lu and others, AlphaPruning, 2024, arXiv 2410.10912.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.sparsity import assign_sparsity
    >>> np.asarray(assign_sparsity([2.0, 3.0, 4.0], 0.6, eps=0.5, unit="layer")).round(3)
    array([0.3, 0.6, 0.9])
    """
    check_option("unit", unit, ("block", "layer"))
    for name, value, kind in (("validate", validate, "callable"), ("blocks", blocks, "dict of str to str or callable")):
        if not (value is None or callable(value) or (name == "blocks" and isinstance(value, Mapping))):
            raise InvalidInputError(f"{name} must be None or a {kind}; got {value!r}.")
    target, r_min, r_max = _checked_range(target, r_min, r_max)
    table = read_exponents(alphas, metric=metric, sizes=sizes)
    counted = table.sizes is not None
    table = by_tensor(table)
    kept = np.flatnonzero(table.tuned | embeddings)
    if not len(kept):
        raise InvalidInputError("alphas must hold a layer that is no embedding; got none. Pass embeddings=True.")
    keys = [table.tensors[i] if table.names else int(i) for i in kept]
    alpha = table.alpha[kept]
    d = table.sizes[kept] if counted else np.ones(len(kept))
    _warn_of_gaps(alpha, keys, target)
    if unit == "block":
        alpha = _block_means(alpha, keys, blocks)

    spreads = [check_number("eps", one) for one in np.atleast_1d(np.asarray(eps, dtype=object))]
    if not spreads or (len(spreads) > 1 and validate is None):
        raise InvalidInputError(
            f"eps must be one number where validate is None; got {len(spreads)}. Pass a callable as validate."
        )
    uniform = np.full(len(keys), target)
    candidates = [(f"eps={one:g}", one, "magnitude", allocate(alpha, d, target, one, r_min, r_max)) for one in spreads]
    candidates += [("uniform", 0.0, "magnitude", uniform), ("row", 0.0, "row", uniform)]
    named = [Ratios(zip(keys, ratios.tolist(), strict=True), word) for _, _, word, ratios in candidates]
    scores = [math.nan if validate is None else _score(validate, one) for one in named]
    best = 0 if validate is None or np.isnan(scores).all() else int(np.nanargmax(scores))
    counts = exact_counts(candidates[best][3], d, r_max) if counted else None
    rows = [
        {"name": name, "eps": one, "criterion": word, "score": score, "best": i == best}
        for i, ((name, one, word, _), score) in enumerate(zip(candidates, scores, strict=True))
    ]
    return SparsityPlan(
        ratios=named[best],
        counts=None if counts is None else dict(zip(keys, counts.tolist(), strict=True)),
        eps=candidates[best][1],
        target=target,
        criterion=candidates[best][2],
        name=candidates[best][0],
        baselines={"uniform": named[-2], "row": named[-1]},
        scores=rows,
    )


def block_of(name):
    """Return the transformer block that a tensor belongs to, or its own name where there is none.

    Parameters
    ----------
    name : str
        Key of a state dict, such as "encoder.layer.3.attention.self.query.weight".

    Returns
    -------
    str

    Examples
    --------
    >>> from sciml.stats.spectra.sparsity import block_of
    >>> block_of("model.layers.3.mlp.up_proj.weight"), block_of("head.weight")
    ('model.layers.3', 'head.weight')
    """
    for pattern in _BLOCKS:
        found = pattern.match(name)
        if found:
            return found.group(0)
    return name


def _block_means(alpha, keys, blocks):
    of = blocks if callable(blocks) else (lambda key: blocks.get(key, key)) if blocks is not None else block_of
    labels = [of(key) if isinstance(key, str) or blocks is not None else key for key in keys]
    means = alpha.copy()
    for label in dict.fromkeys(labels):
        rows = np.array([one == label for one in labels]) & np.isfinite(alpha)
        if rows.any():
            means[rows] = alpha[rows].mean()
    return means


def _warn_of_gaps(alpha, keys, target):
    bad = [str(key) for key, a in zip(keys, alpha, strict=True) if not math.isfinite(a)]
    if bad:
        warnings.warn(
            f"alphas are not finite for {', '.join(bad[:10])}{' and others' if len(bad) > 10 else ''}: "
            f"{len(bad)} of {len(keys)} tensors get the target {target:g} itself.",
            FallbackWarning,
            stacklevel=3,
        )


def _checked_range(target, r_min, r_max):
    r_min = check_number("r_min", r_min, low=0, high=1)
    r_max = check_number("r_max", r_max, low=r_min, high=1)
    target = check_number("target", target)
    if not r_min - _TOLERANCE <= target <= r_max + _TOLERANCE:
        raise InvalidInputError(
            f"target must be between r_min and r_max, here between {r_min:g} and {r_max:g}; got {target:g}. "
            "Move the target or the bounds."
        )
    return min(max(target, r_min), r_max), r_min, r_max


def _score(validate, ratios):
    try:
        needed = [
            p
            for p in inspect.signature(validate).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
    except (TypeError, ValueError):
        needed = []
    score = validate(ratios, ratios.criterion) if len(needed) > 1 else validate(ratios)
    return float(score)
