"""The choice of an engine: by device, dtype, size and memory; every choice comes with its reason.

Notation  P pairs that are expected, m n times the number of calls to come.
          CPU       dense below a few million pairs; else compiled if its tile is there, or if P pays for compiling it;
                    else eager.
          CUDA      dense where the matrix fits and is used again; else KeOps up to 64 coordinates and 16 right sides;
                    else compiled; else eager.
Pitfalls  the thresholds are those of one CPU until ``python -m sciml.linalg.calibrate`` has measured this machine;
          those for CUDA are published experience, not measured here.
"""

import json
import os
import platform
from functools import lru_cache
from pathlib import Path

import torch

from sciml._config import resolve
from sciml.exceptions import InvalidInputError
from sciml.linalg import memory as _memory
from sciml.linalg.engines import compiled, dense, eager, keops
from sciml.linalg.engines.availability import EngineUnavailable, reason_against, warn_once

MODULES = {"dense": dense, "eager": eager, "compiled": compiled, "keops": keops}

#: Pairs from which an engine pays on a CPU; a machine's own values come from ``python -m sciml.linalg.calibrate``.
DEFAULTS = {"dense_pairs": 4e6, "compiled_warm_pairs": 3e9, "compiled_cold_pairs": 1e10, "cuda_pairs": 1e9}


def thresholds_file():
    """Return the file in which a calibration of this user's machine is kept.

    Returns
    -------
    pathlib.Path
        ``sciml/engines.json`` in the configuration folder of the user (``XDG_CONFIG_HOME``, or ``~/.config``).

    Examples
    --------
    >>> thresholds_file().name
    'engines.json'
    """
    base = os.environ.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~")) / ".config"
    return Path(base) / "sciml" / "engines.json"


def device_name(device):
    """Return what a calibration is kept under: the name of the GPU, or of the processor and its threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


@lru_cache(maxsize=1)
def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


def thresholds(device):
    """Return the thresholds that hold for a device: those measured on it, or the defaults.

    Parameters
    ----------
    device : str or torch.device
        Where the work is done.

    Returns
    -------
    dict
        The keys of ``DEFAULTS``.

    Examples
    --------
    >>> thresholds("cpu")["dense_pairs"] > 0
    True
    """
    file = thresholds_file()
    try:
        stamp = file.stat().st_mtime_ns
    except OSError:
        return dict(DEFAULTS)
    return {**DEFAULTS, **_read(file, stamp).get(device_name(device), {})}


@lru_cache(maxsize=4)
def _read(file, stamp):
    """Return the table of a calibration; a damaged one counts as none."""
    try:
        table = json.loads(file.read_text())
        return {
            name: {key: float(row[key]) for key in DEFAULTS if key in row and float(row[key]) > 0}
            for name, row in table.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


# Compiling saves so many times more on a pair of a derivative than on one of a sum (benchmarks/bench_engines.py).
_DERIVATIVE = 8


class Choice:
    """The engines to try, in order, each with the reason.

    Parameters
    ----------
    engine : str
        A name, or "auto".
    attempts : list of (str, str)
        Engine and reason.
    budget : int
        Bytes that temporaries may take.
    """

    def __init__(self, engine, attempts, budget):
        self.engine, self.attempts, self.budget = engine, attempts, budget

    def run(self, tile, rows, cols, params, place):
        """Return the outputs, the engine that computed them, and the reason."""
        for number, (name, reason) in enumerate(self.attempts):
            try:
                return MODULES[name].run(tile, rows, cols, params, place), name, reason
            except EngineUnavailable:
                if self.engine != "auto" or number + 1 == len(self.attempts):
                    raise
                warn_once(name, self.attempts[number + 1][0])
        raise AssertionError("unreachable")


def choose(tile, rows, cols, params, *, engine, products, memory):
    """Return the engines to try for a reduction.

    Parameters
    ----------
    tile, rows, cols, params
        The reduction; see :func:`sciml.linalg.engines.eager.run`.
    engine : str or None
        What the caller asked for; None and "auto" ask the configuration.
    products : int
        Calls like this one that are expected.
    memory : int, float, str or None
        As for :func:`sciml.linalg.memory.budget`.

    Returns
    -------
    Choice
        At least one engine.

    Raises
    ------
    MemoryBudgetError
        If the engine asked for, or every engine, needs more than the budget.
    """
    engine = resolve("engine", None if engine == "auto" else engine)
    m, n, dtype, device = rows[0].shape[0], cols[0].shape[0], rows[0].dtype, rows[0].device
    width = rows[0].shape[1] + cols[-1].shape[1]
    allowed = _memory.budget(memory, device)
    needs = {name: module.peak(tile, m, n, width, dtype) for name, module in MODULES.items()}
    if device.type == "mps" and dtype == torch.float64:
        raise InvalidInputError("dtype must be float32 on mps; got float64. Pass dtype='float32'.")
    if engine != "auto":
        remedy = "pass engine='eager'" if engine != "eager" else "take fewer points"
        what = f"the engine {engine!r} for {m} x {n} pairs"
        _memory.require(needs[engine], what=what, remedy=remedy, memory=allowed, device=device)
        return Choice(engine, [(engine, "asked for by name")], allowed)
    find = _for_cuda if device.type == "cuda" else _for_cpu
    attempts = find(tile, rows, cols, params, m * n * max(1, products), products, allowed, needs)
    attempts = [(name, reason) for name, reason in attempts if not reason_against(name)]
    fitting = [(name, reason) for name, reason in attempts if needs[name] <= allowed]
    if not fitting:
        least = min(needs[name] for name, _ in attempts)
        what = f"a kernel reduction of {m} x {n} pairs"
        _memory.require(least, what=what, remedy="take fewer points at once", memory=allowed, device=device)
    return Choice("auto", fitting, allowed)


def _for_cpu(tile, rows, cols, params, pairs, products, allowed, needs):
    limits, found = thresholds(rows[0].device), []
    once = rows[0].shape[0] * cols[0].shape[0]
    pairs *= _DERIVATIVE if tile.order else 1
    if tile.order == 0 and once <= limits["dense_pairs"] and needs["dense"] <= min(allowed / 4, 2**30):
        found.append(("dense", f"{once:.1e} pairs are few, and the matrix fits"))
    elif rows[0].device.type == "cpu":
        if compiled.is_ready(tile, rows, cols, params):
            found.append(("compiled", "the tile is compiled already"))
        elif pairs >= limits["compiled_cold_pairs"]:
            found.append(("compiled", f"{pairs:.1e} pairs pay for compiling the tile"))
        elif pairs >= limits["compiled_warm_pairs"] and compiled.is_cached(tile, rows, cols, params):
            found.append(("compiled", f"{pairs:.1e} pairs pay for loading the tile that is compiled on disk"))
    return [*found, ("eager", f"{pairs:.1e} pairs would not pay for compiling" if not found else "always there")]


def _for_cuda(tile, rows, cols, params, pairs, products, allowed, needs):
    found = []
    if needs["dense"] <= allowed / 2 and products >= 3:
        found.append(("dense", f"the matrix fits and serves {products} products"))
    d, r = rows[0].shape[1], cols[-1].shape[1]
    if d <= 64 and r <= 16 and tile.pair.lazy:
        found.append(("keops", f"{d} coordinates and {r} right sides suit it"))
    return [*found, ("compiled", "KeOps does not suit or is not there"), ("eager", "always there")]
