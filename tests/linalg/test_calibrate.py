"""A calibration gives thresholds in pairs, keeps them by device, and the choice of engines reads them."""

import json
import sys

import numpy as np
import pytest
import torch

from sciml._trace import trace
from sciml.kernels import Gaussian
from sciml.linalg import calibrate, kernel_sum
from sciml.linalg.engines import thresholds, thresholds_file

choose = sys.modules["sciml.linalg.engines.choose"]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_compiling_pays_from_its_seconds_over_the_smaller_gain():
    rows = {
        "eager": {"sum float32": 3e-9, "sum float64": 6e-9},
        "compiled": {"sum float32": 1e-9, "sum float64": 2e-9},
    }
    found = calibrate.limits(rows, (10.0, 2.0), 1e6)
    assert found == {"dense_pairs": 1e6, "compiled_cold_pairs": 5e9, "compiled_warm_pairs": 1e9}
    assert calibrate.limits(rows, None, 1e6) == {"dense_pairs": 1e6}
    assert calibrate.limits(rows | {"compiled": {}}, (10.0, 2.0), 1e6) == {"dense_pairs": 1e6}


def test_what_is_written_is_read_and_chosen_by():
    y = np.linspace(0, 1, 50)[:, None]
    before = thresholds("cpu")
    calibrate.write({"dense_pairs": 10.0}, "cpu")
    assert thresholds("cpu") == {**before, "dense_pairs": 10.0}
    with trace() as log:
        kernel_sum(y, y, y, kernel=Gaussian(0.3))
    assert log[0]["engine"] in ("eager", "compiled")  # compiled where another test left the tile
    calibrate.write({"dense_pairs": 1e9}, "cpu")
    with trace() as log:
        kernel_sum(y, y, y, kernel=Gaussian(0.3))
    assert log[0]["engine"] == "dense"


def test_other_devices_stay_and_a_damaged_file_is_replaced(monkeypatch):
    monkeypatch.setattr(calibrate, "device_name", lambda device: f"name of {device}")
    file = calibrate.write({"dense_pairs": 1.0}, "cuda")
    calibrate.write({"dense_pairs": 2.0}, "cpu")
    assert json.loads(file.read_text()) == {"name of cuda": {"dense_pairs": 1.0}, "name of cpu": {"dense_pairs": 2.0}}
    file.write_text("not JSON")
    assert thresholds("cpu") == choose.DEFAULTS
    calibrate.write({"dense_pairs": 3.0}, "cpu")
    assert json.loads(file.read_text()) == {"name of cpu": {"dense_pairs": 3.0}}


def test_the_command_shows_a_table_and_a_dry_run_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "availability", lambda: ["dense", "eager"])
    monkeypatch.setattr(calibrate, "first_calls", lambda threads: (8.0, 2.0))
    monkeypatch.setattr(calibrate, "_dense_pairs", lambda device: 2.5e5)
    assert calibrate.main(["--device", "cpu", "-n", "30", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "sum float32" in shown
    assert "eager" in shown
    assert "dense_pairs: 2.50e+05" in shown
    assert not thresholds_file().exists()


def test_measures_every_reduction_in_seconds_a_pair():
    for reduction in ("sum", "logsumexp", "gradient"):
        assert 0 < calibrate.measure("eager", reduction, torch.float64, 40, "cpu") < 1e-2
