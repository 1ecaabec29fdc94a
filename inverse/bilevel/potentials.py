r"""Smooth convex potentials of one real variable, with all derivatives that a structured lower level takes.

.. math:: \varphi(t; \nu), \qquad \varphi', \varphi'', \varphi''' \text{ in } t, \qquad
          \partial_\nu \varphi', \partial_\nu \varphi''

Notation  t any tensor; nu > 0 the width of the bend at 0, in the units of t, a number or a tensor that broadcasts
          with t; r = 1 / sqrt(t^2 + nu^2).
Cost      a few passes over t; every method returns a new tensor and leaves t alone.
Pitfalls  only operations that round the same for every length of a tensor are used where they can be, so that a sample
          gets the same bits in any batch; powers with broken exponents do not.
References  P. Charbonnier et al., Deterministic edge-preserving regularization in computed imaging, 1997; S. Roth, M.
          Black, Fields of experts, 2009.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidTypeError
from sciml.validation import check_option

__all__ = ["LogCosh", "Potential", "SmoothAbs", "Square", "find_potential"]


class Potential:
    """Base of the potentials, convex and three times differentiable in t.

    Attributes
    ----------
    has_width : bool
        Whether the potential depends on nu.
    bounds : tuple of float
        Suprema over t, for nu = 1, of phi'', of the modulus of phi''', and of that of the derivative of phi'' in nu.
        At another width they are divided by nu, nu^2 and nu^2, unless the potential has no width.

    Examples
    --------
    >>> from sciml.inverse.bilevel.potentials import SmoothAbs
    >>> SmoothAbs().bounds[0]
    1.0
    """

    has_width = True
    bounds = (1.0, 1.0, 1.0)

    def value(self, t, nu):
        """Return phi.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError

    def slope(self, t, nu):
        """Return phi'.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError

    def curvature(self, t, nu):
        """Return phi''.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError

    def third(self, t, nu):
        """Return phi'''.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError

    def slope_in_width(self, t, nu):
        """Return the derivative of phi' in nu.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError

    def curvature_in_width(self, t, nu):
        """Return the derivative of phi'' in nu.

        Parameters
        ----------
        t : torch.Tensor, any shape
            Where.
        nu : float or torch.Tensor
            Width, above 0.

        Returns
        -------
        torch.Tensor, shape of t
        """
        raise NotImplementedError


class SmoothAbs(Potential):
    r"""The absolute value with its kink rounded off, :math:`\sqrt{t^2 + \nu^2}`.

    Notes
    -----
    phi' = t r, phi'' = nu^2 r^3 <= 1 / nu, phi''' = -3 nu^2 t r^5 with modulus at most 0.8587 / nu^2, at t = nu / 2.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.potentials import SmoothAbs
    >>> SmoothAbs().value(torch.tensor([3.0]), 4.0)
    tensor([5.])
    """

    bounds = (1.0, 1.5 / 1.25**2.5, 1.0)

    def value(self, t, nu):
        return (t * t).add_(nu * nu).sqrt_()

    def slope(self, t, nu):
        return _inverse_root(t, nu).mul_(t)

    def curvature(self, t, nu):
        r = _inverse_root(t, nu)
        return (r * r).mul_(r).mul_(nu * nu)

    def third(self, t, nu):
        r = _inverse_root(t, nu)
        square = r * r
        return r.mul_(square).mul_(square).mul_(t).mul_(-3 * nu * nu)

    def slope_in_width(self, t, nu):
        r = _inverse_root(t, nu)
        return (r * r).mul_(r).mul_(t).mul_(-nu)

    def curvature_in_width(self, t, nu):
        # nu (2 t^2 - nu^2) r^5, written with the bounded nu r in place of t.
        r = _inverse_root(t, nu)
        square = r * r
        bounded = (square * (-3 * nu * nu)).add_(2)
        return r.mul_(square).mul_(bounded).mul_(nu)


def _inverse_root(t, nu):
    return (t * t).add_(nu * nu).rsqrt_()


class LogCosh(Potential):
    r"""A rounded absolute value that is quadratic near 0 and straight soon beyond, :math:`\nu \log\cosh(t / \nu)`.

    Notes
    -----
    phi' = tanh, phi'' = (1 - tanh^2) / nu <= 1 / nu, phi''' = -2 tanh (1 - tanh^2) / nu^2 with modulus at most
    4 / (3 sqrt 3 nu^2), all at t / nu.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.potentials import LogCosh
    >>> LogCosh().slope(torch.tensor([100.0]), 1.0)
    tensor([1.])
    """

    bounds = (1.0, 4 / 27**0.5, 1.0)

    def value(self, t, nu):
        s = (t / nu).abs_()
        # log cosh s = s + log(1 + e^(-2 s)) - log 2, which cannot overflow.
        return (torch.log1p(torch.exp(-2 * s)).add_(s) - 0.6931471805599453).mul_(nu)

    def slope(self, t, nu):
        return torch.tanh(t / nu)

    def curvature(self, t, nu):
        return _sech_square(t / nu).div_(nu)

    def third(self, t, nu):
        s = t / nu
        return _sech_square(s).mul_(torch.tanh(s)).mul_(-2 / (nu * nu))

    def slope_in_width(self, t, nu):
        s = t / nu
        return _sech_square(s).mul_(s).div_(-nu)

    def curvature_in_width(self, t, nu):
        s = t / nu
        return _sech_square(s).mul_((2 * s * torch.tanh(s)).sub_(1)).div_(nu * nu)


def _sech_square(s):
    # 1 - tanh^2 would cancel for large s; this is 4 e^(-2s) / (1 + e^(-2s))^2.
    e = torch.exp(-2 * s.abs())
    return (4 * e).div_((1 + e).square_())


class Square(Potential):
    r"""Half the square, :math:`t^2 / 2`; it has no width.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.potentials import Square
    >>> Square().value(torch.tensor([3.0]), None)
    tensor([4.5000])
    """

    has_width = False
    bounds = (1.0, 0.0, 0.0)

    def value(self, t, nu):
        return (t * t).mul_(0.5)

    def slope(self, t, nu):
        return t.clone()

    def curvature(self, t, nu):
        return torch.ones_like(t)

    def third(self, t, nu):
        return torch.zeros_like(t)


_POTENTIALS = {"smooth-abs": SmoothAbs, "log-cosh": LogCosh, "square": Square}


def find_potential(potential):
    """Return a potential by its name, or as it is.

    Parameters
    ----------
    potential : {"smooth-abs", "log-cosh", "square"} or Potential
        Name, or an object of your own.

    Returns
    -------
    Potential

    Raises
    ------
    InvalidInputError
        If the name is unknown.
    InvalidTypeError
        If it is neither a name nor a potential.

    Examples
    --------
    >>> from sciml.inverse.bilevel.potentials import find_potential
    >>> find_potential("square").has_width
    False
    """
    if isinstance(potential, Potential):
        return potential
    if not isinstance(potential, str):
        raise InvalidTypeError(
            f"potential must be a name or a Potential; got {type(potential).__name__}. "
            f"Names are {', '.join(map(repr, _POTENTIALS))}."
        )
    return _POTENTIALS[check_option("potential", potential, _POTENTIALS)]()
