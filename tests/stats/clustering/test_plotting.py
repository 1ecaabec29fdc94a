"""The pictures hold the numbers of the result, and go where they are told to."""

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.patches import Ellipse
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2, norm

from sciml.exceptions import InvalidInputError
from sciml.stats.clustering.plotting import plot, plot_gap, plot_membership, plot_objective
from sciml.stats.clustering.result import ClusterResult


@pytest.fixture(autouse=True)
def _closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def made(p=2, K=3, n=60, kind=np.asarray, scale=1.0, labels=None, **options):
    """A result with random means and covariances, and its data."""
    rng = np.random.default_rng(0)
    means, roots = 5 * rng.standard_normal((K, p)), rng.standard_normal((K, p, p))
    labels = np.arange(n) % K if labels is None else np.asarray(labels)
    X = scale * (means[labels] + (roots[labels] @ rng.standard_normal((n, p, 1)))[..., 0])
    shares = rng.dirichlet(np.ones(K), n)
    arrays = {
        "labels": labels,
        "membership": shares,
        "proportions": np.arange(1.0, K + 1) / (K * (K + 1) / 2),
        "means": scale * means,
        "covariances": scale**2 * roots @ roots.transpose(0, 2, 1),
    }
    return ClusterResult(**{name: kind(a) for name, a in arrays.items()}, n_clusters=K, **options), X


def shape(patch):
    """S of the ellipse x' S^-1 x = 1 around its centre."""
    angle = np.radians(patch.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([patch.width / 2, patch.height / 2]) ** 2 @ turn.T


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_ellipses_hold_the_level_of_each_gaussian(kind):
    result, X = made(kind=kind)
    ax = result.plot(X=kind(X), level=0.9)
    assert len(ax.patches) == 3
    for k, patch in enumerate(ax.patches):
        assert_allclose(patch.get_center(), np.asarray(result.means)[k])
        assert_allclose(shape(patch), chi2.ppf(0.9, 2) * np.asarray(result.covariances)[k], atol=1e-12)
    for k in range(3):
        assert_allclose(ax.lines[k].get_xydata(), X[k::3])
        assert_allclose(ax.lines[3 + k].get_xydata()[0], np.asarray(result.means)[k])
    assert [text.get_text() for text in ax.get_legend().texts] == ["cluster 0", "cluster 1", "cluster 2"]
    assert ax.get_xlabel() == "feature 0 (data units)"


def test_clusters_differ_in_mark_and_colour():
    result, X = made(K=12, n=120)
    lines = result.plot(X=X).lines[:12]
    assert len({(line.get_marker(), line.get_color()) for line in lines}) == 12
    assert len({line.get_marker() for line in lines[:8]}) == 8


def test_features_are_picked_by_number_or_name():
    result, X = made(p=4, features=["a", "b", "c", "d"])
    for features in (("c", "a"), (2, 0), (-2, "a")):
        ax = result.plot(X=X, features=features)
        assert_allclose(ax.lines[0].get_xydata(), X[::3, [2, 0]])
        assert_allclose(ax.patches[1].get_center(), np.asarray(result.means)[1, [2, 0]])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")


def test_the_plane_of_many_features_does_not_depend_on_units():
    result, X = made(p=4)
    units = np.array([1.0, 1e3, 1e-3, 1.0])
    scaled = ClusterResult(
        labels=result.labels, membership=result.membership, proportions=result.proportions, n_clusters=3,
        means=result.means * units, covariances=result.covariances * units * units[:, None],
    )  # fmt: skip
    one, other = result.plot(X=X), scaled.plot(X=X * units)
    for a, b in zip(one.lines, other.lines, strict=True):
        assert_allclose(b.get_xydata(), a.get_xydata(), atol=1e-10)
    assert "direction 1" in one.get_xlabel()
    # The mixture has mean zero there, variances of one, no correlation.
    centres = np.array([patch.get_center() for patch in one.patches])
    assert_allclose(result.proportions @ centres, 0, atol=1e-12)
    between = (result.proportions[:, None] * centres).T @ centres
    shapes = [shape(patch) / chi2.ppf(0.95, 2) for patch in one.patches]
    within = np.tensordot(result.proportions, shapes, 1)
    assert_allclose(within + between, np.eye(2), atol=1e-10)


def test_the_plane_of_many_features_shows_where_clusters_differ():
    # Means differ along the second feature, spreads along the fourth; the others are larger and the same.
    X = np.random.default_rng(0).standard_normal((50, 5)) * [100, 1, 100, 1, 100]
    result = ClusterResult(
        labels=np.arange(50) % 2, membership=np.eye(2)[np.arange(50) % 2], proportions=[0.5, 0.5], n_clusters=2,
        means=np.array([[0, -9.0, 0, 0, 0], [0, 9.0, 0, 0, 0]]),
        covariances=[np.diag([1e4, 1, 1e4, 0.1, 1e4]), np.diag([1e4, 1, 1e4, 5, 1e4])],
    )  # fmt: skip
    shown = result.plot(X=X).lines[0].get_xydata()
    assert abs(np.corrcoef(shown[:, 0], X[::2, 1])[0, 1]) == pytest.approx(1, abs=1e-9)
    assert abs(np.corrcoef(shown[:, 1], X[::2, 3])[0, 1]) == pytest.approx(1, abs=1e-9)


def test_a_feature_without_variance_is_drawn():
    result, X = made(p=4)
    covariances = result.covariances.copy()
    covariances[:, 3], covariances[:, :, 3] = 0, 0
    means = result.means * [1, 1, 1, 0]
    flat = ClusterResult(
        labels=result.labels, membership=result.membership, proportions=result.proportions, n_clusters=3,
        means=means, covariances=covariances,
    )  # fmt: skip
    ax = flat.plot(X=X * [1, 1, 1, 0])
    assert np.isfinite([line.get_xydata() for line in ax.lines[:3]]).all()


def test_other_rows_get_labels_and_noise_gets_crosses():
    result, X = made(noise_proportion=0.1, noise_log_density=-3.0)
    rows = np.vstack([X[:7], [[1e3, 1e3]]])
    ax = result.plot(X=xr.DataArray(rows, dims=("row", "feature")))
    labels = result.predict(rows)
    for k in range(3):
        assert_array_equal(ax.lines[k].get_xydata(), rows[labels == k])
    assert_array_equal(ax.lines[3].get_xydata(), rows[labels == -1])
    assert "noise" in [text.get_text() for text in ax.get_legend().texts]


def test_at_most_max_points_are_drawn():
    result, X = made(n=300)
    count = lambda ax: sum(len(line.get_xdata()) for line in ax.lines) - 3  # noqa: E731
    assert count(result.plot(X=X)) == 300
    assert count(result.plot(X=X, max_points=50)) == 50
    assert len(result.plot().lines) == 3


def test_one_feature_is_drawn_as_densities():
    result, X = made(p=1)
    ax = result.plot(X=X)
    for k, line in enumerate(ax.lines):
        x, density = line.get_data()
        truth = norm.pdf(x, result.means[k, 0], result.covariances[k, 0, 0] ** 0.5) * result.proportions[k]
        assert_allclose(density, truth, rtol=1e-10, atol=1e-300)
    assert not any(isinstance(patch, Ellipse) for patch in ax.patches)
    assert sum(patch.get_width() * patch.get_height() for patch in ax.patches) == pytest.approx(1)
    assert ax.get_ylabel() == "density"


def test_membership_is_sorted_by_cluster_and_probability():
    result, _ = made()
    ax = plot_membership(result)
    shown = ax.images[0].get_array()
    assert shown.shape == (3, 60)
    for k in range(3):
        own = shown[k, 20 * k : 20 * (k + 1)]
        assert_array_equal(own, np.sort(result.membership[k::3, k])[::-1])
    assert_allclose(shown.sum(0), 1)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "1", "2"]


def test_membership_has_a_line_for_noise_and_no_more_columns_than_a_screen():
    labels = np.arange(6000) % 4 - 1
    result, _ = made(n=6000, labels=labels % 3, kind=torch.as_tensor)
    noise = np.where(labels < 0, 0.9, 0.1)
    noisy = ClusterResult(
        labels=labels, membership=(1 - noise)[:, None] * np.eye(3)[labels % 3], proportions=result.proportions,
        means=result.means, covariances=result.covariances, noise_probability=noise, n_clusters=3,
    )  # fmt: skip
    ax = plot_membership(noisy)
    shown = ax.images[0].get_array()
    assert shown.shape == (4, 2000)
    assert_allclose(shown[:, -1], [0, 0, 0.1, 0.9])  # label -1 sorts last
    assert shown[3, :1000].max() == 0.1
    assert ax.get_yticklabels()[3].get_text() == "noise"


def test_the_path_of_a_sum_of_squares_has_labels_and_bound():
    path, rows = [5.0, 4.0, 3.5], {"method": "kmeans-sdp", "objective": 3.6}
    result, _ = made(lower_bound=3.0, gap=0.5, history={"objective": path, "change": [1.0, 0.1, 0.0]}, **rows)
    ax = plot_objective(result)
    assert ax.lines[0].get_ydata().tolist() == path
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == [3.6, 3.0]
    assert [text.get_text() for text in ax.get_legend().texts] == ["relaxation", "labels", "lower bound"]
    assert len(plot_objective(made(history={"objective": path}, **rows)[0]).lines) == 2
    assert plot_objective(result, key="change").lines[0].get_ydata().tolist() == [1.0, 0.1, 0.0]
    assert len(plot_objective(result, key="change").lines) == 1
    assert plot_objective(result, key="change").get_ylabel() == "change"


def test_the_path_of_a_likelihood_has_no_lines_in_other_units():
    result, _ = made(objective=3.5, lower_bound=3.0, gap=0.5, history={"objective": [-5.0, -4.0]})
    ax = plot_objective(result)
    assert len(ax.lines) == 1
    assert "larger is better" in ax.get_ylabel()


def test_the_gap_is_the_bar_and_words_say_what_it_proves():
    bound = {"objective": 4.0, "lower_bound": 3.0, "gap": 1.0}
    results = {
        "open": made(**bound)[0],
        "closed": made(objective=4.0, lower_bound=4.0, gap=0.0, certified=True)[0],
        "sampled": made(**bound, bound_error=0.1)[0],
    }
    ax = plot_gap(results)
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [(3, 1), (4, 0), (3, 1)]
    words = [text.get_text() for text in ax.texts]
    assert words == ["not certified\ngap 25 %", "certified", "estimated\ngap 25 %"]
    (bars,) = ax.containers[-1][2]
    assert_allclose(bars.get_segments()[0][:, 1], [2.7, 3.3])
    assert [label.get_text() for label in ax.get_xticklabels()] == list(results)
    low, high = ax.get_ylim()
    assert low < 2.7 < 4 < high


def test_a_closed_gap_alone_still_has_an_axis():
    low, high = plot_gap(made(objective=-5.0, lower_bound=-5.0, gap=0.0, certified=True)[0]).get_ylim()
    assert low < -5 < high
    zero, _ = made(objective=0.0, lower_bound=-1.0, gap=1.0)
    assert plot_gap(zero).texts[0].get_text() == "not certified\ngap 1"


def test_pictures_are_drawn_where_they_are_told_to():
    import matplotlib.pyplot as plt

    options = {"history": {"objective": [1.0]}, "objective": 1.0, "lower_bound": 0.0, "gap": 1.0}
    for function in (plot, plot_membership, plot_objective, plot_gap):
        ax = plt.figure().subplots()
        assert function(made(**options)[0], ax=ax) is ax


def test_what_cannot_be_drawn_is_refused():
    result, X = made(p=3, features=["a", "b", "c"])
    with pytest.raises(InvalidInputError, match=r"features must be columns of the data, 0 to 2 or a, b, c; got 3"):
        plot(result, features=(0, 3))
    with pytest.raises(InvalidInputError, match=r"features must be columns .*got 'd'"):
        plot(result, features=("a", "d"))
    for features in ((0,), (0, 1, 2), "a"):
        with pytest.raises(InvalidInputError, match="features must be two columns"):
            plot(result, features=features)
    with pytest.raises(InvalidInputError, match=r"X must have shape \(n, 3\).*got \(60, 2\)"):
        plot(result, X=X[:, :2])
    with pytest.raises(InvalidInputError, match="level must be .*got 1"):
        plot(result, level=1)
    with pytest.raises(InvalidInputError, match="max_points must be .*got 0"):
        plot(result, max_points=0)
    with pytest.raises(InvalidInputError, match=r"got 'objective', and there are \['change'\]"):
        plot_objective(made(history={"change": [1.0]})[0])
    with pytest.raises(InvalidInputError, match="result must have a lower bound; that of 'ila-sdp' is nan"):
        plot_gap(result)
