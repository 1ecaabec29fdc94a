r"""Search beyond Lloyd's method: move centres from where they are spared to where they are missed, then single points.

Leaving out centre r costs at most R_r; splitting cluster s in two along its longest direction gains G_s:

.. math:: R_r = \min\Big( \sum_{i \in r} \omega_i (d_{i2}^2 - d_{i1}^2),\;
                \min_l \frac{n_r n_l}{n_r + n_l} |\mu_r - \mu_l|^2 \Big), \qquad
          G_s = \frac{n_1 n_2}{n_1 + n_2} |\mu_1 - \mu_2|^2

The pairs (r, s) of largest G_s - R_r are tried side by side; the best answer is kept. Where none helps, points change
clusters one by one: from a to b if n_a d_a^2 / (n_a - w) > n_b d_b^2 / (n_b + w), which Lloyd's method does not see.

Notation  d_i1, d_i2 distances of point i to the nearest and second nearest centre; n_k weights of clusters; mu_1, mu_2
          means of the two halves; w the weight of the point that moves.
Cost      n K p for each step of each trial; above 20 000 points (or 2e6 numbers, or 100 K points if that is more) the
          search sees a part of them, and all of them only a last descent: linear in n.
Pitfalls  the estimates ignore what the other clusters do next, so that pairs with G_s < R_r are tried too. A point of
          weight two leaves its cluster sooner than two points of weight one would: repeated rows are joined first.
References  H. Spaeth, Cluster analysis algorithms, 1980 (exchange). B. Fritzke, The breathing k-means algorithm, 2020,
          arXiv 2006.15666. D. Gribel, T. Vidal, HG-means: a scalable hybrid genetic algorithm for minimum
          sum-of-squares clustering, 2019, arXiv 1804.09813.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.stats.clustering.distinct import distinct_rows
from sciml.stats.clustering.lloyd import Points, as_they_appear, descend, seed

__all__ = ["exchange", "halves", "improve"]

_TRIALS = 8
_HOPELESS = -3.0  # a pair that would lose more than so many typical splits is not tried
_COARSE = 1e-4  # relative decrease at which a trial ends
_LEAST = 1e-9  # relative decrease that counts
_ROWS, _ENTRIES = 20_000, 2**21  # points, and numbers, that the search sees


def improve(X, labels, K, rng, weights=None, *, rounds=2, max_iter=50):
    """Lower the sum of squares of a partition by moving centres and single points; never raise it.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    labels : torch.Tensor of int64, shape (n,)
        Where the search starts, 0 to K - 1.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Of the fresh starts, and of the points that are seen where there are many.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    rounds : int
        Fresh k-means++ starts that are crossed with the best partition: centres are matched, one of each pair is kept.
        2 by default; 0: none, and rng is not used unless the points are many.
    max_iter : int
        Moves of centres in each search; 50 by default.

    Returns
    -------
    labels : torch.Tensor of int64, shape (n,)
        Numbered in the order in which clusters appear.
    centres : torch.Tensor, shape (K, p)
        Means of the clusters.
    sse : float
        Weighted sum of squared distances.

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]], dtype=torch.float64)
    >>> improve(X, torch.tensor([0, 1, 2, 2, 2, 2]), 3, generator(0))[2]
    1.5
    """
    if len(X) > _seen(X, K):
        return _improve_many(X, labels, K, rng, weights, rounds, max_iter)
    rows, begin, joined, which = _joined(X, labels, weights)
    points = Points(rows, joined)
    start = points.means(begin[None], K, points.X[:1].expand(1, K, -1))[0]
    best = _search(points, start, max_iter)
    for _ in range(rounds if 1 < K < len(rows) else 0):
        _, C, _, _ = descend(points, points.X[seed(points, K, rng)], tol=_COARSE)
        best = min(best, _search(points, _cross(best[1], C[0], rng)[None], max_iter), key=lambda end: end[2])
    return _better_of(Points(X, weights), labels, best[0][which], K)


def _seen(X, K):
    """Return how many points the search sees."""
    return max(min(_ROWS, _ENTRIES // X.shape[1]), 100 * K)


def _better_of(points, old, new, K):
    """Return the better of two partitions as labels, means and sum."""
    ends = []
    for labels in (new, old):
        C, _ = points.means(labels[None], K, torch.zeros_like(points.X[:1]).expand(1, K, -1))
        C, total = C[0], 0.0
        for rows in points.tiles(points.X.shape[1]):
            D = (points.X[rows] - C[labels[rows]]).square().sum(1)
            total += float(D.sum() if points.weights is None else points.weights[rows] @ D)
        ends.append((labels, C, total))
    labels, C, sse = min(ends, key=lambda end: end[2])
    labels, order = as_they_appear(labels, K)
    return labels, C[order] + points.mean, sse


def _improve_many(X, labels, K, rng, weights, rounds, max_iter):
    """Search on a part of the points; all of them are for the last descent."""
    part = torch.from_numpy(np.sort(rng.choice(len(X), _seen(X, K), replace=False))).to(X.device)
    seen, _, _ = improve(
        X[part], labels[part], K, rng, None if weights is None else weights[part], rounds=rounds, max_iter=max_iter
    )
    points, few = Points(X, weights), Points(X[part], None if weights is None else weights[part])
    C, _ = few.means(seen[None], K, few.X[:1].expand(1, K, -1))
    new = descend(points, C + (few.mean - points.mean), tol=_COARSE**2)[0]
    return _better_of(points, labels, new[0], K)


def _joined(X, labels, weights):
    """Return the different rows as they appear, their labels and weights, and which of them each row is."""
    column = X[:, 0].sort().values
    if not bool((column[1:] == column[:-1]).any()):
        return X, labels, weights, slice(None)
    rows, joined, which = distinct_rows(X, weights)
    if len(rows) == len(X):
        return X, labels, weights, slice(None)
    which, order = as_they_appear(which, len(rows))
    every = torch.arange(len(X), device=X.device)
    first = torch.full_like(order, len(X)).scatter_reduce_(0, which, every, "amin")
    return X[first], labels[first], joined[order], which


def _search(points, C, max_iter):
    """Return labels, centres (K, p) and the sum after moves of centres and points, alternately, until neither helps."""
    K = C.shape[1]
    _, C, sse, _ = descend(points, C, tol=_COARSE)
    C, sse, labels = C[0], float(sse), None
    while True:
        before = sse
        C, sse = _move_centres(points, C, sse, max_iter) if 1 < K < len(points.X) else (C, sse)
        if labels is not None and sse >= before:
            return labels, C, sse
        labels = descend(points, C[None])[0][0]
        labels, C, sse = exchange(points, labels, K)
        if sse >= before * (1 - _LEAST):
            return labels, C, sse


def _move_centres(points, C, sse, max_iter):
    """Return centres (K, p) and their sum after moves that lower it."""
    for _ in range(max_iter):
        trials = _proposals(points, C)
        if not len(trials):
            break
        _, ends, sums, _ = descend(points, trials, max_iter=50, tol=_COARSE)
        best = int(sums.argmin())
        if not float(sums[best]) < sse * (1 - _LEAST):
            break
        C, sse = ends[best], float(sums[best])
    return C, sse


def _proposals(points, C):
    """Return trials (m, K, p) in which one centre has moved, the most promising ones."""
    K = len(C)
    every = torch.arange(K, device=C.device)
    labels, far, spare = _second(points, C)
    sizes = points.sums(labels[None], K)[1][0]
    removal = torch.zeros_like(sizes).index_add_(0, labels, points.weigh(spare)[0])
    total = sizes[:, None] + sizes
    join = (sizes[:, None] * sizes / total.clamp_min(1e-300)) * torch.cdist(C, C).square()
    join.fill_diagonal_(torch.inf)
    join, partner = join.min(1)
    gain, children = halves(points, labels, C, far)
    joins = join < removal
    # Joining r and l is the same for both: the smaller number proposes it, unless the other is the one to be split.
    twin = joins & joins[partner] & (partner[partner] == every) & (partner < every)
    value = gain - torch.minimum(join, removal)[:, None]  # (r, s)
    value[every, every] = -torch.inf
    value[twin] = -torch.inf
    value[every[joins], partner[joins]] = -torch.inf
    value = torch.where(value > _HOPELESS * gain.mean(), value, -torch.inf)
    chosen, of_r, of_s = [], {}, {}
    top, order = value.flatten().topk(min(K * K, 8 * _TRIALS))
    for v, pair in zip(top.tolist(), order.tolist(), strict=True):
        r, s = divmod(pair, K)
        if v > -np.inf and of_r.get(r, 0) < 3 and of_s.get(s, 0) < 3 and len(chosen) < _TRIALS:
            of_r[r], of_s[s] = of_r.get(r, 0) + 1, of_s.get(s, 0) + 1
            chosen.append((r, s))
    trials = C.repeat(len(chosen), 1, 1)
    for trial, (r, s) in zip(trials, chosen, strict=True):
        if joins[r]:
            other = partner[r]
            trial[other] = (sizes[r] * C[r] + sizes[other] * C[other]) / total[r, other].clamp_min(1e-300)
        trial[s], trial[r] = children[s]
    return trials


def _second(points, C):
    """Return the nearest centre, its squared distance, and how much farther the second one is: all (n,)."""
    labels = torch.empty_like(points.squares, dtype=torch.int64)
    far, spare = torch.empty_like(points.squares), torch.empty_like(points.squares)
    lengths = torch.linalg.vecdot(C, C)
    for rows in points.tiles(len(C)):
        table = torch.addmm(lengths, points.X[rows], C.T, alpha=-2)
        least, labels[rows] = table.min(1)
        far[rows] = (least + points.squares[rows]).clamp_min_(0)
        spare[rows] = table.scatter_(1, labels[rows, None], torch.inf).amin(1) - least
    return labels, far, spare


def halves(points, labels, C, far):
    """Return what splitting each cluster in two would gain, and the means of the halves: (K,) and (K, 2, p).

    Parameters
    ----------
    points : Points
        The data.
    labels : torch.Tensor of int64, shape (n,)
        Clusters.
    C : torch.Tensor, shape (K, p)
        Their centres.
    far : torch.Tensor, shape (n,)
        Squared distances to them.

    Notes
    -----
    The cut is across the longest direction, which three steps of the power method find from the farthest point, and is
    moved by three steps of Lloyd's method inside the cluster.

    Examples
    --------
    >>> points = Points(torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64))
    >>> one = torch.zeros(4, dtype=torch.int64)
    >>> halves(points, one, points.X[:1] * 0, points.squares)[0]
    tensor([100.], dtype=torch.float64)
    """
    K, p = C.shape
    farthest = torch.zeros_like(C[:, 0]).scatter_reduce_(0, labels, far, "amax")
    # One of several farthest points, the last one, whatever the device.
    rows = torch.where(far == farthest[labels], torch.arange(len(far), device=far.device), -1)
    last = torch.full_like(labels[:1], -1).repeat(K).scatter_reduce_(0, labels, rows, "amax")
    v = torch.where(last[:, None] >= 0, points.X[last.clamp_min(0)] - C, 0.0)
    for _ in range(3):
        v = _scatter_times(points, labels, C, v)
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-300)
    cut, level = v, torch.linalg.vecdot(C, v)
    for _ in range(4):
        half = 2 * labels + (_along(points, labels, cut) > level[labels])
        means, n = points.means(half[None], 2 * K, points.X.new_zeros(1, 2 * K, p))
        means, n = means.view(K, 2, p), n.view(K, 2)
        cut = means[:, 1] - means[:, 0]
        level = torch.linalg.vecdot(means.sum(1) / 2, cut)
    gain = n[:, 0] * n[:, 1] / n.sum(1).clamp_min(1e-300) * torch.linalg.vecdot(cut, cut)
    return gain, means


def _along(points, labels, v):
    """Return x_i . v_k for the cluster k of each point: (n,)."""
    t = torch.empty_like(points.squares)
    for rows in points.tiles(len(v)):
        t[rows] = (points.X[rows] @ v.T).gather(1, labels[rows, None])[:, 0]
    return t


def _scatter_times(points, labels, C, v):
    """Return the scatter matrix of each cluster times v_k, up to a positive factor: (K, p)."""
    t = points.weigh(_along(points, labels, v) - torch.linalg.vecdot(C, v)[labels])[0]
    K = len(C)
    total, sums = torch.zeros_like(C), torch.zeros_like(C[:, 0])
    for rows in points.tiles(C.shape[1]):
        own, X = labels[rows], points.X[rows] * t[rows, None]
        if X.device.type == "cpu":
            total.index_add_(0, own, X)
            sums.index_add_(0, own, t[rows])
        else:
            # Sums by atomic additions would differ from call to call.
            onehot = torch.nn.functional.one_hot(own, K).to(X.dtype)
            total += onehot.T @ X
            sums += onehot.T @ t[rows]
    return total - sums[:, None] * C


def exchange(points, labels, K, *, max_iter=100):
    """Move single points between clusters while that lowers the sum; return labels, means (K, p) and the sum.

    Parameters
    ----------
    points : Points
        The data.
    labels : torch.Tensor of int64, shape (n,)
        Start.
    K : int
        Clusters.
    max_iter : int
        Sweeps; 100 by default.

    Notes
    -----
    All points that would gain move at once. Where that raises the sum, no two of them may share a cluster: then the
    gains add up exactly.

    Examples
    --------
    >>> points = Points(torch.tensor([[0.0], [1.0], [3.0], [4.0], [5.0]], dtype=torch.float64))
    >>> exchange(points, torch.tensor([0, 0, 0, 1, 1]), 2)[0]
    tensor([0, 0, 1, 1, 1])
    """
    C, sizes, sse = _state(points, labels, K)
    for _ in range(max_iter):
        gain, to = _gains(points, labels, C, sizes)
        moving = gain > _LEAST * sse / len(labels)
        if not bool(moving.any()):
            break
        for allowed in (moving, _apart(labels, to, gain, moving)):
            new = torch.where(allowed, to, labels)
            state = _state(points, new, K)
            if state[2] < sse:
                break
        if not state[2] < sse * (1 - 1e-14):
            break
        labels, (C, sizes, sse) = new, state
    return labels, C, sse


def _state(points, labels, K):
    """Return means (K, p), weights and the sum of squares of a partition."""
    C, sizes = points.means(labels[None], K, torch.zeros_like(points.X[:1]).expand(1, K, -1))
    total = 0.0
    for rows in points.tiles(points.X.shape[1]):
        Y = points.X[rows] - C[0, labels[rows]]
        D = torch.linalg.vecdot(Y, Y)
        total += float(D.sum() if points.weights is None else points.weights[rows] @ D)
    return C[0], sizes[0], total


def _gains(points, labels, C, sizes):
    """Return by how much the best move of each point lowers the sum, and where to: (n,) and (n,) int64."""
    gain, to = torch.empty_like(points.squares), torch.empty_like(labels)
    lengths = torch.linalg.vecdot(C, C)
    for rows in points.tiles(2 * len(C)):
        own = labels[rows, None]
        w = points.squares.new_ones(()) if points.weights is None else points.weights[rows, None]
        table = torch.addmm(lengths, points.X[rows], C.T, alpha=-2).add_(points.squares[rows, None]).clamp_min_(0)
        n = sizes[own[:, 0], None]
        # The last point of a cluster stays.
        left = torch.where(n > w, n * w / (n - w).clamp_min(1e-300), 0.0) * table.gather(1, own)
        cost, to[rows] = (table * (sizes * w / (sizes + w))).scatter_(1, own, torch.inf).min(1)
        gain[rows] = left[:, 0] - cost
    return gain, to


def _apart(labels, to, gain, moving):
    """Return which moves remain when no two may share a cluster, the largest gains first."""
    rows = moving.nonzero()[:, 0]
    rows = rows[gain[rows].argsort(descending=True, stable=True)]
    used, kept = set(), torch.zeros_like(moving)
    for row, a, b in zip(rows.tolist(), labels[rows].tolist(), to[rows].tolist(), strict=True):
        if a not in used and b not in used:
            used |= {a, b}
            kept[row] = True
    return kept


def _cross(A, B, rng):
    """Return centres (K, p), each from one of two sets whose centres are matched."""
    from scipy.optimize import linear_sum_assignment

    first, second = linear_sum_assignment(torch.cdist(A, B).square().cpu().numpy())
    pick = torch.from_numpy(rng.random(len(A)) < 0.5).to(A.device)[:, None]
    return torch.where(pick, A[torch.from_numpy(first).to(A.device)], B[torch.from_numpy(second).to(A.device)])
