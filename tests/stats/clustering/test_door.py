"""What comes in: equal rows as weights, zero weights aside, means off, names kept; and every refusal with its text."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.stats.clustering.door import check_data, check_n_clusters, check_weights, open_problem, renumber


def test_rows_counts_and_mean_say_what_the_data_were(rng):
    different = rng.standard_normal((20, 3))
    pick = rng.integers(0, 20, 60)
    X, w = different[pick], rng.integers(1, 4, 60)
    problem = open_problem(X, 3, w)
    assert len(problem.rows) == len(np.unique(pick))
    assert_allclose(problem.rows[problem.inverse] + problem.mean, X, rtol=0, atol=1e-14)
    assert_allclose(problem.counts @ problem.rows, 0, atol=1e-12)
    assert_allclose(problem.mean, np.average(X, axis=0, weights=w), rtol=1e-12)
    for k in np.unique(pick):
        assert float(problem.counts[problem.inverse[np.flatnonzero(pick == k)[0]]]) == w[pick == k].sum()
    assert problem.n_clusters == 3


def test_the_mean_of_large_numbers_is_taken_off_twice(rng):
    X = rng.standard_normal((500, 2))
    far = open_problem(X + 1e9, 3)
    # One sum of 500 numbers of 1e9 is known to 1e-4 only; the rows themselves to 1e-7.
    assert_allclose(far.counts @ far.rows, 0, atol=1e-10)
    near = open_problem(X, 3)
    # Rows are sorted, where rounding may exchange two.
    assert_allclose(far.rows[far.inverse], near.rows[near.inverse], rtol=0, atol=1e-6)


def test_the_order_of_rows_is_nothing(rng):
    X, w = rng.standard_normal((30, 2)), rng.uniform(1, 2, 30)
    order = rng.permutation(30)
    one, two = open_problem(X, 3, w), open_problem(X[order], 3, w[order])
    assert torch.equal(one.rows, two.rows)
    assert torch.equal(one.counts, two.counts)
    assert torch.equal(one.inverse[order], two.inverse)


def test_rows_of_weight_zero_are_those_of_their_equals_or_asked_for():
    X = np.array([[0.0], [1.0], [0.0], [5.0]])
    problem = open_problem(X, 2, [1, 1, 0, 0])
    assert problem.inverse[2] == problem.inverse[0]
    assert problem.inverse[3] == -1
    seen = []
    values = problem.spread(torch.tensor([10.0, 20.0]), lambda rows: seen.append(rows) or torch.tensor([99.0]))
    assert values.tolist() == [10, 20, 10, 99]
    assert seen[0].tolist() == [[5.0]]
    whole = open_problem(X, 2)
    assert whole.spread(torch.arange(3.0), None).tolist() == [0, 1, 0, 2]  # nothing is asked for


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1 / 40])
def test_small_weights_are_shares(rng, scale):
    X = rng.standard_normal((40, 2))
    assert_allclose(check_weights(np.full(40, scale), torch.from_numpy(X)), np.ones(40), rtol=1e-12)
    w = rng.uniform(0, 1, 40)
    w[:10] = 0
    scaled = check_weights(w, torch.from_numpy(X))
    assert_allclose(scaled.sum(), 30, rtol=1e-12)
    assert_allclose(scaled / scaled.sum(), w / w.sum(), rtol=1e-12)


def test_large_weights_are_counts(rng):
    data = torch.from_numpy(rng.standard_normal((5, 2)))
    assert check_weights([1, 2, 3, 0, 9], data).tolist() == [1, 2, 3, 0, 9]
    assert check_weights(2.0, data).tolist() == [2.0] * 5
    assert check_weights(None, data) is None


def test_clusters_are_numbered_in_the_order_of_the_data():
    X = np.array([[9.0], [1.0], [5.0], [9.0], [1.0]])
    problem = open_problem(X, 3)
    labels, order = renumber(problem, torch.tensor([2, 0, 1])[problem.inverse[:3].argsort()], 3)
    given = labels[problem.inverse].tolist()
    assert given == [0, 1, 2, 0, 1]
    assert sorted(order.tolist()) == [0, 1, 2]
    # Noise keeps its number, and is not counted.
    noisy, _ = renumber(problem, torch.where(problem.rows[:, 0] == problem.rows.max(), -1, 1), 3)
    assert sorted(set(noisy.tolist())) == [-1, 0]


def test_names_and_kinds_are_kept(rng):
    X = rng.standard_normal((6, 2))
    assert check_data(xr.DataArray(X, dims=("time", "band"), coords={"band": ["red", "blue"]}))[1] == ["red", "blue"]
    assert check_data(X)[1] == []
    rows, _, leave = check_data(torch.from_numpy(X).float())
    assert rows.dtype == torch.float64
    assert isinstance(leave(rows), torch.Tensor)
    for other in (X.astype(np.float32), (10 * X).astype(int), X.tolist(), X > 0):
        rows, _, leave = check_data(other)
        assert rows.dtype == torch.float64
        assert isinstance(leave(rows), np.ndarray)
        assert_array_equal(rows, np.asarray(other, dtype=float))


def test_data_frames_have_names():
    rows, names, _ = check_data(pd.DataFrame({"a": [1, 2], "b": [0.5, 2.5]}))
    assert names == ["a", "b"]
    assert rows.tolist() == [[1, 0.5], [2, 2.5]]


@pytest.mark.parametrize(
    ("X", "error", "text"),
    [
        (None, InvalidInputError, "X must be an array of shape .n, p.; got None"),
        (np.ones(4), InvalidInputError, r"got \(4,\). Reshape it by X.reshape\(-1, 1\)"),
        (np.ones((2, 2, 2)), InvalidInputError, r"got \(2, 2, 2\). Rows are points"),
        (np.ones((0, 3)), InvalidInputError, r"at least one row and column; got \(0, 3\)"),
        (np.ones((3, 0)), InvalidInputError, r"at least one row and column; got \(3, 0\)"),
        (np.array([[1.0, np.nan], [0, 1]]), InvalidInputError, r"finite; the entry at index \(0, 1\) is nan"),
        (np.array([[1.0, 2], [-np.inf, 1]]), InvalidInputError, r"finite; the entry at index \(1, 0\) is -inf"),
        (np.ones((2, 2)) + 1j, InvalidTypeError, "X must be real; got dtype torch.complex128"),
        (np.array([["a", "b"]]), InvalidInputError, "X must hold numbers"),
        (sp.csr_matrix(np.eye(3)), InvalidInputError, "X must be dense; got a sparse csr_matrix"),
        (np.eye(2) * 1e151, InvalidInputError, "below 1e150.*got 1e.151"),
        (np.eye(2) * 1e-151, InvalidInputError, "above 1e-150.*got 1e-151"),
    ],
)
def test_bad_data_are_refused(X, error, text):
    with pytest.raises(error, match=text):
        check_data(X)


@pytest.mark.parametrize(
    ("K", "text"),
    [
        (0, "n_clusters must be an integer at least 1; got 0"),
        (-3, "got -3"),
        (2.5, "got 2.5"),
        (True, "got True of type bool"),
        (None, "got None of type NoneType"),
        ("Auto", "n_clusters must be an integer or 'auto'; got 'Auto'"),
        (6, "at most the number of points, n_samples=5; got 6"),
    ],
)
def test_bad_numbers_of_clusters_are_refused(K, text):
    with pytest.raises(InvalidInputError, match=text):
        check_n_clusters(K, 5)


def test_good_numbers_of_clusters_pass():
    assert check_n_clusters(5, 5) == 5
    assert check_n_clusters(np.int32(2), 5) == 2
    assert check_n_clusters("auto", 5) == "auto"


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([1, 1, -0.5], "not be negative; the entry at index 2 is -0.5"),
        ([0, 0, 0], "must have a positive entry; all 3 are zero"),
        ([1, 1], r"each of the 3 rows of X; got shape \(2,\)"),
        ([[1], [1], [1]], r"each of the 3 rows of X; got shape \(3, 1\)"),
        ([1, np.nan, 1], "sample_weight must be finite; the entry at index 1 is nan"),
        ([1, np.inf, 1], "sample_weight must be finite"),
        ([1, 1j, 1], "one real number"),
        (["a"] * 3, "sample_weight must hold numbers"),
    ],
)
def test_bad_weights_are_refused(weights, text):
    with pytest.raises(InvalidInputError, match=text):
        open_problem(np.eye(3), 2, weights)


def test_one_row_and_missing_devices_are_refused(monkeypatch):
    with pytest.raises(InvalidInputError, match="at least 2 rows to be clustered; got n_samples=1"):
        open_problem([[1.0, 2.0]], 1)
    with pytest.raises(InvalidInputError, match="device must be one of .*got 'gpu'"):
        open_problem(np.eye(3), 2, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidInputError, match="got 'cuda:0' and torch sees no CUDA device"):
        open_problem(np.eye(3), 2, device="cuda:0")
    assert open_problem(np.eye(3), 2, device="cpu").rows.device.type == "cpu"


def test_fewer_different_rows_than_clusters_are_as_many_clusters():
    with pytest.warns(FallbackWarning, match="n_clusters=4, but X has 3 different rows .*there will be 3 clusters"):
        assert open_problem(np.repeat(np.eye(3), 2, axis=0), 4).n_clusters == 3
    with pytest.warns(FallbackWarning, match="n_clusters=2, but all rows of X are equal: there will be 1 cluster. Ask"):
        assert open_problem(np.ones((5, 2)), 2).n_clusters == 1
    with pytest.warns(FallbackWarning, match="X has 2 different rows of positive weight"):
        assert open_problem(np.eye(3), 3, [1, 1, 0]).n_clusters == 2
    assert open_problem(np.ones((5, 2)), "auto").n_clusters == 1
