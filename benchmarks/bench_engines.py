"""Kernel reductions: the engines against KeOps and NumPy, same process, same points.

Nanoseconds a pair of points in three dimensions: 4,000 row points, 20,000 column points, one right side. "sum" and
"logsumexp" are one call, "gradient" is that of a sum with respect to the row points, without the sum itself. The error
is relative, against float64 on the dense engine for the first 200 rows. Ratio: seconds of KeOps over ours, above 1 we
are faster. Memory is the peak that a call with 20,000 x 20,000 pairs adds to a process in which the tile is compiled.
"""

import numpy as np

from benchmarks.measure import interleaved, peak_memory_mb

SETTINGS = {
    "rows": 4000,
    "columns": 20000,
    "dimensions": 3,
    "right_sides": 1,
    "seed": 0,
    "repeats": 5,
    "memory_n": 20000,
}
KERNELS = ("gaussian", "matern32", "spectral")
REDUCTIONS = ("sum", "logsumexp", "gradient")


def kernel(name):
    """Return a kernel of unit-cube points."""
    from sciml.kernels import Gaussian, Matern32, SpectralMixture

    if name == "spectral":
        return SpectralMixture([1.0], [[1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0]])
    return {"gaussian": Gaussian, "matern32": Matern32}[name](0.3)


def points(dtype, m, n):
    """Return row points, column points and weights as tensors."""
    import torch

    rng = np.random.default_rng(SETTINGS["seed"])
    arrays = rng.random((m, 3)), rng.random((n, 3)), rng.standard_normal((n, 1))
    return [torch.from_numpy(array).to(getattr(torch, dtype)) for array in arrays]


def call(name, reduction, dtype, engine, m, n):
    """Return a function without arguments that computes a reduction."""
    import torch

    from sciml.linalg import kernel_logsumexp, kernel_sum

    k, (y, x, b) = kernel(name), points(dtype, m, n)
    if reduction == "sum":
        return lambda: kernel_sum(y, x, b, kernel=k, engine=engine)
    if reduction == "logsumexp":
        return lambda: kernel_logsumexp(y, x, kernel_log=k, engine=engine)
    y.requires_grad_()
    value = kernel_sum(y, x, b, kernel=k, engine=engine).sum()
    return lambda: torch.autograd.grad(value, y, retain_graph=True)[0]


def numpy_blocks(name, dtype, m, n):
    """Return a sum by NumPy in blocks of 512 rows, distances by a matrix product; for the Gaussian only."""
    y, x, b = (array.numpy() for array in points(dtype, m, n))
    x2 = (x * x).sum(1)

    def run():
        out = np.empty((m, b.shape[1]), dtype=y.dtype)
        for i in range(0, m, 512):
            own = y[i : i + 512]
            q = own @ x.T
            q *= -2
            q += x2
            q += (own * own).sum(1)[:, None]
            q *= -0.5 / 0.3**2
            out[i : i + 512] = np.exp(q, out=q) @ b
        return out

    return run


def warm(name, reduction, dtype, engine, n):
    """Compile and import what a call needs, at a small size."""
    call(name, reduction, dtype, engine, 2000, 3000)()


def once(name, reduction, dtype, engine, n):
    """Compute once at full size, for the measurement of memory in a process of its own."""
    call(name, reduction, dtype, engine, n, n)()


def rows(quick):
    """Yield one row an engine, kernel, reduction and dtype."""
    import torch

    m, n = SETTINGS["rows"], SETTINGS["columns"]
    kernels = KERNELS[:1] if quick else KERNELS
    for name in kernels:
        for reduction in REDUCTIONS:
            if (name, reduction) == ("spectral", "logsumexp"):
                continue  # it changes sign
            for dtype in ("float32", "float64"):
                engines = ["compiled", "eager", "keops"]
                functions = {engine: call(name, reduction, dtype, engine, m, n) for engine in engines}
                if (name, reduction) == ("gaussian", "sum"):
                    functions["numpy blocks"] = numpy_blocks(name, dtype, m, n)
                taken = interleaved(functions, repeats=2 if quick else SETTINGS["repeats"])
                truth = call(name, reduction, "float64", "dense", m, n)()[:200]
                for engine, function in functions.items():
                    found = torch.as_tensor(function())[:200].double()
                    seconds = taken[engine]
                    yield {
                        "case": f"{name} {reduction} {dtype}",
                        "engine": engine,
                        "ns_pair": 1e9 * seconds["seconds"] / (m * n),
                        "ns_low": 1e9 * seconds["seconds_low"] / (m * n),
                        "ns_high": 1e9 * seconds["seconds_high"] / (m * n),
                        "keops_ratio": taken["keops"]["seconds"] / seconds["seconds"],
                        "error": float((found - truth).abs().max() / truth.abs().max()),
                        "memory_MB": memory(name, reduction, dtype, engine),
                    }


def memory(*case):
    """Return the peak of a call at full size; the peers are not measured."""
    if case[-1] not in ("compiled", "eager"):
        return None
    return peak_memory_mb("benchmarks.bench_engines:once", *case, SETTINGS["memory_n"])
