"""Trials: what is accepted comes out the same whatever its form; what is wrong is named."""

import numpy as np
import pytest
import torch
import xarray
from numpy.testing import assert_array_equal

from sciml.exceptions import InvalidInputError, InvalidTypeError, NotPositiveDefiniteError
from sciml.stats.spd.trials import as_trials


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 3, 10))


def test_an_array_stays_as_it_is(x):
    trials = as_trials(x)
    assert_array_equal(trials.series, x)
    assert (len(trials), trials.n_channels, trials.kind) == (4, 3, "series")
    assert trials.channels == ("0", "1", "2")
    assert as_trials(trials) is trials


@pytest.mark.parametrize(
    "form", [list, tuple, torch.from_numpy, lambda x: [torch.from_numpy(t) for t in x], np.asfortranarray]
)
def test_form_does_not_matter(x, form):
    assert_array_equal(as_trials(form(x)).series, x)


def test_an_object_array_is_a_list(x):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [x[0], x[1, :, :7]]
    assert as_trials(ragged).lengths.tolist() == [10, 7]


def test_integers_and_halves_become_doubles():
    assert as_trials(np.ones((2, 1, 3), dtype=np.int16)).series.dtype == np.float64
    assert as_trials(torch.ones((2, 1, 3), dtype=torch.bfloat16)).series.dtype == np.float64


def test_dimensions_of_a_data_array_may_come_in_any_order(x):
    names = ["Fz", "Cz", "Pz"]
    array = xarray.DataArray(x, dims=("trial", "channel", "time"), coords={"channel": names})
    for dims in (("trial", "channel", "time"), ("time", "trial", "channel"), ("channel", "time", "trial")):
        trials = as_trials(array.transpose(*dims))
        assert_array_equal(trials.series, x)
        assert trials.channels == tuple(names)
    trials = as_trials([array[0], array[1, :, :4].transpose("time", "channel")])
    assert trials.lengths.tolist() == [10, 4]
    assert trials.channels == tuple(names)


def test_unequal_lengths_are_grouped_and_found_again(x):
    series = [x[0], x[1, :, :5], x[2], x[3, :, :7]]
    trials = as_trials(series)
    assert [block.shape[2] for _, block in trials.groups] == [5, 7, 10]
    for ours, given in zip(trials.series, series, strict=True):
        assert_array_equal(ours, given)


def test_a_subset_keeps_the_order_asked_for_and_repeats(x):
    series = [x[0], x[1, :, :5], x[2], x[3, :, :7]]
    rows = [3, 2, 0, 1, 3]
    for ours, row in zip(as_trials(series).subset(rows).series, rows, strict=True):
        assert_array_equal(ours, series[row])
    assert_array_equal(as_trials(x).subset(np.array([False, True, True, False])).series, x[1:3])
    assert_array_equal(as_trials(x).subset([-1]).series, x[3:])


@pytest.mark.parametrize("rows", [[], [4], np.zeros(4, dtype=bool), np.ones(3, dtype=bool)])
def test_a_subset_must_exist(x, rows):
    with pytest.raises(InvalidInputError, match="rows must"):
        as_trials(x).subset(rows)


def test_symmetric_slices_are_matrices(x):
    C = x @ x.transpose(0, 2, 1)
    trials = as_trials(C)
    assert trials.kind == "matrices"
    assert trials.series is None
    assert_array_equal(trials.matrices, C)
    assert_array_equal(trials.subset([2, 0]).matrices, C[[2, 0]])
    assert as_trials(list(C)).kind == "matrices"
    assert as_trials(C, kind="series").kind == "series"


def test_square_series_are_series(rng):
    assert as_trials(rng.normal(size=(5, 6, 6))).kind == "series"


def test_singular_matrices_are_welcome():
    v = np.array([1.0, 2.0, 2.0])
    assert as_trials(np.stack([np.outer(v, v)] * 2)).kind == "matrices"
    assert as_trials(np.stack([np.outer(v, v)] * 2).astype(np.float32)).kind == "matrices"


def test_a_negative_eigenvalue_is_named():
    with pytest.raises(NotPositiveDefiniteError, match="matrix 1 has smallest eigenvalue -0.5") as caught:
        as_trials(np.stack([np.eye(2), np.diag([1.0, -0.5])]))
    assert caught.value.index == 1
    assert caught.value.smallest == -0.5


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_definiteness_is_relative_to_the_matrix(unit):
    as_trials(unit * np.stack([np.diag([1.0, -1e-11]), np.eye(2)]))
    with pytest.raises(NotPositiveDefiniteError, match="matrix 0"):
        as_trials(unit * np.stack([np.diag([1.0, -1e-9]), np.eye(2)]))


def test_one_crooked_matrix_among_symmetric_ones_is_named():
    C = np.stack([np.eye(3)] * 4)
    C[2, 0, 1] = 1e-9
    with pytest.raises(InvalidInputError, match=r"matrix 2 differs from its transpose by 1\.0e-09"):
        as_trials(C)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda x: x[2].__setitem__((0, 3), np.nan), "trial 2 holds NaN"),
        (lambda x: x[1].__setitem__((1, 0), -np.inf), "trial 1 holds NaN or infinity"),
        (lambda x: x[3].__setitem__(slice(None), 0.0), "trial 3 is all zero"),
    ],
)
def test_a_bad_trial_is_named_in_an_array_and_in_a_list(x, spoil, text):
    spoil(x)
    for form in (x, [*x[:2], x[2], x[3, :, :8]]):
        with pytest.raises(InvalidInputError, match=text):
            as_trials(form)


def test_large_numbers_are_not_mistaken_for_infinity():
    assert as_trials(np.full((1, 2, 3), 1e308)).kind == "series"


@pytest.mark.parametrize(
    ("X", "text"),
    [
        (np.ones((3, 2)), r"got shape \(3, 2\)"),
        (np.ones((0, 2, 5)), r"at least one trial.*\(0, 2, 5\)"),
        ([], "empty list"),
        ([np.ones((2, 5)), np.ones((3, 5))], "trial 1 has 3 and trial 0 has 2"),
        ([np.ones((2, 5)), np.ones(5)], r"trial 1 has shape \(5,\)"),
        ([np.ones((2, 5)), np.ones((2, 1))], "trial 1 has 1"),
        (np.ones((2, 3, 1)), "trial 0 has 1"),
    ],
)
def test_a_wrong_shape_is_told(X, text):
    with pytest.raises(InvalidInputError, match=text):
        as_trials(X)


@pytest.mark.parametrize("X", [np.ones((2, 1, 3)) * 1j, np.array([[["a", "b"]]]), "text", None, {"a": 1}])
def test_what_is_no_real_number_is_refused(X):
    with pytest.raises((InvalidTypeError, InvalidInputError), match="X"):
        as_trials(X)


def test_wrong_names_of_dimensions_are_told(x):
    with pytest.raises(InvalidInputError, match="epoch"):
        as_trials(xarray.DataArray(x, dims=("epoch", "channel", "time")))


def test_masked_entries_are_refused(x):
    with pytest.raises(InvalidInputError, match="masked"):
        as_trials(np.ma.masked_greater(x, 1.0))


def test_the_data_are_not_changed(x):
    before = x.copy()
    as_trials(x).map_series(lambda block: block + 1)
    assert_array_equal(x, before)
