"""What the methods share: bounds, the criterion, the best point, the rows of the history."""

import math

import numpy as np
import torch

from sciml.inverse.bilevel.search import Search, Snapshot
from sciml.iterate import Status

from .energies import shrinking

INF = math.inf


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def search(low, high, **options):
    case = shrinking()
    ev = case.evaluator()
    return Search(
        ev,
        tensor(*[0.0] * len(low)),
        torch.as_tensor(case.x0),
        1e-6,
        tensor(*low),
        tensor(*high),
        np.random.default_rng(0),
        **options,
    )


def snapshot(value, bar, theta=0.0):
    case = shrinking()
    ev = case.evaluator()
    level = ev.solve(tensor(theta), torch.as_tensor(case.x0), None)
    ev.adjoint(level, 1e-3)
    ev.gradient(level)
    return Snapshot(level.theta, value, bar, True, level)


def test_components_that_push_outwards_are_not_free():
    box = search([0, 0, 0, -INF], [1, 1, 1, INF])
    theta = tensor(0.0, 1.0, 0.5, 7.0)
    assert box.free(theta, tensor(1.0, -1.0, 1.0, 1.0)).tolist() == [False, False, True, True]
    assert box.free(theta, tensor(-1.0, 1.0, -1.0, -1.0)).tolist() == [True, True, True, True]
    assert box.clip(tensor(-1.0, 2.0, 0.25, 7.0)).tolist() == [0.0, 1.0, 0.25, 7.0]
    # Not one rounding beside its bound, where it would be free to push outwards.
    theta = box.clip(tensor(0.0, 1 - 2e-16, 0.25, -INF))
    assert theta.tolist() == [0.0, 1.0, 0.25, -INF]
    assert box.free(theta, tensor(1.0, -1.0, 1.0, 1.0)).tolist() == [False, False, True, False]


def test_how_far_a_direction_goes_before_it_meets_a_bound():
    box = search([0, 0, -INF], [1, 2, INF])
    theta = tensor(0.5, 0.5, 0.0)
    assert box.reach(theta, tensor(1.0, 1.0, 5.0)) == 0.5
    assert box.reach(theta, tensor(0.0, -2.0, 5.0)) == 0.25
    assert box.reach(theta, tensor(0.0, 0.0, -1.0)) == INF


def test_the_criterion_is_free_of_units():
    box = search([0, 0], [1, 1])
    theta, z = tensor(0.0, 0.5), tensor(5.0, -2.0)
    assert box.criterion(theta, z, 10.0) == 0.2
    assert box.criterion(theta, 8 * z, 80.0) == 0.2
    # Near a value of zero a millionth of the first one counts.
    box.first = -1e3
    assert box.criterion(theta, z, 1e-9) == 2.0 / 1e-3
    box.first = 0.0
    assert box.criterion(theta, z, 0.0) == 2.0


def test_the_best_is_the_lowest_upper_end():
    box = search([-INF], [INF])
    first, blurred, better = snapshot(1.0, 0.1), snapshot(0.9, 0.5), snapshot(1.0, 0.05)
    for one, wanted in ((first, first), (blurred, first), (better, better)):
        box.offer(one)
        assert box.best is wanted


def test_a_step_becomes_a_row():
    box = search([-INF], [INF])
    one = snapshot(1.0, 0.1, theta=0.3)
    assert not box.evaluator.limited
    step = box.step(one, 0.7, step=2.0)
    assert (step.value, step.criterion, step.scalars["step"]) == (one, 0.7, 2.0)
    assert step.scalars["value"] == 1.0
    assert step.scalars["value_bar"] == 0.1
    assert step.scalars["grad_norm"] == float(one.level.z.norm())
    assert step.scalars["eps"] == float(one.level.eps.max())
    assert [row["theta"].tolist() for row in box.rows] == [[0.3]]
    assert box.best is one
    assert box.evaluator.limited


def test_the_end_keeps_its_word():
    box = search([-INF], [INF])
    end = box.finish("flat", "because")
    assert (box.status, box.reason, end.status) == ("flat", "because", Status.STALLED)
