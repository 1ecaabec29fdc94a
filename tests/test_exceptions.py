"""The errors are what a caller would catch them as, and travel through pickle whole."""

import pickle

import pytest

from sciml import exceptions as ex


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (ex.InvalidInputError, (ex.SciMLError, ValueError)),
        (ex.NotPositiveDefiniteError, (ex.InvalidInputError, ValueError)),
        (ex.CertificateError, (ex.InvalidInputError, ValueError)),
        (ex.IdentifiabilityError, (ex.InvalidInputError, ValueError)),
        (ex.BackendMismatchError, (ex.SciMLError, TypeError)),
        (ex.MemoryBudgetError, (ex.SciMLError, MemoryError)),
        (ex.WorkerLostError, (ex.SciMLError, RuntimeError)),
        (ex.CheckpointError, (ex.InvalidInputError, ValueError)),
        (ex.UnsafeCheckpointError, (ex.CheckpointError,)),
        (ex.ConvergenceError, (ex.SciMLError, RuntimeError)),
        (ex.ConvergenceWarning, (UserWarning,)),
        (ex.ConditioningWarning, (UserWarning,)),
        (ex.FallbackWarning, (UserWarning,)),
        (ex.AmbiguityWarning, (UserWarning,)),
    ],
)
def test_is_caught_as_its_bases_and_pickles(cls, bases):
    assert all(issubclass(cls, base) for base in bases)
    again = pickle.loads(pickle.dumps(cls("tol must be positive; got -1.")))
    assert type(again) is cls
    assert str(again) == "tol must be positive; got -1."


@pytest.mark.parametrize(
    ("cls", "numbers"),
    [
        (ex.NotPositiveDefiniteError, {"index": 7, "smallest": -0.5}),
        (ex.CertificateError, {"constant": "mu", "given": 2.0, "seen": 1.0, "sample": 3}),
        (ex.MemoryBudgetError, {"needed": 2**40, "allowed": 2**30}),
        (ex.WorkerLostError, {"items": (3, 7)}),
        (ex.IdentifiabilityError, {"missing": 2}),
        (ex.CheckpointError, {"path": "model.pt"}),
        (ex.UnsafeCheckpointError, {"path": "model.pt", "offending": "posix.system"}),
    ],
)
def test_keeps_its_numbers_through_pickle(cls, numbers):
    again = pickle.loads(pickle.dumps(cls("too much", **numbers)))
    assert str(again) == "too much"
    assert vars(again) == numbers


def test_an_error_travels_where_dask_has_its_hand_in_pickling():
    pytest.importorskip("distributed")  # importing it is what changes pickling
    error = ex.MemoryBudgetError("too much", needed=2, allowed=1)
    error.add_note("of item 3")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.needed, again.allowed, again.__notes__) == ("too much", 2, 1, ["of item 3"])
