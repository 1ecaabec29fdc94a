r"""Leave a local optimum of a mixture: merge two clusters, split another, fit again, keep what predicts better.

Expectation maximisation never moves a whole cluster: two that share one population while another holds two of them stay
so. Every proposal here merges the pair whose union costs least marginal likelihood, splits one of the clusters, along
its longest axis or into core and shell, and is then fitted together with all other proposals in one batch.

Cost      one fit of some twenty steps for up to `width` proposals at once, for each round that improves.
Pitfalls  proposals are judged by the score of `PredictiveMixtures`, which is comparable within one structure only.
References  N. Ueda, R. Nakano, Z. Ghahramani, G. Hinton, SMEM algorithm for mixture models, 2000.
"""

from __future__ import annotations

import torch

from sciml.stats.clustering.agglomerate import log_marginal

__all__ = ["proposals", "search"]


def search(model, best, *, rounds=5, width=24, screen=12, keep=4, max_iter=60, gain=1e-7):
    """Return the best mixture that rounds of splitting and merging lead to.

    Parameters
    ----------
    model : PredictiveMixtures
        Fits and scores.
    best : Prediction
        Of one mixture.
    rounds : int
        Rounds at most; 5 by default. It ends earlier when a round brings nothing.
    width : int
        Proposals of a round; 24 by default.
    screen, keep : int
        Steps given to all proposals, and how many go on; 12 and 4 by default.
    max_iter : int
        Steps for these; 60 by default.
    gain : float
        Least increase of the score over its absolute value; 1e-7 by default, beyond rounding.

    Returns
    -------
    Prediction
        Never worse than `best`.

    Examples
    --------
    Two centres share the left population, one holds the two on the right:

    >>> import torch
    >>> from sciml.stats.clustering.predictive import PredictiveMixtures
    >>> spread = torch.linspace(-1, 1, 12, dtype=torch.float64)
    >>> X = torch.cat([spread, spread + 8, spread + 12])[:, None]
    >>> R = torch.nn.functional.one_hot(torch.tensor([0] * 6 + [1] * 6 + [2] * 24), 3).double()[None]
    >>> model = PredictiveMixtures(X)
    >>> torch.unique_consecutive(search(model, model.fit(R)).memberships[0].argmax(1), return_counts=True)[1]
    tensor([12, 12, 12])
    """
    for _ in range(rounds):
        R = proposals(model, best, width)
        if R is None:
            return best
        noise = best.noise_memberships.expand(len(R), -1)
        screened = model.fit(R, noise=noise, max_iter=screen, tol=1e-3)
        top = torch.argsort(screened.score, descending=True)[:keep]
        refined = model.fit(
            screened.memberships[top], noise=screened.noise_memberships[top], max_iter=max_iter, tol=1e-5
        )
        winner = int(refined.score.argmax())
        if not float(refined.score[winner] - best.score[0]) > gain * abs(float(best.score[0])):
            return best
        best = refined.pick(winner)
    return best


def proposals(model, best, width):
    """Return memberships after a merger and a split each: (S, n, K), or None where there is nothing to split.

    Parameters
    ----------
    model : PredictiveMixtures
        Holds the points.
    best : Prediction
        Of one mixture.
    width : int
        S at most.
    """
    R = best.memberships[0]
    K = R.shape[1]
    if K < 2:
        return None
    # Cheap mergers with heavy splits first: the limit cuts the unlikely ones of both.
    ranked = sorted(
        (i + j, i, a, b, c) for i, (a, b) in enumerate(_mergers(best, width)) for j, c in enumerate(_splits(best, a, b))
    )
    made = []
    for _, _, a, b, c in ranked[: (width + 1) // 2]:
        merged = R.clone()
        merged[:, a] = R[:, a] + R[:, b]
        made += [_split(model, best, merged, c, a, b, shell) for shell in (False, True)]
    return torch.stack(made[:width])


def _mergers(best, limit):
    """Pairs of clusters, those first whose union costs least."""
    N, m, T = best.counts[0], best.means[0], best.scatters[0]
    W, K = best.centres[0], len(N)
    p = T.shape[-1]
    nu = max(float(best.strengths[0]), p + 2.0)
    a, b = torch.triu_indices(K, K, offset=1, device=N.device)
    d = m[a] - m[b]
    factor = N[a] * N[b] / (N[a] + N[b]).clamp_min(1e-9)
    union = T[a] + T[b] + factor[:, None, None] * d[:, :, None] * d[:, None, :]
    own = log_marginal(N, T, W, nu)
    gain = log_marginal(N[a] + N[b], union, W, nu) - own[a] - own[b]
    order = torch.argsort(gain, descending=True)[:limit].tolist()
    return [(int(a[i]), int(b[i])) for i in order]


def _splits(best, a, b):
    """Clusters to split after a and b were merged into a: a itself, then the heaviest in scatter."""
    load = torch.linalg.slogdet(best.covariances[0])[1] / 2 + best.counts[0].clamp_min(1e-9).log()
    order = torch.argsort(load, descending=True).tolist()
    return [a] + [c for c in order if c not in (a, b)]


def _split(model, best, merged, c, a, b, shell):
    """Give half of cluster c the free number b."""
    R = merged.clone()
    share = R[:, c].clone()
    w = model.weights * share
    mean = w @ model.X / w.sum().clamp_min(1e-9)
    D = model.X - mean
    S = (D * w[:, None]).T @ D / w.sum().clamp_min(1e-9) + torch.diag(model.floor)
    if shell:
        L = torch.linalg.cholesky(S + 1e-9 * S.diagonal().mean() * torch.eye(len(S), dtype=S.dtype, device=S.device))
        side = torch.linalg.solve_triangular(L, D.T, upper=False).square().sum(0)
        side = side - len(S)
    else:
        side = D @ torch.linalg.eigh(S)[1][:, -1]
    upper = (side > 0).to(R.dtype)
    R[:, b] = share * upper
    R[:, c] = share * (1 - upper)
    return R
