"""Layers: values, exact gradients where eigenvalues repeat, manifolds kept, units, errors."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.layers import BiMap, LogEig, ReEig, SPDDropout, SPDVech

SPECTRA = {
    "ordinary": [0.5, 1.0, 2.0],
    "identity": [1.0, 1.0, 1.0],
    "repeated": [0.7, 2.0, 2.0],
    "nearly repeated": [0.7, 2.0, 2.0 + 1e-11],
}


def matrices(spectrum, rng, b=2):
    n = len(spectrum)
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((b, n, n)))[0])
    return symmetrise((Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT)


def gradients(layer, X):
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def function(X, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (symmetrise(X),))

    return gradcheck(function, (X.clone().requires_grad_(), *values), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("layer", [ReEig(0.8), LogEig(), SPDVech(), "bimap", "square bimap"])
def test_gradients_where_eigenvalues_repeat(layer, spectrum, rng):
    if isinstance(layer, str):
        layer = BiMap(3, 3 if layer.startswith("square") else 2, rng=rng)
    assert gradients(layer, matrices(SPECTRA[spectrum], rng))


def test_rows_of_the_map_stay_orthonormal(rng):
    layer = BiMap(6, 3, channels=2, rng=rng)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    X = matrices([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], rng, b=4)[:, None].repeat(1, 2, 1, 1)
    before = layer.weight.detach().clone()
    for _ in range(10):
        optimizer.zero_grad()
        layer(X).diagonal(dim1=-2, dim2=-1).log().sum().backward()
        optimizer.step()
    W = layer.weight.detach()
    assert_allclose((W @ W.mT).numpy(), np.eye(3)[None].repeat(2, 0), atol=1e-12)
    assert (W - before).abs().max() > 0.1
    # It went to the eigenvectors of small eigenvalues: the layer learns.
    assert layer(X).diagonal(dim1=-2, dim2=-1).sum() < 4 * 2 * 15


def test_the_map_draws_from_the_generator_alone():
    state = torch.get_rng_state()
    one, two = (BiMap(5, 3, rng=np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_map_is_a_congruence(rng):
    layer, X = BiMap(3, 2, rng=rng), matrices([1.0, 2.0, 3.0], rng)
    W = layer.weight[0]
    assert_allclose(layer(X).detach().numpy(), (W @ X @ W.mT).detach().numpy(), atol=1e-15)
    assert layer(X[:, None]).shape == (2, 1, 2, 2)


def test_rectification_floors_relative_to_each_matrix():
    X = torch.diag_embed(torch.tensor([[0.0, 3.0], [0.0, 3e-12], [2.0, 2.0]], dtype=torch.float64))
    out = ReEig(0.5)(X).diagonal(dim1=-2, dim2=-1)
    assert_allclose(out.numpy(), [[0.75, 3.0], [0.75e-12, 3e-12], [2.0, 2.0]], rtol=1e-14)
    absolute = ReEig(0.5, absolute=True)(X).diagonal(dim1=-2, dim2=-1)
    assert_allclose(absolute.numpy(), [[0.5, 3.0], [0.5, 0.5], [2.0, 2.0]], rtol=1e-14)
    assert ReEig().eps == 1e-4


def test_the_logarithm_of_singular_matrices_is_an_error():
    with pytest.raises(NotPositiveDefiniteError, match="number 1 .*shrink"):
        LogEig()(torch.diag_embed(torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)))


def test_vectors_keep_inner_products(rng):
    A, B = (symmetrise(torch.from_numpy(rng.standard_normal((1, 2, 4, 4)))) for _ in range(2))
    vech = SPDVech()
    assert vech(A).shape == (1, 20)
    assert (vech(A) * vech(B)).sum().item() == pytest.approx((A * B).sum().item(), rel=1e-13)


def test_dropout_decouples_channels_and_keeps_definiteness(rng):
    X = matrices([1e-6, 1.0, 2.0, 3.0], rng, b=400)
    layer = SPDDropout(0.3, rng=np.random.default_rng(0))
    out = layer(X)
    assert torch.equal(out.diagonal(dim1=-2, dim2=-1), X.diagonal(dim1=-2, dim2=-1))
    assert torch.linalg.eigvalsh(out)[:, 0].min() > 0
    kept = (out[:, 0, 1] != 0).double().mean().item()
    assert kept == pytest.approx(0.49, abs=0.1)  # four standard deviations of a mean of 400
    assert torch.equal(layer.eval()(X), X)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BiMap(2, 3), "n_out must be at most n_in=2; got 3"),
        (lambda: BiMap(3, 2)(torch.eye(4)[None]), r"X must be of shape \(b, 3, 3\); got \(1, 4, 4\)"),
        (lambda: BiMap(3, 2, channels=2)(torch.eye(3)[None]), r"X must be of shape \(b, 2, 3, 3\)"),
        (lambda: ReEig(0.0), "eps must be a number above 0"),
        (lambda: SPDDropout(1.0), "p must be a number at least 0 and below 1"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(InvalidInputError, match=match):
        call()
