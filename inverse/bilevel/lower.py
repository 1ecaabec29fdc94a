r"""The lower level: per-sample energies :math:`h_i(x, \theta)`, strongly convex in x, and their linearisations.

.. math:: \hat x_i(\theta) = \arg\min_x h_i(x, \theta), \qquad i = 1, \dots, B

Notation  x (B, *shape) one row a sample; theta (n,); G = grad_x h; H = hess_xx h; J = d/dtheta G (d x n), all at
          (x, theta); mu <= lambda_min(H), L >= lambda_max(H); LH, LJ Lipschitz constants of H and J in x.
Cost      a linearisation costs one gradient with its graph; the graph is kept, so that a product with H costs one
          backward pass through it.
Pitfalls  the energy of a sample is never divided by the number of samples: mu is that of the very function that is
          differentiated. theta enters solvers detached, since its graph would keep every iterate alive.
References  Salehi, Mukherjee, Roberts, Ehrhardt, An adaptively inexact first-order method for bilevel optimization with
          application to hyperparameter learning, 2025, arXiv 2308.10098.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.validation import check_number

__all__ = ["Constants", "Lower", "LowerProblem", "Point"]


class NotFinite(InvalidInputError):
    """An energy, a loss or a constant is NaN or infinite at this theta: a search turns it down."""


@dataclass(frozen=True)
class Constants:
    """Bounds of the lower level at one theta, a number for each sample.

    Parameters
    ----------
    mu : torch.Tensor, shape (b,), or None
        Lower bound of the eigenvalues of the Hessian, for all x; None when nobody knows.
    L : torch.Tensor, shape (b,), or None
        Upper bound of the eigenvalues of the Hessian, for all x.
    LH : torch.Tensor, shape (b,), or None
        Lipschitz constant of the Hessian in x, in the spectral norm.
    LJ : torch.Tensor, shape (b,), or None
        Lipschitz constant of the mixed derivative J in x, in the spectral norm.
    """

    mu: torch.Tensor | None
    L: torch.Tensor | None = None
    LH: torch.Tensor | None = None
    LJ: torch.Tensor | None = None


class Point:
    """The lower level linearised at one (x, theta) for some samples; subclasses give the products.

    Parameters
    ----------
    x : torch.Tensor, shape (b, *shape)
        Where.
    theta : torch.Tensor, shape (n,)
        The hyperparameters.
    idx : torch.Tensor of int64, shape (b,)
        Numbers of the samples.
    gradient : torch.Tensor, shape (b, *shape)
        G at x.
    value : torch.Tensor, shape (b,), or None
        h at x, where it was computed.
    mask : torch.Tensor of bool, shape (b, *shape), or None
        Support of a nonsmooth problem: gradient, Hessian and J are restricted to it; None for a smooth one.
    """

    # ``precondition(r, rows)``, an approximate inverse of H for the samples `rows` of the point, where there is one.
    precondition = None

    def __init__(self, x, theta, idx, gradient, value=None, mask=None):
        self.x, self.theta, self.idx = x, theta, idx
        self.gradient, self.value, self.mask = gradient, value, mask

    def hvp(self, v, rows=None):
        """Return H v.

        Parameters
        ----------
        v : torch.Tensor, shape (k, *shape)
            One direction a sample.
        rows : torch.Tensor of int64, shape (k,), or None
            Which samples of this point; None (the default) means all.

        Returns
        -------
        torch.Tensor, shape (k, *shape)
        """
        raise NotImplementedError

    def cross(self, t):
        """Return J t for each sample.

        Parameters
        ----------
        t : torch.Tensor, shape (n,)
            A direction in theta.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        raise NotImplementedError

    def cross_adjoint(self, q, blocks):
        """Return the sums of J^T q over blocks of samples.

        Parameters
        ----------
        q : torch.Tensor, shape (b, *shape)
            One vector a sample.
        blocks : list of slice
            Which samples of this point are added up.

        Returns
        -------
        torch.Tensor, shape (len(blocks), n)
        """
        raise NotImplementedError

    def forget(self):
        """Drop what was linearised anew for a few samples: every stage of the work pays for its own.

        So the counts are the same where the point itself had to be made again.
        """

    def third(self, p, q, blocks):
        """Return the derivatives of p^T H q in x and in theta.

        Parameters
        ----------
        p, q : torch.Tensor, shape (b, *shape)
            One vector a sample.
        blocks : list of slice
            As in `cross_adjoint`.

        Returns
        -------
        in_x : torch.Tensor, shape (b, *shape)
        in_theta : torch.Tensor, shape (len(blocks), n)
        """
        raise NotImplementedError


class Lower:
    """Base of lower levels; see :class:`LowerProblem` for the one that takes any torch function.

    Attributes
    ----------
    n_samples : int or None
        Samples B, where the problem holds data of its own.
    shape : tuple of int or None
        Shape of one sample's x, where it is known.
    exact : bool
        Whether the constants follow from the model itself, so that nobody can have given wrong ones.
    quadratic : bool
        Whether h is quadratic in x.
    smooth : bool
        Whether h is smooth; False where solutions have a support, to which derivatives are restricted.
    """

    n_samples: int | None = None
    shape: tuple | None = None
    exact = False
    quadratic = False
    smooth = True

    def constants(self, theta, idx):
        """Return the bounds at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        Constants
        """
        raise NotImplementedError

    def gradient(self, x, theta, idx, count):
        """Return G.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told of b gradients.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        raise NotImplementedError

    def at(self, x, theta, idx, count, value=False):
        """Return the linearisation at a point.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told what it costs, now and with every product.
        value : bool
            Whether the value of h is wanted, too; False by default.

        Returns
        -------
        Point
        """
        raise NotImplementedError

    def solve(self, x0, theta, idx, eps, count, max_iter):
        """Minimise h by a method of the problem's own, or return None to leave it to the engine.

        Parameters
        ----------
        x0 : torch.Tensor, shape (b, *shape)
            Start.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        eps : torch.Tensor, shape (b,)
            Wanted bounds of the distance to the minimiser.
        count : Counter
            Is told what it costs.
        max_iter : int
            Iterations at most.

        Returns
        -------
        sciml.optimize.BatchedMinimum or None
        """

    def norm_J(self, point):
        """Return upper bounds of the spectral norms of J, or None where they must be computed from its columns.

        Parameters
        ----------
        point : Point
            Of this problem.

        Returns
        -------
        torch.Tensor, shape (b,), or None
        """

    def to(self, device, dtype):
        """Return the problem with its data on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        Lower
        """
        return self


class LowerProblem(Lower):
    """A lower level given by its energy, a plain torch function, and what is known of its curvature.

    Parameters
    ----------
    h : callable
        ``h(x, theta, idx) -> (b,)``: the energies of the samples `idx` at x (b, *shape), in torch operations that can
        be differentiated twice (three times for error estimates of gradients); never averaged over the samples.
    mu : float, callable or None
        Lower bound of the eigenvalues of the Hessian of h in x, for all x; above 0. A callable takes theta and returns
        a number or a tensor (B,). None estimates it, and then nothing is certified.
    L : float, callable or None
        Upper bound of these eigenvalues; None (the default) estimates it where a solver needs it.
    LH : float, callable or None
        Lipschitz constant of the Hessian in x, 0 for a quadratic energy; None (the default) means unknown, and then
        bounds are estimates, and not certified.
    LJ : float, callable or None
        Lipschitz constant of the mixed derivative J in x; None (the default) means unknown.
    shape : tuple of int or None
        Shape of one sample's x; None (the default) takes it from ``x0`` or from the upper level.
    n_samples : int or None
        Samples B; None (the default) takes it from ``x0`` or from the upper level.

    Raises
    ------
    InvalidTypeError
        If `h` is not callable.
    InvalidInputError
        If a constant is negative, not finite, or `mu` is not above 0.

    References
    ----------
    Salehi, Mukherjee, Roberts, Ehrhardt, An adaptively inexact first-order method for bilevel optimization with
    application to hyperparameter learning, 2025, arXiv 2308.10098, Assumptions 2.1.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import LowerProblem
    >>> y = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - y[idx]) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=lambda theta: 1 + torch.exp(theta[0]), LH=0.0)
    >>> round(float(lower.constants(torch.zeros(1), torch.tensor([0])).mu), 6)
    2.0
    """

    def __init__(self, h, mu, L=None, LH=None, LJ=None, *, shape=None, n_samples=None):
        if not callable(h):
            raise InvalidTypeError(
                f"h must be a function h(x, theta, idx) -> (b,); got {type(h).__name__}. Write it in torch operations."
            )
        self.h = h
        self.mu = _constant("mu", mu, positive=True)
        self.L = _constant("L", L, positive=True)
        self.LH, self.LJ = _constant("LH", LH), _constant("LJ", LJ)
        self.shape = None if shape is None else tuple(int(s) for s in shape)
        self.n_samples = None if n_samples is None else check_number("n_samples", n_samples, low=1, integer=True)

    def constants(self, theta, idx):
        """Return the bounds at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        Constants
        """
        theta = theta.detach()
        names = ("mu", "L", "LH", "LJ")
        return Constants(*(_evaluated(name, getattr(self, name), theta, idx) for name in names))

    def gradient(self, x, theta, idx, count):
        """Return G; no graph is kept.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told of b gradients.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        count.lower += len(x)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            h = self._energy(x, theta.detach().to(x.dtype), idx)
            return _grad(h.sum(), x, create_graph=False)

    def at(self, x, theta, idx, count, value=False):
        """Return the linearisation at a point: one gradient, whose graph is kept.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told of b gradients, and later of the products.
        value : bool
            Without meaning here: the value comes with the gradient.

        Returns
        -------
        Point
        """
        return _GraphPoint(self, x, theta, idx, count)

    def _energy(self, x, theta, idx):
        """Return h, checked for its shape."""
        energy = self.h(x, theta, idx)
        if not isinstance(energy, torch.Tensor):
            raise InvalidTypeError(
                f"h must return a torch tensor of shape ({len(x)},); got {type(energy).__name__}. "
                "Write it in torch operations."
            )
        if energy.shape != (len(x),):
            raise InvalidInputError(
                f"h must return one energy a sample, shape ({len(x)},) for x of shape {tuple(x.shape)}; got shape "
                f"{tuple(energy.shape)}. Sum over the axes of a sample, and not over the samples."
            )
        return energy


class _GraphPoint(Point):
    """A linearisation that keeps the graph of the gradient."""

    def __init__(self, problem, x, theta, idx, count):
        count.lower += len(x)
        self._problem, self._count = problem, count
        self._x = x.detach().requires_grad_()
        self._theta = theta.detach().to(x.dtype).requires_grad_()
        with torch.enable_grad():
            energy = problem._energy(self._x, self._theta, idx)
            self._G = _grad(energy.sum(), self._x, create_graph=True)
        self._part = (None, None)
        self._dual = None
        super().__init__(self._x.detach(), theta.detach(), idx, self._G.detach(), energy.detach())

    def hvp(self, v, rows=None):
        b = len(self.x)
        if rows is None or len(rows) == b:
            self._count.hvp += b
            return _product(self._G, self._x, v)
        # Few samples left: a graph of their own costs a gradient once, and saves its share of every later product.
        if 2 * len(rows) <= b:
            part, place = self._only(rows)
            return part.hvp(v, place)
        self._count.hvp += len(rows)
        full = torch.zeros_like(self.x)
        full[rows] = v
        return _product(self._G, self._x, full)[rows]

    def cross(self, t):
        self._count.cross += len(self.x)
        if self._dual is None:
            with torch.enable_grad():
                w = torch.zeros_like(self.x).requires_grad_()
                back = _grad_or_none(self._G, self._theta, w, create_graph=True)
            self._dual = (w, back)
        w, back = self._dual
        if back is None or not back.requires_grad:
            return torch.zeros_like(self.x)
        return _grad_or_none(back, w, t.to(back.dtype), retain_graph=True).detach()

    def cross_adjoint(self, q, blocks):
        self._count.cross += sum(block.stop - block.start for block in blocks)
        rows = []
        for block in blocks:
            point = self._block(block)
            got = _grad_or_none(point._G, point._theta, q[block], retain_graph=True)
            rows.append(torch.zeros_like(self._theta) if got is None else got.detach())
        return torch.stack(rows).to(torch.float64)

    def third(self, p, q, blocks):
        self._count.third += sum(block.stop - block.start for block in blocks)
        in_x, in_theta = torch.zeros_like(self.x), []
        for block in blocks:
            point = self._block(block)
            dx = dtheta = None
            with torch.enable_grad():
                Hq = _grad_or_none(point._G, point._x, q[block], create_graph=True)
                if Hq is not None and Hq.requires_grad:
                    inner = (Hq * p[block]).sum()
                    dx, dtheta = torch.autograd.grad(
                        inner, (point._x, point._theta), retain_graph=True, allow_unused=True
                    )
            if dx is not None:
                in_x[block] = dx
            in_theta.append(torch.zeros_like(self._theta) if dtheta is None else dtheta)
        return in_x, torch.stack(in_theta).to(torch.float64)

    def _block(self, block):
        """Return the linearisation for some samples only, which is this one where they are all."""
        if block.start == 0 and block.stop == len(self.x):
            return self
        # Another view of what was computed before, so not counted again.
        from sciml.inverse.bilevel.counter import Counter

        return _GraphPoint(self._problem, self.x[block], self.theta, self.idx[block], Counter())

    def forget(self):
        self._part = (None, None)

    def _only(self, rows):
        """Return a linearisation that holds the samples `rows`, and where in it they are."""
        key, point = self._part
        if key is not None and len(rows) <= len(key):
            place = torch.searchsorted(key, rows)
            if bool((key[place.clamp(max=len(key) - 1)] == rows).all()):
                return point, place
        point = _GraphPoint(self._problem, self.x[rows], self.theta, self.idx[rows], self._count)
        self._part = (rows.clone(), point)
        return point, None


def _grad(output, inputs, create_graph):
    """Return a gradient, zeros where the output does not depend on the input."""
    if not output.requires_grad:
        return torch.zeros_like(inputs)
    (got,) = torch.autograd.grad(output, inputs, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(inputs) if got is None else got


def _grad_or_none(output, inputs, weights, create_graph=False, retain_graph=None):
    if not output.requires_grad:
        return None
    keep = True if create_graph else retain_graph
    (got,) = torch.autograd.grad(
        output, inputs, weights, create_graph=create_graph, retain_graph=keep, allow_unused=True
    )
    return got


def _product(G, x, v):
    got = _grad_or_none(G, x, v.to(G.dtype), retain_graph=True)
    return torch.zeros_like(v) if got is None else got.detach()


def _constant(name, value, positive=False):
    if value is None or callable(value):
        return value
    if isinstance(value, numbers.Real) or getattr(value, "shape", None) == ():
        return check_number(name, value, low=0, inclusive="neither" if positive else "both")
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"{name} must be a number, a tensor (B,), a function of theta, or None; got {type(value).__name__}."
        ) from None
    return _checked(name, tensor, positive)


def _evaluated(name, constant, theta, idx):
    """Return a constant as a float64 tensor, one number for each sample of idx."""
    if constant is None:
        return None
    value = constant
    if callable(constant):
        value = torch.as_tensor(constant(theta), dtype=torch.float64, device=theta.device).detach()
        _checked(name, value, name in ("mu", "L"))
    value = torch.as_tensor(value, dtype=torch.float64, device=theta.device)
    if value.ndim == 0 or value.shape == (1,):
        return value.reshape(1).expand(len(idx))
    if value.ndim != 1 or len(value) <= int(idx.max()):
        raise InvalidInputError(
            f"{name} must be a number or of shape (B,), one for each of the at least {int(idx.max()) + 1} samples; got "
            f"shape {tuple(value.shape)}."
        )
    return value[idx]


def _checked(name, value, positive):
    bad = ~torch.isfinite(value) | ((value <= 0) if positive else (value < 0))
    if bool(bad.any()):
        first = float(value.reshape(-1)[int(bad.reshape(-1).nonzero()[0])])
        rule = "above 0" if positive else "at least 0"
        kind = InvalidInputError if math.isfinite(first) else NotFinite
        raise kind(
            f"{name} must be finite and {rule}; got {first}. It bounds the curvature of h as it is differentiated; "
            "pass None where it is unknown."
        )
    return value
