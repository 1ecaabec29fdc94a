"""The boundary gives back what it took: kind, dtype, device; and names what it cannot take."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from sciml import config_context
from sciml.exceptions import BackendMismatchError, InvalidInputError
from sciml.linalg import enter


def one(array, **options):
    """Enter a single array."""
    (tensor,), leave = enter(array, names="A", **options)
    return tensor, leave


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_working_dtypes_stay_without_a_copy(backend, dtype):
    A = backend.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    tensor, leave = one(A)
    assert str(tensor.dtype) == f"torch.{dtype}"
    if backend.name == "numpy":
        assert np.shares_memory(tensor.numpy(), A)
    else:
        assert tensor is A
    back = leave(tensor)
    assert backend.numpy(back).dtype == dtype
    assert_array_equal(backend.numpy(back), backend.numpy(A))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "uint64", "int32", "int64"])
def test_integers_and_booleans_become_float64(backend, dtype):
    tensor, leave = one(backend.array([0, 1, 1], dtype))
    assert tensor.dtype == torch.float64
    assert backend.numpy(leave(tensor)).tolist() == [0, 1, 1]


@pytest.mark.parametrize("data", [3, 2.5, [1, 2], (1.0, 2.0), [[True], [False]], np.float32(2), np.float64(2)])
def test_numbers_and_lists_come_back_as_numpy(data):
    tensor, leave = one(data)
    back = leave(tensor)
    assert isinstance(back, (np.ndarray, np.generic))
    assert_array_equal(back, data)


def test_half_precision_is_computed_in_single_and_comes_back(backend):
    A = backend.array([1.0, 2.0], "float16")
    tensor, leave = one(A)
    assert tensor.dtype == torch.float32
    assert backend.numpy(leave(tensor)).dtype == np.float16
    tensor, leave = one(torch.ones(2, dtype=torch.bfloat16))
    assert tensor.dtype == torch.float32
    assert leave(tensor).dtype == torch.bfloat16
    (a, b), leave = enter(torch.ones(2, dtype=torch.bfloat16), torch.ones(2), names=("a", "b"))
    assert a.dtype == b.dtype == leave(a).dtype == torch.float32


def test_several_arrays_share_the_longest_dtype_and_numbers_follow():
    single, double, whole = np.ones(2, np.float32), np.ones(2), np.ones(2, int)
    for arrays, dtype in (
        ((single, double), torch.float64),
        ((single, whole), torch.float32),
        ((single, [0.5, 0.5], 2.0), torch.float32),
        ((whole, [1, 2]), torch.float64),
        ((single, 1j), torch.complex64),
        ((double, np.ones(2, np.complex64)), torch.complex128),
    ):
        tensors, _ = enter(*arrays, names=tuple("abc"[: len(arrays)]))
        assert {t.dtype for t in tensors} == {dtype}


def test_an_explicit_dtype_wins_over_the_configuration_and_that_over_the_data():
    A = np.ones(2)
    assert one(A, dtype="float32")[0].dtype == torch.float32
    with config_context(dtype="float32"):
        assert one(A)[0].dtype == torch.float32
        assert one(A, dtype=torch.float64)[0].dtype == torch.float64
        assert one(A * 1j)[0].dtype == torch.complex64


def test_an_argument_left_out_stays_out():
    (A, x0), leave = enter(np.ones(2), None, names=("A", "x0"))
    assert x0 is None
    assert leave(None) is None
    assert A.shape == (2,)


def test_numpy_beside_torch_gives_torch():
    (A, b), leave = enter(np.eye(2), torch.ones(2, dtype=torch.float64), names=("A", "b"))
    assert isinstance(leave(A @ b), torch.Tensor)
    assert leave(A @ b).tolist() == [1.0, 1.0]


def test_gradients_flow_through():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    tensor, leave = one(x)
    leave((tensor**2).sum()).backward()
    assert x.grad.tolist() == [2.0, 4.0]
    half = torch.ones(2, dtype=torch.float16, requires_grad=True)
    tensor, leave = one(half)
    leave((3 * tensor).sum()).backward()
    assert half.grad.tolist() == [3.0, 3.0]


def test_what_needs_a_gradient_inside_leaves_as_plain_numpy():
    tensor, leave = one(np.ones(2))
    assert leave(tensor.requires_grad_(True) * 2).tolist() == [2.0, 2.0]
    assert leave(torch.tensor([1 + 2j]).conj()).tolist() == [1 - 2j]


@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, min_side=0, max_side=4), elements=st.floats(-9, 9)),
    st.sampled_from(["as it is", "reversed", "transposed", "read-only", "swapped", "strided", "fortran"]),
)
@settings(deadline=None, max_examples=60)
def test_every_memory_layout_goes_through_without_a_warning(A, layout):
    if layout == "reversed":
        A = A[::-1]
    elif layout == "transposed":
        A = A.T
    elif layout == "read-only":
        A.flags.writeable = False
    elif layout == "swapped":
        A = A.astype(A.dtype.newbyteorder())
    elif layout == "strided":
        A = A[..., ::2]
    elif layout == "fortran":
        A = np.asfortranarray(A)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor, leave = one(A)
    back = leave(tensor)
    assert_array_equal(back, A)
    assert back.dtype == np.float64
    assert back.shape == A.shape


def test_a_field_of_a_record_goes_through():
    records = np.zeros(3, dtype=[("flag", "i1"), ("value", "f8")])
    records["value"] = [1, 2, 3]
    tensor, _ = one(records["value"])
    assert tensor.tolist() == [1, 2, 3]


def test_read_only_memory_is_not_written_through():
    A = np.ones(3)
    A.flags.writeable = False
    tensor, _ = one(A)
    tensor[0] = 5
    assert A[0] == 1


def test_a_data_array_comes_back_with_its_coordinates_where_the_shape_fits():
    frame = xr.DataArray([[1.0, 2.0]], dims=("t", "x"), coords={"x": [0.5, 1.5]}, name="u", attrs={"units": "K"})
    (A, b), leave = enter([3.0], frame, names=("A", "b"))
    back = leave(2 * b)
    assert isinstance(back, xr.DataArray)
    xr.testing.assert_identical(back, frame.copy(data=[[2.0, 4.0]]))
    assert isinstance(leave(b.sum()), np.float64)
    with pytest.raises(InvalidInputError, match="A must be an array; got an xarray Dataset"):
        one(frame.to_dataset())


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.array([[1.0, 2.0], [np.nan, np.inf]]), r"A must be finite; the entry at index \(1, 0\) is nan, one of 2"),
        (torch.tensor([0.0, -float("inf")]), "A must be finite; the entry at index 1 is -inf"),
        (np.array([1.0, complex(0, np.inf)]), "A must be finite; the entry at index 1"),
        (np.array([1.0, None]), r"A must hold numbers .*got dtype object and shape \(2,\)"),
        (np.array(["1"]), "got dtype <U1"),
        (np.array(["2020-01-01"], "M8[D]"), "got dtype datetime64"),
        (np.ones(2, np.longdouble), "numbers of at most double precision; got dtype float128"),
        ([[1.0], [1.0, 2.0]], "A must be a rectangular array of numbers; got list"),
        ("abc", "got dtype <U3"),
        (
            scipy.sparse.eye_array(3, format="csr"),
            r"A must be dense; got a sparse csr_array of shape \(3, 3\). Pass A.toa",
        ),
        (torch.eye(2).to_sparse(), "A must be dense; got a tensor of layout torch.sparse_coo"),
        (np.ma.masked_less([1.0, -1.0], 0), "A must hold no masked entries; got 1"),
        (np.array(1e300), "^no"),
    ],
)
def test_bad_data_are_named(bad, match):
    if match == "^no":
        with pytest.raises(InvalidInputError, match=r"A must fit into float32; the entry at index \(\) is 1e\+300"):
            one(bad, dtype="float32")
    else:
        with pytest.raises(InvalidInputError, match=match):
            one(bad)


def test_the_second_of_two_bad_arrays_is_named_by_its_own_name():
    with pytest.raises(InvalidInputError, match="b must be finite"):
        enter(np.ones(2), np.array([np.nan]), names=("A", "b"))
    with pytest.raises(InvalidInputError, match=r"names must hold one name for each array; got \('A',\) for 2 arrays"):
        enter(np.ones(2), np.ones(2), names=("A",))


def test_the_finite_check_can_be_switched_off():
    assert one(np.array([np.nan]), check_finite=False)[0].isnan().all()
    with config_context(check_finite=False):
        assert one(np.array([np.inf]))[0].isinf().all()
        with pytest.raises(InvalidInputError, match="A must be finite"):
            one(np.array([np.nan]), check_finite=True)


def test_an_unmasked_masked_array_is_an_array():
    assert one(np.ma.masked_less([1.0, 2.0], 0))[0].tolist() == [1.0, 2.0]


def test_two_devices_are_refused_by_name_and_numpy_joins_the_tensor():
    meta = torch.ones(2, device="meta")  # a device that every machine has
    with pytest.raises(BackendMismatchError, match="one device; got A on cpu, b on meta. Move them"):
        enter(torch.ones(2), meta, names=("A", "b"))
    (A, _), _ = enter(np.ones(2), meta, names=("A", "b"), check_finite=False)
    assert A.device.type == "meta"


def test_a_wrong_device_is_named():
    with pytest.raises(InvalidInputError, match="device must be one of .*got 'gpu'"):
        one(np.ones(2), device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_move_only_when_asked():
    A = np.ones(2)
    assert one(A)[0].device.type == "cpu"
    with config_context(device="cuda"):
        tensor, leave = one(A)
        assert tensor.device.type == "cuda"
        assert isinstance(leave(tensor), np.ndarray)
        assert one(torch.ones(2))[0].device.type == "cpu"
    tensor, leave = one(torch.ones(2), device="cuda")
    assert leave(tensor).device.type == "cuda"
    assert enter(A, torch.ones(2, device="cuda"), names=("A", "b"))[0][0].device.type == "cuda"
