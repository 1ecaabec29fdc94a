"""Claims about nonuniform Fourier transforms: the direct sum is the truth."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.linalg import lsmr
from sciml.linalg.nufft import NonuniformFourier, nufft_type1, nufft_type2
from sciml.testing import check_adjoint

SIZES = {1: (101,), 2: (24, 31), 3: (11, 8, 9)}


def modes(n_modes):
    """Return the modes of a box, (N, d), in C order."""
    grid = np.meshgrid(*[np.arange(N) - N // 2 for N in n_modes], indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, len(n_modes))


def dense(X, n_modes):
    return np.exp(1j * X @ modes(n_modes).T)


def complex_normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.fixture
def points():
    return lambda d, n=300: np.random.default_rng(d).uniform(-4, 9, (n, d))


@pytest.mark.parametrize("eps", [1e-2, 1e-5, 1e-8, 1e-11, 1e-13])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_both_types_meet_eps_against_the_direct_sum(d, eps, points, rng):
    X, N = points(d), SIZES[d]
    A = dense(X, N)
    F, c = complex_normal(rng, A.shape[1]), complex_normal(rng, A.shape[0])
    two, one = nufft_type2(X, F.reshape(N), eps=eps), nufft_type1(X, c, N, eps=eps)
    assert one.shape == N
    assert np.max(np.abs(two - A @ F)) <= eps * np.abs(F).sum()
    assert np.max(np.abs(one.reshape(-1) - A.conj().T @ c)) <= eps * np.abs(c).sum()


def test_a_looser_eps_is_cheaper_and_worse(points, rng):
    X, F = points(1), complex_normal(rng, 101)
    loose, tight = (NonuniformFourier(X, 101, eps=eps) for eps in (1e-3, 1e-12))
    truth = dense(X, (101,)) @ F
    assert loose.width < tight.width
    assert np.linalg.norm(loose @ F - truth) > 1e3 * np.linalg.norm(tight @ F - truth)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_type_one_is_the_adjoint_of_type_two(d, points):
    A = NonuniformFourier(points(d), SIZES[d], eps=1e-3)  # also where eps is loose
    check_adjoint(A.matvec, A.rmatvec, A.shape[1], A.shape[0], dtype="complex128")


@pytest.mark.parametrize("N", [(21,), (15, 9), (5, 7, 9)])
def test_real_functions_take_the_short_way(N, points, rng):
    X = torch.as_tensor(points(len(N)))
    A = NonuniformFourier(X, N)
    c = torch.as_tensor(rng.standard_normal(len(X)))
    F = A.rmatvec(c.to(torch.complex128)).reshape(N)
    assert_allclose(A.real_moments(c), F, rtol=0, atol=1e-13 * len(X))
    assert_allclose(A.real_values(F), A.matvec(F.reshape(-1)).real, rtol=0, atol=1e-13 * float(F.abs().sum()))


@pytest.mark.parametrize("N", [1, 2, 3, 7])
def test_few_modes_and_one_point(N, rng):
    F = complex_normal(rng, N)
    assert_allclose(nufft_type2(np.array([0.3]), F), dense(np.array([[0.3]]), (N,)) @ F, rtol=1e-11)


def test_points_on_and_beyond_the_edges(rng):
    edges = np.array([0.0, -0.0, 2 * np.pi, -2 * np.pi, np.pi, -np.pi, np.nextafter(2 * np.pi, 0), -1e-17, 40 * np.pi])
    F = complex_normal(rng, 33)
    for X in (edges[:, None], np.stack([edges, edges[::-1]], axis=1)):
        N = (33,) * X.shape[1]
        F = complex_normal(rng, 33 ** X.shape[1])
        assert_allclose(NonuniformFourier(X, N) @ F, dense(X, N) @ F, rtol=0, atol=1e-11 * np.abs(F).sum())


def test_clustered_and_repeated_points(rng):
    X = np.r_[np.full((500, 2), 1.0), rng.uniform(0, 1e-3, (500, 2)), rng.uniform(0, 6, (20, 2))]
    F = complex_normal(rng, 15 * 15)
    A = NonuniformFourier(X, (15, 15))
    assert_allclose(A @ F, dense(X, (15, 15)) @ F, rtol=0, atol=1e-11 * np.abs(F).sum())
    assert np.ptp((A @ F)[:500].real) == 0.0


def test_order_of_the_points_does_not_matter(points, rng):
    X, F = points(2), complex_normal(rng, 24 * 31)
    turn = rng.permutation(len(X))
    assert_allclose(
        NonuniformFourier(X[turn], SIZES[2]) @ F, (NonuniformFourier(X, SIZES[2]) @ F)[turn], rtol=0, atol=1e-12
    )


def test_many_rows_of_one_tile_are_cut_into_chunks(monkeypatch, points, rng):
    X, F = points(2), complex_normal(rng, 24 * 31)
    whole = NonuniformFourier(X, SIZES[2]) @ F
    monkeypatch.setattr("sciml.linalg.nufft._CHUNK", 1)
    assert_allclose(NonuniformFourier(X, SIZES[2]) @ F, whole, rtol=0, atol=1e-12)


def test_units_of_the_data_do_not_matter(points, rng):
    X, c = points(1), complex_normal(rng, 300)
    one = nufft_type1(X, c, 51)
    assert np.array_equal(nufft_type1(X, 2.0**40 * c, 51), 2.0**40 * one)
    assert not nufft_type1(X, 0 * c, 51).any()


def test_several_columns_and_kinds(points, rng):
    X, F = points(1, 40), complex_normal(rng, (31, 3))
    A = NonuniformFourier(X, 31)
    both = A @ F
    assert both.shape == (40, 3)
    assert_allclose(both[:, 1], A @ F[:, 1], rtol=0, atol=1e-13)
    assert_allclose(A.rmatvec(both)[:, 2], A.rmatvec(both[:, 2]), rtol=0, atol=1e-11)
    twin = NonuniformFourier(torch.as_tensor(X), 31) @ torch.as_tensor(F)
    assert isinstance(twin, torch.Tensor)
    assert_allclose(twin.numpy(), both, rtol=0, atol=1e-13)


def test_it_is_an_operator_for_krylov_methods(rng):
    X = np.sort(rng.uniform(0, 2 * np.pi, 400))
    A = NonuniformFourier(X, 41)
    F = complex_normal(rng, 41)
    assert_allclose(A.to_dense(), dense(X[:, None], (41,)), rtol=0, atol=1e-11)
    assert_allclose(lsmr(A, A @ F, tol=1e-12).value, F, rtol=0, atol=1e-9)


def test_ten_thousand_modes_lose_what_rounded_phases_cost(rng):
    X, F = rng.uniform(0, 2 * np.pi, 50), complex_normal(rng, 20001)
    got = nufft_type2(X, F, eps=1e-13)
    assert np.max(np.abs(got - dense(X[:, None], (20001,)) @ F)) <= 1e-12 * np.abs(F).sum()


@pytest.mark.parametrize(
    ("X", "N", "options", "message"),
    [
        (np.zeros((3, 2), np.float32), (3, 3), {}, "X must be float64.*got float32"),
        (np.zeros((3, 4)), (3,) * 4, {}, r"d = 1, 2 or 3; got \(3, 4\)"),
        (np.zeros((3, 2)), (3,), {}, r"one number for each of the 2 dimensions"),
        (np.zeros((3, 1)), (0,), {}, "n_modes must be an integer at least 1; got 0"),
        (np.array([0.0, np.nan]), (3,), {}, "X must be finite|X .*nan|finite"),
        (np.zeros((3, 1)), (3,), {"eps": 1e-17}, "eps must be a number at least 1e-14"),
    ],
)
def test_bad_input_is_named(X, N, options, message):
    with pytest.raises(InvalidInputError, match=message):
        NonuniformFourier(X, N, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees(points, rng):
    X, F = points(2), complex_normal(rng, 24 * 31)
    there = NonuniformFourier(torch.as_tensor(X).cuda(), SIZES[2]) @ torch.as_tensor(F).cuda()
    assert_allclose(there.cpu().numpy(), NonuniformFourier(X, SIZES[2]) @ F, rtol=0, atol=1e-11)
