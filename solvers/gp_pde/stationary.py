r"""Covariance functions of a difference, with every partial derivative in closed form.

.. math:: \partial_x^\alpha \partial_{x'}^\beta k(x - x') = (-1)^{|\beta|} (\partial^{\alpha+\beta} k)(x - x')

so that functionals of a process need derivatives of one function of :math:`r = x - x'` alone.

Notation  r = x - x' (d coordinates); t = r / l scaled (by sqrt(2 nu), too, for Matern); q = |t|^2; a = sqrt(q); gamma
          multi-index.
          radial    f(q):  d^n/dt^n f(t^2) = sum_m n! / (m! (n - 2m)!) (2t)^(n-2m) f^(n-m)(t^2), one factor an axis
          Matern    f^(k) = (-1/2)^k / (2p-1)!! e^(-a) theta_(p-k)(a) for k <= p, and beyond
                    (-1/2)^k / (2p-1)!! e^(-a) theta_(k-p-1)(a) / a^(2(k-p)-1), nu = p + 1/2, theta the reverse Bessel
                    polynomials
          mixture   sum_q w_q gamma(rho_q r) cos(omega_q . r), by Leibniz
Cost      one exponential and one square root a pair for radial kernels; Q times that for mixtures.
Pitfalls  Nothing is differentiated through |r|, whose second derivative at zero automatic differentiation gets wrong.
          Beyond k = p the division by a meets monomials of higher degree in t while |gamma| <= 2 p: the limit at zero
          is zero, and is reached by adding 1e-40 to q. Higher derivatives do not exist and are refused.

References
----------
C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, chapter 4.
S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian processes, 2024, arXiv 2311.04465.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from sciml import kernels
from sciml.exceptions import InvalidInputError, InvalidTypeError

__all__ = ["Mixture", "ProductOfTwo", "RadialFunction", "SumOfTwo", "covariance_from_state", "covariance_of"]

TINY = 1e-40  # keeps 1/a finite where the points coincide; up to a^-15 stays below the largest float


class Covariance:
    """Base: a function of the difference with its derivatives."""

    #: Highest total order of derivative that exists; infinite for analytic kernels.
    max_order = math.inf
    #: True where the limit holds for each dimension apart, as for products of one-dimensional kernels.
    by_axis = False

    def check(self, gamma):
        """Raise when the derivative `gamma` does not exist.

        Parameters
        ----------
        gamma : tuple of int, length d
            Multi-index of a derivative of the covariance: the sum of those of its two arguments.

        Raises
        ------
        InvalidInputError
            The message names the order and a smoother kernel.
        """
        order = max(gamma) if self.by_axis else sum(gamma)
        if order > self.max_order:
            raise InvalidInputError(
                f"kernel must have derivatives of order {order} (two functionals of half that order are correlated); "
                f"{self} has {self.max_order:g}. Take a smoother kernel: smoothness={order / 2 + 0.5:g} or more, or "
                f"a Gaussian one."
            )


class RadialFunction(Covariance):
    r"""A variance times a function of the scaled distance: Matern of any half-integer order, Gaussian, rational.

    Parameters
    ----------
    family : {"matern", "gaussian", "rational"}
        Matern with nu = p + 1/2; ``exp(-q / 2)``; ``(1 + q / c)^(-power)``.
    lengthscale : sequence of float, length d
        Lengths over which it falls, units of x.
    variance : float
        Value at zero, squared units of u.
    p : int
        For "matern": nu - 1/2.
    power, c : float
        For "rational".

    Examples
    --------
    Minus the second derivative of a Matern 5/2 kernel of length 1 at zero is 5/3:

    >>> k = RadialFunction("matern", [1.0], p=2)
    >>> round(float(k.derivatives([torch.zeros(1, dtype=torch.float64)], {(2,): -1.0})), 12)
    1.666666666667
    """

    def __init__(self, family, lengthscale, variance=1.0, *, p=2, power=1.0, c=1.0):
        self.family, self.variance, self.p, self.power, self.c = family, float(variance), int(p), float(power), float(c)
        self.lengthscale = tuple(float(v) for v in lengthscale)
        self.max_order = 2 * self.p if family == "matern" else math.inf

    def __repr__(self):
        lengths = ", ".join(f"{v:.3g}" for v in self.lengthscale)
        name = f"Matern {2 * self.p + 1}/2" if self.family == "matern" else f"{self.family.capitalize()} kernel"
        return f"{name} of lengthscale ({lengths})"

    def state(self) -> dict:
        """Numbers that rebuild it."""
        names = ("family", "variance", "p", "power", "c")
        return {"kind": "radial", "lengthscale": list(self.lengthscale)} | {n: getattr(self, n) for n in names}

    def derivatives(self, r, coefficients):
        """Evaluate ``sum_gamma c_gamma (d^gamma k)(r)``.

        Parameters
        ----------
        r : list of d tensors (or the coordinates that engines hand to pair functions)
            Differences, of shapes that broadcast.
        coefficients : dict
            Multi-index to a float or a tensor that broadcasts with `r`.

        Returns
        -------
        torch.Tensor
            Of the broadcast shape.
        """
        stretch = math.sqrt(2 * self.p + 1) if self.family == "matern" else 1.0
        scale = [stretch / v for v in self.lengthscale]
        t = [x * s for x, s in zip(r, scale, strict=True)]
        squares = [x * x for x in t]
        q = sum(squares[1:], squares[0])
        needed = _radial_polynomials(coefficients, scale)
        common, factors = self._profile(q, sorted(needed))
        powers = _Powers(t, squares, q)
        total = None
        for k, factor in factors.items():
            polynomial = powers.combine(needed[k])
            part = polynomial * factor if not isinstance(factor, float) else polynomial * factor
            total = part if total is None else total + part
        total = common * total
        return total if self.variance == 1.0 else total * self.variance

    def line(self, r, order):
        """The derivatives 0, ..., order on a line, of differences r; the exponential is shared."""
        scale = (math.sqrt(2 * self.p + 1) if self.family == "matern" else 1.0) / self.lengthscale[0]
        t = r * scale
        q = t * t
        common, factors = self._profile(q, range(order + 1))
        powers = _Powers([t], [q], q)
        out = []
        for n in range(order + 1):
            polynomials = _radial_polynomials({(n,): self.variance}, [scale])
            parts = [powers.combine(c) * factors[k] for k, c in polynomials.items()]
            out.append(common * sum(parts[1:], parts[0]))
        return out

    def _profile(self, q, orders):
        """The derivatives f^(k)(q) as a common factor and one factor for each k."""
        if self.family == "gaussian":
            return (q * -0.5).exp(), {k: (-0.5) ** k for k in orders}
        if self.family == "rational":
            base = q * (1 / self.c) + 1
            inverse, out = 1 / base, {}
            for k in orders:
                number = (-1.0 / self.c) ** k * math.prod(self.power + i for i in range(k))
                out[k] = inverse**k * number if k else 1.0
            return (base.log() * -self.power).exp(), out
        a = (q + TINY).sqrt() if max(orders) > self.p else q.sqrt()
        inverse = 1 / a if max(orders) > self.p else None
        unit = 1 / math.prod(range(1, 2 * self.p, 2))
        out = {}
        for k in orders:
            number = (-0.5) ** k * unit
            if k <= self.p:
                out[k] = _bessel(a, self.p - k, number)
            else:
                front = inverse
                for _ in range(2 * (k - self.p) - 2):
                    front = front * inverse
                out[k] = front * _bessel(a, k - self.p - 1, number)
        return (-a).exp(), out


def _bessel(a, n, factor):
    """Reverse Bessel polynomial theta_n(a) times a factor, by Horner: 1, a + 1, a^2 + 3a + 3, ..."""
    c = [math.factorial(2 * n - i) / (math.factorial(i) * math.factorial(n - i)) / 2 ** (n - i) for i in range(n + 1)]
    out = c[n] * factor
    for i in range(n - 1, -1, -1):
        out = a * out + c[i] * factor
    return out


def _radial_polynomials(coefficients, scale):
    """{k: {exponents: coefficient}}: the polynomials in t that multiply f^(k)."""
    out: dict = {}
    for gamma, c in coefficients.items():
        c = c * math.prod(s**g for s, g in zip(scale, gamma, strict=True))
        for m in itertools.product(*(range(g // 2 + 1) for g in gamma)):
            number = 1.0
            for g, i in zip(gamma, m, strict=True):
                number *= math.factorial(g) / (math.factorial(i) * math.factorial(g - 2 * i)) * 2 ** (g - 2 * i)
            exponents = tuple(g - 2 * i for g, i in zip(gamma, m, strict=True))
            row = out.setdefault(sum(gamma) - sum(m), {})
            row[exponents] = row[exponents] + c * number if exponents in row else c * number
    return out


class _Powers:
    """Monomials of the scaled coordinates, each product formed once."""

    def __init__(self, t, squares, q):
        self.known, self.q = {}, q
        d = len(t)
        for j in range(d):
            unit = tuple(int(i == j) for i in range(d))
            self.known[unit], self.known[tuple(2 * i for i in unit)] = t[j], squares[j]

    def __getitem__(self, exponents):
        if exponents not in self.known:
            j = next(i for i, e in enumerate(exponents) if e)
            step = 2 if exponents[j] >= 2 and sum(exponents) > 2 else 1
            unit = tuple(step * int(i == j) for i in range(len(exponents)))
            rest = tuple(e - u for e, u in zip(exponents, unit, strict=True))
            self.known[exponents] = self[unit] * self[rest]
        return self.known[exponents]

    def combine(self, polynomial):
        m, c = _power_of_q(polynomial)
        if c is not None:  # isotropic operators: Laplacians of radial functions are radial
            return c if m == 0 else self.q * c if m == 1 else self.q**m * c if m > 2 else self.q * self.q * c
        total = None
        for exponents, c in polynomial.items():
            term = self[exponents] * c if any(exponents) else c
            total = term if total is None else term + total
        return total


def _power_of_q(polynomial):
    """Return (m, c) when a polynomial is c |t|^(2m), else (0, None)."""
    degrees = {sum(e) for e in polynomial}
    if len(degrees) > 1 or not all(isinstance(c, float) for c in polynomial.values()):
        return 0, None
    m, odd = divmod(degrees.pop(), 2)
    d = len(next(iter(polynomial)))
    c = polynomial.get((2 * m,) + (0,) * (d - 1))
    if odd or c is None or any(k % 2 for e in polynomial for k in e):
        return 0, None
    expected = {
        tuple(2 * k for k in e): c * math.factorial(m) / math.prod(math.factorial(k) for k in e)
        for e in itertools.product(range(m + 1), repeat=d)
        if sum(e) == m
    }
    same = expected.keys() == polynomial.keys()
    same = same and all(abs(polynomial[e] - v) <= 1e-13 * abs(c) for e, v in expected.items())
    return (m, c) if same else (0, None)


class Mixture(Covariance):
    r"""Spectral mixture :math:`\sum_q w_q \prod_j \gamma(\rho_{qj} r_j) \cos(\omega_q \cdot r)`.

    Parameters
    ----------
    weights : array, shape (q,)
        Variances of the components, squared units of u.
    omega : array, shape (q, d)
        Angular frequencies, rad / unit.
    rho : array, shape (q, d)
        Bandwidths, 1 / unit.
    envelope : {"gaussian", "matern"}
        ``exp(-s^2)`` or Matern 5/2 in ``sqrt(5) |s|``.

    Examples
    --------
    >>> k = Mixture([1.0], [[2.0]], [[0.0]], "gaussian")
    >>> float(k.derivatives([torch.zeros(1, dtype=torch.float64)], {(2,): 1.0}))
    -4.0
    """

    def __init__(self, weights, omega, rho, envelope):
        self.weights, self.envelope = np.asarray(weights, float), envelope
        self.omega, self.rho = np.asarray(omega, float), np.asarray(rho, float)
        self.max_order, self.by_axis = (4, True) if envelope == "matern" else (math.inf, False)

    def __repr__(self):
        return f"spectral mixture of {len(self.weights)} components with {self.envelope} envelopes"

    def state(self) -> dict:
        """Numbers that rebuild it."""
        names = ("weights", "omega", "rho")
        return {"kind": "mixture", "envelope": self.envelope} | {n: getattr(self, n).tolist() for n in names}

    def derivatives(self, r, coefficients):
        """Evaluate ``sum_gamma c_gamma (d^gamma k)(r)``; see `RadialFunction.derivatives`."""
        total = None
        d = len(r)
        highest = [max(g[j] for g in coefficients) for j in range(d)]
        for w, omega, rho in zip(self.weights.tolist(), self.omega.tolist(), self.rho.tolist(), strict=True):
            if w == 0:
                continue
            phase = sum((r[j] * omega[j] for j in range(1, d)), r[0] * omega[0])
            waves = [phase.cos(), phase.sin()]
            envelopes = [self._envelope(r[j], rho[j], highest[j]) for j in range(d)]
            for gamma, c in coefficients.items():
                # Leibniz, gathered by the quarter turn of the wave: cos, -sin, -cos, sin.
                parts = [None, None]
                for i in itertools.product(*(range(g + 1) for g in gamma)):
                    turn = sum(i) % 4
                    number = w * (-1.0 if turn in (1, 2) else 1.0)
                    number *= math.prod(math.comb(g, k) * o**k for g, k, o in zip(gamma, i, omega, strict=True))
                    if number == 0:
                        continue
                    term = number
                    for j in range(d):
                        factor = envelopes[j][gamma[j] - i[j]]
                        term = term if isinstance(factor, float) and factor == 1.0 else factor * term
                    at = turn % 2
                    parts[at] = term if parts[at] is None else parts[at] + term
                for part, wave in zip(parts, waves, strict=True):
                    if part is not None:
                        term = wave * part * c
                        total = term if total is None else total + term
        return r[0] * 0.0 if total is None else total

    def _envelope(self, r, rho, order):
        """The derivatives 0, ..., order of one factor."""
        if rho == 0:
            return [1.0] + [0.0] * order
        if self.envelope == "gaussian":
            return RadialFunction("gaussian", [1 / (math.sqrt(2) * rho)]).line(r, order)
        return RadialFunction("matern", [1 / rho], p=2).line(r, order)


class SumOfTwo(Covariance):
    """Sum of two covariances.

    Parameters
    ----------
    first, second : Covariance
        Terms.
    """

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __repr__(self):
        return f"{self.first} + {self.second}"

    def check(self, gamma):
        """See `Covariance.check`."""
        self.first.check(gamma)
        self.second.check(gamma)

    def state(self) -> dict:
        """Numbers that rebuild it."""
        return {"kind": "sum", "first": self.first.state(), "second": self.second.state()}

    def derivatives(self, r, coefficients):
        """See `RadialFunction.derivatives`."""
        return self.first.derivatives(r, coefficients) + self.second.derivatives(r, coefficients)


class ProductOfTwo(SumOfTwo):
    """Product of two covariances, differentiated by Leibniz.

    Parameters
    ----------
    first, second : Covariance
        Factors.
    """

    def __repr__(self):
        return f"({self.first}) * ({self.second})"

    def state(self) -> dict:
        """Numbers that rebuild it."""
        return super().state() | {"kind": "product"}

    def derivatives(self, r, coefficients):
        """See `RadialFunction.derivatives`."""
        total = None
        one, two = {}, {}
        for gamma, c in coefficients.items():
            for i in itertools.product(*(range(g + 1) for g in gamma)):
                rest = tuple(g - k for g, k in zip(gamma, i, strict=True))
                if i not in one:
                    one[i] = self.first.derivatives(r, {i: 1.0})
                if rest not in two:
                    two[rest] = self.second.derivatives(r, {rest: 1.0})
                number = math.prod(math.comb(g, k) for g, k in zip(gamma, i, strict=True))
                term = one[i] * two[rest] * float(number) * c
                total = term if total is None else total + term
        return total


def covariance_of(kernel, n_dims):
    """Turn a kernel of :mod:`sciml.kernels` into a covariance with derivatives.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel or Covariance
        Radial kernels, spectral mixtures, and their sums, products and multiples.
    n_dims : int
        Number of dimensions d.

    Returns
    -------
    Covariance

    Raises
    ------
    InvalidTypeError
        When it is of another kind.
    InvalidInputError
        When its parameters do not fit d dimensions, or it has no derivatives at all.

    Examples
    --------
    >>> covariance_of(kernels.Matern52(0.5), 2)
    Matern 5/2 of lengthscale (0.5, 0.5)
    """
    from sciml.kernels import base

    if isinstance(kernel, Covariance):
        return kernel
    if not isinstance(kernel, kernels.Kernel):
        raise InvalidTypeError(
            f"kernel must be a kernel of sciml.kernels, or None; got {type(kernel).__name__}. Write for example "
            f"kernel=sciml.kernels.Matern52(lengthscale=0.1)."
        )
    kernel._check_width(n_dims)
    if isinstance(kernel, base._Sum):
        return SumOfTwo(covariance_of(kernel.first, n_dims), covariance_of(kernel.second, n_dims))
    if isinstance(kernel, base._Product):
        return ProductOfTwo(covariance_of(kernel.first, n_dims), covariance_of(kernel.second, n_dims))
    if isinstance(kernel, base._Multiple):
        variance = float(_plain(kernel._given["variance"]).reshape(-1)[0])
        constant = RadialFunction("gaussian", [math.inf] * n_dims, variance)
        inner = covariance_of(kernel.kernel, n_dims)
        if isinstance(inner, RadialFunction):
            return covariance_from_state(inner.state() | {"variance": inner.variance * variance})
        return ProductOfTwo(constant, inner)
    if isinstance(kernel, kernels.SpectralMixture):
        omega, rho = (_plain(kernel._table(name)) for name in ("frequencies", "bandwidths"))
        return Mixture(_plain(kernel._given["weights"]), 2 * math.pi * omega, rho, kernel.envelope)
    if isinstance(kernel, kernels.Radial):
        lengths = np.broadcast_to(_plain(kernel._given["lengthscale"]), (n_dims,)).tolist()
        if isinstance(kernel, kernels.Matern):
            return RadialFunction("matern", lengths, p=round(kernel.nu - 0.5))
        if isinstance(kernel, kernels.Gaussian):
            return RadialFunction("gaussian", lengths)
        if isinstance(kernel, kernels.InverseMultiquadric):
            return RadialFunction("rational", lengths, power=0.5)
        if isinstance(kernel, kernels.RationalQuadratic):
            alpha = float(_plain(kernel._given["alpha"]).reshape(-1)[0])
            return RadialFunction("rational", lengths, power=alpha, c=2 * alpha)
    raise InvalidTypeError(
        f"kernel must have derivatives that are known in closed form; got {kernel!r}. Take Gaussian, Matern, "
        f"RationalQuadratic, InverseMultiquadric, SpectralMixture, or sums and products of them."
    )


def covariance_from_state(state):
    """Rebuild a covariance from its ``state()``.

    Parameters
    ----------
    state : dict
        Plain numbers and lists.

    Returns
    -------
    Covariance
    """
    kind = state["kind"]
    if kind == "radial":
        return RadialFunction(**{k: v for k, v in state.items() if k != "kind"})
    if kind == "mixture":
        return Mixture(state["weights"], state["omega"], state["rho"], state["envelope"])
    parts = covariance_from_state(state["first"]), covariance_from_state(state["second"])
    return ProductOfTwo(*parts) if kind == "product" else SumOfTwo(*parts)


def _plain(value):
    return value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, float)
