"""The pictures hold the numbers of the result, and go where they are told to."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration import self_calibrate
from sciml.inverse.calibration.plotting import plot, plot_eigenvalues, plot_plane, plot_residuals


@pytest.fixture(autouse=True)
def _closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def made(is_complex=True, tensors=False, groups=False, channels=None, **options):
    """A result of eight sensors, the third of which is flagged, and its data."""
    rng = np.random.default_rng(0)
    normal = lambda *s: rng.standard_normal(s) + (1j * rng.standard_normal(s) if is_complex else 0)  # noqa: E731
    lead = () if channels is None else (channels,)
    if groups:
        A = np.zeros((8, 4), complex if is_complex else float)
        A[:5, :2], A[5:, 2:] = normal(5, 2), normal(3, 2)
    else:
        A = normal(8, 3)
    d = normal(*lead, 8)
    y = d[..., None, :] * (normal(*lead, 40, A.shape[1]) @ A.T) + 0.1 * normal(*lead, 40, 8)
    y[..., 2] = np.nan
    kind = torch.from_numpy if tensors else np.asarray
    return self_calibrate(kind(y), kind(A), on_failure="ignore", **options), y


@pytest.mark.parametrize("tensors", [False, True])
def test_modulus_and_phase_are_drawn_with_their_errors(tensors):
    result, _ = made(tensors=tensors)
    top, bottom = result.plot()
    gains, std = np.asarray(result.gains), np.asarray(result.gains_std)
    marks, caps, (bars,) = top.containers[0]
    assert_allclose(marks.get_ydata(), np.abs(gains[marks.get_xdata()]))
    assert_array_equal(marks.get_xdata(), [0, 1, 3, 4, 5, 6, 7])
    heights = np.array([path[1, 1] - path[0, 1] for path in (bars.get_segments())])
    assert_allclose(heights, 2 * 2 * std[marks.get_xdata()] / np.sqrt(2))
    marks, _, (bars,) = bottom.containers[0]
    assert_allclose(marks.get_ydata(), np.angle(gains[marks.get_xdata()]))
    heights = np.array([path[1, 1] - path[0, 1] for path in bars.get_segments()])
    known = marks.get_xdata()
    assert_allclose(heights, 4 * np.minimum(std[known] / np.abs(gains[known]) / np.sqrt(2), np.pi / 2))
    assert "dimensionless" in top.get_ylabel()
    assert "rad" in bottom.get_ylabel()
    assert bottom.get_xlabel() == "sensor"


def test_real_gains_keep_their_signs_on_one_axes():
    result, _ = made(is_complex=False)
    ax = plot(result, n_std=1)
    marks, _, (bars,) = ax.containers[0]
    assert_array_equal(marks.get_ydata(), result.gains[marks.get_xdata()])
    assert (result.gains < 0).any()
    heights = np.array([path[1, 1] - path[0, 1] for path in bars.get_segments()])
    assert_allclose(heights, 2 * result.gains_std[marks.get_xdata()])


def test_sensors_without_an_answer_are_crosses():
    ax = plot(made(is_complex=False)[0])
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert_array_equal(cross.get_xdata(), [2])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "unidentified" in labels


def test_groups_have_marks_of_their_own_and_the_smaller_no_errors():
    result, _ = made(groups=True)
    assert len(result.groups) == 2
    top, bottom = plot(result)
    first, second = top.containers
    assert first[0].get_marker() != second[0].get_marker()
    assert first[0].get_color() != second[0].get_color()
    assert_allclose(second[0].get_ydata(), np.abs(result.gains_within_groups[second[0].get_xdata()]))
    for axes in (top, bottom):
        assert all(path[0, 1] == path[1, 1] for path in axes.containers[1][2][0].get_segments())
    assert "a factor of its own" in second.get_label()
    plane = plot_plane(result)
    assert len(plane.lines) == 2
    assert plane.get_legend() is not None


def test_axes_given_are_used_and_three_are_too_many():
    import matplotlib.pyplot as plt

    result, y = made()
    _, ax = plt.subplots()
    assert plot(result, ax=ax) is ax
    assert plot_plane(result, ax=ax) is ax
    assert plot_eigenvalues(result, ax=ax) is ax
    _, other = plt.subplots()
    assert plot_residuals(result, y, ax=other) is other
    _, two = plt.subplots(1, 2)
    assert plot(result, ax=two)[1] is two[1]
    assert two[0].get_xlabel() == two[1].get_xlabel() == "sensor"
    with pytest.raises(InvalidInputError, match=r"one or two axes; got an array of shape \(3,\)"):
        plot(result, ax=plt.subplots(3)[1])


def test_the_plane_shows_gains_with_discs():
    result, _ = made()
    ax = plot_plane(result, n_std=1)
    assert_allclose(ax.lines[0].get_xdata()[:2], result.gains.real[:2])
    assert_allclose(ax.lines[0].get_ydata()[:2], result.gains.imag[:2])
    radii = [patch.radius for patch in ax.patches[1:]]
    assert_allclose(radii, result.gains_std[np.isfinite(result.gains)])
    assert ax.get_aspect() == 1


def test_eigenvalues_are_in_units_of_the_noise():
    result, _ = made()
    ax = plot_eigenvalues(result)
    assert_allclose(ax.lines[0].get_ydata(), result.eigenvalues / result.noise_std**2)
    assert ax.get_yscale() == "log"
    several, _ = made(channels=3)
    assert len(plot_eigenvalues(several).lines) == 4
    bare, _ = made()
    object.__setattr__(bare, "eigenvalues", np.zeros(0))
    with pytest.raises(InvalidInputError, match="must hold eigenvalues"):
        plot_eigenvalues(bare)


def test_exact_data_have_no_noise_to_compare_with():
    result, y = made()
    object.__setattr__(result, "noise_std", 0.0)
    assert "squared units" in plot_eigenvalues(result).get_ylabel()
    assert "units of the data" in plot_residuals(result, y).get_ylabel()


def test_residuals_of_each_sensor_are_in_units_of_the_noise():
    result, y = made(channels=2)
    ax = plot_residuals(result, y, channel=1)
    left = (y - result.predict())[1]
    root = np.sqrt((np.abs(left) ** 2).mean(0)) / result.noise_std[1]
    assert_allclose(ax.lines[0].get_ydata(), root)
    assert np.isnan(root[2])
    with pytest.raises(InvalidInputError, match="channel must be"):
        plot_residuals(result, y, channel=2)


def test_channels_are_drawn_one_by_one_and_counted():
    result, _ = made(channels=3, is_complex=False)
    marks = plot(result, channel=2).containers[0][0]
    assert_array_equal(marks.get_ydata(), result.gains[2][marks.get_xdata()])
    with pytest.raises(InvalidInputError, match="channel must be"):
        plot(result, channel=3)


def test_groups_of_another_channel_are_its_own():
    rng = np.random.default_rng(0)
    A = np.kron(np.eye(2), np.ones((4, 1)))
    y = np.array([[1.0], [2.0]])[..., None] * np.arange(1, 9) ** np.array([[[1.0]], [[0.5]]])
    y = y * (rng.standard_normal((2, 30, 2)) @ A.T)
    result = self_calibrate(y, A, on_failure="ignore")
    second = plot(result, channel=1).containers[1][0]
    assert_array_equal(second.get_xdata(), [4, 5, 6, 7])
    assert_array_equal(second.get_ydata(), result.gains_within_groups[1, 4:])


def test_names_of_sensors_stand_below_the_axis_where_they_fit():
    result, _ = made(sensors=[f"antenna {k}" for k in range(8)])
    labels = [text.get_text() for text in plot(result)[1].get_xticklabels()]
    assert labels == result.sensors
