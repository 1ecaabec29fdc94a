r"""One door for weights: a module, a state dict, a tensor, a file, a sharded file or a folder.

.. math:: \text{obj} \to \{\text{name} : \text{tensor that is read by rows}\} \cup \{(\text{name}, \text{reason})\}

Cost      opening reads headers only. Nothing is unpickled, whatever the file: pickles are read as data.
Pitfalls  a source keeps its files open: use it in a ``with`` block, or close it.
"""

import os
from collections.abc import Mapping

import numpy as np
import torch

from sciml.exceptions import CheckpointError, InvalidTypeError
from sciml.stats.spectra.folders import beside, open_folder
from sciml.stats.spectra.mappings import is_array, open_mapping, renamed
from sciml.stats.spectra.module_weights import check_not_empty, open_module
from sciml.stats.spectra.numpy_file import open_numpy
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.safetensors_file import open_safetensors
from sciml.stats.spectra.shards import open_index
from sciml.stats.spectra.stored_tensors import ModuleInfo as ModuleInfo
from sciml.stats.spectra.stored_tensors import StoredTensor as StoredTensor
from sciml.stats.spectra.stored_tensors import WeightSource as WeightSource
from sciml.stats.spectra.torch_file import open_torch

_ACCEPTED = (
    "a torch.nn.Module, a state dict, a tensor or array, a list of them, or a path to a .safetensors, .pt, .pth, .bin, "
    ".ckpt, .npz file, an index of shards, or a folder"
)
_FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights", "Fetch them with: git lfs pull"),
    (b"GGUF", "a GGUF file", "Pass the safetensors files that it was made from."),
    (b"\x89HDF", "an HDF5 file", "Save its arrays with numpy.savez."),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first."),
)


def open_weights(obj):
    """Open the weights of a network, wherever they are.

    Parameters
    ----------
    obj : torch.nn.Module, mapping, tensor, array, list, str, path-like or WeightSource
        A module; a state dict, possibly of dicts; a tensor or array, which gets the name "weight"; a path to a file or
        folder; or what this function returned.

    Returns
    -------
    WeightSource
        ``tensors`` by name, ``skipped`` with reasons, ``metadata`` and ``modules``; a context manager.

    Raises
    ------
    CheckpointError
        If a file is broken, missing or lies about its content.
    UnsafeCheckpointError
        If a file could be read by running what it names only.
    InvalidTypeError
        If `obj` is nothing of the kind.
    InvalidInputError
        If `obj` holds no tensors.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.sources import open_weights
    >>> with open_weights({"layer": {"weight": torch.arange(6.0).reshape(3, 2)}}) as source:
    ...     source.tensors["layer.weight"].rows(2, 3)
    tensor([[4., 5.]])
    """
    if isinstance(obj, WeightSource):
        return obj
    if isinstance(obj, torch.nn.Module):
        return check_not_empty(open_module(obj), "the module")
    if isinstance(obj, (str, os.PathLike)):
        return check_not_empty(_open_path(os.fspath(obj)), f"the file {os.fspath(obj)!r}")
    if is_array(obj) and not isinstance(obj, np.generic):
        return check_not_empty(open_mapping({"weight": obj}), "obj")
    if isinstance(obj, Mapping) or (isinstance(obj, (list, tuple)) and any(map(is_array, obj))):
        return check_not_empty(open_mapping(obj), "the state dict")
    raise InvalidTypeError(f"obj must be {_ACCEPTED}; got {type(obj).__name__}.")


def _open_path(path):
    lower = path.lower()
    if os.path.isdir(path):
        return open_folder(path)
    if lower.endswith(".index.json"):
        source = open_index(path)
    else:
        file = RegularFile(path)
        head = file.read(0, min(file.size, 512)).numpy().tobytes()
        file.close()
        source = _open_file(path, lower, head, file.size)
    source.metadata = {**source.metadata, **beside(os.path.dirname(path) or ".")}
    return source


def _open_file(path, lower, head, size):
    """Open a file by its first bytes: endings of names are often wrong, but for those that say safetensors or npz."""
    for start, kind, remedy in _FOREIGN:
        if head.startswith(start):
            raise CheckpointError(f"{path!r} is {kind}. {remedy}", path=path)
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path!r} is a tar archive: a file of a torch before 0.2, or a packed folder. Unpack it, or load it "
            "with the torch that wrote it, and save the state dict with safetensors.",
            path=path,
        )
    is_header = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8
    if lower.endswith(".safetensors") or is_header:
        return renamed(open_safetensors(path))
    if head.startswith(b"\x93NUMPY") or lower.endswith(".npz"):
        return open_numpy(path)
    return open_torch(path)
