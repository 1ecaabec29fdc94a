"""The published layer: the formula where nothing folds, the folding where it does, gradients, saving."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.literal_batch_norm import GBWBatchNorm


def numbers(*x):
    return torch.tensor(x, dtype=torch.float64)[:, None, None]


def test_the_formula_for_numbers():
    x = np.array([0.8, 1.0, 1.3])
    norm = GBWBatchNorm(1, theta=1.0)
    b = np.mean(np.sqrt(x.mean() * x))  # one step of the fixed-point map from the arithmetic mean
    v2 = np.mean((np.sqrt(x) - np.sqrt(b)) ** 2)
    w = 1 + np.sqrt(x) - np.sqrt(b)
    want = (1 + (w - 1) / np.sqrt(v2 + 1e-5)) ** 2
    assert_allclose(norm(numbers(*x)).flatten().detach().numpy(), want, rtol=1e-12)
    assert norm.folded == 0
    assert_allclose(norm.mean.item(), (0.9 + 0.1 * np.sqrt(b)) ** 2, rtol=1e-12)
    assert_allclose(norm.variance.item(), 0.9 + 0.1 * v2, rtol=1e-12)


def test_metric_bias_and_power_for_numbers():
    norm = GBWBatchNorm(1, theta=0.5)
    with torch.no_grad():
        norm.metric_parameter.fill_(0.2), norm.bias.fill_(-0.1), norm.log_scale.fill_(-1.0)
    x, M, G = np.array([0.8, 1.0, 1.3]), np.exp(0.4), np.exp(-0.2)
    xt, g = np.sqrt(x) / M, np.sqrt(G) / M
    b = np.mean(np.sqrt(xt.mean() * xt))
    v2 = np.mean((np.sqrt(xt) - np.sqrt(b)) ** 2) / 0.25
    r = 1 + np.exp(-1.0) / np.sqrt(v2 + 1e-5) * (np.sqrt(xt) - np.sqrt(b))
    # Exp_g of 2 sqrt(g) (r - 1) is (sqrt(g) + r - 1)^2
    want = (M * (np.sqrt(g) + r - 1) ** 2) ** 2
    assert_allclose(norm(numbers(*x)).flatten().detach().numpy(), want, rtol=1e-11)


def test_folding_depends_on_the_unit_and_is_said_once():
    x = np.array([0.1, 1.0, 1.2, 1.3])
    assert_allclose(x.mean(), 0.9)
    small, large = GBWBatchNorm(1, theta=1.0), GBWBatchNorm(1, theta=1.0)
    small(numbers(*x))
    assert small.folded == 0
    with pytest.warns(ConditioningWarning, match=r"folded 25 % of the samples.*SPDBatchNorm\(metric='bw'\)"):
        large(numbers(*(100 * x)))
    assert large.folded == 0.25  # sqrt b - sqrt x > 1 for the first
    large(numbers(*(100 * x)))  # says nothing more


def test_a_folded_sample_leaves_its_order():
    norm = GBWBatchNorm(1, theta=1.0).eval()
    norm.mean.fill_(9.0)
    x = np.array([0.25, 2.25, 6.25])
    with pytest.warns(ConditioningWarning, match="folded"):
        out = norm(numbers(*x)).flatten().detach().numpy()
    # 1 + sqrt x - 3 = -1.5, -0.5, 0.5: the root forgets the sign.
    assert out[0] > out[1]
    assert out[1] == pytest.approx(out[2], rel=1e-12)


def gradients(norm, X, train):
    names = [name for name, _ in norm.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in norm.parameters()]

    def function(X, *values):
        fresh = copy.deepcopy(norm).train(train)
        return torch.func.functional_call(fresh, dict(zip(names, values, strict=True)), (symmetrise(X),))

    return gradcheck(function, (X.clone().requires_grad_(), *values), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 1.0], [0.8, 1.1, 1.1], [0.8, 1.1, 1.1 + 1e-11]])
def test_gradients_at_the_identity_and_at_repeated_eigenvalues(theta, spectrum, rng):
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((2, 3, 3)))[0])
    X = symmetrise((Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT)
    assert gradients(GBWBatchNorm(3, theta=theta), X, False)
    if spectrum[0] < 1:
        assert gradients(GBWBatchNorm(3, theta=theta), X, True)


def test_a_reloaded_layer_is_bit_equal(rng):
    norm, X = GBWBatchNorm(2), torch.eye(2, dtype=torch.float64) + 0.1 * symmetrise(torch.rand(5, 2, 2).double())
    norm(X)
    other = GBWBatchNorm(2)
    other.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(X), other.eval()(X))


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match="literal must be True; got False.*SPDBatchNorm"):
        GBWBatchNorm(2, literal=False)
    with pytest.raises(InvalidInputError, match="theta must not be 0"):
        GBWBatchNorm(2, theta=0)
    with pytest.raises(InvalidInputError, match=r"X must be of shape \(b, 2, 2\).*got \(3, 3, 3\)"):
        GBWBatchNorm(2)(torch.eye(3).repeat(3, 1, 1))
