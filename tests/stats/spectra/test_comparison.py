"""Two networks layer by layer."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import sciml
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.stats.spectra import compare


@pytest.fixture
def weights(rng):
    return {name: rng.standard_normal((96, 128)) for name in "ab"}


def test_equal_networks_do_not_differ(weights):
    one = sciml.diagnose(weights)
    found = compare(one, sciml.diagnose(weights))
    assert (found.difference == 0).all()
    assert (found.se == 0).all()
    assert (found.z == 0).all()


def test_pairs_are_far_more_precise_than_single_layers(rng, weights):
    tuned = {name: W + 0.01 * rng.standard_normal(W.shape) for name, W in weights.items()}
    before, after = sciml.diagnose(weights), sciml.diagnose(tuned)
    found = before.compare(after)
    assert found.paired.all()
    assert_allclose(found.difference, after.alpha_farms - before.alpha_farms)
    # An eigenvalue that crosses the threshold moves its window by one in 48: no pair is better than that.
    assert (found.se < 0.8 * before.alpha_se).all()
    assert found.se.min() < 0.1 * before.alpha_se.min()


def test_differences_of_noise_are_within_their_error(rng, weights):
    z = []
    for _ in range(40):
        W = rng.standard_normal((40, 60))
        other = W + 0.2 * rng.standard_normal((40, 60))
        before, after = (sciml.diagnose(X, metrics=["alpha_farms"]) for X in (W, other))
        z.append(compare(before, after).z[0])
    assert np.mean(np.abs(z) < 2.2) > 0.8


def test_other_windows_are_not_paired(rng, weights):
    one = sciml.diagnose(weights)
    other = sciml.diagnose({"a": rng.standard_normal((64, 64)), "c": np.eye(20)})
    found = compare(one, other)
    assert list(found.layer) == ["a"]
    assert not found.paired[0]
    assert_allclose(found.se, np.hypot(one.alpha_se[0], other.alpha_se[0]))
    assert (found.only_a, found.only_b) == (["b"], ["c"])
    assert not compare(one, sciml.diagnose(weights, random_state=1)).paired.any()


def test_bad_input(weights):
    one = sciml.diagnose(weights)
    with pytest.raises(InvalidTypeError, match="b must be a result of diagnose; got dict"):
        compare(one, weights)
    with pytest.raises(InvalidInputError, match="same rule; rho is 0.5 in a and 0.25 in b"):
        compare(one, sciml.diagnose(weights, rho=0.25))
    with pytest.raises(InvalidInputError, match="layers in common"):
        compare(one, sciml.diagnose({"z": weights["a"]}))


def test_saved_and_drawn(tmp_path, weights):
    found = compare(sciml.diagnose(weights), sciml.diagnose(weights))
    assert list(sciml.load(found.save(tmp_path / "c.npz")).layer) == ["a", "b"]
    assert [text.get_text() for text in found.plot().get_yticklabels()] == ["a", "b"]
