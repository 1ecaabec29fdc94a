"""numpy.load is the oracle; objects and headers that lie are refused."""

import io
import zipfile

import numpy as np
import pytest
import torch

from sciml.exceptions import CheckpointError, UnsafeCheckpointError
from sciml.random import generator
from sciml.stats.spectra.numpy_file import open_numpy


def arrays():
    X = generator(0).standard_normal((6, 4))
    return {
        "rows": X, "columns": np.asfortranarray(X), "cube": X.reshape(3, 2, 4),
        "cube.columns": np.asfortranarray(X.reshape(3, 2, 4)),
        "half": X.astype(np.float16), "ints": (100 * X).astype(np.int32), "words": (100 * abs(X)).astype(np.uint16),
        "bools": X > 0, "complex": X + 1j, "none": np.zeros((0, 3)),
    }  # fmt: skip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_whole_and_by_rows(tmp_path, save):
    path, truth = tmp_path / "x.npz", arrays()
    save(path, **truth)
    with open_numpy(path) as source:
        assert list(source.tensors) == list(truth)
        for name, tensor in source.tensors.items():
            assert (tensor.shape, tensor.nbytes) == (truth[name].shape, truth[name].nbytes)
            assert tensor.read().dtype == tensor.dtype == torch.from_numpy(truth[name]).dtype
            np.testing.assert_array_equal(tensor.read().numpy(), truth[name])
            np.testing.assert_array_equal(tensor.rows(1, 3).numpy(), truth[name][1:3])
            if len(truth[name]):
                np.testing.assert_array_equal(tensor.take([2, 0]).numpy(), truth[name][[2, 0]])


def test_a_lone_array_and_a_number(tmp_path):
    for name, value in (("x.npy", arrays()["columns"]), ("y.npy", np.float32(3.0))):
        np.save(tmp_path / name, value)
        tensor = open_numpy(tmp_path / name).tensors["weight"]
        np.testing.assert_array_equal(tensor.read().numpy(), value)
        assert tensor.shape == value.shape


def test_names_of_wrappers_and_records_that_are_no_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"module.a": np.ones(2), "module.b": np.ones(3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", b"words")
    source = open_numpy(path)
    assert list(source.tensors) == ["a", "b"]
    assert source.skipped == [("readme.txt", "no array of NumPy")]


@pytest.mark.parametrize("array", [np.ones(2, dtype=">f8"), np.array(["a"]), np.ones(2, dtype="M8[s]")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_types_that_torch_has_not_are_skipped_with_a_reason(tmp_path, array, save):
    save(tmp_path / "x.npz", a=array)
    source = open_numpy(tmp_path / "x.npz")
    assert source.tensors == {}
    assert "save it as little-endian float64" in dict(source.skipped)["a"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_objects_are_refused(tmp_path, save):
    save(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UnsafeCheckpointError, match="array of Python objects") as error:
        open_numpy(tmp_path / "x.npz")
    assert error.value.offending == "numpy.object_"


def encoded(shape, data, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


LIES = {
    "too few numbers": (encoded((2, 3), bytes(20)), r"shape \(2, 3\) and dtype float32 in"),
    "too many numbers": (encoded((2, 3), bytes(28)), r"shape \(2, 3\)"),
    "a huge shape": (encoded((10**12, 10**12), bytes(20)), "has an array of shape"),
    "a negative shape": (encoded((-2, -3), bytes(24)), "has an array of shape"),
    "a shape of words": (encoded(("a",), bytes(24)), "malformed header"),
    "no header": (b"\x93NUMPY\x01\x00\xff\xff{", "malformed header"),
    "another magic word": (b"\x94NUMPY" + bytes(100), "malformed header"),
    "nothing": (b"", "malformed header"),
    "code": (b"\x93NUMPY\x01\x00\x14\x00__import__('os').abc", "malformed header"),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_found(tmp_path, lie, compression):
    data, complaint = LIES[lie]
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(CheckpointError, match=complaint) as error:
        open_numpy(path)
    assert str(path) in str(error.value)


def test_a_record_that_claims_more_than_deflate_can_make_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", encoded((5,), bytes(20)))
    data, size = bytearray(path.read_bytes()), (2**31).to_bytes(4, "little")
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = size
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="claims 2147483648 bytes from"):
        open_numpy(path)


def test_other_ways_of_compression_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", encoded((5,), bytes(20)))
    with pytest.raises(CheckpointError, match="oddly compressed record 'a.npy'"):
        open_numpy(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_raise_and_nothing_else_happens(tmp_path, save):
    path, rng = tmp_path / "x.npz", generator(1)
    save(path, a=np.arange(6.0).reshape(3, 2), b=np.ones(4, dtype=np.float16))
    whole, told = path.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 8)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1) if rng.random() < 0.3 else None])
        try:
            with open_numpy(path) as source:
                for stored in source.tensors.values():
                    stored.read()
        except CheckpointError:
            told += 1
    assert told > 50
