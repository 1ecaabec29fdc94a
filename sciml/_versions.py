"""Versions of what an answer depends on: for a bug report, and for the settings of a result."""

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "pykeops",
    "scikit-learn",
    "joblib",
    "dask",
    "distributed",
    "threadpoolctl",
    "matplotlib",
    "xarray",
    "tqdm",
    "h5netcdf",
)


def versions():
    """Return the versions of Python, sciml and the packages that it uses, without importing them.

    Returns
    -------
    dict of str
        Package name to version; ``"missing"`` for one that is not installed.

    Examples
    --------
    >>> sorted(versions())[-3:]
    ['torch', 'tqdm', 'xarray']
    """
    from sciml import __version__

    found = {"python": platform.python_version(), "sciml": __version__}
    return found | {package: _installed(package) for package in _PACKAGES}


@functools.cache  # thirteen files are parsed otherwise, 30 ms for each result
def _installed(package):
    """Return the version of a package, as it was when it was first asked for."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def compilers():
    """Return what the compilers say about themselves.

    Returns
    -------
    dict of str
        "C++" (``CXX``, or the first of c++, g++, clang++) and "nvcc" to a line with a version, or to "missing".

    Examples
    --------
    >>> list(compilers())
    ['C++', 'nvcc']
    """
    named = os.environ.get("CXX", "").split()
    found = {"C++": "missing", "nvcc": "missing"}
    for command in (named[:1] or ["c++", "g++", "clang++"]) + ["nvcc"]:
        name = "nvcc" if command == "nvcc" else "C++"
        if found[name] == "missing" and shutil.which(command):
            found[name] = f"{command}: {_said(command)}"
    return found


def _said(command):
    """Return the line with the version that a compiler writes."""
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run ({error})"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return f"does not run (exit status {done.returncode})"
    return next((line.strip() for line in lines if "release" in line), lines[0].strip())  # nvcc names itself first


def show_versions():
    """Write versions, devices, memory, compilers and engines to the standard output, for a bug report.

    Each engine of the kernel sums is "available", or has the reason why it is not.

    Examples
    --------
    >>> show_versions()                      # doctest: +ELLIPSIS
    python        ...
    """
    import torch

    from sciml._config import memory_budget

    lines = dict(versions())
    lines["system"] = f"{platform.system()} {platform.machine()}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["devices"] = ", ".join(["cpu", *gpus])
    lines["threads"] = str(torch.get_num_threads())
    lines["memory"] = f"{memory_budget() / 2**30:.1f} GiB for temporaries"
    lines |= compilers()
    lines |= {f"engine {name}": text for name, text in _engines().items()}
    width = max(len(name) for name in lines)
    # The one function whose purpose is to write to a terminal.
    sys.stdout.write("".join(f"{name:<{width}} {text}\n" for name, text in lines.items()))


def _engines():
    """Return what is known about the engines; a report must come out of an installation in which nothing works, too."""
    try:
        from sciml.linalg.engines import availability

        return availability()
    except Exception as error:
        return {"all": f"{type(error).__name__}: {error}"}
