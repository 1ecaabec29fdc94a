"""Divided differences: exact to a few roundings at every separation, condition and scale."""

import mpmath
import numpy as np
import pytest
import torch

from sciml.linalg.spd.quotients import KINDS, apply_function, divided_difference

GAPS = [0.0] + [10.0**-k for k in range(15, 4, -1)]
# Pairs: nearly equal, far apart (condition 1e14), at the scale of EEG in volts squared; and around 1 for exp.
PAIRS = [
    (scale * a, scale * (a + a * gap))
    for scale in (1.0, 1e-12, 1e12)
    for a in (1.0, 0.37, 1e-14, 7.3e-5, 29.0)
    for gap in [*GAPS, 1e-3, 0.1, 0.5, 1.0, 3.0]
] + [(s * 1e-14, s * b) for s in (1.0, 1e-12) for b in (1.0, 0.3, 1e-7)]
REFERENCE = {
    "sqrt": (mpmath.sqrt, lambda x, _: 1 / (2 * mpmath.sqrt(x))),
    "invsqrt": (lambda x: 1 / mpmath.sqrt(x), lambda x, _: -1 / (2 * x * mpmath.sqrt(x))),
    "inv": (lambda x: 1 / x, lambda x, _: -1 / x**2),
    "log": (mpmath.log, lambda x, _: 1 / x),
    "exp": (mpmath.exp, lambda x, _: mpmath.exp(x)),
}


def reference(kind, a, b, p=None):
    """Return f[a, b] to about 60 digits, the gap of two doubles being exact."""
    with mpmath.workdps(110):
        a, b = mpmath.mpf(a), mpmath.mpf(b)
        if kind == "pow":
            p = mpmath.mpf(p)
            return p * a ** (p - 1) if a == b else (a**p - b**p) / (a - b)
        f, derivative = REFERENCE[kind]
        return derivative(a, p) if a == b else (f(a) - f(b)) / (a - b)


def worst_error(kind, p=None):
    worst = 0.0
    for a, b in PAIRS:
        if kind == "exp" and max(a, b) > 500:
            continue
        a64, b64 = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
        truth = reference(kind, a, b, p)
        for got in (divided_difference(kind, a64, b64, p), divided_difference(kind, b64, a64, p)):
            with mpmath.workdps(60):
                worst = max(worst, float(abs(mpmath.mpf(got.item()) - truth) / abs(truth)))
    return worst


@pytest.mark.parametrize("kind", ["sqrt", "invsqrt", "inv", "log", "exp"])
def test_quotients_are_exact_at_every_gap_condition_and_scale(kind):
    assert worst_error(kind) < 2e-15


@pytest.mark.parametrize("p", [0.5, -0.5, 1.5, 2.0, -1.0, 0.3, 1e-3, 3.0])
def test_quotients_of_powers_are_exact(p):
    # Two powers of at most 3 units in the last place each.
    assert worst_error("pow", p) < 4e-15


def test_trivial_powers():
    a, b = torch.tensor(2.0, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    assert divided_difference("pow", a, b, 1.0).item() == pytest.approx(1, rel=1e-15)
    assert divided_difference("pow", a, b, 0.0).item() == 0
    assert divided_difference("pow", 0 * a, b, 2.0).item() == pytest.approx(5, rel=1e-15)
    assert divided_difference("pow", 0 * a, 0 * b, 2.0).item() == 0


def test_clipping_is_zero_one_or_the_slope_across_the_floor():
    a = torch.tensor([0.5, 1.0, 2.0, 2.0, 1.0, 3.0], dtype=torch.float64)
    b = torch.tensor([0.7, 1.0, 2.0, 0.5, 3.0, 1.0 + 1e-9], dtype=torch.float64)
    want = [0.0, 0.0, 1.0, (2.0 - 1.0) / 1.5, 1.0, 1.0]
    assert divided_difference("clip", a, b, 1.0).tolist() == pytest.approx(want, rel=1e-15)


def test_exp_neither_overflows_early_nor_loses_far_pairs():
    a, b = torch.tensor(700.0, dtype=torch.float64), torch.tensor(-700.0, dtype=torch.float64)
    assert divided_difference("exp", a, b).item() == pytest.approx(np.exp(700.0) / 1400, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_function_and_quotient_are_of_the_same_function(kind):
    parameter = {"pow": 0.7, "clip": 0.9}.get(kind)
    a, b = torch.tensor(0.4, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    plain = (apply_function(kind, a, parameter) - apply_function(kind, b, parameter)) / (a - b)
    assert divided_difference(kind, a, b, parameter).item() == pytest.approx(plain.item(), rel=1e-14)
