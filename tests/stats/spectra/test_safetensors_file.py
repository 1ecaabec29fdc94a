"""The format's own package is the oracle; every lie of a header is found before a byte of data is read."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sciml.exceptions import CheckpointError
from sciml.random import generator
from sciml.stats.spectra.safetensors_file import MAX_HEADER, open_safetensors

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.int64, torch.uint64, torch.float64,
    torch.complex64,
]  # fmt: skip


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def written(path, header, data=b"", length=None):
    """Write a file whose header says what it is told to say."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    raw = torch.from_numpy(generator(0).integers(0, 256, 5 * 3 * 8).astype(np.uint8))
    tensors = {
        str(dtype): (raw % 2 == 0)[:15].reshape(5, 3) if dtype == torch.bool
        else raw[: 15 * dtype.itemsize].clone().view(dtype).reshape(5, 3)
        for dtype in DTYPES
    }  # fmt: skip
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    with open_safetensors(path) as source, safe_open(path, "pt") as oracle:
        assert source.metadata == {"file": {"format": "pt"}}
        assert set(source.tensors) == set(oracle.keys()) == {str(dtype) for dtype in DTYPES}
        for name, tensor in source.tensors.items():
            truth = oracle.get_tensor(name)
            assert (tensor.dtype, tensor.shape, tensor.nbytes) == (truth.dtype, tuple(truth.shape), truth.nbytes)
            assert torch.equal(bits(tensor.read()), bits(truth))
            assert torch.equal(bits(tensor.rows(1, 4)), bits(truth[1:4]))
            assert torch.equal(bits(tensor.take([4, 0])), bits(truth.view(torch.uint8).reshape(5, -1)[[4, 0]]))


def test_odd_shapes_and_names(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {
        "": torch.ones(2), "number": torch.tensor(3.0), "none": torch.zeros(0, 4), "five": torch.ones(1, 2, 1, 3, 1),
        "späte\nZeile\x00": torch.ones(1), "../../up": torch.ones(1), "x" * 5000: torch.ones(1),
    }  # fmt: skip
    save_file(tensors, path)
    with open_safetensors(path) as source:
        assert {name: tensor.shape for name, tensor in source.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in tensors.items()
        }
        assert source.tensors["number"].read() == 3
        assert source.tensors["none"].rows(0, 9).shape == (0, 4)


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    header = {"b": entry("U8", (2,), (3, 5)), "a": entry("U8", (3,), (0, 3))}
    source = open_safetensors(written(tmp_path / "x", header, bytes(range(5))))
    assert list(source.tensors) == ["a", "b"]
    assert source.tensors["b"].read().tolist() == [3, 4]


def test_spaces_behind_the_header_and_a_file_without_tensors_are_right(tmp_path):
    path = written(tmp_path / "x", json.dumps({"a": entry()}).encode() + b"   ", bytes(16))
    assert open_safetensors(path).tensors["a"].read().abs().sum() == 0
    assert open_safetensors(written(tmp_path / "y", b"{}")).tensors == {}


def test_packed_types_are_skipped_with_a_reason(tmp_path):
    header = {"a": entry("F4", (2, 4), (0, 4)), "b": entry("F6_E2M3", (4,), (4, 7)), "c": entry("U8", (1,), (7, 8))}
    source = open_safetensors(written(tmp_path / "x", header, bytes(8)))
    assert list(source.tensors) == ["c"]
    assert [name for name, _ in source.skipped] == ["a", "b"]
    assert "dtype F4 has no arithmetic in torch" in source.skipped[0][1]


LIES = {
    "no length": (b"1234", "fewer than the 8"),
    "a length beyond the file": (struct.pack("<Q", 50) + b"{}", "claims 50 bytes, and the whole file has 10"),
    "a length beyond the bound": (struct.pack("<Q", 2**63) + b"{}", f"at most {MAX_HEADER} are allowed"),
    "no JSON": (b"{nonsense}", "is no JSON object"),
    "no brace": (b" {}", "does not begin with a brace"),
    "a list": (b"[]", "does not begin with a brace"),
    "no UTF-8": (b'{"\xff": 1}', "is no JSON object"),
    "half a surrogate": (b'{"\\ud800": ' + json.dumps(entry()).encode() + b"}", "is no JSON object"),
    "a deep nest": (b'{"a":' * 100_000, "is no JSON object"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON object"),
    "two of one name": (b'{"a": 1, "a": 2}', "names 'a' twice"),
    "two shapes": (b'{"a": {"shape": [], "shape": []}}', "names 'shape' twice"),
    "no entry": ({"a": 3}, "must hold dtype, shape and data_offsets"),
    "a field too many": ({"a": {**entry(), "b": 1}}, "must hold dtype, shape and data_offsets"),
    "an unknown dtype": ({"a": entry("F33")}, "unknown dtype 'F33'"),
    "a dtype that is no word": ({"a": entry(7)}, "unknown dtype '7'"),
    "a negative size": ({"a": entry(shape=(-2, -2))}, "must be whole numbers from 0"),
    "a broken size": ({"a": entry(shape=(2.0, 2))}, "must be whole numbers from 0"),
    "a true size": ({"a": entry(shape=(True, 4))}, "must be whole numbers from 0"),
    "a size beyond 64 bits": ({"a": entry(shape=(2**64, 0), offsets=(0, 0))}, "must be whole numbers from 0"),
    "an overflowing shape": ({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}, "takes 7.37.*bytes, not the 0"),
    "a shape beyond its bytes": ({"a": entry(shape=(2, 3))}, "takes 24 bytes, not the 16"),
    "offsets in reverse": ({"a": entry(offsets=(16, 0))}, r"offsets \[16, 0\]"),
    "a negative offset": ({"a": entry(offsets=(-16, 0))}, "must be whole numbers from 0"),
    "three offsets": ({"a": entry(offsets=(0, 8, 16))}, r"offsets \[0, 8, 16\]"),
    "too many axes": ({"a": entry(shape=[1] * 100, offsets=(0, 4))}, "has 100 axes"),
    "bits that fill no byte": ({"a": entry("F4", (1,), (0, 0))}, "takes 0.5 bytes"),
    "metadata that are no words": ({"__metadata__": {"a": 1}, "b": entry()}, "__metadata__ must map words to words"),
    "metadata that are a list": ({"__metadata__": [], "b": entry()}, "__metadata__ must map words to words"),
    "an overlap": ({"a": entry(), "b": entry(offsets=(8, 24))}, "of 'b' overlap those before"),
    "twice the same bytes": ({"a": entry(), "b": entry()}, "of 'b' overlap those before"),
    "a hole": ({"a": entry(), "b": entry(offsets=(20, 36))}, "leave a hole of 4 bytes"),
    "a beginning that is no zero": ({"a": entry(offsets=(4, 20))}, "leave a hole of 4 bytes"),
    "data beyond the end": ({"a": entry(shape=(4, 4), offsets=(0, 64))}, "64 bytes of data, more than the 16"),
    "data that nobody owns": ({"a": entry(shape=(2,), offsets=(0, 8))}, "8 bytes of data, fewer than the 16"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_found(tmp_path, lie):
    header, complaint = LIES[lie]
    path = tmp_path / "model.safetensors"
    if isinstance(header, bytes) and not header.lstrip().startswith((b"{", b"[")):
        path.write_bytes(header)
    else:
        written(path, header, bytes(16))
    with pytest.raises(CheckpointError, match=complaint) as error:
        open_safetensors(path)
    assert str(path) in str(error.value)
    assert error.value.path == str(path)


def test_a_header_is_not_allocated_for_its_claim(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(MAX_HEADER + 1000)  # sparse: it takes no room on the disk
    asked, real = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: asked.append(size) or real(*size, **options))
    with pytest.raises(CheckpointError, match=f"its header claims {MAX_HEADER + 1} bytes"):
        open_safetensors(path)
    assert asked == [(8,)]


def test_damaged_files_raise_and_nothing_else_happens(tmp_path):
    path, rng = tmp_path / "model.safetensors", generator(1)
    save_file({"a": torch.ones(3, 2), "b": torch.ones(4, dtype=torch.bfloat16)}, path)
    whole, told = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, 160, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)])
        try:
            with open_safetensors(path) as source:
                for tensor in source.tensors.values():
                    tensor.read()
        except CheckpointError:
            told += 1
    assert told > 200


@pytest.mark.parametrize("cut", [7, 20, 100, -1])
def test_a_cut_file_is_told(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(30, 20)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="is no valid safetensors file"):
        open_safetensors(path)
