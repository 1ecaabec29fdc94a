"""Pictures show what they say."""

import numpy as np
import pytest

import sciml
from sciml.exceptions import InvalidInputError


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((80, 100))
    W[:3] *= 6
    return sciml.diagnose({"block.0.a": W, "small": np.eye(20), "vector": np.ones((12, 40)), "b" * 60: W[:, :64]})


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_layers_stand_at_their_exponents(found):
    ax = found.plot()
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[0] == "block.0.a"
    assert names[-1] == "..." + "b" * 41
    points = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "o"])
    shown = found.alpha_farms[np.isfinite(found.alpha_farms)]
    assert np.isin(np.round(shown, 12), np.round(points, 12)).all()
    assert "noise" in labels(ax)


def test_density_has_its_law_edge_and_spikes(found):
    ax = found.plot(kind="esd", layer="block.0.a")
    assert f"power law {found.alpha_ks[0]:.2f}" in labels(ax)
    assert f"{found.num_spikes[0]} above the noise" in labels(ax)
    edge = next(line for line in ax.lines if line.get_linestyle() == ":")
    assert edge.get_xdata()[0] == found.lambda_plus[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    # The density is one: its integral over the bins is the number of eigenvalues over itself.
    values, edges, _ = ax.patches[0].get_data()
    assert np.nansum(values * np.diff(edges)) == pytest.approx(1)


def test_given_axes_are_used(found):
    import matplotlib.pyplot as plt

    ax = plt.subplots()[1]
    assert found.plot(ax=ax) is ax


def test_what_cannot_be_drawn(found):
    with pytest.raises(InvalidInputError, match="layer must name one of 4 layers; got 'nope'"):
        found.plot_esd("nope")
    with pytest.raises(InvalidInputError, match="was kept; 'a' has not"):
        sciml.diagnose({"a": np.zeros((20, 20))}).plot_esd("a")
    with pytest.raises(InvalidInputError, match="result must have a layer with a FARMS exponent"):
        sciml.diagnose({"a": np.eye(30)}, farms=False).plot()
    with pytest.raises(InvalidInputError, match="kind must be one of 'layers', 'esd'"):
        found.plot(kind="bars")


def test_names_are_no_formulas_and_steer_nothing():
    W = np.random.default_rng(0).standard_normal((40, 40))
    found = sciml.diagnose({"a$x_$b": W, "c\x1b[2J\n": -W})
    axes = [found.plot(), found.plot_esd("a$x_$b"), found.compare(found).plot()]
    for ax in axes:
        ax.figure.draw_without_rendering()
    assert [text.get_text() for text in axes[0].get_yticklabels()] == [r"a\$x_\$b", "c?[2J?"]
