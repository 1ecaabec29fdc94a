"""Measure the engines on this machine, by ``python -m sciml.linalg.calibrate``, and keep what "auto" needs to choose.

The table shows nanoseconds a pair of points in three dimensions, for the Gaussian kernel; a few minutes in all, most of
them compilation. The thresholds go to :func:`sciml.linalg.engines.thresholds_file`, under the name of the device.

Notation  pairs from which compiling pays: seconds of compilation / (seconds a pair of eager - of compiled).
Pitfalls  a machine that is busy with other work measures that work, too: run it when nothing else runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sciml.exceptions import SciMLError
from sciml.kernels import Gaussian
from sciml.linalg.engines import kernel_logsumexp, kernel_sum, thresholds_file
from sciml.linalg.engines.availability import availability
from sciml.linalg.engines.choose import device_name

# One call in a process of its own: what a first call costs, imports of the compiler included.
_FIRST_CALL = """
import time, torch
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum
torch.set_num_threads({threads})
y = torch.rand(100, 3, dtype=torch.float64)
start = time.perf_counter()
kernel_sum(y, y, y, kernel=Gaussian(0.3), engine="compiled")
print(time.perf_counter() - start)
"""


def measure(engine, reduction, dtype, n, device):
    """Return the seconds a pair that an engine takes, the best of three calls after a first one.

    Parameters
    ----------
    engine : str
        Its name.
    reduction : {"sum", "logsumexp", "gradient"}
        What is computed; "gradient" is that of a sum with respect to the row points, without the sum.
    dtype : torch.dtype
        Working dtype.
    n : int
        Number of points.
    device : str
        Where.

    Returns
    -------
    float
        Seconds a pair.

    Examples
    --------
    >>> 0 < measure("eager", "sum", torch.float64, 100, "cpu") < 1
    True
    """
    generator = torch.Generator().manual_seed(0)
    y, x, b = (torch.rand(n, w, generator=generator, dtype=dtype).to(device) for w in (3, 3, 1))
    y.requires_grad_(reduction == "gradient")
    kernel, seconds = Gaussian(0.3), []
    for _ in range(4):
        start = _now(device)
        if reduction == "logsumexp":
            kernel_logsumexp(y, x, kernel_log=kernel, engine=engine)
        else:
            value = kernel_sum(y, x, b, kernel=kernel, engine=engine).sum()
            if reduction == "gradient":
                start = _now(device)
                torch.autograd.grad(value, y)
        seconds.append(_now(device) - start)
    return min(seconds[1:]) / n**2


def table(device, n):
    """Return the seconds a pair of every engine that runs here.

    Parameters
    ----------
    device : str
        Where.
    n : int
        Number of points.

    Returns
    -------
    dict
        ``{engine: {"sum float32": seconds a pair, ...}}``; an engine that cannot run has an empty row.

    Examples
    --------
    >>> "sum float64" in table("cpu", 50)["eager"]  # doctest: +SKIP
    True
    """
    rows = {}
    for engine in availability():
        rows[engine] = {}
        for reduction in ("sum", "logsumexp", "gradient"):
            for dtype in (torch.float32, torch.float64):
                name = f"{reduction} {str(dtype).removeprefix('torch.')}"
                try:
                    rows[engine][name] = measure(engine, reduction, dtype, n, device)
                except SciMLError:
                    continue
    return rows


def first_calls(threads):
    """Return the seconds of the first compiled call of a process, with an empty cache on disk and with a warm one.

    Parameters
    ----------
    threads : int
        Threads of torch.

    Returns
    -------
    tuple of float or None
        Cold and warm; None where nothing can be compiled.
    """
    import os

    found = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
        for _ in range(2):
            command = [sys.executable, "-c", _FIRST_CALL.format(threads=threads)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                return None
            found.append(float(done.stdout.split()[-1]))
    return tuple(found)


def limits(rows, first, dense_pairs):
    """Return the thresholds that follow from what was measured.

    Parameters
    ----------
    rows : dict
        Seconds a pair, as :func:`table` returns.
    first : tuple of float or None
        Seconds of the first call, cold and warm.
    dense_pairs : float
        Pairs up to which the dense engine is the fastest.

    Returns
    -------
    dict
        Thresholds in pairs; without those that could not be measured.

    Examples
    --------
    >>> rows = {"eager": {"sum float64": 4e-9}, "compiled": {"sum float64": 1e-9}}
    >>> limits(rows, (12.0, 3.0), 4e6)
    {'dense_pairs': 4000000.0, 'compiled_cold_pairs': 4000000000.0, 'compiled_warm_pairs': 1000000000.0}
    """
    found = {"dense_pairs": float(dense_pairs)}
    eager, compiled = rows.get("eager", {}), rows.get("compiled", {})
    names = ("sum float32", "sum float64")
    gains = [eager[name] - compiled[name] for name in names if name in eager and name in compiled]
    if first is not None and gains and min(gains) > 0:
        found["compiled_cold_pairs"] = round(first[0] / min(gains), 3)
        found["compiled_warm_pairs"] = round(first[1] / min(gains), 3)
    return found


def _dense_pairs(device):
    """Return the pairs of the largest problem, of a few tried, that the dense engine does faster than the eager one."""
    largest = 1e5
    for n in (500, 1000, 2000, 3000, 4000):
        dtype = torch.float64
        if measure("dense", "sum", dtype, n, device) > measure("eager", "sum", dtype, n, device):
            break
        largest = float(n) ** 2
    return largest


def write(values, device, file=None):
    """Keep thresholds for a device, beside those of other devices.

    Parameters
    ----------
    values : dict
        Thresholds, as :func:`limits` returns.
    device : str
        Where they were measured.
    file : path-like or None
        The file; None (the default) is that which "auto" reads.

    Returns
    -------
    pathlib.Path
        The file.
    """
    file = thresholds_file() if file is None else Path(file)
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    known[device_name(device)] = values
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.part")
    scratch.write_text(json.dumps(known, indent=2, sort_keys=True))
    scratch.replace(file)
    return file


def _now(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _lines(rows, device, n):
    names = [
        f"{reduction} {dtype}" for reduction in ("sum", "logsumexp", "gradient") for dtype in ("float32", "float64")
    ]
    yield f"{device_name(device)}; n = {n}, Gaussian kernel in 3 dimensions; ns a pair"
    yield " | ".join(["engine  ", *names])
    for engine, row in rows.items():
        cells = [f"{1e9 * row[name]:.3g}".rjust(len(name)) if name in row else "-".rjust(len(name)) for name in names]
        yield " | ".join([engine.ljust(8), *cells])


def main(arguments=None):
    """Measure, show the table, write the thresholds.

    Parameters
    ----------
    arguments : list of str or None
        Of the command line; None (the default) takes those of the process.

    Returns
    -------
    int
        Exit status, 0.
    """
    parser = argparse.ArgumentParser(prog="python -m sciml.linalg.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to measure")
    parser.add_argument("-n", type=int, default=6000, help="points (6000)")
    parser.add_argument("--dry-run", action="store_true", help="show the table, write nothing")
    options = parser.parse_args(arguments)
    rows = table(options.device, options.n)
    for line in _lines(rows, options.device, options.n):
        sys.stdout.write(line + "\n")
    if torch.device(options.device).type == "cpu":
        values = limits(rows, first_calls(torch.get_num_threads()), _dense_pairs(options.device))
    else:
        values = {"dense_pairs": _dense_pairs(options.device)}
    for key, value in values.items():
        sys.stdout.write(f"{key}: {value:.2e}\n")
    if not options.dry_run:
        sys.stdout.write(f"written to {write(values, options.device)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
