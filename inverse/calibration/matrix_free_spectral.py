r"""The smallest eigenpairs of the calibration problem from products alone, signals or gains eliminated.

.. math:: (I - K)\,v = \lambda v, \qquad s = R^{-1/2} v, \qquad
          K = R^{-1/2} \sum_l \mathrm{diag}(\bar y_l)\, P_l\, \mathrm{diag}(y_l)\, R^{-1/2}

Notation  s inverse gains (m,); x signals; R_i = sum_l W_li |y_li|^2; P_l projector onto the range of A_l; c_i =
          sum_l W_li conj(y_li) (A_l x_l)_i / R_i; V orthonormal basis, H = B V its products, theta Ritz values.
          Where A_l^H A_l = diag(g) and nothing is weighted, P_l = A_l diag(1/g) A_l^H, and v has the length of a
          snapshot. Otherwise the gains are eliminated, which costs nothing whatever the weights: the operator is
          x -> A^H W (A x - y c(x)), scaled by 1/g where g is known.
Cost      one product and one adjoint one of all snapshots a vector; where the gains are eliminated another product,
          unless memory allows to keep A x.
Pitfalls  the criterion is the residual over a part of the error that noise alone makes, an angle of about
          sqrt(lambda / p), times the gap of the spectrum: digits beyond are digits of the noise. Weak
          sensors carry much of it: the estimate is not efficient, and is to be refined.

References
----------
Y. Li, K. Lee, Y. Bresler, Blind gain and phase calibration via sparse spectral methods, 2017, arXiv 1712.00111.
K. Wu, H. Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000.
"""

from __future__ import annotations

import torch

from sciml.iterate import Step

# Steps with the other vectors after the first pair is there: they converge at its rate, from starts of their own.
_SURE = 2


class SensorSpace:
    """I - K in the space of the sensors, the signals eliminated.

    Parameters
    ----------
    stream : Stream
        Without weights, of an ensemble whose Gram matrix is diagonal.
    blocks : list of pair of int or None
        Which blocks of snapshots; None (the default) takes all.

    Examples
    --------
    >>> from sciml.inverse.calibration.ensembles import PartialDFT
    >>> from sciml.inverse.calibration.matrix_free_data import Stream
    >>> space = SensorSpace(Stream(torch.ones(3, 8), PartialDFT(8, 2)))
    >>> space.apply(torch.ones(8, dtype=torch.complex128)).norm() < 1e-6
    tensor(True)
    """

    def __init__(self, stream, blocks=None):
        self.stream, self.blocks, self.c = stream, blocks or stream.blocks, None
        self.p = sum(b - a for a, b in self.blocks)
        energy = stream.energy
        if blocks:
            energy = sum(stream.y[a:b].abs().square().sum(0, dtype=torch.float64) for a, b in blocks)
        self.scale = torch.where(energy > 0, energy.clamp_min(torch.finfo(energy.dtype).tiny).rsqrt(), 0.0)

    def start(self):
        """Return gains of one size: the first vector."""
        return (self.scale > 0).to(self.stream.long)

    def apply(self, v):
        """Return (I - K) v."""
        stream = self.stream
        z = (v * self.scale).to(stream.dtype)
        total = torch.zeros(stream.m, dtype=stream.long, device=v.device)
        if stream.shared:
            t = sum(stream.adjoint(stream.data(a, b) * z, a, b).to(stream.long) for a, b in self.blocks)
            t = (t / stream.gram_part(0, stream.p)).to(stream.dtype)
        for a, b in self.blocks:
            y = stream.data(a, b)
            u = stream.forward(t, a, b) if stream.shared else self._project(y * z, a, b)
            total += (y.conj() * u).sum(0)
        return v - self.scale * total

    def _project(self, u, a, b):
        stream = self.stream
        t = stream.adjoint(u, a, b)
        del u
        t = t / stream.gram_part(a, b).to(t.real.dtype if t.is_complex() else t.dtype)
        stream.n_forward += b - a
        return stream.ensemble.forward(t, a, b)

    def signals(self, v):
        """Return the signals that belong to v: least squares for A x = s y."""
        stream = self.stream
        z = (v * self.scale).to(stream.dtype)
        x = stream.zeros()
        for a, b in stream.blocks:
            t = stream.adjoint(stream.data(a, b) * z, a, b)
            if stream.shared:
                x += t
            else:
                x[a:b] = t / stream.gram_part(a, b)
        return (x / stream.gram_part(0, stream.p)).to(stream.dtype) if stream.shared else x


class SignalSpace:
    """The same least squares in the space of the signals, the gains eliminated: any weights, any Gram matrix.

    Parameters
    ----------
    stream : Stream
        Data and measurement.
    keep : bool
        Whether A x may be kept, as large as the data; else it is formed twice.

    Examples
    --------
    >>> from sciml.inverse.calibration.ensembles import PartialDFT
    >>> from sciml.inverse.calibration.matrix_free_data import Stream
    >>> space = SignalSpace(Stream(torch.ones(3, 8), PartialDFT(8, 2)), keep=True)
    >>> space.apply(space.start()).shape
    torch.Size([6])
    """

    def __init__(self, stream, keep):
        self.stream, self.keep, self.p = stream, keep, stream.p
        self.c = None  # inverse gains that belong to the last vector that was multiplied
        energy = stream.energy
        self.inverse = torch.where(stream.active, 1 / torch.where(stream.active, energy, 1.0), 0.0)
        self.scale = 1.0  # until it is known what A^H W A does to a vector
        gram = stream.ensemble.gram
        if gram is not None:
            full = gram.sum(0) if stream.shared and gram.shape[0] > 1 else gram
            full = full * (stream.p if stream.shared and gram.shape[0] == 1 else 1)
            self.scale = torch.where(full > 0, full.clamp_min(1e-300).rsqrt(), 0.0)
            self.scale = self.scale.reshape(-1) if stream.shared else self.scale

    def start(self):
        """Return the signals that gains of one size make of the data."""
        stream = self.stream
        z = self.inverse.sqrt()
        x = stream.zeros()
        for a, b in stream.blocks:
            t = stream.adjoint(stream.weighted(stream.data(a, b) * z.to(stream.dtype), a, b), a, b)
            if stream.shared:
                x += t
            else:
                x[a:b] = t
        x = x * self.scale
        x = x / x.norm()
        # One number makes the eigenvalues comparable to those of I - K.
        image = sum(
            float(stream.weighted(u.abs().square(), a, b).sum(dtype=torch.float64))
            for a, b in stream.blocks
            for u in [stream.forward((x * self.scale).to(stream.dtype), a, b)]
        )
        self.scale = self.scale * (1 / image) ** 0.5 if image > 0 else self.scale
        return x.flatten()

    def apply(self, z):
        """Return the reduced normal matrix times z, in scaled coordinates."""
        stream = self.stream
        x = (z.reshape(stream.zeros_shape()) * self.scale).to(stream.dtype)
        kept, total = [], torch.zeros(stream.m, dtype=stream.long, device=z.device)
        for a, b in stream.blocks:
            u = stream.forward(x, a, b)
            total += stream.weighted(stream.data(a, b).conj() * u, a, b).sum(0)
            kept.append(u if self.keep else None)
        self.c = total * self.inverse
        c = self.c.to(stream.dtype)
        out = stream.zeros()
        for (a, b), u in zip(stream.blocks, kept, strict=True):
            u = stream.forward(x, a, b) if u is None else u
            t = stream.adjoint(stream.weighted(u - stream.data(a, b) * c, a, b), a, b)
            if stream.shared:
                out += t
            else:
                out[a:b] = t
        return (out * self.scale).flatten()

    def signals(self, z):
        """Return the signals that belong to z."""
        stream = self.stream
        return (z.reshape(stream.zeros_shape()) * self.scale).to(stream.dtype)


@torch.no_grad()
def smallest_pairs(space, start, *, limit, tol, share, room=None):
    """Yield the smallest Ritz pairs of a space step by step, as many as there are first vectors.

    Parameters
    ----------
    space : SensorSpace or SignalSpace
        Whose `apply` is Hermitian with eigenvalues from 0 to about 1.
    start : list of tensor
        First vectors, one a pair.
    limit : int
        Vectors kept at most, products as many; three a pair make LOBPCG of it, more a thick-restart Lanczos method.
    tol : float
        Smallest residual asked for.
    share : float
        Part of the error by noise, sqrt(lambda / p), that the residual of the first pair may have.
    room : tensor or None
        Memory for the vectors, overwritten if it is large enough and of their dtype; None (the default) for new one.

    Yields
    ------
    Step
        ``value`` the values (k,), vectors (a list) and inverse gains (m, k); ``criterion`` the residual over what is
        allowed: at most 1 is done.

    Examples
    --------
    >>> class Diagonal:
    ...     p, c, scale = 1, None, torch.ones(4)
    ...
    ...     def apply(self, v):
    ...         return torch.tensor([0.0, 0.5, 0.7, 1.0], dtype=torch.float64) * v
    >>> ones = torch.ones(4, dtype=torch.float64)
    >>> *_, last = smallest_pairs(Diagonal(), [ones], limit=10, tol=1e-8, share=0.1)
    >>> abs(last.value[0][0]) < 1e-12
    tensor(True)
    """
    k, basis = len(start), _Basis(space, start[0], limit, room)
    sure, fresh = _SURE if k > 1 else 0, start
    while True:
        added = basis.extend(fresh)
        theta, Y = torch.linalg.eigh((basis.T + basis.T.mH) / 2)
        wanted = min(k, len(theta))
        X = basis.V[: basis.size].mT @ Y[:, :wanted].to(basis.V)
        R = basis.H[: basis.size].mT @ Y[:, :wanted].to(basis.V) - X * theta[:wanted].to(X)
        residual = float(R[:, 0].norm())
        allowed = max(tol, share * (max(float(theta[0]), 0.0) / space.p) ** 0.5 * _gap(theta))
        done = residual <= allowed
        sure -= done
        scalars = {"lambda": float(theta[0]), "products": basis.products, "residual": residual}
        # Pairs beyond the first have some steps of their own before the first may end the loop.
        S = basis.gains(X, Y[:, :wanted])
        yield Step((theta[:wanted], list(X.mT), S), max(residual / allowed, 1 + 1e-9 if sure > 0 else 0.0), scalars)
        if not added:
            return
        # A pair that is there needs no vector more.
        fresh = list(R.mT)[int(done and wanted > 1) :]
        if basis.size + len(fresh) > limit:
            basis.compress(Y, k)


class _Basis:
    """Orthonormal vectors, a row each, with their products and T = V^H B V."""

    def __init__(self, space, like, limit, room):
        self.space, self.limit, self.size, self.products = space, limit, 0, 0
        # Whole at once: pages that are not used are no memory, and many small arrays leave holes behind.
        if room is None or room.dtype is not like.dtype or room.numel() < 2 * limit * len(like):
            room = torch.empty(2 * limit * len(like), dtype=like.dtype, device=like.device)
        self.V, self.H = room.view(-1)[: 2 * limit * len(like)].view(2, limit, len(like))
        self.T = torch.zeros(0, 0, dtype=like.dtype, device=like.device)
        self.C = []  # inverse gains that belong to each vector, where these are signals

    def gains(self, X, Y):
        """Return the inverse gains (m, k) of some combinations of the vectors."""
        if self.space.c is None:
            return X * self.space.scale[:, None]
        return torch.stack(self.C[: self.size]).mT @ Y.to(self.C[0])

    def extend(self, fresh):
        """Add what is new in some vectors; return how many were added."""
        before = self.products
        for vector in fresh:
            size = float(vector.norm())
            V = self.V[: self.size]
            for _ in range(2):
                vector = vector - V.mT @ (V.conj() @ vector)
            left = float(vector.norm())
            if not left > 1e-12 * size or self.size == self.limit:
                continue
            self.V[self.size] = vector / left
            self.H[self.size] = self.space.apply(self.V[self.size])
            self.C[self.size :] = [self.space.c]
            self.size, self.products = self.size + 1, self.products + 1
            column = self.V[: self.size].conj() @ self.H[self.size - 1]
            self.T = torch.nn.functional.pad(self.T, (0, 1, 0, 1))
            self.T[:, -1] = column
            self.T[-1, :] = column.conj()
        return self.products - before

    def compress(self, Y, k):
        """Keep the lowest Ritz vectors, and the part of the first ones that the latest vectors gave."""
        keep = max(k, min(self.limit // 2, self.size - k))
        P = Y[:, :k].clone()
        P[:keep] = 0
        C = torch.linalg.qr(torch.cat([Y[:, :keep], P], 1))[0][:, : min(keep + k, self.limit - k)].to(self.V)
        kept = C.shape[1]
        for rows in (self.V, self.H):
            rows[:kept] = C.mT @ rows[: self.size]
        if self.space.c is not None:
            self.C = list(C.mT.to(self.C[0]) @ torch.stack(self.C[: self.size]))
        self.size, self.T = kept, C.mH @ self.T @ C


def _gap(theta):
    """Return how far the rest of the spectrum is, which turns an angle into a residual; 0 as long as nobody knows."""
    first = max(float(theta[0]), 0.0)
    rest = theta[theta >= 3 * first + 1e-3] if len(theta) > 2 else theta[1:]
    rest = theta[1:] if len(rest) == 0 else rest
    return min(max(float(rest[0]) - first, 0.0), 1.0) if len(rest) else 0.0
