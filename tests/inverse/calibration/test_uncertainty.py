"""The Cramer-Rao bound against Fisher's information of all real parameters, and covariances against repetition."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.uncertainty import crb, gain_covariance, without_noise
from tests.inverse.calibration.simulated import normal, signal_part, simulate

MODELS = ["repeated", "diverse", "snapshots"]


def slow_bound(sim, sigma):
    """Fisher's information of real and imaginary parts of gains and signals; signals out; no error along the gains."""
    is_complex = np.iscomplexobj(sim.d)
    m, size = len(sim.d), len(sim.d) + sim.x.size
    sigma = np.broadcast_to(sigma, sim.y.shape).reshape(-1)

    def model(v):
        z = v[:size] + 1j * v[size:] if is_complex else v
        out = (z[:m] * signal_part(sim.model, sim.A, z[m:].reshape(sim.x.shape))).reshape(-1) / sigma
        return np.r_[out.real, out.imag] if is_complex else out

    at = np.r_[sim.d, sim.x.reshape(-1)]
    at = np.r_[at.real, at.imag] if is_complex else at
    # The model is quadratic: central differences have no error but rounding.
    J = np.stack([model(at + e) - model(at - e) for e in np.eye(len(at)) / 2], 1)
    # Real and imaginary parts of the noise have half the variance each.
    F = J.T @ J * (2 if is_complex else 1)
    gains = np.r_[0:m, size : size + m] if is_complex else np.arange(m)
    rest = np.setdiff1d(np.arange(len(at)), gains)
    S = (
        F[np.ix_(gains, gains)]
        - F[np.ix_(gains, rest)] @ np.linalg.pinv(F[np.ix_(rest, rest)]) @ F[np.ix_(rest, gains)]
    )
    C = np.linalg.pinv(S, rcond=1e-9, hermitian=True)
    # To complex numbers: E (a + i b)(a + i b)^*.
    return C if not is_complex else C[:m, :m] + C[m:, m:] + 1j * (C[m:, :m] - C[:m, m:])


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_bound_is_that_of_brute_force(rng, model, is_complex):
    sim = simulate(rng, model, 6, 2, 4, is_complex=is_complex)
    for sigma in (0.3, rng.uniform(0.5, 2, 6), rng.uniform(0.5, 2, (4, 6))):
        C = crb(sim.d, sim.x, sim.A, sigma)
        assert_allclose(C, slow_bound(sim, sigma), rtol=1e-8, atol=1e-8 * abs(C).max())
        assert np.linalg.norm(C @ sim.d) < 1e-10 * np.linalg.norm(C)


def test_missing_data_have_infinite_sigma(rng):
    sim = simulate(rng, "snapshots", 6, 2, 4)
    sigma = np.ones((4, 6))
    sigma[1:, 2] = np.inf
    C = crb(sim.d, sim.x, sim.A, sigma)
    assert_allclose(C, slow_bound(sim, np.where(np.isinf(sigma), 1e9, sigma)), rtol=1e-6, atol=1e-8)


def test_undetermined_gains_have_an_infinite_bound(rng):
    sim = simulate(rng, "snapshots", 6, 2, 4)
    sigma = np.ones((4, 6))
    sigma[:, 2] = np.inf
    bound = np.diag(crb(sim.d, sim.x, sim.A, sigma))
    assert np.isinf(bound[2])
    # The others are as if it were not there.
    keep = np.arange(6) != 2
    assert_allclose(bound[keep], np.diag(crb(sim.d[keep], sim.x, sim.A[keep], 1.0)), rtol=1e-10)
    # One signal for all snapshots: no relation between gains is determined.
    assert np.isinf(np.diag(crb(sim.d, np.tile(sim.x[:1], (4, 1)), sim.A, 1.0)).real).any()


def test_bound_comes_in_the_kind_of_the_gains(rng):
    sim = simulate(rng, "snapshots", 6, 2, 4, is_complex=False)
    C = crb(*(torch.from_numpy(t).float() for t in (sim.d, sim.x, sim.A)), 0.1)
    assert isinstance(C, torch.Tensor)
    assert C.dtype == torch.float32
    assert_allclose(C.numpy(), crb(sim.d, sim.x, sim.A, 0.1), rtol=1e-4, atol=1e-6)
    assert_allclose(crb(sim.d.tolist(), sim.x.tolist(), sim.A.tolist(), 0.1), crb(sim.d, sim.x, sim.A, 0.1), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"d": np.ones(5)}, "shapes"),
        ({"x": np.ones((3, 3))}, "shapes"),
        ({"A": np.ones((3, 5, 2))}, "shapes"),
        ({"d": np.array([1, 1, 0.0, 1])}, "zero"),
        ({"d": np.array([1, 1, np.nan, 1])}, "finite"),
        ({"A": np.full((4, 2), np.inf)}, "finite"),
        ({"sigma": 0.0}, "zero"),
        ({"sigma": np.nan}, "zero"),
        ({"sigma": np.ones(3)}, "sigma"),
    ],
)
def test_bad_input_of_the_bound(change, word):
    given = {"d": np.ones(4), "x": np.ones((3, 2)), "A": np.ones((4, 2)), "sigma": 1.0} | change
    with pytest.raises(InvalidInputError, match=word):
        crb(**given)


@pytest.mark.parametrize("is_complex", [True, False])
def test_pseudo_inverse_is_orthogonal_to_the_gains(rng, is_complex):
    d = normal(rng, 6, is_complex=is_complex)
    B = normal(rng, 20, 6, is_complex=is_complex)
    B = B - np.outer(B @ d, d.conj()) / np.linalg.norm(d) ** 2
    F = B.conj().T @ B
    C = gain_covariance(torch.from_numpy(F)[None], torch.from_numpy(d)[None], torch.ones(1, 6, dtype=torch.bool))
    assert_allclose(C[0].numpy(), np.linalg.pinv(F, rcond=1e-10, hermitian=True), rtol=1e-9, atol=1e-12)


def test_covariance_in_a_subspace(rng):
    """J (J^* F J)^+ J^* without its part along the gains."""
    d, B = normal(rng, 7), normal(rng, 30, 7)
    B = B - np.outer(B @ d, d.conj()) / np.linalg.norm(d) ** 2
    F = B.conj().T @ B
    J = np.concatenate([d[:, None], normal(rng, 7, 2)], 1)
    found = gain_covariance(
        torch.from_numpy(F)[None],
        torch.from_numpy(d)[None],
        torch.ones(1, 7, dtype=torch.bool),
        torch.from_numpy(J)[None],
    )
    P = np.eye(7) - np.outer(d, d.conj()) / np.linalg.norm(d) ** 2
    K = np.linalg.pinv(J.conj().T @ F @ J, rcond=1e-10, hermitian=True)
    assert_allclose(found[0].numpy(), P @ J @ K @ J.conj().T @ P, atol=1e-10)


def test_noise_in_the_information_is_taken_out(rng):
    """F_0^+ F F_0^+ with F_0 = F - noise, where noise is a part of F."""
    B = normal(rng, 9, 5)
    F = B.conj().T @ B
    noise = 0.3 * F + 0.05 * np.diag(np.diag(F).real)
    C = np.linalg.inv(F)
    F_0 = np.linalg.inv(F - noise)
    found = without_noise(torch.from_numpy(C)[None], torch.from_numpy(noise)[None], torch.zeros(1, dtype=torch.bool))
    assert_allclose(found[0].numpy(), F_0 @ F @ F_0, rtol=1e-8)


def test_directions_of_noise_only_have_no_answer():
    C, noise = torch.eye(3, dtype=torch.float64)[None], torch.diag(torch.tensor([0.1, 0.95, 0.2]).double())[None]
    found = without_noise(C, noise)[0].diagonal()
    assert float(found[1]) > 1e5
    assert_allclose(found[[0, 2]].numpy(), [1 / 0.81, 1 / 0.64], rtol=1e-6)


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="d must be an array or a number; got None"):
        crb(None, np.ones((2, 1)), np.ones((3, 1)), 1.0)
