"""Needs are stated before allocation, and what an allocator raises becomes a named error."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

import sciml
from sciml.exceptions import MemoryBudgetError
from sciml.linalg import memory
from sciml.linalg.memory import budget, exhaustion, halving, require

WORDS = {"what": "a dense matrix of 20000 x 20000", "remedy": "pass engine='eager'"}


def test_a_request_that_fits_returns_the_budget_and_one_that_does_not_names_everything():
    assert require(2**20, memory="1MiB", **WORDS) == 2**20
    match = (
        "a dense matrix of 20000 x 20000 takes 2.98 GiB on cpu; memory allows 1.00 GiB. "
        "To go on, pass engine='eager', or raise memory"
    )
    with pytest.raises(MemoryBudgetError, match=match) as caught:
        require(3.2e9, memory="1GiB", **WORDS)
    assert (caught.value.needed, caught.value.allowed) == (3_200_000_000, 2**30)
    with pytest.raises(MemoryBudgetError, match="takes 1.00 KiB .* allows 1023 bytes"):
        require(1024, memory=1023, **WORDS)


def test_the_budget_is_the_configured_one():
    with sciml.config_context(memory="3KiB"):
        assert budget() == budget(device="cpu") == budget(device=torch.device("cpu")) == 3072
        assert budget("1KiB") == 1024


def test_on_cuda_a_fraction_is_one_of_what_is_free_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 600)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert budget(0.5, "cuda:0") == 700  # the 400 bytes that torch holds idle count as free
    assert budget("2KiB", "cuda") == 2048
    with pytest.raises(MemoryBudgetError, match="takes 701 bytes on cuda:0; memory allows 700 bytes") as caught:
        require(701, memory=0.5, device="cuda:0", **WORDS)
    assert caught.value.allowed == 700


@pytest.mark.parametrize(
    ("allocate", "needed"),
    [
        (lambda: torch.empty(2**58, dtype=torch.float64), 2**61),
        (lambda: np.empty(2**57), 2**60),
        (
            lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")),
            5 * 2**29,
        ),
        (lambda: _raise(RuntimeError("std::bad_alloc")), None),
        (lambda: _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")), None),
        (lambda: _raise(MemoryError()), None),
    ],
    ids=["torch", "numpy", "cuda", "c++", "cublas", "python"],
)
def test_exhaustion_becomes_a_named_error(allocate, needed):
    with (
        pytest.raises(MemoryBudgetError, match="a dense .* ran out of memory on cpu.* pass engine='eager'") as caught,
        exhaustion(**WORDS),
    ):
        allocate()
    assert caught.value.needed == needed
    assert caught.value.allowed > 0


def _raise(error):
    raise error


def test_other_errors_and_a_budget_error_pass_as_they_are():
    with pytest.raises(RuntimeError, match="must match") as caught, exhaustion(**WORDS):
        torch.ones(2) + torch.ones(3)
    assert not isinstance(caught.value, MemoryBudgetError)
    with pytest.raises(MemoryBudgetError, match="^the inner one takes"), exhaustion(**WORDS):
        require(2, what="the inner one", remedy="none", memory=1)


def test_a_real_limit_of_the_system_becomes_the_named_error():
    code = """if True:
        import resource, torch
        from sciml.exceptions import MemoryBudgetError
        from sciml.linalg.memory import exhaustion, require
        torch.ones(4) @ torch.ones(4)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        for attempt in (lambda: require(2**28, what="A", remedy="B"), lambda: torch.zeros(2**28)):
            try:
                with exhaustion(what="A", remedy="B"):
                    attempt()
            except MemoryBudgetError as error:
                print(error.needed, error.allowed < 2**29)  # some may have been freed since
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["268435456", "True", "1073741824", "True"], done.stderr


def test_tiles_are_halved_until_they_fit_and_four_times_at_most():
    seen = []

    def fits(limit):
        def work(tile):
            seen.append(tile)
            if tile > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return tile * 10

        return work

    assert halving(fits(250), 1000, **WORDS) == (2500, 250)
    assert seen == [1000, 500, 250]
    seen.clear()
    with pytest.raises(MemoryBudgetError, match="a dense matrix .* ran out of memory"):
        halving(fits(10), 1000, **WORDS)
    assert seen == [1000, 500, 250, 125, 62]
    seen.clear()
    with pytest.raises(MemoryBudgetError, match="ran out of memory"):
        halving(fits(0), 2, **WORDS)
    assert seen == [2, 1]
    with pytest.raises(ZeroDivisionError):
        halving(lambda tile: tile / 0, 2, **WORDS)


def test_a_failed_attempt_has_given_its_memory_back_before_the_next():
    alive = []

    def work(tile):
        gc.disable()
        assert not [1 for reference in alive if reference() is not None]
        tensor = torch.ones(tile)
        alive.append(weakref.ref(tensor))
        if tile > 300:
            raise MemoryError

    try:
        halving(work, 1000, **WORDS)
    finally:
        gc.enable()
    assert len(alive) == 3


@pytest.mark.parametrize(
    ("n", "text"), [(2**40, "1.00 TiB"), (2**30 - 1, "1024.00 MiB"), (1536, "1.50 KiB"), (1023, "1023 bytes")]
)
def test_sizes_read_well(n, text):
    assert memory._size(n) == text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_full_device_becomes_the_named_error_and_gives_its_memory_back():
    free = budget(1.0, "cuda")
    assert 0 < free <= torch.cuda.mem_get_info()[1]
    with pytest.raises(MemoryBudgetError, match="ran out of memory on cuda") as caught:
        halving(lambda tile: torch.empty(tile * free, dtype=torch.uint8, device="cuda"), 64, device="cuda", **WORDS)
    assert caught.value.needed > free
    # The fourth half fits.
    value, tile = halving(
        lambda t: torch.empty(t * (free // 12), dtype=torch.uint8, device="cuda"), 128, device="cuda", **WORDS
    )
    assert tile == 8
    assert value.shape == (8 * (free // 12),)


def test_what_was_freed_is_given_back():
    code = """
import numpy as np
from sciml.linalg.memory import trim

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

# Arrays below the size that the allocator maps by itself; the last one keeps the heap from shrinking.
arrays = [np.ones(8_000) for _ in range(2000)]
last = arrays[-1]
before = resident()
del arrays
# Another allocator than that of glibc gives back by its own rule.
assert not trim() or before - resident() > 100e6, (before, resident())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_without_such_an_allocator_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_allocator_trim", lambda: None)
    assert memory.trim() is False
