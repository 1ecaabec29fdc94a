"""One graph for all sizes; changed numbers are noticed, unchanged ones cost nothing; little memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum

from .conftest import needs_compiler
from .twins import KERNELS, relative

KERNEL = KERNELS["gaussian"][1]


@pytest.fixture(autouse=True)
def _compiler():
    needs_compiler("compiled")


def graphs():
    return counters["stats"]["unique_graphs"]


def test_one_graph_serves_all_sizes(rng):
    y, x, b = rng.standard_normal((1030, 3)), rng.standard_normal((9000, 3)), rng.standard_normal((9000, 2))
    kernel_sum(y[:2], x[:2], b[:2], kernel=Gaussian(0.8), engine="compiled")
    before = graphs()
    for m, n in [(1, 1), (512, 4096), (513, 4097), (1030, 9000), (3, 8192)]:
        for length in (0.8, torch.tensor(0.8, dtype=torch.float64, requires_grad=True)):
            found = kernel_sum(y[:m], x[:n], b[:n], kernel=Gaussian(length), engine="compiled")
            assert (
                relative(found.detach() if isinstance(found, torch.Tensor) else found, KERNEL(y[:m], x[:n]) @ b[:n])
                < 1e-12
            )
    assert graphs() == before


def test_functions_made_anew_compile_once_and_changed_numbers_compile_anew(rng):
    y, x, b = rng.standard_normal((4, 2)), rng.standard_normal((5, 2)), rng.standard_normal(5)

    def value(scale):
        return kernel_sum(y, x, b, kernel=lambda d: (-scale * (d**2).sum(-1)).exp(), engine="compiled")

    def truth(scale):
        return np.exp(-scale * ((y[:, None] - x[None]) ** 2).sum(-1)) @ b

    np.testing.assert_allclose(value(0.5), truth(0.5), rtol=1e-13)
    before = graphs()
    for _ in range(5):
        np.testing.assert_allclose(value(0.5), truth(0.5), rtol=1e-13)
    assert graphs() == before
    np.testing.assert_allclose(value(0.25), truth(0.25), rtol=1e-13)
    np.testing.assert_allclose(value(np.nextafter(0.25, 1)), truth(0.25), rtol=1e-13)
    assert graphs() == before + 2


def test_parameters_are_no_constants_of_the_graph(rng):
    y, x, b = rng.standard_normal((4, 2)), rng.standard_normal((5, 2)), rng.standard_normal(5)
    found = []
    for scale in (0.5, 0.25, 3.0):
        found.append(
            kernel_sum(y, x, b, kernel=lambda d, s: (-s * (d**2).sum(-1)).exp(), params={"s": scale}, engine="compiled")
        )
        np.testing.assert_allclose(found[-1], np.exp(-scale * ((y[:, None] - x[None]) ** 2).sum(-1)) @ b, rtol=1e-13)
        if len(found) == 1:
            before = graphs()
    assert graphs() == before


PROGRAM = """
import resource, numpy as np
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum
x = np.random.default_rng(0).standard_normal((10_000, 3))
kernel_sum(x[:2000], x[:5000], np.ones(5000), kernel=Gaussian(), engine="{engine}")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kernel_sum(x, x, np.ones(10_000), kernel=Gaussian(), engine="{engine}")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_memory_stays_small(engine):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(engine=engine)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200
