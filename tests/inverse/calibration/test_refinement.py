"""Gauss-Newton with the signals eliminated: optima, subspaces, the certificate of convergence, stopping."""

import numpy as np
import pytest
import scipy.optimize
import torch
from numpy.testing import assert_allclose

from sciml.inverse.calibration.problem import as_problem, build_elimination
from sciml.inverse.calibration.refinement import Parametrisation, refine
from sciml.iterate import Status
from tests.inverse.calibration.simulated import error, misfit, normal, simulate

MODELS = ["repeated", "diverse", "snapshots"]


def prepare(sim, **more):
    """Elimination and a start a tenth away from the truth."""
    problem = as_problem(sim.y, sim.A, model=sim.model, **more)
    turn = np.exp(0.1j * np.arange(len(sim.d))) if np.iscomplexobj(sim.d) else 1
    return problem, build_elimination(problem), torch.from_numpy(sim.d * turn * 1.1)[None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("is_complex", [True, False])
def test_the_end_is_a_minimum_of_the_likelihood(rng, model, is_complex):
    sim = simulate(rng, model, 8, 3, 8, snr=20, is_complex=is_complex, gains="near one")
    problem, elimination, start = prepare(sim)
    found = refine(elimination, start)
    assert bool(found.converged.all())
    assert found.status is Status.CONVERGED
    d = found.d[0].numpy()
    assert_allclose(np.mean(abs(d) ** 2), 1, rtol=1e-12)
    least = misfit(sim.y, sim.A, d, model)
    assert_allclose(float(found.misfit) * problem.y_unit**2, least, rtol=1e-10)
    for _ in range(20):
        step = 1e-4 * normal(rng, 8, is_complex=is_complex)
        # A step along the factor changes nothing but rounding.
        assert misfit(sim.y, sim.A, d + step, model) > least * (1 - 1e-12)


def test_general_minimisers_find_nothing_lower(rng):
    sim = simulate(rng, "diverse", 5, 2, 6, snr=10, gains="near one")
    problem, elimination, start = prepare(sim)
    found = refine(elimination, start)
    both = lambda v: v[:5] + 1j * v[5:]  # noqa: E731
    d = found.d[0].numpy()
    slow = scipy.optimize.minimize(lambda v: misfit(sim.y, sim.A, both(v), "diverse"), np.r_[d.real, d.imag] + 0.01)
    assert float(found.misfit) * problem.y_unit**2 <= slow.fun * (1 + 1e-9)
    assert error(both(slow.x), d) < 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_convergence_holds_by_alternating_least_squares_too(rng, model):
    """A certificate that is not the solver's own step: the gains solve least squares for the signals that they give."""
    sim = simulate(rng, model, 8, 3, 8, snr=15)
    _, elimination, start = prepare(sim)
    found = refine(elimination, start)
    x = elimination.signals(found.d, torch.from_numpy(sim.y)[None])
    v = elimination.predict(torch.ones_like(found.d), x)[0].numpy()
    again = (v.conj() * sim.y).sum(0) / (abs(v) ** 2).sum(0)
    d = found.d[0].numpy()
    # The alternating step is a fraction of the distance to the optimum, which is tol times a condition number.
    assert np.max(abs(again - d) / abs(d)) < 1e-7


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("which", ["d_basis", "s_basis"])
def test_gains_in_a_subspace(rng, is_complex, which):
    sim = simulate(rng, "snapshots", 12, 3, 8, snr=20, is_complex=is_complex)
    B = np.concatenate([np.ones((12, 1)), 0.2 * normal(rng, 12, 2, is_complex=is_complex)], 1)
    h = np.array([1.0, 1.0, -1.0])
    d = B @ h if which == "d_basis" else 1 / (B @ h)
    y = sim.y / sim.d * d
    elimination = build_elimination(as_problem(y, sim.A))
    parameters = Parametrisation(**{which: torch.from_numpy(B.astype(y.dtype))})
    found = refine(elimination, torch.ones(1, 12, dtype=elimination.dtype), parameters=parameters)
    assert bool(found.converged.all())
    own = found.d[0].numpy() if which == "d_basis" else 1 / found.d[0].numpy()
    assert_allclose(B @ np.linalg.lstsq(B, own, rcond=None)[0], own, rtol=1e-10)
    best = misfit(y, sim.A, found.d[0].numpy(), "snapshots")
    for _ in range(10):
        own_step = B @ (1e-4 * normal(rng, 3, is_complex=is_complex))
        moved = found.d[0].numpy() + own_step if which == "d_basis" else 1 / (own + own_step)
        assert misfit(y, sim.A, moved, "snapshots") > best * (1 - 1e-12)
    assert error(found.d[0].numpy(), d) < 0.1


def test_derivative_of_the_parameters_is_that_of_finite_differences(rng):
    B, theta = torch.from_numpy(normal(rng, 6, 3)), torch.from_numpy(normal(rng, 1, 3))
    for parameters in (Parametrisation(d_basis=B), Parametrisation(s_basis=B)):
        J = parameters.derivative(parameters.gains(theta))
        for i in range(3):
            step = torch.zeros(1, 3, dtype=theta.dtype)
            step[0, i] = 1e-6
            slope = (parameters.gains(theta + step) - parameters.gains(theta - step)) / 2e-6
            assert_allclose(J[0, :, i].numpy(), slope[0].numpy(), rtol=1e-6)
        d = parameters.gains(theta)
        assert_allclose(parameters.project(d).numpy(), theta.numpy(), rtol=1e-10)
        factor = torch.tensor([2.0 - 1.0j])
        assert_allclose(parameters.gains(parameters.scaled(theta, factor)).numpy(), (factor * d).numpy(), rtol=1e-10)


def test_ill_conditioned_exact_data_end_at_rounding(rng):
    """As many equations as unknowns: steps of rounding stay above tol, and must not be taken for ever."""
    sim = simulate(rng, "snapshots", 10, 9, 9)
    _, elimination, start = prepare(sim)
    found = refine(elimination, start, tol=4e-15)
    assert bool(found.converged.all())
    assert found.n_iter < 150


def test_a_penalty_is_part_of_the_misfit(rng):
    sim = simulate(rng, "snapshots", 6, 2, 6, snr=10, gains="near one")
    _, elimination, start = prepare(sim)
    weight = 1e6

    def near_one(d):
        eye = torch.eye(6, dtype=d.dtype)[None]
        return weight * (d - 1).abs().square().sum(1), weight * (1 - d), weight * eye

    found = refine(elimination, start, penalty=near_one)
    assert_allclose(found.d[0].numpy(), 1, atol=1e-3)


def test_a_callback_stops_and_the_last_gains_come_back(rng):
    sim = simulate(rng, "snapshots", 6, 2, 6, snr=0)
    _, elimination, start = prepare(sim)
    found = refine(elimination, start, callback=lambda n_iter, step: n_iter == 2)
    assert found.status is Status.STOPPED
    assert found.n_iter == 2
    assert bool(torch.isfinite(found.d.abs()).all())


def test_channels_do_not_disturb_each_other(rng):
    one, two = (simulate(rng, "snapshots", 6, 2, 6, snr=snr) for snr in (5, 40))
    A = one.A
    y = np.stack([one.y, two.d * (two.x @ A.T)])
    d = torch.from_numpy(np.stack([one.d, two.d])) * torch.linspace(0.9, 1.2, 6)
    both = refine(build_elimination(as_problem(y, A)), d)
    alone = [refine(build_elimination(as_problem(y[c], A)), d[c : c + 1]) for c in range(2)]
    # Scaled by powers of two together, which is exact; the number of steps differs.
    for c in range(2):
        assert_allclose(both.d[c].numpy(), alone[c].d[0].numpy(), rtol=1e-8)
