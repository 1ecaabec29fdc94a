r"""Weights read from a file larger than the memory they may take: peak resident memory and seconds of a child process.

A safetensors file of equal float32 layers is written into a temporary folder, and removed afterwards. Each way of
going through it runs in a process of its own; `peak` is the highest resident memory of that process in MiB, libraries
included, and `seconds` its processor time from the first import on. "rows" reads every layer by blocks of 64 MiB and
adds up its sum of squares; the peer reads one layer after the other by the format's own package, which maps the file.
Memory is that of the largest layer, so that a few layers show the peak of them all. `bar` is what is to be reached.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import _peak_mb

SETTINGS = {"layers": 40, "side": 5120, "quick_layers": 4, "quick_side": 1024, "seed": 0, "block_mib": 64, "few": 2}
COLUMNS = ("case", "method", "seconds", "peak", "bar", "note")
BAR = 700.0


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def write(path, layers, side, seed):
    """Write layers of Gaussian entries, one after the other; no more than one is in memory."""
    size = 4 * side * side
    header = {
        f"model.layers.{k}.proj.weight": {
            "dtype": "F32",
            "shape": [side, side],
            "data_offsets": [k * size, (k + 1) * size],
        }
        for k in range(layers)
    }
    head = json.dumps(header).encode()
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _ in range(layers):
            file.write(rng.standard_normal((side, side), dtype=np.float32).data)


def open_only(path):
    """Open the file, read no layer."""
    from sciml.stats.spectra.sources import open_weights

    with open_weights(path) as source:
        return f"{len(source.tensors)} layers"


def read_rows(path):
    """Read every layer by blocks of rows."""
    from sciml.stats.spectra.sources import open_weights

    total = 0.0
    with open_weights(path) as source:
        for tensor in source.tensors.values():
            step = max(1, (SETTINGS["block_mib"] << 20) // (tensor.nbytes // tensor.shape[0]))
            for start in range(0, tensor.shape[0], step):
                total += float(tensor.rows(start, start + step).square().sum())
    return f"mean square {total / sum(np.prod(t.shape) for t in source.tensors.values()):.4f}"


def mapped(path):
    """Read every layer by the package of the format."""
    from safetensors import safe_open

    total = count = 0.0
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            total, count = total + float(tensor.square().sum()), count + tensor.numel()
    return f"mean square {total / count:.4f}"


def diagnosed(path, dtype, few=None):
    """Diagnose every layer, or the first few."""
    import sciml

    include = None if few is None else [f"model.layers.{k}.*" for k in range(few)]
    data = sciml.diagnose(path, dtype=dtype, include=include).to_xarray()
    farms = data["alpha_farms"].values
    return f"{len(farms)} layers, alpha_farms {farms.min():.3f} to {farms.max():.3f}"


WAYS = {
    "opened": (open_only, ()),
    "rows": (read_rows, ()),
    "safetensors, mapped": (mapped, ()),
    "sciml.diagnose, float32": (diagnosed, ("float32",)),
    "few layers, float32": (diagnosed, ("float32", SETTINGS["few"])),
    "few layers, float64": (diagnosed, ("float64", SETTINGS["few"])),
}


def measured(path, way):
    """Return seconds, peak and note of a way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_spectra_streaming", str(path), way]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["killed"]
        return None, None, f"failed: {lines[-1][:100]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows(quick):
    """Yield the rows of the table."""
    layers, side = (SETTINGS[f"{'quick_' if quick else ''}{key}"] for key in ("layers", "side"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        write(path, layers, side, SETTINGS["seed"])
        case = f"{layers} layers, {side} x {side}, {path.stat().st_size / 1e9:.2f} GB"
        for way in WAYS:
            seconds, peak, note = measured(path, way)
            yield row(case, way, seconds, peak, None if way == "safetensors, mapped" else BAR, note)


if __name__ == "__main__":
    function, arguments = WAYS[sys.argv[2]]
    said = function(sys.argv[1], *arguments)
    print(json.dumps([time.process_time(), _peak_mb(), said]))
