r"""Measurements given by callables, whose adjoint and Gram matrix are verified when they are named.

Notation  u_1 = A x_1, u_2 = A x_2 for random x_1, x_2, and a random y; g the claimed diagonal of A^H A.
          Verified are <u_k, y> = <x_k, A^H y>, A^H u_1 = g x_1, <u_2, u_2> = <x_2, g x_2>, <u_1, u_2> = <x_1, g x_2>.
Cost      two products and two adjoint ones, one of each without a claim about the Gram matrix.
Pitfalls  a wrong adjoint or Gram matrix would not stop the solver: it would return a wrong answer.
"""

import numbers

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.calibration.ensemble_base import Ensemble
from sciml.linalg.arrays import enter
from sciml.random import generator, normal
from sciml.validation import check_number, check_option

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "complex64", "complex128")}


class FromCallable(Ensemble):
    r"""A measurement known by two callables.

    Parameters
    ----------
    matvec, rmatvec : callable
        ``matvec(X)`` takes signals, a row a snapshot, and returns data; ``rmatvec(Y)`` is its adjoint. For a shape
        (p, m, n) they map (p, n) to (p, m) and back, for (m, n) they map (k, n) to (k, m) for any k. They are given
        arrays in the precision of the data, with torch in `dtype`, and must not change them.
    shape : tuple of int
        (m, n) for one matrix, (p, m, n) for one a snapshot.
    gram : None, "identity", "diagonal", number or array
        What A_l^H A_l is: the identity, a diagonal matrix (found by one more product of each callable), that number
        times the identity, or the diagonal, shape (n,) or (p, n). It makes the elimination of the signals cheap. None
        (the default): unknown.
    kind : {"numpy", "torch"}
        Arrays that the callables take and return; NumPy by default.
    dtype : {"complex128", "complex64", "float64", "float32"}
        Of the entries; complex128 by default. A real one is given real arrays, complex signals in two calls.
    blocks : bool
        Whether the callables take ``(X, start, stop)`` with the rows of those snapshots only, which needs less memory;
        False by default.
    device : str or torch.device
        For callables of torch; the CPU by default.
    random_state : None, int or numpy.random.Generator
        Of the vectors of the verification; 0 by default.

    Raises
    ------
    InvalidInputError
        If the adjoint does not belong to the product, the Gram matrix is not as claimed, or a shape is wrong; with the
        numbers.

    Examples
    --------
    >>> import numpy as np
    >>> def forward(X):
    ...     return np.fft.fft(X, 8, norm="ortho")
    >>> def adjoint(Y):
    ...     return np.fft.ifft(Y, norm="ortho")[..., :3]
    >>> A = FromCallable(forward, adjoint, (8, 3), "identity")
    >>> (A @ np.ones(3)).round(3)[:2]
    array([1.061+0.j   , 0.604-0.604j])
    """

    def __init__(
        self,
        matvec,
        rmatvec,
        shape,
        gram=None,
        *,
        kind="numpy",
        dtype="complex128",
        blocks=False,
        device="cpu",
        random_state=0,
    ):
        for name, call in (("matvec", matvec), ("rmatvec", rmatvec)):
            if not callable(call):
                raise InvalidTypeError(f"{name} must be callable; got {type(call).__name__}. Pass a function.")
        lengths = tuple(shape) if np.ndim(shape) == 1 else ()
        if len(lengths) not in (2, 3):
            raise InvalidInputError(f"shape must be (m, n) or (p, m, n); got {shape!r}. Name two or three lengths.")
        lengths = tuple(check_number("shape", length, low=1, integer=True) for length in lengths)
        check_option("kind", kind, ("numpy", "torch"))
        word = check_option("dtype", str(dtype).removeprefix("torch."), tuple(_DTYPES))
        super().__init__(lengths[-2:], dtype=_DTYPES[word], device=device, batch_shape=lengths[:-2], kind=kind)
        self._calls = {"matvec": matvec, "rmatvec": rmatvec}
        self._by_block, self._offset = bool(blocks), 0
        self.divisible = self._by_block or not self.batch_shape
        self._verify(gram, generator(random_state))

    def block(self, start, stop):
        """Return the measurement of some snapshots; see :meth:`Ensemble.block`.

        Parameters
        ----------
        start, stop : int
            Snapshots, from 0.

        Returns
        -------
        Ensemble

        Raises
        ------
        InvalidInputError
            If the callables take all snapshots only.

        Examples
        --------
        >>> def double(X, start, stop):
        ...     return 2 * X
        >>> FromCallable(double, double, (5, 3, 3), 4, blocks=True).block(1, 3)
        <FromCallable 3x3 batch=(2,) complex128>
        """
        if not self.divisible:
            raise InvalidInputError(
                f"block({start}, {stop}) needs callables that take (X, start, stop). Pass blocks=True with such."
            )
        other = super().block(start, stop)
        if other is not self:
            other._offset = self._offset + start
        return other

    def _forward(self, X, start, stop):
        return self._rows("matvec", X, start, stop, self.shape[0])

    def _adjoint(self, Y, start, stop):
        return self._rows("rmatvec", Y, start, stop, self.shape[1])

    def _rows(self, name, X, start, stop, wanted):
        """Send (..., k, n) through a callable of (k, n)."""
        if X.is_complex() and not self.dtype.is_complex:
            real, imag = (self._rows(name, part, start, stop, wanted) for part in (X.real, X.imag))
            return torch.complex(real, imag)
        if self.dtype.is_complex and not X.is_complex():
            X = X.to(torch.complex64 if X.dtype is torch.float32 else torch.complex128)
        if not self.batch_shape:
            flat = X.reshape(-1, X.shape[-1])
            return self._call(name, flat, (), (len(flat), wanted)).reshape(*X.shape[:-1], wanted)
        p, k = self.batch_shape[0], stop - start
        X = X.expand(*X.shape[:-2], k, -1)
        if X.ndim > 2:
            flat = X.reshape(-1, k, X.shape[-1])
            parts = [self._rows(name, item, start, stop, wanted) for item in flat]
            return torch.stack(parts).reshape(*X.shape[:-1], wanted)
        if self._by_block:
            return self._call(name, X, (self._offset + start, self._offset + stop), (k, wanted))
        if k < p:
            # All snapshots or none: the rest is multiplied by zeros.
            full = X.new_zeros(p, X.shape[-1])
            full[start:stop] = X
            return self._call(name, full, (), (p, wanted))[start:stop]
        return self._call(name, X, (), (p, wanted))

    def _call(self, name, X, where, wanted):
        given = X.to(self.dtype) if self.kind == "torch" else X.detach().cpu().resolve_conj().numpy()
        got = self._calls[name](given, *where)
        got = got if isinstance(got, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(got))
        if tuple(got.shape) != wanted:
            raise InvalidInputError(
                f"{name} must return shape {wanted} for an argument of shape {tuple(X.shape)}; got "
                f"{tuple(got.shape)}. Rows are snapshots, and shape is (m, n) or (p, m, n)."
            )
        if got.is_complex() and not X.is_complex():
            raise InvalidInputError(
                f"{name} must return real numbers for dtype={str(self.dtype)[6:]!r}; got {str(got.dtype)[6:]}. "
                "Pass dtype='complex128'."
            )
        return got.to(device=X.device, dtype=X.dtype)

    # ------------------------------------------------------------ verification

    @torch.no_grad()
    def _verify(self, gram, rng):
        m, n = self.shape
        k = self.batch_shape[0] if self.batch_shape else 1
        slack = 100 * torch.finfo(self.dtype).eps * max(m, n) ** 0.5
        x1, y = self._draw(rng, k, n), self._draw(rng, k, m)
        u1, back = self._forward(x1, 0, k), self._adjoint(y, 0, k)
        self._check_dot(x1, u1, y, back, slack)
        if gram is None:
            return
        g = self._claimed(gram, k)
        x2 = self._draw(rng, k, n)
        u2 = self._forward(x2, 0, k)
        self._check_dot(x2, u2, y, back, slack)
        image = self._adjoint(u1, 0, k)
        if g is None:
            ratio = image / torch.where(x1 == 0, 1, x1)
            g = ratio.real.double()
        claim = gram if isinstance(gram, (str, numbers.Number)) else "the array given"
        found, wanted = image, g * x1
        self._check_gram(claim, "A^H A x", (found - wanted).norm(dim=-1), found.norm(dim=-1), slack)
        for other, u, word in ((x2, u2, "<A z, A z>"), (x1, u1, "<A x, A z>")):
            left, right = _dot(u, u2), _dot(other, g * x2)
            scale = u.norm(dim=-1) * u2.norm(dim=-1) + (g * other).norm(dim=-1) * x2.norm(dim=-1)
            self._check_gram(claim, word, (left - right).abs(), scale, slack)
        if bool((g < 0).any()):
            raise InvalidInputError(f"gram must not be negative; got {float(g.min()):.3g}. Check rmatvec.")
        self.gram = g[:1].clone() if bool((g - g[:1]).abs().max() <= slack * g.abs().max()) else g

    def _draw(self, rng, k, length):
        real = torch.empty(0, dtype=self.dtype).real.dtype
        draw = normal(rng, (k, length), device=self.device, dtype=real)
        if not self.dtype.is_complex:
            return draw
        return torch.complex(draw, normal(rng, (k, length), device=self.device, dtype=real))

    def _claimed(self, gram, k):
        """Return the claimed diagonal (k or 1, n); None where it is to be found."""
        n = self.shape[1]
        if isinstance(gram, str):
            check_option("gram", gram, ("identity", "diagonal"))
            return None if gram == "diagonal" else torch.ones(1, n, dtype=torch.float64, device=self.device)
        if isinstance(gram, numbers.Real):
            value = check_number("gram", gram, low=0, inclusive="neither")
            return torch.full((1, n), value, dtype=torch.float64, device=self.device)
        (g,), _ = enter(gram, names=("gram",), check_finite=True)
        if g.is_complex() or tuple(g.shape) not in ((n,), (1, n), (k, n)):
            raise InvalidInputError(
                f"gram must be None, 'identity', 'diagonal', a number or the real diagonal of A_l^H A_l, shape ({n},) "
                f"or ({k}, {n}); got {str(g.dtype)[6:]} of shape {tuple(g.shape)}. Leave it out if unknown."
            )
        return g.to(device=self.device, dtype=torch.float64).reshape(-1, n)

    def _check_dot(self, x, u, y, back, slack):
        left, right = _dot(y, u), _dot(back, x)
        scale = u.norm(dim=-1) * y.norm(dim=-1) + x.norm(dim=-1) * back.norm(dim=-1)
        mismatch = (left - right).abs() / torch.where(scale > 0, scale, 1.0)
        worst = int(mismatch.nan_to_num(nan=torch.inf).argmax())
        if not float(mismatch[worst]) <= slack:
            where = f" in snapshot {worst}" if self.batch_shape else ""
            raise InvalidInputError(
                f"rmatvec must be the adjoint of matvec: <A x, y> = {left[worst].item():.6g} but <x, A^H y> = "
                f"{right[worst].item():.6g} for random vectors{where}, a relative mismatch of "
                f"{float(mismatch[worst]):.1e}. Check conjugates, norms and the order of the steps."
            )

    def _check_gram(self, claim, word, difference, scale, slack):
        mismatch = difference / torch.where(scale > 0, scale, 1.0)
        worst = int(mismatch.nan_to_num(nan=torch.inf).argmax())
        if not float(mismatch[worst]) <= slack:
            where = f" of snapshot {worst}" if self.batch_shape else ""
            raise InvalidInputError(
                f"gram={claim!r} must be what A^H A is: for random vectors {word}{where} differs from the claim by "
                f"{float(mismatch[worst]):.1e} of its size. Leave gram out, or correct it."
            )


def _dot(X, Y):
    return (X.conj() * Y).sum(-1)
