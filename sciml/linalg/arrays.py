"""The boundary: NumPy, lists, xarray and torch in; torch inside; the same kind, dtype and device out.

Notation  a public function takes ``(A, b), leave = enter(A, b, names=("A", "b"))`` and returns ``leave(x)``.
Cost      no copy for plain NumPy and torch arrays of the working dtype; one pass over the data for the finite check.
Pitfalls  tensors share memory with the user's arrays: never change them in place.
"""

import sys

import numpy as np
import torch

from sciml._config import resolve
from sciml.exceptions import BackendMismatchError, InvalidInputError

_HALF = (torch.float16, torch.bfloat16)
_WORKING = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def enter(*arrays, names, dtype=None, device=None, check_finite=None):
    """Return the arrays as tensors of one dtype on one device, and the way back.

    Parameters
    ----------
    *arrays : array_like, any shapes, or None
        NumPy arrays, numbers and nested lists, xarray DataArrays, torch tensors; None (an argument left out) stays
        None.
    names : sequence of str
        The arguments' names, for messages; one for each array.
    dtype : None, "float32", "float64" or their dtype objects
        None (the default) asks the configuration, and if that is None, too, the data decide: float32 and float64
        stay (the longer wins), integers and booleans become float64, half precision is computed in float32, complex
        stays complex. Python numbers, lists and integer arrays follow the floating arrays beside them.
    device : None, str or torch.device
        Where to compute. None (the default) leaves tensors where they are and puts the rest beside them; where there
        is no tensor, the configuration decides.
    check_finite : bool or None
        Refuse NaN and infinity; None (the default) asks the configuration, which does by default.

    Returns
    -------
    tensors : list of torch.Tensor or None
        In the order given; gradients flow through.
    leave : callable
        ``leave(tensor)`` gives a tensor where a tensor came in, in half precision if that came in. Else it gives a
        NumPy array (a NumPy number for shape ``()``), or a DataArray where the first DataArray that came in has the
        same shape, with its dimensions, coordinates and name.

    Raises
    ------
    InvalidInputError
        If an array is not numeric, ragged, sparse, masked, of unsupported precision, or not finite.
    BackendMismatchError
        If tensors on different devices came.

    Examples
    --------
    >>> (A, b), leave = enter(np.diag([2.0, 4.0]), [1, 1], names=("A", "b"))
    >>> leave(torch.linalg.solve(A, b))
    array([0.5 , 0.25])
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    if len(names) != len(arrays):
        raise InvalidInputError(f"names must hold one name for each array; got {names} for {len(arrays)} arrays.")
    raw = [None if array is None else _tensor(name, array) for name, array in zip(names, arrays, strict=True)]
    given = [array for array in arrays if isinstance(array, torch.Tensor)]

    working, returned = _common_dtype(arrays, raw, dtype)
    place = _common_device(names, arrays, device)
    tensors = [None if t is None else t.to(device=place, dtype=working) for t in raw]
    if resolve("check_finite", check_finite):
        for name, before, t in zip(names, raw, tensors, strict=True):
            if t is not None:
                _check_finite(name, before, t)

    frames = [array for array in arrays if _is_data_array(array)]

    def leave(tensor):
        """Return a tensor in the kind of the data that came in."""
        if tensor is None:
            return None
        if returned is not None and tensor.is_floating_point():
            tensor = tensor.to(returned)
        if given:
            return tensor
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        # torch's bfloat16 has no NumPy twin, but it came as a tensor, so it never gets here.
        plain = tensor.numpy()
        if frames and frames[0].shape == plain.shape:
            return frames[0].copy(data=plain)
        return plain[()]

    return tensors, leave


def _is_data_array(array):
    xarray = sys.modules.get("xarray")  # whoever holds a DataArray has imported xarray
    return xarray is not None and isinstance(array, xarray.DataArray)


def _tensor(name, array):
    """Return one array as a tensor of a dtype that torch knows; without a copy where that is safe."""
    if isinstance(array, torch.Tensor):
        if array.layout is not torch.strided:
            raise InvalidInputError(f"{name} must be dense; got a tensor of layout {array.layout}. Use to_dense().")
        return array
    module = type(array).__module__
    if module.startswith("scipy.sparse"):
        raise InvalidInputError(
            f"{name} must be dense; got a sparse {type(array).__name__} of shape {array.shape}. Pass {name}.toarray()."
        )
    if module.startswith("xarray"):
        if not _is_data_array(array):
            raise InvalidInputError(
                f"{name} must be an array; got an xarray {type(array).__name__}. Pass one of its variables."
            )
        array = array.data if isinstance(array.data, torch.Tensor) else array.values
        if isinstance(array, torch.Tensor):
            return array
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InvalidInputError(
                f"{name} must hold no masked entries; got {int(np.ma.count_masked(array))}. Fill or remove them first."
            )
        array = array.data
    try:
        plain = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{name} must be a rectangular array of numbers; got {type(array).__name__}: {error}. "
            "Give all rows one length."
        ) from None
    if plain.dtype.kind not in "biufc" or plain.dtype.itemsize > (16 if plain.dtype.kind == "c" else 8):
        raise InvalidInputError(
            f"{name} must hold numbers of at most double precision; got dtype {plain.dtype} and shape {plain.shape}. "
            f"Convert it by numpy.asarray({name}, dtype=float)."
        )
    if plain.dtype.kind == "u" and plain.dtype.itemsize > 1:
        plain = plain.astype(np.float64)  # torch has no arithmetic on them
    if not plain.dtype.isnative:
        plain = plain.astype(plain.dtype.newbyteorder("="))
    strange = any(s < 0 or s % max(plain.itemsize, 1) for s in plain.strides)
    if strange or not plain.flags.writeable:
        # torch cannot hold negative strides, and would warn about memory that must not be written.
        plain = plain.copy()
    return torch.from_numpy(plain)


def _common_dtype(arrays, raw, dtype):
    """Return the dtype to compute in, and the one to give floating answers in (None: as computed)."""
    strong, weak = [], []
    for array, t in zip(arrays, raw, strict=True):
        if t is not None:
            own = hasattr(array, "dtype") or hasattr(array, "dtypes")  # not a Python number or list
            floating = t.is_floating_point() or t.is_complex()
            (strong if own and floating else weak).append(t.dtype)
    is_complex = any(d.is_complex for d in strong + weak)
    dtype = resolve("dtype", dtype)
    if dtype is not None:
        work = getattr(torch, dtype)
    elif strong:
        work = strong[0]
        for d in strong[1:]:
            work = torch.promote_types(work, d)
    else:
        work = torch.float64
    half = work if dtype is None and work in _HALF else None
    if work not in _WORKING:
        work = torch.float32 if work in _HALF else torch.float64 if not work.is_complex else torch.complex64
    if is_complex and not work.is_complex:
        work = torch.complex64 if work is torch.float32 else torch.complex128
    return work, half


def _common_device(names, arrays, device):
    places = {name: a.device for name, a in zip(names, arrays, strict=True) if isinstance(a, torch.Tensor)}
    if device is not None:
        wanted = resolve("device", device)
        if wanted != "auto":
            return torch.device(wanted)
    if len(set(places.values())) > 1:
        listed = ", ".join(f"{name} on {place}" for name, place in places.items())
        raise BackendMismatchError(f"the arrays must be on one device; got {listed}. Move them with .to(device).")
    if places:
        return next(iter(places.values()))
    wanted = resolve("device", device)
    return torch.device("cpu" if wanted == "auto" else wanted)


def _check_finite(name, before, tensor):
    bad = ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return
    where = tuple(int(i) for i in bad.nonzero()[0])
    value = before[where].item()
    index = where[0] if len(where) == 1 else where
    if np.isfinite(value):
        raise InvalidInputError(
            f"{name} must fit into {str(tensor.dtype).removeprefix('torch.')}; the entry at index {index} is {value}. "
            "Rescale it, or compute in float64."
        )
    raise InvalidInputError(
        f"{name} must be finite; the entry at index {index} is {value}, one of {int(bad.sum())} such. "
        "Remove or fill these entries first."
    )
