r"""Eigenvalues of the smaller Gram matrix of a layer, read once, block by block.

.. math:: \lambda(W) = \operatorname{eig}(W W^H), \quad W\ (m, n),\ m \le n

Notation  W (rows, cols) one matrix of a layer; G (m, m) its smaller Gram matrix, m = min(rows, cols); a layer may hold
          several matrices (slices of a convolution), whose eigenvalues are pooled.
Cost      rows cols m multiplications for G, 4/3 m^3 for its eigenvalues; memory m^2 numbers and one block. About a
          third of the time of singular values.
Pitfalls  G squares the condition number: eigenvalues below eps * lambda_max are noise, and are reported as rank, not as
          numbers. In float32 the upper half of a spectrum is safe, its lower end is not. Squares of weights below
          1e-120 or above 1e120 would leave the range of numbers: such layers are scaled by a power of two first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.validation import check_option

__all__ = ["spectrum"]

# Blocks stay in the cache; larger ones take more time.
BLOCK_BYTES = 8 << 20
HELD_BYTES = 64 << 20
# Entries of a block from which moments are read.
_SAMPLE = 20000
# Sizes for which torch's LAPACK takes less time than SciPy's; it needs a copy, which larger matrices cannot afford.
_TORCH_FROM, _TORCH_TO = 1536, 4096
# A row or column is dead when its norm is below this share of the largest.
DEAD = 1e-8
# Magnitudes whose squares LAPACK does not scale by itself: it would by factors that are no powers of two.
_SAFE = {torch.float64: (2.0**-200, 2.0**200), torch.float32: (2.0**-20, 2.0**20)}


@dataclass
class Scan:
    """What one reading of a layer's matrices tells.

    Parameters
    ----------
    grams : list of array, shape (m, m)
        The smaller Gram matrix of each slice, divided by 2**shift; only the lower triangle of those on the CPU is set.
    row_squares, col_squares : ndarray, shapes (rows,), (cols,)
        Squared norms, summed over slices, with the same division.
    largest : float
        Largest magnitude of an entry.
    n_bad : int
        Number of entries that are NaN or infinite.
    shift : int
        Eigenvalues are those of the Gram matrices times 2**shift.
    moments : ndarray, shape (3,)
        Number, sum of squares and sum of fourth powers of a sample of the entries, with the same division.
    """

    grams: list = field(default_factory=list)
    row_squares: np.ndarray | None = None
    col_squares: np.ndarray | None = None
    largest: float = 0.0
    n_bad: int = 0
    shift: int = 0
    moments: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def flatness(self, is_complex):
        """Return the excess kurtosis of the entries where it is negative, else 0: heavy tails are no noise."""
        count, square, fourth = self.moments
        if not square > 0:
            return 0.0
        normal = 2.0 if is_complex else 3.0
        return float(max(min(count * fourth / square**2 - normal, 0.0), 1.0 - normal))


class ArrayLayer:
    """Matrices in memory, with the interface of a stored layer.

    Parameters
    ----------
    *matrices : tensor, shape (rows, cols)
        The slices, of equal shape.
    name : str
        Its name in messages.
    """

    def __init__(self, *matrices, name="W"):
        self._matrices, self.name = matrices, name
        self.rows, self.cols = matrices[0].shape
        self.n_slices, self.is_complex, self.low_rank = len(matrices), matrices[0].is_complex(), None

    def matrix(self, k=0):
        """Return a matrix."""
        return self._matrices[k]

    def take(self, index, k=0):
        """Return rows of a matrix."""
        return self._matrices[k][torch.as_tensor(index)]

    def row_blocks(self, k=0, nbytes=BLOCK_BYTES):
        """Yield blocks of rows."""
        step = max(1, nbytes // max(1, self.cols * self._matrices[k].element_size()))
        for start in range(0, self.rows, step):
            yield self._matrices[k][start : start + step]


def held(layer):
    """Return a layer in memory where it is small enough, so that a file is read once; else the layer itself."""
    itemsize = {"float64": 8, "complex64": 8, "complex128": 16}.get(layer.stored_dtype, 4)
    size = layer.rows * layer.cols * layer.n_slices * itemsize
    return ArrayLayer(*layer.matrices(), name=layer.name) if size <= HELD_BYTES else layer


def spectrum(W, *, method="gram", dtype=None, device=None):
    r"""Return the eigenvalues of the smaller Gram matrix of `W`, which are its squared singular values.

    Parameters
    ----------
    W : array, shape (m, n)
        Real or complex matrix; NumPy, torch or anything that these read.
    method : {"gram", "svd"}
        "gram" (the default, for its speed) has an absolute error of about eps * lambda_max; "svd" keeps small
        eigenvalues to that error in their square roots.
    dtype, device : optional
        Where and in which precision to compute. None, the default, keeps float32 and float64 and the device of W; other
        types become float64.

    Returns
    -------
    array, shape (min(m, n),)
        Ascending, not negative; of the kind of W.

    Raises
    ------
    InvalidInputError
        If W is no matrix, is empty or holds NaN or infinities, or its eigenvalues leave the range of numbers.

    Examples
    --------
    >>> import numpy as np
    >>> spectrum(np.diag([3.0, 1.0, 2.0])).round(12)
    array([1., 4., 9.])
    """
    method = check_option("method", method, ("gram", "svd"))
    (W,), leave = enter(W, names=("W",), dtype=dtype, device=device)
    if W is None or W.ndim != 2 or not W.numel():
        got = "None" if W is None else f"shape {tuple(W.shape)}"
        raise InvalidInputError(
            f"W must be a matrix, shape (m, n); got {got}. For all layers of a network use diagnose."
        )
    if method == "svd":
        return leave(torch.linalg.svdvals(W).flip(0).square())
    layer = ArrayLayer(W.detach())
    scanned = scan(layer, dtype=real_dtype(W.dtype), device=W.device)
    lam = torch.as_tensor(eigenvalues(scanned.grams[0]), device=W.device)
    half = scanned.shift // 2
    lam = lam * 2.0**half * 2.0**half
    if not torch.isfinite(lam).all() or (scanned.largest > 0 and lam[-1] == 0):
        raise InvalidInputError(
            f"W must have squares within the range of numbers; its largest entry is {scanned.largest:.3g}. Scale it."
        )
    return leave(lam)


def real_dtype(dtype):
    """Return the real torch type of the precision in which a type is computed."""
    return torch.float32 if dtype in (torch.float32, torch.complex64) else torch.float64


def scan(layer, *, dtype=torch.float64, device="cpu", nbytes=BLOCK_BYTES, grams=True):
    """Read the matrices of a layer once: Gram matrices, norms of rows and columns, entries that are no numbers.

    Where the magnitudes ask for it, the matrices are read again, divided by a power of two.
    """
    found = _scan(layer, 0, dtype, device, nbytes, grams)
    low, high = _SAFE[dtype]
    if found.n_bad or found.largest == 0 or low <= found.largest <= high:
        return found
    exponent = math.frexp(found.largest)[1]
    again = _scan(layer, exponent, dtype, device, nbytes, grams)
    again.largest, again.shift = found.largest, 2 * exponent
    return again


def eigenvalues(G):
    """Return the ascending eigenvalues of a Gram matrix, not below 0; a matrix on the CPU is overwritten."""
    if isinstance(G, torch.Tensor):
        return torch.linalg.eigvalsh(G).clamp_min(0)
    if _TORCH_FROM <= len(G) <= _TORCH_TO:
        return torch.linalg.eigvalsh(torch.from_numpy(G)).clamp_min(0).numpy()
    # The transpose of a matrix in C order is one in Fortran order, which LAPACK overwrites without a copy.
    lam = scipy.linalg.eigh(G.T, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd", lower=False)
    return np.maximum(lam, 0)


def times_power_of_two(values, shift):
    """Return values * 2**shift as an array, infinite or zero where that leaves the range of numbers."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(values, shift)


def low_rank_eigenvalues(B, A, scale):
    """Return the r ascending eigenvalues of the Gram matrix of scale B A, with B (m, r) and A (r, n), from its core.

    With B = Q R and A^H = P S, the singular values of B A are those of R S^H.
    """
    kind = torch.complex128 if B.is_complex() or A.is_complex() else torch.float64
    R = torch.linalg.qr(B.detach().cpu().to(kind), mode="r").R
    S = torch.linalg.qr(A.detach().cpu().to(kind).mH, mode="r").R
    return (scale * torch.linalg.svdvals(R @ S.mH)).flip(0).square().numpy()


def _scan(layer, exponent, dtype, device, nbytes, grams):
    out = Scan(row_squares=np.zeros(layer.rows), col_squares=np.zeros(layer.cols))
    kind = complex_of(dtype) if layer.is_complex else dtype
    for k in range(layer.n_slices):
        total = None
        start = 0
        for stored in layer.row_blocks(k, nbytes // 2):
            if exponent == 0:
                _look(stored, out)
            block = divided(stored, exponent, kind, device)
            _sample(block, out)
            _add_norms(block, start, out, columns=not grams or layer.rows < layer.cols)
            if grams:
                total = _add(total, block, start, layer, k, exponent, nbytes)
            start += len(block)
        if grams:
            out.grams.append(total)
            if layer.rows >= layer.cols:
                out.col_squares += torch.as_tensor(total).diagonal().real.double().cpu().numpy()
    return out


def divided(stored, exponent, kind, device):
    """Return a block in the precision of the computation, divided by 2**exponent."""
    # Numbers beyond the range of a narrower type come into it by the division.
    wide = stored.dtype if exponent and stored.dtype in (torch.float64, torch.complex128) else kind
    block = stored.detach().to(device=device, dtype=wide).resolve_conj()
    if exponent:
        # In two steps, since 2.0**exponent alone may leave the range of numbers.
        half = exponent // 2
        block = block * 2.0**-half * 2.0 ** (half - exponent)
    return block.to(kind)


def _look(block, out):
    """Note the largest magnitude, or the number of entries that are no numbers."""
    if not block.numel():
        return
    low, high = (torch.view_as_real(block) if block.is_complex() else block).aminmax()
    if math.isfinite(low) and math.isfinite(high):
        out.largest = max(out.largest, abs(low.item()), abs(high.item()))
    else:
        out.n_bad += int((~torch.isfinite(block)).sum())


def _sample(block, out):
    """Add the moments of some entries of a block, spread evenly."""
    flat = block.reshape(-1)
    some = flat[:: max(1, len(flat) // _SAMPLE)]
    squares = (some * some.conj()).real if some.is_complex() else some * some
    out.moments += [len(some), float(squares.sum()), float(squares.square().sum())]


def _add_norms(block, start, out, *, columns):
    """Add the squared norms of rows, and of columns where no Gram matrix will tell them."""
    real = torch.view_as_real(block) if block.is_complex() else block
    axes = "ijk" if block.is_complex() else "ij"
    out.row_squares[start : start + len(block)] += _sum_of_squares(real, axes, "i")
    if columns:
        out.col_squares += _sum_of_squares(real, axes, "j")


def _sum_of_squares(block, axes, kept):
    if block.device.type == "cpu":
        return np.einsum(f"{axes},{axes}->{kept}", block.numpy(), block.numpy(), dtype=np.float64)
    return torch.einsum(f"{axes},{axes}->{kept}", block, block).double().cpu().numpy()


def _add(total, block, start, layer, k, exponent, nbytes):
    """Add what a block of rows gives to the Gram matrix."""
    on_cpu = block.device.type == "cpu"
    if layer.rows >= layer.cols:
        if on_cpu:
            return _rank_k_update(total, block.numpy())
        product = block.mH @ block
        return product if total is None else total.add_(product)
    if len(block) == layer.rows:
        return _rank_k_update(None, block.mH.resolve_conj().numpy()) if on_cpu else block @ block.mH
    # Wide and too large to be held: every pair of blocks meets once, in the lower triangle.
    if total is None:
        total = torch.zeros(layer.rows, layer.rows, dtype=block.dtype, device=block.device)
    stop = start + len(block)
    total[start:stop, start:stop] = block @ block.mH
    row = 0
    for stored in layer.row_blocks(k, nbytes // 2):
        if row >= start:
            break
        other = divided(stored, exponent, block.dtype, block.device)
        total[start:stop, row : row + len(other)] = block @ other.mH
        row += len(other)
    if stop < layer.rows or not on_cpu:
        return total if stop < layer.rows else total.tril() + total.tril(-1).mH
    return total.numpy()


def _rank_k_update(total, block):
    """Return total + block^H block in its lower triangle, half of the work of a product."""
    name = {"float64": "dsyrk", "float32": "ssyrk", "complex128": "zherk", "complex64": "cherk"}[str(block.dtype)]
    update = getattr(scipy.linalg.blas, name)
    # In Fortran's order everything is transposed: the upper triangle there is the lower one here.
    a = np.ascontiguousarray(block).T
    start = {} if total is None else {"c": total.T, "beta": 1.0, "overwrite_c": True}
    return update(1.0, a, lower=False, **start).T


def complex_of(dtype):
    """Return the complex type of a real precision."""
    return torch.complex64 if dtype == torch.float32 else torch.complex128
