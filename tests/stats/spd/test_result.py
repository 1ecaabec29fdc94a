"""A fitted classifier: names of domains of every kind, labels of every kind, and trials that come later."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml import classify_spd
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.stats.spd import Descriptor

QUICK = {"descriptor": "covariance", "metric": "logeuclid"}


def powers(n_per_class=10, seed=0):
    """Trials whose classes differ in the power of one channel each."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], n_per_class)
    X = rng.normal(size=(len(y), 2, 50))
    X[np.arange(len(y)), y] *= 3
    return X, y


X, Y = powers()
DAYS = [f"day {i % 3}" for i in range(20)]


@pytest.fixture(scope="module")
def fitted():
    return classify_spd(X, Y, **QUICK)


@pytest.fixture(scope="module")
def days():
    return classify_spd(X, Y, **QUICK, domains=DAYS)


@pytest.mark.parametrize(
    "names",
    [
        pd.Series(DAYS),
        pd.Series(DAYS).astype("category"),
        np.array(DAYS, dtype=object),
        tuple(DAYS),
        pd.Series(range(20)) % 3,
        (pd.Series(range(20)) % 3).astype(object),
        np.arange(20) % 2 == 0,
        (np.arange(20) % 2).astype(float),
    ],
)
def test_domains_may_be_named_by_every_kind_of_column(names, days, tmp_path):
    clf = classify_spd(X, Y, **QUICK, domains=names)
    P = clf.predict_proba(X, domains=names)
    assert_array_equal(sciml.load(clf.save(tmp_path / "clf.npz")).predict_proba(X, domains=list(names)), P)
    if isinstance(clf.domains[0], str):
        assert_allclose(P, days.predict_proba(X, domains=DAYS), atol=1e-12)


def test_domains_of_texts_and_numbers_stand_side_by_side(tmp_path):
    clf = classify_spd(X, Y, **QUICK, domains=np.arange(20) % 2)
    adapted = clf.adapt(5 * X, "new").adapt(7 * X, np.int64(8))
    assert adapted.domains == [0, 1, "new", 8]
    adapted = sciml.load(adapted.save(tmp_path / "clf.npz"))
    P = adapted.predict_proba(np.concatenate([X[:1], 5 * X[:1], 7 * X[:1]]), domains=[0, "new", 8])
    assert_allclose(P[0], clf.predict_proba(X[:1], domains=0)[0], rtol=1e-12)
    assert_allclose(P[1], P[2], atol=1e-9)


@pytest.mark.parametrize("name", [None, ("a", 1), float("nan")])
def test_strange_names_of_domains_are_refused(days, name):
    with pytest.raises((InvalidInputError, InvalidTypeError), match="domain"):
        days.adapt(X, name)


def test_groups_without_a_name_are_refused():
    groups = ["a", None] * 10
    with pytest.raises(InvalidTypeError, match="groups must be texts or numbers; that of trial 1 is None"):
        classify_spd(X, Y, **QUICK, groups=groups)
    with pytest.raises(InvalidInputError, match="groups must be finite; that of trial 1 is nan"):
        classify_spd(X, Y, **QUICK, groups=pd.Series(["a", np.nan] * 10, dtype=object))
    with pytest.raises(InvalidTypeError, match="groups must be all texts or all numbers"):
        classify_spd(X, Y, **QUICK, groups=["a", 1] * 10)


@pytest.mark.parametrize(
    ("labels", "want"),
    [
        (Y.astype(bool), [False, True]),
        (-3 * Y, [-3, 0]),
        (pd.Series(np.array(["b", "a"])[Y], index=range(20, 0, -1)), ["a", "b"]),
        (pd.Series(np.array(["b", "a"])[Y]).astype("category"), ["a", "b"]),
        (pd.Series(Y).astype("Int64"), [0, 1]),
        ([str(label) for label in Y], ["0", "1"]),
        (Y.astype(np.float32), [0.0, 1.0]),
    ],
)
def test_labels_of_every_kind_come_back(labels, want, tmp_path):
    clf = classify_spd(X, labels, **QUICK)
    assert clf.classes.tolist() == want
    assert clf.score(X, labels) == 1.0
    again = sciml.load(clf.save(tmp_path / "clf.npz"))
    assert_array_equal(again.predict(X), clf.predict(X))
    assert again.predict_set(X, 0.2)[0].tolist() == clf.predict_set(X, 0.2)[0].tolist()


def test_one_trial_is_judged_as_among_many(fitted):
    P = fitted.predict_proba(X)
    assert_allclose(fitted.predict_proba(X[3:4]), P[3:4], rtol=1e-10)
    assert_allclose(fitted.predict_proba([X[3]]), P[3:4], rtol=1e-10)
    with pytest.raises(InvalidInputError, match=r"one trial X\[None\]"):
        fitted.predict(X[3])
    with pytest.raises(InvalidInputError, match="at least one trial"):
        fitted.predict(X[:0])


@pytest.mark.parametrize("descriptor", ["covariance", "mean", "trend"])
@pytest.mark.parametrize("factor", [1e-150, 1e-12, 1e12, 1e100])
def test_new_trials_of_any_size_get_probabilities_and_no_warning(descriptor, factor):
    clf = classify_spd(X, Y, descriptor=descriptor, metric="bw")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        P = clf.predict_proba(factor * X[:2])
    assert_allclose(P.sum(1), 1)


def test_known_domains_are_learned_anew_and_the_old_classifier_stays(days):
    before = days.predict_proba(X, domains="day 1")
    again = days.adapt(np.array([[2.0], [0.1]]) * X, "day 1")
    assert again.domains == days.domains
    assert_array_equal(days.predict_proba(X, domains="day 1"), before)
    assert (again.predict_proba(X, domains="day 1") != before).any()
    assert_array_equal(again.predict_proba(X, domains="day 0"), days.predict_proba(X, domains="day 0"))


def test_class_conditional_sets_take_each_class_by_itself():
    # One class is easy and one hard: a threshold for both lets the hard one down.
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [150, 50])
    C = np.exp(rng.normal(size=200) * np.where(y, 1.5, 0.3) + 1.0 * y)[:, None, None] * np.eye(1)
    clf = classify_spd(C, y, metric="airm")
    alone = clf.predict_set(C, 0.1, class_conditional=True)
    assert alone[:150].coverage(y[:150]) >= 0.88
    assert alone[150:].coverage(y[150:]) >= 0.88
    assert clf.predict_set(C, 0.1)[150:].coverage(y[150:]) < 0.85


def test_matrices_and_series_are_not_mixed_up(fitted):
    C = X @ X.transpose(0, 2, 1)
    with pytest.raises(InvalidInputError, match="series as in training"):
        fitted.predict(sciml.stats.spd.as_trials(C))
    with pytest.raises(InvalidInputError, match="square"):
        classify_spd(C, Y, metric="airm").predict(X)


def test_the_report_names_options_and_notes(fitted):
    clf = classify_spd(X, Y, descriptor=[Descriptor(n_basis=1), "covariance"], metric="bw", calibrate="none")
    report = clf.report()
    assert "20 trials, 2 classes, series of 2 channels and 50 samples" in report
    assert "0 (10), 1 (10)" in report
    assert "none: inverse temperature 1.00" in report
    assert clf.coords()["class"].tolist() == [0, 1]
    assert clf.classes_ is clf.classes
