r"""Folders that hold a model: which of their files are its weights.

.. math:: \text{index} \succ \text{safetensors} \succ \text{files of torch} \succ \text{arrays of NumPy}

One folder often holds the same weights several times: the better format wins, and the others are listed as skipped.
Sub-folders, such as the dense layer of a sentence encoder, are parts of the same model, and prefix the names.

Cost      as much as opening the files that win.
Pitfalls  files of a training run (optimiser, schedule, arguments) are no weights, and are not opened. Folders named
          checkpoint-<n> beside weights are earlier states of the same model, and are skipped.
"""

import os
import re
from dataclasses import replace

from sciml.exceptions import CheckpointError
from sciml.stats.spectra.mappings import renamed
from sciml.stats.spectra.module_weights import plain_config
from sciml.stats.spectra.numpy_file import open_numpy
from sciml.stats.spectra.safetensors_file import open_safetensors
from sciml.stats.spectra.shards import inside, open_all, open_index, parts_of, read_json
from sciml.stats.spectra.stored_tensors import WeightSource
from sciml.stats.spectra.torch_file import open_torch

_TORCH = (".bin", ".pt", ".pth", ".ckpt", ".tar")
_KINDS = ((".safetensors.index.json",), (".safetensors",), (".bin.index.json",), _TORCH, (".npz", ".npy"))
_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*\.(bin|pt|pth|pkl)")
_USUAL = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
_ADAPTER = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "alpha_pattern", "rank_pattern")
_DEPTH = 3


def open_folder(path):
    """Open the weights in a folder.

    Parameters
    ----------
    path : str or path-like
        The folder.

    Returns
    -------
    WeightSource
        With ``metadata`` from config.json and adapter_config.json.

    Raises
    ------
    CheckpointError
        If there are no weights in it, or a file is broken.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sciml.stats.spectra.folders import open_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"weight": torch.eye(2)}, folder + "/pytorch_model.bin")
    ...     list(open_folder(folder).tensors)
    ['weight']
    """
    path = os.fspath(path)
    source, parts = WeightSource({}), {}
    try:
        _collect(source, path, "", 0, parts)
    except BaseException:
        source.close()
        raise
    if not source.tensors and not source.files:
        looked = ", ".join(f"*{ending}" for endings in _KINDS for ending in endings)
        raise CheckpointError(f"{path!r} holds no weights: looked for {looked}, in sub-folders too.", path=path)
    # The heads of one part are not those of another.
    source.metadata |= next(iter(parts.values())) if len(parts) == 1 else parts.get("", {})
    return renamed(source)


def beside(path):
    """Return what the configuration files beside weights tell.

    Parameters
    ----------
    path : str
        The folder.

    Returns
    -------
    dict
        As ``WeightSource.metadata``; empty where there are no such files.

    Raises
    ------
    CheckpointError
        If one is no JSON.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sciml.stats.spectra.folders import beside
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}')
    ...     beside(folder)["lora_alpha"]
    16
    """
    found = {}
    for name in ("config.json", "adapter_config.json"):
        if not os.path.isfile(os.path.join(path, name)):
            continue
        content = read_json(inside(path, name, path))
        if isinstance(content, dict) and name == "config.json":
            found |= plain_config(content)
        elif isinstance(content, dict):
            found |= {key: content[key] for key in _ADAPTER if key in content}
            found["adapter_config"] = content
    return found


def _collect(source, path, prefix, depth, parts):
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise CheckpointError(f"{path!r} cannot be listed: {error.strerror}.", path=path) from error
    folders = [name for name in names if os.path.isdir(os.path.join(path, name)) and not name.startswith(".")]
    files = [name for name in names if name not in folders and not name.startswith(".")]
    weights = [name for name in files if not _TRAINING.fullmatch(name)]
    source.skipped += [(prefix + name, "of a training run, no weights") for name in files if _TRAINING.fullmatch(name)]
    chosen = _chosen(weights)
    if chosen:
        part = _open(path, chosen)
        _take(source, part, prefix)
        parts[prefix] = beside(path)
        read = {*chosen, *(os.path.basename(file.path) for file in part.files)}
        for name in weights:
            if name not in read and name.lower().endswith(tuple(end for ends in _KINDS for end in ends)):
                source.skipped.append((prefix + name, f"another copy: {chosen[0]} is read; pass its own path"))
    for name in folders if depth < _DEPTH else ():
        if chosen and name.startswith("checkpoint-"):
            source.skipped.append((prefix + name, "an earlier state of the same model: pass its own path"))
        else:
            _collect(source, inside(path, name, path), f"{prefix}{name}.", depth + 1, parts)


def _chosen(files):
    """Return the files to read: those of the first kind that is there, without those that an index accounts for."""
    for endings in _KINDS:
        found = [name for name in files if name.lower().endswith(endings)]
        usual = [name for name in found if name in {word + end for word in _USUAL for end in endings}]
        if not found:
            continue
        if endings[0].endswith(".index.json"):
            return usual[:1] or found[:1]
        adapters = [name for name in found if name.startswith("adapter_model.")]
        shards = [name for group in parts_of(found).values() for name in group]
        main = [name for name in usual if name not in adapters]
        return main[:1] + adapters if main else (shards + adapters if shards else found)
    return []


def _open(path, chosen):
    files = {name: inside(path, name, path) for name in chosen}
    first = files[chosen[0]]
    if first.endswith(".index.json"):
        return open_index(first)
    group = parts_of(chosen)
    if len(chosen) == 1 or (group and len(group) == 1) or all(name.split(".")[0] in _USUAL for name in chosen):
        return _one(first) if len(chosen) == 1 else open_all(files).source
    # Files of unknown relation: each keeps its own names.
    whole = WeightSource({})
    for name, file in files.items():
        _take(whole, _one(file), f"{os.path.splitext(name)[0]}.")
    return whole


def _one(path):
    if path.lower().endswith(".safetensors"):
        return open_safetensors(path)
    return open_numpy(path) if path.lower().endswith((".npz", ".npy")) else open_torch(path)


def _take(source, part, prefix):
    source.files += part.files
    source.tensors |= {prefix + name: replace(tensor, name=prefix + name) for name, tensor in part.tensors.items()}
    source.skipped += [(prefix + name, reason) for name, reason in part.skipped]
    source.metadata |= {} if prefix else part.metadata
