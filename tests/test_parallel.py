"""The same answer from every kind of worker, after deaths and restarts, and nothing computed twice."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import namedtuple
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import sciml
from sciml._checkpoint import _digest
from sciml._trace import record
from sciml.exceptions import FallbackWarning, InvalidInputError, WorkerLostError
from sciml.results import Result

# Functions that travel are defined inside tests: those go to the workers by value, whatever they can import.


@contextlib.contextmanager
def workers(kind, n_jobs=2):
    """No workers, threads, processes of loky or, for `n_jobs` threads in this process, dask."""
    if kind == "serial":
        yield
    elif kind != "dask":
        with joblib.parallel_config(backend=kind, n_jobs=n_jobs):
            yield
    else:
        distributed = pytest.importorskip("distributed")
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=n_jobs, processes=False, dashboard_address=":0", protocol="inproc://"
        )
        with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
            yield


everywhere = pytest.mark.parametrize("kind", ["serial", "threading", "loky", "dask"])
in_process = pytest.mark.parametrize("kind", ["serial", "threading"])


def runs(path):
    return sorted(int(word) for word in path.read_text().split()) if path.exists() else []


# ---------------------------------------------------------------- the same answer from every kind of worker


@everywhere
def test_values_come_in_the_order_of_the_items(kind):
    import time

    def late_first(i):
        time.sleep(0.02 * (5 - i))
        return {"i": i, "array": np.full(2, i)}

    with workers(kind):
        values = sciml.parallel.map(late_first, (i for i in range(5)))
        assert sciml.parallel.map(late_first, []) == []
    assert [value["i"] for value in values] == [0, 1, 2, 3, 4]
    assert all(np.array_equal(value["array"], [i, i]) for i, value in enumerate(values))


@everywhere
def test_random_streams_depend_on_the_place_alone(kind):
    def draw(item, random_state):
        return item, random_state.random(3).tolist()

    expected = [
        (item, child.random(3).tolist())
        for item, child in zip("abcd", sciml.random.spawn(sciml.random.generator(7), 4), strict=True)
    ]
    with workers(kind):
        assert sciml.parallel.map(draw, "abcd", random_state=7) == expected
        # The first two do not depend on how many follow.
        assert sciml.parallel.map(draw, "ab", random_state=7) == expected[:2]
        rng = np.random.default_rng(7)
        assert sciml.parallel.map(draw, "abcd", random_state=rng) == expected
        assert sciml.parallel.map(draw, "abcd", random_state=rng) != expected


@everywhere
def test_a_worker_has_the_settings_of_the_caller_and_its_share_of_memory(kind):
    def settings(_):
        import sciml

        return sciml.get_config()

    with sciml.config_context(dtype="float32", engine="eager", memory=4000, progress=False), workers(kind):
        seen = sciml.parallel.map(settings, range(2))
        expected = {**sciml.get_config(), "memory": 4000 if kind == "serial" else 2000}
    assert seen == [expected, expected]
    if kind != "serial":
        with sciml.config_context(memory=0.5), workers(kind):
            assert sciml.parallel.map(settings, [0])[0]["memory"] == 0.25


@everywhere
def test_dispatch_decisions_come_home(kind):
    def decide(i):
        from sciml._trace import record

        record("toy", engine=f"engine {i}", seconds=0.5)

    with sciml.trace() as log, workers(kind):
        sciml.parallel.map(decide, range(3))
    assert sorted(entry["engine"] for entry in log) == ["engine 0", "engine 1", "engine 2"]
    assert {entry["seconds"] for entry in log} == {0.5}


@everywhere
def test_an_error_names_its_item_and_can_take_the_place_of_a_value(kind):
    def root(i):
        if i == 2:
            raise ValueError("no root of 2 here")
        return i

    with workers(kind):
        with pytest.raises(ValueError, match="no root of 2 here") as caught:
            sciml.parallel.map(root, range(4))
        assert "Raised by item 2 of sciml.parallel." in caught.value.__notes__
        values = sciml.parallel.map(root, range(4), return_exceptions=True)
    assert [values[i] for i in (0, 1, 3)] == [0, 1, 3]
    assert isinstance(values[2], ValueError)


def test_an_error_that_cannot_travel_arrives_as_text():
    class Picky(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    def fail(i):
        raise Picky("this", "that")

    with workers("loky"), pytest.raises(RuntimeError, match="Picky: this and that") as caught:
        sciml.parallel.map(fail, range(2))
    assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(Picky):
        sciml.parallel.map(fail, range(2))


def test_a_warning_of_a_worker_process_reaches_the_filters_of_its_caller():
    from sciml.exceptions import ConvergenceWarning

    def doubtful(i):
        import warnings

        if i == 1:
            warnings.warn("stopped early", ConvergenceWarning, stacklevel=1)
        return i

    with workers("loky"):
        with pytest.warns(ConvergenceWarning, match=r"stopped early \[item 1 of sciml.parallel\]") as caught:
            assert sciml.parallel.map(doubtful, range(3)) == [0, 1, 2]
        assert len(caught) == 1
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert sciml.parallel.map(doubtful, range(3)) == [0, 1, 2]
    with workers("threading"), pytest.warns(ConvergenceWarning, match="^stopped early$"):
        sciml.parallel.map(doubtful, range(3))


@pytest.mark.parametrize("kind", ["serial", "threading", "loky"])
def test_tensors_come_back_detached_on_the_cpu(kind):
    Pair = namedtuple("Pair", "x y")
    sys.modules[__name__].Pair = Pair

    def leaf(i):
        import torch

        x = torch.full((2,), float(i), requires_grad=True)
        return {"plain": x, "deep": [2 * x, (3 * x, i)], "array": np.ones(1)}

    with workers(kind):
        value = sciml.parallel.map(leaf, [1, 2])[1]
    assert torch.equal(value["plain"], torch.tensor([2.0, 2.0]))
    assert not any(t.requires_grad for t in (value["plain"], value["deep"][0], value["deep"][1][0]))
    assert type(value["deep"][1]) is tuple
    assert isinstance(value["array"], np.ndarray)
    assert sciml.parallel._to_cpu(Pair(torch.ones(1, requires_grad=True), 2)) == Pair(torch.ones(1), 2)


@pytest.mark.parametrize("kind", ["threading", "loky"])
def test_the_threads_are_shared_among_the_workers(kind, monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    before = torch.get_num_threads()

    def threads(_):
        return torch.get_num_threads()

    with workers(kind):
        assert set(sciml.parallel.map(threads, range(4))) == {3}
        assert set(sciml.parallel.map(threads, range(4), threads=5)) == {5}
    assert torch.get_num_threads() == before
    assert sciml.parallel.map(threads, [0]) == [before]
    assert sciml.parallel.map(threads, [0], threads=3) == [3]
    assert torch.get_num_threads() == before


def test_large_arrays_travel_and_changes_in_place_stay_with_the_worker():
    arrays = [np.full(300_000, float(i)) for i in range(3)]  # above the size from which joblib maps memory

    def double(x):
        x *= 2
        return x

    with workers("loky"):
        values = sciml.parallel.map(double, arrays)
    assert [type(value) for value in values] == [np.ndarray] * 3
    assert all(np.array_equal(value, np.full(300_000, 2.0 * i)) for i, value in enumerate(values))
    assert arrays[2][0] == 2


@everywhere
def test_a_sum_is_the_same_bit_for_bit(kind):
    def terms(i):
        import time

        time.sleep(0.002 * (i % 5))
        return {"array": np.random.default_rng(i).standard_normal(4) * 10.0 ** (i % 30), "count": (1, [i])}

    total = np.zeros(4)
    for i in range(40):
        total = total + terms(i)["array"]
    with workers(kind):
        found = sciml.parallel.map_reduce(terms, range(40))
        texts = sciml.parallel.map_reduce(str, range(5), combine=lambda a, b: f"({a}{b})")
        assert sciml.parallel.map_reduce(str, [3]) == "3"
    assert np.array_equal(found["array"], total)
    assert found["count"] == (40, [780])
    assert texts == "((((01)2)3)4)"


def test_a_sum_needs_items_of_one_shape():
    with pytest.raises(InvalidInputError, match="items must not be empty"):
        sciml.parallel.map_reduce(abs, [])
    with pytest.raises(InvalidInputError, match="dicts of equal keys; got \\['a'\\] and \\['b'\\]"):
        sciml.parallel.map_reduce(lambda key: {key: 1}, "ab")
    with pytest.raises(InvalidInputError, match="lists of equal length; got 1 and 2"):
        sciml.parallel.map_reduce(lambda n: [0] * n, [1, 2])
    for first, second, match in [({}, 1, "got dict and int"), ([1], np.ones(1), "got list and ndarray")]:
        with pytest.raises(InvalidInputError, match=match):
            sciml.parallel.map_reduce([first, second].__getitem__, [0, 1])


def test_truth_values_are_counted():
    assert sciml.parallel.map_reduce(lambda x: x > 0, np.array([1.0, 2.0, -1.0])) == 2
    total = sciml.parallel.map_reduce(lambda x: {"numpy": np.array([x, 0]) > 0, "torch": torch.tensor([x]) > 0}, [1, 2])
    assert total["numpy"].tolist() == [2, 0]
    assert total["torch"].tolist() == [2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_jobs": 0}, "n_jobs must be a number of workers.*got 0"),
        ({"n_jobs": 1.5}, "n_jobs must be an integer; got 1.5"),
        ({"retries": -1}, "retries must be an integer at least 0; got -1"),
        ({"threads": 0}, "threads must be an integer at least 1; got 0"),
        ({"random_state": "seed"}, "random_state must be None, an int"),
        ({"items": 3}, "items must be iterable; got int"),
        ({"fn": 3}, "fn must be callable; got int"),
        ({"checkpoint": 3}, "checkpoint must be the path of a folder or None; got 3 of type int"),
    ],
)
def test_wrong_arguments_are_named(options, match):
    arguments = {"fn": abs, "items": [1], **options}
    with pytest.raises(InvalidInputError, match=match):
        sciml.parallel.map(arguments.pop("fn"), arguments.pop("items"), **arguments)


def test_the_number_of_workers_is_that_of_the_call_before_that_of_the_configuration():
    def thread(_):
        time.sleep(0.05)
        return threading.get_ident()

    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert len(set(sciml.parallel.map(thread, range(4)))) == 2
        assert len(set(sciml.parallel.map(thread, range(2), n_jobs=1))) == 1
    assert set(sciml.parallel.map(thread, range(2))) == {threading.get_ident()}


def test_a_bar_counts_the_items(capfd, tmp_path):
    sciml.parallel.map(abs, range(3), progress=True, checkpoint=tmp_path)
    sciml.parallel.map(abs, range(4), progress=True, checkpoint=tmp_path)
    err = capfd.readouterr().err
    assert "abs: 100%" in err
    assert "4/4" in err
    with sciml.config_context(progress=True):
        assert sciml.parallel.map(lambda _: sciml.get_config()["progress"], [0]) == [False]


# ---------------------------------------------------------------- killed workers


def killer(folder, item, always):
    """Return a function that logs its items and whose worker dies over one of them, the first time or every time."""
    home = os.getpid()

    def fn(i, random_state):
        import os
        import signal
        import time

        time.sleep(0.25)
        flag = os.path.join(folder, "killed")
        if i == item and (always or not os.path.exists(flag)):
            open(flag, "w").close()
            assert os.getpid() != home, "an item that kills its worker must not be computed here"
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.path.join(folder, "log"), "a") as log:
            log.write(f"{i} ")
        return i, random_state.random()

    return fn


def draws(n):
    return [(i, child.random()) for i, child in enumerate(sciml.random.spawn(sciml.random.generator(3), n))]


def test_a_killed_worker_loses_nothing_under_loky(tmp_path):
    with workers("loky"):
        assert sciml.parallel.map(killer(str(tmp_path), 4, False), range(7), random_state=3) == draws(7)
    seen = runs(tmp_path / "log")
    assert set(seen) == set(range(7))
    # What had come home before the death is not computed again; neighbours that were under way are.
    assert [seen.count(i) for i in (0, 1)] == [1, 1]
    assert len(seen) <= 9


def test_an_item_that_always_kills_is_told_from_its_neighbours(tmp_path):
    fn = killer(str(tmp_path), 1, True)
    with workers("loky"):
        with pytest.raises(
            WorkerLostError, match=r"fn: no value for 1 of 5 items \(1\), since .* died 3 times \(Term"
        ) as caught:
            sciml.parallel.map(fn, range(5), random_state=3, checkpoint=tmp_path / "done")
        assert caught.value.items == (1,)
        assert len(list((tmp_path / "done").glob("*.npz"))) == 4
        values = sciml.parallel.map(
            fn, range(5), random_state=3, checkpoint=tmp_path / "done", return_exceptions=True, retries=0
        )
    assert [values[i] for i in (0, 2, 3, 4)] == [draws(5)[i] for i in (0, 2, 3, 4)]
    assert isinstance(values[1], WorkerLostError)
    assert len(runs(tmp_path / "log")) <= 8


def test_workers_that_die_of_themselves_end_the_run():
    home = os.getpid()

    def die(_):
        import os

        assert os.getpid() != home
        os._exit(1)

    start = time.monotonic()
    with workers("loky"):
        with pytest.raises(WorkerLostError, match="no value for 50 of 50 items .* died 2 times"):
            sciml.parallel.map(die, range(50), retries=1)
        values = sciml.parallel.map(die, range(50), retries=0, return_exceptions=True)
    assert all(isinstance(value, WorkerLostError) for value in values)
    assert [value.items for value in values] == [(i,) for i in range(50)]
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_cluster_of_processes_gives_the_same_and_survives_a_killed_worker(tmp_path):
    pytest.importorskip("distributed")
    import logging

    import dask
    from distributed import Client, LocalCluster

    def pid_and_settings(i):
        import os

        import sciml

        return os.getpid(), sciml.get_config()["dtype"], i

    # The first death is reported: the tries are those of sciml.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
        )
        with cluster, Client(cluster), joblib.parallel_config(backend="dask"), sciml.config_context(dtype="float32"):
            seen = sciml.parallel.map(pid_and_settings, range(20))
            assert [i for _, _, i in seen] == list(range(20))
            assert {dtype for _, dtype, _ in seen} == {"float32"}
            assert os.getpid() not in {pid for pid, _, _ in seen}
            fn = killer(str(tmp_path), 2, False)
            assert sciml.parallel.map(fn, range(6), random_state=3, checkpoint=tmp_path / "done") == draws(6)
            assert (tmp_path / "killed").exists()
            assert set(runs(tmp_path / "log")) == set(range(6))
            assert sciml.parallel.map(fn, range(6), random_state=3, checkpoint=tmp_path / "done") == draws(6)
            lost = sciml.parallel.map(
                killer(str(tmp_path), 1, True), range(3), random_state=3, return_exceptions=True, retries=1
            )
            assert [lost[0], lost[2]] == [draws(3)[0], draws(3)[2]]
            assert isinstance(lost[1], WorkerLostError)


# ---------------------------------------------------------------- checkpoints


VALUES = {
    "numbers": [1, -2.5, 1 + 2j, True, None, "text", float("inf"), 2**80],
    "arrays": (np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.float32(1.5), np.array([], dtype=complex)),
    3: {"tensor": torch.tensor([1.5, 2.5], dtype=torch.bfloat16), "empty": {}, (1, "a"): ()},
}


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@in_process
def test_a_finished_item_is_not_computed_again_and_comes_back_as_it_was(kind, tmp_path):
    calls_of = CallLog()

    def logged(i):
        calls_of(i)
        return VALUES

    with workers(kind):
        first = sciml.parallel.map(logged, range(3), checkpoint=tmp_path)
        assert sorted(calls_of.seen) == [0, 1, 2]
        again = sciml.parallel.map(logged, [2, 5, 0], checkpoint=tmp_path)
    assert sorted(calls_of.seen) == [0, 1, 2, 5]
    assert all(same(value, VALUES) for value in [*first, *again])
    assert not list(tmp_path.glob(".*"))
    assert not any("pickle" in Path(path).read_bytes().decode("latin1") for path in tmp_path.glob("*.npz"))


class CallLog:
    """Count calls; its content, as a checkpoint sees it, is empty."""

    seen: list

    def __init__(self):
        self.seen = []

    def __reduce__(self):
        return CallLog, ()

    def __call__(self, item):
        self.seen.append(item)


def computed(fn, items, folder, **options):
    """Return which items are computed by a call of map."""
    log = CallLog()

    def task(item, **random):
        log(item)
        return fn(item, **random)

    # The function under test is part of what the closure holds.
    sciml.parallel.map(task, items, checkpoint=folder, **options)
    return log.seen


def test_a_change_of_the_function_its_defaults_or_its_closure_computes_anew(tmp_path):
    def power(p):
        return lambda x: x**p

    assert computed(power(2), [1, 2], tmp_path) == [1, 2]
    assert computed(power(2), [1, 2], tmp_path) == []
    assert computed(power(3), [1, 2], tmp_path) == [1, 2]
    assert computed(lambda x: x + 2, [1, 2], tmp_path) == [1, 2]
    assert computed(lambda x: x + 3, [1, 2], tmp_path) == [1, 2]
    assert computed(lambda x: x - 3, [1, 2], tmp_path) == [1, 2]
    assert computed(lambda x, y=1: x, [1, 2], tmp_path) == [1, 2]
    assert computed(lambda x, y=2: x, [1, 2], tmp_path) == [1, 2]
    assert computed(abs, [1, 2], tmp_path) == [1, 2]
    assert computed(abs, [1, 2], tmp_path, version=2) == [1, 2]
    with sciml.config_context(dtype="float32"):
        assert computed(abs, [1, 2], tmp_path) == [1, 2]
    with sciml.config_context(engine="eager"):
        assert computed(abs, [1, 2], tmp_path) == [1, 2]
    with sciml.config_context(memory=123):
        assert computed(abs, [1, 2], tmp_path) == []


def test_the_object_of_a_method_in_c_and_the_class_of_a_called_object_are_part_of_the_function(tmp_path):
    def values(fn, item):
        return sciml.parallel.map(fn, [item], checkpoint=tmp_path)[0]

    def shifted(shift):
        class Shift:
            def __call__(self, x):
                return x + shift

        return Shift()

    assert values(np.eye(2).dot, np.ones(2)).tolist() == [1, 1]
    assert values((2 * np.eye(2)).dot, np.ones(2)).tolist() == [2, 2]
    assert [values({"a": 1}.get, "a"), values({"a": 2}.get, "a")] == [1, 2]
    assert [values(shifted(1), 1), values(shifted(2), 1)] == [2, 3]


def test_a_function_of_one_argument_is_told_from_one_of_any_number():
    def returning(starred):
        fn = (lambda *a: a) if starred else (lambda a: a)
        fn.__qualname__ = "fn"
        return fn

    assert returning(True).__code__.co_code == returning(False).__code__.co_code
    assert _digest(returning(True)) != _digest(returning(False))


def test_a_change_of_an_item_or_its_random_stream_computes_anew(tmp_path):
    x = np.arange(3.0)
    items = [
        x,
        x[::-1],
        x.astype("f4"),
        x.reshape(3, 1),
        torch.arange(3.0),
        {"a": x},
        [x],
        (x,),
        Path("x"),
        "x",
        1,
        1.0,
    ]

    def size(item, random_state=None):
        return 0

    assert len(computed(size, items, tmp_path)) == len(items)
    assert computed(size, items, tmp_path) == []
    assert computed(size, [np.asfortranarray(x), {"a": x.copy()}], tmp_path) == []
    assert computed(size, [1, 2], tmp_path, random_state=0) == [1, 2]
    assert computed(size, [1, 2, 3], tmp_path, random_state=0) == [3]
    assert computed(size, [1, 2], tmp_path, random_state=1) == [1, 2]
    assert computed(size, [2, 1], tmp_path, random_state=0) == [2, 1]


def test_content_is_told_apart_and_equal_content_is_not():
    class Box:
        def __init__(self, x):
            self.x = x

    cycle = []
    cycle.append(cycle)
    different = [
        ["ab", "c"], ["a", "bc"], ("ab", "c"), [["ab"], "c"], {"ab": "c"}, {"ab"}, frozenset({"ab"}), b"ab", "ab", 1,
        True, 1.0, 1 + 0j, None, ..., np.int64(1), np.array(1), np.array([1]), np.array([1, None], dtype=object),
        np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0]), torch.ones(1), torch.ones(1).double(),
        Box(1), Box(2), Box, np.sin, np.cos, abs, len, os, sys, Path("a"), cycle, [cycle], range(2), range(3), np.nan,
        Result.of(None, {"seed": 1}), Result.of(None, {"seed": 2}), np.dtype("f4"), torch.float32, torch.float64,
        np.random.default_rng(0), np.random.default_rng(1), {1: "a", 2: "b"}, {1: "b", 2: "a"}, "x".join, abs(-2.5),
        np.zeros(2), np.zeros(2, int), [b"a", b"bbuiltins.bytes"], [b"abuiltins.bytesb", b""],
        CallLog().__call__, torch.nn.Linear(1, 1, bias=False), 0.0, -0.0,
    ]  # fmt: skip
    hashes = [_digest(value) for value in different]
    assert len(set(hashes)) == len(hashes)
    assert _digest(partial(int, base=2)) != _digest(partial(int, base=3))
    assert _digest(Box(1).__init__) != _digest(Box(2).__init__)  # a bound method has its object's content
    assert _digest({1: "a", 2: "b"}) == _digest({2: "b", 1: "a"})
    assert _digest({"a", "b", "c"}) == _digest({"c", "a", "b"})
    assert _digest(Box([1, 2])) == _digest(Box([1, 2]))
    assert _digest(np.arange(6).reshape(2, 3)) == _digest(np.asfortranarray(np.arange(6).reshape(2, 3)))
    spawned = np.random.default_rng(0)
    spawned.spawn(1)  # the state is the same, its next children are not
    assert _digest(spawned) != _digest(np.random.default_rng(0))
    with pytest.raises(InvalidInputError, match="must have a content that can be hashed; got generator"):
        _digest(i for i in range(3))


def test_a_result_of_sciml_is_stored(tmp_path):
    answers = [sciml.parallel.map(solve, [3], checkpoint=tmp_path)[0] for _ in range(2)]
    assert answers[0][0].settings == answers[1][0].settings == {"seed": 3}
    assert type(answers[1][0]) is Result


def solve(seed):
    return [Result.of(None, {"seed": seed}, n_iter=2)]


def test_a_value_that_cannot_be_stored_is_refused_at_the_first_item(tmp_path):
    log = CallLog()

    def fn(i):
        log(i)
        return {"ok": 1, "bad": [object()]}

    with pytest.raises(InvalidInputError, match=r"the value of item 0\['bad'\]\[0\] is of type object"):
        sciml.parallel.map(fn, range(5), checkpoint=tmp_path)
    assert log.seen == [0]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", "half", "flip", "other"])
def test_a_damaged_file_is_computed_again_with_a_warning(damage, tmp_path):
    sciml.parallel.map(abs, [-1, -2], checkpoint=tmp_path)
    first, second = sorted(tmp_path.glob("*.npz"))
    data = bytearray(first.read_bytes())
    if damage == "flip":
        data[data.index(b'"value"') + 9] ^= 1
    elif damage == "other":
        data = second.read_bytes()
    first.write_bytes(data[: len(data) // 2] if damage == "half" else damage if isinstance(damage, bytes) else data)
    with pytest.warns(FallbackWarning, match="is damaged and its item is computed again") as caught:
        assert sciml.parallel.map(abs, [-1, -2], checkpoint=tmp_path) == [1, 2]
    assert len(caught) == 1
    assert sciml.parallel.map(abs, [-1, -2], checkpoint=tmp_path) == [1, 2]


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    log = CallLog()
    with pytest.raises(InvalidInputError, match="checkpoint must be a folder that can be written; got .*file/inside"):
        sciml.parallel.map(log, range(2), checkpoint=tmp_path / "file" / "inside")
    assert log.seen == []


def test_a_full_disk_costs_the_checkpoint_and_not_the_values(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.warns(FallbackWarning, match="item 0 could not be stored .*No space left") as caught:
        assert sciml.parallel.map(abs, [-1, -2], checkpoint=tmp_path) == [1, 2]
    assert len(caught) == 1
    assert list(tmp_path.iterdir()) == []


def test_errors_are_not_stored_and_what_was_finished_is(tmp_path):
    def fragile(i):
        if i == 2:
            raise ValueError("no")
        return i

    with pytest.raises(ValueError, match="no"):
        sciml.parallel.map(fragile, range(4), checkpoint=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    sciml.parallel.map(fragile, range(4), checkpoint=tmp_path, return_exceptions=True)
    assert len(list(tmp_path.glob("*.npz"))) == 3


SCRIPT = """
import os, signal, sys, time
import joblib
import sciml

# A shell that started the tests in the background has told them to ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(i):
    time.sleep(0.3)
    with open(sys.argv[2], "a") as log:
        log.write(f"{i} ")
    return i * i

if __name__ == "__main__":
    print("ready", flush=True)
    with joblib.parallel_config(backend=sys.argv[3], n_jobs=2 if sys.argv[3] == "loky" else 1):
        print(sciml.parallel.map(slow, range(8), checkpoint=sys.argv[1]), flush=True)
"""


@contextlib.contextmanager
def started(folder, log, backend):
    """Run the program; at the end nothing of it is left, its orphaned workers included."""
    (folder / "program.py").write_text(SCRIPT)
    command = [sys.executable, "program.py", "done", log, backend]
    with open(folder / f"{log}.out", "w") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
        process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def wait_for(folder, n):
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.npz"))) < n:
        assert time.monotonic() < deadline, "nothing was stored"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("end", "backend"), [(signal.SIGKILL, "loky"), (signal.SIGINT, "loky"), (signal.SIGINT, "threading")]
)
def test_a_parent_that_was_killed_or_interrupted_goes_on_where_it_was(end, backend, tmp_path):
    with started(tmp_path, "first", backend) as process:
        wait_for(tmp_path / "done", 3)
        process.send_signal(end)
    said = (tmp_path / "first.out").read_text()
    assert process.returncode != 0
    assert "[0, " not in said
    assert ("KeyboardInterrupt" in said) == (end == signal.SIGINT)
    stored = len(list((tmp_path / "done").glob("*.npz")))
    assert 3 <= stored < 8
    with started(tmp_path, "second", backend):
        pass
    assert (tmp_path / "second.out").read_text().splitlines() == ["ready", "[0, 1, 4, 9, 16, 25, 36, 49]"]
    assert len(runs(tmp_path / "second")) == 8 - stored


def test_parents_side_by_side_share_a_folder(tmp_path):
    with started(tmp_path, "a", "threading"), started(tmp_path, "b", "threading"):
        pass
    for name in ("a", "b"):
        assert (tmp_path / f"{name}.out").read_text().splitlines() == ["ready", "[0, 1, 4, 9, 16, 25, 36, 49]"]
    assert len(list((tmp_path / "done").iterdir())) == 8


# ---------------------------------------------------------------- what is stopped is stored


def test_ctrl_c_passes_and_leaves_no_warning(tmp_path):
    def interrupted(i):
        if i == 3:
            raise KeyboardInterrupt
        return i

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("serial", "threading"):
            with workers(kind), pytest.raises(KeyboardInterrupt):
                sciml.parallel.map(interrupted, range(6), checkpoint=tmp_path / kind)
    assert len(list((tmp_path / "serial").glob("*.npz"))) == 3


@pytest.mark.parametrize("kind", ["threading", "loky"])
def test_what_came_in_while_the_caller_was_busy_is_stored_when_it_stops(kind, tmp_path):
    def busy(total, value):
        # By now the other items that were sent out have come in; nobody has looked at them.
        time.sleep(1.5)
        raise KeyboardInterrupt

    def first_four_at_once(i):
        import time

        time.sleep(60 if i == 4 else 0)  # still under way when the rest is stopped
        return i

    for n in (4,) if kind == "threading" else (4, 5):
        with workers(kind), pytest.raises(KeyboardInterrupt):
            sciml.parallel.map_reduce(first_four_at_once, range(n), combine=busy, checkpoint=tmp_path / str(n))
        assert len(list((tmp_path / str(n)).glob("*.npz"))) == 4


def test_a_map_inside_a_map_gives_the_same():
    def outer(n):
        import sciml

        return sciml.parallel.map(lambda i: i * n, range(3))

    with workers("loky"):
        assert sciml.parallel.map(outer, [1, 2]) == [[0, 1, 2], [0, 2, 4]]


def test_record_of_a_hidden_trace_is_not_lost_by_the_outer_one():
    with sciml.trace() as log:
        sciml.parallel.map(lambda i: record("inside"), [0])
        record("outside")
    assert [entry["operation"] for entry in log] == ["inside", "outside"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@in_process
def test_tensors_come_back_from_a_gpu(kind):
    with workers(kind):
        values = sciml.parallel.map(lambda i: torch.full((2,), i, device="cuda"), range(3))
    assert [value.device.type for value in values] == ["cpu"] * 3


def test_short_integers_do_not_wrap():
    total = sciml.parallel.map_reduce(lambda i: np.full(2, 200, np.uint8), range(3))
    assert total.tolist() == [600, 600]
    assert total.dtype == np.int64
