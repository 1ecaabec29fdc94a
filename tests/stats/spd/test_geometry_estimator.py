"""Estimators of geometry: known answers, the habits of scikit-learn, and pipelines written for pyRiemann."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from pyriemann.classification import MDM as PeerMDM
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks as checks

from sciml.estimators import FitConvergenceWarning
from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import spd_distance, spd_mean
from sciml.stats.spd.geometry_estimator import MDM, SPDKNN, SPDMean, SPDRecenter, SPDTangentSpace

ESTIMATORS = (SPDMean, SPDTangentSpace, MDM, SPDKNN, SPDRecenter)
NAMES = ("riemann", "wasserstein", "logeuclid", "logchol", "euclid")


def matrices(rng, count=40, n=3, spread=0.3):
    """Two classes of covariances that differ in two directions."""
    y = np.arange(count) % 2
    G = rng.standard_normal((count, n, 8 * n))
    G[:, 0] *= 1 + 0.8 * y[:, None]
    G[:, 1] += spread * y[:, None] * G[:, 0]
    return G @ G.swapaxes(-1, -2) / (8 * n), y


def trials(rng, count=40, n=3, T=60):
    y = np.arange(count) % 2
    x = rng.standard_normal((count, n, T))
    x[:, 0] *= 1 + 0.8 * y[:, None]
    return x, y


# ---------------------------------------------------------------- scikit-learn


CHECKS = (
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_valid_tag_types,
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_get_params_invariance,
    checks.check_set_params,
    checks.check_mixin_order,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_checks_of_scikit_learn_that_need_no_table(Estimator, check):
    # All others draw tables; scikit-learn leaves them out by itself where the tags ask for three axes.
    assert Estimator().__sklearn_tags__().input_tags.three_d_array
    check(Estimator.__name__, Estimator())


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_parameters_are_kept_as_they_are(Estimator, rng):
    options = {"metric": "logeuclid"} if Estimator is not SPDRecenter else {"unseen": "adapt"}
    estimator = Estimator(**options)
    assert clone(estimator).get_params() == estimator.get_params()
    X, y = matrices(rng)
    assert estimator.fit(X, y) is estimator
    assert estimator.n_features_in_ == 3
    assert all(estimator.get_params()[key] == value for key, value in options.items())


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_before_fit_and_with_other_channels_there_is_an_error(Estimator, rng):
    X, y = matrices(rng)
    method = "predict" if hasattr(Estimator, "predict") else "transform"
    with pytest.raises(sklearn.exceptions.NotFittedError):
        getattr(Estimator(), method)(X)
    fitted = Estimator().fit(X, y)
    with pytest.raises(InvalidInputError, match="X must have 3 rows in each matrix, as in fit; got 2"):
        getattr(fitted, method)(X[:, :2, :2])
    for bad, text in ((X[0], r"\(3, 3\)"), (X[:, :2], r"\(40, 2, 3\)"), (X[:0], r"\(0, 3, 3\)")):
        with pytest.raises(InvalidInputError, match=f"X must be matrices .*{text}.*Covariance"):
            Estimator().fit(bad, y)


@pytest.mark.parametrize("name", NAMES)
def test_pipelines_written_for_pyriemann_run_unchanged(name, rng):
    x, y = trials(rng)
    first = make_pipeline(Covariances("oas"), SPDTangentSpace(metric=name), LogisticRegression())
    second = make_pipeline(Covariances("oas"), MDM(metric=name))
    third = make_pipeline(Covariances("oas"), SPDKNN(3, metric=name))
    for pipeline in (first, second, third):
        assert cross_val_score(pipeline, x, y, cv=4).mean() > 0.9
        # Units of the signals decide nothing where the geometry does not see them.
        if name in ("riemann", "logeuclid"):
            one, other = pipeline.fit(x, y).predict(x), pipeline.fit(1e-6 * x, y).predict(1e-6 * x)
            assert_array_equal(one, other)


def test_a_grid_search_sets_the_geometry(rng):
    x, y = trials(rng)
    pipeline = make_pipeline(Covariances("oas"), MDM())
    grid = {"mdm__metric": ["riemann", {"mean": "logeuclid", "distance": "riemann"}], "mdm__theta": [1.0, 0.5]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
    assert search.best_score_ > 0.9
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_names_of_features_and_tables(rng):
    X, y = matrices(rng)
    space = SPDTangentSpace().fit(X)
    assert space.get_feature_names_out().tolist() == ["e0_e0", "e0_e1", "e0_e2", "e1_e1", "e1_e2", "e2_e2"]
    named = SPDTangentSpace(basis="channel").fit(X).get_feature_names_out(["C3", "Cz", "C4"])
    assert named.tolist()[:3] == ["C3_C3", "C3_Cz", "C3_C4"]
    with pytest.raises(InvalidInputError, match="input_features must hold 3 names; got 2"):
        space.get_feature_names_out(["a", "b"])
    assert MDM().fit(X, y).get_feature_names_out().tolist() == ["mdm0", "mdm1"]
    assert SPDMean().fit(X).get_feature_names_out().tolist() == ["spdmean0"]
    pipeline = make_pipeline(SPDRecenter(), SPDTangentSpace()).set_output(transform="pandas")
    table = pipeline.fit_transform(X)
    assert table.shape == (40, 6)
    assert list(table.columns) == space.get_feature_names_out().tolist()
    hermitian = SPDTangentSpace().fit(X + 0.01j * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]))
    assert len(hermitian.get_feature_names_out()) == 9
    assert hermitian.transform(X).shape == (40, 9)


# ---------------------------------------------------------------- what they compute


@pytest.mark.parametrize("name", NAMES)
def test_mean_distances_and_coordinates_are_those_of_the_geometry(name, rng):
    X, _ = matrices(rng)
    w = rng.uniform(0.1, 1, 40)
    mean = SPDMean(name).fit(X, sample_weight=w)
    assert_allclose(mean.mean_, spd_mean(X, w, metric=name).mean, rtol=1e-12)
    assert_allclose(mean.transform(X)[:, 0], spd_distance(mean.mean_, X, metric=name), rtol=1e-11)
    space = SPDTangentSpace(name, theta=0.5).fit(X, sample_weight=w)
    z = space.transform(X)
    assert_allclose(np.linalg.norm(z, axis=1), spd_distance(space.reference_, X, metric=name, theta=0.5), rtol=1e-10)
    assert_allclose(space.inverse_transform(z), X, atol=1e-10)


def test_peers_agree(rng):
    X, y = matrices(rng)
    for name in ("riemann", "logeuclid"):
        ours, theirs = MDM(name).fit(X, y), PeerMDM(name).fit(X, y)
        assert_allclose(ours.covmeans_, theirs.covmeans_, rtol=1e-6)
        assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-6)
        assert_array_equal(ours.predict(X), theirs.predict(X))
    # Their coordinates are those of the channels, with the same lengths.
    z = TangentSpace("riemann").fit_transform(X)
    assert_allclose(SPDTangentSpace(basis="channel").fit_transform(X), z, atol=1e-6)


def test_two_metrics_and_other_means(rng):
    X, y = matrices(rng)
    mixed = MDM({"mean": "logeuclid", "distance": "riemann"}).fit(X, y)
    assert_allclose(mixed.covmeans_[1], spd_mean(X[y == 1], metric="logeuclid").mean, rtol=1e-12)
    assert_allclose(mixed.transform(X)[:, 0], spd_distance(mixed.covmeans_[0], X, metric="airm"), rtol=1e-11)
    space = SPDTangentSpace({"mean": "harmonic", "map": "logeuclid"}).fit(X)
    assert_allclose(space.reference_, spd_mean(X, metric="harmonic").mean, rtol=1e-12)
    for bad in ({"mean": "riemann"}, {"mean": "riemann", "dist": "riemann"}):
        with pytest.raises(InvalidInputError, match="dict with the keys 'mean' and 'distance'"):
            MDM(bad).fit(X, y)
    with pytest.raises(InvalidInputError, match=r"metric\['distance'\] must be one of .*'harmonic'"):
        MDM({"mean": "riemann", "distance": "harmonic"}).fit(X, y)
    with pytest.raises(InvalidInputError, match="metric must be one of .*got 'gbw'"):
        MDM("gbw").fit(X, y)


def test_singular_matrices_need_a_geometry_with_a_place_for_them(rng):
    G = rng.standard_normal((20, 4, 2))
    y = np.arange(20) % 2
    G[:, 0] *= 1 + 4 * y[:, None]
    X = G @ G.swapaxes(-1, -2) + np.diag([1e-30, 0, 0, 0])
    X = np.concatenate([X, np.stack([np.eye(4), np.diag([25.0, 1, 1, 1])])])
    y = np.append(y, [0, 1])
    assert MDM("wasserstein").fit(X, y).score(X, y) > 0.7
    assert SPDTangentSpace("wasserstein").fit_transform(X).shape == (22, 10)
    with pytest.raises(NotPositiveDefiniteError, match='metric="bw"'):
        SPDKNN(3).fit(X, y)
    with pytest.raises(NotPositiveDefiniteError, match='metric="bw"'):
        MDM().fit(X, y)


def test_weights_are_repetitions(rng):
    X, y = matrices(rng, 12)
    w = np.tile([2.0, 2, 1, 1], 3)
    repeated = np.repeat(np.arange(12), w.astype(int))
    assert_allclose(
        MDM().fit(X, y, sample_weight=w).covmeans_, MDM().fit(X[repeated], y[repeated]).covmeans_, rtol=1e-9
    )
    with pytest.raises(InvalidInputError, match="sample_weight must be positive for some trial of class 1"):
        MDM().fit(X, y, sample_weight=1.0 - y)


def test_labels_of_any_kind(rng):
    X, y = matrices(rng)
    words = np.array(["rest", "move"])[y]
    for classifier in (MDM(), SPDKNN(3)):
        classifier.fit(X, words)
        assert classifier.classes_.tolist() == ["move", "rest"]
        assert set(classifier.predict(X)) == {"move", "rest"}
        P = classifier.predict_proba(X)
        assert_allclose(P.sum(1), 1)
        assert classifier.score(X, words) > 0.9
    with pytest.raises(InvalidInputError, match=r"y must hold at least 2 classes; got \[0.0\]"):
        MDM().fit(X, np.zeros(40))
    with pytest.raises(InvalidInputError, match="y must hold one label for each of 40 trials"):
        SPDKNN().fit(X, y[:3])


# ---------------------------------------------------------------- probabilities


def test_the_temperature_comes_from_held_out_trials(rng):
    # Few trials of noise: in their own means they look well separated, held out they are not.
    X, _ = matrices(rng, 12, spread=0)
    y = rng.permutation(np.arange(12) % 2)
    X = X / np.trace(X, axis1=1, axis2=2)[:, None, None]
    honest, vain = MDM(cv=4).fit(X, y), MDM(cv=None).fit(X, y)
    assert honest.tau_ > 1.5 * vain.tau_
    assert_array_equal(honest.predict(X), vain.predict(X))
    assert_array_equal(honest.predict_proba(X).argmax(1), honest.predict(X))


def test_probabilities_mean_what_they_say(rng):
    X, y = matrices(rng, 400, spread=0)
    X[:200] = X[rng.permutation(200)]  # half of the labels are by chance
    mdm = MDM().fit(X, y)
    P = mdm.predict_proba(X)
    hit = mdm.predict(X) == y
    # Both scatter by 0.02; the distances are no exact model either.
    assert abs(P.max(1).mean() - hit.mean()) < 0.1


def test_a_class_of_one_trial_and_folds_without_a_class(rng):
    X, y = matrices(rng, 9)
    lonely = np.where(np.arange(9) == 8, 2, y)
    assert MDM().fit(X, lonely).predict_proba(X).shape == (9, 3)
    sorted_folds = [(np.flatnonzero(y == 0), np.flatnonzero(y == 1)), (np.arange(6), np.arange(6, 9))]
    assert np.isfinite(MDM(cv=sorted_folds).fit(X, y).tau_)


def test_units_change_the_temperature_only(rng):
    X, y = matrices(rng)
    one, scaled = MDM("wasserstein").fit(X, y), MDM("wasserstein").fit(4.0**-20 * X, y)
    assert_allclose(scaled.tau_, 4.0**-20 * one.tau_, rtol=1e-9)
    assert_allclose(scaled.predict_proba(4.0**-20 * X), one.predict_proba(X), rtol=1e-9)


# ---------------------------------------------------------------- neighbours


def test_one_neighbour_finds_itself(rng):
    X, y = matrices(rng)
    assert SPDKNN(1).fit(X, y).score(X, y) == 1
    assert SPDKNN(5, weights="distance").fit(X, y).score(X, y) == 1
    with pytest.raises(InvalidInputError, match="n_neighbors must be at most the 40 training trials; got 41"):
        SPDKNN(41).fit(X, y)
    with pytest.raises(InvalidInputError, match="n_neighbors must be"):
        SPDKNN(0).fit(X, y)
    with pytest.raises(InvalidInputError, match="weights must be one of"):
        SPDKNN(weights="near").fit(X, y)


# ---------------------------------------------------------------- domains


def people(rng):
    """Three people whose sensors mix the same sources differently."""
    X, y = matrices(rng, 60)
    who = np.repeat(["ann", "bob", "eve"], 20)
    for name in np.unique(who):
        A = rng.standard_normal((3, 3)) + 3 * np.eye(3)
        X[who == name] = A @ X[who == name] @ A.T * 10.0 ** rng.uniform(-6, 6)
    return (X + X.swapaxes(-1, -2)) / 2, y, who


def test_every_domain_has_the_identity_for_a_mean(rng):
    X, _, who = people(rng)
    Y = SPDRecenter().fit_transform(X, domains=who)
    for name in np.unique(who):
        assert_allclose(spd_mean(Y[who == name], metric="airm").mean, np.eye(3), atol=1e-10)
    assert_allclose(SPDRecenter(domains=who).fit_transform(X), Y)
    assert_allclose(SPDRecenter(domains=who).fit(X).transform(X[20:25], domains=who[20:25]), Y[20:25])


def test_unseen_domains_are_refused_adapted_or_taken_as_they_come(rng):
    X, _, who = people(rng)
    seen = who != "eve"
    recenter = SPDRecenter().fit(X[seen], domains=who[seen])
    with pytest.raises(InvalidInputError, match=r"'ann', 'bob'; got 'eve', which has no statistics. Call adapt"):
        recenter.transform(X, domains=who)
    with pytest.raises(InvalidInputError, match="domains must name the domain of each trial"):
        recenter.transform(X)
    known = recenter.transform(X[:5], domains=who[:5])
    adapted = recenter.adapt(X[~seen], domains=who[~seen]).transform(X, domains=who)
    assert_allclose(adapted[:5], known)
    assert_allclose(adapted, SPDRecenter().fit_transform(X, domains=who), rtol=1e-12)
    free = SPDRecenter(unseen="adapt").fit(X[seen], domains=who[seen])
    assert_allclose(free.transform(X, domains=who), adapted, rtol=1e-12)
    assert list(free.means_) == ["ann", "bob"]  # a domain of the moment leaves no trace


def test_one_domain_needs_no_names(rng):
    X, _ = matrices(rng)
    recenter = SPDRecenter().fit(X[:30])
    assert_allclose(recenter.transform(X[30:]), SPDRecenter().fit(X[:30]).transform(X[30:]))
    again = recenter.adapt(4 * X[:30])
    assert_allclose(again.transform(4 * X[30:]), SPDRecenter().fit(X[:30]).transform(X[30:]), rtol=1e-12)


def test_domains_travel_through_pipelines_and_help_across_people(rng):
    X, y, who = people(rng)
    with sklearn.config_context(enable_metadata_routing=True):
        recenter = SPDRecenter(unseen="adapt").set_fit_request(domains=True).set_transform_request(domains=True)
        space = SPDTangentSpace().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(recenter, space, LogisticRegression().set_fit_request(sample_weight=False))
        scores = cross_val_score(
            pipeline, X, y, cv=GroupKFold(3), params={"domains": who, "groups": who}, error_score="raise"
        )
    plain = cross_val_score(make_pipeline(SPDTangentSpace(), LogisticRegression()), X, y, cv=GroupKFold(3), groups=who)
    assert scores.mean() > plain.mean()
    assert scores.mean() > 0.6


# ---------------------------------------------------------------- honesty


def test_a_mean_that_did_not_converge_is_told(monkeypatch, rng):
    from sciml.stats.spd import geometry_estimator

    X, y = matrices(rng)
    slow = lambda *args, **options: spd_mean(*args, **{**options, "max_iter": 1})  # noqa: E731
    monkeypatch.setattr(geometry_estimator, "spd_mean", slow)
    with pytest.warns(FitConvergenceWarning, match="SPDMean: the airm mean stopped after 1 iterations"):
        SPDMean().fit(X)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="MDM"):
        MDM(cv=None).fit(X, y)


@pytest.mark.parametrize(
    ("X", "text"),
    [
        (np.full((2, 2, 2), np.nan), "X must be finite"),
        (np.array([[[1.0, 2.0], [0.0, 1.0]]] * 2), "X"),
        (np.stack([np.eye(2), -np.eye(2)]), "number 1 of X"),
    ],
)
def test_bad_matrices_are_named(X, text):
    with pytest.raises(InvalidInputError, match=text):
        SPDMean("wasserstein").fit(X)


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_what_is_not_symmetric_is_refused_after_fit_as_well(Estimator, rng):
    X, y = matrices(rng)
    fitted = Estimator().fit(X, y)
    bad = X.copy()
    bad[3, 0, 1] += 0.1
    method = "predict" if hasattr(Estimator, "predict") else "transform"
    with pytest.raises(InvalidInputError, match="X must be .*number 3|X .*3"):
        getattr(fitted, method)(bad)


def test_tensors_and_lists_are_taken(rng):
    import torch

    X, y = matrices(rng, 10)
    mdm = MDM().fit(torch.from_numpy(X).float(), list(y))
    assert mdm.covmeans_.dtype == np.float64
    assert_array_equal(mdm.predict(X.tolist()), mdm.predict(torch.from_numpy(X)))
