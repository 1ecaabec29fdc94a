"""Pooling of series: covariance, mean, lags; units; gradients."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.pooling import AugmentedCov, CovPool


def series(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape))


def test_pooling_is_the_covariance(rng):
    x = series(rng, 4, 3, 50)
    want = np.stack([np.cov(trial, bias=True) for trial in x.numpy()])
    assert_allclose(CovPool(shrink=0)(x).numpy(), want, atol=1e-14)
    shrunk = 0.9 * want + 0.1 * np.trace(want, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    assert_allclose(CovPool(shrink=0.1)(x).numpy(), shrunk, atol=1e-14)


def test_the_gaussian_embedding_holds_the_mean(rng):
    x = series(rng, 4, 3, 50) + 2
    S = CovPool("gaussian", shrink=0)(x)
    size = x.square().mean((-2, -1)).sqrt()
    assert_allclose((S[:, :3, 3] / size[:, None]).numpy(), x.mean(-1).numpy(), rtol=1e-13)
    assert_allclose(S[:, 3, 3].numpy(), size.square().numpy(), rtol=1e-13)
    assert_allclose(S[:, :3, :3].numpy(), CovPool("second-moment", shrink=0)(x).numpy(), rtol=1e-13)


@pytest.mark.parametrize("layer", [CovPool(), CovPool("gaussian"), AugmentedCov(3, 2)])
def test_units_only_rescale(layer, rng):
    x = series(rng, 2, 3, 30)
    assert torch.equal(layer(2.0**-20 * x), 2.0**-40 * layer(x))
    assert gradcheck(layer, (series(rng, 1, 2, 8).requires_grad_(),))


def test_lagged_copies_are_cut_not_wrapped(rng):
    x = series(rng, 2, 3, 30)
    copies = torch.cat([x[..., :26], x[..., 2:28], x[..., 4:]], 1)
    assert_allclose(AugmentedCov(3, 2)(x).numpy(), CovPool()(copies).numpy(), atol=1e-15)
    assert AugmentedCov(3, 2)(x).shape == (2, 9, 9)
    assert_allclose(AugmentedCov(1)(x).numpy(), CovPool()(x).numpy(), atol=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CovPool("median"), "kind must be one of"),
        (lambda: CovPool(shrink=2), "shrink must be a number at least 0 and at most 1; got 2"),
        (lambda: CovPool()(torch.ones(3, 1)), r"T >= 2; got \(3, 1\)"),
        (lambda: AugmentedCov(3, 10)(torch.ones(2, 21)), r"longer than \(order - 1\) \* lag \+ 1 = 21 samples; got 21"),
        (lambda: AugmentedCov(0), "order must be an integer at least 1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(InvalidInputError, match=match):
        call()
