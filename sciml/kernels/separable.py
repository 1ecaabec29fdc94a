r"""Kernels that are products over coordinates: Laplace, and mixtures of spectral components.

Notation  l lengthscale; w_q weight, mu_q frequency (cycles a unit length) and rho_q bandwidth (inverse length) of
          component q.
          Laplace            prod_k exp(-|r_k| / l_k)
          spectral mixture   sum_q w_q prod_k gamma(rho_qk r_k) cos(2 pi mu_q . r)
          envelopes          "gaussian"  gamma(t) = exp(-t^2);
                             "matern"    gamma(t) = (1 + a + a^2 / 3) exp(-a), a = sqrt(5) |t|, whose spectrum is
                                         Student's t with five degrees of freedom

References
----------
A. G. Wilson, R. P. Adams, Gaussian process kernels for pattern discovery and extrapolation, 2013, arXiv 1302.4245.
"""

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.kernels.base import Kernel, _as_tensor, _long, positive, power_of_two, real_array
from sciml.kernels.radial import _matern
from sciml.validation import check_option


class Laplace(Kernel):
    r"""Laplace kernel :math:`\exp(-\sum_k |r_k| / l_k)`, of the city-block distance.

    On a line it is the Matern kernel of smoothness 1/2; in more dimensions it is a product over coordinates, and the
    function of the Euclidean distance is :class:`Matern12`.

    Parameters
    ----------
    lengthscale : float or array, shape (d,)
        In the units of the points; 1.0 by default.

    Examples
    --------
    >>> Laplace(lengthscale=2.0)([[0.0, 0.0]], [[1.0, 1.0]]).round(4)
    array([[0.3679]])
    """

    def __init__(self, lengthscale=1.0):
        super().__init__(lengthscale=positive("lengthscale", lengthscale))

    def _unit(self):
        return power_of_two(self._given["lengthscale"])

    def _prepared(self, unit):
        inverse = unit / _long(self._given["lengthscale"])
        return [inverse.reshape(()) if inverse.numel() == 1 else inverse]

    def _key(self):
        return ("Laplace", _as_tensor(self._given["lengthscale"]).numel() == 1) if type(self) is Laplace else None

    def _pair(self, y, x, inverse):
        return self._log_pair(y, x, inverse).exp()

    def _log_pair(self, y, x, inverse):
        return -((y - x).abs() * inverse).sum(-1)


class SpectralMixture(Kernel):
    r"""Spectral mixture kernel :math:`\sum_q w_q \gamma(\rho_q r) \cos(2\pi \mu_q \cdot r)`.

    Parameters
    ----------
    weights : array, shape (q,)
        Variances of the components, in squared units of the process; at least 0.
    frequencies : array, shape (q,) or (q, d)
        In cycles a unit length; shape (q,) for points on a line.
    bandwidths : array, shape (q,) or (q, d)
        Inverse lengths over which the components lose coherence; at least 0, where 0 is a pure tone. In terms of the
        variance `v` of a Gaussian spectral line, ``bandwidths = pi * sqrt(2 v)``.
    envelope : {"gaussian", "matern"}
        Shape of the envelope: ``exp(-t^2)`` (the default, the classical mixture), or Matern 5/2 for heavier spectral
        lines.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit, or a weight or bandwidth is negative.

    Examples
    --------
    >>> k = SpectralMixture(weights=[1.0], frequencies=[0.5], bandwidths=[0.0])
    >>> k([[0.0]], [[0.5], [1.0]]).round(6)
    array([[ 0., -1.]])
    """

    def __init__(self, weights, frequencies, bandwidths, envelope="gaussian"):
        check_option("envelope", envelope, ("gaussian", "matern"))
        self.envelope, self._options = envelope, ("envelope",)
        weights = weights if isinstance(weights, torch.Tensor) else np.atleast_1d(weights)
        size = tuple(weights.shape)
        super().__init__(weights=positive("weights", weights, sizes=(size[:1],), zero=True))
        for name, value in (("frequencies", frequencies), ("bandwidths", bandwidths)):
            if not isinstance(value, torch.Tensor):
                value = np.atleast_1d(real_array(f"{name} must be real and finite", value))
            shape = tuple(value.shape)
            if len(shape) not in (1, 2) or shape[0] != size[0]:
                raise InvalidInputError(
                    f"{name} must have shape ({size[0]},) or ({size[0]}, d), one row for each weight; got {shape}."
                )
            plain = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
            if not bool(torch.isfinite(plain).all()):
                raise InvalidInputError(f"{name} must be finite; got {plain[~torch.isfinite(plain)][0].item()}.")
            self._given[name] = positive(name, value, sizes=(shape,), zero=True) if name == "bandwidths" else value

    def _width(self):
        return max(self._table("frequencies").shape[1], self._table("bandwidths").shape[1])

    def _table(self, name):
        value = _long(self._given[name])
        return value if value.ndim == 2 else value[:, None]

    def _check_width(self, d):
        for name in ("frequencies", "bandwidths"):
            width = self._table(name).shape[1]
            if width != d:
                raise InvalidInputError(
                    f"{name} of SpectralMixture must have one column for each of the {d} coordinates; got {width}."
                )

    def _key(self):
        if type(self) is not SpectralMixture:
            return None
        return ("SpectralMixture", self.envelope, self._table("frequencies").shape[0], self._width())

    def _unit(self):
        """Return the power of two near the shortest length in the kernel."""
        rates = torch.cat(
            [self._table("frequencies").detach().abs().ravel(), self._table("bandwidths").detach().ravel()]
        )
        fastest = float(rates.max())
        return power_of_two(1 / fastest) if fastest > 0 else 1.0

    def _prepared(self, unit):
        weights = _long(self._given["weights"])
        omega, rho = 2 * math.pi * self._table("frequencies") * unit, self._table("bandwidths") * unit
        return [part for q in range(len(weights)) for part in (weights[q], _thin(omega[q]), _thin(rho[q]))]

    def _pair(self, y, x, *prepared):
        r, total = y - x, None
        for w, omega, rho in zip(prepared[::3], prepared[1::3], prepared[2::3], strict=True):
            term = (r * omega).sum(-1).cos() * self._envelope(r * rho) * w
            total = term if total is None else total + term
        return total

    def _envelope(self, t):
        if self.envelope == "gaussian":
            return (-(t**2).sum(-1)).exp()
        product = None
        for k in range(self._width()):
            factor = _matern(t.elem(k) ** 2 * 5, 2)
            product = factor if product is None else product * factor
        return product


def _thin(row):
    """Return one frequency as a number, several as a vector."""
    return row.reshape(()) if row.numel() == 1 else row
