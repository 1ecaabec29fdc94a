"""Claims about calibration from products alone: the dense answer, few applications, little memory, honest ends."""

import numpy as np
import pytest
import torch

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.inverse.calibration.ensembles import FromCallable, PartialDFT, SpreadCode, as_ensemble
from sciml.inverse.calibration.matrix_free import solve_matrix_free
from sciml.inverse.calibration.matrix_free_data import Stream
from sciml.inverse.calibration.matrix_free_spectral import SensorSpace, SignalSpace

MODELS = ("diverse", "snapshots", "repeated")


def gaussian(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / 2**0.5


def problem(model, *, m=24, n=5, p=6, sigma=0.0, kind="code", seed=0):
    """Return data, measurement and gains."""
    rng = np.random.default_rng(seed)
    A = SpreadCode(rng.choice([-1, 1], (p, m)), n) if kind == "code" else as_ensemble(gaussian(rng, p, m, n), p, m)
    if model == "snapshots":
        A = as_ensemble(A.to_dense()[0], p, m) if kind != "code" else PartialDFT(m, np.sort(rng.permutation(m)[:n]))
    d = gaussian(rng, m)
    x = gaussian(rng, 1 if model == "repeated" else p, n)
    y = d * A.forward(x) + sigma * gaussian(rng, p, m)
    return y, A, d


def weights(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "flags":
        return torch.from_numpy((rng.random(shape) > 0.2).astype(float))
    return torch.from_numpy(np.exp(rng.standard_normal(shape))) if kind == "weights" else None


def aligned(found, d):
    """Return the gains times the factor that brings them nearest to the true ones."""
    return found * torch.vdot(found, d) / torch.vdot(found, found)


def error(found, d):
    return float((aligned(found, d) - d).norm() / d.norm())


# ---------------------------------------------------------------- slow, obvious twins


def matrices(A, p):
    dense = torch.as_tensor(A.to_dense())
    return dense.expand(p, *dense.shape[-2:]).to(torch.complex128)


def stacked(y, A, W, shared):
    """Return the matrix of the linear system in inverse gains and signals."""
    p, m = y.shape
    G, n = matrices(A, p), A.shape[1]
    S = torch.zeros(p * m, m + (n if shared else p * n), dtype=torch.complex128)
    for j in range(p):
        rows, first = slice(j * m, (j + 1) * m), m + (0 if shared else j * n)
        S[rows, :m] = torch.diag(y[j])
        S[rows, first : first + n] = -G[j]
    return S if W is None else W.reshape(-1, 1).sqrt() * S


def likelihood(y, A, W, shared, d, steps=5):
    """Return the gains and the misfit of maximum likelihood, and the inverse information on the gains."""
    p, m = y.shape
    G, n = matrices(A, p), A.shape[1]
    root = torch.ones_like(y.real) if W is None else W.sqrt()
    for _ in range(steps):
        D = [root[j][:, None] * d[:, None] * G[j] for j in range(p)]
        if shared:
            x = torch.linalg.lstsq(torch.cat(D), (root * y).reshape(-1, 1)).solution.mT.expand(p, n)
        else:
            x = torch.stack([torch.linalg.lstsq(D[j], (root[j] * y[j])[:, None]).solution[:, 0] for j in range(p)])
        v = torch.stack([G[j] @ x[j] for j in range(p)])
        J = torch.zeros(p * m, m + (n if shared else p * n), dtype=torch.complex128)
        for j in range(p):
            rows, first = slice(j * m, (j + 1) * m), m + (0 if shared else j * n)
            J[rows, :m] = torch.diag(root[j] * v[j])
            J[rows, first : first + n] = D[j]
        r = (root * (y - d * v)).reshape(-1)
        # One row more fixes the gauge: the step is orthogonal to the gains.
        gauge = torch.zeros(1, J.shape[1], dtype=J.dtype)
        gauge[0, :m] = d.conj()
        rhs = torch.cat([r, torch.zeros(1, dtype=r.dtype)])[:, None]
        d = d + torch.linalg.lstsq(torch.cat([J, gauge]), rhs).solution[:m, 0]
    B = J[:, m:]
    Q = torch.linalg.qr(B)[0]
    C = J[:, :m] - Q @ (Q.mH @ J[:, :m])
    F = torch.linalg.pinv(C.mH @ C, rtol=1e-9, hermitian=True)
    return d, float(r.abs().square().sum()), torch.diagonal(F).real


# ---------------------------------------------------------------- the dense answer


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["code", "matrices"])
@pytest.mark.parametrize("weighting", ["none", "flags", "weights"])
@pytest.mark.parametrize("refine", [False, True])
def test_without_noise_it_is_the_null_vector_of_the_stacked_matrix(model, kind, weighting, refine):
    y, A, d = problem(model, kind=kind)
    W = weights(weighting, y.shape)
    found = solve_matrix_free(y, A, model=model, W=W, refine=refine)
    assert bool(found.converged[0])
    null = torch.linalg.svd(stacked(y, A, W, model == "repeated"), full_matrices=False)[2].mH[:, -1]
    assert error(found.gains[0], 1 / null[: len(d)]) < (1e-9 if refine else 1e-6)
    assert error(found.gains[0], d) < (1e-9 if refine else 1e-6)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["code", "matrices"])
@pytest.mark.parametrize("weighting", ["none", "flags", "weights"])
def test_with_noise_it_is_maximum_likelihood(model, kind, weighting):
    y, A, d = problem(model, kind=kind, sigma=0.02)
    W = weights(weighting, y.shape)
    found = solve_matrix_free(y, A, model=model, W=W)
    best, misfit, inverse = likelihood(y, A, W, model == "repeated", d)
    variance = misfit / float(found.dof[0])
    assert found.noise_variance[0] == pytest.approx(float(found.misfit[0]) / float(found.dof[0]))
    # A few percent of what one gain is worth may be left.
    assert misfit * (1 - 1e-9) <= float(found.misfit[0]) <= misfit + 0.03 * len(d) * variance
    distance = (aligned(found.gains[0], best) - best).abs().square() / (variance * inverse)
    assert float(distance.mean()) < 0.05


@pytest.mark.parametrize("model", MODELS)
def test_degrees_of_freedom_are_data_minus_unknowns(model):
    y, A, _ = problem(model)
    unknowns = 24 + (5 if model == "repeated" else 30) - 1
    assert float(solve_matrix_free(y, A, model=model).dof[0]) == 6 * 24 - unknowns
    W = torch.ones(6, 24, dtype=torch.float64)
    W[2, :21] = 0  # three numbers for five unknowns tell nothing
    left = 6 * 24 - 21 - unknowns if model == "repeated" else 5 * 24 - (24 + 25 - 1)
    assert float(solve_matrix_free(y, A, model=model, W=W).dof[0]) == left


def test_both_eliminations_have_the_same_eigenvalues_as_the_dense_matrix():
    y, A, _ = problem("diverse", sigma=0.05)
    scale = y.abs().square().sum(0).rsqrt()
    K = torch.zeros(24, 24, dtype=torch.complex128)
    for yl, G in zip(y, matrices(A, 6), strict=True):
        U = torch.linalg.qr(G)[0]
        K += torch.diag(scale * yl.conj()) @ U @ U.mH @ torch.diag(scale * yl)
    values = torch.linalg.eigvalsh(torch.eye(24) - K)
    stream = Stream(y, A)
    space = SensorSpace(stream)
    dense = torch.stack([space.apply(e) for e in torch.eye(24, dtype=torch.complex128)]).mT
    torch.testing.assert_close(torch.linalg.eigvalsh(dense), values, rtol=0, atol=1e-12)
    other = SignalSpace(stream, keep=True)
    dense = torch.stack([other.apply(e) for e in torch.eye(30, dtype=torch.complex128)]).mT
    torch.testing.assert_close(torch.linalg.eigvalsh(dense)[:24], values, rtol=0, atol=1e-12)
    found = solve_matrix_free(y, A, model="diverse", refine=False)
    assert found.history["lambda"][-1] == pytest.approx(float(values[0]), rel=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weighting", ["none", "flags"])
def test_the_smallest_eigenvalue_estimates_the_variance_of_the_noise(model, weighting):
    y, A, _ = problem(model, m=128, n=24, p=8, sigma=0.01)
    found = solve_matrix_free(y, A, model=model, W=weights(weighting, y.shape))
    assert 0.6 < float(found.eigenvalues[0, 0]) / 0.01**2 < 1.4
    assert float(found.noise_variance[0]) == pytest.approx(0.01**2, rel=0.2)


@pytest.mark.parametrize(("weighting", "limits"), [("none", (0.9, 1.1)), ("flags", (0.85, 1.15))])
@pytest.mark.parametrize("model", ["diverse", "repeated"])
def test_variances_are_those_of_the_inverse_information(model, weighting, limits):
    y, A, d = problem(model, m=48, n=12, p=8, sigma=0.02)
    W = weights(weighting, y.shape)
    _, _, inverse = likelihood(y, A, W, model == "repeated", d, steps=5)
    for probes in (0, 4):
        found = solve_matrix_free(y, A, model=model, W=W, probes=probes)
        true = inverse * found.noise_variance[0] * float(found.gains[0].norm() / d.norm()) ** 2
        assert limits[0] < float((found.variance[0] / true).median()) < limits[1]
        assert float((found.variance[0] / true).log().abs().max()) < 0.8


def test_where_neighbours_are_confused_variances_are_measured():
    y, A, d = problem("snapshots", m=64, n=16, p=12, sigma=0.003)
    slow = PartialDFT(64, 16)
    y = d * slow.forward(A.adjoint(y / d)) + 0.003 * gaussian(np.random.default_rng(5), 12, 64)
    found = solve_matrix_free(y, slow, model="snapshots", n_eigen=1)
    if not any("probes" in note for note in found.notes):
        found = solve_matrix_free(y, slow, model="snapshots", probes=2)
    _, _, inverse = likelihood(y, slow, None, False, d, steps=2)
    true = inverse * found.noise_variance[0] * float(found.gains[0].norm() / d.norm()) ** 2
    assert 0.5 < float(found.variance[0].sum() / true.sum()) < 2


# ---------------------------------------------------------------- work and memory


def test_fifty_thousand_unknowns_in_fifteen_applications():
    y, A, d = problem("diverse", m=1024, n=256, p=200, sigma=1e-3)
    found = solve_matrix_free(y, A, model="diverse")
    assert 1024 + 200 * 256 > 50_000
    assert max(found.history["forward"][-1], found.history["adjoint"][-1]) <= 15
    bound = float(found.variance[0].sum().sqrt() / found.gains[0].norm())
    assert error(found.gains[0], d) < 1.05 * bound
    spectral = solve_matrix_free(y, A, model="diverse", refine=False)
    assert max(spectral.history["forward"][-1], spectral.history["adjoint"][-1]) <= 9
    assert error(spectral.gains[0], d) < 2.5 * bound


def test_what_is_counted_is_what_was_called():
    calls = {"forward": 0, "adjoint": 0}
    y, A, _ = problem("diverse", sigma=0.01)

    def forward(X):
        calls["forward"] += 1
        return A.forward(X)

    def adjoint(Y):
        calls["adjoint"] += 1
        return A.adjoint(Y)

    B = FromCallable(forward, adjoint, (6, 24, 5), A.gram, kind="torch")
    calls.update(forward=0, adjoint=0)
    found = solve_matrix_free(y, B, model="diverse")
    assert [found.history[word][-1] for word in calls] == list(calls.values())
    torch.testing.assert_close(found.gains, solve_matrix_free(y, A, model="diverse").gains, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weighting", ["none", "flags"])
def test_without_memory_the_same_is_formed_again(model, weighting):
    y, A, _ = problem(model, sigma=0.02)
    W = weights(weighting, y.shape)
    plenty = solve_matrix_free(y, A, model=model, W=W)
    little = solve_matrix_free(y, A, model=model, W=W, memory=0)
    torch.testing.assert_close(little.gains, plenty.gains, rtol=1e-4, atol=1e-4)
    assert float(little.misfit[0]) == pytest.approx(float(plenty.misfit[0]), rel=1e-5)
    assert little.history["forward"][-1] > plenty.history["forward"][-1]


def test_an_unknown_multiple_of_the_identity_is_found():
    y, A, d = problem("diverse")
    known = as_ensemble(3 * A.to_dense(), 6, 24)
    found = solve_matrix_free(y, known, model="diverse")
    # Codes of 24 chips for 5 numbers have unequal energies; those of 25 chips do not.
    assert not any("multiple" in note for note in found.notes)
    y, A, d = problem("diverse", m=25)
    found = solve_matrix_free(y, as_ensemble(3 * A.to_dense(), 6, 25), model="diverse")
    assert any("multiple of the identity" in note for note in found.notes)
    assert error(found.gains[0], d) < 1e-9


# ---------------------------------------------------------------- what is left out, precision, units


@pytest.mark.parametrize("model", MODELS)
def test_sensors_that_saw_nothing_are_left_out(model):
    y, A, d = problem(model, sigma=0.01)
    y[:, 3] = 0
    found = solve_matrix_free(y, A, model=model)
    assert found.active[0].logical_not().nonzero().tolist() == [[3]]
    assert bool(found.gains[0, 3].isnan())
    assert bool(found.variance[0, 3].isinf())
    W = torch.ones(6, 24, dtype=torch.float64)
    W[:, 3] = 0
    y[:, 3] = 7  # whatever they hold
    other = solve_matrix_free(y, A, model=model, W=W)
    seen = found.active[0]
    torch.testing.assert_close(other.gains[0, seen], found.gains[0, seen], rtol=1e-3, atol=1e-3)
    assert error(found.gains[0, seen], d[seen]) < 0.05


@pytest.mark.parametrize("model", MODELS)
def test_single_precision_stays_and_is_enough(model):
    y, A, d = problem(model, m=64, n=12, p=8, sigma=1e-3)
    long = solve_matrix_free(y, A, model=model)
    short = solve_matrix_free(y.to(torch.complex64), A, model=model)
    assert short.signals.dtype is torch.complex64
    assert bool(short.converged[0])
    assert error(short.gains[0].to(d), d) < 1.02 * error(long.gains[0], d)


def test_real_data_stay_real():
    rng = np.random.default_rng(0)
    A = as_ensemble(rng.standard_normal((6, 24, 5)), 6, 24)
    d = torch.from_numpy(rng.standard_normal(24))
    found = solve_matrix_free(d * A.forward(torch.from_numpy(rng.standard_normal((6, 5)))), A, model="diverse")
    assert {found.gains.dtype, found.signals.dtype} == {torch.float64}
    assert error(found.gains[0], d) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_units_do_not_matter(model):
    y, A, _ = problem(model, sigma=0.02)
    one, scaled = (solve_matrix_free(y * factor, A, model=model) for factor in (1.0, 2.0**20))
    assert torch.equal(scaled.gains, 2.0**20 * one.gains)
    assert torch.equal(scaled.signals, one.signals)
    assert torch.equal(scaled.variance, 2.0**40 * one.variance)


# ---------------------------------------------------------------- ambiguity and honest ends


def test_two_groups_without_common_information_show_in_the_second_eigenvalue():
    rng = np.random.default_rng(0)
    dense = torch.zeros(8, 32, 8, dtype=torch.complex128)
    dense[:, :16, :4], dense[:, 16:, 4:] = gaussian(rng, 8, 16, 4), gaussian(rng, 8, 16, 4)
    x, d = gaussian(rng, 8, 8), gaussian(rng, 32)
    for A, low, high in ((dense, 1.0, 1.5), (gaussian(rng, 8, 32, 8), 30.0, 1e9)):
        A = as_ensemble(A, 8, 32)
        y = d * A.forward(x) + 0.02 * gaussian(rng, 8, 32)
        values = solve_matrix_free(y, A, model="diverse", n_eigen=2).eigenvalues[0]
        assert low <= float(values[1] / values[0]) < high


def test_two_groups_show_where_signals_are_eliminated_too():
    rng = np.random.default_rng(0)
    A = PartialDFT(16, 4)
    codes = torch.zeros(2, 32, 8, dtype=torch.complex128)
    codes[:, :16, :4] = torch.as_tensor(A.to_dense()) * torch.tensor([1, -1])[:, None, None]
    codes[:, 16:, 4:] = torch.as_tensor(PartialDFT(16, [3, 7, 8, 12]).to_dense())
    pair = as_ensemble(codes[0], 16, 32)
    y = gaussian(rng, 32) * pair.forward(gaussian(rng, 16, 8)) + 0.003 * gaussian(rng, 16, 32)
    values = solve_matrix_free(y, pair, model="snapshots", n_eigen=3).eigenvalues[0]
    assert float(values[1]) < 1.5 * float(values[0]) < 0.1 * float(values[2])


def test_it_says_when_a_stage_did_not_converge():
    y, A, _ = problem("diverse", sigma=0.01)
    with pytest.warns(ConvergenceWarning, match="matrix-free eigenproblem stopped after 2 iterations with criterion"):
        found = solve_matrix_free(y, A, model="diverse", max_iter=2, refine=False)
    assert not bool(found.converged[0])
    with pytest.warns(
        ConvergenceWarning, match="refinement stopped after 1 .*1 inner steps were taken: raise max_inner"
    ):
        found = solve_matrix_free(y + 0.5 * y.abs().roll(1), A, model="diverse", max_inner=1)
    assert not bool(found.converged[0])


def test_a_callback_sees_both_stages_and_may_end_them():
    y, A, _ = problem("diverse", sigma=0.01)
    seen = []
    solve_matrix_free(y, A, model="diverse", callback=lambda n_iter, step: seen.append(set(step.scalars)))
    assert {"lambda", "products", "residual"} in seen
    assert {"misfit", "inner"} in seen
    ended = solve_matrix_free(y, A, model="diverse", callback=lambda n_iter, step: True)
    assert not bool(ended.converged[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.ones(5, 24)}, r"y must have shape \(p, m\) as A says; got y of shape \(5, 24\)"),
        ({"y": torch.zeros(6, 24)}, "y must hold data; all its entries are zero or have no weight"),
        ({"W": torch.ones(24)}, r"W must have the shape of y, \(6, 24\); got \(24,\)"),
        ({"W": torch.zeros(6, 24)}, "y must hold data"),
        ({"model": "covariance"}, "model must be one of"),
        ({"n_eigen": 0}, "n_eigen must be an integer at least 1"),
        ({"probes": -1}, "probes must be an integer at least 0"),
    ],
)
def test_wrong_arguments(change, message):
    y, A, _ = problem("diverse")
    with pytest.raises(InvalidInputError, match=message):
        solve_matrix_free(**{"y": y, "ensemble": A, "model": "diverse", **change})
