"""Penalties of linear models learned end to end: values that others have reached, with fewer units."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes, load_digits

from sciml.inverse.bilevel import Auto, DataCleaning, HeldOut, LinearModel, hypergradient, learn_hyperparameters
from sciml.inverse.bilevel.counter import Counter
from sciml.optimize import newton_cg


def exact(lower, upper, theta):
    """Return the value with the lower level solved nearly to rounding."""
    theta, idx = torch.as_tensor(theta), torch.arange(lower.n_samples)

    def at(x, rows):
        return lower.at(x, theta, rows, Counter(), value=True)

    x = torch.zeros(lower.n_samples, *lower.shape, dtype=torch.float64)
    return float(upper.value(newton_cg(at, x, gtol=1e-9, max_iter=200).x, theta, idx).mean())


def digits():
    """Return multinomial regression with a penalty for each of 640 weights, and its validation loss."""
    X, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(X))  # the recorded experiment drew with it
    X, y = X[order] / 16, y[order]
    lower = LinearModel(X[:900], y[:900], loss="multinomial", penalty="weight")
    return lower, HeldOut("multinomial", X[900:1350], y[900:1350])


def test_640_penalties_of_digits():
    lower, upper = digits()
    assert_allclose(exact(lower, upper, np.full(640, -3.0)), 0.9407, atol=5e-5)  # recorded
    result = learn_hyperparameters(
        lower,
        upper,
        np.full(640, -3.0),
        bounds=(-10, 8),
        max_units=4000,
        callback=lambda n_iter, step: step.value.value + step.value.value_bar <= 0.0522,
    )
    # Recorded: HOAG with accuracies that fall geometrically reaches 0.0522 after 1397 gradients and products that it
    # counts, and 12 090 more that it does not; the method measured here after 1342 in all.
    assert result.status == "stopped"
    assert exact(lower, upper, result.theta) <= 0.0522
    assert result.n_units <= 1800
    assert abs(exact(lower, upper, result.theta) - result.value) <= result.value_bar
    assert np.all((result.theta >= -10) & (result.theta <= 8))


@pytest.mark.parametrize("penalty", ["single", "feature"])
def test_ridge_on_folds_is_certified_and_stationary(penalty):
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    own = np.arange(len(X)) % 5
    lower = LinearModel([X[own != k] for k in range(5)], [y[own != k] for k in range(5)], penalty=penalty)
    upper = HeldOut("squared", [X[own == k] for k in range(5)], [y[own == k] for k in range(5)])
    result = learn_hyperparameters(lower, upper, np.zeros(lower.n_hyper), bounds=(-12, 12))
    assert result.status == "converged"
    assert result.certified
    assert abs(exact(lower, upper, result.theta) - result.value) <= result.value_bar
    inside = np.abs(result.theta) < 11.9
    for j in np.flatnonzero(inside):
        for step in (-0.1, 0.1):
            nearby = result.theta + step * (np.arange(lower.n_hyper) == j)
            assert exact(lower, upper, nearby) >= result.value - result.value_bar


@pytest.mark.parametrize("case", ["logistic", "multinomial", "cleaning"])
def test_implicit_gradients_equal_finite_differences(case, rng):
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 2 if case != "multinomial" else 3, 30)
    if case == "cleaning":
        lower, upper = DataCleaning(X[:12], y[:12], c=0.1), HeldOut("logistic", X[12:], y[12:])
    else:
        K = None if case == "logistic" else 3
        lower = LinearModel(X[:18], y[:18], loss=case, penalty="weight", n_classes=K)
        upper = HeldOut(case, X[18:], y[18:], n_classes=K)
    theta = rng.standard_normal(lower.n_hyper) - 1
    z, info = hypergradient(lower, upper, theta, tol=1e-9)
    h, differences = 1e-4, []
    for e in np.eye(lower.n_hyper):
        ends = [exact(lower, upper, theta + s * h * e) for s in (-2, -1, 1, 2)]
        differences.append((ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h))
    # Fourth order in h, and rounding of the values over h.
    assert_allclose(z, differences, rtol=1e-6, atol=1e-6 * np.abs(z).max())


def test_a_batch_in_chunks_takes_the_same_steps():
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((20, 5)) for _ in range(4)]
    y = [A[:, 0] + rng.standard_normal(20) for A in X]
    lower = LinearModel(X, y, penalty="feature")
    upper = HeldOut("squared", X[::-1], y[::-1])
    whole = learn_hyperparameters(lower, upper, np.zeros(5), bounds=(-9, 9), max_iter=5, on_failure="ignore")
    chunks = learn_hyperparameters(
        lower, upper, np.zeros(5), bounds=(-9, 9), max_iter=5, on_failure="ignore", batch_size=3
    )
    assert np.array_equal(whole.thetas, chunks.thetas)
    assert math.isclose(whole.n_units, chunks.n_units, rel_tol=1e-12)


@pytest.mark.parametrize("direction", ["gn", "lbfgs", "bb"])
def test_all_directions_find_the_same_minimum(direction):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 6))
    y = X @ np.array([2.0, 1, 0, 0, 0, 0]) + rng.standard_normal(60)
    lower, upper = LinearModel(X[:40], y[:40]), HeldOut("squared", X[40:], y[40:])
    result = learn_hyperparameters(lower, upper, np.array([1.0]), method=Auto(direction=direction), bounds=(-12, 12))
    grid = [exact(lower, upper, np.array([t])) for t in np.linspace(-12, 3, 301)]
    assert result.value <= min(grid) * (1 + 1e-9)
