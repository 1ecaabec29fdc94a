r"""Maximum likelihood by variable projection: Gauss-Newton in the gains with the signals eliminated.

.. math:: \min_\theta f(d(\theta)), \qquad f(d) = \min_x \sum_l \|W_l^{1/2}(y_l - d \circ A_l x_l)\|^2

Notation  theta (b, k): d itself, h of d = B h, or g of 1/d = B g; J (b, m, k) its derivative; f, g, F of the
          elimination; mu damping.
Cost      one Gauss-Newton matrix of the elimination and one Cholesky factor a step.
Pitfalls  the common factor of the gains does not change f: the step is made orthogonal to it by a term of rank one. All
          parameters enter holomorphically, so that complex data need no splitting into real and imaginary parts.
References
    G. H. Golub, V. Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose variables
    separate, 1973. Damping as by Levenberg and Marquardt.
"""

from dataclasses import dataclass

import torch

from sciml.iterate import Status, Step, run

__all__ = ["Parametrisation", "Refined", "refine", "refinement_steps"]

_DAMPING = 1e-3  # first, after an undamped step has failed
_STALLED = 8  # steps at rounding without a smaller one: there are none


@dataclass
class Refined:
    """What `refine` returns.

    Parameters
    ----------
    d : Tensor, shape (b, m)
        Gains with root mean square one over the active sensors.
    theta : Tensor, shape (b, k)
        Their parameters.
    misfit : Tensor, shape (b,)
        f at d.
    n_iter : int
        Steps of the slowest channel.
    converged : Tensor of bool, shape (b,)
        Whether the last step was small enough.
    history : dict of ndarray
        "criterion": the largest step over the size of theta, "misfit": the sum of f.
    status : Status
        How the loop ended.
    """

    d: torch.Tensor
    theta: torch.Tensor
    misfit: torch.Tensor
    n_iter: int
    converged: torch.Tensor
    history: dict
    status: Status


class Parametrisation:
    """Gains as a function of parameters theta: d itself, d = d_basis h, or 1/d = s_basis g.

    Parameters
    ----------
    d_basis : Tensor, shape (m, k), or None
        Subspace of the gains; all by default.
    s_basis : Tensor, shape (m, k), or None
        Subspace of the inverse gains; all by default.

    Examples
    --------
    >>> import torch
    >>> constant = Parametrisation(d_basis=torch.ones(3, 1))
    >>> constant.gains(constant.project(torch.tensor([[1.0, 2.0, 3.0]]))).round(decimals=3)
    tensor([[2., 2., 2.]])
    """

    def __init__(self, d_basis=None, s_basis=None):
        self.basis, self.inverse = (d_basis, False) if s_basis is None else (s_basis, True)
        self.factors = None if self.basis is None else torch.linalg.qr(self.basis)

    @property
    def size(self):
        """Number of parameters, or None for one a sensor."""
        return None if self.basis is None else self.basis.shape[-1]

    def gains(self, theta):
        """Return d (b, m) for theta (b, k)."""
        if self.basis is None:
            return theta
        value = theta @ self.basis.mT
        return 1 / value if self.inverse else value

    def derivative(self, d):
        """Return J, shape (b or 1, m, k), or None for the identity."""
        if self.basis is None:
            return None
        return -d.square()[..., None] * self.basis if self.inverse else self.basis[None]

    def project(self, d):
        """Return the theta nearest to gains d (b, m), or to their inverses."""
        if self.basis is None:
            return d
        Q, R = self.factors
        return torch.linalg.solve_triangular(R, ((1 / d if self.inverse else d) @ Q.conj()).mT, upper=True).mT

    def scaled(self, theta, factor):
        """Return the theta of gains multiplied by a factor (b,)."""
        factor = factor[:, None]
        return theta / factor if self.inverse else theta * factor


def refine(
    elimination,
    d0,
    *,
    parameters=None,
    sensor_weights=None,
    penalty=None,
    tol=1e-10,
    max_iter=300,
    callback=None,
    progress=None,
):
    """Minimise the misfit over the gains from a start.

    Parameters
    ----------
    elimination : Elimination
        The problem.
    d0 : Tensor, shape (b, m)
        Start; its values at sensors that do not take part do not matter.
    parameters : Parametrisation or None
        Of the gains; the gains themselves by default.
    sensor_weights : Tensor, shape (b, m), or None
        Multiply the weights; ones by default.
    penalty : callable or None
        ``penalty(d)`` returns value (b,), gradient part (b, m) and matrix (b, m, m) to be added to f, g and F; it fixes
        the scale. None by default.
    tol : float
        Steps below this, relative to the gains, end the iteration; 1e-10 by default, far below any noise.
    max_iter : int
        Steps at most; 300 by default: at low signal-to-noise ratios the rate is linear.
    callback, progress
        As for :func:`sciml.iterate.run`.

    Returns
    -------
    Refined
        See there.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> d = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1))
    >>> found = refine(problem, torch.tensor([[1.0, 1.5, 3.0]], dtype=torch.float64))
    >>> (found.d / found.d[:, :1]).round(decimals=9)
    tensor([[1., 2., 4.]], dtype=torch.float64)
    """
    steps = refinement_steps(elimination, d0, parameters or Parametrisation(), sensor_weights, penalty, tol)
    loop = {"callback": callback, "progress": progress, "on_failure": "ignore"}
    done = run(steps, name="refinement", tol=tol, max_iter=max_iter, dtype="float64", **loop)
    theta, d, misfit, converged = done.value
    return Refined(d, theta, misfit, done.n_iter, converged, done.history, done.status)


def refinement_steps(elimination, d0, parameters, sensor_weights=None, penalty=None, tol=1e-10):
    """Yield the iterates (theta, d, misfit, converged) of `refine`, to be stepped by hand; parameters as there."""
    active = elimination.active

    def at(theta):
        d = torch.where(active, parameters.gains(theta), 0)
        f, g, F = elimination.gauss_newton(d, sensor_weights)
        total = f
        if penalty is not None:
            more = penalty(d)
            total, g, F = f + more[0], g + more[1], F + more[2]
        return d, f, total, g, F

    def normalised(theta):
        if penalty is not None:
            return theta
        d = torch.where(active, parameters.gains(theta), 0)
        size = (d.abs().square().sum(1) / active.sum(1).clamp_min(1)).sqrt()
        return parameters.scaled(theta, 1 / torch.where(size > 0, size, 1))

    theta = normalised(parameters.project(torch.where(active, d0, 1)))
    d, f, total, g, F = at(theta)
    energy = _energy(elimination, sensor_weights)
    eps = torch.finfo(f.dtype).eps
    mu, done = torch.zeros_like(f), torch.zeros(len(theta), dtype=torch.bool, device=f.device)
    smallest, waited = torch.full_like(f, float("inf")), torch.zeros_like(f)
    yield Step((theta, d, f, done), 1.0, {"misfit": float(f.sum())})
    while True:
        step, predicted = _step(theta, d, g, F, parameters.derivative(d), mu, active, penalty is None)
        size = _norm(step) / _norm(theta).clamp_min(torch.finfo(f.dtype).tiny)
        trial = normalised(theta + step)
        d_new, f_new, total_new, g_new, F_new = at(trial)
        # Below the rounding of f a decrease cannot be seen: the step is then judged by its size alone.
        slack = 32 * eps * (energy + total)
        better = torch.isfinite(total_new) & (total_new <= total + slack)
        moves = better & ~done
        row = moves[:, None]
        theta, d, g = torch.where(row, trial, theta), torch.where(row, d_new, d), torch.where(row, g_new, g)
        F = torch.where(row[..., None], F_new, F)
        f, total = torch.where(moves, f_new, f), torch.where(moves, total_new, total)
        mu = torch.where(better, torch.where(mu <= _DAMPING, 0, mu / 10), (10 * mu).clamp_min(_DAMPING))
        # Ill-conditioned problems have steps of rounding above tol: they promise nothing, and shrink no more.
        smaller = size < 0.9 * smallest
        smallest = torch.where(smaller, size, smallest)
        waited = torch.where(smaller | (predicted.abs() > slack), 0.0, waited + 1)
        done = done | (better & (size < tol)) | (~better & (predicted.abs() <= slack)) | (waited >= _STALLED)
        left = torch.where(done, 0.0, size.nan_to_num(1.0).clamp(10 * tol, 1.0))
        yield Step((theta, d, f, done), float(left.max()), {"misfit": float(f.sum())})
        if bool((done | (mu > 1e12)).all()):
            return


def _step(theta, d, g, F, J, mu, active, free_scale):
    """Return the damped Gauss-Newton step in theta and the decrease of f that it promises."""
    if J is not None:
        J = torch.where(active[..., None], J, 0)
        g = (J.mH @ g[..., None])[..., 0]
        F = J.mH @ F @ J
    else:
        F = F + torch.diag_embed((~active).to(F.dtype))
    k = theta.shape[-1]
    diagonal = torch.diagonal(F, dim1=-2, dim2=-1).real
    top = diagonal.amax(-1, keepdim=True)
    F = F + torch.diag_embed((mu[:, None] * diagonal.clamp_min(1e-12 * top)).to(F.dtype))
    if free_scale:
        # theta spans the null space of F that the common factor of the gains makes.
        unit = theta if J is not None else torch.where(active, theta, 0)
        unit = unit / _norm(unit).clamp_min(torch.finfo(diagonal.dtype).tiny)[:, None]
        F = F + (diagonal.sum(-1) / k)[:, None, None] * unit[..., :, None] * unit[..., None, :].conj()
    L, info = torch.linalg.cholesky_ex(F)
    if bool(info.any()):
        tiny = 1e-13 * F.diagonal(dim1=-2, dim2=-1).real.sum(-1)[:, None].expand(-1, k)
        add = torch.where((info > 0)[:, None], tiny * k, 0)
        L, info = torch.linalg.cholesky_ex(F + torch.diag_embed(add.to(F.dtype)))
    step = torch.cholesky_solve(g[..., None], L)[..., 0]
    good = (info == 0) & torch.isfinite(step.abs()).all(-1)
    step = torch.where(good[:, None], step, 0)
    predicted = torch.where(good, (g.conj() * step).sum(-1).real, float("inf"))
    return step, predicted


def _energy(elimination, sensor_weights):
    """An upper bound of the weighted energy of the data, the scale of rounding in f."""
    M, _ = elimination.schur_kept(sensor_weights)
    return torch.diagonal(M, dim1=-2, dim2=-1).real.sum(-1)


def _norm(t):
    return torch.linalg.vector_norm(t, dim=-1)
