"""Claims about measurement ensembles: adjoints, Gram matrices, blocks; wrong callables are told with numbers."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

import sciml.linalg
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.calibration.ensembles import (
    DFTMask,
    FromCallable,
    PartialDFT,
    SpreadCode,
    Steering,
    as_ensemble,
)
from sciml.testing import check_adjoint


def signs(rng, *shape):
    return rng.choice([-1.0, 1.0], shape)


def gaussian(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def padded_fft(m, n):
    """Return the callables of the first n columns of a unitary transform of length m."""
    return lambda X: np.fft.fft(X, m, norm="ortho"), lambda Y: np.fft.ifft(Y, norm="ortho")[..., :n]


CASES = {
    "mask": lambda rng: DFTMask(signs(rng, 3, 7)),
    "complex mask": lambda rng: DFTMask(gaussian(rng, 3, 6)),
    "two-dimensional mask": lambda rng: DFTMask(gaussian(rng, 3, 4, 5)),
    "padded mask": lambda rng: DFTMask(gaussian(rng, 3, 12), (3, 4), (5, 6)),
    "part": lambda rng: PartialDFT([5, 0, 3], [1, 6], size=7),
    "all rows": lambda rng: PartialDFT(9, 4),
    "code": lambda rng: SpreadCode(signs(rng, 3, 12), 4),
    "uneven code": lambda rng: SpreadCode(gaussian(rng, 3, 11), 4),
    "byte code": lambda rng: SpreadCode(signs(rng, 3, 8).astype(np.int8), 2),
    "steering": lambda rng: Steering(rng.standard_normal((6, 3)), rng.standard_normal((2, 3)), 0.7),
    "callable": lambda rng: FromCallable(*padded_fft(8, 3), (8, 3), "identity"),
    "matrices": lambda rng: as_ensemble(gaussian(rng, 3, 5, 2), 3, 5),
    "list": lambda rng: as_ensemble([sciml.linalg.Dense(gaussian(rng, 5, 2)) for _ in range(3)], 3, 5),
    "operator": lambda rng: as_ensemble(sciml.linalg.Dense(gaussian(rng, 5, 2)), 3, 5),
    "batched operator": lambda rng: as_ensemble(sciml.linalg.Dense(gaussian(rng, 3, 5, 2)), 3, 5),
    "real matrix": lambda rng: as_ensemble(rng.standard_normal((5, 2)), 3, 5),
}


@pytest.fixture(params=CASES)
def ensemble(request):
    return CASES[request.param](np.random.default_rng(7))


def through(product):
    return lambda x: product(torch.from_numpy(x)).numpy()


def test_adjoint_belongs_to_the_product(ensemble):
    m, n = ensemble.shape
    dtype = "complex128" if ensemble.dtype.is_complex else "float64"
    assert check_adjoint(through(ensemble.forward), through(ensemble.adjoint), (3, n), (3, m), dtype=dtype) < 1e-13


def test_rows_agree_with_the_dense_matrix(ensemble):
    m, n = ensemble.shape
    A = torch.as_tensor(ensemble.to_dense()).to(torch.complex128)
    assert A.shape == (*ensemble.batch_shape, m, n)
    X = torch.from_numpy(gaussian(np.random.default_rng(1), 3, n))
    Y = torch.from_numpy(gaussian(np.random.default_rng(2), 3, m))
    torch.testing.assert_close(ensemble.forward(X), (A @ X[..., None])[..., 0])
    torch.testing.assert_close(ensemble.adjoint(Y), (A.mH @ Y[..., None])[..., 0])


def test_columns_agree_with_the_dense_matrix(ensemble):
    m, n = ensemble.shape
    A = np.asarray(ensemble.to_dense())
    X = gaussian(np.random.default_rng(1), n, 2)
    np.testing.assert_allclose(np.asarray(ensemble @ X), A @ X, rtol=0, atol=1e-12)
    Y = gaussian(np.random.default_rng(1), *ensemble.batch_shape, m, 2)
    np.testing.assert_allclose(np.asarray(ensemble.rmatvec(Y)), np.conj(A.swapaxes(-1, -2)) @ Y, rtol=0, atol=1e-12)


def test_gram_is_the_diagonal_of_the_gram_matrix(ensemble):
    A = torch.as_tensor(ensemble.to_dense()).to(torch.complex128)
    G = A.mH @ A
    if ensemble.gram is None:
        assert not torch.allclose(G, torch.diag_embed(torch.diagonal(G, dim1=-2, dim2=-1)))
        return
    assert ensemble.gram.dtype is torch.float64
    diagonal = torch.diag_embed(ensemble.gram if ensemble.batch_shape else ensemble.gram[0])
    torch.testing.assert_close(G, diagonal.to(G).expand_as(G), rtol=0, atol=1e-12)


def test_blocks_of_snapshots(ensemble):
    n = ensemble.shape[1]
    X = torch.from_numpy(gaussian(np.random.default_rng(1), 3, n))
    whole = ensemble.forward(X)
    torch.testing.assert_close(ensemble.forward(X[1:], 1, 3), whole[1:])
    torch.testing.assert_close(ensemble.adjoint(whole[1:], 1, 3), ensemble.adjoint(whole)[1:])
    if ensemble.divisible:
        part = ensemble.block(1, 3)
        torch.testing.assert_close(part.forward(X[1:]), whole[1:])
        if part.gram is not None and part.gram.shape[0] > 1:
            assert torch.equal(part.gram, ensemble.gram[1:])


@pytest.mark.parametrize("case", ["mask", "uneven code", "all rows", "steering", "matrices"])
def test_short_precision_stays_short(case):
    ensemble = CASES[case](np.random.default_rng(7))
    X = torch.from_numpy(gaussian(np.random.default_rng(1), 3, ensemble.shape[1]))
    short = ensemble.forward(X.to(torch.complex64))
    assert short.dtype is torch.complex64
    torch.testing.assert_close(short.to(X), ensemble.forward(X), rtol=0, atol=1e-5)
    assert ensemble.adjoint(short).dtype is torch.complex64


def test_products_are_counted():
    A = SpreadCode(np.ones((4, 8)), 2)
    A.forward(torch.ones(2, 2), 0, 2)
    A.adjoint(torch.ones(2, 8), 2, 4)
    assert A.matvec_count == 1  # two halves of a batch are a product
    A @ np.ones(2)
    assert A.matvec_count == 2


def test_codes_of_equal_energy_share_one_gram():
    assert SpreadCode(np.ones((50, 8)), 2).gram.shape == (1, 2)
    assert SpreadCode(np.arange(16.0).reshape(2, 8), 2).gram.shape == (2, 2)


# ---------------------------------------------------------------- callables


@pytest.mark.parametrize("gram", [None, "identity", "diagonal", 1, 1.0, np.ones(3), np.ones((2, 3))])
def test_callables_are_called_four_times_at_most(gram):
    calls = []

    def counted(product):
        return lambda X: calls.append(X.shape) or product(X)

    forward, adjoint = padded_fft(8, 3)
    A = FromCallable(counted(forward), counted(adjoint), (2, 8, 3), gram)
    assert len(calls) == (2 if gram is None else 4)
    assert A.gram is None if gram is None else torch.allclose(A.gram, torch.ones(1, 3, dtype=torch.float64), atol=1e-14)


def test_diagonals_of_snapshots_are_found():
    c = gaussian(np.random.default_rng(0), 4, 6)
    A = FromCallable(lambda X: c * X, lambda Y: c.conj() * Y, (4, 6, 6), "diagonal")
    np.testing.assert_allclose(A.gram, np.abs(c) ** 2, rtol=1e-12)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_callables_of_both_kinds_and_all_types(kind, dtype):
    B = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3))).to(getattr(torch, dtype))
    B = B if kind == "torch" else B.numpy()
    A = FromCallable(lambda X: X @ B.T, lambda Y: Y @ B, (5, 3), kind=kind, dtype=dtype)
    X = torch.from_numpy(gaussian(np.random.default_rng(1), 4, 3))
    torch.testing.assert_close(A.forward(X), X @ torch.as_tensor(B).to(X).mT, rtol=1e-6, atol=1e-6)


def test_callables_of_blocks_get_the_numbers_of_their_snapshots():
    c = gaussian(np.random.default_rng(0), 6, 4)

    def forward(X, start, stop):
        return c[start:stop] * X

    def adjoint(Y, start, stop):
        return c[start:stop].conj() * Y

    A = FromCallable(forward, adjoint, (6, 4, 4), blocks=True)
    X = torch.ones(2, 4, dtype=torch.complex128)
    np.testing.assert_array_equal(A.forward(X, 3, 5), c[3:5])
    np.testing.assert_array_equal(A.block(2, 6).block(1, 4).forward(X, 1, 3), c[4:6])


def test_whole_callables_are_not_taken_apart():
    A = FromCallable(lambda X: 2 * X, lambda Y: 2 * Y, (6, 4, 4), 4)
    assert not A.divisible
    with pytest.raises(InvalidInputError, match=r"block\(1, 3\) needs callables that take \(X, start, stop\)"):
        A.block(1, 3)


def test_a_wrong_adjoint_is_told_with_numbers():
    forward, adjoint = padded_fft(8, 3)
    with pytest.raises(InvalidInputError, match=r"the adjoint of matvec: <A x, y> = .* but <x, A\^H y> ="):
        FromCallable(forward, lambda Y: np.fft.fft(Y, norm="ortho")[..., :3], (8, 3))
    with pytest.raises(InvalidInputError, match="a relative mismatch of"):
        FromCallable(forward, lambda Y: 8 * adjoint(Y), (8, 3), "identity")


def test_an_adjoint_wrong_outside_of_the_range_is_told():
    def adjoint(Y):  # right for all that `forward` returns
        return Y[..., :3] + Y[..., 3:6]

    with pytest.raises(InvalidInputError, match="must be the adjoint"):
        FromCallable(lambda X: np.pad(X, ((0, 0), (0, 5))), adjoint, (8, 3), "identity", dtype="float64")


def test_the_snapshot_of_a_wrong_adjoint_is_named():
    c = np.ones((4, 3))
    wrong = c.copy()
    wrong[2] = 2
    with pytest.raises(InvalidInputError, match="random vectors in snapshot 2"):
        FromCallable(lambda X: c * X, lambda Y: wrong * Y, (4, 3, 3))


@pytest.mark.parametrize("gram", ["identity", "diagonal", 2.0, np.array([1.0, 1.0, 2.0])])
def test_a_wrong_gram_is_told_with_numbers(gram):
    B = np.random.default_rng(0).standard_normal((5, 3))
    with pytest.raises(InvalidInputError, match=r"gram=.* must be what A\^H A is: .* by \d\.\de"):
        FromCallable(lambda X: X @ B.T, lambda Y: Y @ B, (5, 3), gram)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, r"shape must be \(m, n\) or \(p, m, n\)"),
        (((8, 3), "orthogonal"), {}, "gram must be one of 'identity', 'diagonal'; got 'orthogonal'"),
        (((8, 3), -1), {}, "gram must be a number above 0"),
        (((8, 3), np.ones(4)), {}, r"gram must be None, .* of shape \(4,\)"),
        (((8, 4),), {}, r"rmatvec must return shape \(1, 4\)"),
        (((8, 3),), {"kind": "cupy"}, "kind must be one of"),
        (((8, 3),), {"dtype": "float64"}, "matvec must return real numbers for dtype='float64'"),
    ],
)
def test_callables_with_wrong_arguments(arguments, options, message):
    with pytest.raises(InvalidInputError, match=message):
        FromCallable(*padded_fft(8, 3), *arguments, **options)


def test_what_is_not_callable_is_refused():
    with pytest.raises(InvalidTypeError, match="rmatvec must be callable; got ndarray"):
        FromCallable(lambda X: X, np.eye(3), (3, 3))


# ---------------------------------------------------------------- doors


def test_scipy_operators_and_lists():
    B = gaussian(np.random.default_rng(0), 5, 2)
    X = torch.from_numpy(gaussian(np.random.default_rng(1), 3, 2))
    for A in (
        scipy.sparse.linalg.aslinearoperator(B),
        scipy.sparse.csr_array(B),
        [scipy.sparse.csr_array(B)] * 3,
        [torch.from_numpy(B), scipy.sparse.linalg.aslinearoperator(B), torch.from_numpy(B)],
        B.tolist(),
    ):
        torch.testing.assert_close(as_ensemble(A, 3, 5).forward(X), X @ torch.from_numpy(B).mT)


@pytest.mark.parametrize(
    ("A", "error", "message"),
    [
        (np.ones((4, 2)), InvalidInputError, r"as many rows as there are sensors, 5; got shape \(4, 2\)"),
        (np.ones((2, 5, 2)), InvalidInputError, r"each of the 3 snapshots, or one for all; got shape \(2, 5, 2\)"),
        (np.full((5, 2), np.nan), InvalidInputError, "A must be finite"),
        (np.ones(5), InvalidInputError, r"A must have shape \(m, n\), or \(p, m, n\)"),
        ([sciml.linalg.Dense(np.ones((5, k))) for k in (2, 3, 2)], InvalidInputError, "operators of one shape"),
        (lambda X: X, InvalidTypeError, "Wrap callables by FromCallable"),
    ],
)
def test_measurements_that_do_not_fit(A, error, message):
    with pytest.raises(error, match=message):
        as_ensemble(A, 3, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DFTMask(np.ones((2, 6)), (2, 2)), r"masks must hold 4 entries each for shape=\(2, 2\)"),
        (lambda: DFTMask(np.ones((2, 6)), padded=(4,)), r"padded must be at least as long as shape=\(6,\)"),
        (lambda: DFTMask(np.ones(6)), "masks must have the snapshots first"),
        (lambda: SpreadCode(np.ones((2, 6)), 7), "n must be at most the number of chips, 6; got 7"),
        (lambda: SpreadCode(np.ones((2, 6, 2)), 2), r"masks must have shape \(p, m\); got \(2, 6, 2\)"),
        (lambda: SpreadCode(np.full((2, 6), np.nan), 2), "masks must be finite"),
        (lambda: PartialDFT([0, 3], 2, size=3), "rows and cols must lie below size=3; got 3"),
        (lambda: PartialDFT([0, 3, 3], 2), "rows must hold every index at most once; got 3 2 times"),
        (lambda: PartialDFT([0.5], 2), "rows must be a number or a list of indices"),
        (lambda: Steering(np.ones((4, 2)), np.ones(3)), "the same number of coordinates"),
        (lambda: Steering(np.ones(4), np.ones(3), 0.0), "wavelength must be a number above 0"),
        (lambda: DFTMask(np.ones((4, 2))).block(2, 2), "start and stop must enclose some of the 4 snapshots"),
    ],
)
def test_ensembles_with_wrong_arguments(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_steering_towards_a_source_is_a_plane_wave():
    # A source at 30 degrees to the normal of a line at half a wavelength: a quarter of a turn from sensor to sensor.
    A = Steering(0.5 * 2.0 * np.arange(4), [np.sin(np.pi / 6)], wavelength=2.0).to_dense()
    np.testing.assert_allclose(A[:, 0], 1j ** np.arange(4), atol=1e-14)
