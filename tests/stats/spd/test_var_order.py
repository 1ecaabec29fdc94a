"""Orders of autoregressions: the recursion against a direct solve, known orders and delays recovered."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.lag_bank import LagBank
from sciml.stats.spd.trials import as_trials
from sciml.stats.spd.var_order import _levinson, information_criterion


def simulated(coefficients, delay, shape, rng):
    """A vector autoregression x_t = sum_i A_i x_{t - i delay} + e_t, after a burn-in."""
    N, T = shape
    n, past = len(coefficients[0]), len(coefficients) * delay
    x = rng.normal(size=(N, n, T + past + 200))
    for t in range(past, x.shape[2]):
        for i, A in enumerate(coefficients, start=1):
            x[:, :, t] += x[:, :, t - i * delay] @ np.asarray(A).T
    return x[:, :, -T:]


A1, A2 = np.array([[0.5, 0.2], [-0.3, 0.4]]), np.array([[-0.4, 0.1], [0.0, 0.3]])


@pytest.mark.parametrize("criterion", ["bic", "hq"])
@pytest.mark.parametrize(
    ("coefficients", "delay", "order"), [([], 1, 1), ([A1], 1, 2), ([A1, A2], 1, 3), ([A1], 4, 2), ([A1, A2], 3, 3)]
)
def test_recovers_order_and_delay(coefficients, delay, order, criterion, rng):
    x = simulated(coefficients, delay, (6, 800), rng) if coefficients else rng.normal(size=(6, 2, 800))
    orders, lags = range(1, 7), range(1, 6)
    table = information_criterion(as_trials(x), orders, lags, criterion=criterion)
    i, j = np.unravel_index(table.argmin(), table.shape)
    assert orders[i] == order
    assert order == 1 or lags[j] == delay


def test_the_recursion_solves_the_yule_walker_equations(rng):
    x = simulated([A1, A2], 1, (3, 300), rng)
    bank = LagBank(x)
    Gam = [bank.sums(k) / 300 for k in range(5)]
    logdets = _levinson(Gam, bank.mean)
    for q in range(5):
        expected = []
        for trial in range(3):
            ridge = 1e-8 * np.diag(np.diag(Gam[0][trial]))
            R = {k: Gam[k][trial] for k in range(5)}
            R |= {-k: Gam[k][trial].T for k in range(1, 5)}
            if not q:
                expected.append(np.linalg.slogdet(R[0] + ridge)[1])
                continue
            # [A_1 .. A_q] G = [R(1) .. R(q)], block (i, j) of G is R(j - i).
            G = np.block([[R[j - i] + (i == j) * ridge for j in range(q)] for i in range(q)])
            r = np.hstack([R[i + 1] for i in range(q)])
            A = np.linalg.solve(G.T, r.T).T
            expected.append(np.linalg.slogdet(R[0] + ridge - A @ r.T)[1])
        assert_allclose(logdets[q], expected, atol=1e-10)


def test_the_price_of_an_order(rng):
    """One more order of white noise costs n^2 log T and gains about n^2: their sum over trials is seen."""
    table = information_criterion(as_trials(rng.normal(size=(200, 2, 500))), (1, 2), (1,))
    gain = 200 * 4 * np.log(500) - (table[1, 0] - table[0, 0])
    assert_allclose(gain / 200, 4.0, atol=1.0)  # chi^2 with 4 degrees of freedom, five standard errors


def test_units_and_channels_shift_the_table_only(rng):
    x = simulated([A1], 2, (4, 300), rng)
    table = information_criterion(as_trials(x), range(1, 5), range(1, 4))
    for other in (1e6 * x, x[:, ::-1], np.array([[1.0, 0.5], [0.0, 2.0]]) @ x, np.array([[1e-6], [1e6]]) * x):
        shifted = information_criterion(as_trials(other), range(1, 5), range(1, 4))
        assert_allclose(shifted - shifted[0, 0], table - table[0, 0], atol=1e-4)


def test_trials_of_any_length_and_dependent_channels(rng):
    x = simulated([A1], 1, (4, 400), rng)
    x = np.concatenate([x, x.sum(axis=1, keepdims=True)], axis=1)
    series = [*x[:2], x[2, :, :200], x[3, :, :60]]
    table = information_criterion(as_trials(series), range(1, 5), range(1, 25))
    assert np.isinf(table[2:, 23]).all()  # 3 * 24 > 60
    assert np.isfinite(table[0]).all()
    assert np.unravel_index(table.argmin(), table.shape) == (1, 0)


def test_a_flat_channel_changes_no_choice(rng):
    x = simulated([A1, A2], 2, (4, 400), rng)
    flat = np.concatenate([x, np.full((4, 1, 400), 1e4)], axis=1)
    table = information_criterion(as_trials(flat), range(1, 6), range(1, 4))
    assert np.unravel_index(table.argmin(), table.shape) == (2, 1)


def test_what_does_not_fit_is_told(rng):
    with pytest.raises(InvalidInputError, match="shortest trial of 20 samples"):
        information_criterion(as_trials(rng.normal(size=(2, 1, 20))), (3,), (7,))
