r"""Weights in several files: an index that says which file holds which tensor.

.. math:: \text{weight map} : \text{tensor} \mapsto \text{shard}

Cost      opening reads the headers of all shards.
Pitfalls  names in an index come from whoever wrote it: a shard must lie in the folder of the index. Links that lead out
          of it are refused, but for those of a hub's cache, whose ``snapshots/<revision>`` point into ``blobs``.
References  Hugging Face, Transformers: big models, section "Sharded checkpoints".
"""

import json
import os
import re

from sciml.exceptions import CheckpointError
from sciml.stats.spectra.mappings import renamed
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.safetensors_file import MAX_HEADER, open_safetensors
from sciml.stats.spectra.stored_tensors import WeightSource
from sciml.stats.spectra.torch_file import open_torch

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)", re.DOTALL)


def open_index(path):
    """Open the shards that an index names.

    Parameters
    ----------
    path : str or path-like
        A file such as model.safetensors.index.json, beside its shards.

    Returns
    -------
    WeightSource
        The tensors of all shards, shard by shard.

    Raises
    ------
    CheckpointError
        If a shard is missing or lies outside the folder, or a tensor is in none, in another, or in two.

    Examples
    --------
    >>> import json, pathlib, tempfile, torch
    >>> from sciml.stats.spectra.shards import open_index
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"a": torch.eye(2)}, folder + "/one.bin")
    ...     index = pathlib.Path(folder, "pytorch_model.bin.index.json")
    ...     _ = index.write_text(json.dumps({"weight_map": {"a": "one.bin"}}))
    ...     list(open_index(index).tensors)
    ['a']
    """
    path = os.fspath(path)
    where = read_json(path)
    where = where.get("weight_map") if isinstance(where, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{path!r} must hold a weight_map from tensors to files; it does not.", path=path)
    folder = os.path.dirname(path)
    shards = list(dict.fromkeys(where.values()))
    files = {shard: inside(folder, shard, path) for shard in shards}
    whole = open_all(files)
    try:
        for name, shard in where.items():
            if whole.places.get(name) != shard:
                actual = whole.places.get(name)
                found = "is in no shard" if actual is None else f"is in {actual[:80]!r}"
                raise CheckpointError(
                    f"{path!r} says that {name[:80]!r} is in {shard[:80]!r}, and it {found}. Fetch the files again.",
                    path=path,
                )
        for name in [name for name in whole.source.tensors if name not in where]:
            whole.source.skipped.append((name, f"in {whole.places[name]}, but not in the index"))
            del whole.source.tensors[name]
    except BaseException:
        whole.source.close()
        raise
    return renamed(whole.source)


def read_json(path):
    """Return the content of a small JSON file.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    object
        Dicts, lists, numbers, words.

    Raises
    ------
    CheckpointError
        If it is no JSON, is too large, or names one key twice.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.shards import read_json
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b'{"num_attention_heads": 4}')
    ...     f.flush()
    ...     read_json(f.name)
    {'num_attention_heads': 4}
    """
    file = RegularFile(path)
    try:
        if file.size > MAX_HEADER:
            raise CheckpointError(f"{path!r} has {file.size} bytes; at most {MAX_HEADER} are read as JSON.", path=path)
        return json.loads(file.read(0, file.size).numpy().tobytes().decode("utf-8"), object_pairs_hook=_unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path!r} is no valid JSON ({str(error)[:120]}). Fetch it again.", path=path) from None
    finally:
        file.close()


def _unique(pairs):
    found = {}
    for key, value in pairs:
        key.encode("utf-8")
        if key in found:
            raise ValueError(f"the key {key[:80]!r} twice")
        found[key] = value
    return found


def inside(folder, name, path):
    """Return the path of a file that lies in a folder, whatever its name tries.

    Parameters
    ----------
    folder : str
        The folder.
    name : str
        Name of the file, as some other file gave it.
    path : str
        The file that gave it, for the message.

    Returns
    -------
    str
        Folder and name, joined.

    Raises
    ------
    CheckpointError
        If the name is absolute, climbs, or is a link that leads out.

    Examples
    --------
    >>> from sciml.stats.spectra.shards import inside
    >>> inside("model", "part/one.safetensors", "index.json")
    'model/part/one.safetensors'
    """
    parts = name.replace("\\", "/").split("/")
    climbs = os.path.isabs(name) or any(part in ("", ".", "..") for part in parts) or ":" in parts[0] or "\0" in name
    joined = os.path.join(folder, *parts)
    if not climbs:
        home, real = os.path.realpath(folder or "."), os.path.realpath(joined)
        roots = [home]
        if os.path.basename(os.path.dirname(home)) == "snapshots":
            roots.append(os.path.join(os.path.dirname(os.path.dirname(home)), "blobs"))
        climbs = not any(real.startswith(os.path.join(root, "")) for root in roots)
    if climbs:
        raise CheckpointError(
            f"{path!r} names {name[:200]!r}, which lies outside its folder. Put all files into one folder.", path=path
        )
    return joined


class _Whole:
    def __init__(self):
        self.source, self.places = WeightSource({}), {}


def open_all(files):
    """Open several files as the parts of one model.

    Parameters
    ----------
    files : dict of str to str
        Paths by the names that messages use.

    Returns
    -------
    object
        ``source``, a :class:`WeightSource`, and ``places``, the name of the file of each tensor.

    Raises
    ------
    CheckpointError
        If a tensor is in two of them, or a file is broken.

    Examples
    --------
    >>> from sciml.stats.spectra.shards import open_all
    >>> open_all({}).source
    <WeightSource: 0 tensors, 0 skipped>
    """
    whole = _Whole()
    try:
        for shard, path in files.items():
            part = open_safetensors(path) if path.endswith(".safetensors") else open_torch(path, plain=False)
            whole.source.files += part.files
            whole.source.skipped += part.skipped
            whole.source.metadata |= part.metadata
            for name, tensor in part.tensors.items():
                if name in whole.places:
                    raise CheckpointError(
                        f"{path!r} holds {name[:80]!r}, and so does {whole.places[name][:80]!r}. Remove one of them.",
                        path=path,
                    )
                whole.places[name], whole.source.tensors[name] = shard, tensor
            for name, _ in part.skipped:
                whole.places.setdefault(name, shard)
    except BaseException:
        whole.source.close()
        raise
    return whole


def parts_of(names):
    """Group names of shards that stand without an index.

    Parameters
    ----------
    names : iterable of str
        Names of files.

    Returns
    -------
    dict of str to list of str
        For each stem, such as "model.safetensors", the shards that should be there, in order.

    Examples
    --------
    >>> from sciml.stats.spectra.shards import parts_of
    >>> parts_of(["model-00002-of-00002.bin"])
    {'model.bin': ['model-00001-of-00002.bin', 'model-00002-of-00002.bin']}
    """
    groups = {}
    for name in sorted(names):
        match = _PART.fullmatch(name)
        if match and int(match[3]) <= 10_000:
            stem, total, ending = match[1], int(match[3]), match[4]
            groups[stem + ending] = [f"{stem}-{k:05d}-of-{total:05d}{ending}" for k in range(1, total + 1)]
    return groups
