"""Of the files in a folder the right ones are read, and every other one that looks like weights is listed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sciml.exceptions import CheckpointError, UnsafeCheckpointError
from sciml.stats.spectra.folders import beside, open_folder


def tensors(*names, fill=1.0):
    return {name: torch.full((2, 2), fill) for name in names}


def put(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(values, path) if path.suffix == ".safetensors" else torch.save(values, path)
    return path


def reasons(source, word):
    return sorted(name for name, reason in source.skipped if word in reason)


def test_safetensors_win_over_copies_of_torch(tmp_path):
    put(tmp_path / "model.safetensors", tensors("a", fill=1))
    put(tmp_path / "pytorch_model.bin", tensors("a", fill=2))
    put(tmp_path / "model.fp16.safetensors", tensors("a", fill=3))
    (tmp_path / "tokenizer.json").write_text("{}")
    with open_folder(tmp_path) as source:
        assert source.tensors["a"].read()[0, 0] == 1
        copies = ["model.fp16.safetensors", "pytorch_model.bin"]
        assert reasons(source, "another copy: model.safetensors is read") == copies
        assert len(source.skipped) == 2


def test_an_index_wins_and_its_shards_are_no_copies(tmp_path):
    put(tmp_path / "model-00001-of-00002.safetensors", tensors("a"))
    put(tmp_path / "model-00002-of-00002.safetensors", tensors("b"))
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    put(tmp_path / "consolidated.pth", tensors("a", "b"))
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"a", "b"}
    assert reasons(source, "another copy") == ["consolidated.pth"]


def test_shards_without_an_index_must_all_be_there(tmp_path):
    put(tmp_path / "model-00001-of-00002.bin", tensors("module.a"))
    put(tmp_path / "model-00002-of-00002.bin", tensors("module.b"))
    assert set(open_folder(tmp_path).tensors) == {"a", "b"}
    (tmp_path / "model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002.bin' cannot be opened"):
        open_folder(tmp_path)


def test_an_adapter_is_read_with_its_settings_and_beside_its_base(tmp_path):
    put(tmp_path / "adapter_model.safetensors", tensors("x.lora_A.weight"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 16, "task_type": "x"}))
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"x.lora_A.weight"}
    assert (source.metadata["r"], source.metadata["lora_alpha"]) == (8, 16)
    assert source.metadata["adapter_config"]["task_type"] == "x"
    put(tmp_path / "model.safetensors", tensors("x.weight"))
    assert set(open_folder(tmp_path).tensors) == {"x.weight", "x.lora_A.weight"}
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "adapter_model.safetensors").unlink()
    put(tmp_path / "adapter_model.bin", tensors("y"))
    assert set(open_folder(tmp_path).tensors) == {"y"}


def test_files_of_a_training_run_are_not_opened(tmp_path):
    put(tmp_path / "pytorch_model.bin", tensors("a"))
    training = ["optimizer.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "scheduler.pt", "training_args.bin"]
    for name in training:
        (tmp_path / name).write_bytes(b"cos\nsystem\n.")
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"a"}
    assert reasons(source, "of a training run") == training


def test_sub_folders_are_parts_of_the_model(tmp_path):
    put(tmp_path / "model.safetensors", tensors("a"))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12}))
    put(tmp_path / "2_Dense" / "model.safetensors", tensors("linear.weight"))
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps({"num_attention_heads": 3}))
    (tmp_path / "1_Pooling").mkdir()
    put(tmp_path / ".git" / "model.safetensors", tensors("hidden"))
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"a", "2_Dense.linear.weight"}
    assert source.tensors["2_Dense.linear.weight"].name == "2_Dense.linear.weight"
    assert source.metadata["num_heads"] == 12


def test_weights_in_sub_folders_alone(tmp_path):
    put(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", tensors("a"))
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"num_attention_heads": 3}))
    assert open_folder(tmp_path).metadata["num_heads"] == 3
    put(tmp_path / "vae" / "diffusion_pytorch_model.bin", tensors("a"))
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"unet.a", "vae.a"}
    assert "num_heads" not in source.metadata  # the heads of one part are not those of the other


def test_earlier_states_are_skipped_beside_the_last_one(tmp_path):
    put(tmp_path / "checkpoint-500" / "model.safetensors", tensors("a"))
    put(tmp_path / "checkpoint-900" / "model.safetensors", tensors("a"))
    assert set(open_folder(tmp_path).tensors) == {"checkpoint-500.a", "checkpoint-900.a"}
    put(tmp_path / "model.safetensors", tensors("a"))
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"a"}
    assert reasons(source, "an earlier state") == ["checkpoint-500", "checkpoint-900"]


def test_files_of_unknown_relation_keep_their_own_names(tmp_path):
    put(tmp_path / "encoder.pt", tensors("a"))
    put(tmp_path / "decoder.pth", tensors("a"))
    assert set(open_folder(tmp_path).tensors) == {"encoder.a", "decoder.a"}


def test_a_lone_file_of_any_name_and_arrays_of_numpy(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.ones((2, 2)))
    assert set(open_folder(tmp_path).tensors) == {"a"}
    put(tmp_path / "last.ckpt", {"state_dict": tensors("module.b")})
    source = open_folder(tmp_path)
    assert set(source.tensors) == {"state_dict.b"}
    assert reasons(source, "another copy") == ["weights.npz"]


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.md").write_text("words")
    (tmp_path / "deep").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no weights: looked for .*\*.safetensors, .*\*.npz") as error:
        open_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be listed: No such file"):
        open_folder(tmp_path / "absent")


def test_links_that_lead_out_are_refused(tmp_path):
    home, outside = tmp_path / "home", tmp_path / "outside"
    put(outside / "model.safetensors", tensors("a"))
    (outside / "config.json").write_text("{}")
    home.mkdir()
    (home / "model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        open_folder(home)
    (home / "model.safetensors").unlink()
    (home / "part").symlink_to(outside)
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        open_folder(home)
    (home / "part").unlink()
    (home / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        beside(str(home))


def test_a_folder_that_links_to_itself_ends(tmp_path):
    put(tmp_path / "model.safetensors", tensors("a"))
    (tmp_path / "again").symlink_to(".")
    with pytest.raises(CheckpointError, match="lies outside its folder"):
        open_folder(tmp_path)


def test_deep_folders_are_left_alone(tmp_path):
    put(tmp_path / "1" / "2" / "3" / "model.bin", tensors("a"))
    put(tmp_path / "1" / "2" / "3" / "4" / "model.bin", tensors("b"))
    assert set(open_folder(tmp_path).tensors) == {"1.2.3.a"}


def test_an_attack_in_a_folder_is_told(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(UnsafeCheckpointError, match="os.system"):
        open_folder(tmp_path)


def test_a_broken_configuration_is_told(tmp_path):
    put(tmp_path / "model.safetensors", tensors("a"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json' is no valid JSON"):
        open_folder(tmp_path)
