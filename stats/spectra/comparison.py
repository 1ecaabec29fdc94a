r"""Two networks layer by layer: differences of exponents, paired window by window.

.. math:: \Delta_l = \alpha_l^b - \alpha_l^a, \quad V = V(t^b - t^a)

Notation  t influence of each window on the exponent of its layer (see `jackknife.py`); the same name, shape and seed
          give the same windows in both networks.
Cost      nothing beside the diagnoses.
Pitfalls  where windows are not the same, the variances add, which is too much for networks of one origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.results import Result, array
from sciml.stats.spectra.jackknife import variance
from sciml.stats.spectra.result import SpectraResult

__all__ = ["SpectraComparison", "compare"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SpectraComparison(Result):
    """Differences of two diagnoses, second minus first, over the layers that both have.

    Parameters
    ----------
    layer : ndarray of str, shape (n,)
        Names.
    alpha_a, alpha_b : ndarray, shape (n,)
        FARMS exponents of the first and the second.
    difference, se, z : ndarray, shape (n,)
        Their difference, its standard error (paired where the windows are the same), and the ratio of the two.
    paired : ndarray of bool, shape (n,)
        Whether the windows are the same.
    mean_difference, mean_se : float
        Mean over the layers with a difference, and its standard error from their spread.
    only_a, only_b : list of str
        Layers that one of the two has not.
    """

    layer: np.ndarray = array("layer", help="name")
    alpha_a: np.ndarray = array("layer", help="FARMS exponent of the first")
    alpha_b: np.ndarray = array("layer", help="FARMS exponent of the second")
    difference: np.ndarray = array("layer", help="second minus first")
    se: np.ndarray = array("layer", help="standard error of the difference")
    z: np.ndarray = array("layer", help="difference over its standard error")
    paired: np.ndarray = array("layer", help="whether the windows are the same")
    mean_difference: float = math.nan
    mean_se: float = math.nan
    only_a: list = field(default_factory=list)
    only_b: list = field(default_factory=list)


def compare(a, b):
    """Compare the FARMS exponents of two networks, such as before and after fine-tuning.

    Parameters
    ----------
    a, b : SpectraResult
        Diagnoses with the same settings; layers are matched by name.

    Returns
    -------
    SpectraComparison
        Differences b - a with standard errors. A layer that is the same in both has difference 0 and standard error 0.

    Raises
    ------
    InvalidTypeError
        If one is no diagnosis.
    InvalidInputError
        If they have no layer in common, or their windows were cut by different rules.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import diagnose
    >>> from sciml.stats.spectra import compare
    >>> W = np.random.default_rng(0).standard_normal((64, 128))
    >>> found = compare(diagnose({"fc": W}), diagnose({"fc": W + 0.5 * W**3}))
    >>> bool(found.difference[0] < 0), bool(found.paired[0])           # larger entries grew: a heavier tail
    (True, True)
    """
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, SpectraResult):
            raise InvalidTypeError(f"{name} must be a result of diagnose; got {type(value).__name__}.")
    for key in ("rho", "Q", "q", "layout", "window", "grid", "conv"):
        if a.settings.get(key) != b.settings.get(key):
            raise InvalidInputError(
                f"a and b must be diagnosed by the same rule; {key} is {a.settings.get(key)!r} in a and "
                f"{b.settings.get(key)!r} in b. Diagnose one anew."
            )
    at = {name: k for k, name in enumerate(b.layer)}
    names = [name for name in a.layer if name in at]
    if not names:
        raise InvalidInputError(
            f"a and b must have layers in common; a has {list(map(str, a.layer[:3]))}, b has "
            f"{list(map(str, b.layer[:3]))}. Rename the keys of one."
        )
    pairs = [(k, at[name]) for k, name in enumerate(a.layer) if name in at]
    first, second = np.array(pairs).T
    se, paired = np.array([_standard_error(a, i, b, j) for i, j in pairs]).T
    difference = b.alpha_farms[second] - a.alpha_farms[first]
    known = difference[np.isfinite(difference)]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(difference == 0, 0.0, difference / se)
    return SpectraComparison(
        layer=np.array(names),
        alpha_a=a.alpha_farms[first],
        alpha_b=b.alpha_farms[second],
        difference=difference,
        se=se,
        z=z,
        paired=paired.astype(bool),
        mean_difference=float(known.mean()) if len(known) else math.nan,
        mean_se=float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan,
        only_a=[str(name) for name in a.layer if name not in at],
        only_b=[str(name) for name in b.layer if name not in set(a.layer)],
        settings=a.settings,
    )


def _standard_error(a, i, b, j):
    """Return the standard error of a difference and whether it is paired."""
    same = (
        a.settings["seed"] == b.settings["seed"]
        and (a.design[i] == b.design[j]).all()
        and all(getattr(a, name)[i] == getattr(b, name)[j] for name in ("rows", "cols", "window"))
        and all(getattr(a, name)[i] == getattr(b, name)[j] for name in ("n_dead_rows", "n_dead_cols"))
    )
    size = int(np.prod(a.design[i]))
    if not same or not size:
        return math.hypot(a.alpha_se[i], b.alpha_se[j]), False
    change = (b.influence[j][:size] - a.influence[i][:size]).reshape(a.design[i])
    return math.sqrt(max(variance(change), 0.0)), True
