r"""The door of self-calibration: data, matrices, weights and names, checked and brought to one shape.

Notation  y (b, p, m) with the leading axes of the data flattened to b channels; A (b or 1, p or 1, m, n); W (b or 1, p,
          m) or None; data and matrices are scaled by powers of two, which is exact, so that squares stay in range.
Pitfalls  a NaN in the data is a flag: its weight and its value become zero. An infinity is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml.exceptions import IdentifiabilityError, InvalidInputError
from sciml.inverse.calibration.elimination import Diverse, Joint, Shared, Total
from sciml.linalg.arrays import enter
from sciml.validation import check_option

__all__ = ["Problem", "as_problem", "build_elimination", "triangular_factor"]

MODELS = ("auto", "repeated", "diverse", "snapshots", "covariance")
_NEAR = 2.0**-60
_PATTERNS = 64  # distinct rows of weights that are worth a factor of their own


@dataclass
class Problem:
    """A self-calibration problem in the shape that the methods take.

    Parameters
    ----------
    y : Tensor, shape (b, p, m)
        Scaled data, zero where flagged.
    A : Tensor, shape (b or 1, p or 1, m, n), or None
        Scaled matrices; None for an operator.
    operator : object or None
        What came as `A` where it is no array.
    W : Tensor, shape (b or 1, p, m), or None
        Weights.
    model : str
        One of the models.
    batch : tuple of int
        Leading axes of the data.
    batch_names : tuple of str or None
        Their names.
    sensors : list
        Names of the sensors: numbers, if none came.
    leave : callable
        Gives tensors back in the kind of the data.
    y_unit, A_unit : float
        Powers of two that data and matrices were divided by.
    absolute : bool
        Whether the weights are inverse variances.
    is_complex : bool
        Of data or matrices.
    working : torch.dtype
        Of the data, in which answers are given.
    count : float or None
        Number of snapshots that `y` stands for, where it is their triangular factor; None (the default): its rows.
    noise_unit : float
        What one stands for where the noise was given as a number, so that its estimate comes in the units of the data.
    """

    y: torch.Tensor
    A: torch.Tensor | None
    operator: Any
    W: torch.Tensor | None
    model: str
    batch: tuple
    batch_names: tuple | None
    sensors: list
    leave: Any
    y_unit: float
    A_unit: float
    absolute: bool
    is_complex: bool
    working: torch.dtype
    coords: dict = field(default_factory=dict)
    count: float | None = None
    noise_unit: float = 1.0

    @property
    def n(self):
        """Unknowns of a signal."""
        return self.A.shape[-1] if self.A is not None else self.operator.shape[-1]


def as_problem(y, A, *, model="auto", weights=None, sensors=None, noise_std=None, dtype=None, device=None):
    """Return the arguments of `self_calibrate` as a `Problem`; parameters as there.

    Parameters
    ----------
    y, A, model, weights, sensors, noise_std, dtype, device
        As for `self_calibrate`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, an entry is infinite, or all weights are zero.

    Examples
    --------
    >>> import numpy as np
    >>> problem = as_problem(np.ones((4, 3)), np.ones((3, 1)))
    >>> problem.model, tuple(problem.y.shape), tuple(problem.A.shape)
    ('snapshots', (1, 4, 3), (1, 1, 3, 1))
    """
    check_option("model", model, MODELS)
    y, names, axes = _from_frame(y, sensors, model)
    is_operator = not _is_array(A)
    if y is None or A is None:
        missing, what = ("y", "the data (p, m)") if y is None else ("A", "a matrix (m, n), (p, m, n), or an operator")
        raise InvalidInputError(f"{missing} must be an array; got None. Pass {what}.")
    arrays = (y, None if is_operator else A)
    (y, dense, W), leave = enter(
        *arrays, weights, names=("y", "A", "weights"), dtype=dtype, device=device, check_finite=False
    )
    operator = A if is_operator else None
    operator_dtype = _dtype_of(operator)
    if operator_dtype is not None and operator_dtype.is_complex and not y.is_complex():
        y = torch.complex(y, torch.zeros_like(y))
    if y.ndim < 2:
        raise InvalidInputError(
            f"y must have shape (p, m), snapshots by sensors, after any leading axes; got shape {tuple(y.shape)}. For "
            "one snapshot pass y[None]."
        )
    *batch, p, m = y.shape
    if 0 in y.shape:
        raise InvalidInputError(f"y must not be empty; got shape {tuple(y.shape)}. Pass at least one snapshot.")
    model = _resolve_model(model, dense, operator, p, m)
    y = y.reshape(-1, p, m)
    flagged = y != y  # NaN, without a copy of the moduli
    if not bool((torch.isfinite(y) | flagged).all()):
        where = tuple(int(i) for i in torch.isinf(y.abs()).nonzero()[0])
        raise InvalidInputError(
            f"y must be finite, or NaN where flagged; the entry at index {where} is infinite. Set it to NaN to flag it."
        )
    absolute = W is not None and not _is_boolean(weights)
    if noise_std is not None:
        W, absolute = _from_noise(noise_std, W, y, p, m), True
    W = _weights(W, flagged, batch, p, m)
    y = y.masked_fill(flagged, 0) if bool(flagged.any()) else y
    names = list(range(m)) if names is None else names
    if len(names) != m or len(set(map(str, names))) != m:
        raise InvalidInputError(
            f"sensors must be {m} different names, one for each sensor; got {len(names)}, {len(set(map(str, names)))} "
            f"of them different. {'Rename the duplicates' if len(names) == m else f'Pass {m} names'}."
        )
    working = y.dtype
    y_unit = power_of_two(y)
    if dense is None and _NEAR < y_unit < 1 / _NEAR:
        y_unit = 1.0  # large data are not copied for the sake of squares that are in range anyway
    A_unit = 1.0
    long = torch.complex128 if y.is_complex() else torch.float64
    if dense is not None:
        if not bool(torch.isfinite(dense.abs()).all()):
            where = tuple(int(i) for i in (~torch.isfinite(dense.abs())).nonzero()[0])
            raise InvalidInputError(
                f"A must be finite; the entry at index {where} is {dense[where].item()}. Correct it."
            )
        dense = _matrices(dense, model, batch, p, m)
        A_unit = power_of_two(dense)
        if A_unit == 0:
            raise InvalidInputError("A must not be zero: no signal would reach a sensor; got zeros only. Check A.")
        dense = dense.to(long) * (1 / A_unit)  # division of complex numbers squares the divisor
    if y_unit == 0:
        raise IdentifiabilityError("y must not be zero everywhere: there is nothing to calibrate with. Check the data.")
    scaled = y.to(long) if dense is not None else y
    scaled = scaled if y_unit == 1 else scaled * (1 / y_unit)
    return Problem(
        y=scaled,
        A=dense,
        operator=operator,
        W=W,
        model=model,
        batch=tuple(batch),
        batch_names=axes,
        sensors=names,
        leave=leave,
        y_unit=y_unit,
        A_unit=A_unit,
        absolute=absolute,
        is_complex=y.is_complex(),
        working=working,
        noise_unit=float(noise_std) if noise_std is not None and np.ndim(noise_std) == 0 else 1.0,
    )


def build_elimination(problem, W="own"):
    """Return the elimination that suits model and weights.

    Parameters
    ----------
    problem : Problem
        With matrices, not an operator.
    W : Tensor, shape (b or 1, p, m), or None
        Weights in place of those of the problem, which are the default.

    Examples
    --------
    >>> import numpy as np
    >>> build_elimination(as_problem(np.ones((4, 3)), np.ones((3, 1)))).count
    tensor([4.], dtype=torch.float64)
    """
    y, A, W = problem.y, problem.A, problem.W if isinstance(W, str) else W
    if problem.model == "repeated":
        return Joint(y, A.expand(-1, y.shape[1], -1, -1), W)
    if problem.model == "diverse" or A.shape[1] > 1:
        return Diverse(y, A, W)
    b, p, _ = y.shape
    stands_for = float(p) if problem.count is None else problem.count
    count = torch.full((b,), stands_for, dtype=y.real.dtype, device=y.device)
    if W is None or bool((W[:, :1] == W).all()):
        return Shared(triangular_factor(y), A[:, 0], count, None if W is None else W[:, 0])
    if len(W) == 1:
        patterns, which = torch.unique(W[0], dim=0, return_inverse=True)
        if len(patterns) <= min(_PATTERNS, max(1, p // 2)):
            parts, places = [], []
            for number, pattern in enumerate(patterns):
                place = (which == number).nonzero()[:, 0]
                own = torch.full_like(count, float(len(place)))
                parts.append(Shared(triangular_factor(y[:, place]), A[:, 0], own, pattern[None]))
                places.append(place)
            return Total(parts, places)
    return Diverse(y, A, W)


def triangular_factor(y, start=None):
    """Return a matrix L with L^H L = sum_l conj(y_l) y_l^T, the snapshots or the triangle of their QR, by blocks.

    Parameters
    ----------
    y : Tensor, shape (b, p, m)
        Snapshots.
    start : Tensor, shape (b, q, m), or None
        Factor of earlier snapshots; none by default.

    Returns
    -------
    Tensor, shape (b, min(p, m), m)
        The factor.

    Examples
    --------
    >>> import torch
    >>> triangular_factor(torch.ones(1, 9, 1)).abs().round(decimals=3)
    tensor([[[3.]]])
    """
    m = y.shape[-1]
    step = max(4 * m, 2**18 // m)
    L = start
    for begin in range(0, y.shape[1], step):
        block = y[:, begin : begin + step]
        L = block if L is None else torch.cat([L, block], 1)
        if L.shape[1] > m:
            L = torch.linalg.qr(L, mode="r").R
    return y[:, :0] if L is None else L


def power_of_two(t):
    """Return the power of two below the largest modulus; 0.0 for zeros only.

    Parameters
    ----------
    t : Tensor
        Finite.

    Examples
    --------
    >>> import torch
    >>> power_of_two(torch.tensor([0.3, -5.0]))
    4.0
    """
    if t.numel() == 0:
        return 0.0
    # The largest part of a complex number is near enough to its modulus, and needs no copy.
    low, high = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).aminmax()
    top = max(-float(low), float(high))
    # Its inverse is finite, too.
    return 2.0 ** max(math.floor(math.log2(top)), -1000) if top > 0 else 0.0


def _is_array(A):
    return not (hasattr(A, "matvec") or hasattr(A, "rmatvec") or callable(A)) and not (
        isinstance(A, (list, tuple)) and len(A) > 0 and (hasattr(A[0], "matvec") or hasattr(A[0], "rmatvec"))
    )


def _dtype_of(operator):
    if operator is None:
        return None
    first = operator[0] if isinstance(operator, (list, tuple)) else operator
    own = getattr(first, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.complex128 if "complex" in str(own) else None


def _is_boolean(weights):
    return "bool" in str(getattr(weights, "dtype", ""))


def _from_frame(y, sensors, model):
    """Return the data with snapshots and sensors last, names of the sensors and of the leading axes."""
    names = None if sensors is None else list(sensors)
    if isinstance(y, np.ma.MaskedArray):
        # A mask is a flag, as NaN is; without this it would be lost.
        return y.astype(np.result_type(y.dtype, np.float32)).filled(np.nan), names, None
    if not (type(y).__module__.startswith("xarray") and hasattr(y, "dims")):
        return y, names, None
    if "sensor" in y.dims and "snapshot" in y.dims:
        y = y.transpose(..., "snapshot", "sensor")
    if names is None and y.dims and y.dims[-1] in y.coords:
        names = y.coords[y.dims[-1]].values.tolist()
    return y, names, tuple(map(str, y.dims[:-2]))


def _resolve_model(model, A, operator, p, m):
    if model == "covariance" or operator is not None:
        if operator is not None and model == "covariance":
            raise InvalidInputError(
                "A must be an array, the model covariance, for model='covariance'; got an operator."
            )
        if model == "auto":
            first = operator
            many = isinstance(operator, (list, tuple)) or len(getattr(first, "batch_shape", ()) or ()) > 0
            many = many or len(getattr(first, "shape", ())) == 3
            return "diverse" if many else "snapshots"
        return model
    if A.ndim < 2:
        raise InvalidInputError(
            f"A must have shape (m, n) or (p, m, n); got {tuple(A.shape)}. For one column: A[:, None]."
        )
    if model == "auto":
        return "snapshots" if A.ndim == 2 else "diverse"
    return model


def _matrices(A, model, batch, p, m):
    """Return A with the axes (b or 1, p or 1, m, n)."""
    want = "(m, n)" if model == "snapshots" else "(p, m, n)"
    lead = A.shape[:-2]
    if A.shape[-1] == 0:
        raise InvalidInputError(
            f"A must have columns, one for each unknown of a signal; got shape {tuple(A.shape)}. Pass at least one."
        )
    if model == "covariance" and A.shape[-2:] != (m, m):
        raise InvalidInputError(
            f"A must be the model of the visibilities, of shape ({m}, {m}) as y; got {tuple(A.shape)}. Leave "
            "other sensors out of it."
        )
    if A.shape[-2] != m:
        raise InvalidInputError(
            f"A must have shape {want} with as many rows as y has sensors, {m}; got A of shape {tuple(A.shape)} for "
            f"{p} snapshots of {m} sensors. Transpose it, or y."
        )
    if model == "snapshots":
        own, lead = (1,), lead
    elif len(lead) == 0:
        own = (1,)
    else:
        own, lead = lead[-1:], lead[:-1]
        if own[0] not in (1, p):
            raise InvalidInputError(
                f"A must have shape (p, m, n) with p = {p} as in y; got A of shape {tuple(A.shape)}. For one matrix a "
                "channel pass model='snapshots'."
            )
    if lead and tuple(lead) != tuple(batch):
        raise InvalidInputError(
            f"A must have the leading axes of y, {tuple(batch)}, or none; got A of shape {tuple(A.shape)}. Its shape "
            f"without them is {want}."
        )
    return A.reshape(-1 if lead else 1, *own, m, A.shape[-1])


def _from_noise(noise_std, W, y, p, m):
    (s,), _ = enter(noise_std, names=("noise_std",), device=None if y.device.type == "cpu" else str(y.device))
    if s.is_complex():
        raise InvalidInputError("noise_std must be real; got complex numbers. Pass the root of E|noise|^2.")
    if bool((s <= 0).any()):
        raise InvalidInputError(f"noise_std must be above 0; got {float(s.min()):g}. Leave it out if it is not known.")
    if s.ndim > 2 or (s.ndim and s.shape[-1] not in (1, m)) or (s.ndim == 2 and s.shape[0] not in (1, p)):
        raise InvalidInputError(
            f"noise_std must be a number or of shape ({m},) or ({p}, {m}); got {tuple(s.shape)}. Sensors come last."
        )
    precision = (1 / s.square()).to(torch.float64).expand(p, m)
    return precision if W is None else W * precision


def _weights(W, flagged, batch, p, m):
    """Return weights (b or 1, p, m), or None where all are one."""
    if W is not None:
        if W.is_complex():
            if bool((W.imag != 0).any()):
                raise InvalidInputError(
                    "weights must be real; got complex numbers. Pass inverse variances, 0 for a flag."
                )
            W = W.real
        if bool((W < 0).any()) or not bool(torch.isfinite(W).all()):
            raise InvalidInputError(
                f"weights must be finite and at least 0; got values from {float(W.min()):g} to {float(W.max()):g}. "
                "Weights are inverse variances, 0 for a flag."
            )
        W = W.to(torch.float64)
        if not bool((W > 0).any()):
            raise InvalidInputError("weights must not all be zero; got zeros only. Nothing is left to calibrate with.")
        fits = W.ndim <= 2 + len(batch) and W.shape[-1:] in ((m,), ())
        try:
            W = W.expand(p, m) if W.ndim <= 2 else W.expand(*batch, p, m).reshape(-1, p, m)
        except RuntimeError:
            fits = False
        if not fits:
            raise InvalidInputError(
                f"weights must have shape ({m},), ({p}, {m}) or that of y; got {tuple(W.shape)}. Sensors come last."
            )
        W = W[None] if W.ndim == 2 else W
    if not bool(flagged.any()):
        return W
    if bool(flagged.all()):
        raise InvalidInputError("y must hold numbers; every entry is NaN, that is, flagged. Check the data.")
    keep = (~flagged).to(torch.float64)
    keep = keep[:1] if bool((keep == keep[:1]).all()) else keep
    return keep if W is None else W * keep
