"""The base class: arrays in and out, claims, errors, adapters, counts."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

import sciml
from sciml.exceptions import ConditioningWarning, InvalidInputError, InvalidTypeError, NotPositiveDefiniteError
from sciml.linalg import (
    Circulant,
    Dense,
    Diagonal,
    Function,
    KernelOperator,
    LinearOperator,
    Sparse,
    Toeplitz,
    as_operator,
    laplacian,
)
from sciml.linalg import operators as module


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (np.eye(2), Dense),
        (torch.eye(2), Dense),
        ([[1.0, 0.0], [0.0, 1.0]], Dense),
        (scipy.sparse.eye_array(2), Sparse),
        (scipy.sparse.csc_matrix(np.eye(2)), Sparse),
        (torch.eye(2).to_sparse(), Sparse),
        (scipy.sparse.linalg.aslinearoperator(np.eye(2)), Function),
        (Diagonal([1.0, 1.0]), Diagonal),
    ],
)
def test_as_operator_takes_what_acts_as_a_matrix(given, kind):
    A = as_operator(given)
    assert isinstance(A, kind)
    np.testing.assert_array_equal(A @ np.array([3.0, 4.0]), [3.0, 4.0])


@pytest.mark.parametrize("given", ["text", 3.0, None, {"a": 1}])
def test_as_operator_refuses_the_rest(given):
    with pytest.raises(InvalidTypeError, match="A must act as a matrix; got"):
        as_operator(given)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_a_callable_takes_arrays_like_the_right_side(shape, backend):
    b = backend.array(np.ones(shape))

    def double(x):
        assert type(x) is type(b)
        assert x.ndim == len(shape)
        return 2 * x

    A = as_operator(double, like=b, symmetric=True)
    np.testing.assert_array_equal(backend.numpy(A @ b), 2 * np.ones(shape))
    with pytest.raises(InvalidTypeError, match="callable with the right side"):
        as_operator(double)


def test_dtypes_follow_the_longer():
    A = Dense(np.eye(2, dtype=np.float32))
    assert (A @ np.ones(2, dtype=np.float32)).dtype == np.float32
    assert (A @ np.ones(2)).dtype == np.float64
    assert (A @ [1, 2]).dtype == np.float32
    assert (A @ np.ones(2, dtype=complex)).dtype == np.complex128
    assert A.to(torch.float64).to_dense().dtype == np.float64
    assert (Dense(np.eye(2)) @ np.array([1, 2], dtype=np.int8)).dtype == np.float64
    assert (A @ torch.ones(2, dtype=torch.float16)).dtype == torch.float16


def test_odd_arrays_are_taken_as_they_are(rng):
    M = rng.standard_normal((4, 4))
    for A in (np.asfortranarray(M), M[::-1, ::-1], M.astype(">f8"), M[::2, ::2]):
        A.flags.writeable = False
        x = rng.standard_normal(len(A))
        np.testing.assert_allclose(Dense(A) @ x[::-1], A.astype(float) @ x[::-1], rtol=1e-14)


def test_empty_matrices():
    A = Dense(np.zeros((0, 0)), posdef=True)
    assert A.solve(np.zeros((0, 2))).shape == (0, 2)
    assert A.logdet() == 0
    assert A.trace() == 0
    assert (Dense(np.zeros((3, 0))) @ np.zeros(0)).tolist() == [0, 0, 0]
    assert Dense(np.eye(2)).solve(np.zeros((2, 0))).shape == (2, 0)


def test_a_tensor_or_array_may_stand_on_the_left(rng):
    M, x = rng.standard_normal((3, 3)), rng.standard_normal(3)
    A = Dense(M)
    np.testing.assert_allclose(x @ A, x @ M, rtol=1e-14)
    torch.testing.assert_close(torch.from_numpy(x) @ A, torch.from_numpy(x @ M))
    np.testing.assert_array_equal((np.float64(2) * A).to_dense(), 2 * M)
    torch.testing.assert_close((torch.tensor(2.0, dtype=torch.float64) * A).to_dense(), torch.from_numpy(2 * M))
    np.testing.assert_array_equal((M + A).to_dense(), 2 * M)
    np.testing.assert_array_equal((M - A).to_dense(), 0 * M)
    np.testing.assert_array_equal((-A / 2).to_dense(), -M / 2)


def test_counts_products():
    A = Circulant(np.array([2.0, 1.0, 0.0]))
    A @ np.ones((3, 5))
    A.rmatvec(np.ones(3))
    assert A.matvec_count == 6
    (A + A) @ np.ones(3)
    assert A.matvec_count == 8


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Dense([[1.0, 2.0], [0.0, 1.0]], symmetric=True, check=True), "symmetric=True claims"),
        (lambda: Dense([[1.0, 0.0], [0.0, -1.0]], posdef=True, check=True), "posdef=True claims"),
        (lambda: Toeplitz([1.0, 2.0, 3.0], posdef=True, check=True), "posdef=True claims"),
        (lambda: Sparse(scipy.sparse.eye_array(3, k=1), symmetric=True, check=True), "symmetric=True claims"),
        (lambda: Function(lambda x: x.cumsum(0), (3, 3), symmetric=True), "must be the adjoint of matvec"),
        (lambda: Dense(np.ones((2, 3)), symmetric=True), "must be square to be symmetric"),
    ],
)
def test_wrong_claims_are_found(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()


def test_a_wrong_triangle_is_found():
    A = Dense(np.ones((4, 4)))
    A.triangular = "lower"
    with pytest.raises(InvalidInputError, match="triangular='lower' claims"):
        A.check_flags()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: Dense(np.diag(x)), "A"),
        (Diagonal, "d"),
        (Circulant, "c"),
        (Toeplitz, "c"),
        (lambda x: module.LowRank(x[:, None]), "U"),
        (lambda x: Sparse(scipy.sparse.diags_array(x)), "A"),
        (lambda x: module.Triangular(np.diag(x)), "A"),
        (lambda x: module.BlockToeplitz(np.array([x])), "T"),
        (lambda x: module.ScaledIdentity(2, x[1]), "c"),
        (lambda x: module.Scaled(Diagonal([1.0]), x[1]), "factor"),
        (lambda x: KernelOperator(x[:, None], lambda d: d.sum(-1)), "x"),
    ],
)
def test_a_nan_is_refused_at_the_door(make, name):
    with pytest.raises(InvalidInputError, match=f"{name} must be finite"):
        make(np.array([1.0, np.nan, 1.0]))


@pytest.mark.parametrize(
    "A",
    [
        Dense([[1.0, 2.0], [2.0, 4.0]]),
        Diagonal([1.0, 0.0]),
        module.ScaledIdentity(2, 0.0),
        module.Triangular([[1.0, 0.0], [1.0, 0.0]]),
        Sparse(scipy.sparse.csr_array([[1.0, 2.0], [2.0, 4.0]])),
        Circulant([1.0, 1.0]),
        module.Kronecker(np.ones((1, 1)), [[1.0, 2.0], [2.0, 4.0]]),
        module.Kronecker([[1.0, 0.0], [0.0, 2.0]], shift=-1.0),
        module.KroneckerSum([[1.0, 0.0], [0.0, 2.0]], np.diag([-1.0, 5.0])),
        module.KroneckerSum([[1.0, 3.0], [0.0, 2.0]], np.array([[-1.0, 1.0], [0.0, 5.0]])),
        laplacian((3, 4), boundary="neumann"),
        laplacian(5, boundary="periodic"),
        module.Block2x2(np.eye(1), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))),
        module.BlockDiag(np.eye(1), np.zeros((1, 1))),
        module.LowRank(np.ones((3, 1)), diagonal=np.array([1.0, 0.0, 0.0])),
        module.LowRank(np.ones((2, 1)), -np.eye(1) / 2, diagonal=1.0),
        0.0 * Diagonal([1.0, 2.0]),
    ],
    ids=repr,
)
def test_singular_matrices_are_refused_by_name(A):
    with pytest.raises(InvalidInputError, match="must be invertible"):
        A.solve(np.ones(A.shape[0]))
    with pytest.raises(InvalidInputError, match="must be invertible"):
        A.slogdet()


def test_an_indefinite_matrix_that_claims_otherwise_is_refused():
    A = Dense(np.stack([np.eye(2), np.diag([1.0, -3.0])]), posdef=True)
    with pytest.raises(NotPositiveDefiniteError, match="number 1 of the batch pivot 1 .* smallest eigenvalue -3") as e:
        A.solve(np.ones(2))
    assert e.value.index == (1,)
    assert e.value.smallest == pytest.approx(-3)


def test_an_ill_conditioned_matrix_warns_with_the_figure(rng):
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    A = Dense(Q @ np.diag(np.logspace(0, -14, 6)) @ Q.T)
    with pytest.warns(ConditioningWarning, match=r"condition number of about .*e\+1[34], so rounding in float64"):
        run = A.solve_run(np.ones(6))
    assert 1e13 < run.condition < 1e16
    assert Dense(np.diag([1.0, 1e-12]), posdef=True).solve_run(np.ones(2)).condition < 10  # units only


def test_float32_says_where_it_ends(rng):
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    A = Dense((Q @ np.diag(np.logspace(0, -5, 6)) @ Q.T).astype(np.float32))
    with pytest.warns(ConditioningWarning, match="or use float64"):
        A.solve(np.ones(6, dtype=np.float32))


def test_the_factorisation_follows_a_change_in_place():
    A = Dense(torch.eye(2, dtype=torch.float64))
    b = torch.ones(2, dtype=torch.float64)
    assert A.solve(b).tolist() == [1, 1]
    A.A.mul_(4.0)
    assert A.solve(b).tolist() == [0.25, 0.25]


def test_a_change_by_numpy_is_not_silent():
    M = np.eye(2)
    A = Dense(M)
    A.solve(np.ones(2))
    M *= 4
    with pytest.warns(ConditioningWarning, match="A x misses b by 3.0e.00 .* was changed after its factorisation"):
        assert not A.solve_run(np.ones(2)).converged


def test_the_solution_tells_how_it_was_found():
    with sciml.trace() as log:
        run = Dense(np.eye(3), posdef=True).solve_run(np.ones(3))
    assert run.choices["method"] == "direct: Cholesky, dense, n=3"
    assert (run.engine, run.n_iter, run.residual) == ("Dense, direct", 0, 0.0)
    (entry,) = [entry for entry in log if entry["operation"] == "solve"]
    assert entry["reason"] == "direct: Cholesky, dense, n=3"
    assert (
        "direct: LU of the dense matrix, n=2" in Function(lambda x: x, (2, 2)).solve_run(np.ones(2)).choices["method"]
    )


def test_options_have_names():
    with pytest.raises(InvalidInputError, match="method must be one of 'auto', 'direct', 'krylov'; got 'direkt'"):
        Dense(np.eye(2)).solve(np.ones(2), method="direkt")
    with pytest.raises(InvalidInputError, match="method must be one of 'auto', 'exact', 'stochastic'"):
        Dense(np.eye(2)).logdet(method="fast")


def test_krylov_can_be_asked_for(rng):
    A = Toeplitz([2.0, -0.5, 0.1, 0.0])
    b = rng.standard_normal((4, 2))
    run = A.solve_run(b, method="krylov", tol=1e-12)
    np.testing.assert_allclose(run.value, A.solve(b), rtol=1e-10)
    assert run.choices["method"] == "cg: asked for"
    assert run.preconditioner == "circulant"
    assert np.all(run.residual <= 1e-12)


def test_derivatives_pass_through_a_krylov_solve(rng):
    c = torch.tensor([2.0, -0.5, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    b = torch.from_numpy(rng.standard_normal(4))

    def solution(c, b):
        return Toeplitz(c, posdef=True).solve(b, method="krylov", tol=1e-13)

    assert torch.autograd.gradcheck(solution, (c, b.requires_grad_()))
    assert torch.autograd.gradgradcheck(solution, (c, b))


def test_travels_to_other_processes():
    for A in (
        Sparse(scipy.sparse.eye_array(3)),
        Dense(np.eye(3), posdef=True),
        laplacian(3),
        Toeplitz([2.0, 1.0, 0.0]),
    ):
        x = A.solve(np.ones(3))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(A)).solve(np.ones(3)), x)


def test_a_large_dense_matrix_is_refused_before_it_is_made():
    with sciml.config_context(memory="1MiB"), pytest.raises(MemoryError, match="1 dense matrix of 1000 x 1000"):
        Toeplitz(np.r_[2.0, np.zeros(999)]).to_dense()


def test_has_a_readable_name():
    assert repr(Dense(np.zeros((2, 2, 3)))) == "<Dense 2x3 batch=(2,) float64>"
    assert repr(Diagonal([1.0])) == "<Diagonal 1x1 float64 posdef symmetric>"
    assert LinearOperator.__doc__.startswith("A matrix known by its products")
