"""The batch norms: no folding at any scale, exact gradients, statistics that are right, saved, and kept by domain."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import ConditioningWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.batch_norm import METRICS, SPDBatchNorm

CENTERS = ("running", "batch", "momentum")


def batch(rng, b=12, n=3, cond=100.0):
    Q = np.linalg.qr(rng.standard_normal((b, n, n)))[0]
    s = np.logspace(0, -np.log10(cond), n) * np.exp(0.3 * rng.standard_normal((b, n)))
    return symmetrise(torch.from_numpy((Q * s[:, None, :]) @ Q.transpose(0, 2, 1)))


def moved(norm, rng):
    """Return the layer with parameters off their start."""
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.from_numpy(0.3 * rng.standard_normal(parameter.shape)))
    return norm


def assert_gradients(norm, X, train):
    names = [name for name, _ in norm.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in norm.parameters()]

    def function(X, *values):
        fresh = copy.deepcopy(norm).train(train)  # a pass in training changes the statistics
        return torch.func.functional_call(fresh, dict(zip(names, values, strict=True)), (symmetrise(X),))

    assert gradcheck(function, (X.clone().requires_grad_(), *values), eps=1e-6, atol=1e-6)


SPECIAL = {
    "identity": [1.0, 1.0, 1.0],
    "repeated": [0.5, 2.0, 2.0],
    "nearly repeated": [0.5, 2.0, 2.0 + 1e-11],
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("spectrum", SPECIAL)
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_at_the_start_and_at_repeated_eigenvalues(metric, spectrum, train, rng):
    norm = SPDBatchNorm(3, metric=metric)
    norm.ready.fill_(True)  # the mean is I, the variance 1, the parameters at their start
    if metric in ("logeuclid", "logchol"):
        norm.mean.zero_()
    X = torch.diag(torch.tensor(SPECIAL[spectrum], dtype=torch.float64)).repeat(2, 1, 1)
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((3, 3)))[0])
    X[1] = symmetrise(Q @ X[1] @ Q.mT)
    assert_gradients(norm, X, train)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_after_some_training(metric, center, rng):
    norm = SPDBatchNorm(3, metric=metric, center=center, momentum=0.4)
    for _ in range(2):
        norm(batch(rng))
    assert_gradients(moved(norm, rng), batch(rng, b=3), True)
    assert_gradients(norm, batch(rng, b=2), False)


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_with_a_power(metric, rng):
    norm = SPDBatchNorm(3, metric=metric, theta=0.5)
    norm(batch(rng))
    assert_gradients(moved(norm, rng), batch(rng, b=2), True)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("metric", METRICS)
def test_the_unit_of_the_data_does_not_matter(metric, center, rng):
    norm, X, Y = SPDBatchNorm(3, metric=metric, center=center), batch(rng), batch(rng)
    answers = []
    for scale in (1.0, 2.0**-40, 1e-6, 1e6):
        mine = copy.deepcopy(norm)
        trained = [mine(scale * X), mine(scale * Y)]
        answers.append(torch.stack([*trained, mine.eval()(scale * Y)]).detach().numpy())
    for other in answers[1:]:
        assert_allclose(other, answers[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_monotone_in_each_spectrum(metric, scale):
    # Commuting matrices: the order of each eigenvalue survives, also far from everything that was seen in training.
    X = torch.diag_embed(scale * torch.tensor([[4.0, 1.0], [9.0, 2.0], [1.0, 0.5]], dtype=torch.float64))
    norm = SPDBatchNorm(2, metric=metric)
    for _ in range(3):
        norm(X)
    x = scale * torch.logspace(-6, 6, 200, dtype=torch.float64)
    out = norm.eval()(torch.diag_embed(torch.stack([x, x], -1))).diagonal(dim1=-2, dim2=-1)
    assert (out.diff(dim=0) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_the_batch_is_centred_and_has_unit_dispersion(metric, rng):
    X = batch(rng, b=40)
    norm = SPDBatchNorm(3, metric=metric, eps=1e-12).reset_running_stats(X, iters=100).eval()
    assert norm.log_scale.exp().item() == pytest.approx(1 if metric in ("bw", "gbw") else 3**0.5)
    torch.nn.init.zeros_(norm.log_scale)
    Y = norm(X)
    again = SPDBatchNorm(3, metric=metric).reset_running_stats(Y.detach(), iters=100)
    # The maps of logeuclid, logchol and airm keep means; those of the Bures-Wasserstein pair nearly do.
    close = 1e-9 if metric in ("logeuclid", "logchol", "airm") else 0.1
    assert_allclose(again.running_mean().numpy(), np.eye(3), atol=close)
    assert again.variance.item() == pytest.approx(1, rel=10 * close)


def test_running_means_are_barycentres(rng):
    X = torch.diag_embed(torch.from_numpy(np.exp(rng.standard_normal((20, 3)))))
    x = X.diagonal(dim1=-2, dim2=-1)
    truth = {"bw": x.sqrt().mean(0) ** 2, "gbw": x.sqrt().mean(0) ** 2}
    truth |= dict.fromkeys(("logeuclid", "airm", "logchol"), x.log().mean(0).exp())
    for metric in METRICS:
        mean = SPDBatchNorm(3, metric=metric).reset_running_stats(X).running_mean()
        assert_allclose(mean.numpy(), torch.diag(truth[metric]).numpy(), rtol=1e-12, atol=1e-12)


def test_the_log_euclidean_formula(rng):
    X = torch.diag_embed(torch.from_numpy(np.exp(rng.standard_normal((20, 2)))))
    logs = X.diagonal(dim1=-2, dim2=-1).log()
    norm = SPDBatchNorm(2, metric="logeuclid", theta=2.0)
    with torch.no_grad():
        norm.log_scale.fill_(0.3)
        norm.bias.copy_(torch.diag(torch.tensor([0.2, -0.1])))
    got = norm(X).diagonal(dim1=-2, dim2=-1).log()
    centred = 2 * (logs - logs.mean(0))
    v2 = centred.square().sum(-1).mean()
    want = (np.exp(0.3) * centred / (v2 + 1e-5).sqrt() + torch.tensor([0.2, -0.1])) / 2
    assert_allclose(got.detach().numpy(), want.numpy(), atol=1e-12)
    assert_allclose(norm.variance.item(), v2.item(), rtol=1e-12)


def test_the_bures_wasserstein_formula(rng):
    x = torch.from_numpy(np.exp(0.3 * rng.standard_normal((20, 2))))
    norm, s = SPDBatchNorm(2, metric="bw"), np.exp(-1.5)  # a small scale keeps all above the bend
    with torch.no_grad():
        norm.log_scale.fill_(-1.5)
    first = norm(torch.diag_embed(x)).diagonal(dim1=-2, dim2=-1)
    r = (x / x.sqrt().mean(0) ** 2).sqrt()
    v2 = (r - 1).square().sum(-1).mean()
    assert_allclose(first.detach().numpy(), ((1 + s * (r - 1) / (v2 + 1e-5).sqrt()) ** 2).numpy(), rtol=1e-12)
    # The second batch is centred at the mean of the first, which then moves a tenth of the way along the geodesic.
    y = 4 * x
    r = (y / x.sqrt().mean(0) ** 2).sqrt()
    v2_new = (r - 1).square().sum(-1).mean()
    second = norm(torch.diag_embed(y)).diagonal(dim1=-2, dim2=-1)
    assert_allclose(second.detach().numpy(), ((1 + s * (r - 1) / (v2_new + 1e-5).sqrt()) ** 2).numpy(), rtol=1e-12)
    assert_allclose(norm.running_mean().diagonal().numpy(), (1.1 * x.sqrt().mean(0)).square().numpy(), rtol=1e-12)
    assert_allclose(norm.variance.item(), (0.9 * v2 + 0.1 * v2_new).item(), rtol=1e-12)


def test_the_generalised_layer_starts_as_the_canonical_one(rng):
    X = batch(rng, b=30)
    canonical, learned = SPDBatchNorm(3, metric="bw"), SPDBatchNorm(3, metric="gbw")
    assert_allclose(learned(X).detach().numpy(), canonical(X).detach().numpy(), atol=0.02)
    learned(X).square().sum().backward()
    assert learned.metric_parameter.grad.abs().max() > 1e-3


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_reloaded_layer_is_bit_equal(metric, center, rng, tmp_path):
    norm = SPDBatchNorm(3, metric=metric, center=center, n_domains=2, theta=0.7)
    for domain in (0, 1, 0):
        norm(batch(rng), domain)
    moved(norm, rng)
    torch.save(norm.state_dict(), tmp_path / "norm.pt")
    other = SPDBatchNorm(3, metric=metric, center=center, n_domains=2, theta=0.7)
    other.load_state_dict(torch.load(tmp_path / "norm.pt", weights_only=True))
    X = batch(rng)
    for domain in (0, 1):
        assert torch.equal(norm.eval()(X, domain), other.eval()(X, domain))


@pytest.mark.parametrize("metric", METRICS)
def test_evaluation_is_a_pure_function_of_each_matrix(metric, rng):
    norm, X = SPDBatchNorm(3, metric=metric), batch(rng)
    norm(X)
    before = copy.deepcopy(norm.eval().state_dict())
    whole = norm(X)
    # LAPACK may round a batch and a single matrix differently.
    assert_allclose(norm(X[:1]).detach().numpy(), whole[:1].detach().numpy(), rtol=1e-12, atol=1e-13)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_of_one_uses_the_running_statistics(metric, center, rng):
    norm, X = SPDBatchNorm(3, metric=metric, center=center), batch(rng)
    norm(X)
    before = copy.deepcopy(norm.state_dict())
    out = norm(X[:1])
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm.center = "running"
    assert_allclose(out.detach().numpy(), norm.eval()(X[:1]).detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_a_first_batch_of_one_does_not_count(metric, rng):
    norm, X = SPDBatchNorm(3, metric=metric), batch(rng)
    assert_allclose(norm(X[:1]).detach().numpy(), np.eye(3)[None], atol=1e-9)
    assert norm.ready.tolist() == [False]
    fresh = SPDBatchNorm(3, metric=metric)
    if metric != "gbw":  # whose metric has started at the single matrix
        assert_allclose(norm(X).detach().numpy(), fresh(X).detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("metric", METRICS)
def test_domains_have_their_own_statistics(metric, center, rng):
    X, Y = batch(rng), 1e3 * batch(rng)
    apart = {domain: SPDBatchNorm(3, metric=metric, center=center) for domain in (0, 1)}
    together = SPDBatchNorm(3, metric=metric, center=center, n_domains=3)
    order = torch.from_numpy(rng.permutation(24))
    domain = torch.tensor(12 * [0] + 12 * [2])[order]
    metric_free = metric != "gbw"  # its metric is shared, so the domains are not independent
    for _ in range(2):
        out = together(torch.cat([X, Y])[order], domain)[order.argsort()]
        if metric_free:
            assert_allclose(out[:12].detach().numpy(), apart[0](X).detach().numpy(), rtol=1e-10, atol=1e-12)
            assert_allclose(out[12:].detach().numpy(), apart[1](Y).detach().numpy(), rtol=1e-10, atol=1e-12)
    assert together.count.tolist() == [24, 0, 24]
    with pytest.raises(InvalidInputError, match=r"domain 1 has none.*reset_running_stats"):
        together.eval()(X, 1)
    together.reset_running_stats(X, domain=1)
    assert together(X, 1).shape == X.shape


def test_adaptation_brings_a_new_domain_to_the_others(rng):
    X = batch(rng, b=30)
    A = torch.from_numpy(np.diag([1.0, 10.0, 0.1]) + 0.3 * rng.standard_normal((3, 3)))
    Y = symmetrise(A @ X @ A.mT)
    norm = SPDBatchNorm(3, metric="airm", n_domains=2)
    norm.reset_running_stats(X, domain=0, iters=60)
    norm.reset_running_stats(Y, domain=1, iters=60)
    norm.eval()
    # The affine-invariant geometry does not see the mixing of the channels: equal up to a rotation.
    spectra = [torch.linalg.eigvalsh(norm(Z, domain)) for Z, domain in ((X, 0), (Y, 1))]
    assert_allclose(spectra[1].detach().numpy(), spectra[0].detach().numpy(), rtol=1e-9)


def test_momentum_keeps_two_means(rng):
    norm = SPDBatchNorm(3, metric="bw", center="momentum")
    norm(batch(rng))
    norm.set_epoch(1, 40, 0.5)
    X = 9 * batch(rng, b=30)
    norm(X)
    # At the first epoch training centres at the batch itself; evaluation has moved by 0.15.
    batch_mean = SPDBatchNorm(3, metric="bw").reset_running_stats(X).running_mean()
    trained = norm.mean[0, 0] @ norm.mean[0, 0].mT
    assert_allclose(trained.numpy(), batch_mean.numpy(), rtol=0.1, atol=0.05 * batch_mean.max().item())
    assert norm.running_mean().trace() < 0.5 * batch_mean.trace()
    plain = SPDBatchNorm(3, metric="bw")
    plain.mean.copy_(norm.test_mean), plain.variance.copy_(norm.test_variance), plain.ready.fill_(True)
    assert torch.equal(norm.eval()(X), plain.eval()(X))
    assert norm.test_variance.item() != norm.variance.item()


def test_singular_matrices_are_legal_in_bw(rng):
    Z = torch.from_numpy(rng.standard_normal((20, 4, 2)))
    X = (Z @ Z.mT).requires_grad_()  # rank 2 of 4
    norm = SPDBatchNorm(4, metric="bw")
    for _ in range(5):
        out = norm(X)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(X.grad).all()
    for metric in ("logeuclid", "airm", "logchol"):
        with pytest.raises(NotPositiveDefiniteError, match="shrink"):
            SPDBatchNorm(4, metric=metric)(X)


def test_a_degenerate_batch_keeps_the_mean_and_warns_once(rng):
    norm = SPDBatchNorm(3, metric="bw", momentum=1.0)
    norm(batch(rng, cond=2.0))
    before = norm.mean.clone()
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)).repeat(4, 1, 1)
    with pytest.warns(ConditioningWarning, match="kept its running mean"):
        norm(flat)
    norm(flat)  # no second warning, which would be an error
    assert torch.equal(norm.mean, before)
    assert norm.diagnostics()["failures"] == [2]


def test_a_first_batch_without_full_rank_gets_a_ridge(rng):
    v = torch.from_numpy(rng.standard_normal((4, 4)))
    v -= v.mean(-1, keepdim=True)  # an average reference: every matrix is singular along (1, 1, 1, 1)
    X = torch.stack([symmetrise(v.mT @ torch.diag(1.0 + torch.rand(4, dtype=torch.float64)) @ v) for _ in range(6)])
    for scale in (1.0, 1e-12):
        out = SPDBatchNorm(4, metric="bw")(scale * X)
        assert torch.isfinite(out).all()
    with pytest.raises(NotPositiveDefiniteError, match="positive trace"):
        SPDBatchNorm(4, metric="bw")(0 * X)


def test_equal_matrices_become_the_bias(rng):
    X = batch(rng, b=1).repeat(5, 1, 1)
    for metric in METRICS:
        assert_allclose(SPDBatchNorm(3, metric=metric)(X).detach().numpy(), np.eye(3)[None].repeat(5, 0), atol=1e-9)


def test_channels_are_apart(rng):
    X, Y = batch(rng), 100 * batch(rng)
    for metric in METRICS:
        out = SPDBatchNorm(3, metric=metric, channels=2)(torch.stack([X, Y], 1))
        assert_allclose(out[:, 0].detach().numpy(), SPDBatchNorm(3, metric=metric)(X).detach().numpy(), atol=1e-11)
        assert_allclose(out[:, 1].detach().numpy(), SPDBatchNorm(3, metric=metric)(Y).detach().numpy(), atol=1e-11)


@pytest.mark.parametrize("metric", METRICS)
def test_the_logarithm_is_that_of_the_output(metric, rng):
    norm, X = SPDBatchNorm(3, metric=metric, theta=0.5), batch(rng)
    norm(X)
    moved(norm, rng).eval()
    logarithm = norm.forward_log(X)
    assert_allclose(
        torch.linalg.matrix_exp(logarithm).detach().numpy(), norm(X).detach().numpy(), rtol=1e-10, atol=1e-12
    )


def test_centring_only(rng):
    X = batch(rng)
    norm = SPDBatchNorm(3, metric="bw", dispersion="none", affine=False)
    C = norm.reset_running_stats(X).mean[0, 0]
    want = torch.linalg.solve(C, torch.linalg.solve(C, X).mT)
    assert list(norm.parameters()) == []
    assert_allclose(norm.eval()(X).numpy(), want.numpy(), atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_single_precision(metric, rng):
    X = batch(rng)
    short, long = SPDBatchNorm(3, metric=metric, dtype=torch.float32), SPDBatchNorm(3, metric=metric)
    out = short(X.float())
    assert out.dtype == torch.float32
    assert_allclose(out.detach().numpy(), long(X).detach().numpy(), rtol=0, atol=1e-3)  # condition 100 of eps 1e-7


def test_without_parameters_the_scale_stays_at_its_start(rng):
    X = batch(rng)
    for affine in (True, False, "scale"):
        first = SPDBatchNorm(3, metric="bw", affine=affine)
        assert_allclose(first(X).detach().numpy(), SPDBatchNorm(3, metric="bw")(X).detach().numpy(), rtol=0, atol=1e-13)
        assert len(list(first.parameters())) == {True: 2, False: 0, "scale": 1}[affine]


def test_diagnostics_count_what_is_bent():
    x = torch.tensor([[1.0], [1.2], [0.9], [1.0]], dtype=torch.float64)
    norm = SPDBatchNorm(1, metric="bw")
    with torch.no_grad():
        norm.log_scale.fill_(-1.0)
    norm(torch.diag_embed(x))
    assert norm.diagnostics()["compressed"] == 0
    norm.eval()(torch.diag_embed(torch.tensor([[1e-4], [1.0]], dtype=torch.float64)))
    assert norm.diagnostics()["compressed"] == 0.5
    assert norm.diagnostics()["count"] == [4]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n": 0}, "n must be an integer at least 1; got 0"),
        ({"metric": "bures"}, "metric must be one of .*got 'bures'"),
        ({"theta": 0}, "theta must not be 0"),
        ({"center": "median"}, "center must be one of"),
        ({"momentum": 0.0}, "momentum must be a number above 0"),
        ({"eps": -1.0}, "eps must be a number above 0"),
        ({"dispersion": "vector"}, "dispersion must be one of"),
        ({"n_domains": 0}, "n_domains must be an integer"),
    ],
)
def test_bad_settings_are_named(arguments, match):
    with pytest.raises(InvalidInputError, match=match):
        SPDBatchNorm(**({"n": 3} | arguments))


def test_bad_batches_are_named(rng):
    X, norm = batch(rng), SPDBatchNorm(3)
    with pytest.raises(InvalidInputError, match=r"X must be of shape \(b, 1, 3, 3\) or .*got \(12, 2, 2\)"):
        norm(X[:, :2, :2])
    with pytest.raises(InvalidInputError, match="matrix 4 is not"):
        norm(torch.where(torch.arange(12)[:, None, None] == 4, torch.nan, X))
    with pytest.raises(InvalidInputError, match="X must be real; got torch.complex128"):
        norm(X.to(torch.complex128))
    with pytest.raises(InvalidInputError, match="domain must be None without n_domains; got 1"):
        norm(X, 1)
    with pytest.raises(InvalidInputError, match="the layer has none"):
        SPDBatchNorm(3).eval()(X)
    with pytest.raises(InvalidInputError, match="at least two matrices"):
        norm.reset_running_stats(X[:1])
    several = SPDBatchNorm(3, n_domains=2)
    for domain, match in ((None, "must be given"), (2, r"lie in \[0, 2\)"), (torch.zeros(5), "ints of shape")):
        with pytest.raises(InvalidInputError, match=match):
            several(X, domain)
