"""Rows come from files and memory as they lie there; a file that changes is told, and nothing else is opened."""

import os
import pickle
import stat

import numpy as np
import pytest
import torch

from sciml.exceptions import CheckpointError, InvalidInputError
from sciml.random import generator
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.stored_tensors import StoredTensor, WeightSource
from sciml.stats.spectra.tensor_readers import ComputedReader, FileReader, MemoryReader


@pytest.fixture
def matrix(tmp_path):
    """A matrix (50, 40) of float32 in a file, behind 12 other bytes."""
    X = generator(0).standard_normal((50, 40)).astype(np.float32)
    path = tmp_path / "matrix"
    path.write_bytes(b"twelve bytes" + X.tobytes())
    return torch.from_numpy(X), path


def stored(path, shape=(50, 40), strides=(40, 1), offset=12, dtype=torch.float32):
    numel = int(np.prod(shape))
    reader = FileReader(RegularFile(path), offset, shape, strides, dtype)
    return StoredTensor("weight", shape, dtype, numel * dtype.itemsize, reader=reader)


@pytest.fixture
def asked(monkeypatch):
    """The numbers of bytes that the system was asked for."""
    sizes, real = [], os.preadv

    def counted(fd, buffers, offset):
        sizes.append(sum(len(buffer) for buffer in buffers))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    return sizes


def test_rows_and_entries_are_those_of_the_matrix(matrix):
    X, path = matrix
    tensor = stored(path)
    assert torch.equal(tensor.read(), X)
    assert torch.equal(tensor.rows(7, 20), X[7:20])
    assert torch.equal(tensor.rows(45, 99), X[45:])
    assert tensor.rows(5, 5).shape == tensor.rows(9, 5).shape == (0, 40)
    index = [3, 4, 5, 49, 0, 0, 8, 7]
    for form in (index, np.array(index), torch.tensor(index), np.array(index, dtype=np.uint8)):
        assert torch.equal(tensor.take(form), X[index])
    assert tensor.take([]).shape == (0, 40)


def test_only_the_bytes_of_the_rows_are_read(matrix, asked):
    _, path = matrix
    tensor = stored(path)
    tensor.rows(10, 13)
    tensor.take([4, 5, 6, 20])
    assert asked == [3 * 160, 3 * 160, 160]


def test_rows_of_a_matrix_stored_by_columns_cost_no_more(matrix, asked):
    X, path = matrix
    tensor = stored(path, shape=(40, 50), strides=(1, 40))
    assert torch.equal(tensor.rows(3, 5), X.T[3:5])
    assert sum(asked) <= 50 * 2 * 4
    assert torch.equal(tensor.read(), X.T)
    assert torch.equal(tensor.take([39, 2]), X.T[[39, 2]])


def test_views_with_gaps_and_higher_dimensions(matrix):
    X, path = matrix
    assert torch.equal(stored(path, shape=(20, 10), strides=(80, 4), offset=12 + 8).read(), X[:40:2, 2::4])
    cube = X.reshape(10, 5, 40).permute(2, 0, 1)
    assert torch.equal(stored(path, shape=tuple(cube.shape), strides=cube.stride()).rows(6, 9), cube[6:9])
    assert stored(path, shape=(0, 40), strides=(40, 1)).read().shape == (0, 40)
    assert stored(path, shape=(), strides=()).read() == X[0, 0]


def test_a_number_has_no_rows(matrix):
    tensor = stored(matrix[1], shape=(), strides=())
    with pytest.raises(InvalidInputError, match="'weight' is a single number and has no rows"):
        tensor.rows(0, 1)


@pytest.mark.parametrize("index", [[50], [-1], [0, 51]])
def test_an_entry_outside_is_refused(matrix, index):
    with pytest.raises(InvalidInputError, match=r"index must lie in 0..49 for 'weight' of shape \(50, 40\)"):
        stored(matrix[1]).take(index)


@pytest.mark.parametrize("index", [[0.5], [[1, 2]], ["a"], [True]])
def test_an_index_must_be_whole_numbers(matrix, index):
    with pytest.raises(InvalidInputError, match="index must be whole numbers in one row"):
        stored(matrix[1]).take(index)


def test_bytes_beside_zero_and_one_are_true(tmp_path):
    path = tmp_path / "bools"
    path.write_bytes(bytes([0, 1, 2, 255]))
    assert stored(path, (4,), (1,), 0, torch.bool).read().tolist() == [False, True, True, True]


def test_a_file_that_was_cut_or_changed_is_told(matrix):
    X, path = matrix
    tensor = stored(path)
    os.utime(path, ns=(0, 10**18))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        tensor.rows(0, 1)
    tensor = stored(path)
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match="was cut while it was read") as error:
        tensor.read()
    assert error.value.path == str(path)


def test_a_file_that_was_replaced_is_still_the_old_one(matrix):
    X, path = matrix
    tensor = stored(path)
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)
    assert torch.equal(tensor.read(), X)


def test_a_range_outside_the_file_is_refused_before_memory_is_taken(matrix):
    file = RegularFile(matrix[1])
    for offset, nbytes in ((-1, 4), (0, 10**15), (8000, 100), (0, -4)):
        with pytest.raises(CheckpointError, match="has 8012 bytes, and bytes"):
            file.read(offset, nbytes)


def test_nothing_is_read_after_closing(matrix):
    tensor = stored(matrix[1])
    with WeightSource({"weight": tensor}, files=[tensor.reader._file]) as source:
        assert source.tensors["weight"].rows(0, 1).shape == (1, 40)
    source.close()
    with pytest.raises(CheckpointError, match="was closed"):
        tensor.read()


def test_a_forgotten_file_is_closed_with_its_object(matrix):
    file = RegularFile(matrix[1])
    closer = file._closer
    del file
    assert not closer.alive


def test_a_file_travels_to_another_process_unless_it_changed(matrix):
    X, path = matrix
    data = pickle.dumps(stored(path))
    assert torch.equal(pickle.loads(data).rows(0, 2), X[:2])
    os.utime(path, ns=(0, 10**18))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        pickle.loads(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="No such file or directory.*nothing is downloaded") as error:
        RegularFile(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(error.value)
    with pytest.raises(CheckpointError, match="embedded null byte"):
        RegularFile("a\0b")


def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "pipe"), (tmp_path, "folder"), ("/dev/zero", "device")):
        with pytest.raises(CheckpointError, match=f"is no regular file but a {kind}"):
            RegularFile(path)


def test_a_file_that_may_not_be_read_is_named(matrix, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(CheckpointError, match="cannot be opened: Permission denied"):
        RegularFile(matrix[1])


def test_a_disk_that_fails_is_told(matrix, monkeypatch):
    tensor = stored(matrix[1])

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        tensor.read()


def test_short_reads_and_systems_without_positions_give_the_same(matrix, monkeypatch):
    X, path = matrix
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:100]], offset))
    assert torch.equal(stored(path).read(), X)
    monkeypatch.delattr(os, "preadv")
    assert torch.equal(stored(path).rows(2, 9), X[2:9])


def test_memory_is_shared_and_free_of_derivatives():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
    reader = MemoryReader(weight)
    assert reader.read().data_ptr() == weight.data_ptr()
    assert not reader.rows(0, 2).requires_grad
    assert not reader.take(np.array([1])).requires_grad
    conjugate = MemoryReader(torch.tensor([[1 + 2j]]).conj())
    assert conjugate.read()[0, 0] == conjugate.rows(0, 1)[0, 0] == conjugate.take(np.array([0]))[0, 0] == 1 - 2j
    assert not conjugate.read().is_conj()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_entries_of_short_floats_are_gathered(dtype):
    X = torch.arange(12.0).reshape(4, 3).to(dtype)
    taken = MemoryReader(X).take(np.array([3, 1]))
    assert taken.dtype == dtype
    assert torch.equal(taken.float(), X.float()[[3, 1]])


def test_a_computed_tensor_is_computed_when_it_is_read():
    weight, calls = torch.ones(3, 2, requires_grad=True), []

    def make():
        calls.append(torch.is_grad_enabled())
        return 2 * weight

    reader = ComputedReader(make)
    assert calls == []
    assert reader.rows(1, 3).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert reader.read().sum() == 12
    assert calls == [False, False]


def test_the_descriptor_is_not_inherited(matrix):
    file = RegularFile(matrix[1])
    assert not os.get_inheritable(file._fd)
    assert stat.S_ISREG(os.fstat(file._fd).st_mode)
