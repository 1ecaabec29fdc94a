"""Claims about the nonlinear term: its derivatives are right however it is written, and mistakes are named."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde.nonlinear import NonlinearTerm

N, D = 7, 2


def arrays(rng, m=1):
    """Points (n, d), values (n, m) and gradients (n, m, d)."""
    return rng.random((N, D)), rng.standard_normal((N, m)), rng.standard_normal((N, m, D))


def test_a_plain_function_is_differentiated(rng):
    X, u, grad = arrays(rng)
    term = NonlinearTerm(lambda X, u: X[:, 0] * u**3, D)
    value, by_u, by_grad = term.linearised(X, u, grad)
    assert not term.takes_gradient
    assert by_grad is None
    assert (value.shape, by_u.shape) == ((N, 1), (N, 1, 1))
    assert_allclose(value[:, 0], X[:, 0] * u[:, 0] ** 3, rtol=1e-14)
    assert_allclose(by_u[:, 0, 0], 3 * X[:, 0] * u[:, 0] ** 2, rtol=1e-14)
    assert_allclose(term.values(X, u, grad), value, rtol=1e-14)


def test_a_given_derivative_is_taken(rng):
    X, u, grad = arrays(rng)
    calls = []

    def slope(X, u):
        calls.append(len(u))
        return 3 * u**2

    value, by_u, by_grad = NonlinearTerm((lambda X, u: u**3, slope), D).linearised(X, u, grad)
    assert calls
    assert by_grad is None
    assert_array_equal(value[:, 0], u[:, 0] ** 3)
    assert_array_equal(by_u[:, 0, 0], 3 * u[:, 0] ** 2)


@pytest.mark.parametrize("given", [False, True])
def test_a_gradient_is_differentiated_too(given, rng):
    X, u, grad = arrays(rng)

    def N_(X, u, grad):
        return u * grad[:, 0] + (grad**2).sum(1)

    def dN(X, u, grad):
        return grad[:, 0], np.stack([u + 2 * grad[:, 0], 2 * grad[:, 1]], axis=1)

    term = NonlinearTerm((N_, dN) if given else N_, D)
    _, by_u, by_grad = term.linearised(X, u, grad)
    v, g = u[:, 0], grad[:, 0]
    assert term.takes_gradient
    assert by_grad.shape == (N, 1, 1, D)
    assert_allclose(by_u[:, 0, 0], g[:, 0], rtol=1e-14)
    assert_allclose(by_grad[:, 0, 0], np.stack([v + 2 * g[:, 0], 2 * g[:, 1]], axis=1), rtol=1e-14)


def system_value(X, u, grad):
    stack = torch.stack if isinstance(u, torch.Tensor) else np.stack
    return stack([u[:, 0] * u[:, 1], u[:, 1] ** 2 + grad[:, 0, 1], X[:, 0] * grad[:, 1, 0] * u[:, 0]], 1)


def system_slopes(X, u, grad):
    by_u, by_grad = np.zeros((len(X), 3, 2)), np.zeros((len(X), 3, 2, 2))
    by_u[:, 0] = u[:, ::-1]
    by_u[:, 1, 1] = 2 * u[:, 1]
    by_u[:, 2, 0] = X[:, 0] * grad[:, 1, 0]
    by_grad[:, 1, 0, 1] = 1
    by_grad[:, 2, 1, 0] = X[:, 0] * u[:, 0]
    return by_u, by_grad


@pytest.mark.parametrize("given", [False, True])
def test_a_system_of_three_equations_in_two_unknowns(given, rng):
    X, u, grad = arrays(rng, 2)
    term = NonlinearTerm((system_value, system_slopes) if given else system_value, D, 2, 3, system=True)
    value, by_u, by_grad = term.linearised(X, u, grad)
    assert (value.shape, by_u.shape, by_grad.shape) == ((N, 3), (N, 3, 2), (N, 3, 2, 2))
    assert_allclose(value, system_value(X, u, grad), rtol=1e-14)
    for got, want in zip((by_u, by_grad), system_slopes(X, u, grad), strict=True):
        assert_allclose(got, want, rtol=1e-14, atol=1e-15)


def test_numpy_alone_is_differentiated_by_complex_steps(rng):
    X, u, grad = arrays(rng)

    def N_(X, u, grad):
        return np.exp(np.asarray(u)) * np.asarray(grad)[:, 1] ** 2 if not isinstance(u, torch.Tensor) else refuse()

    def refuse():
        raise TypeError("arrays only")

    term = NonlinearTerm(N_, D)
    with pytest.warns(FallbackWarning, match=r"could not be differentiated by torch \(arrays only\); complex steps"):
        value, by_u, by_grad = term.linearised(X, u, grad)
    assert_allclose(by_u[:, 0], value, rtol=1e-14)
    assert_allclose(by_grad[:, 0, 0, 1], 2 * np.exp(u[:, 0]) * grad[:, 0, 1], rtol=1e-14)
    assert_array_equal(by_grad[:, 0, 0, 0], 0)
    again = term.linearised(X, u, grad)[1]  # and it warns only once
    assert_array_equal(again, by_u)


def test_what_is_not_analytic_is_no_matter_for_complex_steps(rng):
    X, u, grad = arrays(rng)

    def N_(X, u):
        if isinstance(u, torch.Tensor):
            raise TypeError("arrays only")
        return np.abs(u) ** 2

    with pytest.raises(InvalidInputError, match="could not be differentiated .*: it differs from central differences"):
        NonlinearTerm(N_, D).linearised(X, u, grad)


def test_tensors_alone_will_do(rng):
    X, u, grad = arrays(rng)
    term = NonlinearTerm(lambda X, u: torch.sin(u) * u.exp(), D)
    want = np.sin(u) * np.exp(u)
    assert_allclose(term.values(X, u, grad), want, rtol=1e-14)
    value, by_u, _ = term.linearised(X, u, grad)
    assert_allclose(value, want, rtol=1e-14)
    assert_allclose(by_u[:, 0], want + np.cos(u) * np.exp(u), rtol=1e-13)


def test_gradients_that_are_switched_off_do_no_harm(rng):
    X, u, grad = arrays(rng)
    term = NonlinearTerm(lambda X, u: u**2, D)
    with torch.no_grad():
        assert_allclose(term.linearised(X, u, grad)[1][:, 0], 2 * u, rtol=1e-15)


@pytest.mark.parametrize(
    ("function", "value", "slope"),
    [
        (lambda X, u: 0 * u + 2.0, 2.0, 0.0),
        (lambda X, u: 1.5 * u, None, 1.5),
        (lambda X, u: torch.ones_like(torch.as_tensor(u)), 1.0, 0.0),  # a tensor that does not depend on u
        (lambda X, u: torch.tensor(2.0, dtype=torch.float64), 2.0, 0.0),
    ],
)
def test_a_constant_or_linear_term_has_a_constant_derivative(function, value, slope, rng):
    X, u, grad = arrays(rng)
    got, by_u, _ = NonlinearTerm(function, D).linearised(X, u, grad)
    assert_allclose(got, 1.5 * u if value is None else np.full_like(u, value))
    assert_array_equal(by_u, slope)


def test_the_callers_arrays_are_left_alone(rng):
    X, u, grad = arrays(rng)
    before = [a.copy() for a in (X, u, grad)]
    NonlinearTerm(lambda X, u, grad: u**2 + grad[:, 0], D).linearised(X, u, grad)
    for a, b in zip((X, u, grad), before, strict=True):
        assert_array_equal(a, b)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.0, InvalidTypeError, "nonlinear must be a callable N.X, u., or a pair .N, dN.; got float. Write"),
        ((np.sin, 3.0), InvalidTypeError, "pair of callables .*; got .'ufunc', 'float'.. Leave dN out"),
        ((np.sin,), InvalidTypeError, "pair of callables .*; got .'ufunc'."),
        (lambda u: u**2, InvalidInputError, r"must take \(X, u\) or \(X, u, grad\); got a function of \(u\)"),
        (lambda X, u, g, h: u, InvalidInputError, r"got a function of \(X, u, g, h\)"),
    ],
)
def test_what_is_no_term_is_refused(value, error, text):
    with pytest.raises(error, match=text):
        NonlinearTerm(value, D)


@pytest.mark.parametrize("slope", [lambda X, u: 2 * u**2, lambda X, u: -3 * u**2, lambda X, u: 0.999 * 3 * u**2])
def test_a_wrong_derivative_is_refused(slope, rng):
    X, u, grad = arrays(rng)
    with pytest.raises(InvalidInputError, match=r"the derivative given with nonlinear is not that of N: it differs"):
        NonlinearTerm((lambda X, u: u**3, slope), D).linearised(X, u, grad)


def test_a_derivative_that_is_wrong_except_at_zero_is_refused_later(rng):
    X, u, grad = arrays(rng)
    term = NonlinearTerm((lambda X, u: u**3, lambda X, u: u**2), D)
    assert_array_equal(term.linearised(X, 0 * u, grad)[1], 0)
    with pytest.raises(InvalidInputError, match="is not that of N"):
        term.linearised(X, u, grad)


def test_a_derivative_that_is_right_passes_at_zero(rng):
    X, u, grad = arrays(rng)
    term = NonlinearTerm((lambda X, u: u**3 + u**2, lambda X, u: 3 * u**2 + 2 * u), D)
    for _ in range(4):
        assert_array_equal(term.linearised(X, 0 * u, grad)[1], 0)


def test_a_wrong_derivative_in_the_gradient_is_refused(rng):
    X, u, grad = arrays(rng)
    pair = (lambda X, u, grad: u * grad[:, 0], lambda X, u, grad: (grad[:, 0], np.stack([u, u], 1)))
    with pytest.raises(InvalidInputError, match="is not that of N"):
        NonlinearTerm(pair, D).linearised(X, u, grad)


def test_a_derivative_of_the_wrong_shape_is_refused(rng):
    X, u, grad = arrays(rng)
    with pytest.raises(InvalidInputError, match=r"the derivative of nonlinear must return shape \(7,\) .* got \(3,\)"):
        NonlinearTerm((lambda X, u: u**3, lambda X, u: np.ones(3)), D).linearised(X, u, grad)
    with pytest.raises(InvalidInputError, match=r"must return a pair .*; got ndarray"):
        NonlinearTerm((lambda X, u, grad: u**3, lambda X, u, grad: 3 * u**2), D).linearised(X, u, grad)
    with pytest.raises(InvalidInputError, match=r"in grad.* must return shape \(7, 2\) .* got \(7, 3\)"):
        NonlinearTerm((lambda X, u, g: u**3, lambda X, u, g: (3 * u**2, np.ones((7, 3)))), D).linearised(X, u, grad)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda X, u: u[:3] ** 2, r"nonlinear must return shape \(7,\) for 7 points; got \(3,\)"),
        (lambda X, u: u[:, None] * u[None], r"nonlinear must return shape \(7,\) for 7 points; got \(7, 7\)"),
    ],
)
def test_a_wrong_shape_is_refused(function, text, rng):
    X, u, grad = arrays(rng)
    with pytest.raises(InvalidInputError, match=text):
        NonlinearTerm(function, D).linearised(X, u, grad)
    with pytest.raises(InvalidInputError, match=text):
        NonlinearTerm(function, D).values(X, u, grad)


def test_a_system_must_return_one_column_an_equation(rng):
    X, u, grad = arrays(rng, 2)
    with pytest.raises(InvalidInputError, match=r"nonlinear must return shape \(7, 2\) for 7 points; got \(7,\)"):
        NonlinearTerm(lambda X, u: u[:, 0] ** 2, D, 2, 2, system=True).linearised(X, u, grad)


def test_overflow_is_handed_on_and_does_not_warn(rng):
    X, u, grad = arrays(rng)
    u[2] = 1e4
    term = NonlinearTerm((lambda X, u: np.exp(u), lambda X, u: np.exp(u)), D)
    value, by_u, _ = term.linearised(X, u, grad)
    assert np.isinf(value[2, 0])
    assert np.isinf(by_u[2, 0, 0])
    assert np.isfinite(np.delete(value, 2)).all()


def test_words_are_no_numbers(rng):
    X, u, grad = arrays(rng)
    with pytest.raises(InvalidInputError, match="nonlinear must return real numbers; got dtype <U1"):
        NonlinearTerm((lambda X, u: np.full(len(u), "a"), lambda X, u: u), D).linearised(X, u, grad)


def test_a_slope_of_zero_is_no_mistake(rng):
    X, u, grad = arrays(rng)
    cube = (lambda X, u: u**3, lambda X, u: 3 * u**2)
    assert_array_equal(NonlinearTerm(cube, D).linearised(X, 0 * u, 0 * grad)[1], 0.0)
    with pytest.raises(InvalidInputError, match="is not that of N"):
        NonlinearTerm((cube[0], lambda X, u: 3 * u**2 + 0.1), D).linearised(X, 0 * u, 0 * grad)
