"""Slow, obvious twins of the reductions: the whole matrix in float64, by NumPy."""

import numpy as np

from sciml.kernels import (
    Gaussian,
    InverseMultiquadric,
    Laplace,
    Matern12,
    Matern32,
    Matern52,
    RationalQuadratic,
    SpectralMixture,
)

R3, R5 = np.sqrt(3.0), np.sqrt(5.0)

#: Relative differences that every engine keeps, in the largest entry.
TOLERANCE = {"float32": 5e-6, "float64": 1e-12}


def differences(y, x):
    return np.asarray(y, np.float64)[..., :, None, :] - np.asarray(x, np.float64)[..., None, :, :]


def distance(y, x):
    return np.sqrt((differences(y, x) ** 2).sum(-1))


def _wave(y, x):
    r = differences(y, x).sum(-1)
    q = (differences(y, x) ** 2).sum(-1)
    return 0.7 * np.exp(-0.25 * q) * np.cos(2 * np.pi * 0.3 * r) + 0.4 * np.exp(-q) * np.cos(2 * np.pi * 0.1 * r)


def mixture(d):
    return SpectralMixture([0.7, 0.4], np.outer([0.3, 0.1], np.ones(d)), np.outer([0.5, 1.0], np.ones(d)))


#: Name to (kernel for d coordinates, its values in NumPy, whether it is positive).
KERNELS = {
    "gaussian": (lambda d: Gaussian(0.8), lambda y, x: np.exp(-((distance(y, x) / 0.8) ** 2) / 2), True),
    "matern12": (lambda d: Matern12(0.8), lambda y, x: np.exp(-distance(y, x) / 0.8), True),
    "matern32": (
        lambda d: Matern32(0.8),
        lambda y, x: (1 + R3 * distance(y, x) / 0.8) * np.exp(-R3 * distance(y, x) / 0.8),
        True,
    ),
    "matern52": (
        lambda d: Matern52(0.8),
        lambda y, x: (
            (1 + R5 * distance(y, x) / 0.8 + 5 / 3 * (distance(y, x) / 0.8) ** 2) * np.exp(-R5 * distance(y, x) / 0.8)
        ),
        True,
    ),
    "laplace": (
        lambda d: Laplace(0.8),
        lambda y, x: np.exp(-np.abs(differences(y, x)).sum(-1) / 0.8),
        True,
    ),
    "rational quadratic": (
        lambda d: RationalQuadratic(0.8, alpha=1.5),
        lambda y, x: (1 + (distance(y, x) / 0.8) ** 2 / 3) ** -1.5,
        True,
    ),
    "inverse multiquadric": (
        lambda d: InverseMultiquadric(0.8),
        lambda y, x: (1 + (distance(y, x) / 0.8) ** 2) ** -0.5,
        True,
    ),
    "mixture": (mixture, _wave, False),
}


def logsumexp(s):
    """Over the last axis; -inf where there is nothing but -inf."""
    largest = s.max(-1, keepdims=True, initial=-np.inf)
    base = np.where(np.isinf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):
        return base[..., 0] + np.log(np.exp(s - base).sum(-1))


def relative(found, truth):
    """The largest difference, relative to the largest entry."""
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    assert found.shape == truth.shape, (found.shape, truth.shape)
    return np.abs(found - truth).max(initial=0) / max(np.abs(truth).max(initial=0), np.finfo(float).tiny)
