"""What holds for every operator: it acts as its dense twin, and so do its solve, determinant and derivatives."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import LinearOperator, as_operator
from sciml.testing import check_adjoint
from tests.linalg.operators.registry import CASES, tensors

# Rounding of products of a few matrices of size and condition below about ten.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
NAMES = {case.name: case for case in CASES}
ALL, SQUARE = list(NAMES), [name for name, case in NAMES.items() if case.square]


@pytest.fixture
def case(request):
    return NAMES[request.param]


def both(case, rng, **options):
    """Return the operator, and its matrix as a tensor."""
    drawn = tensors(case, rng, **options)
    return case.make(*drawn), case.twin(*drawn)


def columns(matrix, r, rng, side=-1):
    return torch.from_numpy(rng.standard_normal((matrix.shape[side], r))).to(matrix.dtype)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_acts_as_its_matrix(case, rng):
    A, matrix = both(case, rng)
    assert A.shape == matrix.shape[-2:]
    assert A.batch_shape == matrix.shape[:-2]
    X, Y = columns(matrix, 3, rng), columns(matrix, 2, rng, side=-2)
    torch.testing.assert_close(A @ X, matrix @ X, **EXACT)
    torch.testing.assert_close(A @ X[:, 0], matrix @ X[:, 0], **EXACT)
    torch.testing.assert_close(A.rmatvec(Y), matrix.mH @ Y, **EXACT)
    torch.testing.assert_close(A.T @ Y, matrix.mT @ Y, **EXACT)
    torch.testing.assert_close(A.H @ Y, matrix.mH @ Y, **EXACT)
    torch.testing.assert_close(A.T.H @ X, matrix.conj() @ X, **EXACT)
    torch.testing.assert_close(A.to_dense(), matrix, **EXACT)
    torch.testing.assert_close(A.T.to_dense(), matrix.mT, **EXACT)
    torch.testing.assert_close(A.diag(), torch.diagonal(matrix, dim1=-2, dim2=-1), **EXACT)
    torch.testing.assert_close((2 * A - A.T.T) @ X, matrix @ X, **EXACT)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_the_adjoint_belongs_to_the_product(case, rng):
    A, matrix = both(case, rng)
    word = "complex128" if A.dtype.is_complex else "float64"
    for k in np.ndindex(*A.batch_shape):
        check_adjoint(lambda x, k=k: (A @ x)[k], lambda y, k=k: A.rmatvec(y)[k], A.shape[1], A.shape[0], dtype=word)
    assert A.matvec_count >= 6


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_vectors_of_a_batch(case, rng):
    A, matrix = both(case, rng)
    X = torch.from_numpy(rng.standard_normal((2, *A.batch_shape, A.shape[1], 3))).to(A.dtype)
    Y = torch.from_numpy(rng.standard_normal((2, *A.batch_shape, A.shape[0], 3))).to(A.dtype)
    torch.testing.assert_close(A @ X, matrix @ X, **EXACT)
    torch.testing.assert_close(A.rmatvec(Y), matrix.mH @ Y, **EXACT)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_numpy_in_numpy_out(case, rng):
    A, matrix = both(case, rng)
    x = rng.standard_normal(A.shape[1])
    for given in (x, x[::-1].copy()[::-1], x.astype(np.float32).astype(np.float64)):
        answer = A @ given
        assert isinstance(answer, np.ndarray)
        np.testing.assert_allclose(answer, matrix.numpy() @ given, **EXACT)
    if not A.batch_shape:
        np.testing.assert_allclose(rng.standard_normal(A.shape[0]) @ A is not None, True)
        y = rng.standard_normal((3, A.shape[0]))
        np.testing.assert_allclose(y @ A, y @ matrix.numpy(), **EXACT)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_there_and_back_through_scipy(case, rng):
    A, matrix = both(case, rng)
    if A.batch_shape:
        with pytest.raises(InvalidInputError, match="A must have no batch axes for SciPy"):
            A.as_scipy()
        return
    S = A.as_scipy()
    X, Y = rng.standard_normal((A.shape[1], 2)), rng.standard_normal(A.shape[0])
    np.testing.assert_allclose(S @ X, matrix.numpy() @ X, **EXACT)
    np.testing.assert_allclose(S @ X[:, 0], matrix.numpy() @ X[:, 0], **EXACT)
    np.testing.assert_allclose(S.H @ Y, matrix.numpy().conj().T @ Y, **EXACT)
    back = LinearOperator.from_scipy(S)
    np.testing.assert_allclose(back @ X, matrix.numpy() @ X, **EXACT)
    np.testing.assert_allclose(back.rmatvec(Y), matrix.numpy().conj().T @ Y, **EXACT)
    assert as_operator(A) is A


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_claims_hold(case, rng):
    A, matrix = both(case, rng)
    assert A.check_flags() is A
    if A.symmetric:
        torch.testing.assert_close(matrix, matrix.mH, **EXACT)
    if A.posdef:
        assert float(torch.linalg.eigvalsh(matrix).min()) > 0


@pytest.mark.parametrize("case", SQUARE, indirect=True)
def test_solves(case, rng, backend):
    A, matrix = both(case, rng)
    B = rng.standard_normal((A.shape[0], 3))
    wanted = np.linalg.solve(matrix.numpy(), np.broadcast_to(B, (*A.batch_shape, *B.shape)))
    run = A.solve_run(backend.array(B))
    np.testing.assert_allclose(backend.numpy(run.value), wanted, rtol=1e-10, atol=1e-11)
    assert run.converged
    assert np.max(run.residual) < 1e-12
    assert run.choices["method"].startswith("direct: ")
    assert run.device == "cpu"
    np.testing.assert_allclose(A.solve(B[:, 0]), wanted[..., 0], rtol=1e-10, atol=1e-11)
    for other, twin in ((A.T, matrix.mT), (A.H, matrix.mH)):
        wanted = np.linalg.solve(twin.resolve_conj().numpy(), np.broadcast_to(B, (*A.batch_shape, *B.shape)))
        np.testing.assert_allclose(other.solve(B), wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", SQUARE, indirect=True)
def test_determinant_and_trace(case, rng):
    A, matrix = both(case, rng)
    sign, value = A.slogdet()
    wanted = torch.linalg.slogdet(matrix)
    torch.testing.assert_close(value, wanted.logabsdet, **EXACT)
    torch.testing.assert_close(sign.to(wanted.sign.dtype), wanted.sign, **EXACT)
    torch.testing.assert_close(A.trace(), torch.diagonal(matrix, dim1=-2, dim2=-1).sum(-1), **EXACT)
    other = A.T.slogdet()
    torch.testing.assert_close(other[1], value, **EXACT)
    if bool((abs(wanted.sign - 1) < 1e-12).all()):
        torch.testing.assert_close(A.logdet(), value)
    else:
        with pytest.raises(InvalidInputError, match="positive determinant for logdet; its sign is"):
            A.logdet()


@pytest.mark.parametrize("case", SQUARE, indirect=True)
def test_derivatives_of_the_solution(case, rng):
    drawn = tensors(case, rng, requires_grad=True)
    n = case.make(*drawn).shape[0]
    b = torch.from_numpy(rng.standard_normal((n, 2))).requires_grad_()

    def solution(b, *drawn):
        return case.make(*drawn).solve(b)

    assert gradcheck(solution, (b, *drawn), rtol=1e-5, atol=1e-7)
    # Second derivatives along random directions: all of them one by one take most of the time of this file.
    assert gradgradcheck(solution, (b, *drawn), rtol=1e-4, atol=1e-6, fast_mode=True)
    # The gradient of the dense twin, to rounding, which finite differences cannot see.
    twin = torch.linalg.solve(case.twin(*drawn), b.to(case.twin(*drawn).dtype))
    weights = torch.from_numpy(rng.standard_normal(tuple(twin.shape))).to(twin.dtype)
    ours = torch.autograd.grad((solution(b, *drawn) * weights).sum().real, (b, *drawn))
    theirs = torch.autograd.grad((twin * weights).sum().real, (b, *drawn))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", SQUARE, indirect=True)
def test_derivatives_of_the_determinant(case, rng):
    drawn = tensors(case, rng, requires_grad=True)
    if not any(t.requires_grad for t in case.make(*drawn).parameters()):
        return

    def value(*drawn):
        return case.make(*drawn).slogdet()[1]

    assert gradcheck(value, drawn, rtol=1e-5, atol=1e-7)
    assert gradgradcheck(value, drawn, rtol=1e-4, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_derivatives_of_products(case, rng):
    drawn = tensors(case, rng, requires_grad=True)
    A = case.make(*drawn)
    x = torch.from_numpy(rng.standard_normal((A.shape[1], 2))).requires_grad_()
    y = torch.from_numpy(rng.standard_normal((A.shape[0], 2))).requires_grad_()
    assert gradcheck(lambda x, *drawn: case.make(*drawn) @ x, (x, *drawn), rtol=1e-5, atol=1e-7)
    assert gradcheck(lambda y, *drawn: case.make(*drawn).rmatvec(y), (y, *drawn), rtol=1e-5, atol=1e-7)
    assert gradcheck(lambda *drawn: case.make(*drawn).diag(), drawn, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [name for name in SQUARE if NAMES[name].units], indirect=True)
@pytest.mark.parametrize("k", [-40, 40])
def test_units_do_not_matter(case, k, rng):
    drawn = tensors(case, rng)
    n = case.make(*drawn).shape[0]
    b = rng.standard_normal(n)
    one, scaled = case.make(*drawn), case.make(*[t * 2.0**k for t in drawn])
    np.testing.assert_array_equal(scaled.solve(b * 2.0 ** (k // 2)), one.solve(b) * 2.0 ** (k // 2 - k))
    np.testing.assert_allclose(scaled.slogdet()[1] - one.slogdet()[1], n * k * np.log(2), rtol=1e-12)


# The callables of the cases mix in float64 of their own.
OWN_DTYPE = [name for name in SQUARE if not str(name).startswith("function")]


@pytest.mark.parametrize("case", OWN_DTYPE, indirect=True)
def test_float32_stays_float32(case, rng):
    drawn = [t.float() for t in tensors(case, rng)]
    A = case.make(*drawn)
    b = torch.ones(A.shape[0], dtype=torch.float32)
    x = A.solve(b)
    assert x.dtype == A.dtype
    assert A.dtype in (torch.float32, torch.complex64) or not drawn[0].ndim
    assert float(A.solve_run(b).residual.max() if A.batch_shape else A.solve_run(b).residual) < 1e-5


@pytest.mark.parametrize("case", ALL, indirect=True)
def test_says_what_is_wrong_with_a_vector(case, rng):
    A, _ = both(case, rng)
    n = A.shape[1]
    with pytest.raises(InvalidInputError, match=rf"x must have shape \({n},\) or \(..., {n}, r\).*got \({n + 1},\)"):
        A @ np.ones(n + 1)
    x = np.ones(n)
    x[0] = np.nan
    with pytest.raises(InvalidInputError, match="x must be finite; the entry at index 0 is nan"):
        A @ x
    if not case.square and A.shape[0] != A.shape[1]:
        with pytest.raises(InvalidInputError, match="solve needs a square matrix.*sciml.linalg.lsmr"):
            A.solve(np.ones(A.shape[0]))
        with pytest.raises(InvalidInputError, match="slogdet needs a square matrix"):
            A.slogdet()


def test_all_operators_are_in_the_registry():
    import sciml.linalg.operators as module

    known = {type(case.make(*tensors(case, np.random.default_rng(0)))).__name__ for case in CASES}
    inner = {"Selection", "Mask", "Permutation", "SecondDifference"}  # behind a multiple
    wanted = {name for name, value in vars(module).items() if isinstance(value, type)} - {"LinearOperator"}
    assert wanted == (known | inner) & wanted
