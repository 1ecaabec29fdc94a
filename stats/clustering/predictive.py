r"""Mixtures whose points are judged by the others: empirical-Bayes covariances and leave-one-out predictive densities.

Covariances have a common inverse-Wishart prior, :math:`\Sigma_k \sim IW(\nu, \nu W)`, whose centre W and strength nu
are found by maximising the marginal likelihood: clusters alike pull nu up, to one covariance for all; unlike ones let
every cluster have its own. A point is judged by the predictive density of each cluster *without that point*,

.. math:: \log p(x_i \mid G_k \setminus i) = \log t_{\nu + n_k - p}\big(x_i;\; \bar x_k,\; \propto \nu W + T_k\big)

with mean, scatter T_k and count freed of x_i. A cluster of few points cannot then hold on to its members by having been
fitted to them, and the sum over the points is a score that compares starts, structures of W and components for noise.

Squared distances are linear in the products of coordinates, and scatters are sums of them: a step is two products of
matrices, with R and with the precisions, for all mixtures and clusters at once.

Notation  S mixtures at once; R (S, n, K) memberships; N (S, K) counts, m means, T scatters; C = nu W + T (S, K, p, p);
          h = (x - m)' C^-1 (x - m); omega weights, which are counts.
Cost      2 S n K p^2 operations a step; rows come in tiles, so that memory holds R and one tile.
Pitfalls  the harmonic mean W of the covariances has no floor of its own: columns with few values (counts, rounded
          numbers) would collapse to a spike, so that half a step between neighbouring values is added as variance. The
          steps need not raise the score one by one; the best iterate is kept.
References  C. Fraley, A. Raftery, Bayesian regularization for normal mixture estimation and model-based clustering,
            2007;
          G. Celeux, G. Govaert, A classification EM algorithm, 1992; A. Gelfand, D. Dey, Bayesian model choice, 1994
          (leave-one-out predictive densities).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

__all__ = ["STRUCTURES", "Prediction", "PredictiveMixtures"]

# Shapes of the centre W of the prior: any, diagonal, or a multiple of a metric that is given.
STRUCTURES = ("full", "diagonal", "spherical")
# Numbers in a tile of rows.
_TILE = 2**22
# Numbers of monomials that are kept from step to step, 64 MiB; more are formed anew.
_KEPT = 2**23
# Steps between two estimates of nu, which costs eigenvalues.
_EVERY = 4


@dataclass(frozen=True)
class Prediction:
    """Parameters of S mixtures and how well they predict.

    Parameters
    ----------
    counts : torch.Tensor, shape (S, K)
        Weights of the clusters, N.
    means : torch.Tensor, shape (S, K, p)
        Means m.
    scatters : torch.Tensor, shape (S, K, p, p)
        Scatters T about the means, with the floor.
    strengths : torch.Tensor, shape (S,)
        nu.
    centres : torch.Tensor, shape (S, p, p)
        W.
    noise : torch.Tensor, shape (S,)
        Weight of the points held for noise.
    score : torch.Tensor, shape (S,)
        Sum of log predictive densities, less one for every free parameter of W.
    memberships : torch.Tensor, shape (S, n, K)
        R.
    noise_memberships : torch.Tensor, shape (S, n)
        Shares of noise.
    n_iter : int
        Steps taken.
    change : torch.Tensor, shape (S,)
        Mean change of the memberships in the last step.
    """

    counts: torch.Tensor
    means: torch.Tensor
    scatters: torch.Tensor
    strengths: torch.Tensor
    centres: torch.Tensor
    noise: torch.Tensor
    score: torch.Tensor
    memberships: torch.Tensor
    noise_memberships: torch.Tensor
    n_iter: int
    change: torch.Tensor

    @property
    def covariances(self):
        """Posterior means of the covariances, shape (S, K, p, p)."""
        total = self.strengths[:, None, None, None] * self.centres[:, None] + self.scatters
        return total / (self.strengths[:, None] + self.counts).clamp_min(1.0)[..., None, None]

    def pick(self, index):
        """Return the mixtures of an index tensor or a list, as a Prediction."""
        index = torch.as_tensor(index, device=self.counts.device).reshape(-1)
        kept = {name: value[index] for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **kept)


class PredictiveMixtures:
    r"""Fit mixtures to one sample from many starts at once.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, centred, columns of variance about one.
    weights : torch.Tensor, shape (n,), or None
        Counts; None, the default: ones.
    structure : {"full", "diagonal", "spherical"}
        Shape of W; "full" by default.
    metric : torch.Tensor, shape (p,), or None
        Diagonal that a spherical W is a multiple of; None, the default: ones.
    noise_log_density : float or None
        Log-density of a uniform component for outliers; None, the default: no such component.
    strength : float or None
        nu; None, the default: estimated, which is what makes one method of tied, pooled and free covariances.
    floor : torch.Tensor, shape (p,), or None
        Variance added to every cluster; None, the default: 1e-9.
    hard : bool
        Whether every point belongs to one cluster (classification EM) instead of shares; False by default.
    leave_one_out : bool
        Whether points are judged without themselves; True by default.

    Examples
    --------
    Two points of the left cluster begin in the right one:

    >>> import torch
    >>> spread = torch.linspace(-0.1, 0.1, 8, dtype=torch.float64)
    >>> X = torch.cat([spread - 1, spread + 1])[:, None]
    >>> R = torch.nn.functional.one_hot(torch.tensor([0] * 6 + [1] * 10), 2).double()[None]
    >>> PredictiveMixtures(X).fit(R).counts.round(decimals=3)
    tensor([[8., 8.]], dtype=torch.float64)
    """

    def __init__(
        self,
        X,
        weights=None,
        structure="full",
        metric=None,
        noise_log_density=None,
        strength=None,
        floor=None,
        hard=False,
        leave_one_out=True,
    ):
        self.X = X
        self.n, self.p = X.shape
        self.weights = torch.ones_like(X[:, 0]) if weights is None else weights
        self.total = float(self.weights.sum())
        self.structure = structure
        self.metric = torch.ones_like(X[0]) if metric is None else metric
        self.noise_log_density = noise_log_density
        self.strength = strength
        self.floor = torch.full_like(X[0], 1e-9) if floor is None else floor
        self.hard = hard
        self.leave_one_out = leave_one_out
        free = {"full": self.p * (self.p + 1) / 2, "diagonal": self.p, "spherical": 1}[structure]
        # Leaving a point out does not take it out of W: as in the criterion of Akaike, each free number costs one.
        self.penalty = free + (noise_log_density is not None)
        # nu runs over these; below p - 1 the prior has no density, at the far end all covariances are one.
        self._first, self._second = torch.triu_indices(self.p, self.p, device=X.device)
        self._monomials = None
        self.grid = self.p - 1 + torch.logspace(-0.3, 6, 40, dtype=X.dtype, device=X.device)

    def fit(self, R, *, noise=None, max_iter=100, tol=1e-5, temper=0):
        """Iterate from memberships until they stay.

        Parameters
        ----------
        R : torch.Tensor, shape (S, n, K)
            Where to start; hard or soft.
        noise : torch.Tensor, shape (S, n), or None
            Shares of noise to start from; None, the default: none.
        max_iter : int
            Steps; 100 by default.
        tol : float
            Stop when memberships change by less than this in the mean; 1e-5 by default.
        temper : int
            Steps in which log-densities are multiplied by a power that rises from 0.3 to 1; 0 by default.

        Returns
        -------
        Prediction
            The best iterate of every start.
        """
        noise = torch.zeros_like(R[..., 0]) if noise is None else noise
        state = self._parameters(*self._moments(R, noise), None, 0)
        best, active = None, torch.arange(len(R), device=R.device)
        for step in range(1, max_iter + 1):
            power = min(1.0, 0.3 + 0.7 * (step - 1) / temper) if temper else 1.0
            R, noise, score, change, moments = self._expect(state, R, noise, power)
            found = Prediction(
                **state, score=score - self.penalty, memberships=R, noise_memberships=noise, n_iter=step, change=change
            )
            best = found if best is None else _better(best, found, active, tempered=power < 1)
            going = (change > tol) | (power < 1)
            if not going.any() or step == max_iter:
                break
            if not going.all():
                active, R, noise = active[going], R[going], noise[going]
                moments = tuple(t[going] for t in moments)
                state = {name: t[going] for name, t in state.items()}
            state = self._parameters(*moments, state, step)
        return best

    def _tiles(self, SK):
        """Rows and their monomials: all products of two coordinates, the coordinates, and one."""
        width = len(self._first) + self.p + 1
        size = max(256, int(_TILE / max(SK, width)))
        for a in range(0, self.n, size):
            rows = slice(a, min(a + size, self.n))
            if self.n * width <= _KEPT and size >= self.n:
                if self._monomials is None:
                    self._monomials = self._raised(self.X)
                yield rows, self._monomials
            else:
                yield rows, self._raised(self.X[rows])

    def _raised(self, X):
        p, at = self.p, 0
        G = X.new_empty(len(X), len(self._first) + p + 1)
        for i in range(p):
            torch.mul(X[:, i:], X[:, i : i + 1], out=G[:, at : at + p - i])
            at += p - i
        G[:, at : at + p] = X
        G[:, -1] = 1.0
        return G

    def _moments(self, R, noise):
        """Counts, means and scatters of memberships."""
        S, _, K = R.shape
        total = 0
        for rows, G in self._tiles(S * K):
            total = total + (R[:, rows].mT * self.weights[rows]).reshape(S * K, -1) @ G
        return *self._central(total, S, K), (self.weights * noise).sum(1)

    def _central(self, total, S, K):
        """Counts, means and scatters from sums of monomials (S K, Q)."""
        p, pairs = self.p, len(self._first)
        N, sums = total[:, -1].reshape(S, K), total[:, pairs:-1].reshape(S, K, p)
        second = total.new_zeros(S * K, p, p)
        second[:, self._first, self._second] = total[:, :pairs]
        second[:, self._second, self._first] = total[:, :pairs]
        m = sums / N.clamp_min(1e-300)[..., None]
        # Points are in standard units, so that the square of a mean cancels digits only down to the floor.
        T = second.reshape(S, K, p, p) - sums[..., :, None] * m[..., None, :]
        T.diagonal(dim1=-2, dim2=-1).clamp_(min=0)
        return N, m, 0.5 * (T + T.mT)

    def _parameters(self, N, m, T, N0, last, step):
        """Centre and strength of the prior by empirical Bayes, from counts and scatters."""
        T = T + torch.diag(self.floor) * N.clamp_min(1.0)[..., None, None]
        if last is None:
            W = self._shaped(T.sum(1) / N.sum(1).clamp_min(1.0)[:, None, None], harmonic=False)
            nu = torch.full_like(N[:, 0], self.strength if self.strength is not None else self.p + 2.0)
        else:
            W, nu = last["centres"], last["strengths"]
        if self.strength is None and step % _EVERY == 0:
            nu = self._evidence(N, T, W).argmax(1).to(N.dtype)
            nu = self.grid[nu.long()]
        dof = (N - 1).clamp_min(0)
        for _ in range(3):
            C = nu[:, None, None, None] * W[:, None] + T
            inverse = torch.cholesky_inverse(_cholesky(C)) * (nu[:, None] + dof).clamp_min(1e-6)[..., None, None]
            # Two forms of the same condition for a maximum of the marginal likelihood: W is the harmonic mean of the
            # posterior covariances, and a mean of the parallel sums of W and the scatters. As iterations the first
            # contracts by nu / (nu + n_k), the second by n_k / (nu + n_k).
            harmonic = self._shaped(inverse.mean(1), harmonic=True)
            sums = (W[:, None] @ inverse @ T).sum(1) / dof.sum(1).clamp_min(1e-9)[:, None, None]
            parallel = self._shaped(0.5 * (sums + sums.mT), harmonic=False)
            W = torch.where((nu > dof.mean(1))[:, None, None], parallel, harmonic)
        return {"counts": N, "means": m, "scatters": T, "strengths": nu, "centres": W, "noise": N0}

    def _shaped(self, H, harmonic):
        """The centre of the prior of the wanted structure, from a mean covariance or from a mean inverse."""
        if self.structure == "full":
            return torch.cholesky_inverse(_cholesky(H)) if harmonic else H
        d = H.diagonal(dim1=-2, dim2=-1)
        d = 1 / d if harmonic else d
        if self.structure == "spherical":
            ratio = d / self.metric
            level = 1 / (1 / ratio).mean(-1, keepdim=True) if harmonic else ratio.mean(-1, keepdim=True)
            d = level * self.metric
        return torch.diag_embed(d)

    def _evidence(self, N, T, W):
        """Log marginal likelihood of every nu of the grid, but for a constant: shape (S, len(grid))."""
        L = _cholesky(W)[:, None]
        half = torch.linalg.solve_triangular(L, T, upper=False)
        lam = torch.linalg.eigvalsh(torch.linalg.solve_triangular(L, half.mT, upper=False)).clamp_min(0)
        return evidence(self.grid, (N - 1).clamp_min(0), lam)

    def _expect(self, state, R, noise, power):
        """New memberships, the score, the change, and the moments of the new memberships, in one pass over the rows."""
        S, _, K = R.shape
        N, m, nu = state["counts"], state["means"], state["strengths"][:, None]
        C = nu[..., None, None] * state["centres"][:, None] + state["scatters"]
        L = _cholesky(C)
        logdet = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        P = torch.cholesky_inverse(L).reshape(S * K, self.p, self.p)
        # (x - m)' P (x - m) as a linear function of the monomials of x.
        pull = (P @ m.reshape(S * K, self.p, 1))[..., 0]
        twice = torch.where(self._first == self._second, 1.0, 2.0).to(P)
        constant = (pull * m.reshape(S * K, self.p)).sum(1, keepdim=True)
        form = torch.cat([P[:, self._first, self._second] * twice, -2 * pull, constant], 1)
        fresh, fresh_noise = torch.empty_like(R), torch.zeros_like(noise)
        score, change, total = torch.zeros_like(N[:, 0]), torch.zeros_like(N[:, 0]), 0
        for rows, G in self._tiles(S * K):
            w, old = self.weights[rows], R[:, rows].mT
            h = (form @ G.T).reshape(S, K, -1).clamp_min_(0)
            joint = self._log_joint(h, logdet, N, nu, state["noise"], old, noise[:, rows], w)
            level = torch.logsumexp(joint, 1)
            score += level @ w
            if self.hard:
                shares = torch.zeros_like(joint).scatter_(1, joint.argmax(1, keepdim=True), 1.0)
            elif power < 1:
                shares = torch.softmax(power * joint, 1)
            else:
                shares = torch.exp(joint - level[:, None])
            part = shares[:, :K]
            change += (part - old).abs().sum(1) @ w
            fresh[:, rows] = part.mT
            if shares.shape[1] > K:
                fresh_noise[:, rows] = shares[:, K]
            total = total + (part * w).reshape(S * K, -1) @ G
        moments = *self._central(total, S, K), (self.weights * fresh_noise).sum(1)
        return fresh, fresh_noise, score, change / self.total, moments

    def _log_joint(self, h, logdet, N, nu, N0, R, noise, w):
        """Log proportion times predictive density of every cluster, and of noise: shape (S, K or K + 1, t)."""
        p, K, N, nu = self.p, N.shape[1], N[..., None], nu[..., None]
        # A row of weight omega is one of omega equal points, of which one is set aside.
        r = R * w.clamp_max(1.0) if self.leave_one_out else torch.zeros_like(R)
        left = (N - r).clamp_min(1e-2)
        pull = (1 - r * N / left * h).clamp_min(1e-10)
        h = (N / left).square() * h / pull
        dof = (nu + left - p).clamp_min(1.0)
        joint = torch.lgamma((dof + p) / 2) - torch.lgamma(dof / 2) - 0.5 * p * math.log(math.pi)
        joint = joint - 0.5 * (logdet[..., None] + pull.log()) - 0.5 * p * torch.log1p(1 / left)
        joint = joint - 0.5 * (dof + p) * torch.log1p(left / (left + 1) * h)
        components = K + (self.noise_log_density is not None)
        total = self.total - w.clamp_max(1.0) if self.leave_one_out else self.total
        joint = joint + torch.log((left + 1) / (total + components))
        if self.noise_log_density is None:
            return joint
        own = noise * w.clamp_max(1.0) if self.leave_one_out else torch.zeros_like(noise)
        share = (N0[:, None] - own).clamp_min(0) + 1
        return torch.cat([joint, (torch.log(share / (total + components)) + self.noise_log_density)[:, None]], 1)


def evidence(grid, dof, eigenvalues):
    """Return the log marginal likelihood of scatters for every strength, but for what does not depend on it.

    Parameters
    ----------
    grid : torch.Tensor, shape (G,)
        Strengths nu.
    dof : torch.Tensor, shape (S, K)
        Degrees of freedom, counts less one.
    eigenvalues : torch.Tensor, shape (S, K, p)
        Of W^-1 T.

    Returns
    -------
    torch.Tensor, shape (S, G)
    """
    p = eigenvalues.shape[-1]
    dof = dof[..., None]
    logdet = (grid[:, None] + eigenvalues[..., None, :]).log().sum(-1)  # (S, K, G)
    value = 0.5 * grid * p * grid.log() - 0.5 * (grid + dof) * logdet
    return (value + torch.mvlgamma((grid + dof) / 2, p) - torch.mvlgamma(grid / 2, p)).sum(1)


def _cholesky(C):
    """Cholesky factors; where rounding made a matrix indefinite, of one with a little more on its diagonal."""
    L, info = torch.linalg.cholesky_ex(C)
    jitter = 1e-13
    while bool((info > 0).any()) and jitter < 1e-3:
        level = C.diagonal(dim1=-2, dim2=-1).abs().mean(-1)[..., None, None]
        C = C + (info > 0)[..., None, None] * jitter * level * torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
        L, info = torch.linalg.cholesky_ex(C)
        jitter *= 10
    return L


def _better(best, found, active, tempered):
    """Put the iterates that predict better in the place of those kept so far."""
    won = found.score > best.score[active] if not tempered else torch.ones_like(found.score, dtype=torch.bool)
    rows = active[won]
    merged = {"n_iter": found.n_iter}
    for name, value in vars(best).items():
        if isinstance(value, torch.Tensor):
            value = value.clone()
            value[rows] = getattr(found, name)[won]
            if name == "change":
                value[active] = found.change
            merged[name] = value
    return Prediction(**merged)
