"""Versions of what an answer depends on: for a bug report, and for the settings of a result."""

import importlib.metadata
import platform
import sys

_PACKAGES = ("numpy", "scipy", "torch", "matplotlib", "xarray", "tqdm", "h5netcdf")


def versions():
    """Return the versions of Python, sciml and the packages that it uses, without importing them.

    Returns
    -------
    dict of str
        Package name to version; ``"missing"`` for one that is not installed.

    Examples
    --------
    >>> sorted(versions())[:3]
    ['h5netcdf', 'matplotlib', 'numpy']
    """
    from sciml import __version__

    found = {"python": platform.python_version(), "sciml": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def show_versions():
    """Write the versions, the devices and the memory budget to the standard output, for a bug report.

    Examples
    --------
    >>> show_versions()                      # doctest: +ELLIPSIS
    python      ...
    """
    import torch

    from sciml._config import memory_budget

    lines = dict(versions())
    lines["system"] = f"{platform.system()} {platform.machine()}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["devices"] = ", ".join(["cpu", *gpus])
    lines["threads"] = str(torch.get_num_threads())
    lines["memory"] = f"{memory_budget() / 2**30:.1f} GiB for temporaries"
    # The one function whose purpose is to write to a terminal.
    sys.stdout.write("".join(f"{name:<11} {text}\n" for name, text in lines.items()))
