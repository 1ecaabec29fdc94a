"""Sums over samples: float64 whatever the data, and the same whatever the company."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.optimize.rowwise import LONG, add, dot, norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 33, 129, 1000, 4097, LONG - 1, LONG, LONG + 5])
def test_a_row_is_summed_the_same_in_any_company(rng, d, dtype):
    a, b = (torch.from_numpy(rng.standard_normal((5, d))).to(dtype) for _ in range(2))
    scalar, added = torch.from_numpy(rng.standard_normal(5)), a.clone()
    together = dot(a, b)
    add(added, scalar, b)
    assert_allclose(together, (a.double() * b.double()).sum(1), rtol=0, atol=1e-12 * d)
    assert_allclose(added, a.double() + scalar[:, None] * b, rtol=0, atol=20 * torch.finfo(dtype).eps)
    for some in ([0], [3], [4, 1], [2, 3, 4]):
        assert torch.equal(dot(a[some], b[some]), together[some])
        part = a[some].clone()
        add(part, scalar[some], b[some])
        assert torch.equal(part, added[some])


@pytest.mark.parametrize("d", [1000, 2 * LONG])
def test_sums_of_float32_are_made_in_float64(d):
    a = torch.full((2, d), 0.1, dtype=torch.float32)
    exact = d * float(np.float32(0.1)) ** 2
    assert dot(a, a).dtype == torch.float64
    assert_allclose(dot(a, a), exact, rtol=1e-13)
    assert_allclose(norm(a), exact**0.5, rtol=1e-13)
    tiny = torch.full((2, d), 1e-30, dtype=torch.float32)  # squares vanish in float32
    assert_allclose(norm(tiny), d**0.5 * float(np.float32(1e-30)), rtol=1e-13)


def test_no_rows_have_no_sums():
    for d in (3, LONG):
        assert dot(torch.zeros(0, d), torch.zeros(0, d)).shape == (0,)
