r"""Kernels of the distance alone: Gaussian, Matern, rational quadratic, inverse multiquadric.

Notation  l lengthscale, a number or one for each coordinate; q = sum_k (r_k / l_k)^2, the squared scaled distance.
          Gaussian              exp(-q / 2)
          Matern 1/2            exp(-a),                      a = sqrt(q)
          Matern 3/2            (1 + a) exp(-a),              a = sqrt(3 q)
          Matern 5/2            (1 + a + a^2 / 3) exp(-a),    a = sqrt(5 q)
          rational quadratic    (1 + q / (2 alpha))^(-alpha)
          inverse multiquadric  (1 + q)^(-1/2)
Pitfalls  Matern 3/2 and 5/2 are differentiated in q = a^2 by P_p' = -P_{p-1} / (2 (2 p - 1)), which is free of a
          division by a: the chain rule through a square root would give second derivatives of zero at r = 0.

References
----------
C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, chapter 4.
"""

import numbers

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.kernels.base import Kernel, _long, positive, power_of_two
from sciml.linalg.engines.entries import Entries, safe_sqrt


class Radial(Kernel):
    """Base of the kernels of the scaled distance; a subclass gives ``_profile`` and ``_log_profile`` of its square.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        Length over which the kernel falls, in the units of the points; one number, or one for each coordinate.
        1.0 by default.
    """

    def __init__(self, lengthscale=1.0):
        super().__init__(lengthscale=positive("lengthscale", lengthscale))

    def _unit(self):
        return power_of_two(self._given["lengthscale"])

    def _inverse(self, unit):
        """Return 1 / l^2 for one lengthscale, and 1 / l for several."""
        lengths = _long(self._given["lengthscale"]) / unit
        return (1 / lengths.reshape(()) ** 2) if lengths.numel() == 1 else 1 / lengths

    def _prepared(self, unit):
        return [self._inverse(unit)]

    def _key(self):
        return (type(self).__name__, self.isotropic) if type(self).__module__ == __name__ else None

    def _q(self, y, x, inverse):
        if self.isotropic:
            return ((y - x) ** 2).sum(-1) * inverse
        return (((y - x) * inverse) ** 2).sum(-1)

    @property
    def isotropic(self):
        """Whether one lengthscale serves all coordinates."""
        value = self._given["lengthscale"]
        return (value.numel() if isinstance(value, torch.Tensor) else np.size(value)) == 1

    def _pair(self, y, x, inverse, *rest):
        return self._profile(self._q(y, x, inverse), *rest)

    def _log_pair(self, y, x, inverse, *rest):
        return self._log_profile(self._q(y, x, inverse), *rest)

    def _squared(self, q, inverse, *rest):
        """Return k of the squared scaled distance."""
        return self._profile(q, *rest)

    def _scale(self, points, inverse, *rest):
        """Return the points divided by the lengthscale."""
        return points * (torch.sqrt(inverse) if self.isotropic else inverse)

    def _fill(self, q, t, Y, X, inverse, *rest):
        """Return k for rows Y (m, d) and columns X (d, n) in the memory of q, with t for scratch."""
        return self._profile_in_place(self._q_in_place(q, t, Y, X, inverse), t, *rest)

    def _fill_log(self, q, t, Y, X, inverse, *rest):
        """Return log k, likewise."""
        return self._log_profile(Entries([self._q_in_place(q, t, Y, X, inverse)]), *rest).parts[0]

    def _q_in_place(self, q, t, Y, X, inverse):
        for k in range(Y.shape[1]):
            out = t if k else q
            torch.sub(Y[:, k : k + 1], X[k : k + 1], out=out)
            if not self.isotropic:
                out.mul_(inverse[k])
            if k:
                q.addcmul_(t, t)
            else:
                q.mul_(q)
        return q.mul_(inverse) if self.isotropic else q

    def _profile_in_place(self, q, t, *rest):
        """Return k of the squared scaled distance q; both q and t may be overwritten."""
        return self._profile(Entries([q]), *rest).parts[0]

    def _profile(self, q, *rest):
        """Return k of the squared scaled distance."""
        raise NotImplementedError

    def _log_profile(self, q, *rest):
        """Return log k of the squared scaled distance."""
        raise NotImplementedError


class Gaussian(Radial):
    r"""Gaussian kernel :math:`\exp(-|r|^2 / (2 l^2))`, also known as squared exponential or RBF.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        The standard deviation `l` of the bell, in the units of the points; 1.0 by default.

    Examples
    --------
    >>> Gaussian(lengthscale=0.5)([[0.0]], [[1.0]]).round(4)
    array([[0.1353]])
    """

    def _profile(self, q):
        return (q * -0.5).exp()

    def _profile_in_place(self, q, t):
        return q.mul_(-0.5).exp_()

    def _log_profile(self, q):
        return q * -0.5


class Matern(Radial):
    r"""Matern kernel of smoothness 1/2, 3/2 or 5/2, with :math:`a = \sqrt{2\nu}\,|r| / l`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.
    nu : {0.5, 1.5, 2.5}
        Smoothness: the process has ``nu - 1/2`` derivatives; 2.5 by default.

    Raises
    ------
    InvalidInputError
        If `nu` is none of the three, or a lengthscale is not positive.

    Examples
    --------
    >>> Matern(lengthscale=1.0, nu=0.5)([[0.0]], [[1.0]]).round(4)
    array([[0.3679]])
    """

    def __init__(self, lengthscale=1.0, nu=2.5):
        super().__init__(lengthscale)
        if not isinstance(nu, numbers.Real) or nu not in (0.5, 1.5, 2.5):
            raise InvalidInputError(f"nu must be 0.5, 1.5 or 2.5; got {nu!r}. For other smoothness use Gaussian.")
        self.nu = float(nu)
        if type(self) is Matern:
            self._options = ("nu",)
        if self.nu == 0.5:
            # The root of a squared distance by a matrix product keeps half of its digits only.
            self._squared = None

    def _key(self):
        key = super()._key()
        return None if key is None else (*key, self.nu)

    def _profile(self, q):
        return _matern(q * (2 * self.nu), round(self.nu - 0.5))

    def _profile_in_place(self, q, t):
        p = round(self.nu - 0.5)
        torch.sqrt(q.mul_(2 * self.nu).clamp_(max=1e6), out=t)  # exp(-1000) is zero, and inf * 0 is not met
        if p == 0:
            return t.neg_().exp_()
        front = torch.add(t, 1, out=q) if p == 1 else q.div_(3).add_(t).add_(1)
        return front.mul_(t.neg_().exp_())

    def _log_profile(self, q):
        return _log_matern(q * (2 * self.nu), round(self.nu - 0.5))


class Matern12(Matern):
    r"""Matern kernel of smoothness 1/2, :math:`\exp(-|r| / l)`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.

    Examples
    --------
    >>> Matern12(lengthscale=2.0)([[0.0]], [[2.0]]).round(4)
    array([[0.3679]])
    """

    def __init__(self, lengthscale=1.0):
        super().__init__(lengthscale, nu=0.5)


class Matern32(Matern):
    r"""Matern kernel of smoothness 3/2, :math:`(1 + a) e^{-a}` with :math:`a = \sqrt 3 |r| / l`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.

    Examples
    --------
    >>> Matern32(lengthscale=1.0)([[0.0]], [[1.0]]).round(4)
    array([[0.4834]])
    """

    def __init__(self, lengthscale=1.0):
        super().__init__(lengthscale, nu=1.5)


class Matern52(Matern):
    r"""Matern kernel of smoothness 5/2, :math:`(1 + a + a^2 / 3) e^{-a}` with :math:`a = \sqrt 5 |r| / l`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.

    Examples
    --------
    >>> Matern52(lengthscale=1.0)([[0.0]], [[1.0]]).round(4)
    array([[0.524]])
    """

    def __init__(self, lengthscale=1.0):
        super().__init__(lengthscale, nu=2.5)


class RationalQuadratic(Radial):
    r"""Rational quadratic kernel :math:`(1 + |r|^2 / (2 \alpha l^2))^{-\alpha}`: a mixture of Gaussians of all widths.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.
    alpha : float
        Power of the tail, dimensionless; the Gaussian kernel is the limit of large `alpha`. 1.0 by default.

    Examples
    --------
    >>> RationalQuadratic(lengthscale=1.0, alpha=2.0)([[0.0]], [[2.0]])
    array([[0.25]])
    """

    def __init__(self, lengthscale=1.0, alpha=1.0):
        super().__init__(lengthscale)
        self._given["alpha"] = positive("alpha", alpha, sizes=((), (1,)))

    def _prepared(self, unit):
        return [self._inverse(unit), _long(self._given["alpha"]).reshape(())]

    def _profile(self, q, alpha):
        return self._log_profile(q, alpha).exp()

    def _log_profile(self, q, alpha):
        return -alpha * _log_of_one_and(q / (2 * alpha))


class InverseMultiquadric(Radial):
    r"""Inverse multiquadric kernel :math:`(1 + |r|^2 / l^2)^{-1/2}`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.

    Examples
    --------
    >>> InverseMultiquadric(lengthscale=2.0)([[0.0]], [[0.0], [2.0]]).round(4)
    array([[1.    , 0.7071]])
    """

    def _profile(self, q):
        return (1 + q).rsqrt()

    def _log_profile(self, q):
        return _log_of_one_and(q) * -0.5


def _log_of_one_and(q):
    """Return log(1 + q); on entries without rounding the sum."""
    return Entries([torch.log1p(part) for part in q.parts]) if isinstance(q, Entries) else (1 + q).log()


def _matern(q, p):
    """Return exp(-a) times 1, 1 + a or 1 + a + a^2 / 3 for p = 0, 1, 2, a = sqrt(q), on entries or LazyTensors."""
    if isinstance(q, Entries):
        return Entries([_decay(part, p) for part in q.parts])
    return _front(q, q.sqrt(), p) * (-q.sqrt()).exp()


def _log_matern(q, p):
    """Return the logarithm of :func:`_matern`."""
    if isinstance(q, Entries):
        return Entries([_log_decay(part, p) for part in q.parts])
    return -q.sqrt() if p == 0 else _front(q, q.sqrt(), p).log() - q.sqrt()


def _front(q, a, p):
    return (1.0, 1 + a, 1 + a + q / 3)[p]


def _decay(q, p):
    return torch.exp(-safe_sqrt(q)) if p == 0 else _Decay.apply(q, p)


def _log_decay(q, p):
    return -safe_sqrt(q) if p == 0 else _LogDecay.apply(q, p)


class _Decay(torch.autograd.Function):
    """P_1 and P_2 as functions of q = a^2, with d P_p / d q = -P_{p-1} / (2 (2 p - 1))."""

    @staticmethod
    def forward(q, p):
        # exp(-a) is zero in any dtype beyond a = 1000, and inf * 0 is not met below.
        q = q.clamp_max(1e6)
        a = torch.sqrt(q)
        return _front(q, a, p) * torch.exp(-a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.p = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (q,) = ctx.saved_tensors
        return g * _decay(q, ctx.p - 1) / (-2.0 * (2 * ctx.p - 1)), None


class _LogDecay(torch.autograd.Function):
    """Logarithms of P_1 and P_2 as functions of q = a^2; the derivative is that of P_p over P_p."""

    @staticmethod
    def forward(q, p):
        a = torch.sqrt(q)
        return torch.log(_front(q, a, p)) - a

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.p = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        (q,) = ctx.saved_tensors
        a = safe_sqrt(q)
        return g * _front(q, a, ctx.p - 1) / (_front(q, a, ctx.p) * (-2.0 * (2 * ctx.p - 1))), None
