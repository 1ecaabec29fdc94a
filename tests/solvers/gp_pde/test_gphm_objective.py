"""The published objective against a dense evaluation, its gradient against differences, its ablations."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Region
from sciml.solvers.gp_pde.gphm import GPHM, gphm_steps
from sciml.solvers.gp_pde.gphm_objective import GPHMObjective

LINE = Box([(0.5, 2.0)])
PLANE = Box([(0.0, 1.0), (-1.0, 1.0)])


def wave(X):
    return np.sin(3 * X).sum(axis=1)


def disturbed(pde, options, seed=0):
    """An objective away from its start, where nothing vanishes."""
    objective = GPHMObjective(pde, options, (2.0,) * pde.n_dims)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in objective.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=p.dtype)
    return objective


def dense_kernel(kind, x, weight, scale, mu, order):
    """Matrix of derivatives with respect to the first argument, by the table of envelopes and Leibniz' rule."""
    d = (x[:, None] - x)[..., None]
    r = np.abs(d)
    if kind == "stm":
        a = np.sqrt(5) * scale
        e = np.exp(-a * r)
        gamma = [(1 + a * r + a**2 * r**2 / 3) * e, -(a**2 / 3) * d * (1 + a * r) * e]
        gamma.append(-(a**2 / 3) * (1 + a * r - a**2 * r**2) * e)
    else:
        e = np.exp(-scale * d**2)
        gamma = [e, -2 * scale * d * e, (4 * scale**2 * d**2 - 2 * scale) * e]
    w = 2 * np.pi * mu
    cos = [w**j * np.cos(w * d + j * np.pi / 2) for j in range(3)]
    return sum(math.comb(order, j) * gamma[order - j] * cos[j] for j in range(order + 1)) @ weight


def dense_loss(objective, pde, kind):
    """The objective with whole matrices, Kronecker products and all; the boundary by looking at coordinates."""
    field, options = objective.fields[0], objective.options
    U = field.values.detach().numpy()
    C, D, out = [], [], 0.0
    for j, ((lower, upper), n) in enumerate(zip(field.bounds, field.shape, strict=True)):
        x = np.linspace(lower, upper, n)
        kernel = [p.detach().numpy() for p in field.kernel(j)]
        K = [dense_kernel(kind, x, *kernel, order) for order in range(3)]
        C.append(K[0] + options.jitter * np.eye(n))
        D.append([np.eye(n), *(k @ np.linalg.inv(C[-1]) for k in K[1:])])
    whole, u = C[0], U.reshape(-1)
    for c in C[1:]:
        whole = np.kron(whole, c)
    out += 0.5 * np.linalg.slogdet(whole)[1] + 0.5 * u @ np.linalg.solve(whole, u)
    residual = -pde._source(objective.X)
    for alpha, c in pde.coefficient_values(objective.X).items():
        derivative = D[0][alpha[0]]
        for j, k in enumerate(alpha[1:], 1):
            derivative = np.kron(derivative, D[j][k])
        residual = residual + c * (derivative @ u)
    mismatch = []
    for j in range(pde.n_dims):
        for end in pde.domain.bounds[j]:
            at = np.abs(objective.X[:, j] - end) < 1e-9
            mismatch.append(u[at] - wave(objective.X[at]))
    b = np.concatenate(mismatch)
    t1, t2 = objective.log_tau_1.item(), objective.log_tau_2.item()
    out += options.boundary_weight * (0.5 * np.exp(t1) * b @ b - 0.5 * len(b) * t1)
    return out + 0.5 * np.exp(t2) * residual @ residual - 0.5 * len(u) * t2


LINEAR = {
    "line": PDE(LINE, {2: 1.0, 1: lambda X: X[:, 0], 0: -2.0}, wave, [Dirichlet(wave)]),
    "plane": PDE(PLANE, {(2, 0): 1.0, (0, 2): 2.0, (1, 1): 0.5, (0, 1): -1.0}, wave, [Dirichlet(wave)]),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("kind", ["stm", "gm"])
def test_toeplitz_and_kronecker_give_the_dense_objective(name, kind):
    pde = LINEAR[name]
    n = (12,) if name == "line" else (6, 9)
    objective = disturbed(pde, GPHM(n_points=n, n_components=4, kernel=kind, boundary_weight=7.0, jitter=1e-3))
    # A jitter of 1e-3 leaves a condition number of 1e4, so that both ways have 12 digits.
    assert objective().item() == pytest.approx(dense_loss(objective, pde, kind), rel=1e-9)


def test_corners_are_counted_once_for_each_face():
    objective = GPHMObjective(LINEAR["plane"], GPHM(n_points=(5, 7), n_components=2), (1.0, 1.0))
    assert len(objective.g) == 2 * 5 + 2 * 7
    found, times = np.unique(objective.at.numpy(), return_counts=True)
    corner = np.isin(objective.X[found, 0], [0, 1]) & np.isin(objective.X[found, 1], [-1, 1])
    assert corner.sum() == 4
    assert np.all(times == np.where(corner, 2, 1))
    assert_allclose(objective.g, wave(objective.X[objective.at]), rtol=1e-15)


def test_initial_values_and_masked_faces_hold_where_they_are_stated():
    conditions = [Initial(1.0), Dirichlet(2.0, where=lambda X: X[:, 0] > 0.99)]
    pde = PDE(PLANE, {(1, 0): 1.0, (0, 1): 1.0}, 0.0, conditions)
    objective = GPHMObjective(pde, GPHM(n_points=(5, 7), n_components=2), (1.0, 1.0))
    X, g = objective.X[objective.at], objective.g.numpy()
    assert np.sum(g == 1) == 5
    assert np.all(X[g == 1, 1] == -1)
    assert np.all(X[g == 2, 0] == 1)


CUBIC = PDE(LINE, {2: 1.0}, wave, [Dirichlet(wave)], nonlinear=lambda X, u: u * (u**2 - 1))
BURGERS = PDE(PLANE, {(0, 1): 1.0, (2, 0): -0.1}, wave, [Dirichlet(wave)], nonlinear=lambda X, u, du: u * du[:, 0])


@pytest.mark.parametrize("pde", [*LINEAR.values(), CUBIC, BURGERS], ids=["line", "plane", "cubic", "burgers"])
def test_the_gradient_is_that_of_differences(pde):
    options = GPHM(n_points=12 if pde.n_dims == 1 else (5, 6), n_components=3, jitter=1e-3)
    objective = disturbed(pde, options)
    objective().backward()
    for name, p in objective.named_parameters():
        direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1))
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5, 1e-5):  # ahead, behind, and back
                p += step * direction
                values.append(objective().item())
        slope = (values[0] - values[1]) / 2e-5
        assert (p.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-5), name


def test_the_nonlinear_term_enters_the_residual():
    plain = PDE(LINE, {2: 1.0}, wave, [Dirichlet(wave)])
    options = GPHM(n_points=12, n_components=3)
    residual, without = disturbed(CUBIC, options).parts()[3], disturbed(plain, options).parts()[3]
    u = disturbed(plain, options).values
    assert_allclose((residual - without).detach(), u * (u**2 - 1), rtol=0, atol=1e-9 * without.abs().max().item())


@pytest.mark.parametrize(
    ("name", "parameter"), [("weight", "log_weight"), ("bandwidth", "log_scale"), ("frequency", "mu")]
)
def test_what_is_frozen_stays_and_the_rest_moves(name, parameter):
    objective = GPHMObjective(LINEAR["line"], GPHM(n_points=12, n_components=3, freeze=name), (2.0,))
    start = {n: p.detach().clone() for n, p in objective.named_parameters()}
    for k, _ in enumerate(gphm_steps(objective)):
        if k == 2:
            break
    moved = {n for n, p in objective.named_parameters() if not torch.equal(p, start[n])}
    still = {n for n in start if f".{parameter}." in n}
    assert len(still) == 1
    assert moved == set(start) - still


def test_without_determinants_the_objective_is_less_by_them():
    whole, less = (
        disturbed(LINEAR["plane"], GPHM(n_points=6, n_components=3, log_determinant=v)) for v in (True, False)
    )
    C = [r @ r.T for r in whole.fields[0].factors()[0]]
    truth = 0.5 * np.linalg.slogdet(np.kron(*C))[1]
    assert (whole() - less()).item() == pytest.approx(truth, rel=1e-8)


def test_single_kernels_have_one_component_of_frequency_zero():
    objective = GPHMObjective(LINEAR["line"], GPHM(n_points=12, kernel="matern52"), (2.0,))
    weight, scale, mu = objective.fields[0].kernel(0)
    assert weight.tolist() == scale.tolist() == [1.0]
    assert mu.tolist() == [0.0]
    assert not objective.fields[0].mu[0].requires_grad


def test_the_start_is_that_of_the_paper():
    objective = GPHMObjective(LINEAR["line"], GPHM(n_points=12, n_components=5), (20.0,))
    weight, scale, mu = objective.fields[0].kernel(0)
    assert_allclose(weight.detach(), np.full(5, 0.2), rtol=1e-15)
    assert scale.tolist() == [1.0] * 5
    assert mu.tolist() == [0, 5, 10, 15, 20]
    assert objective.log_tau_1.item() == objective.log_tau_2.item() == 0
    assert not objective.values.any()


def test_a_correction_starts_where_the_first_process_stops():
    objective = disturbed(CUBIC, GPHM(n_points=12, n_components=3))
    before, values = objective.parts(), objective.values.clone()
    tau_1 = objective.log_tau_1.item()
    objective.add_correction()
    after = objective.parts()
    assert_allclose(after[2].detach(), before[2].detach(), rtol=1e-12)
    assert_allclose(after[3].detach(), before[3].detach(), rtol=1e-9)
    assert (objective.log_tau_1.item(), objective.log_tau_2.item()) == (tau_1, 0.0)
    with torch.no_grad():
        objective.fields[1].values += 1.0
    assert_allclose(objective.values, values + 1, rtol=1e-12)
    objective().backward()
    assert objective.fields[0].values.grad is None
    assert objective.fields[1].values.grad.abs().max() > 0


SEEN = np.ones((1, 1)), np.ones(1)
DISC = Region([(-1, 1)] * 2, lambda X: np.hypot(*X.T) < 1, np.eye(2))


@pytest.mark.parametrize(
    ("pde", "text"),
    [
        (PDE(DISC, {(2, 0): 1.0}, 0.0, [Dirichlet(0.0)]), "domain must be a Box .* got a Region"),
        (PDE(LINE, {2: 1.0}, SEEN, [Dirichlet(0.0)]), "source must be a callable .* 1 samples"),
        (PDE(LINE, {1: 1.0}, 0.0, [Neumann(0.0, (0, 0))]), "conditions must give values on faces .* got Neumann"),
        (PDE(LINE, {2: 1.0}, 0.0, [Initial(0.0, 1.0)]), "conditions must give values on faces .* got Initial"),
        (PDE(LINE, {1: 1.0}, 0.0, [Dirichlet(SEEN)]), "conditions must give values on faces"),
        (PDE(LINE, {1: 1.0}, 0.0, [Dirichlet(0.0)], observations=SEEN), "no observations .* Use method='auto'"),
        (PDE(LINE, {5: 1.0}, 0.0, [Dirichlet(0.0, where=(0, 0))] * 5), "order must be at most 4"),
    ],
    ids=["region", "samples", "neumann", "velocity", "scattered", "observations", "order"],
)
def test_what_has_no_place_in_the_objective_is_refused(pde, text):
    with pytest.raises(InvalidInputError, match=text):
        GPHMObjective(pde, GPHM(n_points=12, n_components=3), (2.0,) * pde.n_dims)()


def test_one_number_of_points_for_each_dimension():
    with pytest.raises(InvalidInputError, match=r"n_points must be one number or one for each of 2 .* \(4, 5, 6\)"):
        GPHMObjective(LINEAR["plane"], GPHM(n_points=(4, 5, 6)), (1.0, 1.0))
