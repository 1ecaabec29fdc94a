"""SPDNet: bit-equal after reloading, exact gradients, units, domains, adaptation, errors."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.batch_norm import METRICS
from sciml.stats.spd.network import SPDNet
from sciml.stats.spd.pooling import AugmentedCov


def spd(rng, b=10, n=5, channels=None):
    shape = (b, n, 2 * n) if channels is None else (b, channels, n, 2 * n)
    A = torch.from_numpy(rng.standard_normal(shape))
    return A @ A.mT / (2 * n)


def moved(net, rng):
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    return net


BUILDS = [
    *({"metric": metric} for metric in METRICS),
    {"batchnorm": None},
    {"center": "momentum", "n_domains": 2},
    {"classifier": "mlr", "channels": 2},
    {"dropout": 0.2, "theta": 0.5, "metric": "bw"},
]


@pytest.mark.parametrize("build", BUILDS)
def test_a_reloaded_network_is_bit_equal(build, rng, tmp_path):
    channels = build.get("channels")
    net = moved(SPDNet((5, 4, 3), 4, rng=rng, **build), rng)
    arguments = (torch.arange(10) % 2,) if build.get("n_domains") else ()
    net(spd(rng, channels=channels), *arguments)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = SPDNet((5, 4, 3), 4, rng=np.random.default_rng(99), **build)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    X = spd(rng, channels=channels)
    assert torch.equal(net.eval()(X, *arguments), other.eval()(X, *arguments))
    assert net(X, *arguments).abs().max() > 1e-3


@pytest.mark.parametrize("metric", ["logeuclid", "bw"])
def test_gradients_of_the_whole(metric, rng):
    net = moved(SPDNet((3, 3, 2), 2, metric=metric, rng=rng), rng)
    net(spd(rng, n=3))
    names = [name for name, _ in net.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def function(X, *values):
        fresh = copy.deepcopy(net)
        return torch.func.functional_call(fresh, dict(zip(names, values, strict=True)), (symmetrise(X),))

    assert gradcheck(function, (spd(rng, b=3, n=3).requires_grad_(), *values), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_the_unit_of_the_data_does_not_matter(metric, rng):
    X, Y = spd(rng), spd(rng)
    logits = []
    for scale in (1.0, 1e-6, 1e6):
        draw = np.random.default_rng(0)
        net = moved(SPDNet((5, 4, 3), 3, metric=metric, rng=draw), draw)
        net(scale * X)
        logits.append(net.eval()(scale * Y).detach().numpy())
    assert_allclose(logits[1], logits[0], rtol=1e-9, atol=1e-10)
    assert_allclose(logits[2], logits[0], rtol=1e-9, atol=1e-10)


def test_the_fused_logarithm_changes_nothing(rng, monkeypatch):
    net = moved(SPDNet((5, 3), 3, rng=rng), rng)
    net(spd(rng))
    X = spd(rng)
    fused = net.eval()(X)
    monkeypatch.setattr(SPDNet, "_fused", lambda self: False)
    assert_allclose(net(X).detach().numpy(), fused.detach().numpy(), rtol=1e-10, atol=1e-11)


def test_adaptation_resets_one_domain_and_leaves_the_mode(rng):
    net = moved(SPDNet((5, 4, 3), 3, n_domains=2, metric="bw", rng=rng), rng)
    X, Y = spd(rng), 50 * spd(rng)
    net.adapt(X, 0)
    before = net.norms[0].mean[0].clone()
    with pytest.raises(InvalidInputError, match="domain 1 has none"):
        net.eval()(Y, 1)
    net.train().adapt(Y, 1)
    assert net.training
    assert net.norms[1].training
    assert torch.equal(net.norms[0].mean[0], before)
    # The same data in another unit, each in its own domain, look alike.
    net.adapt(50 * X, 1).eval()
    assert_allclose(net(50 * X, 1).detach().numpy(), net(X, 0).detach().numpy(), rtol=1e-9, atol=1e-10)


def test_series_come_in_through_a_pool(rng):
    x = torch.from_numpy(rng.standard_normal((6, 2, 40))).requires_grad_()
    net = moved(SPDNet((6, 3), 2, pool=AugmentedCov(3), rng=rng), rng)
    net(x).square().sum().backward()
    assert x.grad.abs().max() > 0


def test_the_literal_layer_can_be_put_in(rng):
    net = SPDNet((5, 3), 2, batchnorm="literal", theta=0.5, rng=rng)
    with pytest.warns(ConditioningWarning, match="folded"):
        out = net(1e4 * spd(rng))
    assert torch.isfinite(out).all()


def test_training_is_the_same_for_the_same_generator(rng):
    X = spd(rng)
    nets = [SPDNet((5, 4, 3), 2, classifier="mlr", rng=np.random.default_rng(3)) for _ in range(2)]
    assert torch.equal(nets[0](X), nets[1](X))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dims": (4,)}, r"dims must hold at least two sizes; got \(4,\)"),
        ({"dims": (4, 5)}, "n_out must be at most n_in=4; got 5"),
        ({"n_classes": 1}, "n_classes must be an integer at least 2"),
        ({"batchnorm": "batch"}, "batchnorm must be one of"),
        ({"classifier": "svm"}, "classifier must be one of"),
        ({"batchnorm": "literal", "n_domains": 2}, "one channel and no domains"),
        ({"batchnorm": None, "n_domains": 2}, "n_domains needs a batch norm"),
    ],
)
def test_bad_settings_are_named(arguments, match):
    with pytest.raises(InvalidInputError, match=match):
        SPDNet(**({"dims": (4, 3), "n_classes": 2} | arguments))


def test_a_network_without_norms_knows_no_domains(rng):
    net = SPDNet((5, 3), 2, batchnorm=None, rng=rng)
    with pytest.raises(InvalidInputError, match="domain must be None without batch norms"):
        net(spd(rng), 0)
    with pytest.raises(InvalidInputError, match="adapt needs batch norms"):
        net.adapt(spd(rng))
