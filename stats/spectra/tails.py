r"""How heavy the tail of a spectrum is, beyond one exponent: other estimators, a test of the power law, and its rival.

.. math:: \gamma_H = \frac1k \sum_{j \le k} \ln \frac{\lambda_{(j)}}{\lambda_{(k + 1)}}, \qquad
          \gamma_M = \gamma_H + 1 - \tfrac12 \Big( 1 - \frac{\gamma_H^2}{M_2} \Big)^{-1}

Notation  lambda_(1) >= lambda_(2) >= ... eigenvalues; k size of the tail; gamma = 1 / (alpha - 1) extreme-value index;
          M_2 mean square of the logarithms whose mean is gamma_H; D Kolmogorov-Smirnov distance of a fitted tail.
Cost      estimators: a sort. The test: a fit for each draw, 0.1 s for 200 draws of 300 eigenvalues.
Pitfalls  an exponent is always found, also where there is no power law: with light tails, those of 5 or 10 % of the
          eigenvalues vary wildly. Eigenvalues repel each other and lie more evenly than independent numbers, so that
          the test accepts too often and rejects too rarely: it does not tell the exponential from the power law in
          a tail of tens.
References  A. Dekkers, J. Einmahl, L. de Haan, A moment estimator for the index of an extreme-value distribution, 1989.
            A. Clauset, C. Shalizi, M. Newman, Power-law distributions in empirical data, 2009, arXiv 0706.1062.
            Q. Vuong, Likelihood ratio tests for model selection and non-nested hypotheses, 1989.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spectra.marchenko_pastur import fit_mp, mp_cdf, mp_density
from sciml.validation import check_number

__all__ = ["TailComparison", "hill_tail", "moment_estimator", "tail_p_value", "tail_vs_mp"]

_FEWEST = 2  # eigenvalues above the threshold that tell anything


def hill_tail(eigenvalues, fraction=0.1):
    r"""Return Hill's exponent of the largest eigenvalues.

    .. math:: \alpha = 1 + k \Big/ \sum_{j \le k} \ln \frac{\lambda_{(j)}}{\lambda_{(k + 1)}}, \quad
              k = \lfloor fraction \cdot N \rfloor

    Here the threshold is the first eigenvalue below the tail, as in the literature on extremes; the half-Hill exponent
    of a layer counts its threshold as one of the tail.

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Not negative, in any order.
    fraction : float
        Share of the eigenvalues in the tail, between 0 and 1; 0.1 by default. 0.05, 0.1 and 0.2 together show whether
        there is a plateau.

    Returns
    -------
    float
        Exponent of the density, dimensionless; nan with fewer than 2 eigenvalues in the tail or a threshold of 0,
        infinite where the tail is constant.

    Raises
    ------
    InvalidInputError
        For eigenvalues that are negative or not finite, or a fraction outside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.tails import hill_tail
    >>> round(hill_tail(np.arange(0.5, 1000) ** -1.0, 0.1), 2)  # quantiles of a power law of exponent 2
    2.0
    """
    logs = _log_excesses(eigenvalues, fraction)
    if logs is None:
        return math.nan
    return 1 + 1 / float(logs.mean()) if logs[0] > 0 else math.inf


def moment_estimator(eigenvalues, fraction=0.1):
    r"""Return the exponent of the largest eigenvalues by the moment estimator of Dekkers, Einmahl and de Haan.

    .. math:: \alpha = 1 + 1 / \gamma, \quad \gamma = M_1 + 1 - \tfrac12 (1 - M_1^2 / M_2)^{-1}

    Unlike Hill's it can say that there is no power law: gamma is then 0 or below.

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Not negative, in any order.
    fraction : float
        Share of the eigenvalues in the tail, between 0 and 1; 0.1 by default.

    Returns
    -------
    float
        Exponent of the density, dimensionless; infinite where the tail is no heavier than an exponential, nan with
        fewer than 2 eigenvalues in the tail or a threshold of 0.

    Raises
    ------
    InvalidInputError
        For eigenvalues that are negative or not finite, or a fraction outside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.tails import moment_estimator
    >>> round(moment_estimator(np.arange(0.5, 10000) ** -1.0, 0.1), 1)  # quantiles of a power law of exponent 2
    2.0
    >>> moment_estimator(np.linspace(0, 1, 1000))  # bounded: no power law
    inf
    """
    logs = _log_excesses(eigenvalues, fraction)
    if logs is None:
        return math.nan
    first, second = float(logs.mean()), float((logs**2).mean())
    # Equal logarithms: the tail is one point, and second = first^2.
    spread = 1 - first**2 / second if second > 0 else 0.0
    index = first + 1 - 0.5 / spread if spread > 0 else -math.inf
    return 1 + 1 / index if index > 0 else math.inf


def tail_p_value(eigenvalues, fit=None, *, n_draws=200, random_state=0):
    """Return how often a power law with this fit would look less like one than the eigenvalues do.

    The semi-parametric bootstrap of Clauset, Shalizi and Newman (section 4.1): below the threshold numbers are drawn
    from the eigenvalues themselves, above it from the fitted law; each draw is fitted anew, threshold and all.

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Not negative; zeros are left out.
    fit : PowerLawFit or None
        The fit to test, with `alpha`, `xmin` and `distance`; None (the default) makes it.
    n_draws : int
        Draws; 200 by default, which gives a standard error of at most 0.035.
    random_state : None, int or numpy.random.Generator
        0 by default, so that a diagnosis is repeatable.

    Returns
    -------
    float
        Share of the draws with a distance at least that of the eigenvalues; below 0.1 the power law is doubtful. nan
        where nothing could be fitted.

    Raises
    ------
    InvalidInputError
        For eigenvalues that are negative or not finite, or fewer than 1 draw.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.tails import tail_p_value
    >>> power = np.random.default_rng(0).pareto(1.5, 200) + 1
    >>> tail_p_value(power, n_draws=50) > 0.1
    True
    """
    from sciml.stats.spectra.power_law import fit_powerlaw

    values = _sorted(eigenvalues)
    values = values[values > 0]
    n_draws = check_number("n_draws", n_draws, low=1, integer=True)
    rng = generator(random_state)
    fit = fit_powerlaw(values) if fit is None else fit
    if not (np.isfinite(fit.alpha) and np.isfinite(fit.distance) and fit.alpha > 1):
        return math.nan
    below = int(np.searchsorted(values, fit.xmin))
    more = 0
    for _ in range(n_draws):
        low = rng.binomial(len(values), below / len(values))
        high = fit.xmin * rng.random(len(values) - low) ** (-1 / (fit.alpha - 1))
        draw = np.concatenate([rng.choice(values[:below], low) if low else [], high])
        more += fit_powerlaw(draw).distance >= fit.distance
    return more / n_draws


@dataclass(frozen=True)
class TailComparison:
    """A power law against noise, above a threshold.

    Parameters
    ----------
    log_ratio : float
        Log-likelihood of the power law less that of noise; above 0 the power law is nearer.
    normalised : float
        The same over its standard deviation: beyond 2 the sign is to be trusted.
    p_value : float
        Of a sign so clear by chance, two-sided.
    n_tail : int
        Eigenvalues above the threshold.

    Examples
    --------
    >>> from sciml.stats.spectra.tails import TailComparison
    >>> TailComparison(12.0, 3.0, 0.0027, 80).normalised
    3.0
    """

    log_ratio: float
    normalised: float
    p_value: float
    n_tail: int


def tail_vs_mp(eigenvalues, shape, xmin=None, alpha=None):
    r"""Compare a power law with the noise of Marchenko and Pastur as the law of the eigenvalues above a threshold.

    .. math:: R = \sum_{\lambda_j \ge x} \ln \frac{(\alpha - 1) x^{\alpha - 1} \lambda_j^{-\alpha}}
              {p(\lambda_j) / (1 - F(x))}, \qquad R / (s \sqrt{K}) \sim N(0, 1)

    with s the standard deviation of the K terms (Vuong). The noise is that of :func:`fit_mp`. It has no eigenvalues
    beyond its edge, and one of them would rule it out; so its density p / (1 - F) is mixed with an even one from the
    threshold to the largest eigenvalue, in the share epsilon = (beyond + 1/2) / (K + 1).

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Of the smaller Gram matrix of W, not negative.
    shape : (int, int)
        Rows and columns of W, in either order.
    xmin : float or None
        Threshold, in the units of the eigenvalues; None (the default) takes that of the fit of a power law.
    alpha : float or None
        Exponent of the density above the threshold, above 1; None (the default) is the likeliest.

    Returns
    -------
    TailComparison
        With nan where the threshold leaves fewer than 2 eigenvalues or noise cannot be fitted.

    Raises
    ------
    InvalidInputError
        For eigenvalues that are negative, not finite or too many for the shape, a threshold that is not positive, or an
        exponent not above 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.tails import tail_vs_mp
    >>> W = np.random.default_rng(0).standard_normal((150, 300))
    >>> lam = np.linalg.eigvalsh(W @ W.T)
    >>> tail_vs_mp(lam, W.shape, xmin=np.median(lam)).normalised < -2
    True
    """
    values = _sorted(eigenvalues)
    noise = fit_mp(values, shape)
    if xmin is None:
        from sciml.stats.spectra.power_law import fit_powerlaw

        xmin = fit_powerlaw(values).xmin if values.max(initial=0) > 0 else math.nan
    elif alpha is not None:
        alpha = check_number("alpha", alpha, low=1, inclusive="high")
    if not math.isnan(xmin):
        xmin = check_number("xmin", xmin, low=0, inclusive="high")
    tail = values[values >= xmin]
    if len(tail) < _FEWEST or not tail[-1] > xmin or math.isnan(noise.sigma_mp):
        return TailComparison(math.nan, math.nan, math.nan, len(tail))
    excess = np.log(tail / xmin)
    alpha = 1 + 1 / excess.mean() if alpha is None else alpha
    power = math.log((alpha - 1) / xmin) - alpha * excess
    terms = power - np.log(_noise_density(tail, xmin, shape, noise))
    spread = float(terms.std())
    ratio = float(terms.sum())
    normalised = ratio / (spread * math.sqrt(len(terms))) if spread > 0 else math.copysign(math.inf, ratio)
    return TailComparison(ratio, normalised, float(scipy.special.erfc(abs(normalised) / math.sqrt(2))), len(tail))


def _noise_density(tail, xmin, shape, noise):
    """Return the density of noise above the threshold, mixed with an even one."""
    m, n = min(shape) - noise.num_spikes, max(shape) - noise.num_spikes
    rest = 1 - mp_cdf(xmin, m / n, n * noise.sigma_mp**2)
    inside = mp_density(tail, m / n, n * noise.sigma_mp**2)
    share = (int((inside == 0).sum()) + 0.5) / (len(tail) + 1)
    even = 1 / (tail[-1] - xmin)
    return (1 - share) * inside / rest + share * even if rest > 0 else np.full(len(tail), even)


def _log_excesses(eigenvalues, fraction):
    """Return ln(lambda / threshold) of the tail, largest first; None where there is no tail."""
    values = _sorted(eigenvalues)
    fraction = check_number("fraction", fraction, low=0, high=1, inclusive="neither")
    k = int(fraction * len(values))
    if k < _FEWEST or not values[len(values) - k - 1] > 0:
        return None
    return np.log(values[: len(values) - k - 1 : -1] / values[len(values) - k - 1])


def _sorted(eigenvalues):
    """Return the eigenvalues in ascending order, clipped at 0."""
    values = np.asarray(eigenvalues.detach().cpu() if hasattr(eigenvalues, "detach") else eigenvalues, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InvalidInputError(
            f"eigenvalues must be a vector of finite numbers; got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} that are not. Leave these out."
        )
    values = np.sort(values)
    if len(values) and values[0] < -1e-6 * abs(values[-1]):
        raise InvalidInputError(
            f"eigenvalues must not be below 0; got {values[0]:g}. They are squares of singular values of W."
        )
    return np.maximum(values, 0)
