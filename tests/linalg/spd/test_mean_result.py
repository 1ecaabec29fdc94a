"""What all means check at their door."""

import numpy as np
import pytest
import torch

from sciml.linalg.spd import MeanResult
from sciml.linalg.spd.mean_result import enter_matrices, power_of_four


@pytest.mark.parametrize("value", [1e-300, 3e-14, 0.4, 1.0, 2.1, 7.0, 1e14, 1e300])
def test_the_scale_is_a_power_of_four_near_the_value(value):
    scale = power_of_four(value)
    assert np.frexp(scale)[0] == 0.5
    assert int(np.log2(scale)) % 2 == 0
    assert 0.5 <= value / scale <= 2
    assert power_of_four(0.0) == 1.0


def test_scaling_rounds_nothing_and_weights_sum_to_one(rng):
    X = 1e-12 * np.stack([np.eye(3) + k for k in range(3)])
    (scaled, w), leave, eps, scale = enter_matrices(X, [3, 2, 1])
    assert np.array_equal(leave(scaled[1]), X[1])
    assert float(w.sum()) == pytest.approx(1, rel=1e-15)
    assert float(w[0]) == pytest.approx(0.5, rel=1e-15)
    assert eps == np.finfo(float).eps


def test_a_result_shows_its_geometry():
    result = MeanResult(mean=torch.eye(2), metric="airm")
    assert result.converged
    assert result.metric == "airm"
    assert result.residual == 0
    assert result.to_xarray()["mean"].dims == ("row", "column")
