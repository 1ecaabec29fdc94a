"""Traces hold every decision of their block, nest, and cost nothing when none is open."""

import threading
import timeit

import numpy as np
import pytest
import torch

import sciml
from sciml._trace import _open, isolated_trace, record, tracing


def some_decisions():
    record(
        "kernel_sum", shapes=((4, 2), torch.Size([3, 2])), engine="dense", device=torch.device("cpu"), reason="small"
    )
    record("cg", shapes=[(4,)], seconds=0.25, bytes=1024)


def test_a_trace_holds_the_decisions_of_its_block_in_order():
    some_decisions()
    with sciml.trace() as log:
        some_decisions()
    some_decisions()
    assert [entry["operation"] for entry in log] == ["kernel_sum", "cg"]
    assert log[0] == {
        "operation": "kernel_sum",
        "shapes": ((4, 2), (3, 2)),
        "engine": "dense",
        "device": "cpu",
        "reason": "small",
        "seconds": None,
        "bytes": None,
    }
    assert (log[1]["seconds"], log[1]["bytes"], log[1]["engine"]) == (0.25, 1024, None)


def test_nested_traces_both_record_and_an_error_closes_them():
    with sciml.trace() as outer:
        record("first")
        with pytest.raises(ZeroDivisionError), sciml.trace() as inner:
            _ = [tracing() or pytest.fail("closed"), record("second"), 1 / 0]
        record("third")
    assert [entry["operation"] for entry in outer] == ["first", "second", "third"]
    assert [entry["operation"] for entry in inner] == ["second"]
    assert not tracing()
    assert _open.get() is None


def test_an_isolated_trace_keeps_its_decisions_to_itself():
    with sciml.trace() as outer:
        with isolated_trace() as inner:
            record("inside")
        with isolated_trace(wanted=False) as none:
            record("unheard")
        record("outside")
    assert [[entry["operation"] for entry in log] for log in (outer, inner, none)] == [["outside"], ["inside"], []]


def test_a_thread_of_its_own_has_traces_of_its_own():
    logs = {}

    def work(name):
        with sciml.trace() as logs[name]:
            for _ in range(200):
                record(name)

    with sciml.trace() as outside:
        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert outside == []
    assert {name: {entry["operation"] for entry in log} for name, log in logs.items()} == {"a": {"a"}, "b": {"b"}}
    assert len(logs["a"]) == len(logs["b"]) == 200


def test_a_log_shows_itself_as_a_table():
    with sciml.trace() as log:
        assert repr(log) == "no dispatch recorded"
        some_decisions()
    assert repr(log).splitlines() == [
        "operation  | shapes   | engine | device | seconds | bytes | reason",
        "kernel_sum | 4x2, 3x2 | dense  | cpu    | -       | -     | small",
        "cg         | 4        | -      | -      | 0.25    | 1024  | -",
    ]


def test_a_log_becomes_a_dataset_that_netcdf_can_hold(tmp_path):
    with sciml.trace() as log:
        some_decisions()
    data = log.to_xarray()
    assert dict(data.sizes) == {"dispatch": 2}
    assert data["shapes"].values.tolist() == ["4x2, 3x2", "4"]
    assert np.isnan(data["seconds"].values[0])
    assert data["seconds"].values[1] == 0.25
    assert data["bytes"].attrs["units"] == "byte"
    data.to_netcdf(tmp_path / "log.nc", engine="h5netcdf")
    assert (tmp_path / "log.nc").stat().st_size > 0
    with sciml.trace() as empty:
        pass
    assert dict(empty.to_xarray().sizes) == {"dispatch": 0}


def test_no_open_trace_costs_next_to_nothing():
    # 0.2 microseconds on an idle core; a hundredfold is left for a busy machine.
    call = lambda: record("kernel_sum", shapes=((4, 2),), engine="dense", device="cpu", reason="small")  # noqa: E731
    assert min(timeit.repeat(call, number=1000, repeat=5)) / 1000 < 20e-6
