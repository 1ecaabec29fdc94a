"""The door of Hermitian matrices: what passes, and what is said about what does not."""

import pytest
import torch

from sciml.exceptions import ConditioningWarning, FallbackWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.checks import as_spd, check_eigenvalues, eigh_symmetric, symmetrise


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_symmetry_is_judged_relative_to_the_matrix():
    for scale in (1e-12, 1.0, 1e12, 1e-200, 1e200):
        A = scale * torch.tensor([[1.0, 0.5], [0.5 * (1 + 1e-14), 1.0]], dtype=torch.float64)
        H = as_spd("A", A)
        assert torch.equal(H, H.mT)
        with pytest.raises(InvalidInputError, match=r"A must be symmetric; .*Pass \(A \+ A.T\)/2"):
            as_spd("A", scale * torch.tensor([[1.0, 0.5], [0.5 * (1 + 1e-12), 1.0]], dtype=torch.float64))


def test_a_complex_matrix_must_be_hermitian_not_symmetric():
    A = torch.tensor([[2.0, 1j], [-1j, 2.0]], dtype=torch.complex128)
    assert torch.equal(as_spd("A", A, definite="positive"), A)
    with pytest.raises(InvalidInputError, match="number 1 .*Hermitian|Hermitian.*number 1"):
        as_spd("A", torch.stack([A, torch.tensor([[2.0, 1j], [1j, 2.0]], dtype=torch.complex128)]))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (0, 0)])
def test_a_shape_that_is_not_square_is_named(shape):
    with pytest.raises(InvalidInputError, match=f"C must be square .*{shape[-1]}"):
        as_spd("C", torch.zeros(shape))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_definiteness_is_relative(scale):
    assert as_spd("A", scale * diagonal(1e-14, 1.0), definite="positive").shape == (2, 2)
    assert as_spd("A", scale * diagonal(-1e-11, 1.0), definite="semi").shape == (2, 2)
    with pytest.raises(NotPositiveDefiniteError, match="clip_eigenvalues"):
        as_spd("A", scale * diagonal(-1e-9, 1.0), definite="semi")
    with pytest.raises(NotPositiveDefiniteError, match='shrink=1e-3.*metric="bw"'):
        as_spd("A", scale * diagonal(0.0, 1.0), definite="positive")


def test_the_error_holds_index_and_eigenvalue():
    A = torch.stack([diagonal(1.0, 1.0), diagonal(1.0, -0.5)])
    with pytest.raises(NotPositiveDefiniteError, match=r"number 1 has smallest eigenvalue -0\.5") as caught:
        as_spd("A", A, definite="semi")
    assert (caught.value.index, caught.value.smallest) == (1, -0.5)
    with pytest.raises(NotPositiveDefiniteError, match=r"number \(0, 1\)") as caught:
        as_spd("A", A[None], definite="positive")
    assert caught.value.index == (0, 1)
    with pytest.raises(NotPositiveDefiniteError, match="it has smallest eigenvalue") as caught:
        as_spd("A", A[1], definite="positive")
    assert caught.value.index is None


def test_zero_matrices_are_semidefinite_and_not_definite():
    assert not as_spd("A", torch.zeros(2, 2), definite="semi").any()
    with pytest.raises(NotPositiveDefiniteError):
        as_spd("A", torch.zeros(2, 2), definite="positive")


def test_an_empty_batch_passes():
    assert as_spd("A", torch.zeros(0, 2, 2), definite="positive").shape == (0, 2, 2)


def test_float32_says_when_its_digits_do_not_suffice():
    with pytest.warns(ConditioningWarning, match="float32"):
        check_eigenvalues("A", torch.tensor([1e-6, 1.0], dtype=torch.float32), "positive")


def test_an_unknown_word_is_refused():
    with pytest.raises(InvalidInputError, match="definite must be one of"):
        as_spd("A", torch.eye(2), definite="negative")


def test_gradients_pass_the_door():
    A = torch.eye(2, dtype=torch.float64, requires_grad=True)
    as_spd("A", A, definite="positive")[0, 1].backward()
    assert A.grad.tolist() == [[0.0, 0.5], [0.5, 0.0]]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_decomposition_that_fails_is_tried_again(monkeypatch, failures):
    true, calls = torch.linalg.eigh, []

    def failing(A):
        calls.append(A)
        if len(calls) <= failures:
            raise torch.linalg.LinAlgError("no convergence")
        return true(A)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    A = 1e-12 * symmetrise(torch.arange(9, dtype=torch.float64).reshape(3, 3))
    with pytest.warns(FallbackWarning, match="eigendecomposition failed"):
        s, U = eigh_symmetric(A)
    # The jitter of the second attempt moves eigenvalues by at most eps ||A||.
    assert torch.allclose((U * s) @ U.mT, A, rtol=0, atol=1e-14 * A.abs().max().item())


def test_three_failures_are_an_error(monkeypatch):
    def failing(A):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    with pytest.raises(InvalidInputError, match="failed, also in float64"):
        eigh_symmetric(torch.eye(2))
