"""One engine after the other, none of them changed by what the tests before did."""

import os
import shutil
import sys

import pytest

HERE = [os.environ.get("CXX"), "g++", "c++", "clang++"]
COMPILER = any(name and shutil.which(name.split()[0]) for name in HERE)


def needs_compiler(engine):
    """Skip where an engine cannot be built; any other reason for it not to run is a failure."""
    if engine in ("compiled", "keops") and not COMPILER:
        pytest.skip("no C++ compiler")
    return engine


@pytest.fixture(params=["dense", "eager", "compiled", pytest.param("keops", marks=pytest.mark.keops)])
def engine(request):
    """The engines."""
    return needs_compiler(request.param)


@pytest.fixture(params=["dense", "eager"])
def simple(request):
    """The engines that compile nothing."""
    return request.param


@pytest.fixture(autouse=True)
def _own_calibration(monkeypatch, tmp_path_factory):
    """Hide the calibration of this user's machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture
def forgetful(monkeypatch):
    """Forget which engines were found unavailable, now and again afterwards."""
    # The package has a function of the module's name.
    module = sys.modules["sciml.linalg.engines.availability"]
    monkeypatch.setattr(module, "_against", {})
    monkeypatch.setattr(module, "_warned", set())
