r"""Elimination of the signals: what is left is one small Hermitian matrix in the gains.

For fixed s = 1/d the signals of a self-calibration problem solve ordinary least squares. Put back, they leave

.. math:: M = \sum_l \mathrm{diag}(\bar y_l) W_l^{1/2} (I - P_l) W_l^{1/2} \mathrm{diag}(y_l), \qquad
          \sum_l \min_{x_l} \|W_l^{1/2} (s \circ y_l - A_l x_l)\|^2 = s^* M s,

P_l being the projector on the range of :math:`W_l^{1/2} A_l`. White noise of variance sigma^2 adds sigma^2 diag(N) to
the mean of M, N the diagonal below. The same elimination with the range of :math:`W_l^{1/2} D A_l` (variable projection
[1]_) gives value, gradient and Gauss-Newton matrix of the likelihood.

Notation  b channels, p snapshots, m sensors, n unknowns; y (b, p, m); r = sqrt(W) (b, p, m); Q orthonormal basis of the
          range; t (b, p, m) whatever stands in diag(t): y for M, the part of the data that the model explains over d
          for the Gauss-Newton matrix F.
Cost      `Diverse`: p (m n^2 + m^2 n) multiplications, in blocks of snapshots; `Shared`: m^2 n, whatever p is, since
          only the triangular factor of the snapshots counts; `Joint`: p m n^2 + m^2 n.
Pitfalls  normal equations would square the condition number of A, hence QR; a snapshot with no more unflagged rows than
          unknowns must contribute nothing, hence ranks are looked at.
References
    .. [1] G. H. Golub, V. Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose
       variables separate, 1973.
"""

import torch

from sciml.inverse.calibration.bases import (
    freedom_of,
    hermitian,
    inverse_or_zero,
    joint_pairs,
    least_squares,
    noise_pairs,
    over_gains,
    pairs,
    project,
    range_basis,
    shared_pairs,
)

__all__ = ["Diverse", "Elimination", "Joint", "Shared", "Total"]

# Bytes of a block of bases: small enough for a cache, large enough to hide the cost of a call.
_BLOCK = {"cpu": 2**22, "cuda": 2**28}


class Elimination:
    """b problems with m sensors each, whose signals are eliminated; see the module.

    Attributes
    ----------
    b, p, m, n : int
        Channels, snapshots, sensors, unknowns of a signal.
    active : Tensor of bool, shape (b, m)
        Sensors that take part; the others have weight zero.
    dtype, device
        Of the matrices.
    """

    _kept = None
    _degrees = None

    def schur_kept(self, sensor_weights=None):
        """Return `schur`, and keep it for the next call with the same weights, the same object."""
        if self._kept is None or self._kept[0] is not sensor_weights:
            self._kept = (sensor_weights, self.schur(sensor_weights))
        return self._kept[1]

    def degrees_kept(self, d):
        """Return `degrees`, computed once: ranks do not depend on the gains, as long as none is zero."""
        if self._degrees is None:
            self._degrees = self.degrees(d)
        return self._degrees

    def schur(self, sensor_weights=None):
        """Return M (b, m, m) and N (b, m) of the module, rows of sensors that do not take part being zero.

        Parameters
        ----------
        sensor_weights : Tensor, shape (b, m), or None
            Multiply the weights; ones by default.
        """
        raise NotImplementedError

    def gauss_newton(self, d, sensor_weights=None):
        """Return misfit f (b,), g (b, m) and F (b, m, m): the step of Gauss and Newton in d solves F step = g.

        Parameters
        ----------
        d : Tensor, shape (b, m)
            Gains, none of them zero where active.
        sensor_weights : Tensor, shape (b, m), or None
            Multiply the weights; ones by default.
        """
        raise NotImplementedError

    def noise_part(self, d, sensor_weights=None):
        """Return what white noise of variance one adds to the mean of F: (b, m, m).

        Parameters
        ----------
        d : Tensor, shape (b, m)
            Gains, none of them zero where active.
        sensor_weights : Tensor, shape (b, m), or None
            Multiply the weights; ones by default.
        """
        raise NotImplementedError

    def residual_powers(self, d, sensor_weights=None):
        """Return, for each sensor, the weighted sum of its squared residuals and their degrees of freedom: (b, m) each.

        Parameters
        ----------
        d : Tensor, shape (b, m)
            Gains, none of them zero where active.
        sensor_weights : Tensor, shape (b, m), or None
            Multiply the weights; ones by default.
        """
        raise NotImplementedError

    def signals(self, d, y):
        """Return the least-squares signals of the data y (b, p, m): (b, p, n), or (b, n) for repeated measurements."""
        raise NotImplementedError

    def predict(self, d, x):
        """Return diag(d) A x, shape (b, p, m)."""
        raise NotImplementedError

    def degrees(self, d):
        """Return data minus signal unknowns (b,): what is left for gains and noise."""
        raise NotImplementedError

    def rows(self, index):
        """Return the same with some of the channels only.

        Parameters
        ----------
        index : LongTensor
            Numbers of the channels.
        """
        raise NotImplementedError

    def restrict(self, active):
        """Return the same with fewer sensors taking part.

        Parameters
        ----------
        active : Tensor of bool, shape (b, m)
            Sensors to keep.
        """
        raise NotImplementedError


class _Snapshots(Elimination):
    """What `Diverse` and `Joint` share: data of every snapshot and matrices of their own."""

    def __init__(self, y, A, W=None, active=None):
        self.y, self.A, self.W = y, A, W
        self.b, self.p, self.m = y.shape
        self.n = A.shape[-1]
        self.dtype, self.device = y.dtype, y.device
        ones = torch.ones(self.b, self.m, dtype=torch.bool, device=y.device)
        self.active = ones if active is None else active

    def rows(self, index):
        """Return the same with some of the channels only; see the base class."""
        pick = lambda t: t if t is None or len(t) == 1 != self.b else t[index]  # noqa: E731
        return type(self)(self.y[index], pick(self.A), pick(self.W), self.active[index])

    def restrict(self, active):
        """Return the same with fewer sensors taking part; see the base class."""
        return type(self)(self.y, self.A, self.W, self.active & active)

    def _roots(self, sensor_weights, start, stop):
        """Square roots of the weights of some snapshots: (b or 1, snapshots or 1, m)."""
        w = self.active[:, None, :].to(self.y.real.dtype)
        if sensor_weights is None and bool(self.active.all()):
            w = w[:1]  # one basis serves all channels
        if self.W is not None:
            w = w * self.W[:, start:stop]
        if sensor_weights is not None:
            w = w * sensor_weights[:, None, :]
        return w.sqrt()

    def _blocks(self):
        """Slices of snapshots whose bases together fill a block."""
        each = self.b * self.m * self.n * self.y.element_size()
        step = max(1, _BLOCK.get(self.y.device.type, 2**22) // max(each, 1))
        return [(start, min(start + step, self.p)) for start in range(0, self.p, step)]

    def _matrices(self, start, stop):
        return self.A[:, start:stop] if self.A.shape[1] > 1 else self.A

    def predict(self, d, x):
        """Return diag(d) A x, shape (b, p, m)."""
        return d[:, None, :] * torch.einsum("blij,blj->bli", self.A.expand(self.b, self.p, -1, -1), self._spread(x))

    def _spread(self, x):
        return x


class Diverse(_Snapshots):
    """Every snapshot has a signal of its own: y_l = diag(d) A_l x_l.

    Parameters
    ----------
    y : Tensor, shape (b, p, m)
        Data, zero where flagged.
    A : Tensor, shape (b or 1, p or 1, m, n)
        Matrices.
    W : Tensor, shape (b or 1, p, m), or None
        Weights; ones by default.
    active : Tensor of bool, shape (b, m), or None
        Sensors that take part; all by default.
    """

    def schur(self, sensor_weights=None):
        """Return M and N; see the base class."""
        M = self.y.new_zeros(self.b, self.m, self.m)
        N = self.y.real.new_zeros(self.b, self.m)
        for start, stop in self._blocks():
            r = self._roots(sensor_weights, start, stop)
            Q = range_basis(r[..., None] * self._matrices(start, stop))
            t = r * self.y[:, start:stop]
            M += pairs(t, Q)
            N += (r.square() * freedom_of(Q)).expand(self.b, stop - start, -1).sum(1)
        return hermitian(M), N

    def gauss_newton(self, d, sensor_weights=None):
        """Return f, g, F; see the base class."""
        f = self.y.real.new_zeros(self.b)
        g, F = torch.zeros_like(d), self.y.new_zeros(self.b, self.m, self.m)
        inverse = inverse_or_zero(d)[:, None, :]
        for start, stop in self._blocks():
            r = self._roots(sensor_weights, start, stop)
            Q = range_basis((r * d[:, None, :])[..., None] * self._matrices(start, stop))
            z = r * self.y[:, start:stop]
            u = project(Q, z)
            t, rest = u * inverse, z - u
            f += rest.abs().square().sum((1, 2))
            g += (t.conj() * rest).sum(1)
            F += pairs(t, Q)
        return f, g, hermitian(F)

    def cost(self, d, sensor_weights=None):
        """Return the misfit (b,) of gains d (b, m); `sensor_weights` as in the base class."""
        f = self.y.real.new_zeros(self.b)
        for start, stop in self._blocks():
            r = self._roots(sensor_weights, start, stop)
            Q = range_basis((r * d[:, None, :])[..., None] * self._matrices(start, stop))
            z = r * self.y[:, start:stop]
            f += (z - project(Q, z)).abs().square().sum((1, 2))
        return f

    def noise_part(self, d, sensor_weights=None):
        """Return the part of noise in F; see the base class."""
        K = self.y.new_zeros(self.b, self.m, self.m)
        for start, stop in self._blocks():
            r = self._roots(sensor_weights, start, stop)
            Q = range_basis((r * d[:, None, :])[..., None] * self._matrices(start, stop))
            K += noise_pairs(Q).sum(1) * (stop - start if Q.shape[1] == 1 else 1)
        return over_gains(K, d)

    def residual_powers(self, d, sensor_weights=None):
        """Return powers and degrees of freedom of the sensors; see the base class."""
        power = self.y.real.new_zeros(self.b, self.m)
        freedom = torch.zeros_like(power)
        for start, stop in self._blocks():
            r = self._roots(sensor_weights, start, stop)
            Q = range_basis((r * d[:, None, :])[..., None] * self._matrices(start, stop))
            z = r * self.y[:, start:stop]
            power += (z - project(Q, z)).abs().square().sum(1)
            free = torch.where(r > 0, freedom_of(Q), 0.0)
            freedom += free.expand(self.b, stop - start, -1).sum(1)
        return power, freedom

    def degrees(self, d):
        """Return data minus signal unknowns; see the base class."""
        left = self.y.real.new_zeros(self.b)
        for start, stop in self._blocks():
            r = self._roots(None, start, stop)
            Q = range_basis((r * d[:, None, :])[..., None] * self._matrices(start, stop))
            counts = (r > 0).expand(self.b, stop - start, -1).sum((1, 2))
            left += counts - Q.abs().square().sum((2, 3)).expand(self.b, stop - start).sum(1).round()
        return left

    def signals(self, d, y):
        """Return the signals, NaN where a snapshot does not determine its own; see the base class."""
        parts = []
        for start, stop in self._blocks():
            r = self._roots(None, start, stop)
            B = (r * d[:, None, :])[..., None] * self._matrices(start, stop)
            parts.append(least_squares(B, r * y[:, start:stop]))
        return torch.cat(parts, 1)


class Joint(_Snapshots):
    """All snapshots see one signal: y_l = diag(d) A_l x; the parameters are those of `Diverse`."""

    def _stack(self, r):
        B = r[..., None] * self.A
        return B.expand(self.b, self.p, -1, -1).reshape(len(B), self.p * self.m, self.n)

    def _basis(self, r):
        return range_basis(self._stack(r)).reshape(-1, self.p, self.m, min(self.n, self.p * self.m))

    def schur(self, sensor_weights=None):
        """Return M and N; see the base class."""
        r = self._roots(sensor_weights, 0, self.p).expand(self.b, self.p, -1)
        Q = self._basis(r)
        t = r * self.y
        return hermitian(joint_pairs(t, Q)), (r.square() * freedom_of(Q)).sum(1)

    def gauss_newton(self, d, sensor_weights=None):
        """Return f, g, F; see the base class."""
        r = self._roots(sensor_weights, 0, self.p).expand(self.b, self.p, -1)
        Q = self._basis(r * d[:, None, :])
        z = r * self.y
        u = torch.einsum("blik,bk->bli", Q, torch.einsum("blik,bli->bk", Q.conj(), z))
        t, rest = u * inverse_or_zero(d)[:, None, :], z - u
        return rest.abs().square().sum((1, 2)), (t.conj() * rest).sum(1), hermitian(joint_pairs(t, Q))

    def cost(self, d, sensor_weights=None):
        """Return the misfit (b,) of gains d (b, m); `sensor_weights` as in the base class."""
        r = self._roots(sensor_weights, 0, self.p).expand(self.b, self.p, -1)
        Q = self._basis(r * d[:, None, :])
        z = r * self.y
        return (
            (z - torch.einsum("blik,bk->bli", Q, torch.einsum("blik,bli->bk", Q.conj(), z))).abs().square().sum((1, 2))
        )

    def noise_part(self, d, sensor_weights=None):
        """Return the part of noise in F; see the base class."""
        Q = self._basis(self._roots(sensor_weights, 0, self.p).expand(self.b, self.p, -1) * d[:, None, :])
        K = torch.diag_embed(Q.abs().square().sum((1, 3)))
        for own in Q.unbind(1):
            # |P|^2 between the rows of one snapshot and those of all others.
            K = K - (own[:, None] @ Q.mH).abs().square().sum(1)
        return over_gains(K.to(self.dtype), d)

    def residual_powers(self, d, sensor_weights=None):
        """Return powers and degrees of freedom of the sensors; see the base class."""
        r = self._roots(sensor_weights, 0, self.p).expand(self.b, self.p, -1)
        Q = self._basis(r * d[:, None, :])
        z = r * self.y
        rest = z - torch.einsum("blik,bk->bli", Q, torch.einsum("blik,bli->bk", Q.conj(), z))
        free = torch.where(r > 0, freedom_of(Q), 0.0)
        return rest.abs().square().sum(1), free.sum(1)

    def degrees(self, d):
        """Return data minus signal unknowns; see the base class."""
        r = self._roots(None, 0, self.p).expand(self.b, self.p, -1)
        return (r > 0).sum((1, 2)) - self._basis(r * d[:, None, :]).abs().square().sum((1, 2, 3)).round()

    def signals(self, d, y):
        """Return the one signal (b, n); see the base class."""
        r = self._roots(None, 0, self.p).expand(self.b, self.p, -1)
        B = self._stack(r * d[:, None, :])
        return least_squares(B[:, None], (r * y).reshape(self.b, 1, -1))[:, 0]

    def _spread(self, x):
        return x[:, None, :].expand(-1, self.p, -1)


class Shared(Elimination):
    """All snapshots pass the same matrix with the same weights: only their triangular factor counts, not their number.

    Parameters
    ----------
    factor : Tensor, shape (b, q, m)
        Any matrix L with L^H L the sum of conj(y_l) y_l^T: the snapshots, or the triangular factor of their QR.
    A : Tensor, shape (b or 1, m, n)
        Matrix.
    count : Tensor, shape (b,)
        Number of snapshots.
    w : Tensor, shape (b or 1, m), or None
        Weights of the sensors; ones by default.
    active : Tensor of bool, shape (b, m), or None
        Sensors that take part; all by default.
    """

    def __init__(self, factor, A, count, w=None, active=None):
        self.factor, self.A, self.count, self.w = factor, A, count, w
        self.b, _, self.m = factor.shape
        self.p, self.n = int(count.max()) if len(count) else 0, A.shape[-1]
        self.dtype, self.device = factor.dtype, factor.device
        ones = torch.ones(self.b, self.m, dtype=torch.bool, device=factor.device)
        self.active = ones if active is None else active

    def rows(self, index):
        """Return the same with some of the channels only; see the base class."""
        pick = lambda t: t if t is None or len(t) == 1 != self.b else t[index]  # noqa: E731
        return Shared(self.factor[index], pick(self.A), self.count[index], pick(self.w), self.active[index])

    def restrict(self, active):
        """Return the same with fewer sensors taking part; see the base class."""
        return Shared(self.factor, self.A, self.count, self.w, self.active & active)

    def _roots(self, sensor_weights=None):
        w = self.active.to(self.factor.real.dtype)
        w = w if self.w is None else w * self.w
        return (w if sensor_weights is None else w * sensor_weights).sqrt()

    def _parts(self, d, sensor_weights):
        r = self._roots(sensor_weights)
        Q = range_basis((r * d)[..., None] * self.A)
        z = r[:, None, :] * self.factor
        return Q, z, (z @ Q.conj()) @ Q.mT

    def schur(self, sensor_weights=None):
        """Return M and N; see the base class."""
        r = self._roots(sensor_weights)
        Q = range_basis(r[..., None] * self.A)
        N = self.count[:, None] * r.square() * freedom_of(Q)
        return hermitian(shared_pairs(r[:, None, :] * self.factor, Q)), N

    def gauss_newton(self, d, sensor_weights=None):
        """Return f, g, F; see the base class."""
        Q, z, u = self._parts(d, sensor_weights)
        t, rest = u * inverse_or_zero(d)[:, None, :], z - u
        return rest.abs().square().sum((1, 2)), (t.conj() * rest).sum(1), hermitian(shared_pairs(t, Q))

    def cost(self, d, sensor_weights=None):
        """Return the misfit (b,) of gains d (b, m); `sensor_weights` as in the base class."""
        _, z, u = self._parts(d, sensor_weights)
        return (z - u).abs().square().sum((1, 2))

    def noise_part(self, d, sensor_weights=None):
        """Return the part of noise in F; see the base class."""
        Q = range_basis((self._roots(sensor_weights) * d)[..., None] * self.A)
        return over_gains(self.count[:, None, None] * noise_pairs(Q), d)

    def residual_powers(self, d, sensor_weights=None):
        """Return powers and degrees of freedom of the sensors; see the base class."""
        Q, z, u = self._parts(d, sensor_weights)
        free = torch.where(self._roots() > 0, freedom_of(Q), 0.0)
        return (z - u).abs().square().sum(1), self.count[:, None] * free

    def degrees(self, d):
        """Return data minus signal unknowns; see the base class."""
        r = self._roots()
        rank = range_basis((r * d)[..., None] * self.A).abs().square().sum((1, 2)).round()
        return self.count * ((r > 0).sum(1) - rank)

    def signals(self, d, y):
        """Return the signals of the data y (b, p, m); see the base class."""
        r = self._roots()
        B = (r * d)[..., None] * self.A
        return least_squares(B[:, None], r[:, None, :] * y)

    def predict(self, d, x):
        """Return diag(d) A x, shape (b, p, m)."""
        return d[:, None, :] * (x @ self.A.mT)


class Total(Elimination):
    """The sum of several eliminations with the same gains, such as one for each pattern of flags.

    Parameters
    ----------
    parts : list of Elimination
        With the same channels and sensors.
    places : list of LongTensor
        Which snapshots each part holds.
    """

    def __init__(self, parts, places):
        self.parts, self.places = parts, places
        first = parts[0]
        self.b, self.m, self.n = first.b, first.m, first.n
        self.p = sum(len(place) for place in places)
        self.dtype, self.device, self.active = first.dtype, first.device, first.active

    def rows(self, index):
        """Return the same with some of the channels only; see the base class."""
        return Total([part.rows(index) for part in self.parts], self.places)

    def restrict(self, active):
        """Return the same with fewer sensors taking part; see the base class."""
        return Total([part.restrict(active) for part in self.parts], self.places)

    def schur(self, sensor_weights=None):
        """Return M and N; see the base class."""
        return _summed(part.schur(sensor_weights) for part in self.parts)

    def gauss_newton(self, d, sensor_weights=None):
        """Return f, g, F; see the base class."""
        return _summed(part.gauss_newton(d, sensor_weights) for part in self.parts)

    def cost(self, d, sensor_weights=None):
        """Return the misfit (b,) of gains d (b, m); `sensor_weights` as in the base class."""
        return sum(part.cost(d, sensor_weights) for part in self.parts)

    def noise_part(self, d, sensor_weights=None):
        """Return the part of noise in F; see the base class."""
        return sum(part.noise_part(d, sensor_weights) for part in self.parts)

    def residual_powers(self, d, sensor_weights=None):
        """Return powers and degrees of freedom of the sensors; see the base class."""
        return _summed(part.residual_powers(d, sensor_weights) for part in self.parts)

    def degrees(self, d):
        """Return data minus signal unknowns; see the base class."""
        return sum(part.degrees(d) for part in self.parts)

    def signals(self, d, y):
        """Return the signals of the data y (b, p, m); see the base class."""
        x = y.new_zeros(self.b, self.p, self.n)
        for part, place in zip(self.parts, self.places, strict=True):
            x[:, place] = part.signals(d, y[:, place])
        return x

    def predict(self, d, x):
        """Return diag(d) A x, shape (b, p, m)."""
        return self.parts[0].predict(d, x)


def _summed(parts):
    total = None
    for part in parts:
        total = part if total is None else tuple(a + b for a, b in zip(total, part, strict=True))
    return total
