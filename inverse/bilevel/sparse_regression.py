r"""Nonsmooth lower levels: lasso, weighted lasso, elastic net, and logistic regression with absolute values.

.. math:: h_i(x, \theta) = \frac{1}{N_i} \sum_k \ell(a_k^T x, t_k) + \sum_j \alpha_j |x_j|
          + \frac12 \sum_j \rho_j x_j^2,
          \qquad \alpha, \rho = e^\theta

Notation  a_k rows of X_i (N_i, p), t_k targets; x (p,); the subgradient of least norm over mu bounds the distance to
          the minimiser, as a gradient would.
Cost      the lower level is solved to rounding, always: Newton's method on the support ends after finitely many steps.
          What it computes is counted in gradients: the multiplications done over those of one gradient.
Pitfalls  the loss is a mean: `alpha_max` gives the penalty from which on x = 0, in this convention; above it the
          hypergradient is zero and tells nothing. theta moves solutions along smooth pieces, with kinks where an
          unknown enters or leaves the support. At a kink the hypergradient is that of one side; it shows as
          |g_j| = alpha_j for an x_j = 0, and a warning says so.
References  Q. Bertrand, Q. Klopfenstein, M. Massias, M. Blondel, S. Vaiter, A. Gramfort, J. Salmon, Implicit
            differentiation for fast hyperparameter selection in non-smooth convex learning, 2022, arXiv 2105.01637.
            E. Ndiaye, O. Fercoq, A. Gramfort, J. Salmon, Gap safe screening rules, 2017, arXiv 1611.05780.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.folds import read_folds
from sciml.inverse.bilevel.losses import find_loss
from sciml.inverse.bilevel.lower import Constants, Lower
from sciml.inverse.bilevel.sparse_point import Look, SparsePoint
from sciml.optimize import BatchedMinimum, l1_newton, l1_subgradient
from sciml.validation import check_number, check_option

__all__ = ["SparseRegression", "alpha_max"]

PENALTIES = ("lasso", "weighted-lasso", "elastic-net", "weighted-elastic-net")
# Up to this many columns, and this many times as many as rows, X^T X is formed once.
_GRAM, _WIDE = 1000, 2


@dataclass(frozen=True, eq=False)
class SparseMinimum(BatchedMinimum):
    """Minimisers, and what was found out about the curvature where they are.

    Parameters
    ----------
    mu : torch.Tensor, shape (B,), or None
        Smallest eigenvalues of the Hessians among the unknowns that may differ from zero.
    guess : bool
        Whether one of them is no proven bound.
    """

    mu: torch.Tensor | None = None
    guess: bool = False


def alpha_max(X, y, *, loss="squared"):
    r"""Return the penalty from which on all solutions are zero, :math:`\max_i \max_j |X_{ij}^T (y_i - y^0_i)| / N_i`.

    Parameters
    ----------
    X : array, shape (N, p) or (B, N, p), or sequence of B arrays (N_i, p)
        Features.
    y : array, shape (N,) or (B, N), or sequence of B arrays (N_i,)
        Targets.
    loss : {"squared", "logistic"}
        Half the squared error (the default) or the negative log likelihood; its mean over the rows.

    Returns
    -------
    float
        In the units of theirs: those of y times those of X for the squared loss. Searches start below it, at a tenth
        for instance.

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, or targets do not suit the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel.sparse_regression import alpha_max
    >>> alpha_max(np.eye(2), np.array([3.0, -4.0]))
    2.0
    """
    found = find_loss(check_option("loss", loss, ("squared", "logistic")))
    folds, _ = read_folds(X, y, found, reduce=False)
    slopes = []
    for fold in folds:
        z = torch.zeros_like(fold.t)
        slopes.append(float((fold.X.T @ found.slope(z, fold.t, found.state(z))).abs().max()) / fold.n_rows)
    return max(slopes)


class _Sparse(Lower):
    """Solve, linearise and bound; see `SparseRegression`."""

    exact = True
    # Off where a kink may well be the minimum that is looked for.
    warn_of_ties = True

    def penalties(self, theta):
        """Return alpha and rho, (p,) each, in the dtype of the data."""
        e = torch.exp(theta.to(self.folds[0].X.dtype))
        alpha = torch.where(self._of_alpha >= 0, e[self._of_alpha.clamp_min(0)], 0.0)
        rho = torch.where(self._of_rho >= 0, e[self._of_rho.clamp_min(0)], self._rho)
        return alpha, rho

    def spread(self, t):
        """Return the entries of t (n,) that belong to the alpha and the rho of each unknown, (p,) each."""
        a, r = self._of_alpha, self._of_rho
        return t[a.clamp_min(0)] * (a >= 0), t[r.clamp_min(0)] * (r >= 0)

    def gather(self, of_alpha, of_rho):
        """Return sums (n,) over the unknowns that share an alpha, and likewise a rho."""
        both = []
        for e, numbers in ((of_alpha, self._of_alpha), (of_rho, self._of_rho)):
            out = torch.zeros(self.n_hyper, dtype=e.dtype, device=e.device)
            both.append(out.index_add_(0, numbers.clamp_min(0), e * (numbers >= 0)))
        return both

    def constants(self, theta, idx):
        """Return bounds that hold for all x; mu is None where the smooth part is flat in some direction."""
        rho = self.penalties(theta)[1].double()
        c, third, folds = self.loss.curvature, self.loss.third_bound, [self.folds[i] for i in idx.tolist()]

        def each(values):
            return torch.tensor(values, dtype=torch.float64, device=rho.device)

        largest = each([fold.largest / fold.n_rows for fold in folds])
        low = each([fold.smallest / fold.n_rows for fold in folds]) * (self.loss.name == "squared") + rho.min()
        high = c * largest + rho.max()
        learned = torch.where(self._of_rho >= 0, rho, 0.0).max()
        flat = bool((low <= 1e-10 * high).any())
        longest = each([fold.longest for fold in folds])
        return Constants(None if flat else low, high, third * largest * longest, learned.expand(len(folds)))

    def gradient(self, x, theta, idx, count):
        """Return subgradients of least norm; see `Lower`."""
        alpha, rho = self.penalties(theta)
        rho, plain, work = rho.cpu().numpy(), x.detach().cpu().numpy(), [0.0]
        slopes = [Look(self, i, plain[j], rho, work).gradient for j, i in enumerate(idx.tolist())]
        count.lower += work[0]
        return l1_subgradient(torch.from_numpy(np.stack(slopes)).to(x), x, alpha)

    def at(self, x, theta, idx, count, value=False):
        """Return the linearisation on the support; see `Lower`."""
        return SparsePoint(self, x.detach(), theta.detach(), idx, count, value)

    def norm_J(self, point):
        """Return bounds of the norms of J; see `Lower`."""
        return point.norm_J()

    def solve(self, x0, theta, idx, eps, count, max_iter):
        """Return the minimisers, to rounding whatever `eps` asks for; see `Lower`."""
        alpha, rho = self.penalties(theta)
        rho, numbers, work = rho.cpu().numpy(), idx.tolist(), [0.0]
        scale = torch.tensor([self.data[i].pull for i in numbers], dtype=torch.float64, device=x0.device)
        unit = torch.finfo(x0.dtype).eps
        got = l1_newton(
            lambda x, j: Look(self, numbers[j], x, rho, work),
            x0,
            l1=alpha,
            gtol=500 * unit * scale,
            max_iter=max_iter,
        )
        mu, guess = self.constants(theta, idx).mu, False
        if mu is None:
            mu, guess = self._curvatures(got, alpha.cpu().numpy(), rho, numbers, work)
        count.lower += work[0]
        # Bad conditioning may keep the last digits; what counts is that the support is right.
        reached = got.converged | (got.gradient_norm <= unit**0.5 * scale)
        return SparseMinimum(**{**vars(got), "converged": reached}, mu=mu, guess=guess)

    def _curvatures(self, got, alpha, rho, numbers, work):
        """Return the smallest eigenvalues where unknowns may differ from zero, (b,), and whether one is a guess."""
        mu, guess = [], self.loss.name != "squared"
        for i, x in zip(numbers, got.x.cpu().numpy(), strict=True):
            look, alive = Look(self, i, x, rho, work), (x != 0) | (alpha == 0)
            if self.loss.name == "squared":
                alive |= look.may_live(alpha)
            H = look.hessian(np.flatnonzero(alive)).astype(np.float64)
            work[0] += 8 * len(H) ** 3 / 6 / look.full
            values = np.linalg.eigvalsh(H) if len(H) else np.ones(1)
            proven = float(values[0]) - 4 * len(H) * float(np.finfo(x.dtype).eps) * float(values[-1])
            floor = 1e-10 * float(values.mean())
            guess |= proven <= floor
            mu.append(max(proven, floor))
        return torch.tensor(mu, dtype=torch.float64, device=got.x.device), guess

    def duality_gap(self, x, theta, idx):
        """Return by how much energies may exceed their minima, (b,): for least squares.

        Parameters
        ----------
        x : torch.Tensor, shape (b, p)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b,)

        Raises
        ------
        InvalidInputError
            If the loss is another.
        """
        if self.loss.name != "squared":
            raise InvalidInputError(f"duality_gap needs loss='squared'; got {self.loss.name!r}.")
        alpha, rho = (penalty.cpu().numpy() for penalty in self.penalties(theta))
        plain = x.detach().cpu().numpy()
        gaps = [Look(self, i, plain[j], rho, [0.0]).gap(alpha)[0] for j, i in enumerate(idx.tolist())]
        return torch.tensor(gaps, dtype=x.dtype, device=x.device)

    def to(self, device, dtype):
        """Return the problem with its data on a device in a dtype; see `Lower`."""
        if self.folds[0].X.device == torch.device(device) and self.folds[0].X.dtype == dtype:
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.folds = [fold.to(device, dtype) for fold in self.folds]
        copy._of_alpha, copy._of_rho = self._of_alpha.to(device), self._of_rho.to(device)
        copy._prepare()
        return copy

    def _prepare(self):
        """Form what depends on the data alone."""
        self.data = [_Data(fold, self.loss) for fold in self.folds]
        self.quadratic_part = self._rho > 0 or bool((self._of_rho >= 0).any())


class _Data:
    """The data of one sample in NumPy: columns as rows, X^T X where that is small, and the slope at zero."""

    def __init__(self, fold, loss):
        X, t = fold.X.cpu(), fold.t.cpu()
        m, p = X.shape
        self.columns, self.targets = X.T.contiguous().numpy(), t.numpy()
        self.norms = np.linalg.norm(self.columns.astype(np.float64), axis=1)
        self.gram = self.linear = None
        if loss.name == "squared" and p <= min(_GRAM, _WIDE * m):
            self.gram = self.columns @ self.columns.T / fold.n_rows
            self.linear = self.columns @ self.targets / fold.n_rows
        z = torch.zeros_like(t)
        slope = self.columns @ loss.slope(z, t, loss.state(z)).numpy() / fold.n_rows
        self.pull = float(np.linalg.norm(slope.astype(np.float64)))


class SparseRegression(_Sparse):
    r"""Linear or logistic regression with weighted absolute values, whose weights are learned: :math:`e^\theta`.

    Parameters
    ----------
    X : array, shape (N, p) or (B, N, p), or sequence of B arrays (N_i, p)
        Features: one matrix, or one for each sample of the batch, such as the training rows of a fold. Centre X and y
        instead of adding a column for an intercept.
    y : array, shape (N,) or (B, N), or sequence of B arrays (N_i,)
        Targets: numbers; or classes 0 and 1 (or -1 and 1).
    loss : {"squared", "logistic"}
        Half the squared error (the default) or the negative log likelihood; its mean over the rows.
    penalty : {"lasso", "weighted-lasso", "elastic-net", "weighted-elastic-net"}
        What theta holds: log alpha (the default); log alpha_j, (p,); log alpha and log rho; log alpha_j and then
        log rho_j, (2 p,).
    rho : float
        Quadratic penalty where it is not learned, at least 0; 0 by default. A small one makes minimisers unique where
        there are more columns than rows.
    unpenalised : sequence of int
        Columns without absolute values; none by default.

    Attributes
    ----------
    n_hyper : int
        Length n of theta.
    shape : tuple
        Of one sample's x, (p,).

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, targets do not suit the loss, or an option is unknown.

    Notes
    -----
    Where the smooth part is strongly convex in all directions, its constant bounds all errors. Else, with the squared
    loss, the duality gap excludes unknowns from the support of the minimiser, and the curvature among the others takes
    its place: bounds are then proven, too, unless the support is not identified.

    Examples
    --------
    Columns of unit length and one row each: the solution shrinks y by 2 alpha.

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel.counter import Counter
    >>> from sciml.inverse.bilevel.sparse_regression import SparseRegression
    >>> lower = SparseRegression(np.eye(2), np.array([3.0, 0.5]))
    >>> theta, idx = torch.tensor([0.5]).double().log(), torch.tensor([0])
    >>> lower.solve(torch.zeros(1, 2).double(), theta, idx, None, Counter(), 100).x.round(decimals=9)
    tensor([[2., 0.]], dtype=torch.float64)
    """

    smooth = False

    def __init__(self, X, y, *, loss="squared", penalty="lasso", rho=0.0, unpenalised=()):
        self.loss = find_loss(check_option("loss", loss, ("squared", "logistic")))
        check_option("penalty", penalty, PENALTIES)
        # X^T X does what a triangular factor of the rows would do.
        self.folds, _ = read_folds(X, y, self.loss, reduce=False)
        self.n_samples, self.n_features = len(self.folds), self.folds[0].X.shape[1]
        self.shape, p = (self.n_features,), self.n_features
        self._rho = check_number("rho", rho, low=0)
        one, each = np.zeros(p, dtype=np.int64), np.arange(p)
        of_alpha = each if penalty.startswith("weighted") else one
        of_rho = {"elastic-net": one + 1, "weighted-elastic-net": each + p}.get(penalty, one - 1)
        self.n_hyper = int(max(of_alpha.max(), of_rho.max())) + 1
        wrong = [j for j in unpenalised if not 0 <= j < p]
        if wrong:
            raise InvalidInputError(f"unpenalised must hold columns from 0 to {p - 1}; got {wrong[0]}.")
        self._of_alpha, self._of_rho = torch.from_numpy(of_alpha.copy()), torch.from_numpy(of_rho)
        self._of_alpha[list(unpenalised)] = -1
        self._prepare()
