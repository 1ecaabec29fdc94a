r"""The front doors: `cluster`, and its two methods `ila_sdp` and `kmeans_sdp`.

Cost      the search runs on at most some thousand rows; what is linear in n are a few passes over all rows.
Pitfalls  what is certified are labels for the covariances that are returned, not the choice of both together.
"""

from __future__ import annotations

import math
import warnings

import torch

from sciml._config import resolve
from sciml._versions import versions
from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.random import generator
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.certificates import certify as certify_labels
from sciml.stats.clustering.door import open_problem, renumber
from sciml.stats.clustering.kmeans_route import fit_partition
from sciml.stats.clustering.low_rank import factorise, start_factor
from sciml.stats.clustering.mixture_route import fit_mixture, mixture_of, singletons
from sciml.stats.clustering.portfolio import PRIORS, Options
from sciml.stats.clustering.result import ClusterResult
from sciml.stats.clustering.selection import CRITERIA
from sciml.stats.clustering.sketch_bound import sketch_bound
from sciml.validation import check_number, check_option

__all__ = ["cluster", "ila_sdp", "kmeans_sdp"]

METHODS = ("ila-sdp", "kmeans-sdp")
_CERTIFY = ("auto", "dense", "matrix-free", "sketch")
_INIT = ("auto", "kmeans", "kmeans-standard", "ward", "ward-standard", "random")
_KMEANS_INIT = ("auto", "kmeans", "ward", "random")
# Below this the relaxation at the final covariances is solved as well, to report its value.
_RELAX = 1000
# Points for which a bound takes about a second; beyond the other number samples of the rows give an estimate.
_CHEAP, _SKETCH = 1500, 100_000


def cluster(
    X,
    n_clusters,
    *,
    method="ila-sdp",
    certify="auto",
    noise=False,
    sample_weight=None,
    random_state=None,
    init="auto",
    covariance_prior="auto",
    prior_strength=None,
    refine="em",
    rank=None,
    n_init=10,
    reduce="auto",
    tol=None,
    max_iter=300,
    criterion="bic",
    device=None,
    memory=None,
    on_failure=None,
    progress=None,
):
    r"""Divide points into clusters, and say how far the labels are from the best ones.

    "ila-sdp" takes clusters for Gaussian with covariances of their own, "kmeans-sdp" for round and alike:

    .. math:: \min_G \sum_k \sum_{i \in G_k} \big(|x_i - \bar x_k|^2_{\Sigma_k^{-1}} + \log\det \Sigma_k\big)
              \qquad\text{or}\qquad \min_G \sum_k \sum_{i \in G_k} |x_i - \bar x_k|^2 .

    Parameters
    ----------
    X : array, shape (n, p)
        Points, a row each: NumPy, torch, xarray or a data frame. Units are free: no answer depends on them.
    n_clusters : int or "auto"
        K. "auto" tries 1, 2, ... and takes the best by `criterion`; see `select_n_clusters`.
    method : {"ila-sdp", "kmeans-sdp"}
        "ila-sdp", the default, unless clusters are known to be round and of one size.
    certify : bool, "auto", "dense", "matrix-free" or "sketch"
        Whether and how to bound what the best labels cost from below; "auto", the default: where it takes about a
        second, and by samples of the rows beyond 1e5 points. True: in any case; the others: so. See `optimality_gap`.
    noise : bool
        Whether outliers get the label -1; False by default: every point belongs to a cluster, though a component for
        outliers is fitted where the data ask for it. "ila-sdp" only.
    sample_weight : array, shape (n,), or None
        How often each row counts, not below 0; rows of weight 0 are labelled, but not looked at. Weights that sum to
        less than the number of rows are scaled up to it. None, the default: ones.
    random_state : None, int or numpy.random.Generator
        Draws starts and sketches; the same int gives the same answer. None, the default: other draws every time.
    init : {"auto", "kmeans", "kmeans-standard", "ward", "ward-standard", "random"} or array of int, shape (n,)
        Labels to start from: "auto", the default, all that are known; "-standard" in units of the standard deviations
        of the columns.
    covariance_prior : {"auto", "pooled", "diag", "spherical", "none"}
        Shape of what the covariances are drawn to: any, diagonal, or round; "auto", the default, takes the one that
        predicts best; "none": nothing, for many points a cluster. "ila-sdp" only.
    prior_strength : float or None
        How many points the prior counts for; None, the default: estimated by maximal marginal likelihood.
    refine : {"em", "cem", None}
        What follows the relaxation: soft steps (the default), hard ones, or none. "ila-sdp" only.
    rank : int or None
        Columns of the factors of the relaxation; None, the default: 3 for each cluster, 2 K for "kmeans-sdp".
    n_init : int
        Runs of k-means among the starts; 10 by default.
    reduce : {"auto", None} or int
        Number of principal components to cluster in; "auto", the default: all features up to 80, else at most 50
        components; None: no reduction. "ila-sdp" only.
    tol : float or None
        Bound on the mean change of the memberships in the last step, or on residual and stationarity of the relaxation
        for "kmeans-sdp"; None, the default: 1e-3, or 1e-5 where a bound is computed for "kmeans-sdp".
    max_iter : int
        Steps of the last refinement; 300 by default. "ila-sdp" only.
    criterion : {"bic", "icl", "predictive"}
        For ``n_clusters="auto"``; "bic" by default.
    device : str, torch.device or None
        Where to compute; None, the default: where the data are.
    memory : int, float, str or None
        Bytes that the certificate may take; None (the default) asks the configuration.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when a tolerance was not met; None (the default) asks the configuration, which warns by default.
    progress : bool or None
        Show a bar where many numbers of clusters are tried; None (the default) asks the configuration.

    Returns
    -------
    ClusterResult
        Labels, memberships, means, covariances; objective, lower bound, gap and whether the labels are certified.
        Computed in float64, whatever the precision of the data, and returned so.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule.
    ConvergenceError
        If a tolerance was not met and `on_failure` is "raise".

    Warns
    -----
    FallbackWarning
        If there are fewer different rows than clusters, or too few points for the covariances asked for.
    ConvergenceWarning
        If a tolerance was not met and `on_failure` is "warn".

    Notes
    -----
    Labels are those of the largest posterior probability, proportions included; the objective, and with it the
    certificate, is that of the classification likelihood without proportions.

    References
    ----------
    Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs for clustering heterogeneous data, 2023,
    arXiv 2209.15097.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering import cluster
    >>> rng = np.random.default_rng(0)
    >>> long, round = rng.normal(size=(60, 2)) * [9, 0.5], rng.normal(size=(60, 2)) + [0, 6]
    >>> res = cluster(np.concatenate([long, round]), 2, random_state=0)
    >>> np.bincount(res.labels).tolist(), res.certified
    ([60, 60], True)
    """
    check_option("method", method, METHODS)
    common = {"sample_weight": sample_weight, "certify": certify, "random_state": random_state, "init": init}
    common |= {"n_init": n_init, "rank": rank, "tol": tol, "device": device, "memory": memory}
    common |= {"on_failure": on_failure, "progress": progress, "criterion": criterion}
    if method == "kmeans-sdp":
        given = {"noise": (noise, False), "covariance_prior": (covariance_prior, "auto"), "refine": (refine, "em")}
        given |= {"prior_strength": (prior_strength, None), "reduce": (reduce, "auto"), "max_iter": (max_iter, 300)}
        for name, (value, default) in given.items():
            # 0 equals False.
            if value is not default and (value != default or isinstance(default, bool)):
                raise InvalidInputError(
                    f"{name} must be left alone for method='kmeans-sdp', which has one metric for all clusters, no "
                    f"component for outliers and no refinement by mixtures; got {value!r}. Use method='ila-sdp'."
                )
        return kmeans_sdp(X, n_clusters, **common)
    return ila_sdp(
        X,
        n_clusters,
        **common,
        noise=noise,
        covariance_prior=covariance_prior,
        prior_strength=prior_strength,
        refine=refine,
        reduce=reduce,
        max_iter=max_iter,
    )


def ila_sdp(
    X,
    n_clusters,
    *,
    sample_weight=None,
    init="auto",
    covariance_prior="auto",
    prior_strength=None,
    rank=None,
    refine="em",
    n_init=10,
    certify="auto",
    noise=False,
    reduce="auto",
    tol=None,
    max_iter=300,
    criterion="bic",
    random_state=None,
    device=None,
    memory=None,
    on_failure=None,
    progress=None,
):
    """Divide points into Gaussian clusters with covariances of their own; see `cluster` for all parameters.

    Parameters
    ----------
    X : array, shape (n, p)
        Points.
    n_clusters : int or "auto"
        K.
    sample_weight, init, covariance_prior, prior_strength, rank, refine, n_init, certify, noise, reduce, tol, max_iter
        As for `cluster`.
    criterion, random_state, device, memory, on_failure, progress
        As for `cluster`.

    Returns
    -------
    ClusterResult

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering import ila_sdp
    >>> ila_sdp(np.array([[0.0], [0.1], [0.2], [7.0], [8.0], [9.0]]), 2, random_state=0).labels
    array([0, 0, 0, 1, 1, 1])
    """
    rng = generator(random_state)
    check_option("covariance_prior", covariance_prior, PRIORS)
    if refine is not None:
        check_option("refine", refine, ("em", "cem"))
    if prior_strength is not None:
        prior_strength = check_number("prior_strength", prior_strength, low=0)
    _check_common(init, _INIT, n_init, rank, certify, criterion, on_failure)
    if noise not in (True, False):
        raise InvalidInputError(f"noise must be True or False; got {noise!r}. Pass True or False.")
    tol = 1e-3 if tol is None else check_number("tol", tol, low=0)
    max_iter = check_number("max_iter", max_iter, low=1, integer=True)
    if reduce is not None and reduce != "auto":
        reduce = check_number("reduce", reduce, low=1, integer=True)
    if isinstance(n_clusters, str):
        options = {"sample_weight": sample_weight, "covariance_prior": covariance_prior, "noise": noise}
        n_clusters = _choose(X, n_clusters, criterion, rng, progress, device, options)
    problem = open_problem(X, n_clusters, sample_weight, device)
    K = problem.n_clusters
    _warn_of_few(problem, covariance_prior)
    options = Options(
        prior=covariance_prior,
        strength=prior_strength,
        refine="cem" if refine == "cem" else "em",
        noise=bool(noise),
        n_init=n_init,
        moves=0 if refine is None else 5,
    )
    search = _singletons if len(problem.rows) == K else _searched
    mixture, history, change, report = search(problem, rng, options, init, rank, reduce, max_iter, refine)
    status = Status.CONVERGED if change <= tol else Status.MAX_ITER
    # A component for outliers that nobody asked for keeps them out of the covariances, not out of the clusters.
    shown = {"noise_proportion": mixture.noise_proportion, "noise_log_density": mixture.noise_log_density}
    if not mixture.noise_proportion or not noise:
        shown = {}
    result = judged(problem, mixture, refine, bool(shown))
    labels, membership, outside, loglik, entropy = result
    labels, order = renumber(problem, labels, K)
    mixture = mixture.ordered(order)
    objective, about = _certified(problem, labels, mixture.covariances, certify, memory, rng)
    dof = free_parameters(mixture, report["structure"])
    log_n = math.log(float(problem.counts.sum()))
    bic = -2 * loglik + dof * log_n
    report["free_parameters"] = dof
    history = {key: row for key, row in history.items() if key in ("objective", "criterion")}
    steps = len(next(iter(history.values()))) - 1 if history else 0
    result = _result(
        problem,
        labels,
        membership[:, order],
        mixture,
        method="ila-sdp",
        assignment="likelihood" if refine == "cem" else "posterior",
        objective=objective,
        outside=outside if noise else None,
        log_likelihood=loglik,
        bic=bic,
        icl=bic + 2 * entropy,
        status=status,
        n_iter=steps,
        history=history,
        report=report,
        settings=_settings(
            "ila-sdp", random_state, covariance_prior=covariance_prior, noise=bool(noise), refine=refine
        ),
        **shown,
        **about,
    )
    _say(
        result,
        f"ila_sdp stopped with memberships still changing by {change:.1e}, tol={tol:.0e}; "
        + ("raise max_iter" if refine else "refine='em' goes on from there"),
        on_failure,
    )
    return result


def kmeans_sdp(
    X,
    n_clusters,
    *,
    sample_weight=None,
    init="auto",
    solver="auto",
    rank=None,
    n_init=10,
    certify="auto",
    tol=None,
    criterion="bic",
    random_state=None,
    device=None,
    memory=None,
    on_failure=None,
    progress=None,
):
    """Divide points into clusters with the smallest sum of squares; see `cluster` for the parameters.

    Parameters
    ----------
    X : array, shape (n, p)
        Points.
    n_clusters : int or "auto"
        K.
    solver : {"auto", "low-rank", "exact"}
        Of the relaxation: "exact" is for a few hundred points, and gives its value to six digits; "auto", the
        default, is "low-rank".
    sample_weight, init, rank, n_init, certify, tol, criterion, random_state, device, memory, on_failure, progress
        As for `cluster`.

    Returns
    -------
    ClusterResult

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering import kmeans_sdp
    >>> res = kmeans_sdp(np.array([[0.0], [1.0], [9.0], [10.0]]), 2, random_state=0)
    >>> res.labels, round(res.objective, 9), res.certified
    (array([0, 0, 1, 1]), 1.0, True)
    """
    rng = generator(random_state)
    check_option("solver", solver, ("auto", "low-rank", "exact"))
    _check_common(init, _KMEANS_INIT, n_init, rank, certify, criterion, on_failure)
    if isinstance(n_clusters, str):
        options = {"sample_weight": sample_weight, "covariance_prior": "spherical", "noise": False}
        n_clusters = _choose(X, n_clusters, criterion, rng, progress, device, options)
    problem = open_problem(X, n_clusters, sample_weight, device)
    K = problem.n_clusters
    if rank is not None and rank < K:
        raise InvalidInputError(
            f"rank must be at least n_clusters={K} for kmeans_sdp, since labels have that rank; got {rank}. Leave it "
            "at None, which is 2 K."
        )
    wanted = certify is True or certify in ("dense", "exact") or (certify == "auto" and len(problem.rows) <= _RELAX)
    tol = (1e-5 if wanted and len(problem.rows) <= _RELAX else 1e-3) if tol is None else check_number("tol", tol, low=0)
    found = fit_partition(
        problem.rows,
        problem.counts,
        K,
        rng,
        n_init=n_init,
        rank=rank,
        tol=tol,
        init=_labels(init, problem),
        exact=solver == "exact",
    )
    labels, order = renumber(problem, found.labels, K)
    mixture = found.mixture(problem.rows, problem.counts).ordered(order)
    objective, about = _certified(problem, labels, None, certify, memory, rng, relaxed=found.relaxed)
    about["relaxed_objective"] = found.relaxed
    solved = found.solution
    status = Status.CONVERGED if solved is None else solved.status
    history = {} if solved is None else {"criterion": solved.history["criterion"]}
    if solved is not None:
        history["objective"] = Affinity(problem.rows, K, None, problem.counts).to_objective(solved.history["value"])
    result = _result(
        problem,
        labels,
        found.membership[:, order],
        mixture,
        method="kmeans-sdp",
        assignment="nearest",
        objective=objective,
        status=status,
        n_iter=0 if solved is None else solved.n_iter,
        history=history,
        report={"candidates": found.candidates, "rows_searched": found.rows},
        settings=_settings("kmeans-sdp", random_state, solver=solver, tol=tol),
        **about,
    )
    criterion_at = history["criterion"].min() if solved is not None else 0.0
    _say(result, f"kmeans_sdp stopped with criterion {criterion_at:.1e}, tol={tol:.0e}; loosen tol", on_failure)
    return result


def _searched(problem, rng, options, init, rank, reduce, max_iter, refine):
    """Mixture, history of the alternation, change of the last step and report of the search."""
    found, sample, projection, history = fit_mixture(
        problem.rows,
        problem.counts,
        problem.n_clusters,
        rng,
        options,
        init=_labels(init, problem),
        rank=3 if rank is None else rank,
        reduce=reduce,
        max_iter=max_iter,
        refine=refine is not None,
    )
    mixture = mixture_of(found.prediction, sample, found.noise, projection=projection)
    # A lift is a few passes by design: what must have settled is the search on the sketch.
    change = min(found.change, float(found.prediction.change[0]))
    if refine is None and history:
        change = float(history["criterion"][-1])
    report = {
        "structure": found.structure,
        "start": found.start,
        "prior_strength": mixture.strength,
        "noise_component": found.noise,
        "candidates": found.candidates,
        "rows_searched": found.rows,
        "features_used": sample.Z.shape[1],
    }
    return mixture, history, change, report


def _singletons(problem, rng, options, init, rank, reduce, max_iter, refine):
    """The same for as many clusters as there are different rows."""
    mixture = singletons(problem.rows, problem.counts)
    report = {"structure": "singletons", "start": "singletons", "prior_strength": 0.0, "noise_component": False}
    report |= {"candidates": [], "rows_searched": len(problem.rows), "features_used": problem.rows.shape[1]}
    return mixture, {}, 0.0, report


# ---------------------------------------------------------------- pieces of both


def _check_common(init, names, n_init, rank, certify, criterion, on_failure):
    check_option("criterion", criterion, CRITERIA)
    resolve("on_failure", on_failure)
    check_number("n_init", n_init, low=1, integer=True)
    if rank is not None:
        check_number("rank", rank, low=1, integer=True)
    if isinstance(init, str):
        check_option("init", init, names)
    if not isinstance(certify, bool):
        check_option("certify", certify, _CERTIFY)


def _choose(X, n_clusters, criterion, rng, progress, device, options):
    """The number of clusters by a criterion, on data checked here for the first time."""
    from sciml.stats.clustering.selection import select_n_clusters

    open_problem(X, n_clusters, options["sample_weight"], device)
    chosen = select_n_clusters(X, None, criterion=criterion, random_state=rng, progress=progress, **options)
    return chosen.n_clusters


def _labels(init, problem):
    """Labels to start from for the different rows; names stay as they are."""
    if isinstance(init, str):
        return init
    labels = torch.as_tensor(init if isinstance(init, torch.Tensor) else _integers(init))
    n = len(problem.data)
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        raise InvalidInputError(f"init must hold an integer for each of the {n} rows; got shape {tuple(labels.shape)}.")
    _, labels = torch.unique(labels.to(problem.rows.device), return_inverse=True)
    if int(labels.max()) >= problem.n_clusters:
        raise InvalidInputError(
            f"init must hold at most n_clusters={problem.n_clusters} different labels; got {int(labels.max()) + 1}."
        )
    out = torch.zeros(len(problem.rows), dtype=torch.int64, device=labels.device)
    kept = problem.inverse >= 0
    out[problem.inverse[kept]] = labels[kept]
    return out


def _integers(init):
    import numpy as np

    array = np.asarray(init)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(
            "init must be a name such as 'auto', or labels, an integer for each row; got an array of dtype "
            f"{array.dtype} and shape {array.shape}."
        )
    return array.astype(np.int64)


def _warn_of_few(problem, prior):
    """Say so where no covariance can be estimated without the prior."""
    n, p, K = float(problem.counts.sum()), problem.rows.shape[1], problem.n_clusters
    if prior == "none" and n < K * (p + 1):
        raise InvalidInputError(
            f"covariance_prior must not be 'none' for {n:g} points in {K} clusters with {p} features: their "
            "covariances are singular. Use 'auto' or 'pooled'."
        )


def judged(problem, mixture, refine, with_noise):
    """Labels, shares, shares of noise, log-likelihood and entropy of the different rows under the mixture."""
    from sciml.stats.clustering.mixture_route import log_joint

    joint = log_joint(mixture, problem.rows)
    if with_noise:
        level = math.log(mixture.noise_proportion) + mixture.noise_log_density
        joint = torch.cat([joint, joint.new_full((len(joint), 1), level)], 1)
    elif mixture.noise_proportion > 0:
        joint = joint - math.log1p(-mixture.noise_proportion)
    K = len(mixture.means)
    total = torch.logsumexp(joint, 1)
    shares = torch.exp(joint - total[:, None])
    scores = joint if refine != "cem" else joint - torch.nn.functional.pad(
        mixture.proportions.log(), (0, joint.shape[1] - K)
    )  # fmt: skip
    best = scores.argmax(1)
    labels = torch.where(best == K, -1, best)
    entropy = -float(problem.counts @ torch.special.xlogy(shares, shares).sum(1))
    return labels, shares[:, :K], shares[:, K] if with_noise else None, float(problem.counts @ total), entropy


def _certified(problem, labels, covariances, certify, memory, rng, relaxed=math.nan):
    """What the labels cost, and the fields about the bound."""
    kept = labels >= 0
    rows, counts, inner = problem.rows[kept], problem.counts[kept], labels[kept]
    if not len(rows):
        return math.nan, {}
    affinity = Affinity(rows, problem.n_clusters, covariances, counts)
    objective = float(affinity.objective(inner))
    method = certify if isinstance(certify, str) else "auto"
    if certify is False or (certify == "auto" and not _is_cheap(len(rows))):
        return objective, {}
    if method == "auto" and len(rows) > _SKETCH:
        method = "sketch"
    if method == "sketch":
        # Nobody asked for it: a few quick samples; with certify="sketch" more of them, and tighter.
        quick = {"samples": 4, "size": max(160, 20 * problem.n_clusters), "polish": False} if certify == "auto" else {}
        part = sketch_bound(affinity, inner, rng, covariances=covariances, **quick)
        return objective, {
            "lower_bound": part.bound,
            "gap": objective - part.bound,
            "bound_error": part.error,
            "certificate": "sketch estimate",
        }
    found = certify_labels(affinity, inner, method=method, memory=memory, rng=rng)
    about = {
        "lower_bound": found.bound,
        "gap": found.gap,
        "certified": found.certified,
        "bound_error": found.error,
        "certificate": found.method,
    }
    if covariances is not None:
        about["relaxed_objective"] = found.objective if found.certified else _relaxed(affinity, inner, rng)
    return objective, about


def _is_cheap(n):
    return n <= _CHEAP or n > _SKETCH


def _relaxed(affinity, labels, rng):
    """What the relaxation costs at the final covariances, for samples that are small enough."""
    if affinity.shape[1] > _RELAX:
        return math.nan
    solved = factorise(affinity, start_factor(affinity, labels, 4, rng), tol=1e-5, on_failure="ignore")
    return float(affinity.to_objective(solved.value))


def free_parameters(mixture, structure):
    """Parameters of the mixture, those of a covariance in the share that the data have in it."""
    K, p = mixture.means.shape
    own = mixture.counts / (mixture.counts + mixture.strength)
    common = {"full": p * (p + 1) / 2, "diagonal": p}.get(structure, 1)
    return K - 1 + K * p + float(own.sum()) * p * (p + 1) / 2 + common + (mixture.noise_proportion > 0)


def _result(problem, labels, membership, mixture, *, outside=None, **fields):
    """The answer for all rows of the data, in their kind."""
    leave, K = problem.leave, problem.n_clusters
    plain = ClusterResult(
        labels=labels,
        membership=membership,
        proportions=mixture.proportions / mixture.proportions.sum() if "noise_proportion" not in fields else
        mixture.proportions,
        means=mixture.means + problem.mean,
        covariances=mixture.covariances,
        noise_probability=outside,
        n_clusters=K,
        **{k: fields[k] for k in ("method", "assignment", "noise_proportion", "noise_log_density") if k in fields},
    )  # fmt: skip
    spread = problem.spread
    whole = {
        "labels": spread(labels, plain.predict),
        "membership": spread(membership, plain.predict_proba),
        "proportions": plain.proportions,
        "means": plain.means,
        "covariances": plain.covariances,
        "noise_probability": None if outside is None else spread(outside, lambda X: 1 - plain.predict_proba(X).sum(1)),
    }
    return ClusterResult(
        **{name: leave(value) for name, value in whole.items()}, n_clusters=K, features=problem.features, **fields
    )


def _settings(method, random_state, **options):
    seed = random_state if isinstance(random_state, int) else None
    return {"method": method, "random_state": seed, "dtype": "float64", "versions": versions(), **options}


def _say(result, text, on_failure):
    """Warn or raise where a tolerance was not met."""
    on_failure = resolve("on_failure", on_failure)
    if result.converged or on_failure == "ignore":
        return
    if on_failure == "raise":
        raise ConvergenceError(f"{text}.")
    warnings.warn(f"{text}.", ConvergenceWarning, stacklevel=4)
