"""One state, one file: it comes back bit for bit, whole or not at all, and a damaged file says so."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch

from sciml import _checkpoint
from sciml._checkpoint import load_state, save_state
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.results import Result


def assert_same(a, b):
    """Equal in kind, structure and bits."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.detach().contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8)) if a.ndim else a == b
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert repr(a) == repr(b)


def state():
    rng = np.random.default_rng(0)
    return {
        "k": 3,
        "theta": torch.linspace(0, 1, 5, dtype=torch.float64) / 3,
        "x": torch.ones(2, 3, 4, dtype=torch.float32, requires_grad=True),
        "active": torch.tensor([True, False]),
        "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        "pairs": [(np.ones(2), np.zeros((0, 3))), (np.arange(3, dtype=np.int32), None)],
        "rng": np.random.default_rng(7).bit_generator.state,
        "torch": torch.Generator().manual_seed(3).get_state(),
        "bars": np.array([np.nan, np.inf, -0.0, 5e-324]),
        "scalar": np.float32(0.1),
        "status": "stopped by the callback",
        "flags": (True, False, None, 1, 0.1, -np.inf, 1j),
        7: {"nested": {"empty": {}, "list": [], "tuple": ()}},
        "column": np.asfortranarray(rng.standard_normal((3, 2))),
        "words": np.array(["a", "bc"]),
        "point": torch.tensor(2.0),
    }


def test_a_state_comes_back_bit_for_bit(tmp_path):
    value = state()
    file = save_state(tmp_path / "run.state", value)
    assert file == tmp_path / "run.state"
    back = load_state(str(file))
    assert_same(value, back)
    assert not back["x"].requires_grad
    assert os.listdir(tmp_path) == ["run.state"]


def test_a_generator_goes_on_where_it_was(tmp_path):
    rng = np.random.default_rng(5)
    rng.standard_normal(3)
    save_state(tmp_path / "s", rng.bit_generator.state)
    expected = rng.standard_normal(4)
    other = np.random.default_rng()
    other.bit_generator.state = load_state(tmp_path / "s")
    assert other.standard_normal(4).tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [None, 3, "text", np.arange(3), [1, (2, {"a": None})]], ids=str)
def test_any_value_may_stand_at_the_top(value, tmp_path):
    assert_same(value, load_state(save_state(tmp_path / "s", value)))


def test_a_result_may_be_part_of_a_state(tmp_path):
    value = [Result.of(None, {"seed": 3}, n_iter=2)]
    back = load_state(save_state(tmp_path / "s", value))
    assert (back[0].settings, back[0].n_iter) == ({"seed": 3}, 2)


def test_the_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    file = save_state(tmp_path / "s", {"k": 1})

    def full(*args, **options):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint.np, "savez", full)
        with pytest.raises(OSError, match="no space left"):
            save_state(file, {"k": 2})
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint.os, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            save_state(file, {"k": 2})
    assert load_state(file) == {"k": 1}
    assert os.listdir(tmp_path) == ["s"]
    save_state(file, {"k": 2})
    assert load_state(file) == {"k": 2}


def test_what_cannot_be_saved_is_named_and_leaves_the_file(tmp_path):
    file = save_state(tmp_path / "s", 1)
    rule = r"a state may hold arrays of .*; value\['a'\]\[1\] is of type object. Save its parts"
    with pytest.raises(InvalidTypeError, match=rule):
        save_state(file, {"a": [0, object()]})
    with pytest.raises(InvalidTypeError, match="is of type ndarray"):
        save_state(file, np.array([None]))
    assert load_state(file) == 1


def test_a_wrong_place_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="path must lie in a folder that exists; got '.*nowhere/s'. Make"):
        save_state(tmp_path / "nowhere" / "s", 1)
    with pytest.raises(FileNotFoundError, match="there is no '.*absent'"):
        load_state(tmp_path / "absent")


def test_every_wrong_byte_and_every_cut_is_noticed(tmp_path):
    value = {"theta": torch.arange(4, dtype=torch.float64), "k": 3, "pairs": [np.arange(2), (1.5, None)]}
    data = save_state(tmp_path / "s", value).read_bytes()
    broken = tmp_path / "broken"
    said = []
    for place in range(0, len(data), 3):
        # One bit at one place in three: sizes, names, methods, checksums and contents are all met.
        broken.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        try:
            back = load_state(broken)
        except InvalidInputError as error:
            said.append(str(error))
        else:
            assert_same(value, back)  # a date, say, which is not part of the value
    assert len(said) > 100
    for text in said:
        assert text.startswith(
            f"path must be a file written by save_state; {str(broken)!r} is damaged or of another ori"
        )
        assert text.endswith("Delete it and start anew, or restore it from a backup.")
    for length in range(0, len(data), 97):
        broken.write_bytes(data[:length])
        with pytest.raises(InvalidInputError, match="is damaged or of another origin"):
            load_state(broken)


def test_a_file_of_another_origin_or_a_later_format_is_refused(tmp_path):
    result = Result.of(None, {}).save(tmp_path / "result.npz")
    with pytest.raises(InvalidInputError, match="by save_state; '.*result.npz' is damaged or of another origin"):
        load_state(result)
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(InvalidInputError, match="of another origin"):
        load_state(tmp_path / "array.npy")
    with pytest.raises(InvalidInputError, match="of another origin"):
        load_state(tmp_path)
    later = np.frombuffer(json.dumps({"format": 99, "state": 1}).encode(), dtype=np.uint8)
    np.savez(tmp_path / "later.npz", head=later)
    with pytest.raises(InvalidInputError, match="has format 99; this version reads 1. Use the sciml that wrote it"):
        load_state(tmp_path / "later.npz")


def test_nothing_is_unpickled(tmp_path):
    file = save_state(tmp_path / "s", {"a": np.arange(2)})
    evil = tmp_path / "evil"
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(evil, "w") as target:
        target.writestr("head.npy", source.read("head.npy"))
        target.write(tmp_path / "object.npy", "a0.npy")
    with pytest.raises(InvalidInputError, match="of another origin .*allow_pickle"):
        load_state(evil)
