"""Settings: the stronger source wins, wrong ones are named, and the memory budget is the tightest limit."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import sciml
from sciml import _config
from sciml._config import config_context, get_config, memory_budget, resolve, set_config
from sciml.exceptions import InvalidInputError


def test_argument_beats_context_beats_process_beats_environment_beats_default(monkeypatch):
    assert resolve("on_failure") == "warn"
    monkeypatch.setenv("SCIML_ON_FAILURE", "raise")
    assert resolve("on_failure") == "raise"
    set_config(on_failure="ignore")
    assert resolve("on_failure") == "ignore"
    with config_context(on_failure="warn"):
        assert resolve("on_failure") == "warn"
        assert resolve("on_failure", "raise") == "raise"
        with config_context(device="cpu"):
            assert resolve("on_failure") == "warn"
        with config_context(on_failure=None):  # None goes back to the environment
            assert resolve("on_failure") == "raise"
    assert resolve("on_failure") == "ignore"
    set_config(on_failure=None)
    assert resolve("on_failure") == "raise"


def test_a_context_ends_with_an_error_and_stays_in_its_thread():
    seen = []

    def look_from_a_thread_and_fail():
        with config_context(progress=True):
            thread = threading.Thread(target=lambda: seen.append(get_config()["progress"]))
            thread.start()
            thread.join()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        look_from_a_thread_and_fail()
    assert seen == [False]
    assert get_config()["progress"] is False


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("devise", "cpu", "a configuration key must be one of .*got 'devise'. Did you mean 'device'"),
        ("device", "gpu", "device must be one of 'auto', 'cpu', 'cuda', 'cuda:0'; got 'gpu'"),
        ("engine", "keop", "engine must be one of 'auto', .*'keops'; got 'keop'. Did you mean 'keops'"),
        ("dtype", "float16", "dtype must be one of 'float32', 'float64'; got 'float16'"),
        ("memory", "2 apples", "memory must be bytes .*got '2 apples'"),
        ("memory", "1..2GB", "memory must be bytes .*got '1..2GB'"),
        ("memory", 0, "memory must be an integer at least 1; got 0"),
        ("memory", 0.0, "memory must be a number above 0 and at most 1; got 0.0"),
        ("memory", 1.5, "memory must be an integer at least 1; got 1.5"),
        ("memory", -0.5, "memory must be a number above 0 and at most 1; got -0.5"),
        ("check_finite", "maybe", "check_finite must be True or False; got 'maybe'"),
        ("progress", 1, "progress must be True or False; got 1"),
        ("on_failure", "warning", "on_failure must be one of .*got 'warning'. Did you mean 'warn'"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(key, value, match):
    before = get_config()
    with pytest.raises(InvalidInputError, match=match):
        set_config(on_failure="raise", **{key: value}) if key != "on_failure" else set_config(**{key: value})
    with pytest.raises(InvalidInputError, match=match), config_context(**{key: value}):
        pass
    assert get_config() == before


def test_a_wrong_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("SCIML_DEVICE", "gpu")
    with pytest.raises(InvalidInputError, match="the environment variable SCIML_DEVICE must be one of .*got 'gpu'"):
        get_config()


def test_dtype_and_device_objects_are_words_inside():
    import numpy as np

    for dtype in (torch.float32, np.float32, np.dtype("float32"), "float32"):
        assert resolve("dtype", dtype) == "float32"
    assert resolve("device", torch.device("cuda", 1)) == "cuda:1"


@pytest.mark.parametrize(
    ("given", "size"),
    [(5, 5), ("5", 5), ("2GiB", 2**31), ("2 gib", 2**31), ("1.5KB", 1500), ("3e6", 3_000_000), ("7B", 7)],
)
def test_memory_in_bytes(given, size):
    assert memory_budget(given) == size


def test_a_fraction_is_one_of_what_is_free(monkeypatch):
    monkeypatch.setattr(_config, "_free_on_machine", lambda: 1000)
    monkeypatch.setattr(_config, "_free_in_group", lambda: 800)
    monkeypatch.setattr(_config, "_free_address_space", lambda: None)
    assert memory_budget(0.25) == 200
    assert memory_budget("0.25") == 200
    assert memory_budget(1.0) == 800
    assert memory_budget() == 400
    monkeypatch.setattr(_config, "_free_address_space", lambda: -5)
    assert memory_budget() == 1


def test_the_tightest_group_limit_counts_and_cached_files_are_free(tmp_path):
    root, groups = tmp_path / "cgroup", tmp_path / "own"
    inner = root / "a" / "b"
    inner.mkdir(parents=True)
    groups.write_text("0::/a/b\n")
    assert _config._free_in_group(root, groups) is None
    for folder, limit, used, cached in ((inner, "max", 10, 0), (root / "a", "1000", 700, 200), (root, "5000", 900, 0)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    assert _config._free_in_group(root, groups) == 1000 - 700 + 200


def test_the_address_space_limit_counts():
    resource = pytest.importorskip("resource")
    code = "from sciml._config import _free_address_space as f; print(f())"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, check=True)
    assert 0 < int(out.stdout) < 2**34


def test_free_memory_is_sane():
    assert 0 < _config._free_memory() < 2**50
    if hasattr(os, "sysconf"):
        assert _config._free_on_machine() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_config_is_public_and_a_copy():
    config = sciml.get_config()
    config["device"] = "cuda"
    assert sciml.get_config()["device"] == "auto"
