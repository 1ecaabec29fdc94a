"""The residual layer: the identity at the start, exact gradients, SPD answers."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.residual import RiemannianResidual


def moved(rng, n=3):
    layer = RiemannianResidual(n, width=4, rng=rng)
    with torch.no_grad():
        layer.outer.copy_(torch.from_numpy(rng.standard_normal((n, 4))))
    return layer


def test_it_starts_as_the_identity(rng):
    A = torch.from_numpy(rng.standard_normal((5, 3, 6)))
    X = A @ A.mT
    assert_allclose(RiemannianResidual(3, rng=rng)(X).detach().numpy(), X.numpy(), rtol=1e-11)


@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 1.0], [0.5, 2.0, 2.0], [0.5, 2.0, 2.0 + 1e-11]])
def test_gradients_where_eigenvalues_repeat(spectrum, rng):
    layer = moved(rng)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((3, 3)))[0])
    X = symmetrise((Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT)[None].requires_grad_()

    def function(X, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (symmetrise(X),))

    assert gradcheck(function, (X, *values), eps=1e-6, atol=1e-6)


def test_the_field_is_diagonal_in_the_learned_frame(rng):
    layer = moved(rng)
    X = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))[None]
    log_out = torch.linalg.eigh(layer(X))
    L = (log_out.eigenvectors * log_out.eigenvalues.log().unsqueeze(-2)) @ log_out.eigenvectors.mT
    Q = layer.turn.weight[0].T
    field = Q.T @ (L - torch.diag(torch.tensor([0.5, 1.0, 2.0]).double().log())) @ Q
    off = field - torch.diag_embed(field.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-12
    assert field.diagonal(dim1=-2, dim2=-1).abs().max() > 0.1


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match=r"X must be of shape \(b, 3, 3\)"):
        RiemannianResidual(3)(torch.eye(2)[None])
    with pytest.raises(NotPositiveDefiniteError, match="X must be positive definite"):
        RiemannianResidual(2)(torch.zeros(1, 2, 2).double())
