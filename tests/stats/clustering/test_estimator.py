"""The estimators: scikit-learn's contract, attributes that agree with one another, rows that weigh what they repeat."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_clusterer
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.exceptions import ConvergenceError, InvalidInputError
from sciml.iterate import Status
from sciml.stats.clustering import estimator as module
from sciml.stats.clustering.estimator import ILASDP, SDPKMeans

BOTH = pytest.mark.parametrize("kind", [ILASDP, SDPKMeans])


# Some 200 fits: as cheap ones as there are.
QUICK = {"init": "kmeans", "n_init": 1, "certify": False}
CHEAP = {ILASDP: {**QUICK, "refine": None, "rank": 1}, SDPKMeans: {**QUICK, "tol": 0.1}}


# One check has four different rows, fewer than the clusters asked for by default.
@pytest.mark.filterwarnings("ignore:n_clusters")
@parametrize_with_checks([kind(on_failure="ignore", **options) for kind, options in CHEAP.items()])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def blobs(rng, n=60, p=3, K=3, distance=12.0):
    """Rows around distant means, of different spread, in a random order; and their clusters."""
    labels = rng.permutation(np.arange(n) % K)
    means = distance * np.eye(K, p)
    return means[labels] + (1 + 0.3 * labels[:, None]) * rng.standard_normal((n, p)), labels


def same_partition(a, b):
    """Whether two labelings are the same but for the names."""
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


@BOTH
def test_distant_clusters_are_found_with_a_proof(rng, kind):
    X, labels = blobs(rng)
    model = kind(3, random_state=0).fit(X)
    assert same_partition(model.labels_.tolist(), labels.tolist())
    assert model.certified_
    assert model.gap_ == pytest.approx(model.result_.objective - model.lower_bound_, abs=1e-12)
    assert model.n_iter_ >= 1
    assert is_clusterer(model)
    assert_array_equal(model.predict(X), model.labels_)
    assert_array_equal(clone(model).fit_predict(X), model.labels_)


def test_the_mixture_is_that_of_scikit_learn_with_its_parameters(rng):
    X, _ = blobs(rng, distance=3.0)
    model, peer = ILASDP(3, random_state=0, **QUICK).fit(X), GaussianMixture(3)
    peer.weights_, peer.means_, peer.covariances_ = model.weights_, model.means_, model.covariances_
    peer.precisions_cholesky_ = model.precisions_cholesky_
    new = 3 * rng.standard_normal((40, 3))
    assert_allclose(model.score_samples(new), peer.score_samples(new), rtol=1e-10)
    assert_allclose(model.predict_proba(new), peer.predict_proba(new), atol=1e-10)
    assert_array_equal(model.predict(new), peer.predict(new))
    assert model.score(new) == pytest.approx(peer.score(new), rel=1e-10)
    precisions = model.precisions_cholesky_ @ model.precisions_cholesky_.transpose(0, 2, 1)
    assert_allclose(precisions @ model.covariances_, np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-10)
    assert_allclose(model.membership_, model.predict_proba(X), atol=1e-8)
    assert model.weights_.sum() == pytest.approx(1, abs=1e-12)
    assert len(model.objective_path_) >= 1


def test_criteria_of_the_data_are_those_of_the_result_and_others_follow_the_formula(rng):
    X, _ = blobs(rng, distance=3.0)
    model = ILASDP(3, random_state=0, **QUICK).fit(X)
    assert model.bic(X) == pytest.approx(model.result_.bic, rel=1e-10)
    assert model.icl(X) == pytest.approx(model.result_.icl, rel=1e-10)
    new, _ = blobs(rng, n=30, distance=3.0)
    shares = model.predict_proba(new)
    entropy = -np.sum(shares * np.log(shares))
    assert model.icl(new) - model.bic(new) == pytest.approx(2 * entropy, rel=1e-8)
    # The penalty is one number times log m, whatever the rows.
    freedom = (model.bic(X) + 2 * model.score_samples(X).sum()) / np.log(len(X))
    assert model.bic(new) + 2 * model.score_samples(new).sum() == pytest.approx(freedom * np.log(30), rel=1e-10)


def test_kmeans_has_the_attributes_of_scikit_learns(rng):
    X, _ = blobs(rng, distance=4.0)
    model = SDPKMeans(3, random_state=0).fit(X)
    peer = KMeans(3, n_init=20, random_state=0).fit(X)
    assert model.inertia_ <= peer.inertia_ * (1 + 1e-10)
    assert model.inertia_ == pytest.approx(((X - model.cluster_centers_[model.labels_]) ** 2).sum(), rel=1e-12)
    assert model.lower_bound_ <= model.inertia_ * (1 + 1e-12)
    new = rng.standard_normal((20, 3))
    distances = np.linalg.norm(new[:, None] - model.cluster_centers_, axis=2)
    assert_allclose(model.transform(new), distances, rtol=1e-12)
    assert_array_equal(model.predict(new), distances.argmin(1))
    weights = rng.uniform(1, 2, 20)
    assert model.score(new) == pytest.approx(-(distances.min(1) ** 2).sum(), rel=1e-12)
    assert model.score(new, sample_weight=weights) == pytest.approx(-(weights @ distances.min(1) ** 2), rel=1e-12)
    assert model.transform(new.astype(np.float32)).dtype == np.float32
    assert model.get_feature_names_out().tolist() == ["sdpkmeans0", "sdpkmeans1", "sdpkmeans2"]


@BOTH
def test_weights_are_repetitions_to_the_last_bit(rng, kind):
    X, _ = blobs(rng, n=40, distance=3.0)
    weights = rng.integers(0, 4, 40)
    options = {"random_state": 0, "on_failure": "ignore", **CHEAP[kind]}
    weighted = kind(3, **options).fit(X, sample_weight=weights)
    repeated = kind(3, **options).fit(np.repeat(X, weights, axis=0)[rng.permutation(weights.sum())])
    assert_array_equal(weighted.predict(X), repeated.predict(X))
    assert_array_equal(weighted.result_.means, repeated.result_.means)
    assert_array_equal(weighted.predict(X), weighted.labels_)  # rows of no weight have labels, too


@BOTH
def test_all_kinds_of_random_states_are_taken(rng, kind):
    X, _ = blobs(rng)
    for state in (None, 3, np.random.default_rng(3), np.random.RandomState(3)):
        assert kind(3, random_state=state, **CHEAP[kind]).fit(X).labels_.shape == (60,)
    one, other = np.random.RandomState(3), np.random.RandomState(3)
    a, b = kind(3, random_state=one, **CHEAP[kind]).fit(X), kind(3, random_state=other, **CHEAP[kind]).fit(X)
    assert_array_equal(a.labels_, b.labels_)
    assert one.randint(2**31) == other.randint(2**31) != np.random.RandomState(3).randint(2**31)  # it moves on
    with pytest.raises(InvalidInputError, match="random_state must be .*'seed'"):
        kind(3, random_state="seed").fit(X)


@BOTH
def test_pipelines_clones_and_pickles(rng, kind):
    X, labels = blobs(rng)
    pipeline = make_pipeline(StandardScaler(), kind(3, random_state=0, **CHEAP[kind])).fit(X)
    assert same_partition(pipeline.predict(X).tolist(), labels.tolist())
    back = pickle.loads(pickle.dumps(pipeline))
    assert_array_equal(back.predict(X), pipeline.predict(X))
    copy = clone(pipeline[-1])
    assert copy.get_params() == pipeline[-1].get_params()
    assert not hasattr(copy, "labels_")


@BOTH
def test_names_of_columns_go_into_the_result(rng, kind):
    pandas = pytest.importorskip("pandas")
    X, _ = blobs(rng)
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = kind(3, random_state=0, **CHEAP[kind]).fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.result_.features == ["a", "b", "c"]
    assert_array_equal(model.predict(frame), model.labels_)


@BOTH
def test_one_cluster_is_all_there_is_to_one_cluster(rng, kind):
    X = rng.standard_normal((60, 3))
    model = kind(1, random_state=0).fit(X)
    assert_array_equal(model.labels_, 0)
    assert model.certified_
    if kind is SDPKMeans:
        assert_allclose(model.cluster_centers_, X.mean(axis=0, keepdims=True), rtol=1e-10)


def test_the_number_of_clusters_is_found(rng):
    X, labels = blobs(rng, n=45)
    model = ILASDP("auto", covariance_prior="pooled", random_state=0, **QUICK).fit(X)
    assert same_partition(model.labels_.tolist(), labels.tolist())
    assert len(model.weights_) == model.result_.n_clusters == 3


def test_labels_to_start_from_are_taken(rng):
    X, labels = blobs(rng)
    model = ILASDP(3, **(CHEAP[ILASDP] | {"init": labels}), on_failure="ignore", random_state=0).fit(X)
    assert same_partition(model.labels_.tolist(), labels.tolist())


def test_outliers_are_noise(rng):
    X, labels = blobs(rng, n=90)
    far = rng.uniform(-60, 60, (6, 3))
    model = ILASDP(3, noise=True, random_state=0).fit(np.vstack([X, far]))
    assert same_partition(model.labels_[:90].tolist(), labels.tolist())
    assert (model.labels_[90:] == -1).all()
    assert model.predict([[1e3, 1e3, 1e3]]).tolist() == [-1]
    assert_allclose(model.predict_proba([[1e3, 1e3, 1e3]]), 0, atol=1e-12)


@BOTH
def test_what_did_not_converge_is_said_in_the_words_of_both_libraries(rng, kind, monkeypatch):
    X, _ = blobs(rng)
    name = "ila_sdp" if kind is ILASDP else "kmeans_sdp"
    door = getattr(module, name)

    def stopped(*args, **options):
        result = door(*args, **options)
        object.__setattr__(result, "status", Status.MAX_ITER)
        return result

    monkeypatch.setattr(module, name, stopped)
    with pytest.warns(SklearnConvergenceWarning, match=f"{kind.__name__} ended with status MAX_ITER"):
        assert kind(3, random_state=0, **CHEAP[kind]).fit(X).labels_.shape == (60,)
    with pytest.raises(ConvergenceError, match="ended with status MAX_ITER"):
        kind(3, random_state=0, on_failure="raise", **CHEAP[kind]).fit(X)
    assert kind(3, random_state=0, on_failure="ignore", **CHEAP[kind]).fit(X).labels_.shape == (60,)


@BOTH
@pytest.mark.parametrize(
    ("options", "text"),
    [({"n_clusters": 0}, "n_clusters .*0"), ({"n_clusters": 61}, "n_clusters .*61"), ({"certify": "yes"}, "certify")],
)
def test_parameters_that_break_their_rule_are_named(rng, kind, options, text):
    with pytest.raises(InvalidInputError, match=text):
        kind(**options).fit(blobs(rng)[0])


@BOTH
def test_weights_that_break_their_rule_are_named(rng, kind):
    X, _ = blobs(rng)
    with pytest.raises(InvalidInputError, match="sample_weight"):
        kind(3).fit(X, sample_weight=np.r_[-1.0, np.ones(59)])
    with pytest.raises(ValueError, match="weights must contain at least one non-zero number"):
        kind(3).fit(X, sample_weight=np.zeros(60))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(2,\)"):
        kind(3).fit(X, sample_weight=np.ones(2))
