"""What is peculiar to KeOps: damage to its cache is named."""

import pytest

from sciml.kernels import Gaussian
from sciml.linalg import EngineUnavailable, kernel_sum
from sciml.linalg.engines import keops


def test_a_damaged_cache_is_named(forgetful, monkeypatch):
    def broken(*args):
        raise ImportError("pykeops_cpp.so: file too short")

    monkeypatch.setattr(keops, "_reduce", broken)
    monkeypatch.setattr(keops, "self_check", lambda device: None)
    with pytest.raises(EngineUnavailable, match="engine='keops' cannot run here: ImportError: .*file too short"):
        kernel_sum([[0.0]], [[1.0]], [1.0], kernel=Gaussian(), engine="keops")
