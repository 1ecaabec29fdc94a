"""The front door: finds what makes the classes, whatever the units, and says what it cannot do."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml import classify_spd
from sciml.exceptions import ConvergenceWarning, InvalidInputError, InvalidTypeError, NotPositiveDefiniteError
from sciml.iterate import Status
from sciml.stats.spd import Descriptor
from sciml.stats.spd.screening import Candidate
from sciml.stats.spd.solve import _honest

QUICK = {"descriptor": "covariance", "metric": "logeuclid"}


def powers(n_per_class=20, n=4, T=120, ratio=2.0, seed=0, k=2):
    """Trials whose classes differ in the power of one mixed source each."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(k), n_per_class)
    S = rng.normal(size=(len(y), n, T))
    S[np.arange(len(y)), y] *= ratio
    A = np.random.default_rng(99).normal(size=(n, n))
    return A @ S, y


def slopes(n_per_class=20, n=3, T=60, seed=0):
    """Trials whose classes differ in the sign of a slow slope, not in covariance about the mean."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], n_per_class)
    x = rng.normal(size=(len(y), n, T))
    x[:, 0] += np.where(y, 1, -1)[:, None] * np.linspace(-1, 1, T)
    return x, y


@pytest.fixture(scope="module")
def fitted():
    X, y = powers()
    return classify_spd(X, y, **QUICK), X, y


@pytest.mark.parametrize("metric", ["airm", "logeuclid", "bw", "riemann", "wasserstein", "logchol", "euclid"])
def test_power_of_a_mixed_source_is_found_in_every_geometry(metric):
    clf = classify_spd(*powers(), descriptor="covariance", metric=metric)
    assert clf.score(*powers(seed=1)) >= 0.9
    assert clf.cv_accuracy >= 0.85


@pytest.mark.parametrize("classifier", ["tangent", "mdm", "knn"])
def test_every_classifier_separates_three_classes(classifier):
    clf = classify_spd(*powers(k=3, ratio=3), **QUICK, classifier=classifier)
    new, labels = powers(k=3, ratio=3, seed=1)
    assert clf.score(new, labels) >= 0.9
    assert_allclose(clf.predict_proba(new).sum(1), 1)


def test_auto_finds_a_slope_that_no_covariance_shows():
    X, y = slopes()
    plain = classify_spd(X, y, **QUICK)
    auto = classify_spd(X, y, descriptor=["covariance", "trend", "time-basis"], metric="logeuclid")
    new, labels = slopes(seed=1)
    assert plain.score(new, labels) < 0.75
    assert auto.score(new, labels) >= 0.95
    assert any(word in auto.cv_results["view"][0] for word in ("trend", "time basis"))


@pytest.mark.slow
def test_the_default_call_finds_what_lags_alone_show():
    # Spectra differ, powers do not: the classes are white noise, and noise whose neighbours resemble one another.
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    white = rng.normal(size=(40, 2, 202))
    smooth = (white[..., 2:] + white[..., 1:-1] + white[..., :-2]) / np.sqrt(3)
    X = np.where(y[:, None, None] == 1, smooth, white[..., 2:])
    clf = classify_spd(X, y)
    assert clf.cv_accuracy >= 0.95
    assert "order" in clf.cv_results["view"][0]
    assert clf.converged


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_units_of_powers_of_two_change_no_bit(fitted, factor):
    clf, X, y = fitted
    other = classify_spd(factor * X, y, **QUICK)
    assert_array_equal(other.predict_proba(factor * X), clf.predict_proba(X))


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_change_no_label(factor):
    X, y = powers()
    options = {"descriptor": ["covariance", "mean", "trend"]}
    one, other = classify_spd(X, y, **options), classify_spd(factor * X, y, **options)
    assert_array_equal(one.predict(X), other.predict(factor * X))
    assert_allclose(one.predict_proba(X), other.predict_proba(factor * X), atol=1e-6)


def test_each_channel_may_have_its_unit(fitted):
    clf, X, y = fitted
    units = np.array([1e-9, 1.0, 1e3, 1e9])[:, None]
    other = classify_spd(units * X, y, **QUICK)
    assert_allclose(other.predict_proba(units * X), clf.predict_proba(X), atol=1e-6)


def test_permuted_labels_are_chance():
    X, y = powers(n_per_class=30)
    shuffled = np.random.default_rng(3).permutation(y)
    clf = classify_spd(X, shuffled, descriptor=["covariance", "mean", "trend"])
    # Three standard errors of a coin over 60 trials.
    assert abs(clf.cv_accuracy - 0.5) < 3 * np.sqrt(0.25 / 60)
    assert clf.cv_log_loss > np.log(2) - 0.05


def test_prototypes_see_no_label_of_the_fold_they_are_judged_on():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3, 30)), np.repeat([0, 1], 20)
    clf = classify_spd(X, y, descriptor=Descriptor(prototypes=True), metric="logeuclid")
    assert clf.cv_accuracy < 0.5 + 3 * np.sqrt(0.25 / 40)


def test_groups_tell_of_new_people():
    # Each person has a signature; labels follow persons, so that nothing is learned for a new one.
    rng = np.random.default_rng(0)
    groups = np.tile(np.arange(16), 8)  # persons take turns, so that every stretch knows them all
    y = groups % 2
    gain = np.exp(rng.normal(size=(16, 12)))
    X = gain[groups][:, :, None] * rng.normal(size=(128, 12, 100))
    same, new = classify_spd(X, y, **QUICK), classify_spd(X, y, **QUICK, groups=groups)
    assert same.cv_accuracy > 0.8
    # Sixteen persons are sixteen coins; three standard errors.
    assert new.cv_accuracy < 0.5 + 3 * np.sqrt(0.25 / 16)
    assert "new groups" in new.report()


def moved(seed=0, n_domains=3):
    """Trials of recordings whose electrodes differ in gain and a little in mixing, and the names of the recordings."""
    X, y = powers(n_per_class=15 * n_domains, seed=seed)
    domains = np.tile(np.arange(n_domains), len(y) // n_domains)
    rng = np.random.default_rng(5)
    A = rng.normal(size=(n_domains, 4, 4))
    A = np.exp(rng.normal(size=(n_domains, 4, 1))) * (np.eye(4) + 0.05 * (A + A.transpose(0, 2, 1)))
    return A[domains] @ X, y, np.array([f"day {d}" for d in domains])


def test_domains_are_whitened_apart_and_new_ones_adapted():
    X, y, domains = moved()
    options = {"descriptor": ["covariance", "trend"], "metric": "airm"}
    train = domains != "day 2"
    clf = classify_spd(X[train], y[train], **options, domains=domains[train])
    assert clf.domains == ["day 0", "day 1"]
    with pytest.raises(InvalidInputError, match=r"domain 'day 2' has no statistics.*adapt"):
        clf.predict(X[~train], domains="day 2")
    with pytest.raises(InvalidInputError, match=r"domains must name the domain.*adapt"):
        clf.predict(X[~train])
    adapted = clf.adapt(X[~train], "day 2")
    assert clf.domains == ["day 0", "day 1"]
    assert adapted.score(X[~train], y[~train], domains="day 2") > 0.85
    assert clf.score(X[train], y[train], domains=domains[train]) > 0.9


def test_domains_that_differ_by_gains_are_one_after_whitening():
    rng = np.random.default_rng(0)
    X, y = powers(n_per_class=30)
    domains = rng.integers(0, 3, 60)
    gains = np.array([1.0, 30.0, 0.02])[domains]
    clf = classify_spd(gains[:, None, None] * X, y, descriptor="covariance", metric="airm", domains=domains)
    new, labels = powers(seed=1)
    adapted = clf.adapt(1e5 * new, 7)
    assert adapted.score(1e5 * new, labels, domains=7) >= 0.9
    alone = classify_spd(X, y, descriptor="covariance", metric="airm", domains=np.zeros(60))
    assert_allclose(clf.cv_proba.mean(0), alone.cv_proba.mean(0), atol=0.1)
    with pytest.raises(InvalidInputError, match="without domains"):
        classify_spd(X, y, **QUICK).adapt(X, "new")


def test_lists_tensors_frames_and_arrays_agree(fitted, rng):
    clf, X, y = fitted
    want = clf.predict_proba(X)
    frame = xr.DataArray(X, dims=("trial", "channel", "time"), coords={"channel": list("abcd")})
    strange = (X.astype(">f8"), X[:, :, ::-1].copy()[:, :, ::-1], np.asfortranarray(X))
    for data in (list(X), torch.as_tensor(X), frame.transpose("time", "trial", "channel"), *strange):
        other = classify_spd(data, y, **QUICK)
        assert_allclose(other.predict_proba(data), want, atol=1e-9)
    named = classify_spd(frame, y, **QUICK)
    assert_allclose(named.predict_proba(frame[:, [2, 0, 3, 1]]), want, atol=1e-9)
    with pytest.raises(InvalidInputError, match="channels of training"):
        named.predict(frame.assign_coords(channel=list("abcz")))


def test_trials_of_unequal_length_are_classified():
    rng = np.random.default_rng(0)
    y = np.array(["left", "right"] * 20)
    trials = [rng.normal(size=(3, rng.integers(30, 60))) * (1 + (label == "left")) for label in y]
    clf = classify_spd(trials, y, descriptor=["covariance", "mean"])
    assert clf.score(trials, y) == 1.0
    assert clf.classes.tolist() == ["left", "right"]


def test_matrices_are_classified_as_they_are():
    X, y = powers()
    C = X @ X.transpose(0, 2, 1) / X.shape[2]
    clf = classify_spd(C, y)
    assert clf.score(C, y) >= 0.9
    new, labels = powers(seed=1)
    assert clf.score(new @ new.transpose(0, 2, 1), labels) < 1.1
    with pytest.raises(InvalidInputError, match="rows and columns"):
        clf.predict(C[:, :3, :3])


def test_singular_matrices_go_to_the_geometry_that_has_them():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    L = rng.normal(size=(40, 5, 2)) * np.where(y, 2, 1)[:, None, None]
    C = L @ L.transpose(0, 2, 1)
    clf = classify_spd(C, y)
    assert [view.split(" | ")[1] for view in clf.cv_results["view"]] == ["bw"]
    assert sum("left out" in note for note in clf.report_data["notes"]) == 2
    assert clf.score(C, y) > 0.8
    with pytest.raises(NotPositiveDefiniteError, match=r'airm.*metric="bw"'):
        classify_spd(C, y, metric="airm")


def test_conformal_sets_cover_as_promised(fitted):
    clf, _, _ = fitted
    hits = []
    X, y = powers(n_per_class=200, ratio=1.4, seed=4)
    small = classify_spd(*powers(n_per_class=50, ratio=1.4), **QUICK)
    for alpha in (0.1, 0.3):
        sets = small.predict_set(X, alpha)
        hits.append(sets.coverage(y))
        # Scores of 100 trials: a coverage that is Beta distributed, standard deviation 0.03 and 0.046.
        assert abs(sets.coverage(y) - (1 - alpha)) < 3 * np.sqrt(alpha * (1 - alpha) / 100)
    assert hits[0] > hits[1]
    assert small.predict_set(X, 0.1, class_conditional=True).coverage(y) > 0.8
    assert clf.predict_set(X[:3], 0.001).sizes.tolist() == [2, 2, 2]


def test_conformal_sets_cover_on_average_over_repetitions():
    # Exchangeable matrices; 32 repetitions of 40 trials and 200 new ones: a standard error of 0.007.
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(32):
        y = rng.permutation(np.repeat([0, 1], 120))
        L = rng.normal(size=(240, 3, 12)) * np.where(y, 1.35, 1.0)[:, None, None]
        C = L @ L.transpose(0, 2, 1) / 12
        clf = classify_spd(C[:40], y[:40], metric="logeuclid", cv=4)
        hits.append(clf.predict_set(C[40:], 0.1).coverage(y[40:]))
    assert abs(np.mean(hits) - 37 / 41) < 0.02


def test_save_and_load_in_a_fresh_process(tmp_path):
    X, y, domains = moved(n_domains=2)
    np.save(tmp_path / "X.npy", X)
    options = {"descriptor": ["covariance", "mean"], "metric": ["bw", "airm"], "domains": domains}
    words, fitted = ("tangent", "mdm", "knn"), {}
    for classifier in words:
        clf = classify_spd(X, np.array(["no", "yes"])[y], **options, classifier=classifier)
        file = clf.save(tmp_path / f"{classifier}.npz")
        again = sciml.load(file)
        assert again.report() == clf.report()
        assert again.settings == clf.settings
        assert_array_equal(np.asarray(again.predict_set(X, domains="day 0")), clf.predict_set(X, domains="day 0").mask)
        fitted[classifier] = clf
    # One fresh process for the three: most of its time is its imports.
    code = (
        "import sys, numpy, sciml; X = numpy.load('X.npy')\n"
        "for word in sys.argv[1:]:\n"
        "    clf = sciml.load(f'{word}.npz'); assert clf.classes[1] == 'yes'\n"
        "    numpy.save(f'P {word}.npy', clf.predict_proba(X, domains='day 1'))"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path)
    for word, clf in fitted.items():
        assert_array_equal(np.load(tmp_path / f"P {word}.npy"), clf.predict_proba(X, domains="day 1"))


def test_trends_bands_and_prototypes_are_saved_too(tmp_path):
    X, y = slopes()
    grid = ["trend", Descriptor(bands=((0.05, 0.2), (0.2, 0.4))), Descriptor(prototypes=True)]
    clf = classify_spd(X, y, descriptor=grid, metric="bw")
    again = sciml.load(clf.save(tmp_path / "clf.npz"))
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_the_same_seed_gives_the_same_answer_and_touches_no_global_state():
    X, y = powers(ratio=1.5)
    state = torch.get_rng_state()
    one, two = classify_spd(X, y, **QUICK, random_state=3), classify_spd(X, y, **QUICK, random_state=3)
    assert_array_equal(one.cv_proba, two.cv_proba)
    assert_array_equal(torch.get_rng_state(), state)
    groups = np.arange(40) % 20
    three, four = (classify_spd(X, y, **QUICK, groups=groups, random_state=seed) for seed in (3, 4))
    assert (three.cv_proba != four.cv_proba).any()


def test_a_drift_is_not_taken_for_a_class():
    # Power drifts along the session; a class is a weak slope. Shuffled folds would reward who learns the time.
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 40)
    drift = np.exp(np.tile(np.cumsum(rng.normal(size=40)), 2) * 0.3 + np.repeat([0.0, 0.6], 40))
    X, _ = slopes(n_per_class=40)
    X = X * drift[:, None, None]
    clf = classify_spd(X, y, descriptor=["covariance", "trend"], metric="logeuclid")
    table = dict(zip(clf.cv_results["view"], clf.cv_results["weight"], strict=True))
    assert table["trend 3 | linear"] > 0.5


def test_a_configured_precision_does_not_reach_the_classifier(fitted):
    clf, X, y = fitted
    with sciml.config_context(dtype="float32"):
        other = classify_spd(X, y, **QUICK)
        assert_array_equal(other.predict_proba(X), clf.predict_proba(X))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_changes_no_label(fitted):
    clf, X, y = fitted
    other = classify_spd(X, y, **QUICK, device="cuda")
    assert_allclose(other.predict_proba(X), clf.predict_proba(X), atol=1e-6)
    assert other.settings["device"] == "cuda"


def test_a_trial_of_enormous_power_is_named(fitted):
    clf, X, y = fitted
    assert clf.report_data["notes"] == []
    X = X.copy()
    X[7] *= 1e4
    for data in (X, X @ X.transpose(0, 2, 1)):
        (note,) = classify_spd(data, y, metric="logeuclid", descriptor="covariance").report_data["notes"]
        assert "the first is number 7" in note


def test_order_of_channels_does_not_matter(fitted):
    clf, X, y = fitted
    order = [2, 0, 3, 1]
    other = classify_spd(X[:, order], y, **QUICK)
    assert_allclose(other.predict_proba(X[:, order]), clf.predict_proba(X), atol=1e-7)


def test_a_callback_stops_and_the_best_so_far_comes_back():
    X, y = powers()
    clf = classify_spd(X, y, callback=lambda n, step: n == 2)
    assert clf.status is Status.STOPPED
    assert len(clf.cv_results["view"]) == 2
    assert clf.score(X, y) > 0.5


def test_ctrl_c_keeps_what_was_found():
    X, y = powers()

    def interrupt(n, step):
        if n == 1:
            raise KeyboardInterrupt

    clf = classify_spd(X, y, callback=interrupt)
    assert clf.status is Status.STOPPED
    assert "ended early" in clf.report()


def test_a_spent_time_budget_is_told():
    X, y = powers()
    with pytest.warns(ConvergenceWarning, match=r"time_budget=0 s was spent with \d+ views untried"):
        clf = classify_spd(X, y, time_budget=0)
    assert len(clf.cv_results["view"]) == 1


def test_report_and_table_hold_what_was_found(fitted):
    clf, X, y = fitted
    assert f"accuracy         {clf.cv_accuracy:.3f}" in clf.report()
    assert "covariance | logeuclid" in clf.report()
    assert clf.cv_results["weight"].tolist() == [1.0]
    assert clf.cv_accuracy == (clf.classes[clf.cv_proba.argmax(1)] == y).mean()
    assert clf.to_xarray()["cv_proba"].dims == ("trial", "class")
    assert clf.score(X, y) == (clf.predict(X) == y).mean()


@pytest.mark.parametrize("kind", ["confusion", "views", "reliability"])
def test_pictures_say_what_they_show(fitted, kind):
    ax = fitted[0].plot(kind=kind)
    assert ax.get_xlabel()
    if kind == "confusion":
        assert sum(int(text.get_text()) for text in ax.texts) == 40


X0, Y0 = powers(n_per_class=5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.where(np.arange(120) == 7, np.nan, X0)}, "X .*finite|finite"),
        ({"X": X0 * np.array([1] * 9 + [0])[:, None, None]}, "zero"),
        ({"X": X0[0]}, "X"),
        ({"X": X0[:, :, :1]}, "2 samples"),
        ({"y": Y0[:-1]}, "one label for each of 10"),
        ({"y": np.zeros(10)}, "at least 2 classes"),
        ({"y": np.r_[np.zeros(9), 1]}, "1.0 has 1"),
        ({"y": np.r_[np.zeros(5), np.full(5, np.nan)]}, "label of trial 5 is nan"),
        ({"y": np.linspace(0, 1, 10)}, "no whole number"),
        ({"descriptor": "covarianc"}, "Did you mean 'covariance'"),
        ({"descriptor": []}, "empty"),
        ({"metric": "riemman"}, "riemman"),
        ({"metric": []}, "empty"),
        ({"classifier": "svm"}, "classifier must be one of"),
        ({"calibrate": "platt"}, "calibrate must be one of"),
        ({"cv": 1}, "cv must be"),
        ({"theta": 0}, "theta must not be 0"),
        ({"groups": np.zeros(10)}, "at least 2 groups"),
        ({"groups": np.zeros(3)}, "groups must have one name"),
        ({"domains": np.zeros(3)}, "domains must have one name"),
        ({"time_budget": -1}, "time_budget"),
        ({"random_state": -1}, "random_state"),
        ({"kind": "trial"}, "kind"),
    ],
)
def test_bad_input_is_named(change, text):
    arguments = {"X": X0, "y": Y0, **QUICK, **change}
    with pytest.raises(InvalidInputError, match=text):
        classify_spd(arguments.pop("X"), arguments.pop("y"), **arguments)


def test_labels_of_mixed_types_and_indefinite_matrices_are_refused():
    with pytest.raises(InvalidTypeError, match="labels of one type"):
        classify_spd(X0, np.array([None, "a"] * 5, dtype=object), **QUICK)
    C = X0 @ X0.transpose(0, 2, 1)
    C[3] -= 2 * np.trace(C[3]) * np.eye(4)
    with pytest.raises(NotPositiveDefiniteError, match="3"):
        classify_spd(C, Y0)
    with pytest.raises(InvalidInputError, match="descriptor"):
        classify_spd(X0 @ X0.transpose(0, 2, 1), Y0, descriptor="mean")


def test_new_trials_are_checked_too(fitted):
    clf, X, y = fitted
    with pytest.raises(InvalidInputError, match="4 channels of training; got 3"):
        clf.predict(X[:, :3])
    with pytest.raises(InvalidInputError, match="alpha"):
        clf.predict_set(X, 1.5)
    with pytest.raises(InvalidInputError, match="one label for each of 40"):
        clf.score(X, y[:3])
    with pytest.raises(InvalidInputError, match="not given in training"):
        clf.predict(X, domains="x")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"metric": None}, "metric must be one of its names or a list of these; got None"),
        ({"descriptor": 3}, "descriptor must be one of its names or a list of these; got 3"),
        ({"callback": 3}, "callback must be a function"),
        ({"descriptor": [3]}, "descriptor must be a name"),
    ],
)
def test_arguments_of_other_types_are_named(change, text):
    with pytest.raises(InvalidTypeError, match=text):
        classify_spd(X0, Y0, **{**QUICK, **change})


def test_a_column_of_labels_and_a_wild_power_get_a_remedy():
    with pytest.raises(InvalidInputError, match=r"Pass y.ravel\(\)"):
        classify_spd(X0, Y0[:, None], **QUICK)
    with pytest.raises(InvalidInputError, match="theta must be a number at least -10 and at most 10; got 1000"):
        classify_spd(X0, Y0, **QUICK, theta=1000)


def test_arrays_of_names_work_and_what_is_said_twice_is_tried_once(fitted):
    clf, X, y = fitted
    twice = classify_spd(X, y, descriptor=["covariance", Descriptor()], metric=np.array(["logeuclid", "log-euclidean"]))
    assert twice.cv_results["view"].tolist() == clf.cv_results["view"].tolist()
    assert_array_equal(twice.cv_proba, clf.cv_proba)


@pytest.mark.parametrize("factor", [2.0**-700, 2.0**600])
def test_units_whose_squares_no_number_holds(fitted, factor):
    clf, X, y = fitted
    units = np.array([factor, 1.0, 1.0, 1.0])[:, None]
    other = classify_spd(units * X, y, **QUICK)
    assert_allclose(other.predict_proba(units * X), clf.predict_proba(X), atol=1e-6)


def test_one_constant_trial_does_not_cost_the_rest():
    X, y = powers(n=2, T=60)
    X[4] = 3.0
    clf = classify_spd(X, y)
    assert clf.cv_accuracy > 0.85
    assert any("trial 4, one of 1, is constant" in note for note in clf.report_data["notes"])
    assert any(view.endswith("| bw") for view in clf.cv_results["view"])


def test_offsets_that_drown_all_else_leave_covariances_in_every_geometry():
    X, y = powers(n=2, T=60, ratio=1.2)
    clf = classify_spd(X + 1e7, y, metric="airm")
    assert clf.cv_accuracy > 0.7
    assert any("mean | airm was left out" in note for note in clf.report_data["notes"])
    with pytest.raises(NotPositiveDefiniteError, match="take large offsets out"):
        classify_spd(X + 1e7, y, metric="airm", descriptor="mean")


def test_the_stated_accuracy_is_chosen_without_the_fold():
    # One penalty shines on the first fold alone: it is the best of all trials, but not to be found without that fold.
    codes, folds = np.arange(9) % 2, np.arange(9)[None] // 3
    shines = np.where(folds[0] == 0, 0.99, 0.5)
    serves = np.where(folds[0] == 0, 0.3, 0.6)
    paths = np.empty((2, 9, 2))
    for path, p in zip(paths, (shines, serves), strict=True):
        path[np.arange(9), codes], path[np.arange(9), 1 - codes] = p, 1 - p
    candidate = Candidate(None, {}, (1.0, 10.0), paths, 0.0)
    assert candidate.chosen(codes) == 0
    stated = np.exp(_honest([candidate], codes, folds, "none"))
    assert_allclose(stated[np.arange(3), codes[:3]], 0.3)


def test_calibration_of_a_fold_does_not_know_its_labels():
    rng = np.random.default_rng(0)
    codes, folds = rng.integers(0, 2, 60), np.arange(60)[None] // 20
    p = rng.uniform(0.05, 0.95, 60)
    candidate = Candidate(None, {}, (1.0,), np.stack([p, 1 - p], 1)[None], 0.0)
    one = _honest([candidate], codes, folds, "sigmoid")
    other = _honest([candidate], np.where(folds[0] == 0, 1 - codes, codes), folds, "sigmoid")
    assert_array_equal(one[:20], other[:20])
    assert (one[20:] != other[20:]).any()
