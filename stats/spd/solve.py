r"""Classify trials of multichannel series, or covariance matrices, by Riemannian geometry: the front door.

.. math:: x \mapsto C(x) \mapsto z = \log_M C(x) \mapsto p = \operatorname{softmax}(W' z + b)

Descriptors (plain, lagged, with a time basis), geometries and penalties are compared by cross-validation; the few that
predict best are mixed, calibrated, and report what they cannot do.

Notation  N trials; n channels; k classes; V folds.
Cost      for each view N eigendecompositions of its matrices, times V where the reference moves with the fold, and
          V + 1 paths of logistic regressions: seconds to minutes for some hundred trials on one core; see
          ``python -m benchmarks bench_spd_trials``.
Pitfalls  trials of one person or session resemble one another: pass `groups`, or the stated accuracy is that for more
          trials of the same people. A new recording moves all covariances: pass `domains`.
References  A. Barachant et al., Multiclass brain-computer interface classification by Riemannian geometry, 2012.
            I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sciml._config import config_context, resolve
from sciml._versions import versions
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.iterate import run
from sciml.linalg.spd import canonical_metric
from sciml.random import generator
from sciml.stats.spd.calibration import CALIBRATIONS, calibrated, fit_calibration
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.distance_views import NearestMean, NearestNeighbours, distance_paths
from sciml.stats.spd.folds import grouped_folds, stratified_folds
from sciml.stats.spd.logistic import logistic_path, principal_axes
from sciml.stats.spd.result import FittedView, SPDResult, names_of, scaled
from sciml.stats.spd.screening import log_loss, mix, mixture_weights, recentre, screen_steps, second_round
from sciml.stats.spd.trials import as_trials
from sciml.stats.spd.views import TangentView, TrendView
from sciml.validation import check_number, check_option

__all__ = ["classify_spd"]

DESCRIPTORS = {
    "covariance": {},
    "mean": {"n_basis": 1},
    "time-basis": {"n_basis": 3},
    "augmented": {"order": 3, "lag": 1},
}
_CLASSIFIERS = {"tangent": TangentView, "mdm": NearestMean, "knn": NearestNeighbours}
_BASES = (0, 1, 3, 6, 10)
_LAGGED = ((0, 3, 1), (0, 2, 4), (1, 3, 1), (3, 3, 1), (0, 3, 10), (1, 3, 10), (1, 8, 2))  # polynomials, order, lag
_TRENDS = (1, 2, 3, 6, 10, 15)
_FINALISTS = 4
_STRONG = 1e3  # powers, in terms of the median, that are told of
_FLOPS = 1e9  # N d^3 of the largest descriptor that is tried unasked


def classify_spd(
    X,
    y,
    *,
    descriptor="auto",
    metric="auto",
    classifier="tangent",
    groups=None,
    domains=None,
    calibrate="sigmoid",
    cv=5,
    theta=1.0,
    kind="auto",
    random_state=0,
    time_budget=None,
    device=None,
    callback=None,
    on_failure=None,
    progress=None,
):
    r"""Fit a classifier of trials or covariance matrices, chosen by cross-validation among descriptors and geometries.

    Parameters
    ----------
    X : array, list, DataArray or Trials
        Trials of shape (n_trials, n_channels, n_times); a list of arrays (n_channels, T_i); an xarray.DataArray with
        dimensions trial, channel and time; or symmetric positive semidefinite matrices (n_trials, d, d). Any units:
        each channel is divided by its root mean square over the training trials, so that units decide nothing.
    y : array, shape (n_trials,)
        Labels: numbers or texts, at least two different ones, each at least twice.
    descriptor : "auto", str, Descriptor, or a sequence of these
        How a trial becomes a matrix: "covariance", "mean" (covariance and mean), "time-basis" (three slow polynomials
        of time), "augmented" (three windows one sample apart), "trend" (slow polynomials alone, linear, without a
        matrix), or a :class:`~sciml.stats.spd.Descriptor`. "auto", the default, tries time bases, lags and trends.
    metric : "auto", str, or a sequence of str
        Geometry of the matrices: "airm", "logeuclid", "bw", "logchol", "euclid" or an alias such as "riemann" and
        "wasserstein". "auto", the default, tries "logeuclid" on all descriptors, then "airm" and "bw" on the best.
    classifier : {"tangent", "mdm", "knn"}
        Logistic regression of tangent coordinates, the default; minimum distance to the mean of a class; or nearest
        neighbours.
    groups : array, shape (n_trials,), or None
        Persons or sessions: folds never tear one apart, so that all choices and the accuracy are for new ones. None,
        the default: for more trials of the same.
    domains : array, shape (n_trials,), or None
        Recordings whose covariances are moved against each other: each is whitened by its own mean, without labels. New
        ones need ``clf = clf.adapt(X, name)``. None, the default: none are.
    calibrate : {"sigmoid", "temperature", "none"}
        What is learned from out-of-fold probabilities: temperature and a shift for each class, the default; the
        temperature; or nothing.
    cv : int
        Folds; 5 by default. Fewer where classes or groups are too few. Each is a stretch of the trials of every class,
        in the order given: recordings drift, and neighbours would tell of each other.
    theta : float
        Power by which the geometry is deformed, from -10 to 10 but not 0; 1 by default.
    kind : {"auto", "series", "matrices"}
        What X holds; "auto", the default, takes symmetric square slices for matrices.
    random_state : None, int or numpy.random.Generator
        Decides between groups of equal size where they are put into folds; 0 by default, so that two calls agree.
        Without groups nothing is drawn: folds are stretches of neighbouring trials.
    time_budget : float or None
        Seconds after which no further view is begun; the rest is named in the report. None, the default: no limit,
        which alone makes the answer independent of the machine.
    device : None, str or torch.device
        Where matrix functions, means and logistic regressions are computed, such as "cuda"; None (the default) asks the
        configuration, which takes the CPU. Prediction asks the configuration alone.
    callback : callable or None
        ``callback(n_iter, step)`` after each view; ``step.value`` holds the candidates so far; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when a time budget ends the search early; None (the default) asks the configuration, which warns.
    progress : bool or None
        Show a bar; None (the default) asks the configuration, which is silent.

    Returns
    -------
    SPDResult
        With ``predict``, ``predict_proba``, ``predict_set``, ``score``, ``adapt``, ``cv_results``, ``report()``,
        ``plot()``, ``save(path)``. Ctrl-C returns the best of what was tried, with status STOPPED.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule, a value is not finite, a trial is all zero, y has one class, a class one trial,
        or descriptors do not fit the trials.
    InvalidTypeError
        If X or y is of no such type.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where `metric` cannot have that.

    Warns
    -----
    ConvergenceWarning
        If the time budget ended the search.

    Notes
    -----
    The accuracy of the report comes from choices made without the fold that judges them. See :mod:`screening
    <sciml.stats.spd.screening>`.

    References
    ----------
    A. Barachant, S. Bonnet, M. Congedo, C. Jutten, Multiclass brain-computer interface classification by Riemannian
    geometry, 2012. R. Bhatia, T. Jain, Y. Lim, On the Bures-Wasserstein distance between positive definite matrices,
    2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import classify_spd
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["rest", "move"], 20)
    >>> X = rng.normal(size=(40, 3, 100))
    >>> X[y == "move", 0] *= 2
    >>> clf = classify_spd(X, y, descriptor="covariance", metric="bw")
    >>> clf.predict(X[:2]).tolist(), clf.cv_accuracy
    (['rest', 'rest'], 1.0)
    """
    cv = _check_options(classifier, calibrate, cv, theta, time_budget, callback)
    place = resolve("device", device)
    trials = as_trials(X, kind=kind)
    named = hasattr(X, "dims") or hasattr(X, "channels")
    classes, codes = _labels(y, len(trials))
    groups = _names("groups", groups, len(trials))
    domains = _names("domains", domains, len(trials))
    rng = generator(random_state)
    folds = stratified_folds(codes, cv) if groups is None else grouped_folds(codes, groups, cv, rng)

    scale = _channel_scale(trials)
    trials = scaled(trials, scale)
    # Matrices and logistic regressions go to the device in float64; trials stay where they are.
    with config_context(dtype="float64", device=place):
        first, metrics_after, notes = _views(trials, descriptor, metric, classifier, theta)
        automatic = [isinstance(given, str) and given == "auto" for given in (descriptor, metric)]
        skipped = []
        steps = screen_steps(
            first,
            trials,
            codes,
            folds,
            domains=domains,
            time_budget=time_budget,
            chooser=None if classifier == "tangent" else distance_paths,
            more=(lambda found: _more(found, skipped, codes, metrics_after)) if metrics_after else None,
            skipped=skipped if any(automatic) else None,
        )
        with np.errstate(all="ignore"):
            searched = run(
                steps,
                name="classify_spd",
                tol=1e-12,
                max_iter=10_000,
                callback=callback,
                on_failure=on_failure,
                progress=progress,
            )
        candidates = list(searched.value)
        if not candidates:
            raise KeyboardInterrupt
        if not searched.converged:
            notes.append(f"the search ended early: {searched.reason}")
        notes += _strong_trials(trials)
        notes += [f"{view.label} was left out: {reason}" for view, reason in skipped]

        candidates.sort(key=lambda c: (round(log_loss(c.paths[c.choice], codes), 9), c.view.label))
        cv_log_proba = _honest(candidates, codes, folds, calibrate)
        P = np.stack([c.paths[c.choice] for c in candidates])
        weights = mixture_weights(P, codes)
        calibration = fit_calibration(mix(P, weights), codes, calibrate)
        chosen = [i for i in range(len(candidates)) if weights[i] > 0]
        views = [_final(candidates[i], trials, codes, domains) for i in chosen]
    right = cv_log_proba.argmax(1) == codes
    judged = f"{len(np.unique(folds[0]))} folds" + (f" x {len(folds)}" if len(folds) > 1 else "")
    judged += ", choices made without the fold"
    judged += ", groups kept whole: for new groups" if groups is not None else ""
    a, b = calibration[0], calibration[1:]
    return SPDResult(
        classes=classes,
        cv_proba=np.exp(cv_log_proba),
        cv_accuracy=float(right.mean()),
        cv_balanced_accuracy=float(np.mean([right[codes == c].mean() for c in range(len(classes))])),
        cv_log_loss=log_loss(np.exp(cv_log_proba), codes),
        channels=list(trials.channels),
        report_data={
            "n_trials": len(trials),
            "what": repr(trials)[1:-1].partition(" ")[2].partition(" ")[2],
            "counts": np.bincount(codes).tolist(),
            "judged_by": judged,
            "calibration": f"{calibrate}: inverse temperature {a:.2f}, largest shift {np.abs(b).max():.2f}",
            "table": _table(candidates, codes, weights),
            "notes": notes,
        },
        status=searched.status,
        n_iter=searched.n_iter,
        history=searched.history,
        settings={
            "method": "classify_spd",
            "descriptor": _plain_descriptor(descriptor),
            "metric": metric if isinstance(metric, str) else list(metric),
            "classifier": classifier,
            "calibrate": calibrate,
            "cv": cv,
            "theta": float(theta),
            "groups": groups is not None,
            "domains": domains is not None,
            "random_state": "generator" if isinstance(random_state, np.random.Generator) else random_state,
            "time_budget": time_budget,
            "dtype": "float64",
            "device": str(place),
            "versions": versions(),
        },
        _model={
            "views": views,
            "weights": weights[chosen],
            "calibration": calibration,
            "codes": codes,
            "scale": scale,
            "kind": trials.kind,
            "named": named,
        },
    )


def _check_options(classifier, calibrate, cv, theta, time_budget, callback):
    check_option("classifier", classifier, tuple(_CLASSIFIERS))
    check_option("calibrate", calibrate, CALIBRATIONS)
    cv = check_number("cv", cv, low=2, integer=True)
    if check_number("theta", theta, low=-10, high=10) == 0:
        raise InvalidInputError('theta must not be 0; got 0. The limit is metric="logeuclid".')
    if time_budget is not None:
        check_number("time_budget", time_budget, low=0)
    if callback is not None and not callable(callback):
        raise InvalidTypeError(f"callback must be a function of (n_iter, step); got {callback!r}. Leave it out.")
    return cv


def _listed(name, given, single):
    """Return one or several settings as a list."""
    if isinstance(given, single):
        return [given]
    if not isinstance(given, (list, tuple, np.ndarray)):
        raise InvalidTypeError(f"{name} must be one of its names or a list of these; got {given!r}.")
    if not len(given):
        raise InvalidInputError(f"{name} must name at least one; got an empty sequence.")
    return list(given)


def _labels(y, n):
    """Return the sorted labels and each trial's number among them."""
    y = y.values if hasattr(y, "dims") else y
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    y = np.asarray(y)
    if y.ndim != 1 or len(y) != n:
        remedy = " Pass y.ravel()." if y.size == n else ""
        raise InvalidInputError(f"y must have one label for each of {n} trials; got shape {y.shape}.{remedy}")
    if y.dtype.kind == "O":
        kinds = {type(label) for label in y.tolist()}
        if len(kinds) > 1:
            raise InvalidTypeError(
                f"y must hold labels of one type; got {sorted(kind.__name__ for kind in kinds)}. Fill missing labels."
            )
        y = np.array(y.tolist())
    if y.dtype.kind not in "biufUS":
        raise InvalidTypeError(f"y must hold numbers or texts; got dtype {y.dtype}.")
    if y.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(y))
        if len(bad):
            raise InvalidInputError(f"y must be finite; the label of trial {bad[0]} is {y[bad[0]]}. Remove the trial.")
        if (y != np.round(y)).any():
            raise InvalidInputError(
                f"y must hold classes; got {y[y != np.round(y)][0]}, which is no whole number. This is no regression."
            )
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInputError(f"y must have at least 2 classes; got one class only, {classes[0].item()!r}.")
    counts = np.bincount(codes)
    if counts.min() < 2:
        rare = classes[counts.argmin()]
        raise InvalidInputError(
            f"y must have at least 2 trials of every class; {rare.item()!r} has {counts.min()}. "
            "Leave it out, or record more."
        )
    return classes, codes


def _names(name, values, n):
    if values is None:
        return None
    names = names_of(name, values, n)
    if len({isinstance(value, str) for value in names}) > 1:
        raise InvalidTypeError(f"{name} must be all texts or all numbers; got {names[:3]}... Use str(...) on each.")
    return np.array(names)


def _channel_scale(trials):
    """Return the root mean square of each channel about its trial means, over all trials; ones for matrices."""
    if trials.kind == "matrices":
        return np.ones(trials.n_channels)
    # The largest value of each channel is taken out first, so that no square overflows or vanishes.
    top = np.max([np.abs(x).max((0, 2)) for _, x in trials.groups], axis=0)
    top = np.where(top > 0, top, 1.0)
    moves, levels, count = 0.0, 0.0, 0
    for _, x in trials.groups:
        x = x / top[:, None]
        mean = x.mean(2, keepdims=True)
        moves = moves + ((x - mean) ** 2).sum((0, 2))
        levels = levels + (mean**2).sum((0, 2))
        count += x.shape[0] * x.shape[2]
    scale, level = np.sqrt(moves / count), np.sqrt(levels / len(trials))
    # A channel that never moves within a trial is measured by its level; one that is always zero has no unit.
    scale = np.where(scale > 1e-12 * level, scale, level)
    return np.where(scale > 0, scale * top, 1.0)


def _strong_trials(trials):
    """Return a note on trials whose power is far beyond the others', or nothing."""
    if trials.kind == "matrices":
        power = np.trace(trials.matrices, axis1=1, axis2=2)
    else:
        power = np.empty(len(trials))
        for rows, x in trials.groups:
            power[rows] = x.var(2).mean(1)
    ratio = power / (np.median(power) or 1.0)
    strong = np.flatnonzero(ratio > _STRONG)
    if not len(strong):
        return []
    return [
        f"{len(strong)} trials have more than {_STRONG:g} times the median power, the first is number {strong[0]}: "
        "means and the geometries bw and euclid follow such trials; leave artefacts out"
    ]


def _views(trials, descriptor, metric, classifier, theta):
    """Return the views to try first, the geometries to try on the best, and notes for the report."""
    kind = _CLASSIFIERS[classifier]
    names = ("airm", "logeuclid", "bw", "logchol", "euclid")
    auto_metric = isinstance(metric, str) and metric == "auto"
    searching = isinstance(descriptor, str) and descriptor == "auto" and trials.kind == "series"
    if auto_metric:
        # Log-Euclidean features need no new reference in each fold, so that many descriptors are compared by them.
        metrics = ["logeuclid"] if searching else ["logeuclid", "airm", "bw"]
    else:
        # Aliases of one geometry are tried once.
        metrics = list(dict.fromkeys(canonical_metric(m, names) for m in _listed("metric", metric, str)))
    notes: list[str] = []
    if trials.kind == "matrices":
        if not (isinstance(descriptor, str) and descriptor in ("auto", "covariance")):
            if not isinstance(descriptor, Descriptor):
                raise InvalidInputError(
                    f'descriptor must be "auto" or "covariance" where X holds matrices; got {descriptor!r}. '
                    "Pass X of shape (n_trials, n_channels, n_times)."
                )
            chosen = [descriptor]
        else:
            chosen = [Descriptor(shrink=0.0)]
        trends: list[TrendView] = []
    elif searching:
        chosen, trends = _auto_descriptors(trials, notes)
        trends = trends if classifier == "tangent" else []
    else:
        listed = _listed("descriptor", descriptor, (str, Descriptor))
        trends = [TrendView(3)] if "trend" in listed else []
        if trends and classifier != "tangent":
            raise InvalidInputError(f'descriptor "trend" goes with classifier="tangent" only; got {classifier!r}.')
        chosen = list(dict.fromkeys(_descriptor(d) for d in listed if not (isinstance(d, str) and d == "trend")))
    if classifier != "tangent" and any(d.prototypes for d in chosen):
        raise InvalidInputError('a descriptor with prototypes goes with classifier="tangent" only.')
    first = trends + [kind(d, m, theta) for d in chosen for m in metrics]
    after = ["airm", "bw"] if auto_metric and searching else []
    return first, after, notes


def _more(found, skipped, codes, metrics):
    """Return the best descriptors in further geometries, and those left out as singular in one that has them."""
    views = second_round(found, codes, metrics, _FINALISTS)
    singular = [dataclasses.replace(view, metric="bw") for view, _ in skipped[:_FINALISTS]]
    return views + [view for view in singular if view not in views]


def _descriptor(given):
    if isinstance(given, Descriptor):
        return given
    if not isinstance(given, str):
        raise InvalidTypeError(
            f"descriptor must be a name, a Descriptor or a sequence of these; got {type(given).__name__}."
        )
    check_option("descriptor", given, ("auto", *DESCRIPTORS, "trend"))
    if given == "auto":
        raise InvalidInputError('descriptor "auto" stands alone; got it in a sequence. Leave the others out.')
    return Descriptor(**DESCRIPTORS[given])


def _auto_descriptors(trials, notes):
    """Return the descriptors and trends that the trials are long enough for, and that do not cost too much."""
    T, n, N = int(trials.lengths.min()), trials.n_channels, len(trials)
    wanted = [(K, 1, 1) for K in _BASES] + list(_LAGGED)
    chosen = []
    for K, p, lag in wanted:
        d = n * p + K
        if K > T // 2 or (p > 1 and (p - 1) * lag + 2 > T // 2):
            continue
        if (K or p > 1) and N * float(d) ** 3 > _FLOPS:
            notes.append(f"order {p}, lag {lag}, {K} polynomials: matrices of {d} rows were left out for their cost")
            continue
        chosen.append(Descriptor(n_basis=K, order=p, lag=lag))
    constant = np.concatenate([rows[(np.ptp(x, axis=2) == 0).all(1)] for rows, x in trials.groups])
    if len(constant):
        # A trial that never moves has a mean, but no covariance.
        chosen = [d for d in chosen if d.n_basis]
        notes.append(
            f"trial {constant.min()}, one of {len(constant)}, is constant in time: covariances without the mean were "
            "left out; remove such trials to have them"
        )
    chosen.sort(key=lambda d: (d.lag, d.order))
    return chosen, [TrendView(K) for K in _TRENDS if T >= K]


def _honest(candidates, codes, folds, calibrate):
    """Return out-of-fold log-probabilities for which penalty, mixture and calibration were chosen without the fold."""
    out = np.empty((len(codes), codes.max() + 1))
    for fold in np.unique(folds[0]):
        held = folds[0] == fold
        seen = np.flatnonzero(~held)
        P = np.stack([c.paths[c.chosen(codes, seen)] for c in candidates])
        weights = mixture_weights(P[:, seen], codes[seen])
        log_p = mix(P, weights)
        out[held] = calibrated(log_p[held], fit_calibration(log_p[seen], codes[seen], calibrate))
    return out


def _final(candidate, trials, codes, domains):
    """Return a view fitted to all training trials with the option that was chosen."""
    view, option = candidate.view, candidate.penalties[candidate.choice]
    blocks = view.blocks(trials, candidate.prepared)
    blocks, _ = recentre(view, blocks, domains)
    if isinstance(view, NearestMean):
        return FittedView(view, candidate.prepared, view.train(blocks, codes), option, None, None, candidate.domains)
    state = view.fit(blocks)
    Z, back = principal_axes(view.features(blocks, state))
    Y = np.eye(codes.max() + 1)[codes]
    (_, W, b) = list(logistic_path(Z, Y, np.ones((1, len(Z))), candidate.penalties[: candidate.choice + 1]))[-1]
    return FittedView(view, candidate.prepared, state, option, *back(W[0], b[0]), candidate.domains)


def _table(candidates, codes, weights):
    best = [c.paths[c.choice] for c in candidates]
    return {
        "view": [c.view.label for c in candidates],
        "option": [c.penalties[c.choice] for c in candidates],
        "log_loss": [log_loss(P, codes) for P in best],
        "accuracy": [float((P.argmax(1) == codes).mean()) for P in best],
        "weight": weights.tolist(),
        "seconds": [c.seconds for c in candidates],
    }


def _plain_descriptor(descriptor):
    if isinstance(descriptor, str):
        return descriptor
    if isinstance(descriptor, Descriptor):
        return descriptor.label
    return [_plain_descriptor(d) for d in descriptor]
