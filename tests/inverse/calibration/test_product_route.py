"""Operators through the front door: written out or used by products, with ambiguities named."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import AmbiguityWarning, InvalidInputError
from sciml.inverse.calibration import FromCallable, SpreadCode, self_calibrate
from sciml.inverse.calibration.ensemble_adapters import as_ensemble
from sciml.inverse.calibration.product_route import linked_sensors


def normal(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def error(found, d):
    alpha = np.vdot(found, d) / np.vdot(found, found)
    return np.linalg.norm(alpha * found - d) / np.linalg.norm(d)


@pytest.fixture
def codes(rng):
    m, n, p = 256, 64, 16
    A = SpreadCode(rng.choice([-1.0, 1.0], (p, m)), n)
    d, x = 1 + 0.3 * normal(rng, m), normal(rng, p, n)
    y = d * A.forward(torch.as_tensor(x)).numpy() + 0.01 * normal(rng, p, m)
    return A, d, x, y


def test_products_and_matrices_give_the_same_gains_and_signals(codes):
    A, d, x, y = codes
    by_products, by_matrices = self_calibrate(y, A, method="matrix-free"), self_calibrate(y, A, method="chain")
    assert "matrix-free" in by_products.method
    assert "likelihood" in by_matrices.method
    # Both are maximum likelihood, the first to a part of the noise.
    assert error(by_products.gains, by_matrices.gains) < 0.02 * error(by_matrices.gains, d)
    assert_allclose(by_products.signals, by_matrices.signals, rtol=0, atol=0.02)
    assert_allclose(by_products.gains_std, by_matrices.gains_std, rtol=0.2)
    assert_allclose(by_products.predict(), by_matrices.predict(), rtol=0, atol=0.01)


def test_large_work_goes_by_products_and_small_by_matrices(rng):
    A = SpreadCode(rng.choice([-1.0, 1.0], (16, 1024)), 256)
    d = 1 + 0.3 * normal(rng, 1024)
    y = d * A.forward(torch.as_tensor(normal(rng, 16, 256))).numpy()
    large = self_calibrate(y, A)
    assert "matrix-free" in large.method
    assert error(large.gains, d) < 1e-6
    B, s = rng.standard_normal((12, 3)), 1 + 0.3 * rng.standard_normal(12)
    small = self_calibrate(s * (rng.standard_normal((9, 3)) @ B.T), spla.aslinearoperator(B))
    assert "matrix-free" not in small.method
    assert error(small.gains, s) < 1e-10


@pytest.mark.filterwarnings("ignore::sciml.exceptions.AmbiguityWarning")
def test_groups_of_an_operator_are_named_and_only_the_largest_answered_for(codes, rng):
    A, d, x, _ = codes
    m, n, p = 256, 64, 16
    half = SpreadCode(rng.choice([-1.0, 1.0], (p, 128)), 32)

    def forward(X):
        return np.concatenate([half.forward(torch.as_tensor(X[:, k : k + 32].copy())).numpy() for k in (0, 32)], 1)

    def adjoint(Y):
        return np.concatenate([half.adjoint(torch.as_tensor(Y[:, k : k + 128].copy())).numpy() for k in (0, 128)], 1)

    blocks = FromCallable(forward, adjoint, (p, m, n), gram=4.0, kind="numpy", dtype="complex128")
    y = d * forward(x) + 0.01 * normal(rng, p, m)
    with pytest.warns(AmbiguityWarning, match=r"sensors 0-127 and 128-255 share no common information"):
        result = self_calibrate(y, blocks, method="matrix-free")
    assert result.groups == [list(range(128)), list(range(128, 256))]
    assert result.null_dimension == 2
    assert np.isnan(result.gains[128:]).all()
    assert error(result.gains[:128], d[:128]) < 0.01


def test_links_follow_weights():
    A = as_ensemble(torch.ones(4, 1, dtype=torch.float64), 3, 4)
    y = torch.ones(3, 4, dtype=torch.float64)
    W = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    everything = torch.ones(4, dtype=torch.bool)
    assert linked_sensors(y, A, everything) == [[0, 1, 2, 3]]
    assert linked_sensors(y, A, everything, W) == [[0, 1], [2, 3]]


def test_what_needs_matrices_is_refused(codes):
    A, _, _, y = codes
    with pytest.raises(InvalidInputError, match="loss must be left at its default for matrix-free problems"):
        self_calibrate(y, A, method="matrix-free", loss="student-t")
