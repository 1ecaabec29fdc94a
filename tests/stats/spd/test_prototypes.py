"""Prototypes: class means, and filters that find a planted response."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.prototypes import append_prototypes, class_prototypes
from sciml.stats.spd.trials import as_trials


@pytest.fixture
def planted(rng):
    """60 trials; those of class "b" hold one source of known direction and time course."""
    noise = rng.normal(size=(60, 4, 50))
    direction, course = np.array([1.0, -1.0, 0.5, 0.0]), np.exp(-(((np.arange(50) - 20) / 4.0) ** 2))
    y = np.array(["a", "b"])[np.arange(60) % 2]
    return noise + 3 * (y == "b")[:, None, None] * direction[:, None] * course, y, direction, course


def test_means_of_classes_in_sorted_order(planted):
    x, y, _, _ = planted
    series, classes = class_prototypes(as_trials(x), y)
    assert classes.tolist() == ["a", "b"]
    assert_allclose(series, np.concatenate([x[y == "a"].mean(axis=0), x[y == "b"].mean(axis=0)]), atol=1e-14)


def test_xdawn_finds_the_response(planted):
    x, y, _, course = planted
    series, _ = class_prototypes(as_trials(x + 50.0), y, n_components=1)  # an offset is no response
    assert series.shape == (2, 50)
    assert abs(np.corrcoef(series[1], course)[0, 1]) > 0.97


def test_xdawn_bears_dependent_channels_and_units(planted):
    x, y, _, course = planted
    x = x - x.mean(axis=1, keepdims=True)  # average reference
    series, _ = class_prototypes(as_trials(x), y, n_components=2)
    assert abs(np.corrcoef(series[2], course)[0, 1]) > 0.97
    assert_allclose(
        class_prototypes(as_trials(2.0**-20 * x), y, n_components=2)[0], 2.0**-20 * series, rtol=1e-6, atol=1e-13
    )


def test_they_become_the_first_channels(planted):
    x, y, _, _ = planted
    series, _ = class_prototypes(as_trials(x), y)
    trials = append_prototypes(as_trials(x), series)
    assert trials.n_channels == 12
    assert_array_equal(trials.series[7, :8], series)
    assert_array_equal(trials.series[:, 8:], x)


def test_only_training_labels_count(planted):
    """The matrices of new trials do not change with their labels, which nobody asks for."""
    x, y, _, _ = planted
    descriptor = Descriptor(prototypes=True)
    state = descriptor.fit(x[:40], y[:40])
    again = descriptor.fit(x[:40].copy(), y[:40].copy())
    assert_array_equal(state["prototypes"], again["prototypes"])
    expected = np.stack([x[:40][y[:40] == c].mean(axis=0) for c in "ab"]).reshape(8, 50)
    assert_allclose(state["prototypes"][0], expected, atol=1e-14)


def test_the_cross_block_tells_the_classes_apart(planted):
    x, y, direction, _ = planted
    descriptor = Descriptor(prototypes=True)
    M = descriptor.matrices(x[40:], descriptor.fit(x[:40], y[:40]))
    response = np.einsum("i,nij,j->n", direction, M[:, 4:8, 8:], direction)
    assert response[y[40:] == "b"].min() > response[y[40:] == "a"].max()


@pytest.mark.parametrize(
    ("y", "components", "text"),
    [
        (None, None, "y must be given"),
        ([0, 1], None, r"shape \(2,\) for 60"),
        (np.zeros(60), 5, "n_components must be"),
    ],
)
def test_bad_arguments_are_told(planted, y, components, text):
    with pytest.raises(InvalidInputError, match=text):
        class_prototypes(as_trials(planted[0]), y, n_components=components)


def test_lengths_must_agree(planted):
    x, y, _, _ = planted
    with pytest.raises(InvalidInputError, match="lengths from 30 to 50"):
        class_prototypes(as_trials([*x[:-1], x[-1, :, :30]]), y)
    with pytest.raises(InvalidInputError, match="50 samples; trial 1 has 30"):
        append_prototypes(as_trials([x[0], x[1, :, :30]]), np.ones((2, 50)))
