r"""The minimiser of a lower level as a differentiable layer: :math:`\hat x(\theta)` inside any network.

.. math:: \hat x(\theta) = \arg\min_x h(x, \theta), \qquad
          \frac{d}{d\theta}\, \ell(\hat x) = -J^T q, \qquad H q = \nabla \ell

by the implicit function theorem: no iterate of the solver is kept, so memory does not grow with its iterations, and the
derivative is that of the minimiser, not that of an algorithm that was stopped.

Notation  H, J second and mixed derivatives of h at the minimiser; q adjoint; S = -H^-1 J response.
Cost      forward: one lower-level solve; backward: one linearisation and one linear system a sample, by conjugate
          gradients; forward mode: the same for each tangent.
Pitfalls  a gradient check by finite differences sees the solver's tolerance divided by the step: ask for tol=1e-12.
          A second derivative would need third derivatives of h: asking for one raises.
References  Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098, section 2. S. Krantz, H. Parks, The Implicit
          Function Theorem, 2003.
"""

from __future__ import annotations

import warnings

import torch

from sciml.exceptions import ConvergenceWarning, InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.evaluate import Evaluator
from sciml.inverse.bilevel.lower import Lower
from sciml.inverse.bilevel.upper import UpperLoss
from sciml.iterate import caller_level
from sciml.optimize import batched_cg
from sciml.validation import check_number, check_option

__all__ = ["ImplicitArgmin"]


class ImplicitArgmin(torch.nn.Module):
    r"""A layer that returns the minimisers of a lower level, and differentiates them in theta.

    Parameters
    ----------
    lower : Lower
        The lower level, such as a `LowerProblem`. Whatever is to be differentiated comes in by its theta; data of the
        samples that come from a network can be a part of it, since theta may be of any length.
    tol : float
        Relative tolerance: samples are solved until ``|x - argmin| <= tol * |x|``, as its gradient over mu bounds it
        (mu as given, else estimated). 1e-8 by default: derivatives are as inexact as x, so this is half of the digits.
    adjoint_tol : float or None
        Residual of the linear systems of the backward pass over the norm of their right side; None (the default) takes
        `tol`.
    solver : {"auto", "nag", "newton_cg", "lbfgs"}
        Method of the lower level, as in `learn_hyperparameters`; "auto" by default.
    max_iter : int
        Iterations of one solve at most; 20000 by default.

    Raises
    ------
    InvalidTypeError
        If `lower` is no lower level.
    InvalidInputError
        If a tolerance is not between 0 and 1.

    Notes
    -----
    ``count`` is a `Counter` of what the layer has spent since it was made, forward and backward.

    Examples
    --------
    Soft shrinkage towards zero, x = y / (1 + exp(theta)), whose derivative at theta = 0 is -y / 4:

    >>> import torch
    >>> from sciml.inverse.bilevel import LowerProblem
    >>> y = torch.tensor([[2.0]], dtype=torch.float64)
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - y[idx]) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> layer = ImplicitArgmin(LowerProblem(h, mu=1.0, shape=(1,), n_samples=1))
    >>> theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    >>> x = layer(theta)
    >>> x.sum().backward()
    >>> x.item(), round(theta.grad.item(), 9)
    (1.0, -0.5)
    """

    def __init__(self, lower, *, tol=1e-8, adjoint_tol=None, solver="auto", max_iter=20_000):
        super().__init__()
        if not isinstance(lower, Lower):
            raise InvalidTypeError(
                f"lower must be a lower level; got {type(lower).__name__}. Write LowerProblem(h, mu) around an energy."
            )
        self.lower = lower
        self.tol = check_number("tol", tol, low=0, high=1, inclusive="neither")
        adjoint_tol = tol if adjoint_tol is None else adjoint_tol
        self.adjoint_tol = check_number("adjoint_tol", adjoint_tol, low=0, high=1, inclusive="neither")
        self.solver = check_option("solver", solver, ("auto", "nag", "newton_cg", "lbfgs"))
        self.max_iter = check_number("max_iter", max_iter, low=1, integer=True)
        self.count = Counter()

    def forward(self, theta, x0=None):
        """Return the minimisers at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,)
            The hyperparameters; the answer has a derivative in it, in reverse and in forward mode.
        x0 : torch.Tensor, shape (B, *shape), or None
            Start of the solver, which gives dtype and device; no derivative flows into it. None (the default) starts at
            zero where the lower level knows B and shape, in the dtype of theta.

        Returns
        -------
        torch.Tensor, shape (B, *shape)

        Raises
        ------
        InvalidInputError
            If theta is not of one axis, or the shape of x is not known.

        Warns
        -----
        ConvergenceWarning
            If a sample did not reach the tolerance.
        """
        if not isinstance(theta, torch.Tensor) or theta.ndim != 1:
            got = tuple(theta.shape) if isinstance(theta, torch.Tensor) else type(theta).__name__
            raise InvalidInputError(f"theta must be a tensor of shape (n,); got {got}. Write theta.reshape(-1).")
        if x0 is None:
            if self.lower.shape is None or self.lower.n_samples is None:
                raise InvalidInputError(
                    "x0 must be given, shape (B, ...), since the lower level does not know its shape; got None. "
                    "Pass a starting point, or shape and n_samples to the lower level."
                )
            x0 = torch.zeros((self.lower.n_samples, *self.lower.shape), dtype=theta.dtype, device=theta.device)
        return _Argmin.apply(theta, x0.detach(), self)

    def _solve(self, theta, x0):
        """Return minimisers within the tolerance of their own size."""
        nothing = UpperLoss(lambda x: x.new_zeros(len(x)), Lg=0.0)
        lower = self.lower.to(x0.device, x0.dtype)
        ev = Evaluator(lower, nothing, x0, len(theta), solver=self.solver, max_inner=self.max_iter)
        theta = theta.detach().to(torch.float64).cpu()
        level = ev.solve(theta, x0, None)
        first = level.eps
        for _ in range(40):
            # The second term ends the search for a minimiser that is zero, where no size can be relative to x.
            size = level.x.to(torch.float64).reshape(len(x0), -1).norm(dim=1)
            wanted = torch.maximum(self.tol * size, self.tol**2 * first)
            floor = 2 * ev.eps_floor(level)
            short = level.eps > torch.maximum(wanted, floor)
            if not bool(short.any()):
                break
            # Half of what is wanted, so that rounding in the bound of the next solve does not ask for one more.
            before, level = level, ev.refine(level, torch.where(short, torch.maximum(0.5 * wanted, floor), level.eps))
            if bool((level.eps >= before.eps)[short].all()):
                break
        self.count.add(ev.count)
        if bool((short & (level.eps > 2 * torch.maximum(wanted, floor))).any()):
            worst = int((level.eps / torch.maximum(wanted, floor)).argmax())
            warnings.warn(
                f"ImplicitArgmin: sample {worst} was solved to a distance of {float(level.eps[worst]):.2e}, wanted "
                f"{float(wanted[worst]):.2e}: raise max_iter={self.max_iter}, loosen tol={self.tol:.0e}, or check mu.",
                ConvergenceWarning,
                stacklevel=caller_level(),
            )
        return level.x

    def _system(self, theta, x, right):
        """Return the linearisation at x and the solution of H q = right(linearisation)."""
        theta = theta.detach().to(device=x.device, dtype=torch.float64)
        point = self.lower.to(x.device, x.dtype).at(x, theta, torch.arange(len(x), device=x.device), self.count)
        right = right(point).to(x.dtype)
        if point.mask is not None:
            right = torch.where(point.mask, right, torch.zeros_like(right))
        size = right.to(torch.float64).reshape(len(x), -1).norm(dim=1)
        got = batched_cg(point.hvp, right.detach(), atol=self.adjoint_tol * size)
        if not bool(got.converged.all()):
            worst = int((~got.converged).nonzero()[0])
            warnings.warn(
                f"ImplicitArgmin: the linear system of sample {worst} ended with a residual of "
                f"{float(got.residual[worst]):.2e}, wanted {self.adjoint_tol * float(size[worst]):.2e}: loosen "
                "adjoint_tol, or compute in float64.",
                ConvergenceWarning,
                stacklevel=caller_level(),
            )
        return point, got.x


class _Argmin(torch.autograd.Function):
    """The minimiser, with the derivative of the implicit function theorem."""

    @staticmethod
    def forward(ctx, theta, x0, layer):
        x = layer._solve(theta, x0)
        ctx.layer = layer
        ctx.save_for_backward(theta, x)
        ctx.save_for_forward(theta, x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        theta, x = ctx.saved_tensors
        point, q = ctx.layer._system(theta, x, lambda point: grad.detach())
        rows = -point.cross_adjoint(q, [slice(0, len(x))])[0].to(theta)
        # Under create_graph the answer must not look like a constant.
        return (_Once.apply(rows, theta, grad) if torch.is_grad_enabled() else rows), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        theta, x = ctx.saved_tensors
        if tangent is None:
            return torch.zeros_like(x)
        direction = tangent.detach().to(device=x.device, dtype=torch.float64)
        return ctx.layer._system(theta, x, lambda point: -point.cross(direction))[1]


class _Once(torch.autograd.Function):
    """Passes a derivative on, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx, value, *parents):
        return value.clone()

    @staticmethod
    def backward(ctx, *grads):
        raise InvalidInputError(
            "ImplicitArgmin can be differentiated once; a second derivative was asked for. Differentiate the first by "
            "finite differences, or leave create_graph out."
        )
