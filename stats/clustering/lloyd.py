r"""K-means++ and Lloyd's method: starts for everything else, many at a time.

.. math:: \min_{\mu_1, \dots, \mu_K} \sum_i \omega_i \min_k |x_i - \mu_k|^2

Notation  X (n, p) points, centred; omega (n,) weights; C (R, K, p) centres of R runs; D (R, n) squared distances to the
          nearest centre.
Cost      n K p operations a step and run; one centred copy of X, and tiles that fit in the cache.
Pitfalls  |x|^2 - 2 x'c + |c|^2 is fast but loses the digits of clusters far smaller than the cloud: the last steps form
          x - c itself. Ties broken by rounding could cycle, so that a step that does not lower the sum ends the search.
References  D. Arthur, S. Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
          M. Celebi, H. Kingravi, P. Vela, A comparative study of efficient initialization methods for the k-means
          clustering algorithm, 2013, arXiv 1209.1960.
"""

from __future__ import annotations

import math

import torch

__all__ = ["Points", "as_they_appear", "descend", "kmeans", "kmeans_plus_plus", "lloyd", "seed"]

_SCREEN = 1e-4  # relative decrease at which runs are compared; different local minima are farther apart than that
_FINALISTS = 2


class Points:
    """Centred points with their weights, and the sums over tiles that K-means is made of.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, as they come.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.

    Attributes
    ----------
    X : torch.Tensor, shape (n, p)
        Less the mean.
    mean : torch.Tensor, shape (p,)
        What was taken off.
    squares : torch.Tensor, shape (n,)
        Squared lengths of the centred points.
    unit : float
        The largest of them; rounding errors are judged by it.

    Examples
    --------
    >>> points = Points(torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    >>> points.X[:, 0].tolist(), points.unit
    ([-1.0, 1.0], 1.0)
    """

    def __init__(self, X, weights=None):
        self.weights = weights
        self.mean = X.mean(0) if weights is None else (weights @ X) / weights.sum()
        self.X = X - self.mean
        self.squares = torch.linalg.vecdot(self.X, self.X)
        self.unit = float(self.squares.max())

    def tiles(self, columns):
        """Yield slices of rows, so that a tile with that many columns stays in the cache (GPU: is large)."""
        entries = 2**17 if self.X.device.type == "cpu" else 2**25
        rows = max(256, entries // max(columns, 1))
        for start in range(0, len(self.X), rows):
            yield slice(start, start + rows)

    def nearest(self, C, exact=False):
        """Return the number of the nearest centre and the squared distance to it: (R, n) int64 and (R, n).

        Parameters
        ----------
        C : torch.Tensor, shape (R, K, p)
            Centres, of the centred points.
        exact : bool
            Form x - c itself; False by default, which is several times faster.
        """
        R, K, p = C.shape
        labels = torch.empty(R, len(self.X), dtype=torch.int64, device=C.device)
        D = self.X.new_empty(R, len(self.X))
        flat = C.reshape(R * K, p)
        lengths = torch.linalg.vecdot(flat, flat)
        for rows in self.tiles(R * K):
            X = self.X[rows]
            if exact:
                table = torch.cdist(X, flat, compute_mode="donot_use_mm_for_euclid_dist").square_()
            else:
                table = torch.addmm(lengths, X, flat.T, alpha=-2)  # (rows, R K), without |x|^2, which all share
            least, which = table.view(len(X), R, K).min(2)
            labels[:, rows] = which.T
            D[:, rows] = least.T if exact else (least.T + self.squares[rows]).clamp_min_(0)
        return labels, D

    def sums(self, labels, K):
        """Return sums of the points of each cluster and their weights: (R, K, p) and (R, K); labels (R, n)."""
        R, p = len(labels), self.X.shape[1]
        total, sizes = self.X.new_zeros(R, K, p), self.X.new_zeros(R, K)
        on_cpu = self.X.device.type == "cpu"
        for rows in self.tiles(p if on_cpu else R * K):
            X = self.X[rows]
            w = X.new_ones(len(X)) if self.weights is None else self.weights[rows]
            X = X if self.weights is None else X * w[:, None]
            for r in range(R):
                if on_cpu:
                    total[r].index_add_(0, labels[r, rows], X)
                    sizes[r].index_add_(0, labels[r, rows], w)
                else:
                    # Sums by atomic additions would differ from call to call.
                    onehot = torch.nn.functional.one_hot(labels[r, rows], K).to(X.dtype)
                    total[r] += onehot.T @ X
                    sizes[r] += onehot.T @ w
        return total, sizes

    def means(self, labels, K, C):
        """Return means and weights of the clusters; an empty one keeps its centre of C (R, K, p)."""
        total, sizes = self.sums(labels, K)
        empty = (sizes <= 0)[..., None]
        return torch.where(empty, C, total / torch.where(empty, 1.0, sizes[..., None])), sizes

    def weigh(self, D):
        """Return weights times D (R, n), and their sums (R,)."""
        D = D if self.weights is None else D * self.weights
        return D, D.sum(-1)


def seed(points, K, rng, runs=1, n_candidates=None):
    """Return the rows that several runs of greedy k-means++ start from: int64, (R, K).

    Parameters
    ----------
    points : Points
        The data.
    K : int
        Centres of a run.
    rng : numpy.random.Generator
        Gives ``runs * (1 + (K - 1) * n_candidates)`` numbers.
    runs : int
        R; 1 by default.
    n_candidates : int or None
        Points drawn for a centre, of which the one that lowers the sum most is taken. None, the default:
        2 + log K, rounded down, as is usual.

    Notes
    -----
    Numbers are turned into rows by the inverse of the distribution function, so that a row of weight two is drawn where
    a row repeated beside itself would be.

    Examples
    --------
    >>> from sciml.random import generator
    >>> points = Points(torch.tensor([[0.0], [0.1], [9.0]], dtype=torch.float64))
    >>> bool((seed(points, 2, generator(0)) == 2).any())
    True
    """
    X, squares = points.X, points.squares
    count = n_candidates or 2 + int(math.log(K))
    w = torch.ones_like(squares) if points.weights is None else points.weights
    chosen = _draw(w.expand(runs, -1), rng.random((runs, 1))).repeat(1, K)
    closest = _distances(points, X[chosen[:, 0]])
    order = torch.arange(runs, device=X.device)
    for k in range(1, K):
        rows = _draw(points.weigh(closest)[0], rng.random((runs, count)))  # (R, candidates)
        cost = X.new_zeros(runs, count)
        flat = X[rows.flatten()]
        for tile in points.tiles(runs * count):
            D = _distances(points, flat, tile).view(runs, count, -1)
            cost += torch.minimum(D, closest[:, None, tile], out=D) @ w[tile]
        chosen[:, k] = rows[order, cost.argmin(1)]
        for tile in points.tiles(runs):
            closest[:, tile] = torch.minimum(closest[:, tile], _distances(points, X[chosen[:, k]], tile))
    return chosen


def _draw(mass, uniform):
    """Return rows drawn with probability proportional to mass (R, n): int64, of the shape (R, m) of the numbers."""
    cumulated = mass.cumsum(1)
    u = torch.from_numpy(uniform).to(mass) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, u, right=True).clamp_max_(mass.shape[1] - 1)


def _distances(points, C, rows=slice(None)):
    """Return squared distances of rows to centres C (m, p): (m, n); what is below rounding errors is zero."""
    lengths = torch.linalg.vecdot(C, C)[:, None]
    size = points.squares[rows] + lengths
    D = torch.addmm(size, C, points.X[rows].T, alpha=-2)
    return torch.where(8 * torch.finfo(D.dtype).eps * size < D, D, 0.0)


def descend(points, C, *, max_iter=300, tol=0.0, exact=False):
    """Lower several runs at once by Lloyd's method.

    Parameters
    ----------
    points : Points
        The data.
    C : torch.Tensor, shape (R, K, p)
        Starts, of the centred points.
    max_iter : int
        Steps; 300 by default.
    tol : float
        A run ends when its sum falls by less than this fraction; 0, the default: when no label changes.
    exact : bool
        Form x - c itself; False by default.

    Returns
    -------
    labels : torch.Tensor of int64, shape (R, n)
        Of the nearest centres.
    C : torch.Tensor, shape (R, K, p)
        Means of the labels, but where `max_iter` ended the search.
    sse : torch.Tensor, shape (R,)
        Weighted sums of squared distances to C.
    n_iter : torch.Tensor of int64, shape (R,)
        Steps; `max_iter` where labels would still change.

    Examples
    --------
    >>> points = Points(torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64))
    >>> descend(points, points.X[torch.tensor([[0, 1], [0, 3]])])[2]
    tensor([1., 1.], dtype=torch.float64)
    """
    R, K, _ = C.shape
    C = C.clone()
    n_iter = torch.zeros(R, dtype=torch.int64, device=C.device)
    labels, D = points.nearest(C, exact)
    sse = points.weigh(D)[1]
    active = torch.arange(R, device=C.device)
    new, D_new = labels, D
    for _ in range(max_iter):
        if not len(active):
            break
        n_iter[active] += 1
        new, filled = _fill(points, new, D_new, K, exact)
        moved, _ = points.means(new, K, C[active])
        following, D_new = points.nearest(moved, exact)
        weighed = points.weigh(D_new)[1]
        # An increase is rounding: the run ends where it was.
        lower = weighed < sse[active]
        better = active[lower]
        go_on = lower & (filled | (following != new).any(1)) & (sse[active] - weighed > tol * sse[active])
        C[better], sse[better], labels[better] = moved[lower], weighed[lower], following[lower]
        active, new, D_new = active[go_on], following[go_on], D_new[go_on]
    return labels, C, sse, n_iter


def _fill(points, labels, D, K, exact):
    """Give each empty cluster the point that fits worst; return labels, and which runs had such clusters."""
    sizes = torch.zeros(len(labels), K, device=D.device).scatter_(1, labels, 1.0)
    filled = (sizes == 0).any(1)
    if not bool(filled.any()):
        return labels, filled
    labels = labels.clone()
    least = points.unit * (8 * torch.finfo(D.dtype).eps) ** (2 if exact else 1)
    for r in filled.nonzero()[:, 0].tolist():
        empty = (sizes[r] == 0).nonzero()[:, 0]
        cost = points.weigh(torch.where(D[r] > least, D[r], 0.0))[0]
        worst, rows = cost.topk(min(len(empty), len(cost)))
        rows = rows[worst > 0]
        labels[r, rows] = empty[: len(rows)]
        filled[r] = len(rows) > 0
    return labels, filled


def kmeans_plus_plus(X, K, rng, weights=None, n_candidates=None):
    """Draw K rows far from one another by greedy k-means++ [1]_.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, in any units.
    K : int
        Centres.
    rng : numpy.random.Generator
        Source of the draws, which are made on the CPU.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    n_candidates : int or None
        Points drawn for each centre, of which the best is taken; None, the default: 2 + log K, rounded down.

    Returns
    -------
    torch.Tensor, shape (K, p)
        Rows of X.

    References
    ----------
    .. [1] D. Arthur, S. Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [0.0], [7.0]], dtype=torch.float64)
    >>> kmeans_plus_plus(X, 2, generator(0)).sort(0).values[:, 0].tolist()
    [0.0, 7.0]
    """
    return X[seed(Points(X, weights), K, rng, n_candidates=n_candidates)[0]]


def lloyd(X, centres, weights=None, *, max_iter=300, tol=0.0):
    """Lower the sum of squares from given centres until no label changes.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    centres : torch.Tensor, shape (K, p)
        Start.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    max_iter : int
        Steps; 300 by default, which all but very large and overlapping data stay below.
    tol : float
        End when the sum falls by less than this fraction; 0, the default: when no label changes.

    Returns
    -------
    labels : torch.Tensor of int64, shape (n,)
        Of the nearest centres; an empty cluster takes the point that fits worst, unless all points coincide with
        centres.
    centres : torch.Tensor, shape (K, p)
        Means of the clusters.
    sse : float
        Weighted sum of squared distances, in squared units of X.
    n_iter : int
        Steps; `max_iter` where labels would still change.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> labels, centres, sse, _ = lloyd(X, X[:2])
    >>> labels.tolist(), centres[:, 0].tolist(), sse
    ([0, 0, 1, 1], [0.5, 10.5], 1.0)
    """
    points = Points(X, weights)
    labels, C, sse, n_iter = _finish(points, centres - points.mean, max_iter, tol)
    return labels, C + points.mean, sse, n_iter


def _finish(points, C, max_iter=300, tol=0.0):
    """Return labels, centres, sse and steps of one run, the last steps with exact differences."""
    _, C, _, first = descend(points, C[None], max_iter=max_iter, tol=tol)
    left = max(max_iter - int(first), min(max_iter, 1))
    labels, C, sse, n_iter = descend(points, C, max_iter=left, tol=tol, exact=True)
    return labels[0], C[0], float(sse), min(int(first) + int(n_iter) - 1, max_iter) if max_iter else 0


def kmeans(X, K, rng, *, n_init=10, weights=None, max_iter=300):
    """Return the best of several runs of k-means++ and Lloyd's method, which run side by side.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Source of the draws.
    n_init : int
        Runs; 10 by default. All are lowered until a step gains less than a ten-thousandth; the best two go on until no
        label changes.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    max_iter : int
        Steps of a run; 300 by default.

    Returns
    -------
    labels : torch.Tensor of int64, shape (n,)
        Of the best run, numbered in the order in which clusters appear: runs that end alike give the same labels.
    centres : torch.Tensor, shape (K, p)
        Means of the clusters.
    sse : float
        Weighted sum of squared distances.
    n_iter : int
        Steps of the best run; `max_iter` where labels would still change.

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> kmeans(X, 2, generator(0))[2]
    1.0
    """
    points = Points(X, weights)
    # Labels and distances of the runs of a group take 16 bytes a row and run.
    group = max(1, 2**22 // len(X))
    ends = []
    for start in range(0, n_init, group):
        rows = seed(points, K, rng, min(group, n_init - start))
        _, C, sse, n_iter = descend(points, points.X[rows], max_iter=max_iter, tol=_SCREEN)
        ends += [(float(s), int(i), c) for s, i, c in zip(sse, n_iter, C, strict=True)]
        ends = sorted(ends, key=lambda end: end[0])[:_FINALISTS]
    best = None
    for _, spent, C in ends:
        labels, C, sse, n_iter = _finish(points, C, max(max_iter - spent, 1))
        if best is None or sse < best[2]:
            best = labels, C, sse, min(spent + n_iter, max_iter)
    labels, C, sse, n_iter = best
    labels, order = as_they_appear(labels, K)
    return labels, C[order] + points.mean, sse, n_iter


def as_they_appear(labels, K):
    """Return labels renumbered in the order in which clusters appear, and the old numbers in that order.

    Parameters
    ----------
    labels : torch.Tensor of int64, shape (n,)
        0 to K - 1.
    K : int
        Clusters; empty ones come last.

    Examples
    --------
    >>> as_they_appear(torch.tensor([2, 2, 0]), 3)
    (tensor([0, 0, 1]), tensor([2, 0, 1]))
    """
    n = len(labels)
    rows = torch.arange(n, device=labels.device)
    first = torch.full((K,), n, device=labels.device).scatter_reduce_(0, labels, rows, "amin")
    order = first.argsort(stable=True)
    return order.argsort()[labels], order
