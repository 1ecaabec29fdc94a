"""The compiled engine: one tile of fixed size, fused into one loop by torch.compile, and padding to fit.

Cost      the first call of a kernel, dtype and width compiles, some seconds; after that a fraction of a nanosecond a
          pair and core in float32. No memory beyond the outputs.
Pitfalls  a shape that varies would be compiled anew, or for shapes unknown, which some versions of torch do not
          vectorise: so all tiles are of one size, and the last ones are padded. The graph is traced before it is
          compiled, so numbers that a pair function took from its surroundings are constants of the graph, and the
          graph itself is the key: a changed number is a new graph.
"""

import hashlib
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch

from sciml.linalg.engines.accumulate import Sums
from sciml.linalg.engines.availability import EngineUnavailable, disable, reason_against
from sciml.linalg.engines.exponential import replace_exponentials

NAME = "compiled"
_ROWS, _COLS = 1024, 2048
_ready: dict = {}
_log = logging.getLogger(__name__)


def peak(tile, m, n, width, dtype):
    """Return the bytes of the padded columns and of the sums in float64."""
    return (m + n + _ROWS + _COLS) * (width + 4) * 16


def is_ready(tile, rows, cols, params):
    """Return whether the tile is compiled in this process; a pair function without a key never is."""
    return _key(tile, rows, cols, params) in _ready


def is_cached(tile, rows, cols, params):
    """Return whether an earlier process compiled the tile, so that most of the work is on disk."""
    return _marker(_key(tile, rows, cols, params)).exists()


def run(tile, rows, cols, params, place):
    """Return the outputs of a tile over all rows and columns, as :func:`sciml.linalg.engines.eager.run` does."""
    # Whether a tensor asks for gradients is part of what torch compiles for: here none does.
    rows, cols, params = ([tensor.detach() for tensor in tensors] for tensors in (rows, cols, params))
    function = _function(tile, rows, cols, params)
    m, n, dtype = rows[0].shape[0], cols[0].shape[0], rows[0].dtype
    with torch.no_grad():
        row_tiles = [_row_tiles(row, how) for row, how in zip(rows, tile.row_pad, strict=True)]
        col_tiles = [_col_tiles(col, how) for col, how in zip(cols, tile.col_pad, strict=True)]
        sums = Sums(tile.kinds, m, n)
        for i in range(0, m, _ROWS):
            own = [part[i // _ROWS] for part in row_tiles]
            for j in range(0, n, _COLS):
                outputs = function(*own, *[part[j // _COLS] for part in col_tiles], *params)
                sums.add(outputs, i, j)
        return sums.finish(dtype)


def _row_tiles(row, how):
    """Return tiles (_ROWS, w); the last one padded by copies of row 0, or by zeros."""
    full = [_plain(tile) for tile in row.split(_ROWS)]
    missing = _ROWS - full[-1].shape[0]
    if missing:
        fill = row[:1].expand(missing, -1) if how == "copy" else row.new_zeros((missing, row.shape[1]))
        full[-1] = torch.cat([full[-1], fill])
    return full


def _col_tiles(col, how):
    """Return tiles (w, _COLS), contiguous; the last one padded by copies of column 0, zeros, or -inf."""
    full = [_plain(tile.T) for tile in col.split(_COLS)]
    missing = _COLS - full[-1].shape[1]
    if missing:
        fill = {"zero": 0.0, "never": -torch.inf}.get(how)
        shape = (col.shape[1], missing)
        pad = col[0, :, None].expand(shape) if fill is None else col.new_full(shape, fill)
        full[-1] = torch.cat([full[-1], pad], 1)
    return full


def _plain(tile):
    """Return a tile with the strides of a new one: a tile of width 1 counts as contiguous with others, too."""
    fits = tile.stride() == (tile.shape[1], 1)
    return tile if fits else tile.clone(memory_format=torch.contiguous_format)


# ---------------------------------------------------------------- compiling


def _key(tile, rows, cols, params):
    widths = tuple(t.shape[1] for t in (*rows, *cols)) + tuple(tuple(p.shape) for p in params)
    return (tile.key, widths, rows[0].dtype, str(rows[0].device), torch.get_num_threads())


def _function(tile, rows, cols, params):
    """Return the compiled tile; the same one for every number of rows and columns."""
    key = _key(tile, rows, cols, params)
    if key in _ready:
        return _ready[key]
    against = reason_against(NAME)
    if against:
        raise EngineUnavailable(NAME, against)
    graph = None
    if tile.pair.key is None:
        graph = _trace(tile, rows, cols, params)
        key = (*key, _fingerprint(graph))
        if key in _ready:
            return _ready[key]
    graph = graph or _trace(tile, rows, cols, params)
    examples = _examples(rows, cols, params)
    start = time.perf_counter()
    try:
        # torch's compiler warns about torch's own parts; where warnings are errors, it would not compile.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = replace_exponentials(graph, examples)
            function = torch.compile(graph, dynamic=False, fullgraph=True, options=_options())
            function(*examples)
    except Exception as error:  # whatever a compiler that is missing or broken raises, and it raises many things
        raise EngineUnavailable(NAME, disable(NAME, error)) from error
    _log.info("compiled %s in %.1f s", key[0], time.perf_counter() - start)
    _ready[key] = function
    if tile.pair.key is not None:
        _mark(key)
    return function


def _options():
    """Let the compiler fuse products and sums into one instruction, where this torch has the switch."""
    import torch._inductor.config as config

    known = hasattr(config.cpp, "enable_floating_point_contract_flag")
    return {"cpp.enable_floating_point_contract_flag": "fast"} if known else {}


def _examples(rows, cols, params):
    """Return tensors of the shapes that the compiled tile will meet."""
    some_rows = [_plain(row[:1].expand(_ROWS, -1)) for row in rows]
    some_cols = [_plain(col[:1].T.expand(-1, _COLS)) for col in cols]
    return [*some_rows, *some_cols, *params]


def _trace(tile, rows, cols, params):
    """Return the tile as a graph of tensor operations, derivatives included."""
    try:
        import torch._inductor  # noqa: F401  # it makes its cache folder when it is first loaded
        from torch.fx.experimental.proxy_tensor import make_fx
    except OSError as error:
        raise EngineUnavailable(NAME, disable(NAME, error)) from error

    r, c = len(rows), len(rows) + len(cols)

    def flat(*tensors):
        return tuple(tile(tensors[:r], tensors[r:c], tensors[c:]))

    with torch.no_grad():
        return make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*_examples(rows, cols, params))


def _fingerprint(graph):
    """Return a digest of a graph: its operations, the numbers in them, and the tensors that it holds."""
    digest = hashlib.sha256(graph.code.encode())
    held = {**dict(graph.named_buffers()), **dict(graph.named_parameters())}
    held |= {name: value for name, value in vars(graph).items() if isinstance(value, torch.Tensor)}
    for name in sorted(held):
        digest.update(name.encode() + held[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _marker(key):
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folder = Path(folder) if folder else Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"
    return folder / f"sciml-{hashlib.sha256(repr((torch.__version__, key)).encode()).hexdigest()[:24]}"


def _mark(key):
    try:
        _marker(key).touch()
    except OSError:
        _log.debug("no marker could be left beside the cache of torch.compile")


def _user():
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this number in the table of users
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
