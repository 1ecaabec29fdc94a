"""The pictures hold the numbers of the result, and go where they are told to."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.plotting import plot, plot_accuracy, plot_parameters
from sciml.inverse.bilevel.result import BilevelResult


@pytest.fixture(autouse=True)
def _closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def made(n=3, steps=4, *, value=None, certified=True, tensors=False):
    rng = np.random.default_rng(0)
    thetas = rng.standard_normal((steps + 1, n)) * np.arange(1, n + 1)
    kind = torch.from_numpy if tensors else np.asarray
    return BilevelResult(
        status="small_decrease",
        n_iter=steps,
        theta=kind(thetas[-1]),
        grad=kind(thetas[-1]),
        thetas=kind(thetas),
        certified=certified,
        history={
            "n_units": np.arange(steps + 1) * 10.0,
            "value": np.geomspace(100, 1, steps + 1) if value is None else value,
            "value_bar": np.geomspace(10, 1e-3, steps + 1),
            "grad_norm": np.geomspace(10, 1e-6, steps + 1),
            "eps": np.geomspace(1, 1e-9, steps + 1),
            "delta": np.r_[np.zeros(1), np.geomspace(1, 1e-9, steps)],
        },
    )


def test_value_and_parameters_are_drawn_against_the_work():
    result = made()
    top, bottom = result.plot()
    (line,) = top.lines
    assert_array_equal(line.get_xdata(), result.history["n_units"])
    assert_array_equal(line.get_ydata(), result.history["value"])
    assert_array_equal([line.get_ydata() for line in bottom.lines], result.thetas.T)
    assert "gradients and Hessian products" in bottom.get_xlabel()
    assert top.get_title() == "small decrease after 4 steps"
    assert len({line.get_linestyle() for line in bottom.lines}) == 3


def test_the_band_reaches_from_the_lower_to_the_upper_end():
    result = made()
    ax = plot(result)[0]
    points = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    h = result.history
    for x, low, high in zip(h["n_units"], h["value"] - h["value_bar"], h["value"] + h["value_bar"], strict=True):
        ends = points[points[:, 0] == x, 1]
        assert ends.min() == pytest.approx(low)
        assert ends.max() == pytest.approx(high)


def test_the_legend_says_whether_the_bar_is_proven():
    for certified, word in ((True, "proven bar, 1e-03"), (False, "estimated bar, 1e-03")):
        texts = [text.get_text() for text in plot(made(certified=certified))[0].get_legend().get_texts()]
        assert any(text.startswith(word) for text in texts)


@pytest.mark.parametrize(
    ("value", "scale"),
    [
        (np.array([100.0, 50, 20, 5, 2]), "log"),
        (np.array([1.5, 1.4, 1.3, 1.2, 1.1]) * 100, "linear"),  # a short way
        (np.array([5.0, 4, 3, 2, 0.01]), "linear"),  # an end of the first bar lies below zero
        (-np.array([1.0, 2, 3, 4, 5]), "linear"),
    ],
)
def test_a_logarithm_only_where_it_shows_something(value, scale):
    assert plot(made(value=value))[0].get_yscale() == scale


def test_one_axes_is_for_the_value_alone_and_the_axes_given_are_used():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert plot(made(), ax=ax) is ax
    assert "work" in ax.get_xlabel()
    _, two = plt.subplots(2)
    assert plot(made(), ax=two)[1] is two[1]
    assert plot_parameters(made(), ax=ax) is ax
    assert plot_accuracy(made(), ax=ax) is ax
    with pytest.raises(InvalidInputError, match=r"ax must be one or two axes; got an array of shape \(3,\)"):
        plot(made(), ax=plt.subplots(3)[1])


def test_of_many_parameters_those_that_moved_most_stand_out():
    ax = plot_parameters(made(n=40))
    assert len(ax.lines) == 40
    named = [line for line in ax.lines if line.get_label().startswith("theta")]
    assert len(named) == 8
    spans = [np.ptp(line.get_ydata()) for line in named]
    others = [np.ptp(line.get_ydata()) for line in ax.lines if line not in named]
    assert min(spans) >= max(others)
    assert ax.get_title().startswith("the 8 of 40")


def test_one_parameter_needs_no_legend_and_tensors_are_drawn_as_well():
    ax = plot_parameters(made(n=1, tensors=True))
    assert ax.get_legend() is None
    assert len(ax.lines) == 1


def test_accuracies_are_drawn_on_a_logarithmic_scale_without_zeros():
    result = made()
    ax = plot_accuracy(result)
    assert ax.get_yscale() == "log"
    assert_array_equal(ax.lines[0].get_ydata(), result.history["grad_norm"])
    assert np.isnan(ax.lines[3].get_ydata()[0])
    assert len(ax.lines) == 4


def test_the_start_alone_can_be_drawn():
    assert len(plot(made(steps=0))) == 2
