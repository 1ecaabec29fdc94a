r"""Gaussian linear model: posterior, evidence, gradients, maximisation, by QR, never by normal equations.

:math:`y = A \theta + \epsilon` with independent :math:`\theta_j \sim N(0, s_j)` and
:math:`\epsilon_i \sim N(0, \sigma_i^2)`. Collocation for a differential equation, regression on features and Bayesian
linear inverse problems are all of this form; several right sides share one factorisation.

Notation  A (n, p) features; y (n,) or (n, k) observations; prior_std (p,) = sqrt(s); noise_std (n,) = sigma;
          whitened: M = A sqrt(s) / sigma (n, p), Y = y / sigma, theta = sqrt(s) z; r = Y - M z residual (n, k);
          C = (I + M^T M)^-1 (p, p) covariance of z; h_i leverage of observation i; d_j in [0, 1] how far the data
          determine coefficient j; [Q1; Q2] R = [M; I] (p <= n) or [sqrt(s) A^T; sigma] (p > n).
Cost      2 (n + p) q^2 flops, q = min(n, p); the same again, once, for anything that needs Q: leverages, leave-one-out,
          gradients. 3 (n + p) q numbers of memory.
Pitfalls  normal equations square the condition number, so with a noise of 1e-14 of the data nothing would remain;
          rows of very different noise lose digits unless the largest come first, so they are sorted (4e-4 against 1e-15
          for noises 1e-13 and 1 mixed), and for p > n the factorisation is of the transpose, not an SVD of M; 1 - h_i
          cancels when one observation fixes what it sees, and is then formed as a squared norm, and d_j likewise;
          with noise far below eps(float64) times the data the prior drowns in rounding: the residual stays at rounding
          level, but what the data leave open is no longer governed by the prior.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import qr

from sciml.exceptions import InvalidInputError
from sciml.iterate import Run, Step, run
from sciml.linalg.arrays import enter
from sciml.random import generator, normal
from sciml.validation import check_number, check_option

Array = np.ndarray | torch.Tensor

# Below this, 1 - |q|^2 has lost four digits and is formed from the orthogonal complement instead.
_CANCELS = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class GaussianLinearModel:
    r"""State the model :math:`y = A \theta + \epsilon`; `posterior` solves it.

    Arrays may be NumPy or torch, on any device; answers come back in the kind, dtype and device of `A`. Everything is
    computed in float64, also for float32 data.

    Parameters
    ----------
    A : array, shape (n, p)
        Features, one row an observation.
    y : array, shape (n,) or (n, k)
        Observations, k independent right sides.
    prior_std : float or array, shape (p,)
        Prior standard deviations of the coefficients, positive, in units of the coefficients.
    noise_std : float or array, shape (n,)
        Standard deviations of the noise, positive, in units of `y`.

    Raises
    ------
    InvalidInputError
        A shape does not fit, a value is not finite, or a standard deviation is not positive.

    Examples
    --------
    One coefficient seen twice: the precision is 1 + 1 + 1, the mean (1 + 3) / 3.

    >>> model = GaussianLinearModel(np.ones((2, 1)), np.array([1.0, 3.0]), prior_std=1.0, noise_std=1.0)
    >>> model.posterior().mean.round(6)
    array([1.333333])
    >>> model.posterior().std(np.ones((1, 1))).round(6)
    array([0.57735])
    """

    A: Array
    y: Array
    prior_std: Array | float = field(kw_only=True)
    noise_std: Array | float = field(kw_only=True)
    _inside: "_Inside" = field(init=False)

    def __post_init__(self):
        (A, y, prior, noise), leave = enter(
            self.A, self.y, self.prior_std, self.noise_std, names=("A", "y", "prior_std", "noise_std")
        )
        if A.ndim != 2 or 0 in A.shape:
            raise InvalidInputError(
                f"A must be a matrix (n, p) with n, p >= 1; got shape {tuple(A.shape)}. Pass one feature as A[:, None]."
            )
        n, p = A.shape
        if y.ndim not in (1, 2) or len(y) != n or 0 in y.shape:
            raise InvalidInputError(
                f"y must have shape (n,) or (n, k) with n = {n}, the number of rows of A; got {tuple(y.shape)}. "
                "Pass one row of A for each observation."
            )
        if A.is_complex():
            raise InvalidInputError(
                "A and y must be real; got complex numbers. Stack real and imaginary parts as rows."
            )
        prior, noise = _positive("prior_std", prior, p), _positive("noise_std", noise, n)
        dtype = A.dtype
        A, y, prior, noise = (t.detach().double() for t in (A, y, prior, noise))
        # A frozen dataclass keeps what the user passed; the float64 tensors lie beside it.
        self.__dict__["_inside"] = _Inside(A, y, prior, noise, lambda tensor: leave(tensor.to(dtype)))

    def __repr__(self):
        n, p = self._inside.A.shape
        return f"<GaussianLinearModel n={n} p={p}>"

    def posterior(self) -> "Posterior":
        """Return the posterior; it factorises once, when first asked for a number."""
        return self.__dict__.setdefault("_posterior", Posterior(self._inside))


@dataclass(frozen=True, eq=False)
class _Inside:
    """The model in float64 tensors, with the way back to the caller's arrays."""

    A: torch.Tensor
    y: torch.Tensor
    prior: torch.Tensor
    noise: torch.Tensor
    door: Callable


class Posterior:
    """Answers of a `GaussianLinearModel`, computed when first asked for and kept.

    With several right sides, y of shape (n, k), what depends on the data gains a last axis k; what does not (standard
    deviations, leverages) does not.
    """

    def __init__(self, inside: _Inside):
        self._inside = inside
        self._out = inside.door

    def __repr__(self):
        n, p = self._inside.A.shape
        return f"<Posterior n={n} p={p}>"

    # Whitened quantities, float64, right sides always (n, k).
    @cached_property
    def _M(self):
        return self._inside.A * self._inside.prior / self._inside.noise[:, None]

    @cached_property
    def _Y(self):
        return (self._inside.y.reshape(len(self._inside.y), -1)) / self._inside.noise[:, None]

    @cached_property
    def _factor(self):
        n, p = self._M.shape
        return _Tall(self._M, self._Y) if p <= n else _Wide(self._inside, self._Y)

    @cached_property
    def _r(self):
        return self._factor.residual

    def _shaped(self, values):
        """Drop the axis of right sides when the user's y has none."""
        return self._out(values if self._inside.y.ndim == 2 else values[..., 0])

    @property
    def mean(self) -> Array:
        """Posterior mean of theta, shape (p,) or (p, k), in units of the coefficients."""
        return self._shaped(self._inside.prior[:, None] * self._factor.z)

    @property
    def whitened(self) -> Array:
        """Posterior mean of z = theta / prior_std, shape (p,) or (p, k), dimensionless."""
        return self._shaped(self._factor.z)

    @property
    def residual(self) -> Array:
        """Observations minus fitted values ``y - A @ mean``, shape of y, in units of y."""
        return self._shaped(self._inside.noise[:, None] * self._r)

    @cached_property
    def _evidence(self):
        # Residual form: Y^T Y - |Q1^T Y|^2 would cancel when the fit is good.
        misfit = (self._r**2).sum(0) + (self._factor.z**2).sum(0)
        constant = len(self._r) * math.log(2 * math.pi) + 2 * self._inside.noise.log().sum()
        return -0.5 * (misfit + 2 * self._factor.log_det + constant)

    @property
    def log_evidence(self) -> Array | float:
        """Log density of y under the prior, in nats: a float, or shape (k,), one a right side."""
        return float(self._evidence[0]) if self._inside.y.ndim == 1 else self._out(self._evidence)

    def _root(self, Phi):
        """Phi as a tensor and rows w, (m, q), with w_a . w_b the covariance of Phi_a theta and Phi_b theta."""
        (Phi,), _ = enter(Phi, names=("Phi",), device=self._inside.A.device)
        p = len(self._inside.prior)
        if Phi.ndim != 2 or Phi.shape[1] != p:
            raise InvalidInputError(
                f"Phi must have shape (m, p) with p = {p}, as the columns of A; got {tuple(Phi.shape)}. "
                "Evaluate the same features at the new points."
            )
        Phi = Phi.detach().double()
        return Phi, self._factor.root(Phi * self._inside.prior)

    def covariance_root(self, noise_factor: float = 1.0) -> Array:
        """Return W, shape (p, q), with ``W @ W.T`` the posterior covariance of theta, in units of the coefficients.

        Parameters
        ----------
        noise_factor : float
            Answer as if all noise were this many times larger, at least 1; no new pass over the data when p <= n.
        """
        factor = check_number("noise_factor", noise_factor, low=1.0)
        prior = torch.diag(self._inside.prior)
        if factor == 1.0:
            return self._out(self._factor.root(prior))
        if isinstance(self._factor, _Wide):
            louder = replace(self._inside, noise=factor * self._inside.noise)
            return self._out(_Wide(louder, self._Y / factor).root(prior))
        return self._out(self._factor.root_of_louder(prior, factor))

    def std(self, Phi: Array) -> Array:
        """Return the standard deviation of ``Phi @ theta`` for features (m, p): shape (m,), without noise."""
        return self._out(torch.linalg.vector_norm(self._root(Phi)[1], dim=1))

    def cov(self, Phi: Array) -> Array:
        """Return the covariance of ``Phi @ theta`` for features (m, p): shape (m, m), without noise."""
        W = self._root(Phi)[1]
        return self._out(W @ W.T)

    def sample(self, Phi: Array, n_samples: int, random_state=None) -> Array:
        """Draw ``Phi @ theta`` jointly from the posterior.

        Parameters
        ----------
        Phi : array, shape (m, p)
            Features at the points wanted.
        n_samples : int
            Number of draws.
        random_state : None, int or numpy.random.Generator
            The numbers are drawn on the CPU, so an int gives the same draw on every device.

        Returns
        -------
        array, shape (n_samples, m) or (n_samples, m, k)
            One draw a row; the k right sides share their deviations from the mean.
        """
        Phi, W = self._root(Phi)
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
        noise = normal(generator(random_state), (n_samples, W.shape[1]), device=W.device)
        mean = Phi @ (self._inside.prior[:, None] * self._factor.z)  # (m, k)
        return self._shaped(mean + (noise @ W.T)[..., None])

    @property
    def leverage(self) -> Array:
        """Leverage h_i in [0, 1) of every observation on its own fitted value, shape (n,)."""
        return self._out(1 - self._factor.slack[: len(self._inside.y)])

    @property
    def leave_one_out(self) -> Array:
        """Residual of every observation when it is left out of the fit, shape of y, in units of y.

        ``residual / (1 - leverage)``. Where an observation alone fixes what it sees, both cancel; they are then taken
        from the projection onto what the fit cannot reach: the error of entry i is eps noise_i norm(r) / (1 - h_i),
        r the whitened residuals, where the plain quotient has norm(y / noise) in place of norm(r).
        """
        return self._shaped(self._inside.noise[:, None] * self._factor.leave_one_out())

    @property
    def determined(self) -> Array:
        """How far the data determine every coefficient, d_j in [0, 1): 0 prior alone, 1 data alone; shape (p,)."""
        return self._out(self._factor.slack[len(self._inside.y) :])

    @property
    def effective_dof(self) -> float:
        """Number of coefficients that the data determine, the sum of `determined`, equal to that of `leverage`."""
        return float(self._factor.slack[len(self._inside.y) :].sum())

    @property
    def grad_log_prior_std(self) -> Array:
        """Gradient of `log_evidence` by the log of every prior standard deviation, shape (p,) or (p, k).

        ``z_j**2 - d_j``: twice the derivative by the log of the prior *variance* s_j.
        """
        return self._shaped(self._factor.z**2 - self._factor.slack[len(self._inside.y) :, None])

    def grad_log_noise_std(self, blocks: Array | Sequence | None = None) -> Array:
        """Return the gradient of `log_evidence` by the log of the noise standard deviation of every block.

        Parameters
        ----------
        blocks : None, integer array of shape (n,), or list of slices and index arrays
            None: every observation is its own block. Labels 0, 1, ... (-1: in no block), or the blocks themselves.

        Returns
        -------
        array, shape (n_blocks,) or (n_blocks, k)
            Sum over the block of ``r_i**2 - (1 - h_i)``, r the whitened residual.
        """
        rows = self._r**2 - self._factor.slack[: len(self._inside.y), None]
        if blocks is None:
            return self._shaped(rows)
        return self._shaped(_sum_by(rows, *_labels(blocks, len(rows), "blocks", rows.device)))

    @cached_property
    def _singular_values(self):
        return torch.linalg.svdvals(self._M)

    @property
    def smallest_singular_value(self) -> float:
        """Smallest singular value of M: below about 1 the prior decides some direction of the coefficients."""
        return float(self._singular_values[-1])

    @property
    def condition(self) -> float:
        """Ratio of the largest to the smallest singular value of M, possibly inf."""
        return float(self._singular_values[0] / self._singular_values[-1])


class _Tall:
    """Householder QR of [M; I], for p <= n; Q itself is formed only for `slack` and `leave_one_out`."""

    def __init__(self, M, Y):
        n, p = M.shape
        self._Y = Y
        stack = torch.cat([M, torch.eye(p, dtype=M.dtype, device=M.device)])
        # Largest rows first: else the rounding of rows of little noise swamps those of much noise above them.
        self._order = stack.abs().amax(1).argsort(descending=True, stable=True)
        self._reflectors, self._tau = torch.geqrf(stack[self._order])
        self._R = self._reflectors[:p].triu()
        padded = torch.cat([Y, Y.new_zeros(p, Y.shape[1])])[self._order]
        projected = torch.ormqr(self._reflectors, self._tau, padded, transpose=True)
        self.z = torch.linalg.solve_triangular(self._R, projected[:p], upper=True)  # (p, k)
        self.residual = Y - M @ self.z  # (n, k)
        self.log_det = self._R.diagonal().abs().log().sum()  # 1/2 log det(I + M^T M)

    @cached_property
    def _graded(self):
        """R with its columns permuted and rotated so that its rows fall in size, and the permutation.

        A triangular solve with R as it stands mixes into a weakly determined direction a part 1e-5 of strong ones when
        the features are redundant; pivoting keeps every direction to its own relative accuracy.
        """
        R, order = qr(self._R.cpu().numpy(), mode="r", pivoting=True)
        like = {"dtype": self._R.dtype, "device": self._R.device}
        return torch.as_tensor(R, **like), torch.as_tensor(order, dtype=torch.long, device=self._R.device)

    def root(self, F):
        R, order = self._graded
        return torch.linalg.solve_triangular(R, F[:, order], upper=True, left=False)  # F R^-1, rotated: (m, p)

    def root_of_louder(self, F, factor):
        """`root` with noise `factor` times larger: I + M^T M / factor^2 = (1 - factor^-2) I + R^T R / factor^2."""
        R, order = self._graded
        eye = torch.eye(len(R), dtype=F.dtype, device=F.device)
        louder = torch.cat([R / factor, math.sqrt(1 - factor**-2) * eye])
        return torch.linalg.solve_triangular(torch.linalg.qr(louder, mode="r").R, F[:, order], upper=True, left=False)

    @cached_property
    def _Q(self):
        Q = torch.linalg.householder_product(self._reflectors, self._tau)  # (n + p, p)
        return Q[self._order.argsort()]

    @cached_property
    def slack(self):
        """Values 1 - |q|^2 for all rows of [Q1; Q2]: first 1 - h (n,), then d (p,)."""
        slack = 1 - (self._Q**2).sum(1)
        rows = (slack < _CANCELS).nonzero()[:, 0]
        slack[rows] = (self._complement(rows) ** 2).sum(1)
        return slack

    def _complement(self, rows):
        """Unit vectors of the given rows projected on the complement of [Q1; Q2], shape (len(rows), n + p).

        Projecting twice makes the error relative to the length of the projection.
        """
        W = -self._Q[rows] @ self._Q.T
        W[torch.arange(len(rows)), rows] += 1
        return W - (W @ self._Q) @ self._Q.T

    def leave_one_out(self):
        n = len(self._Y)
        keep = self.slack[:n, None]
        residual = self.residual / keep
        rows = (keep[:, 0] < _CANCELS).nonzero()[:, 0]
        residual[rows] = self._complement(rows)[:, :n] @ self._Y / keep[rows]
        return residual


class _Wide:
    """QR of [sqrt(s) A^T; sigma] for p > n: the least z and noise e with A sqrt(s) z + sigma e = y.

    Only data of their own size enter, however small a noise: nothing is divided by sigma. Rows of very different noise
    are columns here, which Householder QR treats alike whatever their scale.
    """

    def __init__(self, inside, Y):
        n, p = inside.A.shape
        stack = torch.cat([inside.prior[:, None] * inside.A.T, torch.diag(inside.noise)])  # (p + n, n)
        Q, R = torch.linalg.qr(stack)
        self._Q, self._Qz, self._Qe = Q, Q[:p], Q[p:]
        solved = torch.linalg.solve_triangular(R.T, inside.noise[:, None] * Y, upper=False)
        self.z = self._Qz @ solved  # (p, k)
        self.residual = self._Qe @ solved  # whitened residual (n, k)
        # R^T R = A S A^T + Sigma, of which the noise is counted apart.
        self.log_det = (R.diagonal().abs() / inside.noise).log().sum()

    def root(self, F):
        W = torch.cat([F, F.new_zeros(len(F), len(self._Qe))], dim=1)
        for _ in range(2):  # the second projection removes the rounding of the first
            W = W - (W @ self._Q) @ self._Q.T
        return W  # (m, p + n)

    @cached_property
    def slack(self):
        return torch.cat([(self._Qe**2).sum(1), (self._Qz**2).sum(1)])

    def leave_one_out(self):
        return self.residual / self.slack[: len(self._Qe), None]


@dataclass(frozen=True, eq=False, repr=False)
class EvidenceFit:
    """Hyper-parameters found from the evidence, with the posterior that they give.

    Attributes
    ----------
    prior_std : array, shape (p,)
        Prior standard deviations, in units of the coefficients.
    noise_std : array, shape (n,)
        Noise standard deviations, in units of the observations.
    group_factor : array, shape (n_groups,)
        Factor of every group's prior *variance* over the starting one, dimensionless.
    log_evidence : float
        In nats, summed over the right sides.
    posterior : Posterior
        Of the whole model; it factorises when first used.
    """

    prior_std: Array
    noise_std: Array
    group_factor: Array
    log_evidence: float
    posterior: Posterior

    def __repr__(self):
        return f"<EvidenceFit {len(self.group_factor)} groups, log_evidence={self.log_evidence:.6g}>"


def sparse_bayes(
    A,
    y,
    *,
    groups=None,
    prior_std,
    noise_std,
    variant="mackay",
    floor=1e-14,
    tol=1e-3,
    max_iter=100,
    callback=None,
    on_failure=None,
) -> Run:
    r"""Learn one prior variance a group by sparse Bayesian learning; groups that the data do not need vanish.

    The fixed point :math:`s_g \leftarrow s_g \, (\sum_{j \in g} z_j^2 / \sum_{j \in g} d_j)^a` has gradient zero:
    a = 1 is MacKay's (fast), a = 1/2 never lowers the evidence [1]_, [2]_.

    Parameters
    ----------
    A, y : array, shape (n, p) and (n,) or (n, k)
        As in `GaussianLinearModel`; k right sides share the variances.
    groups : None, integer array of shape (p,), or list of slices and index arrays
        Coefficients that share a factor (the cosine and sine of a frequency). None: each its own; label -1: kept as is.
    prior_std : float or array, shape (p,)
        Start; ratios within a group are kept.
    noise_std : float or array, shape (n,)
        Noise, kept.
    variant : {"mackay", "monotone"}
        The exponent, 1 or 1/2.
    floor : float
        A variance stays above ``floor`` times the largest one.
    tol : float
        Stop when ``max_g |sum_j (z_j**2 - d_j)| / (k * |g|) <= tol``: twice the gradient of the evidence by log s_g,
        a coefficient and right side; groups on the floor are left out.
    max_iter : int
        Sweeps; 5 to 20 suffice to rank groups.
    callback, on_failure
        As everywhere in sciml.

    Returns
    -------
    Run
        Its value is an `EvidenceFit`; its history has "criterion", "log_evidence" and "n_alive", the groups above
        1e-6 of the largest variance.

    Notes
    -----
    A tall A is first reduced to p + k rows by one QR, so that a sweep costs about 10 p^3 whatever n.

    References
    ----------
    .. [1] D. MacKay, Bayesian interpolation, Neural Computation 4, 1992.
    .. [2] M. Tipping, Sparse Bayesian learning and the relevance vector machine, JMLR 1, 2001.

    Examples
    --------
    Only the second of three orthogonal features is in the data.

    >>> A = np.sqrt(2 / 50) * np.cos(np.pi * np.outer(np.arange(50) + 0.5, [3, 7, 11]) / 50)
    >>> fit = sparse_bayes(A, 5 * A[:, 1], prior_std=1.0, noise_std=0.1).value
    >>> bool((fit.prior_std[[0, 2]] < 0.02).all())
    True
    >>> fit.prior_std[1].round(3)
    np.float64(4.999)
    """
    check_option("variant", variant, ("mackay", "monotone"))
    floor = check_number("floor", floor, low=0, high=1, inclusive="neither")
    model = GaussianLinearModel(A, y, prior_std=prior_std, noise_std=noise_std)
    steps = sparse_bayes_steps(model, groups, variant=variant, floor=floor)
    return run(steps, name="sparse_bayes", tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure)


def sparse_bayes_steps(model, groups=None, *, variant="mackay", floor=1e-14):
    """Yield a `Step` holding an `EvidenceFit` for every sweep, the starting point first; endless."""
    inside = model._inside
    small, constant = _reduced(inside)
    p = len(inside.prior)
    labels, n_groups = _labels(range(p) if groups is None else groups, p, "groups", inside.A.device)
    start = inside.prior**2
    biggest = _max_by(start, labels, n_groups)  # the group's variance is that of its widest coefficient
    factor, ground = torch.ones_like(biggest), torch.zeros_like(biggest)
    power = 1.0 if variant == "mackay" else 0.5
    while True:
        prior = (start * torch.cat([factor, factor.new_ones(1)])[labels]).sqrt()
        part = Posterior(_Inside(small.A, small.y, prior, small.noise, _same))
        k = part._Y.shape[1]
        energy = _sum_by((part._factor.z**2).sum(1), labels, n_groups)
        freedom = k * _sum_by(part._factor.slack[-p:], labels, n_groups)
        size = k * _sum_by(torch.ones_like(prior), labels, n_groups)
        gradient = energy - freedom
        gradient = torch.where((factor <= ground) & (gradient < 0), 0.0, gradient) / size.clamp(min=1)
        evidence = float(part._evidence.sum()) + constant
        variance = factor * biggest
        alive = int((variance > 1e-6 * variance.max()).sum())
        yield Step(
            _fit(inside, prior, inside.noise, factor, evidence),
            float(gradient.abs().max()),
            {"log_evidence": evidence, "n_alive": alive},
        )
        ground = floor * variance.max() / biggest
        # 0 / 0 is a group that the data do not see at all: its evidence is flat, so it stays.
        ratio = torch.where(freedom > 0, energy / freedom, 1.0)
        factor = torch.maximum(factor * ratio**power, ground)


def fit_evidence(
    A,
    y,
    *,
    groups=None,
    noise_blocks=None,
    prior_std,
    noise_std,
    noise_floor=1e-12,
    tol=1e-5,
    max_iter=100,
    callback=None,
    on_failure=None,
) -> Run:
    """Maximise the evidence over one noise factor a block and one prior factor a group.

    Quasi-Newton steps in the logarithms, with the analytic gradient; bounds keep the noise off zero.

    Parameters
    ----------
    A, y : array, shape (n, p) and (n,) or (n, k)
        As in `GaussianLinearModel`.
    groups, noise_blocks : None, integer array, or list of slices and index arrays
        Coefficients (p) and observations (n) that share a factor; None: all of them; label -1: kept as is.
    prior_std, noise_std : float or array, shapes (p,) and (n,)
        Start; ratios within a group or block are kept.
    noise_floor : float
        The noise of a block stays above this times the root mean square of y in it (of all y where that is zero).
    tol : float
        Stop when ``max |gradient by a log factor| <= tol * n * k``, bounds respected: nats an observation.
    max_iter : int
        Quasi-Newton steps.
    callback, on_failure
        As everywhere in sciml.

    Returns
    -------
    Run
        Its value is an `EvidenceFit`.

    Notes
    -----
    One factorisation and one formation of Q for every trial point, usually one a step. For many groups that should
    vanish, `sparse_bayes` is cheaper.

    Examples
    --------
    With one constant feature of wide prior the noise tends to the spread about the mean, sqrt(sum(e**2) / (n - 1)).

    >>> y = np.array([9.0, 11.0, 9.0, 11.0, 10.0])
    >>> fit = fit_evidence(np.ones((5, 1)), y, groups=[-1], prior_std=1e3, noise_std=0.1).value
    >>> fit.noise_std[0].round(4)
    np.float64(1.0)
    """
    noise_floor = check_number("noise_floor", noise_floor, low=0, high=1, inclusive="low")
    model = GaussianLinearModel(A, y, prior_std=prior_std, noise_std=noise_std)
    steps = fit_evidence_steps(model, groups, noise_blocks, noise_floor=noise_floor)
    return run(steps, name="fit_evidence", tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure)


def fit_evidence_steps(model, groups=None, noise_blocks=None, *, noise_floor=1e-12):
    """Yield a `Step` holding an `EvidenceFit` for every quasi-Newton step; ends when no step raises the evidence."""
    inside = model._inside
    n, p = inside.A.shape
    device = inside.A.device
    group, n_groups = _labels(np.zeros(p, int) if groups is None else groups, p, "groups", device)
    block, n_blocks = _labels(np.zeros(n, int) if noise_blocks is None else noise_blocks, n, "noise_blocks", device)
    k = inside.y.numel() // n

    def evaluate(x):
        factor = torch.as_tensor(np.append(np.exp(x), 0.0), device=device)
        factor[-1] = 1.0
        spread = torch.cat([factor[:n_groups], factor[-1:]])[group]
        level = factor[n_groups:][block]
        part = Posterior(_Inside(inside.A, inside.y, inside.prior * spread, inside.noise * level, _same))
        slack = part._factor.slack
        by_prior = _sum_by((part._factor.z**2).sum(1) - k * slack[n:], group, n_groups)
        by_noise = _sum_by((part._r**2).sum(1) - k * slack[:n], block, n_blocks)
        value = float(part._evidence.sum())
        fit = _fit(inside, part._inside.prior, part._inside.noise, factor[:n_groups] ** 2, value)
        return value, torch.cat([by_prior, by_noise]).cpu().numpy(), fit

    lowest = np.full(n_groups + n_blocks, -np.inf)
    square = (inside.y.reshape(n, -1) ** 2).mean(1)
    mean_square = _sum_by(square, block, n_blocks) / _sum_by(torch.ones_like(square), block, n_blocks)
    mean_square = torch.where(mean_square > 0, mean_square, square.mean())
    quietest = -_max_by(-inside.noise, block, n_blocks)
    with np.errstate(divide="ignore"):
        lowest[n_groups:] = np.log((noise_floor * mean_square.sqrt() / quietest).cpu().numpy())

    x = np.maximum(np.zeros(len(lowest)), lowest)
    value, gradient, fit = evaluate(x)
    H = np.eye(len(x)) / n  # inverse Hessian of -evidence: a log noise of n observations has curvature 2 n
    while True:
        free = (x > lowest) | (gradient > 0)
        yield Step(fit, float(np.abs(gradient * free).max() / (n * k)), {"log_evidence": value})
        direction = free * (H @ (free * gradient))
        if direction @ gradient <= 0:
            direction = free * gradient / n
        length = min(1.0, 2.0 / max(np.abs(direction).max(), 1e-300))  # at most a factor e^2 a step
        for _ in range(30):
            x_new = np.maximum(x + length * direction, lowest)
            value_new, gradient_new, fit_new = evaluate(x_new)
            # Where the value is flat to rounding, the gradient has to shrink: else this would never end.
            up = value_new > value or np.abs(gradient_new).max() < 0.9 * np.abs(gradient).max()
            if up and value_new >= value + 1e-4 * gradient @ (x_new - x):
                break
            length *= 0.5
        else:
            return
        s, t = x_new - x, gradient - gradient_new
        if s @ t > 1e-12 * np.linalg.norm(s) * np.linalg.norm(t):  # keeps H positive definite
            V = np.eye(len(x)) - np.outer(s, t) / (s @ t)
            H = V @ H @ V.T + np.outer(s, s) / (s @ t)
        x, value, gradient, fit = x_new, value_new, gradient_new, fit_new


def _same(tensor):
    return tensor


def _positive(name, std, size):
    """Spread a scalar over `size` entries; refuse what is not positive or has another shape."""
    if std.ndim > 1 or (std.ndim == 1 and len(std) != size):
        axis = "column" if name == "prior_std" else "row"
        raise InvalidInputError(
            f"{name} must be a number or have shape ({size},), one for each {axis} of A; got {tuple(std.shape)}."
        )
    std = std.expand(size)
    if not bool((std > 0).all()):
        i = int((~(std > 0)).nonzero()[0, 0])
        raise InvalidInputError(
            f"{name} must be positive; entry {i} is {float(std[i]):g}. For nearly exact data take 1e-12 of their size; "
            "leave out a coefficient that is known to be zero."
        )
    return std


def _fit(inside, prior, noise, factor, evidence):
    posterior = Posterior(_Inside(inside.A, inside.y, prior, noise, inside.door))
    return EvidenceFit(inside.door(prior), inside.door(noise), inside.door(factor), evidence, posterior)


def _reduced(inside):
    """Model with unit noise and at most p + k rows, equal to the given one for every prior; log-evidence lost on it."""
    n, p = inside.A.shape
    both = torch.cat([inside.A, inside.y.reshape(n, -1)], dim=1) / inside.noise[:, None]
    k = both.shape[1] - p
    if n > p + k:
        both = torch.linalg.qr(both, mode="r").R
    ones = both.new_ones(len(both))
    constant = -0.5 * (n - len(both)) * math.log(2 * math.pi) - float(inside.noise.log().sum())
    return _Inside(both[:, :p], both[:, p:], inside.prior, ones, _same), k * constant


def _labels(groups, size, name, device):
    """Long tensor of labels 0..n_groups-1 and, for what is in no group, n_groups; with n_groups."""
    if isinstance(groups, list | tuple) and groups and not isinstance(groups[0], int | np.integer):
        labels = np.full(size, -1)
        for label, members in enumerate(groups):
            members = members if isinstance(members, slice) else np.asarray(torch.as_tensor(members).cpu())
            try:
                taken = (labels[members] >= 0).any()
                labels[members] = label
            except IndexError as error:
                raise InvalidInputError(f"{name}[{label}] must index an axis of length {size}: {error}.") from error
            if taken:
                raise InvalidInputError(f"{name} must not overlap; number {label} shares an index with an earlier one.")
        return torch.as_tensor(np.where(labels < 0, len(groups), labels), device=device), len(groups)
    labels = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else list(groups))
    if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < -1:
        raise InvalidInputError(
            f"{name} must be a list of slices or index arrays, or integer labels >= -1 of shape ({size},); "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    n_groups = int(labels.max()) + 1
    return torch.as_tensor(np.where(labels < 0, n_groups, labels), device=device).long(), n_groups


def _sum_by(values, labels, n_groups):
    sums = values.new_zeros((n_groups + 1, *values.shape[1:]))
    return sums.index_add(0, labels, values)[:n_groups]


def _max_by(values, labels, n_groups):
    largest = np.full(n_groups + 1, -np.inf)
    np.maximum.at(largest, labels.cpu().numpy(), values.cpu().numpy())
    return torch.as_tensor(largest[:n_groups], device=values.device)
