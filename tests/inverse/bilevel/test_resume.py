"""A run that was killed goes on as if nothing had happened; chunks and workers change no bit of it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel import Auto
from sciml.inverse.bilevel.maid import MAID

from .energies import least_squares, regression

CASE = regression("huber", seed=1, B=5, d=3, n=2, r=lambda t: 0.1 * (t**2).sum())
METHODS = {
    "gn": Auto(),
    "short": Auto(trust=0.1),
    "lbfgs": Auto(direction="lbfgs"),
    "bb": Auto(direction="bb"),
    "rigorous": Auto(certificate="rigorous", direction="gd"),
    "maid": MAID(max_backtracks=5),
    "hoag": "hoag",
    "fixed": "fixed",
    "stochastic": "stochastic",
}


class Killed(Exception):
    pass


def kill_after(k):
    def callback(n_iter, step):
        if n_iter == k:
            raise Killed

    return callback


def learn(method=None, theta0=(-2.0, 1.0), **options):
    options = {"max_iter": 5, "tol": 1e-4, "random_state": 3, **options}
    return CASE.learn(theta0, method=METHODS["gn"] if method is None else method, **options)


def assert_same(one, other, but=()):
    """The same bits, but for seconds."""
    assert (one.status, one.n_iter, one.message, one.certified) == (
        other.status,
        other.n_iter,
        other.message,
        other.certified,
    )
    for name in ("theta", "grad", "thetas", "x"):
        assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("value", "value_bar", "grad_bar", "n_units", "n_lower", "n_cg", "n_hvp", "n_power", "n_cross"):
        if name not in but:
            assert getattr(one, name) == getattr(other, name), name
    assert one.history.keys() == other.history.keys()
    for name, row in one.history.items():
        if name not in ("seconds", *but):
            assert_array_equal(row, other.history[name], err_msg=name)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_goes_on_with_the_same_bits(name, tmp_path):
    path = tmp_path / "run.npz"
    whole = learn(METHODS[name])
    for k in (0, 3):
        path.unlink(missing_ok=True)
        with pytest.raises(Killed):
            learn(METHODS[name], checkpoint=path, callback=kill_after(k))
        assert_same(learn(METHODS[name], checkpoint=path, resume=True), whole)


def test_a_callback_is_not_shown_again_what_it_has_seen(tmp_path):
    path, seen = tmp_path / "run.npz", []
    with pytest.raises(Killed):
        learn(checkpoint=path, callback=kill_after(2))
    result = learn(checkpoint=path, resume=True, callback=lambda n_iter, step: seen.append(n_iter))
    # The last point ends the search before anybody is asked.
    assert result.status == "converged"
    assert seen == list(range(2, result.n_iter))


def test_killed_twice(tmp_path):
    path = tmp_path / "run.npz"
    whole = learn()
    for k in (1, 3):
        with pytest.raises(Killed):
            learn(checkpoint=path, resume=True, callback=kill_after(k))
    assert_same(learn(checkpoint=path, resume=True), whole)


def test_a_budget_that_was_spent_can_be_raised(tmp_path):
    path = tmp_path / "run.npz"
    whole = learn()
    assert learn(checkpoint=path, max_iter=2).status == "max_iter"
    assert_same(learn(checkpoint=path, resume=True), whole)
    path.unlink()
    assert learn(checkpoint=path, max_units=whole.history["n_units"][2]).status == "budget"
    again = learn(checkpoint=path, resume=True)
    assert_array_equal(again.thetas, whole.thetas)


def test_writing_it_down_changes_nothing(tmp_path):
    path = tmp_path / "run.npz"
    assert_same(learn(checkpoint=path, max_iter=2), learn(max_iter=2))
    # Without resume the file of an earlier run is of no concern.
    start = {"theta0": (0.0, 0.0), "max_iter": 1}
    assert_same(learn(checkpoint=path, **start), learn(**start))


def test_nothing_to_resume_from_is_a_start(tmp_path):
    assert_same(learn(checkpoint=tmp_path / "new.npz", resume=True, max_iter=1), learn(max_iter=1))


@pytest.mark.parametrize(
    "other",
    [
        {"theta0": (-2.0, 1.5)},
        {"method": Auto(trust=1.0)},
        {"method": "maid"},
        {"bounds": (-5, 5)},
        {"lower": CASE.made(LH=None)},
        {"lower": least_squares(B=5, d=3)[0].lower},
        {"upper": least_squares(B=5, d=3)[0].upper},
        {"x0": np.ones((5, 3))},
        {"lower_solver": "nag"},
    ],
)
def test_another_problem_is_not_resumed(other, tmp_path):
    path = tmp_path / "run.npz"
    learn(checkpoint=path, max_iter=1)
    with pytest.raises(InvalidInputError, match="another problem"):
        learn(checkpoint=path, resume=True, **other)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    learn(checkpoint=path, max_iter=1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInputError):
        learn(checkpoint=path, resume=True)


# ---------------------------------------------------------------- chunks and workers


THETA = torch.tensor([-1.0, 0.5], dtype=torch.float64)


def everything(case, dense=False, **options):
    """What an evaluator says of two levels, and the units."""
    ev = case.evaluator(**options)
    ev.dense = dense
    level = ev.solve(THETA, torch.as_tensor(case.x0), None)
    level = ev.refine(level, 1e-6)
    ev.adjoint(level, 1e-6 * level.gg_norm)
    ev.gradient(level)
    S, matrix = ev.responses(level, 1e-4)
    norms, _ = ev.norm_J(level)
    error = ev.gradient_error(level, S)
    numbers = torch.tensor([*ev.value(level)[:2], ev.gradient_bar(level, S)[0], ev.n_lower, ev.n_cg])
    return [level.z, level.x, level.q, level.eps, level.delta, level.c, S, matrix, norms, error, numbers], ev.units


@pytest.mark.parametrize("name", ["huber", "quadratic"])
def test_chunks_change_no_bit(name):
    case = regression("huber", seed=6, B=7) if name == "huber" else least_squares(seed=6, B=7)[0]
    for options in ({"solver": "nag"}, {"solver": "newton_cg"}, {"dense": True}):
        whole, units = everything(case, **options)
        for size in (1, 3, 7):
            parts, same = everything(case, batch_size=size, **options)
            for one, other in zip(whole, parts, strict=True):
                assert_array_equal(one, other)
            # What is computed again for a chunk, or is saved by it, are single linearisations.
            assert same == pytest.approx(units, rel=0.1)


@pytest.mark.parametrize("name", ["gn", "lbfgs", "maid"])
def test_chunks_do_not_change_the_trajectory(name):
    whole = learn(METHODS[name], max_iter=3)
    for size in (1, 3):
        parts = learn(METHODS[name], max_iter=3, batch_size=size)
        assert_same(parts, whole, but=("n_units", "n_lower", "n_cg", "n_hvp", "n_power", "n_cross"))
        assert parts.n_units == pytest.approx(whole.n_units, rel=0.25)
        assert parts.settings["chunks"] == -(-5 // size)


def test_workers_do_not_change_the_trajectory():
    here = learn(batch_size=2, max_iter=2)
    workers = learn(batch_size=2, max_iter=2, n_jobs=2)
    assert_same(workers, here)


def test_a_run_may_be_resumed_with_other_chunks(tmp_path):
    path = tmp_path / "run.npz"
    learn(checkpoint=path, max_iter=2)
    again = learn(checkpoint=path, resume=True, batch_size=2)
    assert_array_equal(again.thetas, learn().thetas)
