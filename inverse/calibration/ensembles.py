r"""Measurement ensembles: masks before a Fourier transform, parts of one, spreading codes, arrays of sensors.

.. math:: A_l = F\,\mathrm{diag}(c_l)\,R, \qquad A_l^H A_l \text{ diagonal}

Notation  F the unitary Fourier transform; c_l mask or code of snapshot l; R repeats or pads a signal; A_l (m, n).
Cost      a Fourier transform of length m a product, against 2 m n of a matrix; the masks are kept, nothing else.
Pitfalls  masks on the signal diversify repeated measurements of one signal, but not those of many signals: there
          diag(c_l) x_l is only another signal, and A_l = F diag(c_l) is a single matrix in disguise. With a signal a
          snapshot, diversity must act after the signal was spread: :class:`SpreadCode`.

References
----------
S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv 1611.04196.
"""

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.callable_ensemble import FromCallable as FromCallable
from sciml.inverse.calibration.ensemble_adapters import Matrices
from sciml.inverse.calibration.ensemble_adapters import as_ensemble as as_ensemble
from sciml.inverse.calibration.ensemble_base import (
    Ensemble,
    codes_of,
    complex_dtype,
    distinct,
    in_precision_of,
    power,
)
from sciml.linalg.arrays import enter
from sciml.validation import check_number

__all__ = ["DFTMask", "FromCallable", "PartialDFT", "SpreadCode", "Steering", "as_ensemble"]


class DFTMask(Ensemble):
    r"""A mask on the signal, then the unitary Fourier transform: :math:`A_l x = F (c_l \circ x)`, in any dimension.

    Parameters
    ----------
    masks : array, shape (p, n) or (p, *shape)
        Real, complex, integer or boolean; with `shape`, flat or not.
    shape : tuple of int or None
        Axes of the signal, which is flattened in C order; None (the default) takes ``masks.shape[1:]``.
    padded : tuple of int or None
        Axes of the transform, at least as long: the masked signal is padded by zeros at the end, which gives more data
        than unknowns. None (the default) takes `shape`, so that m = n.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit.

    Notes
    -----
    ``A_l^H A_l = diag(|c_l|^2)``. For repeated measurements of one signal, such as diffraction behind coded apertures;
    with a signal of its own in each snapshot the masks bring nothing (see above).

    Examples
    --------
    >>> import numpy as np
    >>> A = DFTMask(np.array([[1, 1, 1, 1], [1, -1, 1, -1]]))
    >>> A.to_dense()[1].real[::2]
    array([[ 0.5, -0.5,  0.5, -0.5],
           [ 0.5,  0.5,  0.5,  0.5]])
    """

    _fields = ("masks",)
    _per_snapshot = ("masks",)

    def __init__(self, masks, shape=None, padded=None):
        masks, kind = codes_of("masks", masks)
        self.axes = _axes("shape", masks.shape[1:] if shape is None else shape)
        self.padded = self.axes if padded is None else _axes("padded", padded)
        p, n, m = len(masks), math.prod(self.axes), math.prod(self.padded)
        if masks[0].numel() != n:
            raise InvalidInputError(
                f"masks must hold {n} entries each for shape={self.axes}; got shape {tuple(masks.shape)}. "
                "Pass the axes of the signal as shape."
            )
        if len(self.padded) != len(self.axes) or any(b < a for a, b in zip(self.axes, self.padded, strict=True)):
            raise InvalidInputError(
                f"padded must be at least as long as shape={self.axes} along every axis; got {self.padded}. "
                "Name one length for each axis."
            )
        self.masks = masks.reshape(p, n)
        gram = distinct(power(self.masks))
        super().__init__(
            (m, n), dtype=complex_dtype(masks), device=masks.device, batch_shape=(p,), gram=gram, kind=kind
        )

    def _forward(self, X, start, stop):
        X = X * in_precision_of(self.masks[start:stop], X)
        X = X.reshape(*X.shape[:-1], *self.axes)
        axes = tuple(range(-len(self.axes), 0))
        return torch.fft.fftn(X, s=self.padded, dim=axes, norm="ortho").flatten(-len(self.axes))

    def _adjoint(self, Y, start, stop):
        Y = Y.reshape(*Y.shape[:-1], *self.padded)
        X = torch.fft.ifftn(Y, dim=tuple(range(-len(self.axes), 0)), norm="ortho")
        X = X[(..., *(slice(a) for a in self.axes))].flatten(-len(self.axes))
        return X * in_precision_of(self.masks[start:stop], Y).conj()


class PartialDFT(Ensemble):
    r"""Some rows and columns of the unitary Fourier transform, :math:`A_{jk} = N^{-1/2} e^{-2 \pi i r_j c_k / N}`.

    Parameters
    ----------
    rows, cols : int or array of int, shape (m,) and (n,)
        Which ones, from 0, each at most once; a number stands for that many, the first ones.
    size : int or None
        The length N of the transform; None (the default) takes the shortest that holds all of them.

    Raises
    ------
    InvalidInputError
        If an index is out of range or comes twice.

    Notes
    -----
    With all N rows the columns are orthonormal; with all columns (``cols=N``) the rows are. Neighbouring first columns
    (``cols=n``) make a slowly varying gain hard to tell from a change of the signal: the problem is badly conditioned.

    Examples
    --------
    >>> A = PartialDFT(8, [0, 3, 5])
    >>> A.shape, A.gram, PartialDFT([0, 2], [0, 3], size=8).gram
    ((8, 3), tensor([[1., 1., 1.]], dtype=torch.float64), None)
    """

    _fields = ("rows", "cols")

    def __init__(self, rows, cols, size=None):
        kind = "torch" if isinstance(rows, torch.Tensor) or isinstance(cols, torch.Tensor) else "numpy"
        self.rows, self.cols = _indices("rows", rows), _indices("cols", cols)
        longest = 1 + int(max(self.rows.max(), self.cols.max()))
        self.size = longest if size is None else check_number("size", size, low=1, integer=True)
        if self.size < longest:
            raise InvalidInputError(
                f"rows and cols must lie below size={self.size}; got {longest - 1}. Pass a longer size."
            )
        m, n = len(self.rows), len(self.cols)
        gram = torch.ones(1, n, dtype=torch.float64) if m == self.size else None
        super().__init__((m, n), dtype=torch.complex128, gram=gram, kind=kind)

    def _forward(self, X, start, stop):
        return torch.fft.fft(self._spread(X, self.cols), norm="ortho")[..., self.rows]

    def _adjoint(self, Y, start, stop):
        return torch.fft.ifft(self._spread(Y, self.rows), norm="ortho")[..., self.cols]

    def _spread(self, X, where):
        full = X.new_zeros(*X.shape[:-1], self.size)
        full[..., where] = X
        return full


class SpreadCode(Ensemble):
    r"""Spreading codes: each number of a signal is held for some chips, times a code, then a Fourier transform.

    .. math:: A_l x = F (c_l \circ R x), \qquad (R x)_j = x_{\lfloor j n / m \rfloor}

    Parameters
    ----------
    masks : array, shape (p, m)
        The codes, such as random signs; m chips each, at least `n`. Codes of one byte take an eighth of the memory.
    n : int
        Length of a signal.

    Raises
    ------
    InvalidInputError
        If there are fewer chips than numbers.

    Notes
    -----
    ``A_l^H A_l`` is diagonal: the energy of the chips of each number, m / n for signs where n divides m.

    Examples
    --------
    >>> import numpy as np
    >>> A = SpreadCode(np.array([[1, -1, 1, 1]]), 2)
    >>> A.to_dense()[0].real
    array([[ 0. ,  1. ],
           [ 0.5, -0.5],
           [ 1. ,  0. ],
           [ 0.5, -0.5]])
    """

    _fields = ("masks",)
    _per_snapshot = ("masks",)

    def __init__(self, masks, n):
        masks, kind = codes_of("masks", masks)
        if masks.ndim != 2:
            raise InvalidInputError(f"masks must have shape (p, m); got {tuple(masks.shape)}. Flatten each code.")
        p, m = masks.shape
        n = check_number("n", n, low=1, integer=True)
        if n > m:
            raise InvalidInputError(
                f"n must be at most the number of chips, {m}; got {n}. Pass longer codes, or DFTMask with padded."
            )
        self.masks, self._n = masks, n
        self._holder = None if m % n == 0 else torch.arange(m, device=masks.device) * n // m
        sums = [self._gather(power(masks[j : j + 16])).double() for j in range(0, p, 16)]
        super().__init__(
            (m, n),
            dtype=complex_dtype(masks),
            device=masks.device,
            batch_shape=(p,),
            gram=distinct(torch.cat(sums)),
            kind=kind,
        )

    def _forward(self, X, start, stop):
        codes = in_precision_of(self.masks[start:stop], X)
        if self._holder is None:
            chips = (X[..., None] * codes.unflatten(-1, (self._n, -1))).flatten(-2)
        else:
            chips = X[..., self._holder] * codes
        return torch.fft.fft(chips, norm="ortho")

    def _adjoint(self, Y, start, stop):
        chips = torch.fft.ifft(Y, norm="ortho")
        chips *= in_precision_of(self.masks[start:stop], chips).conj()
        return self._gather(chips)

    def _gather(self, chips):
        """Sum the chips of each number: the transpose of R."""
        if self._holder is None:
            return chips.unflatten(-1, (self._n, -1)).sum(-1)
        return chips.new_zeros(*chips.shape[:-1], self._n).index_add_(-1, self._holder, chips)


class Steering(Matrices):
    r"""Plane waves on an array of sensors: :math:`A_{jk} = e^{2 \pi i \langle r_j, u_k \rangle / \lambda}`.

    Parameters
    ----------
    positions : array, shape (m,) or (m, dim)
        Of the sensors, in the unit of `wavelength`.
    directions : array, shape (n,) or (n, dim)
        Unit vectors towards the sources; for a line of sensors the sine of the angle to its normal.
    wavelength : float
        Above 0; 1 by default, for positions in wavelengths.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit or the wavelength is not positive.

    Notes
    -----
    One matrix for all snapshots, kept as numbers. For a line of sensors at equal distances the gains are undetermined
    up to a phase ramp, which turns into another set of directions, as long as the directions themselves are unknown;
    for known ones they are determined.

    Examples
    --------
    >>> import numpy as np
    >>> Steering(0.5 * np.arange(4), [0.0, 1.0]).to_dense().real.round(6)
    array([[ 1.,  1.],
           [ 1., -1.],
           [ 1.,  1.],
           [ 1., -1.]])
    """

    def __init__(self, positions, directions, wavelength=1.0):
        wavelength = check_number("wavelength", wavelength, low=0, inclusive="neither")
        (r, u), _ = enter(positions, directions, names=("positions", "directions"), check_finite=True)
        r, u = (t[:, None] if t.ndim == 1 else t for t in (r, u))
        if r.ndim != 2 or u.ndim != 2 or r.shape[1] != u.shape[1]:
            raise InvalidInputError(
                f"positions and directions must have the same number of coordinates, shapes (m, dim) and (n, dim); got "
                f"{tuple(r.shape)} and {tuple(u.shape)}. Leave out coordinates that are zero on one side."
            )
        kind = "torch" if isinstance(positions, torch.Tensor) else "numpy"
        phase = 2 * math.pi / wavelength * (r @ u.mT)
        super().__init__(torch.complex(phase.cos(), phase.sin()), kind=kind)


def _axes(name, shape):
    given = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    return tuple(check_number(name, length, low=1, integer=True) for length in given)


def _indices(name, where):
    """Return indices as a tensor; a number stands for the first ones."""
    if np.ndim(where) == 0:
        return torch.arange(check_number(name, where, low=1, integer=True))
    found = torch.as_tensor(np.asarray(where))
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype is torch.bool)
    if found.ndim != 1 or not len(found) or not whole or int(found.min()) < 0:
        raise InvalidInputError(
            f"{name} must be a number or a list of indices not below 0; got {str(where)[:60]}. "
            "Turn a mask into indices by numpy.flatnonzero."
        )
    if len(found.unique()) < len(found):
        values, counts = found.unique(return_counts=True)
        raise InvalidInputError(
            f"{name} must hold every index at most once; got {int(values[counts.argmax()])} {int(counts.max())} times. "
            "Use numpy.unique."
        )
    return found.long()
