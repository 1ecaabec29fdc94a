"""The result judges new rows by the formulas that it states, in the kind of the rows, and survives a file."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.results import load
from sciml.stats.clustering import density
from sciml.stats.clustering import result as module
from sciml.stats.clustering.result import ClusterResult

MEANS = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
COVARIANCES = np.array([[[1.0, 0.5], [0.5, 2.0]], [[4.0, -1.0], [-1.0, 1.0]], [[0.3, 0.0], [0.0, 0.3]]])
SHARES = np.array([0.5, 0.2, 0.3])


def made(kind=np.asarray, noise=0.0, **options):
    """A result of three clusters; with noise of density exp(-4)."""
    given = {
        "labels": np.array([0, 1, 2, -1 if noise else 0]),
        "membership": np.eye(3)[[0, 1, 2, 0]],
        "proportions": SHARES * (1 - noise),
        "means": MEANS,
        "covariances": COVARIANCES,
    }
    if noise:
        options = {
            "noise_proportion": noise,
            "noise_log_density": -4.0,
            "noise_probability": kind(np.eye(4)[3]),
        } | options
    return ClusterResult(**{key: kind(value) for key, value in given.items()}, n_clusters=3, **options)


def joint(X, noise=0.0):
    """log of proportion times density by scipy, noise last."""
    columns = [
        multivariate_normal.logpdf(X, mean, covariance) + math.log(share * (1 - noise))
        for mean, covariance, share in zip(MEANS, COVARIANCES, SHARES, strict=True)
    ]
    if noise:
        columns.append(np.full(len(X), math.log(noise) - 4.0))
    return np.stack(columns, 1)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_mixture_judges_new_rows_as_scipy_does(rng, noise, monkeypatch):
    X, result = 3 * rng.standard_normal((200, 2)), made(noise=noise)
    truth = joint(X, noise)
    total = logsumexp(truth, axis=1)
    for tile in (2**21, 2 * 7):  # 7 rows a tile: neither one tile nor a divisor of 200
        monkeypatch.setattr(module, "TILE", tile)
        monkeypatch.setattr(density, "TILE", max(1, tile // 2))
        assert_allclose(result.score_samples(X), total, rtol=1e-12)
        assert_allclose(result.predict_proba(X), np.exp(truth - total[:, None])[:, :3], atol=1e-14)
        labels = truth.argmax(1)
        assert_array_equal(result.predict(X), np.where(labels == 3, -1, labels))
    assert (result.predict(X) == -1).any() == (noise > 0)
    assert result.has_noise == (noise > 0)


def test_far_points_are_noise_where_there_is_noise():
    X = np.array([[1e3, -1e3]])
    assert made(noise=0.01).predict(X).tolist() == [-1]
    assert_array_equal(made(noise=0.01).predict_proba(X), [[0, 0, 0]])
    assert made().predict(X).tolist() != [-1]
    assert made().predict_proba(X).sum() == pytest.approx(1, abs=1e-14)


def test_labels_by_likelihood_know_no_proportions():
    # Between two equal Gaussians the middle is at 1; the rare one gets less under "posterior".
    options = {"labels": [0, 1], "membership": np.eye(2), "means": [[0.0], [2.0]], "covariances": np.ones((2, 1, 1))}
    x = [[0.99], [1.01], [1.5], [2.5]]
    found = {
        rule: ClusterResult(**options, proportions=[0.9, 0.1], n_clusters=2, assignment=rule)
        for rule in ("likelihood", "posterior", "nearest")
    }
    assert found["likelihood"].predict(x).tolist() == [0, 1, 1, 1]
    assert found["posterior"].predict(x).tolist() == [0, 0, 0, 1]  # the border moves to 1 + log(9) / 2 = 2.1
    assert_allclose(found["likelihood"].predict_proba([[1.0]]), [[0.5, 0.5]], rtol=1e-14)
    assert_allclose(found["posterior"].predict_proba([[1.0]]), [[0.9, 0.1]], rtol=1e-14)
    assert_array_equal(found["nearest"].predict_proba([[0.9], [1.1]]), [[1, 0], [0, 1]])
    # The density is that of the mixture, whatever the labels go by.
    assert found["likelihood"].score_samples([[0.0]]) == found["posterior"].score_samples([[0.0]])


def test_log_determinants_count_where_the_means_coincide():
    options = {"labels": [0, 1], "membership": np.eye(2), "means": [[0.0], [0.0]], "covariances": [[[1.0]], [[4.0]]]}
    result = ClusterResult(**options, proportions=[0.5, 0.5], n_clusters=2)
    border = math.sqrt(math.log(4) / (1 - 0.25))  # x^2 = x^2 / 4 + log 4
    assert result.predict([[0.999 * border], [1.001 * border]]).tolist() == [0, 1]


def test_kmeans_goes_to_the_nearest_mean(rng):
    X, result = 3 * rng.standard_normal((100, 2)), made(method="kmeans-sdp")
    nearest = ((X[:, None] - MEANS) ** 2).sum(2).argmin(1)
    assert result.assignment == "nearest"
    assert_array_equal(result.predict(X), nearest)
    assert_array_equal(result.predict_proba(X), np.eye(3)[nearest])
    assert_array_equal(made(method="kmeans-sdp", assignment="posterior").predict(X), joint(X).argmax(1))


def test_an_offset_of_the_data_costs_no_digits(rng):
    X, shift = rng.standard_normal((50, 2)), 2.0**20
    near = made().score_samples(X)
    far = ClusterResult(
        labels=[0, 1, 2],
        membership=np.eye(3),
        proportions=SHARES,
        means=MEANS + shift,
        covariances=COVARIANCES,
        n_clusters=3,
    )
    # Only the rounding of X + shift is left: 2^-33 or so a coordinate, times distances of up to 10.
    assert_allclose(far.score_samples(X + shift), near, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_answers_are_of_the_kind_of_the_rows(rng, backend, dtype):
    X = backend.array(rng.standard_normal((20, 2)), dtype)
    for result in (made(), made(torch.as_tensor)):
        labels, shares, scores = result.predict(X), result.predict_proba(X), result.score_samples(X)
        assert str(labels.dtype).removeprefix("torch.") == "int64"
        assert {str(a.dtype).removeprefix("torch.") for a in (shares, scores)} == {dtype}
        # Computed in float64 and rounded once.
        assert_allclose(backend.numpy(scores), logsumexp(joint(backend.numpy(X)), axis=1).astype(dtype), rtol=2e-7)
        assert_array_equal(backend.numpy(labels), backend.numpy(shares).argmax(1))


def test_named_data_and_lists_are_rows(rng):
    X = rng.standard_normal((3, 2))
    for values in (xr.DataArray(X, dims=("row", "feature")), X.tolist()):
        scores = made().predict_proba(values)
        assert type(scores) is np.ndarray
        assert_array_equal(scores, made().predict_proba(X))
    # As many clusters as features: membership is no data with the axes of X.
    square = xr.DataArray(rng.standard_normal((5, 3)), dims=("row", "feature"))
    options = {"labels": [0], "membership": [[1, 0, 0]], "proportions": SHARES, "means": np.eye(3), "n_clusters": 3}
    assert type(ClusterResult(**options, covariances=[np.eye(3)] * 3).predict_proba(square)) is np.ndarray


def test_no_rows_give_nothing():
    X = np.empty((0, 2))
    assert made().predict(X).shape == (0,)
    assert made().predict_proba(X).shape == (0, 3)
    assert made().score_samples(X).shape == (0,)


@pytest.mark.parametrize("name", ["predict", "predict_proba", "score_samples"])
def test_rows_that_do_not_fit_are_refused(name):
    judge = getattr(made(), name)
    with pytest.raises(InvalidInputError, match=r"X must have shape \(m, 2\).*got \(4, 3\)"):
        judge(np.zeros((4, 3)))
    with pytest.raises(InvalidInputError, match=r"X must have shape \(m, 2\).*got \(2,\)"):
        judge(np.zeros(2))
    with pytest.raises(InvalidInputError, match=r"X must be finite; the entry at index \(1, 0\) is nan"):
        judge(np.array([[0, 0], [np.nan, 0]]))
    with pytest.raises(InvalidTypeError, match="X must be real; got dtype torch.complex128"):
        judge(np.zeros((4, 2), complex))


def test_a_singular_covariance_is_named():
    result = ClusterResult(
        labels=[0, 1],
        membership=np.eye(2),
        proportions=[0.5, 0.5],
        means=np.zeros((2, 1)),
        covariances=[[[1.0]], [[0.0]]],
        n_clusters=2,
        method="kmeans-sdp",
    )
    assert result.predict([[0.0]]).tolist() == [0]  # distances need no covariance
    with pytest.raises(InvalidInputError, match="covariances must be positive definite; that of cluster 1"):
        result.score_samples([[0.0]])


def test_a_wrong_rule_is_refused():
    with pytest.raises(InvalidInputError, match="assignment must be one of nearest, likelihood, posterior; got 'map'"):
        made(assignment="map")


def test_saved_and_loaded_it_judges_alike(backend, rng, tmp_path):
    result = made(
        backend.array,
        noise=0.1,
        objective=3.0,
        lower_bound=2.5,
        gap=0.5,
        certificate="dense",
        bic=7.0,
        features=["a", "b"],
        history={"objective": [4.0, 3.0]},
        report={"starts": ["ward"]},
        status="converged",
    )
    back, X = load(result.save(tmp_path / "clusters.npz")), rng.standard_normal((30, 2))
    assert type(back) is ClusterResult
    for name in ("predict", "predict_proba", "score_samples"):
        assert_array_equal(getattr(back, name)(X), getattr(result, name)(X))
    assert (back.objective, back.gap, back.certified, back.features, back.report, back.converged) == (
        3.0, 0.5, False, ["a", "b"], {"starts": ["ward"]}, True,
    )  # fmt: skip
    assert math.isnan(back.relaxed_objective)
    assert isinstance(back.labels, type(result.labels))
    assert_array_equal(back.history["objective"], [4, 3])


def test_axes_have_names_and_units():
    data = made(features=["length", "width"], noise=0.1).to_xarray()
    assert data.means.dims == ("cluster", "feature")
    assert data.means.sel(feature="width", cluster=2) == 4
    assert data.covariances.sel(feature="length", feature_2="width", cluster=1) == -1
    assert data.covariances.attrs["units"] == "data units squared"
    assert data.membership.dims == ("point", "cluster")
    assert data.noise_probability.dims == ("point",)
    assert "feature" not in made().to_xarray().coords


def test_the_summary_tells_a_proof_from_an_estimate():
    bare = made().summary()
    assert "3 clusters of 4 points, method 'ila-sdp'" in bare
    assert "2, 1, 1" in bare
    assert "bound" not in bare
    assert "noise 1" in made(torch.as_tensor, noise=0.1).summary()
    options = {"objective": 5.0, "lower_bound": 5.0, "gap": 0.0, "certificate": "exact"}
    assert "certified: no labels are better, given the covariances" in made(certified=True, **options).summary()
    assert "not certified" in made(**options).summary()
    assert made(certified=True, method="kmeans-sdp", **options).summary().endswith("no labels are better")
    assert "(exact, standard error 0.1)" in made(bound_error=0.1, **options).summary()
    assert "bic 3, icl 4" in made(log_likelihood=-1.0, bic=3.0, icl=4.0).summary()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu_stay_there(rng):
    X = torch.from_numpy(rng.standard_normal((20, 2)))
    for result in (made(), made(lambda a: torch.as_tensor(a).cuda())):
        answer = result.predict_proba(X.cuda())
        assert answer.is_cuda
        assert_allclose(answer.cpu(), made().predict_proba(X), rtol=1e-12)
        assert_allclose(result.predict_proba(X.numpy()), made().predict_proba(X), rtol=1e-12)
