"""Riemannian logits: the formulas, exact gradients, invariance of the affine-invariant kind."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.checks import symmetrise
from sciml.linalg.spd.functions import logm
from sciml.stats.spd.multinomial import SPDMLR

METRICS = ("logeuclid", "airm", "logchol")


def moved(metric, rng, channels=1):
    layer = SPDMLR(3, 2, metric=metric, channels=channels, rng=rng)
    with torch.no_grad():
        layer.reference.copy_(torch.from_numpy(0.3 * rng.standard_normal(layer.reference.shape)))
    return layer


def spd(rng, b=4):
    A = torch.from_numpy(rng.standard_normal((b, 3, 6)))
    return A @ A.mT / 6


@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 1.0], [0.5, 2.0, 2.0], [0.5, 2.0, 2.0 + 1e-11]])
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_where_eigenvalues_repeat(metric, spectrum, rng):
    layer = moved(metric, rng)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((3, 3)))[0])
    X = symmetrise((Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT)[None].requires_grad_()

    def function(X, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (symmetrise(X),))

    assert gradcheck(function, (X, *values), eps=1e-6, atol=1e-6)


def test_the_log_euclidean_logits(rng):
    layer, X = moved("logeuclid", rng), spd(rng)
    P, A = symmetrise(layer.reference.detach())[0], symmetrise(layer.normal.detach())[0]
    want = torch.stack([((logm(X) - P[k]) * A[k]).sum((-2, -1)) for k in range(2)], -1)
    assert_allclose(layer(X).detach().numpy(), want.numpy(), atol=1e-13)


def test_the_affine_invariant_logits_of_scalars():
    layer = SPDMLR(1, 2, metric="airm", rng=np.random.default_rng(0))
    with torch.no_grad():
        layer.reference.fill_(0.5)
    x = torch.tensor([0.3, 2.0], dtype=torch.float64)
    want = (x.log() - 1.0)[:, None] * layer.normal.flatten()
    assert_allclose(layer(x[:, None, None]).detach().numpy(), want.detach().numpy(), rtol=1e-13)


def test_the_log_cholesky_logits_are_zero_at_the_reference(rng):
    layer = moved("logchol", rng)
    L = layer.reference.detach()[0, 1]
    factor = L.tril(-1) + torch.diag(L.diagonal().exp())
    assert layer((factor @ factor.T)[None])[0, 1].abs() < 1e-13


@pytest.mark.parametrize("metric", METRICS)
def test_channels_add(metric, rng):
    layer, X = moved(metric, rng, channels=2), spd(rng)
    Y = spd(rng)
    parts = []
    for k in range(2):
        one = SPDMLR(3, 2, metric=metric)
        one.load_state_dict({name: value[k : k + 1] for name, value in layer.state_dict().items()})
        parts.append(one((X, Y)[k]))
    assert_allclose(layer(torch.stack([X, Y], 1)).detach().numpy(), sum(parts).detach().numpy(), atol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_singular_matrices_are_an_error(metric):
    with pytest.raises(NotPositiveDefiniteError, match="shrink"):
        SPDMLR(2, 2, metric=metric)(torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))[None])


def test_bad_settings_are_named():
    with pytest.raises(InvalidInputError, match="n_classes must be an integer at least 2; got 1"):
        SPDMLR(2, 1)
    with pytest.raises(InvalidInputError, match="metric must be one of"):
        SPDMLR(2, 2, metric="bw")
