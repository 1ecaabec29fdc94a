"""The result: what it holds, on disk and as a data set."""

import numpy as np
import torch
from numpy.testing import assert_array_equal

from sciml.inverse.bilevel import learn_hyperparameters
from sciml.inverse.bilevel.result import BilevelResult
from sciml.results import load

from .energies import regression

CASE = regression("logistic", seed=1, B=2, d=3)
RESULT = CASE.learn([-1.0, 0.5], tol=1e-3)


def test_fields_have_their_shapes():
    n, k = 2, RESULT.n_iter + 1
    assert RESULT.theta.shape == RESULT.grad.shape == (n,)
    assert RESULT.thetas.shape == (k, n)
    assert RESULT.x.shape == (2, 3)
    assert RESULT.n_outer == RESULT.n_iter
    for name in ("value", "value_bar", "grad_norm", "criterion", "n_units", "n_lower", "n_cg", "eps", "delta", "step"):
        assert RESULT.history[name].shape == (k,)
    assert RESULT.history["step"][0] == 0
    moved = np.linalg.norm(np.diff(RESULT.thetas, axis=0), axis=1)
    np.testing.assert_allclose(RESULT.history["step"][1:], moved, rtol=1e-12)
    assert RESULT.certified is True
    assert "converged" in repr(RESULT)
    assert RESULT.settings["method"] == "Auto"
    assert RESULT.settings["n_parameters"] == n
    assert RESULT.settings["n_samples"] == 2


def test_the_trace_is_a_data_set_over_the_outer_steps():
    trace = RESULT.trace
    assert trace.sizes["outer"] == RESULT.n_iter + 1
    assert_array_equal(trace["history_value"], RESULT.history["value"])
    assert_array_equal(trace["thetas"], RESULT.thetas)
    assert trace["thetas"].dims == ("outer", "parameter")


def test_a_result_comes_back_from_disk_as_it_was(tmp_path):
    path = tmp_path / "result.npz"
    RESULT.save(path)
    again = load(path)
    assert isinstance(again, BilevelResult)
    for name in ("theta", "grad", "thetas", "x"):
        assert_array_equal(getattr(again, name), getattr(RESULT, name))
    for name in ("value", "value_bar", "grad_bar", "certified", "status", "message", "n_units", "n_iter", "report"):
        assert getattr(again, name) == getattr(RESULT, name)
    assert_array_equal(again.history["n_units"], RESULT.history["n_units"])


def test_tensors_come_back_as_tensors(tmp_path):
    tensors = learn_hyperparameters(
        CASE.lower, CASE.upper, torch.zeros(2, dtype=torch.float64), x0=CASE.x0, max_iter=1, on_failure="ignore"
    )
    tensors.save(tmp_path / "tensors.npz")
    again = load(tmp_path / "tensors.npz")
    assert isinstance(again.theta, torch.Tensor)
    assert torch.equal(again.x, tensors.x)
