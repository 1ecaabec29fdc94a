"""The checks pass what is right, fail what is wrong, and refuse to pass when they have looked at nothing."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.testing import check_adjoint, check_gradient, check_units, observed_order


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
def test_a_right_adjoint_passes(rng, dtype):
    A = (rng.standard_normal((4, 7)) + 1j * rng.standard_normal((4, 7))).astype(dtype) if "c" in dtype else None
    A = rng.standard_normal((4, 7)).astype(dtype) if A is None else A
    assert check_adjoint(lambda x: A @ x, lambda y: A.conj().T @ y, 7, 4, dtype=dtype) < 100 * np.finfo(dtype).eps


def test_an_adjoint_on_arrays_of_several_axes_and_in_torch_passes():
    check_adjoint(lambda X: np.diff(X, axis=0), lambda Y: -np.diff(Y, axis=0, prepend=0, append=0), (5, 2), (4, 2))
    A = torch.ones(3, 2, dtype=torch.float64)
    check_adjoint(lambda x: A @ torch.as_tensor(x), lambda y: A.T @ torch.as_tensor(y), 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda A, y: A.T @ y,  # no conjugate
        lambda A, y: A.conj().T @ y * (1 + 1e-9),  # a factor a little off
        lambda A, y: -A.conj().T @ y,
        lambda A, y: np.roll(A.conj().T @ y, 1),
        lambda A, y: np.full(3, np.nan),
    ],
)
def test_a_wrong_adjoint_fails(rng, wrong):
    A = rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3))
    with pytest.raises(AssertionError, match="adjoint does not belong to forward: <A x, y> = .*mismatch"):
        check_adjoint(lambda x: A @ x, lambda y: wrong(A, y), 3, 2, dtype="complex128")


def test_adjoint_shapes_and_zeros_are_noticed():
    with pytest.raises(AssertionError, match=r"adjoint must return shape \(3,\); got \(2,\)"):
        check_adjoint(lambda x: x[:2], lambda y: y, 3, 2)
    with pytest.raises(AssertionError, match=r"forward must return shape \(2,\); got \(3,\)"):
        check_adjoint(lambda x: x, lambda y: np.append(y, 0), 3, 2)
    with pytest.raises(AssertionError, match="nothing was tested"):
        check_adjoint(lambda x: 0 * x, lambda y: 0 * y, 3, 3)


def quartic(x):
    return (x**4).sum() + (x[:-1] * x[1:]).sum()


def quartic_gradient(x):
    g = 4 * x**3
    g[:-1] += x[1:]
    g[1:] += x[:-1]
    return g


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_right_gradient_passes_at_any_scale(rng, scale):
    x = scale * rng.standard_normal(6)
    assert check_gradient(lambda x: (x**4).sum() + (x[0] * x[1]) ** 2, x, lambda x: grad(x)) < 1e-8


def grad(x):
    g = 4 * x**3
    g[0] += 2 * x[0] * x[1] ** 2
    g[1] += 2 * x[1] * x[0] ** 2
    return g


def test_gradients_in_torch_by_value_by_function_and_by_autograd(rng):
    x = torch.from_numpy(rng.standard_normal((2, 3)))
    check_gradient(lambda x: x.exp().sum(), x)
    check_gradient(lambda x: x.exp().sum(), x, x.exp())
    check_gradient(lambda x: x.exp().sum(), x, torch.exp)
    with pytest.raises(AssertionError, match="gradient is wrong"):
        check_gradient(lambda x: x.exp().sum(), x, lambda x: x.exp() * (1 + 1e-5))
    # A detached factor hides a part of the derivative from autograd: here half of it.
    with pytest.raises(AssertionError, match="gradient is wrong"):
        check_gradient(lambda x: (x.detach() * x).sum(), x)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: -g,
        lambda g: g * (1 + 1e-4),
        lambda g: g + np.eye(6)[2] * 1e-3,
        lambda g: np.roll(g, 1),
        lambda g: np.full(6, np.nan),
    ],
)
def test_a_wrong_gradient_fails(rng, wrong):
    x = 1 + rng.random(6)
    check_gradient(quartic, x, quartic_gradient)
    with pytest.raises(AssertionError, match="gradient is wrong"):
        check_gradient(quartic, x, lambda x: wrong(quartic_gradient(x)))


def test_gradient_at_a_minimum_at_a_kink_and_of_a_wrong_shape():
    check_gradient(lambda x: (x**2).sum(), np.zeros(3), np.zeros(3))
    with pytest.raises(AssertionError, match="gradient is wrong"):
        check_gradient(lambda x: (x**2).sum(), np.zeros(3), np.full(3, 1e-3))
    # The difference changes with every step as no smooth function's does.
    with pytest.raises(AssertionError, match="too rough to tell"):
        check_gradient(lambda x: float(np.sin(1e6 * x).sum()), np.ones(3), np.ones(3))
    with pytest.raises(AssertionError, match=r"gradient must have the shape of x, \(3,\); got \(2,\)"):
        check_gradient(lambda x: x.sum(), np.ones(3), np.ones(2))


def test_units_pass_for_homogeneous_functions():
    data = [np.array([3.0, -4.0]), np.array([1.0, 2.0])]
    check_units(lambda x, w: np.sqrt((w * x**2).sum()), data, [1, 0], 1)
    check_units(lambda x, w: {"norm": (x**2).sum(), "n_iter": 3}, data, [1, 0], {"norm": 2, "n_iter": 0})
    check_units(lambda x, w: torch.as_tensor(x) * 2, data, [1, 0], 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: np.linalg.norm(x) + 1e-12,  # an absolute number
        lambda x: np.linalg.norm(x) / (np.linalg.norm(x) + 1e-8) * np.linalg.norm(x),
        lambda x: 0.0 if np.linalg.norm(x) < 1e-6 else np.linalg.norm(x),  # an absolute tolerance
        lambda x: np.linalg.norm(x) if np.linalg.norm(x) < 1e6 else np.nan,
    ],
)
def test_an_absolute_number_shows_as_units(wrong):
    with pytest.raises(AssertionError, match="the answer depends on the units: with inputs scaled by 2"):
        check_units(wrong, [np.array([3.0, 4.0])], [1], 1)


def test_units_refuse_to_test_nothing():
    with pytest.raises(AssertionError, match="no input has a degree"):
        check_units(np.sum, [np.ones(2)], [0], 0)
    with pytest.raises(AssertionError, match="all outputs are zero"):
        check_units(lambda x: 0 * x, [np.ones(2)], [1], 1)
    with pytest.raises(AssertionError, match="degrees_out must name the outputs"):
        check_units(lambda x: {"a": x}, [np.ones(2)], [1], {"b": 1})
    with pytest.raises(AssertionError, match="changes its shape"):
        check_units(lambda x: x[x > 1e-3], [np.ones(2)], [1], 1)


@pytest.mark.parametrize("order", [0.5, 1, 2, 4])
def test_the_order_of_a_power_is_its_exponent(order):
    h = np.array([0.5, 0.1, 0.01])
    assert observed_order(h, 7 * h**order) == pytest.approx(order, rel=1e-12)


def test_the_order_of_a_difference_is_that_of_its_error():
    h = 2.0 ** -np.arange(3, 8)
    assert observed_order(h, abs((np.exp(h) - np.exp(-h)) / (2 * h) - 1)) == pytest.approx(2, abs=0.01)
    assert observed_order(h, abs((np.exp(h) - 1) / h - 1)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("h", "errors", "match"),
    [
        ([0.1, 0.2], [1.0], r"one shape \(n,\); got \(2,\) and \(1,\)"),
        ([0.1, 0.2], [1.0, 0.0], "errors must be positive and finite; the entry at index 1 is 0.0"),
        ([0.1, -0.2], [1.0, 1.0], "h must be positive and finite; the entry at index 1 is -0.2"),
        ([0.1, 0.2], [np.nan, 1.0], "the entry at index 0 is nan"),
        ([0.1], [1.0], r"h must hold two different steps at least; got \[0.1\]"),
        ([0.1, 0.1], [1.0, 1.0], "two different steps"),
    ],
)
def test_an_order_from_wrong_numbers_is_refused(h, errors, match):
    with pytest.raises(InvalidInputError, match=match):
        observed_order(h, errors)
