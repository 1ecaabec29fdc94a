"""Shards are one model; an index that lies, climbs or leaves something out is told."""

import gc
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from sciml.exceptions import CheckpointError
from sciml.stats.spectra.shards import inside, open_all, open_index, parts_of, read_json

PARTS = {"one": {"a": torch.ones(2, 2), "b": torch.zeros(3)}, "two": {"c": torch.full((2,), 7.0)}}


@pytest.fixture(params=["safetensors", "bin"])
def folder(tmp_path, request):
    """A folder with two shards and an index; its name is in `folder.index`."""
    ending = request.param
    for name, tensors in PARTS.items():
        save_file(tensors, tmp_path / f"{name}.{ending}") if ending == "safetensors" else torch.save(
            tensors, tmp_path / f"{name}.{ending}"
        )
    return tmp_path, ending


def indexed(folder, changes=None, **others):
    path, ending = folder
    where = {key: f"{name}.{ending}" for name, tensors in PARTS.items() for key in tensors} | (changes or {})
    index = path / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {k: v for k, v in where.items() if v}} | others))
    return index


def test_the_tensors_of_all_shards_are_there(folder):
    with open_index(indexed(folder)) as source:
        assert set(source.tensors) == {"a", "b", "c"}
        assert source.tensors["c"].read().tolist() == [7, 7]
        assert len(source.files) == 2
    assert all(not file._closer.alive for file in source.files)


def test_a_tensor_that_the_index_leaves_out_is_listed(folder):
    source = open_index(indexed(folder, {"b": None}))
    assert source.skipped == [("b", f"in one.{folder[1]}, but not in the index")]
    assert set(source.tensors) == {"a", "c"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"d": "two.{}"}, "'d' is in 'two.{}', and it is in no shard"),
        ({"a": "two.{}"}, "'a' is in 'two.{}', and it is in 'one.{}'"),
        ({"a": "three.{}"}, "three.{}' cannot be opened: No such file"),
    ],
)
def test_an_index_that_lies_is_told(folder, changes, complaint):
    changes = {key: value.format(folder[1]) for key, value in changes.items()}
    with pytest.raises(CheckpointError, match=complaint.format(folder[1], folder[1])):
        open_index(indexed(folder, changes))


def test_a_tensor_in_two_shards_is_told(folder):
    path, ending = folder
    again = {**PARTS["two"], "a": torch.ones(2, 2)}
    save_file(again, path / "two.safetensors") if ending == "safetensors" else torch.save(again, path / "two.bin")
    with pytest.raises(CheckpointError, match="holds 'a', and so does 'one"):
        open_index(indexed(folder))


@pytest.mark.parametrize(
    "shard",
    [
        "../one.bin",
        "/etc/passwd",
        "a/../../one.bin",
        "./one.bin",
        "..\\one.bin",
        "C:\\one.bin",
        "a//b",
        "",
        "one\0.bin",
    ],
)
def test_a_shard_outside_the_folder_is_refused(tmp_path, shard):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="lies outside its folder. Put all files into one folder"):
        open_index(index)


def test_links_that_lead_out_are_refused_and_those_inside_followed(tmp_path):
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    torch.save(PARTS["one"], outside / "real.bin")
    torch.save(PARTS["one"], home / "real.bin")
    (home / "in.bin").symlink_to("real.bin")
    (home / "out.bin").symlink_to(outside / "real.bin")
    (home / "folder").symlink_to(outside)
    assert inside(str(home), "in.bin", "index") == str(home / "in.bin")
    for name in ("out.bin", "folder/real.bin"):
        with pytest.raises(CheckpointError, match="lies outside its folder"):
            inside(str(home), name, "index")
    (tmp_path / "home2").symlink_to(home)
    assert inside(str(tmp_path / "home2"), "real.bin", "index")
    (tmp_path / "home-other").mkdir()
    (home / "sibling.bin").symlink_to(tmp_path / "home-other" / "x")
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        inside(str(home), "sibling.bin", "index")


def test_the_cache_of_a_hub_is_a_folder_with_its_blobs(tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    torch.save(PARTS["one"], blobs / "0123")
    (blobs / "4567").write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "one.bin"}}))
    (snapshot / "one.bin").symlink_to("../../blobs/0123")
    (snapshot / "pytorch_model.bin.index.json").symlink_to("../../blobs/4567")
    assert set(open_index(snapshot / "pytorch_model.bin.index.json").tensors) == {"a", "b"}
    (tmp_path / "secret").write_bytes(b"")
    (snapshot / "two.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        inside(str(snapshot), "two.bin", "index")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "must hold a weight_map"),
        ("[]", "must hold a weight_map"),
        ('{"weight_map": {}}', "must hold a weight_map"),
        ('{"weight_map": {"a": 3}}', "must hold a weight_map"),
        ('{"weight_map": ["a"]}', "must hold a weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "the key 'a' twice"),
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON"),
        ('{"\\ud800": 1}', "is no valid JSON"),
    ],
)
def test_a_broken_index_is_told(tmp_path, text, complaint):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=complaint) as error:
        open_index(index)
    assert str(index) in str(error.value)


def test_a_huge_index_is_not_read(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    with open(index, "wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match="at most 100000000 are read as JSON"):
        read_json(str(index))


def test_names_of_wrappers_go_when_the_index_is_understood(tmp_path):
    torch.save({"module.a": torch.ones(2)}, tmp_path / "one.bin")
    torch.save({"module.b": torch.ones(2), "c": torch.ones(1)}, tmp_path / "two.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"module.a": "one.bin", "module.b": "two.bin", "c": "two.bin"}}))
    assert list(open_index(index).tensors) == ["module.a", "module.b", "c"]


def test_files_are_closed_when_one_is_broken(folder):
    path, ending = folder
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    (path / f"two.{ending}").write_bytes(b"broken")
    errors = []
    for _ in range(3):
        with pytest.raises(CheckpointError) as error:
            open_index(indexed(folder))
        errors.append(error)  # the traceback holds what the frames held
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_shards_without_an_index_say_which_should_be_there():
    names = ["a-00001-of-00003.bin", "b.bin", "c-00002-of-00002.safetensors", "d-00001-of-99999.bin"]
    assert parts_of(names) == {
        "a.bin": ["a-00001-of-00003.bin", "a-00002-of-00003.bin", "a-00003-of-00003.bin"],
        "c.safetensors": ["c-00001-of-00002.safetensors", "c-00002-of-00002.safetensors"],
    }
    assert open_all({}).places == {}
