r"""The published objective: values of u on a grid and the kernel's parameters, all variables of one function.

.. math:: \ell = \tfrac12 \sum_j \frac{M}{M_j} \log|C_j| + \tfrac12 \langle C_1^{-1} U C_2^{-1}, U \rangle
          + \lambda_b \big[ \tfrac12 \tau_1 \|U_b - g\|^2 - \tfrac12 N_b \log \tau_1 \big]
          + \tfrac12 \tau_2 \|r\|^2 - \tfrac12 M \log \tau_2,

where r is what the interpolant of U leaves of the equation at the nodes; its derivatives are
:math:`\partial_j^n U = K_j^{(n)} C_j^{-1} U` along axis j.

Notation  U (M_1, ..., M_d) values on the grid, M in all; C_j = K_j + jitter I covariance along axis j; U_b (N_b,)
          values on the faces, a corner once for each of its faces; tau_1, tau_2 precisions; lambda_b weight.
Cost      a step: one Cholesky factor an axis, sum M_j^3 / 3, and O(M sum M_j) with the gradient. Covariances along an
          axis are Toeplitz, so that the kernel is evaluated for M_j lags and not for M_j^2 pairs.
Pitfalls  A small objective says nothing of u between the nodes; see `gphm`. Where the source is not large, u = 0 with
          the source taken for noise, tau_2 = 1 / mean f^2, is as likely as the solution: u'' = -4 sin 2x ends there.

References
----------
S. Fang, M. Cooley, D. Long, S. Li, R. Kirby, S. Zhe, Solving high frequency and multi-scale PDEs with Gaussian
processes, 2024, arXiv 2311.04465.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.conditions import Dirichlet, Initial, apply_mask
from sciml.solvers.gp_pde.functions import PointFunction
from sciml.solvers.gp_pde.gphm_kernel import mixture
from sciml.solvers.gp_pde.gphm_toeplitz import factor, log_determinant, product, solve

__all__ = ["GPHMObjective", "GridField", "gphm_loss"]


def gphm_loss(log_determinants, quadratic, mismatch, residual, log_tau, boundary_weight=200.0):
    r"""Return the published objective from its parts.

    .. math:: \tfrac12 \textstyle\sum_j \frac{M}{M_j} \log|C_j| + \tfrac12 q
              + \lambda_b \tfrac12 (\tau_1 \|b\|^2 - N_b \log\tau_1) + \tfrac12 (\tau_2 \|r\|^2 - M \log \tau_2)

    Parameters
    ----------
    log_determinants : sequence of torch.Tensor, length d
        :math:`\log|C_j| / M_j` of each axis; empty to leave the determinants out.
    quadratic : torch.Tensor, shape ()
        :math:`q = \langle C^{-1} U, U \rangle`.
    mismatch : torch.Tensor, shape (N_b,)
        Boundary values less their data, b, in units of u.
    residual : torch.Tensor, shape (M,)
        What is left of the equation at the nodes, r.
    log_tau : tuple of torch.Tensor, shape ()
        Logarithms of the precisions tau_1 of the boundary and tau_2 of the equation.
    boundary_weight : float
        lambda_b; the paper takes 200, and 500 for advection.

    Returns
    -------
    torch.Tensor, shape ()
        Dimensionless, up to a constant the negative logarithm of a density.

    References
    ----------
    S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian processes, 2024, arXiv 2311.04465.

    Examples
    --------
    >>> r, b, zero = torch.tensor([3.0, 4.0]), torch.tensor([1.0]), torch.tensor(0.0)
    >>> gphm_loss([], zero, b, r, (zero, zero), boundary_weight=10.0)  # 10 / 2 + 25 / 2
    tensor(17.5000)
    """
    size = residual.numel()
    log_tau_1, log_tau_2 = log_tau
    prior = 0.5 * quadratic + 0.5 * size * sum(log_determinants)
    boundary = 0.5 * log_tau_1.exp() * mismatch.square().sum() - 0.5 * mismatch.numel() * log_tau_1
    return prior + boundary_weight * boundary + 0.5 * log_tau_2.exp() * residual.square().sum() - 0.5 * size * log_tau_2


class GridField(torch.nn.Module):
    """A Gaussian process on an even grid of a box: its values, and one spectral mixture an axis.

    Parameters
    ----------
    bounds : sequence of (float, float), length d
        The box, in units of x.
    shape : tuple of int, length d
        Points along each axis, end points included.
    kind : {"stm", "gm", "matern52", "se"}
        Kernel; the last two have one component of frequency zero, which is not learned.
    n_components : int
        Components of a mixture, Q.
    max_frequency : sequence of float, length d
        The first frequencies are spread evenly from zero to this, cycles / unit.
    jitter : float
        Added to the variance at the nodes, units of u squared.
    device : str or torch.device
        Where the numbers lie.
    """

    def __init__(self, bounds, shape, kind, n_components, max_frequency, jitter, device="cpu"):
        super().__init__()
        self.bounds, self.shape, self.kind, self.jitter = tuple(bounds), tuple(shape), kind, jitter
        single = kind in ("matern52", "se")
        size = 1 if single else n_components
        options = {"dtype": torch.float64, "device": device}
        self.values = torch.nn.Parameter(torch.zeros(self.shape, **options))
        # Learned as logarithms: positive, and of even steps under Adam, whatever their size.
        self.log_weight, self.log_scale, self.mu = (torch.nn.ParameterList() for _ in range(3))
        for (lower, upper), n, highest in zip(self.bounds, self.shape, max_frequency, strict=True):
            self.log_weight.append(torch.full((size,), -math.log(size), **options))
            self.log_scale.append(torch.zeros(size, **options))
            mu = torch.zeros(1, **options) if single else torch.linspace(0, 1, size, **options) * highest
            self.mu.append(torch.nn.Parameter(mu, requires_grad=not single))
            lags = torch.arange(n, **options) * ((upper - lower) / (n - 1))
            self.register_buffer(f"lags_{len(self.mu) - 1}", lags)

    def kernel(self, axis):
        """Weights, scales and frequencies (cycles / unit) of one axis, each (Q,)."""
        return self.log_weight[axis].exp(), self.log_scale[axis].exp(), self.mu[axis]

    def columns(self, axis, orders):
        """First columns of the covariance along an axis, jitter included, and of its derivatives: order to (n,)."""
        orders = sorted({0, *orders})
        out = dict(
            zip(orders, mixture(self.kind, getattr(self, f"lags_{axis}"), *self.kernel(axis), orders), strict=True)
        )
        smooth = out[0]
        out[0] = torch.cat([smooth[:1] + self.jitter, smooth[1:]])
        out["smooth"] = smooth
        return out

    def factors(self):
        """Cholesky factors of the covariances, one an axis, without a graph; and the first columns."""
        with torch.no_grad():
            columns = [self.columns(j, ())[0] for j in range(len(self.shape))]
            return [factor(c) for c in columns], columns

    def weights(self):
        """Coefficients of the interpolant: the inverse covariance applied to the values."""
        with torch.no_grad():
            out = self.values.detach()
            for j, (root, column) in enumerate(zip(*self.factors(), strict=True)):
                out = solve(root, column, out, j)
            return out

    def forward(self, orders):
        """Derivatives on the grid, and the parts of the prior.

        Parameters
        ----------
        orders : sequence of tuple of int, length d
            Multi-indices.

        Returns
        -------
        dict, list of torch.Tensor, torch.Tensor
            Multi-index to the derivative (M_1, ..., M_d); log|C_j| / M_j; the quadratic form.
        """
        d, U = len(self.shape), self.values
        columns = [self.columns(j, {alpha[j] for alpha in orders}) for j in range(d)]
        roots = [factor(c[0]) for c in columns]
        solved = [solve(root, c[0], U, j) for j, (root, c) in enumerate(zip(roots, columns, strict=True))]
        out = {}
        for alpha in orders:
            T = U
            for j in (j for j in range(d) if alpha[j]):
                T = solved[j] if T is U else solve(roots[j], columns[j][0], T, j)
                T = product(columns[j][alpha[j]], T, j, (-1.0) ** alpha[j])
            out[tuple(alpha)] = T
        whole = solved[0]
        for j in range(1, d):
            whole = solve(roots[j], columns[j][0], whole, j)
        determinants = [log_determinant(root, c[0]) / n for root, c, n in zip(roots, columns, self.shape, strict=True)]
        return out, determinants, (whole * U).sum()


class GPHMObjective(torch.nn.Module):
    """The published objective of a problem, as a torch module: its parameters are all that is optimised.

    Parameters
    ----------
    pde : PDE
        One unknown on a Box, with Dirichlet (or Initial) values on faces.
    options : GPHM
        Settings.
    max_frequency : sequence of float, length d
        Highest first frequency of each axis, cycles / unit.
    device : str or torch.device
        Where the numbers lie.

    Raises
    ------
    InvalidInputError
        When the objective cannot hold the problem.

    Examples
    --------
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet
    >>> from sciml.solvers.gp_pde.gphm import GPHM
    >>> pde = PDE(Box([(0, 1)]), {2: 1.0}, 2.0, [Dirichlet(1.0)])
    >>> objective = GPHMObjective(pde, GPHM(n_points=9, n_components=3, log_determinant=False), (2.0,))
    >>> round(objective().item(), 6)  # U = 0: 9 / 2 nodes times 2^2, and 200 / 2 times two ends
    218.0
    """

    def __init__(self, pde, options, max_frequency, device="cpu"):
        super().__init__()
        _check_problem(pde)
        box, d = pde.domain.box, pde.n_dims
        shape = options.n_points if isinstance(options.n_points, tuple) else (options.n_points,) * d
        if len(shape) != d:
            raise InvalidInputError(
                f"n_points must be one number or one for each of {d} dimensions; got {options.n_points}."
            )
        self.options, self.device = options, torch.device(device)
        make = {"jitter": options.jitter, "device": self.device}
        self._make = lambda kind: GridField(box.bounds, shape, kind, options.n_components, max_frequency, **make)
        field = self._make(options.kernel)
        for name in options.freeze:
            getattr(field, {"weight": "log_weight", "bandwidth": "log_scale", "frequency": "mu"}[name]).requires_grad_(
                False
            )
        self.fields, self._frozen = torch.nn.ModuleList([field]), {}
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        self.log_tau_1, self.log_tau_2 = torch.nn.Parameter(zero.clone()), torch.nn.Parameter(zero.clone())
        axes = [np.linspace(*bounds, n) for bounds, n in zip(box.bounds, shape, strict=True)]
        self.X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
        terms = pde.coefficient_values(self.X)
        self.terms = {a: c if isinstance(c, float) else self._tensor(c) for a, c in terms.items()}
        self.source = self._tensor(pde._source(self.X))
        self.nonlinear = pde._nonlinear
        slopes = [] if self.nonlinear is None or not self.nonlinear.takes_gradient else np.eye(d, dtype=int).tolist()
        self._slopes = [tuple(alpha) for alpha in slopes]
        self.orders = list(dict.fromkeys([*self.terms, *self._slopes, (0,) * d]))
        at, g = _boundary(pde, self.X.reshape(*shape, d))
        self.at, self.g = torch.as_tensor(at, device=self.device), self._tensor(g)
        # What a residual is compared with: the source, and the operator on the boundary data where that vanishes.
        self._size_g = float(np.sqrt(np.mean(g**2))) if len(g) else 0.0
        low = symbol_size(terms, np.pi / (box.upper - box.lower))
        self._size_f = float(self.source.square().mean().sqrt()) + low * self._size_g or 1.0

    def _tensor(self, values):
        return torch.as_tensor(values, dtype=torch.float64, device=self.device)

    def add_correction(self):
        """Freeze what was learned and add a Matern-5/2 process of zero values, with a new precision of the equation.

        The paper's remedy for a small part of high frequency beside a large one: the sum of both enters the equation.
        """
        self.fields[-1].requires_grad_(False)
        with torch.no_grad():
            found, _, _ = self.fields[-1](self.orders)
        self._frozen = {alpha: v + self._frozen.get(alpha, 0.0) for alpha, v in found.items()}
        self.fields.append(self._make("matern52"))
        self.log_tau_2 = torch.nn.Parameter(torch.zeros_like(self.log_tau_2))

    @property
    def values(self):
        """Values of u on the grid, (M_1, ..., M_d), without a graph."""
        return sum(field.values.detach() for field in self.fields)

    def parts(self):
        """Return log|C_j| / M_j, the quadratic form, the boundary mismatch (N_b,) and the residual (M,)."""
        found, determinants, quadratic = self.fields[-1](self.orders)
        u = {alpha: (v + self._frozen.get(alpha, 0.0)).reshape(-1) for alpha, v in found.items()}
        value = u[(0,) * len(self.fields[-1].shape)]
        residual = sum(c * u[alpha] for alpha, c in self.terms.items()) - self.source
        if self.nonlinear is not None:
            slopes = torch.stack([u[a] for a in self._slopes], dim=1) if self._slopes else None
            residual = residual + _Pointwise.apply(self.nonlinear, self.X, value, slopes)
        return determinants, quadratic, value[self.at] - self.g, residual

    def forward(self):
        """Return the objective; the relative mismatch and residual of this evaluation are kept in `criteria`."""
        determinants, quadratic, mismatch, residual = self.parts()
        with torch.no_grad():
            size = self._size_g + self.values.square().mean().sqrt()
            self.criteria = {
                "boundary": mismatch.square().sum().sqrt() / (max(1, len(mismatch)) ** 0.5 * size.clamp(min=1e-300)),
                "residual": residual.square().mean().sqrt() / self._size_f,
            }
        determinants = determinants if self.options.log_determinant else []
        log_tau = self.log_tau_1, self.log_tau_2
        return gphm_loss(determinants, quadratic, mismatch, residual, log_tau, self.options.boundary_weight)


class _Pointwise(torch.autograd.Function):
    """The nonlinear term at the nodes, with the derivatives that it knows itself."""

    @staticmethod
    def forward(ctx, term, X, u, slopes):
        grad = np.zeros((len(X), 1, X.shape[1])) if slopes is None else slopes.detach().cpu().numpy()[:, None]
        with torch.enable_grad():  # a function's forward runs without, and the term may be differentiated by torch
            value, by_u, by_grad = term.linearised(X, u.detach().cpu().numpy()[:, None], grad)
        ctx.by_u = torch.as_tensor(by_u[:, 0, 0], device=u.device)
        ctx.by_grad = None if slopes is None else torch.as_tensor(by_grad[:, 0, 0], device=u.device)
        return torch.as_tensor(value[:, 0], device=u.device)

    @staticmethod
    def backward(ctx, gradient):
        by_grad = None if ctx.by_grad is None else gradient[:, None] * ctx.by_grad
        return None, None, gradient * ctx.by_u, by_grad


def _check_problem(pde):
    """Refuse what the published objective has no place for."""
    if not hasattr(pde.domain, "bounds"):
        raise InvalidInputError("domain must be a Box for method='gphm', whose unknowns live on a grid; got a Region.")
    if pde.unknowns is not None or pde.parameters or pde.observations is not None:
        raise InvalidInputError(
            "pde must have one unknown, no parameters and no observations for method='gphm'. Use method='auto'."
        )
    if pde._source.is_sampled:
        raise InvalidInputError(
            f"source must be a callable for method='gphm', which asks it at the nodes of its grid; got "
            f"{len(pde._source.points)} samples. Use method='auto'."
        )
    for condition in pde.conditions:
        values = isinstance(condition, Dirichlet) or (isinstance(condition, Initial) and condition.velocity is None)
        if not values or (isinstance(condition, Dirichlet) and not _on_faces(pde, condition)):
            raise InvalidInputError(
                f"conditions must give values on faces of the box for method='gphm'; got "
                f"{type(condition).__name__}. Use method='auto'."
            )


def _on_faces(pde, condition):
    """Whether values are known all over named faces, rather than at points."""
    return not isinstance(condition.g, tuple) and bool(pde.faces_of(condition))


def _boundary(pde, X):
    """Flat indices of the nodes on the faces, face by face, so that a corner comes twice; and their data."""
    number = np.arange(X[..., 0].size).reshape(X.shape[:-1])
    at, g = [], []
    for condition in pde.conditions:
        data = PointFunction("g", condition.u0 if isinstance(condition, Initial) else condition.g, pde.n_dims)
        for axis, side in pde.faces_of(condition):
            where = np.take(number, -side, axis=axis).ravel()
            points = X.reshape(-1, pde.n_dims)[where]
            if isinstance(condition, Dirichlet) and callable(condition.where):
                held = apply_mask(condition.where, points)
                where, points = where[held], points[held]
            if len(points):
                at.append(where)
                g.append(data(points))
    return (np.concatenate(at), np.concatenate(g)) if at else (np.zeros(0, int), np.zeros(0))
