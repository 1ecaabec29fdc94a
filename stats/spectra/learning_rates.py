r"""A learning rate for each layer from the exponents of its spectrum: what is undertrained moves faster.

.. math:: \eta_l = \eta\, \Big[ s_1 + (s_2 - s_1) \frac{\alpha_l - \alpha_{\min}}{\alpha_{\max} - \alpha_{\min}} \Big]

Notation  alpha (n,) exponents; eta global rate; s_1, s_2 lowest and highest factor; V (n,) squared standard errors; T
          variance of the exponents between layers beyond their errors.
Cost      that of a sort.
Pitfalls  the linear map spends its whole range even where the exponents differ by noise only, as at initialisation:
          ``shrink=True`` takes back what the errors explain. Plain exponents order layers by their shapes.
References  Y. Zhou and others, Temperature balancing, layer-wise weight analysis, and neural network training, 2023,
          arXiv 2312.00359. Y. Hu and others, Eigenspectrum analysis of neural networks without aspect ratio bias, 2025,
          arXiv 2506.06280.
"""

from __future__ import annotations

import warnings

import numpy as np

from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.stats.spectra.exponents import read_exponents
from sciml.validation import check_number, check_option

__all__ = ["RULES", "assign_lr", "rate_factors", "shrunken"]

RULES = ("linear", "sqrt", "log2", "step", "sigmoid")


def assign_lr(
    alphas, eta, rule="linear", s=(0.5, 1.5), *, metric="alpha_farms", tau=10.0, se=None, shrink=False, embeddings=False
):
    r"""Return a learning rate for each layer [1]_.

    "linear" is the formula above; "sqrt" and "log2" are :math:`\eta\, n f(\alpha_l) / \sum_k f(\alpha_k)`; "step" is
    :math:`\eta\, [s_1 + (s_2 - s_1)\, \mathrm{rank}_l / n]` with ranks from 0, the mean rank for ties; "sigmoid" is
    :math:`\eta\, 10^{\,s\,(\sigma(\tau (\alpha_l - \bar\alpha)) - 1/2)}`. Equal exponents give eta under every rule.

    Parameters
    ----------
    alphas : SpectraResult, xarray.Dataset or DataArray, dict of str to float, or array_like of shape (n,)
        Exponents, dimensionless: of a diagnosis, or numbers.
    eta : float
        Global rate, in the optimiser's units; 0, as at the start of a warm-up, gives zeros.
    rule : {"linear", "sqrt", "log2", "step", "sigmoid"}
        How a rate follows from an exponent; "linear" by default, which is the one with the most published results.
    s : (float, float) or float
        Lowest and highest factor; (0.5, 1.5) by default, which keeps the middle of the range at eta. For "sigmoid" a
        number is the exponent s itself, published between 0.125 and 1; a pair means log10(s_2 / s_1), hence the same
        ratio of the highest to the lowest rate. "sqrt" and "log2" do not use it.
    metric : str
        Variable of a result; "alpha_farms" by default, since plain exponents depend on the shapes of the layers.
    tau : float
        Steepness of "sigmoid", in units of one over alpha; 10 by default, as published.
    se : None, dict of str to float, or array_like of shape (n,)
        Standard errors of the exponents; None, the default: those of the result. Only for `shrink`.
    shrink : bool
        Pull exponents towards their mean by V/(V + T), so that noisy ones do not move rates; False by default. The
        range that "linear" and "step" spend shrinks by the same share.
    embeddings : bool
        Whether embeddings and heads of a result are tuned, too; False by default: they keep eta.

    Returns
    -------
    dict of str to float, or ndarray, shape (n,)
        Rates in the order of the layers, in the units of `eta`; a dict where layers have names.

    Raises
    ------
    InvalidInputError
        If an argument is out of its range, an exponent is outside the domain of the rule (0 for "sqrt", 1 for "log2"),
        or `shrink` has no standard errors.

    Warns
    -----
    FallbackWarning
        If exponents are not finite: those layers get `eta`.

    References
    ----------
    .. [1] Y. Zhou and others, Temperature balancing, layer-wise weight analysis, and neural network training, 2023,
       arXiv 2312.00359; "sigmoid": Model Balancing, in the published code of FARMS, arXiv 2506.06280.

    Examples
    --------
    >>> from sciml.stats.spectra.learning_rates import assign_lr
    >>> assign_lr({"first": 2.0, "second": 3.0, "third": 4.0}, 0.5)
    {'first': 0.25, 'second': 0.5, 'third': 0.75}
    >>> assign_lr([2.0, 3.0, 4.0], 0.5, "sqrt").round(4)
    array([0.4122, 0.5048, 0.5829])
    """
    eta = check_number("eta", eta, low=0)
    table = read_exponents(alphas, metric=metric, se=se)
    tuned = np.ones_like(table.tuned) if embeddings else table.tuned
    bad = tuned & ~np.isfinite(table.alpha)
    if bad.any():
        names = [table.names[i] if table.names else str(i) for i in np.flatnonzero(bad)]
        warnings.warn(
            f"alphas are not finite for {', '.join(names[:10])}{' and others' if len(names) > 10 else ''}: "
            f"{len(names)} of {len(tuned)} layers get the global rate {eta:g}.",
            FallbackWarning,
            stacklevel=2,
        )
    used = tuned & ~bad
    factors = np.ones(len(used))
    known = None if table.se is None else table.se[used]
    if shrink and known is None:
        raise InvalidInputError(
            "shrink must have standard errors; got none. Pass se, or a result with alpha_se and metric='alpha_farms'."
        )
    factors[used] = rate_factors(table.alpha[used], rule, s, tau=tau, se=known if shrink else None)
    rates = eta * factors
    return rates if table.names is None else dict(zip(table.names, rates.tolist(), strict=True))


def rate_factors(alpha, rule="linear", s=(0.5, 1.5), *, tau=10.0, se=None):
    """Return what each layer's rate is as a multiple of the global one.

    Parameters
    ----------
    alpha : array_like, shape (n,)
        Finite exponents.
    rule, s, tau
        As for `assign_lr`.
    se : array_like, shape (n,), or None
        Standard errors; exponents are shrunken by them. None, the default: as they are.

    Returns
    -------
    ndarray, shape (n,)
        Dimensionless.

    Raises
    ------
    InvalidInputError
        If an argument is out of its range.

    Examples
    --------
    >>> from sciml.stats.spectra.learning_rates import rate_factors
    >>> rate_factors([2.0, 4.0], s=(0.1, 1.9))
    array([0.1, 1.9])
    """
    check_option("rule", rule, RULES)
    low, high, exponent = _range(s, rule)
    tau = check_number("tau", tau, low=0, inclusive="neither")
    alpha = np.asarray(alpha, dtype=np.float64)
    kept = 1.0
    if se is not None and len(alpha):
        raw = np.ptp(alpha)
        alpha = shrunken(alpha, se)
        # The maps by rank and by range are blind to a common contraction: they are told of it.
        kept = np.ptp(alpha) / raw if raw > 0 else 0.0
    # Exponents of equal layers differ by rounding only; no range is to be spent on that.
    if len(alpha) == 0 or np.ptp(alpha) <= 1e-12 * np.abs(alpha).max():
        return np.ones(len(alpha))
    if rule in ("sqrt", "log2"):
        least = 0.0 if rule == "sqrt" else 1.0
        if alpha.min() <= least:
            raise InvalidInputError(
                f"alphas must be above {least:g} for rule {rule!r}; got {alpha.min():g}. Use rule='linear'."
            )
        values = np.sqrt(alpha) if rule == "sqrt" else np.log2(alpha)
        return len(alpha) * values / values.sum()
    if rule == "sigmoid":
        # The logistic function by tanh does not overflow.
        return 10.0 ** (exponent * 0.5 * np.tanh(0.5 * tau * (alpha - alpha.mean())))
    place = _mean_ranks(alpha) / len(alpha) if rule == "step" else (alpha - alpha.min()) / np.ptp(alpha)
    # Convex combinations, so that both ends are met without rounding.
    factors = low * (1.0 - place) + high * place
    return factors if kept == 1.0 else 1.0 + kept * (factors - 1.0)


def shrunken(alpha, se):
    r"""Return exponents pulled towards their mean by the share of their variance that is error.

    .. math:: \bar\alpha + \frac{T}{V_l + T} (\alpha_l - \bar\alpha), \qquad
              T = \max\Big(0,\ \tfrac{1}{n-1} \sum_k (\alpha_k - \bar\alpha)^2 - \tfrac1n \sum_k V_k\Big)

    Parameters
    ----------
    alpha : array_like, shape (n,)
        Finite exponents.
    se : array_like, shape (n,)
        Standard errors, the roots of V. One that is not finite, as of a layer with a single window, counts as the
        largest known one.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    InvalidInputError
        If no standard error is finite.

    Examples
    --------
    >>> from sciml.stats.spectra.learning_rates import shrunken
    >>> shrunken([2.0, 4.0, 3.0], [0.0, 0.0, 0.5])
    array([2., 4., 3.])
    >>> shrunken([2.0, 4.0], [1.0, 1.0])
    array([2.5, 3.5])
    """
    alpha, V = np.asarray(alpha, dtype=np.float64), np.asarray(se, dtype=np.float64) ** 2
    known = np.isfinite(V)
    if not known.any():
        raise InvalidInputError("se must hold a finite standard error; got none. Diagnose with more windows a layer.")
    V = np.where(known, V, V[known].max())
    if len(alpha) < 2:
        return alpha
    T = max(0.0, alpha.var(ddof=1) - V.mean())
    total = V + T
    # An exponent without error stays, also where nothing varies beyond the errors.
    share = np.where(total > 0, T / np.where(total > 0, total, 1.0), 1.0)
    return alpha.mean() + share * (alpha - alpha.mean())


def _range(s, rule):
    """Return the lowest and highest factor and the exponent of the sigmoid."""
    pair = np.asarray(s.detach().cpu() if hasattr(s, "detach") else s)
    if pair.shape == () and rule == "sigmoid":
        return 1.0, 1.0, check_number("s", s, low=0)
    if pair.shape != (2,):
        raise InvalidInputError(
            f"s must be a lowest and a highest factor for rule {rule!r}; got {s!r}. Pass a pair such as (0.5, 1.5)."
        )
    low = check_number("s[0]", pair[0], low=0)
    high = check_number("s[1]", pair[1], low=low)
    if rule != "sigmoid":
        return low, high, 0.0
    if low == 0:
        raise InvalidInputError("s[0] must be above 0 for rule 'sigmoid'; got 0. Pass the exponent, such as s=0.5.")
    return low, high, float(np.log10(high / low))


def _mean_ranks(alpha):
    """Return ranks from 0; ties share the mean of theirs."""
    _, inverse, counts = np.unique(alpha, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - counts + (counts - 1) / 2)[inverse]
