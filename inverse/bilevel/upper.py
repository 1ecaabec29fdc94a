r"""The upper level: what the solutions of the lower level are judged by.

.. math:: f(\theta) = \frac1B \sum_i g_i(\hat x_i(\theta), \theta) + r(\theta)

Notation  g (b,) one loss a sample; Lg Lipschitz constant of grad_x g; Lt Lipschitz constant in x of grad_theta g; r a
          term in theta alone.
References  Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098, equation (1).
"""

from __future__ import annotations

import inspect

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.lower import _constant, _evaluated, _grad, _grad_or_none
from sciml.linalg.arrays import enter

__all__ = ["SquaredError", "UpperLoss"]


class UpperLoss:
    """A loss given as a torch function.

    Parameters
    ----------
    g : callable
        ``g(x, theta, idx) -> (b,)``: the losses of the samples `idx`; ``g(x)`` and ``g(x, theta)`` do as well.
    Lg : float, callable or None
        Lipschitz constant of the gradient of g in x; a callable takes theta. None (the default) estimates it, and then
        nothing is certified.
    Lt : float, callable or None
        Lipschitz constant in x of the gradient of g in theta; None (the default) means 0 where g takes no theta, and
        unknown where it does.
    r : callable or None
        A term ``r(theta)`` of theta alone, a torch number; None (the default) means none.
    shape : tuple of int or None
        Shape of one sample's x, where the loss knows it.
    n_samples : int or None
        Samples B, where the loss knows them.

    Raises
    ------
    InvalidTypeError
        If `g` or `r` is not callable.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import UpperLoss
    >>> upper = UpperLoss(lambda x: 0.5 * (x**2).sum(1), Lg=1.0)
    >>> x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    >>> upper.value(x, torch.zeros(1), torch.tensor([0])).tolist()
    [12.5]
    """

    def __init__(self, g, Lg=None, *, Lt=None, r=None, shape=None, n_samples=None):
        if not callable(g):
            raise InvalidTypeError(f"g must be a function g(x, theta, idx) -> (b,); got {type(g).__name__}.")
        if r is not None and not callable(r):
            raise InvalidTypeError(f"r must be a function of theta or None; got {type(r).__name__}.")
        self.g, self._r = g, r
        self._arity = _arity(g)
        self._Lg = _constant("Lg", Lg)
        self._Lt = 0.0 if Lt is None and self._arity == 1 else _constant("Lt", Lt)
        self.shape, self.n_samples = shape, n_samples

    def value(self, x, theta, idx):
        """Return the losses.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Solutions of the lower level.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b,)
        """
        loss = self.g(*(x, theta, idx)[: self._arity])
        if not isinstance(loss, torch.Tensor) or loss.shape != (len(x),):
            got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise InvalidInputError(
                f"g must return one loss a sample, a tensor of shape ({len(x)},); got {got}. Do not average."
            )
        return loss

    def gradient(self, x, theta, idx):
        """Return the losses and their gradients in x.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Solutions of the lower level.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        value : torch.Tensor, shape (b,)
        gradient : torch.Tensor, shape (b, *shape)
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.value(x, theta.detach().to(x.dtype), idx)
            return loss.detach(), _grad(loss.sum(), x, create_graph=False)

    def gradient_theta(self, x, theta, idx, blocks):
        """Return the gradients in theta at fixed x, summed over blocks of samples.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Solutions of the lower level.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        blocks : list of slice
            Which samples are added up.

        Returns
        -------
        torch.Tensor, shape (len(blocks), n), or None
            None where g takes no theta.
        """
        if self._arity == 1:
            return None
        rows = []
        for block in blocks:
            t = theta.detach().to(x.dtype).requires_grad_()
            with torch.enable_grad():
                rows.append(_grad(self.value(x[block].detach(), t, idx[block]).sum(), t, create_graph=False))
        return torch.stack(rows).to(torch.float64)

    def hvp(self, x, theta, idx, v):
        """Return products of the Hessian of g in x.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        v : torch.Tensor, shape (b, *shape)
            One direction a sample.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.value(x, theta.detach().to(x.dtype), idx)
            gradient = _grad(loss.sum(), x, create_graph=True)
            got = _grad_or_none(gradient, x, v)
        return torch.zeros_like(v) if got is None else got

    def cross_adjoint(self, x, theta, idx, p, blocks):
        """Return the derivatives in theta of p^T grad_x g, summed over blocks of samples.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        p : torch.Tensor, shape (b, *shape)
            One direction a sample.
        blocks : list of slice
            Which samples are added up.

        Returns
        -------
        torch.Tensor, shape (len(blocks), n)
            Only asked for where the gradient of g in theta depends on x, that is where `Lt` is not 0.
        """
        rows = []
        for block in blocks:
            t = theta.detach().to(x.dtype).requires_grad_()
            part = x[block].detach().requires_grad_()
            with torch.enable_grad():
                gradient = _grad(self.value(part, t, idx[block]).sum(), part, create_graph=True)
                got = _grad_or_none(gradient, t, p[block])
            rows.append(torch.zeros_like(t) if got is None else got)
        return torch.stack(rows).to(torch.float64)

    def Lg(self, x, theta, idx):
        """Return Lipschitz constants of the gradient in x, or None.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where; the bound holds for all x.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b,), float64, or None
        """
        return _evaluated("Lg", self._Lg, theta.detach(), idx)

    def Lt(self, x, theta, idx):
        """Return Lipschitz constants in x of the gradient in theta, or None.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where; the bound holds for all x.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b,), float64, or None
        """
        if self._Lt is None and not self._feels_theta(x, theta, idx):
            return torch.zeros(len(idx), dtype=torch.float64, device=x.device)
        return _evaluated("Lt", self._Lt, theta.detach(), idx)

    def _feels_theta(self, x, theta, idx):
        """Return whether theta enters g at all, as the graph tells."""
        t = theta.detach().to(x.dtype).requires_grad_()
        with torch.enable_grad():
            loss = self.value(x.detach(), t, idx)
        if not loss.requires_grad:
            return False
        return _grad_or_none(loss.sum(), t, None) is not None

    def r(self, theta):
        """Return the term in theta alone, its gradient and its Hessian.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.

        Returns
        -------
        value : float
        gradient : torch.Tensor, shape (n,), or None
            None where there is no such term.
        hessian : callable or None
            ``hessian(t)`` is the product with t (n,).
        """
        if self._r is None:
            return 0.0, None, None
        t = theta.detach().requires_grad_()
        with torch.enable_grad():
            value = self._r(t)
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise InvalidInputError(f"r must return one number, a torch tensor of shape (); got {got}. Sum it up.")
            value = value.reshape(())
            gradient = _grad(value, t, create_graph=True)

        def hessian(v):
            got = _grad_or_none(gradient, t, v, retain_graph=True)
            return torch.zeros_like(v) if got is None else got

        return float(value.detach()), gradient.detach(), hessian

    def to(self, device, dtype):
        """Return the loss with its data on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        UpperLoss
        """
        return self


class SquaredError(UpperLoss):
    """Half the squared distance to known truths: g_i(x) = |x - x_i|^2 / 2.

    Parameters
    ----------
    x_true : array, shape (B, *shape)
        The truths.
    r : callable or None
        A term ``r(theta)`` of theta alone; None (the default) means none.

    Raises
    ------
    InvalidInputError
        If `x_true` is not finite, empty, or has no axis for the samples.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import SquaredError
    >>> upper = SquaredError(np.ones((1, 2)))
    >>> upper.value(torch.zeros(1, 2), torch.zeros(1), torch.tensor([0])).tolist()
    [1.0]
    """

    def __init__(self, x_true, *, r=None):
        (x_true,), _ = enter(x_true, names=("x_true",))
        if x_true.ndim < 2 or x_true.numel() == 0:
            raise InvalidInputError(
                f"x_true must be of shape (B, ...), one row a sample; got shape {tuple(x_true.shape)}. "
                "For one sample pass x_true[None]."
            )
        self.x_true = x_true.detach()
        super().__init__(self._half_square, 1.0, Lt=0.0, r=r, shape=tuple(x_true.shape[1:]), n_samples=len(x_true))
        self._arity = 3

    def _half_square(self, x, theta, idx):
        return 0.5 * ((x - self.x_true[idx]) ** 2).reshape(len(x), -1).sum(1)

    def gradient(self, x, theta, idx):
        """Return the losses and the errors x - x_true, which are their gradients.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Solutions of the lower level.
        theta : torch.Tensor, shape (n,)
            Not used.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        value : torch.Tensor, shape (b,)
        gradient : torch.Tensor, shape (b, *shape)
        """
        error = x - self.x_true[idx]
        return 0.5 * (error * error).reshape(len(x), -1).sum(1, dtype=torch.float64), error

    def gradient_theta(self, x, theta, idx, blocks):
        """Return None: the loss does not depend on theta.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Not used.
        theta : torch.Tensor, shape (n,)
            Not used.
        idx : torch.Tensor of int64, shape (b,)
            Not used.
        blocks : list of slice
            Not used.

        Returns
        -------
        None
        """

    def hvp(self, x, theta, idx, v):
        """Return v: the Hessian is the identity.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Not used.
        theta : torch.Tensor, shape (n,)
            Not used.
        idx : torch.Tensor of int64, shape (b,)
            Not used.
        v : torch.Tensor, shape (b, *shape)
            One direction a sample.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        return v

    def to(self, device, dtype):
        """Return the loss with its truths on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        SquaredError
        """
        if self.x_true.device == torch.device(device) and self.x_true.dtype == dtype:
            return self
        return SquaredError(self.x_true.to(device=device, dtype=dtype), r=self._r)


def _arity(g):
    """Return how many of (x, theta, idx) a function takes."""
    try:
        parameters = inspect.signature(g).parameters.values()
    except (TypeError, ValueError):
        return 3
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return min(3, max(1, len(places)))
