"""What goes wrong on real machines gives the right numbers or a named error, and at most one warning.

The faults of a whole process (its memory limit, its compiler, its home) are made in processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum

ENGINES = ["auto", "dense", "eager"]  # the others compile: they are tried in the processes below
KERNEL = Gaussian(lengthscale=0.7)


def truth(y, x, b):
    """Return the sum over all pairs, with real coordinates in the longest precision."""
    y, x = (np.asarray(points).astype(np.longdouble) for points in (y, x))
    squares = ((y[:, None] - x[None]) ** 2).sum(-1)
    return (np.exp(-squares / (2 * 0.7**2)) @ np.asarray(b)).astype(complex if np.iscomplexobj(b) else float)


@pytest.fixture
def data(rng):
    return rng.standard_normal((7, 3)), rng.standard_normal((11, 3)), rng.standard_normal((11, 2))


# ---------------------------------------------------------------- arrays as they come


SHAPES = {
    "as usual": lambda a: a,
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: a[::-1, ::-1],
    "every second": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)[::2, ::2],
    "read-only": lambda a: _locked(a.copy()),
    "integers": lambda a: np.round(3 * a).astype(np.int64),
    "small integers": lambda a: np.round(3 * a).astype(np.int8),
    "booleans": lambda a: a > 0,
    "big endian": lambda a: a.astype(">f8"),
    "lists": lambda a: a.tolist(),
}


def _locked(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_any_layout_and_kind_of_number_gives_the_sum(shape, engine, data):
    y, x, b = (shape(a) for a in data)
    found = kernel_sum(y, x, b, kernel=KERNEL, engine=engine)
    assert found.dtype == np.float64
    # Eleven terms of size one, each exact to a few roundings.
    assert_allclose(found, truth(y, x, np.asarray(b)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_complex_weights_and_half_precision(engine, data):
    y, x, b = data
    assert_allclose(
        kernel_sum(y, x, b + 2j * b, kernel=KERNEL, engine=engine), truth(y, x, b + 2j * b), rtol=1e-13, atol=1e-13
    )
    half = [torch.from_numpy(a).half() for a in data]
    found = kernel_sum(*half, kernel=KERNEL, engine=engine)
    assert found.dtype == torch.float16
    # The answer is rounded to 11 bits once; the sum itself is taken in float32.
    assert_allclose(found.double().numpy(), truth(*half), rtol=2**-10, atol=1e-4)
    single = [a.astype(np.float32) for a in data]
    found = kernel_sum(*single, kernel=KERNEL, engine=engine)
    assert found.dtype == np.float32
    assert_allclose(found, truth(*single), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_one_point_and_points_that_coincide(engine, data):
    y, x, b = data
    none = np.empty((0, 3))
    assert kernel_sum(none, x, b, kernel=KERNEL, engine=engine).shape == (0, 2)
    assert np.array_equal(kernel_sum(y, none, np.empty((0, 2)), kernel=KERNEL, engine=engine), np.zeros((7, 2)))
    one = kernel_sum(x[:1], x[:1], np.array([[2.5]]), kernel=KERNEL, engine=engine)
    assert one.item() == 2.5
    same = np.repeat(x[:1], 5, axis=0)
    assert_allclose(kernel_sum(same, same, np.ones((5, 1)), kernel=KERNEL, engine=engine), np.full((5, 1), 5.0))
    points = torch.tensor(same, requires_grad=True)
    kernel_sum(
        points, torch.tensor(same), torch.ones(5, 1, dtype=torch.float64), kernel=KERNEL, engine=engine
    ).sum().backward()
    assert torch.equal(points.grad, torch.zeros(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_data_at_map_coordinates(offset, engine, data):
    y, x, b = data
    found = kernel_sum(y + offset, x + offset, b, kernel=KERNEL, engine=engine)
    # The coordinates themselves carry eps times the offset; so do their differences.
    assert_allclose(found, truth(y + offset, x + offset, b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_and_infinity_are_named(which, bad, engine, data):
    arrays = [a.copy() for a in data]
    arrays[which][2, 1] = bad
    name = "yxb"[which]
    with pytest.raises(InvalidInputError, match=rf"^{name} must be finite.*\(2, 1\)"):
        kernel_sum(*arrays, kernel=KERNEL, engine=engine)
    arrays = [torch.from_numpy(a) for a in arrays]
    with pytest.raises(InvalidInputError, match=rf"^{name} must be finite"):
        kernel_sum(*arrays, kernel=KERNEL, engine=engine)


@pytest.mark.parametrize(
    "bad", ["text", [["a", "b", "c"]], np.array([[None, 1, 2]]), 1j * np.ones((7, 3)), np.ones((7, 2)), np.ones(())]
)
def test_what_are_no_points_is_named(bad, data):
    _, x, b = data
    with pytest.raises(InvalidInputError):
        kernel_sum(bad, x, b, kernel=KERNEL)


def test_a_budget_that_nothing_fits_is_named_before_anything_is_allocated(data):
    y, x, b = data
    with pytest.raises(MemoryBudgetError, match="memory"):
        kernel_sum(y, x, b, kernel=KERNEL, memory=16)


# ---------------------------------------------------------------- faults of the whole process


HEAD = """
import json, os, resource, warnings
import numpy as np
import torch
import sciml
from sciml.exceptions import FallbackWarning, SciMLError
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum

rng = np.random.default_rng(0)

def attempt(n, **options):
    x, b = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    with warnings.catch_warnings(record=True, action="always") as caught, sciml.trace() as log:
        try:
            found = kernel_sum(x, x, b, kernel=Gaussian(lengthscale=0.7), **options)
        except SciMLError as error:
            return {"error": type(error).__name__, "text": str(error)}
    # Python shows no deprecations of packages by default; torch.compile has some.
    shown = [w for w in caught if not issubclass(w.category, DeprecationWarning)]
    # Ten rows, summed one by one.
    rows = rng.integers(n, size=10)
    exact = np.stack([np.exp(-((x[i] - x) ** 2).sum(1) / (2 * 0.7**2)) @ b for i in rows])
    return {
        "error": None,
        "off": float(np.abs(found[rows] - exact).max() / np.abs(exact).max()),
        "warnings": [f"{w.category.__name__}: {w.message}" for w in shown],
        "engine": log[-1]["engine"],
    }
"""


def outcomes(code, tmp_path, **environment):
    """Run attempts in a process of their own; return what came of each."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SCIML_", "CXX", "CC"))}
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"), "KEOPS_CACHE_FOLDER": str(tmp_path / "keops")}
    env |= {"OMP_NUM_THREADS": "1", "KEOPS_VERBOSE": "0"} | environment
    program = f"{HEAD}\nprint(json.dumps([{code}]))"
    if code.startswith("\n"):
        program = HEAD + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def is_right(outcome, n_warnings=0):
    assert outcome["error"] is None, outcome
    assert outcome["off"] < 1e-12
    assert len(outcome["warnings"]) == n_warnings, outcome["warnings"]
    return True


def test_a_memory_limit_of_the_system_takes_a_smaller_engine_or_names_the_need(tmp_path):
    code = """
attempt(50)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
print(json.dumps([attempt(12_000), attempt(12_000, engine="dense"), attempt(12_000, engine="dense", memory="8GiB")]))
"""
    free_choice, dense, forced = outcomes(code, tmp_path)
    assert is_right(free_choice)
    assert free_choice["engine"] == "eager"
    assert dense["error"] == "MemoryBudgetError"
    assert "engine" in dense["text"]
    assert forced["error"] == "MemoryBudgetError"  # the budget was a lie, and the allocator said so


@pytest.fixture
def no_compiler(tmp_path):
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin")}


def test_without_a_compiler_one_warning_and_the_right_answer(tmp_path, no_compiler):
    code = 'attempt(3000, products=10**9), attempt(3000, products=10**9), attempt(300, engine="compiled")'
    first, second, named, keops = outcomes(code + ', attempt(300, engine="keops")', tmp_path, **no_compiler)
    assert is_right(first, n_warnings=1)
    assert "FallbackWarning: the engine 'compiled' cannot run here" in first["warnings"][0]
    assert is_right(second)
    assert named["error"] == keops["error"] == "EngineUnavailable"


@pytest.mark.slow
@pytest.mark.keops
def test_homes_and_caches_that_cannot_be_written(tmp_path):
    nowhere = "/dev/null/nowhere"
    code = 'attempt(3000, products=10**9), attempt(300, engine="keops"), attempt(300, engine="compiled")'
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KEOPS_CACHE_FOLDER", "TORCHINDUCTOR_CACHE_DIR")
    # What is compiled here runs once: it need not be optimised.
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec {next(filter(shutil.which, ("c++", "g++", "clang++")))} "$@" -O0 -fno-lto\n')
    compiler.chmod(0o755)
    found = outcomes(code, tmp_path, **dict.fromkeys(names, nowhere), CXX=str(compiler))
    assert is_right(found[0], n_warnings=1)
    assert is_right(found[1])
    assert found[2]["error"] == "EngineUnavailable"
    assert "Not a directory" in found[2]["text"]
