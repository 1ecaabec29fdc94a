r"""From hyperparameters to the numbers of a model: weights and widths as functions of theta.

.. math:: w_k(\theta) = s \exp\Big(\sum_{j \in I_k} \theta_j\Big)

Notation  theta (n,); w () or (K,), one number or one a channel; e (b, K) the derivatives of something in w, one row a
          sample; t (n,) a direction.
Pitfalls  everything is computed in float64 and rounded once, when it meets the data.
"""

from __future__ import annotations

import numbers

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.validation import check_number

__all__ = ["Exp", "ThetaMap", "as_map"]


class ThetaMap:
    """Any torch function of theta; its derivatives are those of automatic differentiation.

    Parameters
    ----------
    function : callable
        ``function(theta)`` for theta (n,) returns a torch number, or a tensor (K,).

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.maps import ThetaMap
    >>> ThetaMap(lambda theta: theta[0] ** 2).value(torch.tensor([3.0, 1.0], dtype=torch.float64))
    tensor(9., dtype=torch.float64)
    """

    def __init__(self, function):
        self.function = function

    def value(self, theta):
        """Return the numbers.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        torch.Tensor, shape () or (K,)
        """
        value = self.function(theta.detach())
        if not isinstance(value, torch.Tensor) or value.ndim > 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise InvalidInputError(
                f"a function of theta must return a torch number or a tensor (K,); got {got}. Write it with torch."
            )
        return value.detach().to(torch.float64)

    def jacobian(self, theta):
        """Return the derivatives.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        torch.Tensor, shape (K, n)
            K = 1 for a number.
        """
        t = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.function(t)
            if not value.requires_grad:
                return torch.zeros(max(1, value.numel()), len(t), dtype=torch.float64, device=t.device)
            rows = [torch.autograd.grad(v, t, retain_graph=True)[0] for v in value.reshape(-1)]
        return torch.stack(rows).to(torch.float64)

    def pushforward(self, theta, t):
        """Return the change of the numbers along a direction.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        t : torch.Tensor, shape (n,), float64
            The direction.

        Returns
        -------
        torch.Tensor, shape () or (K,)
        """
        return (self.jacobian(theta) * t).sum(1).reshape(self.value(theta).shape)

    def pullback(self, theta, e):
        """Return derivatives in theta from those in the numbers.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        e : torch.Tensor, shape (b, K), float64
            Derivatives in the numbers.

        Returns
        -------
        torch.Tensor, shape (b, n)
        """
        # Not a matrix product: that would round differently in batches of different sizes.
        return torch.stack([(row[:, None] * self.jacobian(theta)).sum(0) for row in e])

    def row_norms(self, theta):
        """Return the 2-norms of the rows of the Jacobian.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        torch.Tensor, shape (K,)
        """
        return torch.linalg.vector_norm(self.jacobian(theta), dim=1)


class Exp(ThetaMap):
    r"""Exponentials of entries of theta, :math:`s \exp(\theta_i + \theta_j + \dots)`; positive whatever theta is.

    Parameters
    ----------
    *index : int, slice or sequence of int
        Entries of theta to add up: an int is shared by all channels, a slice or a sequence holds one entry a channel.
    scale : float
        The factor s, above 0; 1 by default.

    Raises
    ------
    InvalidInputError
        If there is no index, an index is not an int, slice or sequence of ints, or `scale` is not above 0.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import Exp
    >>> Exp(0, slice(1, 3), scale=0.5).value(torch.zeros(3, dtype=torch.float64))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, *index, scale=1.0):
        if not index:
            raise InvalidInputError("index must name at least one entry of theta; got none. Write Exp(0).")
        self.index = tuple(i if isinstance(i, slice) else _indices(i) for i in index)
        self.scale = check_number("scale", scale, low=0, inclusive="neither")

    def __repr__(self):
        return f"Exp({', '.join(map(str, self.index))}, scale={self.scale:g})"

    def value(self, theta):
        """Return the numbers.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        torch.Tensor, shape () or (K,)
        """
        try:
            total = sum(theta[i if isinstance(i, (int, slice)) else list(i)] for i in self.index)
        except IndexError:
            raise InvalidInputError(
                f"theta must hold the entries {self.index} of {self!r}; got {len(theta)} hyperparameters."
            ) from None
        return self.scale * torch.exp(total)

    def jacobian(self, theta):
        """Return the derivatives.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        torch.Tensor, shape (K, n)
            K = 1 for a number.
        """
        value = self.value(theta).reshape(-1)
        J = torch.zeros(len(value), len(theta), dtype=torch.float64, device=theta.device)
        for i in self.index:
            J[torch.arange(len(value), device=theta.device), self._places(i, len(value), theta)] += value
        return J

    def pushforward(self, theta, t):
        """Return the change of the numbers along a direction.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        t : torch.Tensor, shape (n,), float64
            The direction.

        Returns
        -------
        torch.Tensor, shape () or (K,)
        """
        return self.value(theta) * sum(t[i if isinstance(i, (int, slice)) else list(i)] for i in self.index)

    def pullback(self, theta, e):
        """Return derivatives in theta from those in the numbers.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        e : torch.Tensor, shape (b, K), float64
            Derivatives in the numbers.

        Returns
        -------
        torch.Tensor, shape (b, n)
        """
        value = self.value(theta)
        e = e * value  # now the derivatives in the exponents
        out = torch.zeros(len(e), len(theta), dtype=torch.float64, device=theta.device)
        for i in self.index:
            if isinstance(i, int):
                out[:, i] += e.sum(1)
            else:
                out.index_add_(1, self._places(i, e.shape[1], theta), e)
        return out

    def _places(self, i, K, theta):
        """Return the entries of theta that an index gives to K channels."""
        numbers_ = torch.arange(len(theta), device=theta.device)
        return numbers_[i].expand(K) if isinstance(i, (int, slice)) else numbers_[list(i)].expand(K)


class _Fixed(ThetaMap):
    """Numbers that do not depend on theta."""

    def __init__(self, value):
        self._value = torch.as_tensor(value, dtype=torch.float64)

    def value(self, theta):
        return self._value.to(theta.device)

    def jacobian(self, theta):
        return torch.zeros(self._value.numel(), len(theta), dtype=torch.float64, device=theta.device)

    def pushforward(self, theta, t):
        return torch.zeros_like(self.value(theta))

    def pullback(self, theta, e):
        return torch.zeros(len(e), len(theta), dtype=torch.float64, device=theta.device)


def as_map(name, value):
    """Return a function of theta from what a user may give for one.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : ThetaMap, callable, float or sequence of float
        A map, a torch function of theta, or fixed numbers above 0.

    Returns
    -------
    ThetaMap

    Raises
    ------
    InvalidTypeError
        If it is none of these.
    InvalidInputError
        If a fixed number is not above 0.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.maps import as_map
    >>> as_map("weight", 2.0).value(torch.zeros(3))
    tensor(2., dtype=torch.float64)
    """
    if isinstance(value, ThetaMap):
        return value
    if callable(value):
        return ThetaMap(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return _Fixed(check_number(name, value, low=0, inclusive="neither"))
    try:
        return _Fixed([check_number(name, v, low=0, inclusive="neither") for v in value])
    except TypeError:
        raise InvalidTypeError(
            f"{name} must be Exp(index), a function of theta, or fixed numbers; got {type(value).__name__}."
        ) from None


def _indices(index):
    """Return an int, or a tuple of ints."""

    def is_int(i):
        return isinstance(i, numbers.Integral) and not isinstance(i, bool)

    if is_int(index):
        return int(index)
    if isinstance(index, (str, bytes)) or not hasattr(index, "__iter__"):
        raise InvalidInputError(f"index must be an int, a slice or a sequence of ints; got {index!r}.")
    given = tuple(i.item() if hasattr(i, "item") else i for i in index)
    if not given or not all(map(is_int, given)):
        raise InvalidInputError(f"index must be an int, a slice or a sequence of ints; got {index!r}.")
    return tuple(int(i) for i in given)
