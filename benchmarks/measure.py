"""Time, memory and accuracy: warm-up, interleaved repeats, medians and quartiles, peaks in a process of their own."""

import contextlib
import importlib
import inspect
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read once, when NumPy or torch is imported


def interleaved(functions, repeats=5, synchronise=None, clock=time.perf_counter):
    """Time functions in turn, so that a busy moment of the machine meets all of them.

    Parameters
    ----------
    functions : dict of name to callable
        Each is called once to warm up.
    repeats : int
        Timed calls of each.
    synchronise : callable or None
        Called before a clock is read, such as ``torch.cuda.synchronize``.
    clock : callable
        Returns seconds; ``time.process_time`` where other processes compete for the cores.

    Returns
    -------
    dict of name to dict
        "seconds" (median), "seconds_low", "seconds_high" (quartiles) and "repeats".
    """
    wait = synchronise or (lambda: None)
    taken = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            wait()
            start = clock()
            function()
            wait()
            taken[name].append(clock() - start)
    return {name: quartiles(seconds) for name, seconds in taken.items()}


def quartiles(seconds):
    """Return median and quartiles of a list of times."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return {
        "seconds": float(middle),
        "seconds_low": float(low),
        "seconds_high": float(high),
        "repeats": len(seconds),
    }


def peak_memory_mb(target, *arguments):
    """Return the memory in MB that a call adds, at its peak, to a fresh process that has warmed up.

    Parameters
    ----------
    target : str
        ``"package.module:function"``; the module's ``warm``, if it has one, is called first, with the arguments if it
        takes any, so that imports, compilation and buffers of the first use do not count.
    *arguments
        Values that JSON can carry.
    """
    command = [sys.executable, "-m", "benchmarks.measure", target, json.dumps(arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target} failed in its own process:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _added_memory_mb(target, arguments):
    name, function = target.split(":")
    module = importlib.import_module(name)
    warm = getattr(module, "warm", lambda: None)
    warm(*(arguments if inspect.signature(warm).parameters else ()))
    before = _peak_mb(reset=True)
    getattr(module, function)(*arguments)
    return _peak_mb() - before


def _peak_mb(reset=False):
    """Return the highest resident memory so far; on Linux it can be reset to the present one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    # ru_maxrss would not do: a child inherits the peak of the process that started it.
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def surroundings():
    """Return versions, threads and processor, without names of hosts or folders."""
    import scipy
    import torch

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "threads_environment": {k: os.environ[k] for k in THREADS if k in os.environ},
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    print(_added_memory_mb(sys.argv[1], json.loads(sys.argv[2])))
