"""Pictures show the numbers."""

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.kernels import Gaussian
from sciml.solvers.gp_regression import fit_gp


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def fit(rng, d, q=None):
    X = rng.uniform(0, 3, (20, d))
    y = np.sin(X[:, 0]) if q is None else np.sin(X[:, :1] * np.arange(1, q + 1))
    return fit_gp(X, y, Gaussian(0.9), noise=0.1, learn="none")


def test_line_shows_mean_and_bands(rng):
    gp = fit(rng, 1)
    ax = gp.plot(n_points=50)
    x, mean = ax.lines[0].get_data()
    assert_allclose(mean, gp.mean(x[:, None]), atol=1e-12)
    band = ax.collections[1].get_paths()[0].vertices
    assert_allclose(band[:, 1].max(), np.max(mean + 2 * gp.predict(x[:, None]).std), rtol=1e-12)


def test_maps_show_mean_and_deviation(rng):
    gp = fit(rng, 2)
    axes = gp.plot(n_points=12)
    values = axes[0].collections[0].get_array()
    assert np.asarray(values).shape == (12, 12)
    assert not np.allclose(values, axes[1].collections[0].get_array())
    assert_allclose(np.max(axes[1].collections[0].get_array()), 1, rtol=0.3)  # a corner without data: the prior's
    assert len(axes) == 2


def test_output_is_chosen(rng):
    gp = fit(rng, 1, q=2)
    _, ax = plt.subplots()
    assert gp.plot(ax=ax, output=1, n_points=20) is ax
    x, mean = ax.lines[0].get_data()
    assert_allclose(mean, gp.mean(x[:, None])[:, 1], atol=1e-12)


def test_what_cannot_be_drawn_is_named(rng):
    with pytest.raises(InvalidInputError, match="at most two dimensions to be drawn; got 3"):
        fit(rng, 3).plot()
    with pytest.raises(InvalidInputError, match="output must be one of 0 to 0; got 1"):
        fit(rng, 1).plot(output=1)
    with pytest.raises(InvalidInputError, match="ax must hold 2 axes for 2 dimensions; got 1"):
        fit(rng, 2).plot(ax=plt.subplots()[1])
