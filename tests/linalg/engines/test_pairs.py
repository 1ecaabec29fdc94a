"""Pair functions of users: both forms, parameters, numbers from outside, and what would be lost silently."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum
from sciml.linalg.engines.pairs import prepare

from .conftest import needs_compiler


@pytest.fixture
def data(rng):
    y, x, b = rng.standard_normal((6, 2)), rng.standard_normal((5, 2)), rng.standard_normal(5)
    x[0] = y[0]
    return y, x, b


def twin(data, function):
    y, x, b = data
    return function(y[:, None] - x[None]) @ b


FORMS = {
    "two points": lambda y, x: (-((y - x) ** 2).sum(-1)).exp(),
    "the difference": lambda d: (-(d**2).sum(-1)).exp(),
    "other names": lambda p, q: (-((p - q) ** 2).sum(-1)).exp(),
    "numpy": lambda d: np.exp(-np.sum(d**2, axis=-1)),
    "torch": lambda d: torch.exp(-torch.sum(torch.square(d), -1)),
    "np.square": lambda d: np.exp(-np.square(d).sum()),
    "coordinates": lambda d: (-(d[0] * d[0] + d[-1] ** 2)).exp(),
    "a loop": lambda d: np.exp(-sum(c * c for c in d)),
    "norms": lambda d: (-(d.norm2() ** 2) / 2 - d.sqnorm2() / 2).exp(),
    "inner product": lambda d: (-(d | d)).exp(),
    "sqdist": lambda y, x: (-y.sqdist(x)).exp(),
    "whole numbers": lambda d: (-(d**2).sum(-1) * 6 / 2 / 3).exp(),
    "numpy numbers": lambda d: (np.float64(-1) * (d ** np.int64(2)).sum(-1) / np.float64(1)).exp(),
    "arrays": lambda d: (-(((d - np.zeros(2)) * np.ones(2)) ** 2).sum(-1)).exp(),
    "tensors": lambda d: (torch.tensor(-1.0, dtype=torch.float64) * ((0 - d) ** 2).sum(-1)).exp(),
    "a default": lambda y, x, s=1.0: (-s * ((y - x) ** 2).sum(-1)).exp(),
    "a power of e": lambda d: np.e ** (-(d**2).sum(-1)),
    "an odd power": lambda d: (-(abs(d[0]) ** 2.0) - (d[1] ** 2) ** 1.0).exp(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(simple, form, data):
    found = kernel_sum(*data, kernel=FORMS[form], engine=simple)
    np.testing.assert_allclose(found, twin(data, lambda d: np.exp(-(d**2).sum(-1))), rtol=0, atol=1e-14)


@pytest.mark.parametrize("engine", ["compiled", pytest.param("keops", marks=pytest.mark.keops)])
def test_forms_in_one_formula(engine, data):
    needs_compiler(engine)

    def everything(d):
        smooth = np.exp(-np.sum(d**2, axis=-1)) + torch.cos(d[0]) * 0.1 + 2.0 ** (-(d | d))
        return smooth + (1 + d.norm2() / np.float64(3)).rsqrt() + abs(d[1]) ** 1.5 + sum(np.square(c) for c in d)

    def plain(d):
        q = (d**2).sum(-1)
        smooth = np.exp(-q) + 0.1 * np.cos(d[..., 0]) + 2.0**-q
        return smooth + (1 + np.sqrt(q) / 3) ** -0.5 + np.abs(d[..., 1]) ** 1.5 + q

    found = kernel_sum(*data, kernel=everything, engine=engine)
    np.testing.assert_allclose(found, twin(data, plain), rtol=1e-13)


def test_numbers_from_outside_are_looked_up_anew(simple, data):
    for scale in (0.5, 2, np.float64(3.0), np.float32(0.25), np.int64(2), torch.tensor(0.7, dtype=torch.float64)):
        found = kernel_sum(*data, kernel=lambda d: (-scale * (d**2).sum(-1)).exp(), engine=simple)  # noqa: B023
        np.testing.assert_allclose(found, twin(data, lambda d: np.exp(-float(scale) * (d**2).sum(-1))), rtol=1e-13)  # noqa: B023


def test_parameters_keep_their_digits(simple, data):
    # 0.1 in float32 is off by 1.5e-8.
    for value in (0.1, [0.1, 0.1], np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)):
        found = kernel_sum(*data, kernel=lambda d, s: (-((d * s) ** 2).sum(-1)).exp(), params={"s": value})
        np.testing.assert_allclose(found, twin(data, lambda d: np.exp(-0.01 * (d**2).sum(-1))), rtol=1e-14)
        found = kernel_sum(
            *data, kernel=lambda p, q, s=1.0: (-(((p - q) * s) ** 2).sum(-1)).exp(), params={"s": value}, engine=simple
        )
        np.testing.assert_allclose(found, twin(data, lambda d: np.exp(-0.01 * (d**2).sum(-1))), rtol=1e-14)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([1.0], InvalidTypeError, "params must be a dict of the function's keyword arguments; got list"),
        ({"s": "a"}, InvalidTypeError, r"params\['s'\] must be a number or a vector; got str"),
        ({"s": np.nan}, InvalidInputError, r"params\['s'\] must be a finite real number or vector"),
        ({"s": 1j}, InvalidInputError, r"params\['s'\] must be a finite real number or vector"),
        ({"s": np.ones((2, 2))}, InvalidInputError, r"of shape \(2, 2\)"),
        ({"t": 1.0}, InvalidInputError, "kernel could not be evaluated.*unexpected keyword argument 't'"),
    ],
)
def test_parameters_that_are_none(params, error, words, data):
    with pytest.raises(error, match=words):
        kernel_sum(*data, kernel=lambda d, s=1.0: (-s * (d**2).sum(-1)).exp(), params=params)


def test_gradients_that_would_be_lost_are_refused(data):
    hidden = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    class Held:
        def __init__(self):
            self.scale = [hidden]

        def __call__(self, d):
            return (-self.scale[0] * (d**2).sum(-1)).exp()

    def mentioned(d):
        return (-hidden * (d**2).sum(-1)).exp()

    with pytest.raises(InvalidInputError, match=r"mentions the tensor 'hidden'.*params=\{'hidden': hidden\}"):
        kernel_sum(*data, kernel=mentioned)
    with pytest.raises(InvalidInputError, match="holds a tensor that asks for gradients.*pass it by params"):
        kernel_sum(*data, kernel=Held())
    with torch.no_grad():
        wanted = twin(data, lambda d: np.exp(-0.5 * (d**2).sum(-1)))
        np.testing.assert_allclose(kernel_sum(*data, kernel=mentioned), wanted, rtol=1e-13)
        np.testing.assert_allclose(kernel_sum(*data, kernel=Held()), wanted, rtol=1e-13)


def test_points_are_multiplied_out_only_where_nothing_is_lost(rng):
    near = torch.from_numpy(rng.standard_normal((5, 20)))
    for points, kernel, product in [
        (near, Gaussian(), True),
        (near, 2 * Gaussian(), True),
        (1e3 * near, Gaussian(), False),
        (near[:, :16], Gaussian(), False),
        (near.float(), Gaussian(0.1), False),
    ]:
        pair, _, _, _ = prepare("kernel", kernel, None, points, points)
        assert (pair.squared is not None) == product
