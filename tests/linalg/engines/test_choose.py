"""The choice of an engine, its reason, and what happens when an engine cannot run."""

import json
import warnings

import numpy as np
import pytest
import torch

import sciml
from sciml.exceptions import FallbackWarning
from sciml.kernels import Gaussian
from sciml.linalg import EngineUnavailable, kernel_logsumexp, kernel_sum
from sciml.linalg.engines import availability, choose, compiled, keops, thresholds, thresholds_file
from sciml.linalg.engines.choose import DEFAULTS, device_name

Y, X, B = np.linspace(0, 1, 30)[:, None], np.linspace(0, 2, 40)[:, None], np.ones(40)
TRUTH = np.exp(-((Y - X.T) ** 2) / 2) @ B


@pytest.fixture
def limits(monkeypatch):
    """Thresholds to set: ``limits(dense_pairs=0)``."""

    def set_them(**values):
        table = {**DEFAULTS, **values}
        monkeypatch.setattr(choose, "thresholds", lambda device: table)

    return set_them


def chosen(**options):
    with sciml.trace() as log:
        np.testing.assert_allclose(kernel_sum(Y, X, B, kernel=Gaussian(), **options), TRUTH, rtol=1e-13)
    return log[0]["engine"], log[0]["reason"]


def test_few_pairs_take_the_matrix():
    assert chosen() == ("dense", "1.2e+03 pairs are few, and the matrix fits")


def test_more_pairs_take_tiles(limits, monkeypatch):
    monkeypatch.setattr(compiled, "is_ready", lambda *a: False)
    limits(dense_pairs=0)
    assert chosen() == ("eager", "1.2e+03 pairs would not pay for compiling")


def test_many_pairs_pay_for_compiling(limits, monkeypatch):
    monkeypatch.setattr(compiled, "is_ready", lambda *a: False)
    limits(dense_pairs=0, compiled_cold_pairs=1000)
    assert chosen() == ("compiled", "1.2e+03 pairs pay for compiling the tile")
    limits(dense_pairs=0, compiled_cold_pairs=10_000)
    assert chosen(products=10)[0] == "compiled"
    assert chosen(products=5)[0] == "eager"


def test_a_tile_that_is_there_is_used(limits, monkeypatch):
    limits(dense_pairs=0)
    monkeypatch.setattr(compiled, "is_ready", lambda *a: True)
    assert chosen() == ("compiled", "the tile is compiled already")


def test_a_tile_on_disk_pays_sooner(limits, monkeypatch):
    limits(dense_pairs=0, compiled_warm_pairs=1000)
    monkeypatch.setattr(compiled, "is_ready", lambda *a: False)
    monkeypatch.setattr(compiled, "is_cached", lambda *a: True)
    assert chosen() == ("compiled", "1.2e+03 pairs pay for loading the tile that is compiled on disk")
    monkeypatch.setattr(compiled, "is_cached", lambda *a: False)
    assert chosen()[0] == "eager"


def test_a_matrix_that_does_not_fit_a_quarter_of_the_budget_is_not_formed(monkeypatch):
    monkeypatch.setattr(compiled, "is_ready", lambda *a: False)
    y = np.zeros((1500, 1))
    with sciml.trace() as log:
        kernel_sum(y, y, y, kernel=Gaussian(), memory="64MiB")
    assert log[0]["engine"] == "eager"


def test_names_and_the_configuration_decide():
    assert chosen(engine="eager") == ("eager", "asked for by name")
    with sciml.config_context(engine="eager"):
        assert chosen()[0] == "eager"
        assert chosen(engine="dense")[0] == "dense"


def test_traces_tell_shapes_and_derivatives():
    y = torch.from_numpy(Y).requires_grad_()
    with sciml.trace() as log:
        kernel_sum(y, torch.from_numpy(X), torch.from_numpy(B), kernel=Gaussian()).sum().backward()
        kernel_logsumexp(Y, X, kernel_log=Gaussian())
    assert [entry["operation"] for entry in log] == ["kernel_sum", "kernel_sum derivative", "kernel_logsumexp"]
    assert log[0]["shapes"] == ((30, 1), (40, 1), (40, 1))
    assert log[0]["device"] == "cpu"
    assert log[0]["bytes"] > 0
    assert log[0]["seconds"] > 0


def test_calibrations_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert thresholds("cpu") == DEFAULTS
    thresholds_file().parent.mkdir()
    thresholds_file().write_text(json.dumps({device_name("cpu"): {"dense_pairs": 5.0, "other": 1}}))
    assert thresholds("cpu") == {**DEFAULTS, "dense_pairs": 5.0}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"x": {"dense_pairs": "many"}}'])
def test_a_damaged_calibration_counts_as_none(tmp_path, monkeypatch, text):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    thresholds_file().parent.mkdir()
    thresholds_file().write_text(text)
    assert thresholds("cpu") == DEFAULTS


def test_without_a_compiler_one_warning_and_the_right_answer(limits, forgetful, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no C++ compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiled, "_ready", {})
    limits(dense_pairs=0, compiled_cold_pairs=1)
    with pytest.warns(FallbackWarning, match="'compiled' cannot run here .*no C.. compiler found.; 'eager'") as caught:
        np.testing.assert_allclose(kernel_sum(Y, X, B, kernel=Gaussian()), TRUTH, rtol=1e-13)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen()[0] == "eager"
    assert "no C++ compiler found" in availability()["compiled"]
    with pytest.raises(
        EngineUnavailable, match="engine='compiled' cannot run here: RuntimeError: no C.. compiler found"
    ):
        kernel_sum(Y, X, B, kernel=Gaussian(), engine="compiled")


def test_keops_that_cannot_be_imported_is_named(forgetful, monkeypatch):
    def broken():
        raise ModuleNotFoundError("No module named 'pykeops'")

    monkeypatch.setattr(keops, "_lazy_tensor", broken)
    keops.self_check.cache_clear()
    with pytest.raises(EngineUnavailable, match="engine='keops' cannot run here: ModuleNotFoundError.*show_versions"):
        kernel_sum(Y, X, B, kernel=Gaussian(), engine="keops")


def test_the_error_survives_a_pickle():
    import pickle

    error = pickle.loads(pickle.dumps(EngineUnavailable("keops", "why")))
    assert (error.engine, error.reason) == ("keops", "why")


def test_derivatives_are_compiled_earlier_than_sums(monkeypatch, rng):
    # 2,500 pairs; a pair of a derivative counts eight times.
    limits = {"dense_pairs": 1.0, "compiled_cold_pairs": 10_000.0, "compiled_warm_pairs": 10_000.0, "cuda_pairs": 1e9}
    monkeypatch.setattr(choose, "thresholds", lambda device: limits)
    monkeypatch.setattr(compiled, "_ready", {})
    y = torch.from_numpy(rng.standard_normal((50, 1))).requires_grad_()
    with sciml.trace() as log:
        kernel_sum(y, y.detach(), y.detach(), kernel=Gaussian(0.7)).sum().backward()
    assert [(entry["operation"], entry["engine"]) for entry in log] == [
        ("kernel_sum", "eager"),
        ("kernel_sum derivative", "compiled"),
    ]
