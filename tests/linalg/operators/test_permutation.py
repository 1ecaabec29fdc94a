"""Selections, masks and permutations."""

import numpy as np
import pytest

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Mask, Permutation, Selection
from sciml.linalg.operators.permutation import parity


def test_a_selection_is_indexing(rng, backend):
    x, index = rng.standard_normal((7, 2)), np.array([3, 3, 0])
    S = Selection(backend.array(index), 7)
    np.testing.assert_array_equal(backend.numpy(S @ backend.array(x)), x[index])
    # An entry taken twice gets both back.
    np.testing.assert_array_equal(S.T @ np.ones(3), [1, 0, 0, 2, 0, 0, 0])
    assert S.shape == (3, 7)


def test_a_mask_is_boolean_indexing(rng):
    mask = rng.random((3, 4)) > 0.5
    x = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(Mask(mask) @ x.ravel(), x[mask])
    M = Mask(mask)
    np.testing.assert_array_equal((M @ M.T).to_dense(), np.eye(mask.sum()))


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 40, 1000])
def test_the_sign_of_a_permutation_is_that_of_its_determinant(n, rng):
    for _ in range(5):
        p = rng.permutation(n)
        assert parity(p) == np.linalg.slogdet(np.eye(n)[p])[0]


@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12, 64, 100])
def test_the_sign_of_one_long_cycle(n):
    assert parity(np.roll(np.arange(n), 1)) == (-1) ** (n - 1)


def test_a_permutation_is_undone(rng):
    P = Permutation(rng.permutation(10))
    x = rng.standard_normal(10)
    np.testing.assert_array_equal(P.solve(P @ x), x)
    np.testing.assert_array_equal(P.T.solve(P.T @ x), x)
    assert P.slogdet()[1] == 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Selection(np.array([0, 5]), 5), "index must lie in 0 to 4; got 5 at 1"),
        (lambda: Selection(np.array([-1]), 5), "index must lie in 0 to 4; got -1 at 0"),
        (lambda: Selection(np.array([0.5]), 5), "index must be integers"),
        (lambda: Selection(np.array([True]), 5), "Use Mask for booleans"),
        (lambda: Mask(np.array([1, 0])), "mask must be boolean"),
        (lambda: Permutation(np.array([0, 0, 1])), "got 0 2 times"),
    ],
)
def test_says_what_is_wrong(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()
