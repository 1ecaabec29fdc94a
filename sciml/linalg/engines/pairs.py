"""Pair functions as the engines take them: a kernel of :mod:`sciml.kernels`, or any function of two points.

Notation  prepared parameters: what the pair function takes, such as 1 / l^2; they stay attached to the user's
          parameters, so that gradients flow.
Pitfalls  a tensor that asks for gradients and that a function merely mentions would get none: it is refused, with the
          advice to pass it by ``params``.
"""

import inspect

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.engines.tile import Pair

# Direct differences up to so many coordinates; beyond, distances come by a matrix product where that is exact enough.
_DIRECT = 16


def prepare(name, kernel, params, Y, X, log=False):
    """Return the pair function, the points and the parameters for the engines.

    Parameters
    ----------
    name : str
        The argument's name, "kernel" or "kernel_log".
    kernel : Kernel or callable
        What the user gave.
    params : dict or None
        Parameters of a callable.
    Y, X : torch.Tensor, shapes (m, d) and (n, d)
        Points.
    log : bool
        Take the logarithm of a Kernel.

    Returns
    -------
    pair : Pair
    Y, X : torch.Tensor
        The points, moved and scaled exactly as the kernel allows.
    params : list of torch.Tensor
    """
    from sciml.kernels.base import Kernel

    if isinstance(kernel, Kernel):
        return _of_kernel(kernel, params, Y, X, log)
    if not callable(kernel):
        raise InvalidTypeError(
            f"{name} must be a kernel of sciml.kernels or a function of two points; got {type(kernel).__name__}."
        )
    return _of_function(name, kernel, params, Y, X)


def _of_kernel(kernel, params, Y, X, log):
    if params:
        raise InvalidInputError(
            f"params must be left out with a kernel of sciml.kernels, which holds its own; got {sorted(params)}."
        )
    kernel._check_width(Y.shape[1])
    unit = kernel._unit()
    prepared = [p.to(dtype=Y.dtype, device=Y.device) for p in kernel._prepared(unit)]
    Y, X = Y / unit, X / unit
    function = kernel._log_pair if log else kernel._pair
    key = kernel._key()
    # A kernel without a key is of a user's class, which may change a part of ours and not the others.
    fill = None if key is None else kernel._fill_log if log else kernel._fill
    pair = Pair(function, ("log", key) if log and key is not None else key, fill=fill)
    if Y.shape[1] > _DIRECT and kernel._squared is not None and not log and Y.numel() and X.numel():
        centre = X.detach().to(torch.float64).mean(0).to(X.dtype)
        moved_Y, moved_X = Y - centre, X - centre
        if _product_is_exact(kernel, moved_Y, moved_X, prepared):
            pair = Pair(
                function, None if key is None else ("product", key), squared=kernel._squared, scale=kernel._scale
            )
            Y, X = moved_Y, moved_X
    return pair, Y, X, prepared


def _product_is_exact(kernel, Y, X, prepared):
    """Return whether |y|^2 + |x|^2 - 2 y.x loses no more than rounding: eps times the squared scaled norms."""
    with torch.no_grad():
        largest = max(float((kernel._scale(points, *prepared) ** 2).sum(1).max()) for points in (Y, X))
    # The error of a squared distance is about 2 eps of this, and that of a kernel up to 3/2 of the distance's.
    return largest * torch.finfo(Y.dtype).eps <= (2e-6 if Y.dtype == torch.float32 else 2e-13)


def _of_function(name, function, params, Y, X):
    names, values = _parameters(params, Y)
    takes = _points_taken(name, function, names)

    def pair(y, x, *given):
        named = dict(zip(names, given, strict=True))
        return function(y - x, **named) if takes == 1 else function(y, x, **named)

    found = Pair(pair, None)
    _refuse_hidden_gradients(name, function, found, Y, X, values)
    return found, Y, X, values


def _parameters(params, Y):
    if params is None:
        return [], []
    if not isinstance(params, dict):
        raise InvalidTypeError(
            f"params must be a dict of the function's keyword arguments; got {type(params).__name__}."
        )
    values = []
    for key, value in params.items():
        try:
            # By NumPy, for torch would round Python numbers to float32.
            tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError):
            raise InvalidTypeError(
                f"params[{key!r}] must be a number or a vector; got {type(value).__name__}."
            ) from None
        bad = tensor.ndim > 1 or tensor.numel() == 0 or tensor.is_complex()
        if bad or not bool(torch.isfinite(tensor.detach()).all()):
            raise InvalidInputError(
                f"params[{key!r}] must be a finite real number or vector; got {value!r} of shape {tuple(tensor.shape)}."
            )
        values.append(tensor.to(dtype=Y.dtype, device=Y.device))
    return list(params), values


def _points_taken(name, function, given):
    """Return 1 for a function of the difference, 2 for one of both points."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in signature.parameters.values() if p.kind in kinds and p.default is inspect.Parameter.empty]
    points = sum(p.name not in given for p in required)
    if points not in (1, 2):
        raise InvalidInputError(
            f"{name} must be a function of two points, {name}(y, x), or of their difference, {name}(d), and of "
            f"params by keyword; got the signature {signature}."
        )
    return points


def _refuse_hidden_gradients(name, function, pair, Y, X, values):
    if not torch.is_grad_enabled():
        return
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    held = {}
    for key, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
        try:
            held[key] = cell.cell_contents
        except ValueError:  # not yet filled
            continue
    scope = getattr(function, "__globals__", {})
    held |= {key: scope[key] for key in getattr(code, "co_names", ()) if key in scope}
    for key, value in held.items():
        if isinstance(value, torch.Tensor) and value.requires_grad:
            raise InvalidInputError(
                f"{name} mentions the tensor {key!r}, which asks for gradients that it would not get. Make it an "
                f"argument of the function and pass params={{{key!r}: {key}}}."
            )
    if Y.shape[0] and X.shape[0] and _moves(pair, Y, X, values):
        raise InvalidInputError(
            f"{name} holds a tensor that asks for gradients, which it would not get. Make it an argument of the "
            "function and pass it by params."
        )


def _moves(pair, Y, X, values):
    """Return whether the value of one pair asks for gradients although its points and parameters do not."""
    try:
        return pair(Y[:1].detach(), X[:1].detach().T, [value.detach() for value in values]).requires_grad
    except Exception:  # whatever is wrong with the function, the engine finds it again and names it
        return False
