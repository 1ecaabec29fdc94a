"""What the front door does where residuals are no white noise: weights of the sensors, a prior, or the likelihood."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import AmbiguityWarning
from sciml.inverse.calibration import GainPrior, posterior, self_calibrate
from sciml.inverse.calibration.misfit import Assessment, Decision


def error(found, d):
    alpha = np.vdot(found, d) / np.vdot(found, found)
    return np.linalg.norm(alpha * found - d) / np.linalg.norm(d)


@pytest.fixture
def unequal(rng):
    """Exact signals, arbitrary complex gains, noise over more than a decade."""
    normal = lambda *s: (rng.standard_normal(s) + 1j * rng.standard_normal(s)) / np.sqrt(2)  # noqa: E731
    m, n, p = 16, 4, 200
    A, d = normal(m, n), normal(m)
    std = 0.02 * np.geomspace(1, 30, m)
    return d, A, d * (normal(p, n) @ A.T) + std * normal(p, m), std


def test_unequal_noise_is_learned_before_a_prior_is_thought_of(unequal):
    d, A, y, std = unequal
    auto, chain, known = self_calibrate(y, A), self_calibrate(y, A, method="chain"), self_calibrate(y, A, noise_std=std)
    assert "noise for each sensor" in auto.reason
    assert error(auto.gains, d) < error(chain.gains, d)
    # Weights from 200 residuals of a sensor are known to some percent.
    assert error(auto.gains, d) < 1.3 * error(known.gains, d)


def test_errors_that_grow_with_the_gain_are_weighed(rng):
    m, n, p = 32, 8, 300
    d, A = np.exp(0.8 * rng.standard_normal(m)), rng.standard_normal((m, n))
    y = d * (rng.standard_normal((p, n)) @ A.T + 0.3 * rng.standard_normal((p, m)))
    auto, chain = self_calibrate(y, A), self_calibrate(y, A, method="chain")
    assert error(auto.gains, d) < 0.8 * error(chain.gains, d)


def test_gains_of_arbitrary_phases_are_not_replaced_by_ones(unequal, monkeypatch):
    d, A, y, _ = unequal
    verdict = Assessment(score=9.0, misfit=True, fraction=0.1)
    ones = Decision("prior", "a guess", verdict, gains=None, spread=0.0)
    monkeypatch.setattr(posterior, "choose", lambda *a, **k: ones)
    monkeypatch.setattr(posterior, "_own_noise", lambda *a: None)
    with pytest.warns(AmbiguityWarning, match="the gains of highest likelihood are kept"):
        result = self_calibrate(y, A)
    assert_allclose(result.gains, self_calibrate(y, A, method="chain").gains, rtol=1e-12)


def test_a_strong_prior_wins_and_none_is_none(rng):
    m, n, p = 8, 2, 30
    d, A = 1 + 0.2 * rng.standard_normal(m), rng.standard_normal((m, n))
    y = d * (rng.standard_normal((p, n)) @ A.T) + 0.1 * rng.standard_normal((p, m))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strong = self_calibrate(y, A, prior=GainPrior(strength=1e6))
        none = self_calibrate(y, A, prior=GainPrior(strength=0.0))
    assert_allclose(strong.gains, 1.0, atol=1e-3)
    assert_allclose(none.gains, self_calibrate(y, A, method="chain").gains, rtol=1e-8)
