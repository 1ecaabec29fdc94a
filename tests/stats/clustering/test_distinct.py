"""What comes out depends on the rows and their weights alone, and leads back to every row."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sciml.stats.clustering.distinct import distinct_rows


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_it_is_numpy_unique_in_another_order(rng, levels):
    X = torch.from_numpy(rng.integers(levels, size=(300, 3)).astype(float) / 7)
    rows, weights, inverse = distinct_rows(X)
    truth, counts = np.unique(X.numpy(), axis=0, return_counts=True)
    order = np.lexsort(rows.numpy().T[::-1])
    assert_array_equal(rows.numpy()[order], truth)
    assert_array_equal(weights.numpy()[order], counts)
    assert_array_equal(rows[inverse], X)


def test_order_and_repetition_leave_every_bit_as_it_is(rng):
    X, omega = torch.from_numpy(rng.standard_normal((50, 4))), torch.from_numpy(rng.integers(0, 4, 50).astype(float))
    rows, weights, inverse = distinct_rows(X, omega)
    repeated = X.repeat_interleave(omega.long(), 0)
    for other in (repeated, repeated[torch.from_numpy(rng.permutation(len(repeated)))]):
        same_rows, same_weights, _ = distinct_rows(other)
        assert torch.equal(same_rows, rows)
        assert torch.equal(same_weights, weights)
    assert len(rows) == int((omega > 0).sum())
    assert_array_equal(inverse == -1, omega == 0)


def test_weights_of_equal_rows_are_summed_alike_in_any_order():
    X, omega = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    sums = {float(distinct_rows(X, omega[order])[1]) for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1])}
    assert len(sums) == 1  # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ


def test_a_row_of_weight_zero_counts_as_its_equals():
    X = torch.tensor([[1.0], [2.0], [1.0], [3.0]])
    rows, weights, inverse = distinct_rows(X, torch.tensor([0.0, 2.0, 5.0, 0.0]))
    assert sorted(zip(rows[:, 0].tolist(), weights.tolist(), strict=True)) == [(1.0, 5.0), (2.0, 2.0)]
    assert inverse[0] == inverse[2] != -1
    assert inverse[3] == -1


def test_zeros_of_either_sign_are_equal():
    rows, weights, _ = distinct_rows(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]))
    assert rows.shape == (1, 2)
    assert weights.tolist() == [2.0]


def test_rows_whose_numbers_agree_are_still_told_apart():
    # Rounding gives both rows one number, since the second column drowns in the first.
    X = torch.tensor([[1e20, 1.0], [1e20, 2.0], [1e20, 1.0]], dtype=torch.float64)
    rows, weights, inverse = distinct_rows(X)
    assert len(rows) == 2
    assert weights[inverse].tolist() == [2, 1, 2]


def test_no_rows_and_one_row_and_float32():
    assert distinct_rows(torch.empty(0, 2))[0].shape == (0, 2)
    rows, weights, inverse = distinct_rows(torch.tensor([[3.0, 4.0]]))
    assert (rows.tolist(), weights.tolist(), inverse.tolist()) == ([[3, 4]], [1], [0])
    assert rows.dtype == weights.dtype == torch.float32
