r"""How many clusters: mixtures with 1, 2, ... of them, compared by a criterion.

.. math:: \mathrm{BIC} = -2 \log L + \Big(K - 1 + K p + d_W + \tfrac{p(p+1)}2 \sum_k \tfrac{n_k}{n_k + \nu}\Big) \log n,
          \qquad \mathrm{ICL} = \mathrm{BIC} + 2 \cdot \text{entropy}

A covariance that its prior of strength nu mostly decides is not counted as free. The third criterion needs no count:
the sum of the leave-one-out predictive densities, which takes more clusters than the others do.

Notation  p features, K clusters, n_k points in cluster k, nu strength of the prior, d_W free numbers of its centre.
Cost      a search for each number, on at most some thousand rows.
Pitfalls  where clusters have about as many points as features every criterion errs; fewer than 5 K p points bring a
          warning.
References  C. Biernacki, G. Celeux, G. Govaert, Assessing a mixture model for clustering with the integrated completed
          likelihood, 2000. C. Fraley, A. Raftery, How many clusters?, 1998.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from sciml import progress as _progress
from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.random import generator
from sciml.results import Result, array
from sciml.stats.clustering.door import open_problem
from sciml.stats.clustering.mixture_route import fit_mixture, mixture_of
from sciml.stats.clustering.portfolio import PRIORS, Options
from sciml.validation import check_number, check_option

__all__ = ["NumberOfClusters", "select_n_clusters"]

CRITERIA = ("bic", "icl", "predictive")
# Without a range, numbers are tried until the criterion has not fallen so many times in a row.
_PATIENCE, _MOST = 3, 30


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class NumberOfClusters(Result):
    """What `select_n_clusters` returns.

    Parameters
    ----------
    n_clusters : int
        The number with the smallest criterion.
    criterion : str
        Which one.
    report : list of dict
        Structure and start of the mixture of each number.

    Examples
    --------
    >>> NumberOfClusters(numbers=[1, 2], bic=[9.0, 5.0], icl=[9.0, 5.5], predictive=[8.0, 6.0], n_clusters=2).n_clusters
    2
    """

    numbers: np.ndarray = array("candidate", help="numbers of clusters that were tried")
    bic: np.ndarray = array("candidate", help="Bayesian information criterion, smaller is better")
    icl: np.ndarray = array("candidate", help="integrated completed likelihood criterion, smaller is better")
    predictive: np.ndarray = array("candidate", help="minus twice the leave-one-out predictive score")
    n_clusters: int = 1
    criterion: str = "bic"
    report: list = field(default_factory=list)

    def coords(self):
        """Return the numbers as coordinates of the candidates."""
        return {"candidate": self.numbers}


def select_n_clusters(
    X,
    range=None,
    criterion="bic",
    *,
    sample_weight=None,
    covariance_prior="auto",
    noise=False,
    random_state=None,
    progress=None,
):
    """Return how many clusters data have, by a criterion, and the criterion of every number.

    Parameters
    ----------
    X : array, shape (n, p)
        Points.
    range : iterable of int or None
        Numbers to try. None, the default: 1, 2, ..., until the criterion has not improved for three, at most 30.
    criterion : {"bic", "icl", "predictive"}
        "bic", the default; "icl" wants clusters apart; "predictive" counts nothing and takes the best prediction.
    sample_weight : array, shape (n,), or None
        As for `cluster`.
    covariance_prior : str
        As for `cluster`; "auto" by default.
    noise : bool
        As for `cluster`; False by default.
    random_state : None, int or numpy.random.Generator
        As for `cluster`.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    NumberOfClusters

    Raises
    ------
    InvalidInputError
        If a number is below 1 or above that of the points, or the criterion is unknown.

    Warns
    -----
    FallbackWarning
        If the number found leaves fewer than 5 K p points.

    References
    ----------
    C. Biernacki, G. Celeux, G. Govaert, Assessing a mixture model for clustering with the integrated completed
    likelihood, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering import select_n_clusters
    >>> X = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0, 0], [9, 0], [0, 9]], 20, axis=0)
    >>> select_n_clusters(X, (2, 3, 4), random_state=0).n_clusters
    3
    """
    check_option("criterion", criterion, CRITERIA)
    check_option("covariance_prior", covariance_prior, PRIORS)
    rng = generator(random_state)
    problem = open_problem(X, "auto", sample_weight)
    m = len(problem.rows)
    if range is None:
        numbers, patient = list(np.arange(1, min(_MOST, m) + 1)), True
    else:
        numbers, patient = [_check(K, m) for K in range], False
        if not numbers:
            raise InvalidInputError("range must hold at least one number of clusters; got none.")
    rows, best, since = [], np.inf, 0
    bar = _progress.bar(len(numbers), desc="select_n_clusters", progress=progress)
    try:
        for K in numbers:
            rows.append(_row(problem, int(K), rng, covariance_prior, noise))
            bar.update()
            since = 0 if rows[-1][criterion] < best else since + 1
            best = min(best, rows[-1][criterion])
            if patient and since >= _PATIENCE:
                break
    finally:
        bar.close()
    chosen = min(rows, key=lambda row: row[criterion])["n_clusters"]
    n, p = float(problem.counts.sum()), problem.rows.shape[1]
    if n < 5 * chosen * p and chosen > 1:
        warnings.warn(
            f"n_clusters={chosen} was chosen by {criterion!r} from {n:g} points with {p} features, fewer than 5 K p = "
            f"{5 * chosen * p}: the number is uncertain. Reduce the features first, or pass n_clusters.",
            FallbackWarning,
            stacklevel=2,
        )
    return NumberOfClusters(
        **{key: np.array([row[key] for row in rows]) for key in ("bic", "icl", "predictive")},
        numbers=np.array([row["n_clusters"] for row in rows]),
        n_clusters=int(chosen),
        criterion=criterion,
        report=[{key: row[key] for key in ("n_clusters", "structure", "start")} for row in rows],
        status="converged",
        settings={"criterion": criterion, "covariance_prior": covariance_prior, "noise": bool(noise)},
    )


def _check(K, m):
    K = check_number("range", K, low=1, integer=True)
    if m < K:
        raise InvalidInputError(f"range must hold numbers of at most the {m} different rows of X; got {K}.")
    return K


def _row(problem, K, rng, prior, noise):
    """The criteria of one number of clusters."""
    from sciml.stats.clustering.solve import free_parameters, judged

    options = Options(prior=prior, noise=bool(noise), n_init=5, moves=2)
    found, sample, projection, _ = fit_mixture(problem.rows, problem.counts, K, rng, options)
    mixture = mixture_of(found.prediction, sample, found.noise, projection=projection)
    _, _, _, loglik, entropy = judged(problem, mixture, "em", found.noise)
    n = float(problem.counts.sum())
    bic = -2 * loglik + free_parameters(mixture, found.structure) * np.log(n)
    return {
        "n_clusters": K,
        "bic": bic,
        "icl": bic + 2 * entropy,
        "predictive": -2 * mixture.score,
        "structure": found.structure,
        "start": found.start,
    }
