r"""Covariances of linear functionals of a stationary process: dense, for batches of few, and as sums without a matrix.

.. math:: \ell_i u = \sum_\alpha c_{i\alpha}\, \partial^\alpha u(x_i), \qquad
          \mathrm{cov}(\ell_i u, \ell_j u) = \sum_{\alpha, \beta} c_{i\alpha} c_{j\beta}
          (-1)^{|\beta|} (\partial^{\alpha + \beta} k)(x_i - x_j)

Notation  F functionals in groups of equal terms; n of them; G (n, n) their Gram matrix; k covariance.
Cost      one evaluation of k a pair; memory for the matrix and a few tiles of `TILE` numbers.
Pitfalls  Only the sign (-1)^|beta| tells the two arguments apart: the matrix is symmetric although odd derivatives
          are not even functions.

References
----------
H. Wendland, Scattered data approximation, 2005, chapter 16 (Hermite-Birkhoff interpolation).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.linalg.engines import kernel_sum
from sciml.linalg.memory import require
from sciml.solvers.gp_pde.stationary import RadialFunction, covariance_from_state

__all__ = [
    "FunctionalGroup",
    "Functionals",
    "GramProduct",
    "batched_gram",
    "cross_gram",
    "gram",
    "gram_diagonal",
    "gram_sum",
    "one_group",
]

TILE = 1 << 18  # numbers of a tile: a few of them fit into the cache


@dataclass
class FunctionalGroup:
    """Functionals with the same derivatives: ``sum_alpha c_alpha d^alpha u(x_i)``, less the same at `minus`.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    terms : dict
        Multi-index to a float, or a tensor (n,).
    minus : torch.Tensor, shape (n, d), optional
        Points whose value is subtracted, for periodic conditions.
    sign : float or torch.Tensor, shape (n,)
        Factor of what is added at `minus`: -1, or 0 for functionals that only share the group.
    """

    X: torch.Tensor
    terms: dict
    minus: torch.Tensor | None = None
    sign: object = -1.0

    def parts(self):
        """Factor and points of the one or two terms."""
        return [(1.0, self.X)] if self.minus is None else [(1.0, self.X), (self.sign, self.minus)]

    def take(self, index):
        """The functionals with the numbers `index`, an array of any shape."""
        terms = _shaped(self.terms, lambda c: c[index])
        minus = None if self.minus is None else self.minus[index]
        return FunctionalGroup(self.X[index], terms, minus, _viewed(self.sign, lambda c: c[index]))

    @property
    def order(self):
        """Highest order of a derivative."""
        return max(sum(a) for a in self.terms)


class Functionals:
    """Groups of functionals, numbered through.

    Parameters
    ----------
    groups : list of FunctionalGroup
        None of them empty.

    Examples
    --------
    >>> X = torch.zeros(3, 1, dtype=torch.float64)
    >>> len(Functionals([FunctionalGroup(X, {(0,): 1.0}), FunctionalGroup(X, {(2,): 1.0})]))
    6
    """

    def __init__(self, groups):
        self.groups = list(groups)
        self.sizes = [len(g.X) for g in self.groups]

    def __len__(self):
        return sum(self.sizes)

    @property
    def points(self):
        """All points, (n, d)."""
        return torch.cat([g.X for g in self.groups])

    def slices(self):
        """The numbers of each group."""
        at = 0
        for n in self.sizes:
            yield slice(at, at + n)
            at += n

    def take(self, index):
        """The functionals with the numbers `index` (m,), sorted ascending, as groups again."""
        out = []
        for group, part in zip(self.groups, self.slices(), strict=True):
            own = index[(index >= part.start) & (index < part.stop)] - part.start
            if len(own):
                out.append(group.take(own))
        return Functionals(out)

    def check(self, covariance, other=None):
        """Raise when a covariance between two of them (or with those of `other`) needs derivatives that do not exist.

        Parameters
        ----------
        covariance : Covariance
            The kernel.
        other : Functionals, optional
            Other functionals; None for these.
        """
        alphas = {a for g in self.groups for a in g.terms}
        betas = alphas if other is None else {a for g in other.groups for a in g.terms}
        gammas = {tuple(i + j for i, j in zip(a, b, strict=True)) for a in alphas for b in betas}
        for gamma in sorted(gammas, key=sum, reverse=True):
            covariance.check(gamma)


def _coefficients(first, second):
    """{gamma: coefficient} of two dicts of terms whose tensors broadcast."""
    out: dict = {}
    for a, c in first.items():
        for b, e in second.items():
            gamma = tuple(i + j for i, j in zip(a, b, strict=True))
            term = c * (e * (-1.0) ** sum(b))
            out[gamma] = out[gamma] + term if gamma in out else term
    return out


def _viewed(c, view):
    return c if isinstance(c, float) else view(c)


def _shaped(terms, view):
    return {a: _viewed(c, view) for a, c in terms.items()}


def _block(covariance, g, h, view_g, view_h):
    """Covariances of two groups under views that broadcast: all pairs, or element by element."""
    coefficients = _coefficients(_shaped(g.terms, view_g), _shaped(h.terms, view_h))
    total = None
    for s, X in g.parts():
        for t, Z in h.parts():
            r = [view_g(X[..., j]) - view_h(Z[..., j]) for j in range(X.shape[-1])]
            part = covariance.derivatives(r, coefficients)
            part = part * (_viewed(s, view_g) * _viewed(t, view_h))
            total = part if total is None else total + part
    return total


def _column(c):
    return c[..., :, None]


def _row(c):
    return c[..., None, :]


def cross_gram(covariance, F, G, memory=None):
    """Covariances of the functionals F with those of G, a matrix (m, n).

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    F, G : Functionals
        m and n functionals.
    memory : int, optional
        Bytes that may be taken.

    Returns
    -------
    torch.Tensor, shape (m, n)

    Raises
    ------
    MemoryBudgetError
        When the matrix does not fit.
    """
    m, n = len(F), len(G)
    X = G.groups[0].X
    require(8 * (m * n + 16 * TILE), what=f"a Gram matrix of {m} x {n}", remedy="take fewer points", memory=memory)
    out = X.new_empty((m, n))
    for g, rows in zip(F.groups, F.slices(), strict=True):
        for h, columns in zip(G.groups, G.slices(), strict=True):
            step = max(1, TILE // len(h.X))
            for at in range(0, len(g.X), step):
                part = g.take(slice(at, at + step))
                target = out[rows, columns][at : at + step]
                target.copy_(_block(covariance, part, h, _column, _row).expand(target.shape))
    return out


def gram(covariance, F, memory=None):
    """Gram matrix of the functionals, (n, n); half of it is evaluated.

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    F : Functionals
        n functionals.
    memory : int, optional
        Bytes that may be taken.

    Returns
    -------
    torch.Tensor, shape (n, n)
        Symmetric to the last bit.

    Raises
    ------
    MemoryBudgetError
        When the matrix does not fit.

    Examples
    --------
    The value and the second derivative of a process of length 1 at one point are negatively correlated:

    >>> X = torch.zeros(1, 1, dtype=torch.float64)
    >>> F = Functionals([FunctionalGroup(X, {(0,): 1.0}), FunctionalGroup(X, {(2,): 1.0})])
    >>> gram(RadialFunction("gaussian", [1.0]), F)
    tensor([[ 1., -1.],
            [-1.,  3.]], dtype=torch.float64)
    """
    n = len(F)
    X = F.groups[0].X
    require(8 * (n * n + 16 * TILE), what=f"a Gram matrix of {n} x {n}", remedy="take fewer points", memory=memory)
    out = X.new_empty((n, n))
    for i, (g, rows) in enumerate(zip(F.groups, F.slices(), strict=True)):
        step = max(1, min(512, TILE // len(g.X)))
        for h, columns in list(zip(F.groups, F.slices(), strict=True))[: i + 1]:
            same = h is g
            for at in range(0, len(g.X), step):
                stop = min(at + step, len(g.X))
                other = h.take(slice(0, stop)) if same else h
                target = out[rows, columns][at:stop, : len(other.X)]
                target.copy_(_block(covariance, g.take(slice(at, stop)), other, _column, _row).expand(target.shape))
    for at in range(0, n, 1024):  # mirror block by block: a copy of the whole would double the memory
        stop = min(at + 1024, n)
        out[at:stop, stop:] = out[stop:, at:stop].T
        corner = out[at:stop, at:stop]
        corner.copy_(corner.tril() + corner.tril(-1).T)
    return out


def gram_diagonal(covariance, F):
    """Variances of the functionals, (n,).

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    F : Functionals
        n functionals.

    Returns
    -------
    torch.Tensor, shape (n,)
    """
    same = [_block(covariance, g, g, lambda c: c, lambda c: c).expand(len(g.X)) for g in F.groups]
    return torch.cat(same)


def batched_gram(covariance, group, index):
    """Gram matrices of many small sets of functionals.

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    group : FunctionalGroup
        All the functionals, such as `one_group` makes.
    index : torch.Tensor of int, shape (b, k)
        The sets.

    Returns
    -------
    torch.Tensor, shape (b, k, k)
    """
    sets = group.take(index)
    out = _block(covariance, sets, sets, _column, _row)
    return out.expand(*index.shape, index.shape[1])


class GramProduct:
    """The Gram matrix of functionals as a product with vectors, without the whole matrix.

    Rows of its lower triangle are kept as far as `keep` bytes reach, and serve both triangles; the others are summed
    anew in each product by the engines of `sciml.linalg.kernel_sum`.

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    F : Functionals
        n functionals.
    keep : int
        Bytes for kept rows.
    products : int
        Products that are expected: whether compiling a sum pays depends on it.
    engine : str
        Of `sciml.linalg.kernel_sum`.
    memory : int, optional
        Bytes that temporaries of a sum may take.
    """

    def __init__(self, covariance, F, *, keep=0, products=1, engine="auto", memory=None):
        self.covariance, self.F = covariance, F
        self.options = {"products": products, "engine": engine, "memory": memory}
        self.tiles, at = [], 0
        for group in F.groups:  # one tile a few hundred rows, of one group, against all that comes before it
            step = max(64, min(1024, (1 << 22) // max(at + len(group.X), 1)))
            for start in range(0, len(group.X), step):
                stop = min(start + step, len(group.X))
                if 8 * (stop - start) * (at + stop) > keep:
                    break
                keep -= 8 * (stop - start) * (at + stop)
                rows = Functionals([group.take(slice(start, stop))])
                before = F.take(torch.arange(at + stop))
                self.tiles.append((at + start, at + stop, cross_gram(covariance, rows, before)))
            else:
                at += len(group.X)
                continue
            break
        self.n_kept = self.tiles[-1][1] if self.tiles else 0

    def __call__(self, w):
        """Multiply by w (n,) or (n, r)."""
        out = torch.zeros_like(w)
        for start, stop, K in self.tiles:
            out[start:stop] += K @ w[:stop]
            out[:start] += K[:, :start].T @ w[start:stop]
        kept, n = self.n_kept, len(self.F)
        if kept < n:
            index = torch.arange(n)
            late, early = self.F.take(index[kept:]), self.F.take(index[:kept])
            out += gram_sum(self.covariance, self.F, late, w[kept:], **self.options)
            if kept:
                out[kept:] += gram_sum(self.covariance, late, early, w[:kept], **self.options)
        return out


def gram_sum(covariance, F, G, w, *, products=1, engine="auto", memory=None):
    """Covariances of F with G times a vector, by kernel sums.

    Parameters
    ----------
    covariance : Covariance
        The kernel.
    F, G : Functionals
        m and n functionals.
    w : torch.Tensor, shape (n,) or (n, r)
        Weights of G.
    products : int
        Sums like this one that are expected.
    engine : str
        Of `sciml.linalg.kernel_sum`: "auto", "dense", "eager", "compiled" or "keops".
    memory : int, optional
        Bytes that temporaries may take.

    Returns
    -------
    torch.Tensor, shape (m,) or (m, r)

    Examples
    --------
    >>> X = torch.zeros(2, 1, dtype=torch.float64)
    >>> F = Functionals([FunctionalGroup(X, {(0,): 1.0})])
    >>> gram_sum(RadialFunction("gaussian", [1.0]), F, F, torch.ones(2, dtype=torch.float64))
    tensor([2., 2.], dtype=torch.float64)
    """
    options = {"products": products, "engine": engine, "memory": memory, "check_finite": False}
    out = w.new_zeros((len(F), *w.shape[1:]))
    for g, rows in zip(F.groups, F.slices(), strict=True):
        for h, columns in zip(G.groups, G.slices(), strict=True):
            pair, params, scale = _pair_function(covariance, g.terms, h.terms, g.X.shape[1])
            width = max(_n_varying(g), _n_varying(h))
            Y, Z = ([(s, _with_coefficients(k.terms, X, scale, width)) for s, X in k.parts()] for k in (g, h))
            for s, y in Y:
                for t, z in Z:
                    part = kernel_sum(y, z, w[columns], kernel=pair, params=params, **options)
                    out[rows] += part * (s * t)
    return out


def _n_varying(group):
    return sum(not isinstance(c, float) for c in group.terms.values())


def _with_coefficients(terms, X, scale, width):
    """Scaled points with the coefficients that vary as further coordinates, `width` of them."""
    varying = [c[:, None] for c in terms.values() if not isinstance(c, float)]
    return torch.cat([X * scale.to(X.device), *varying, X.new_zeros(len(X), width - len(varying))], dim=1)


def _pair_function(covariance, first, second, d):
    """A pair function for engines, its parameters, and the scale of the coordinates.

    Points carry the coefficients that vary as further coordinates.  The numbers that change with the lengthscale are
    parameters, so that a compiled sum serves every lengthscale.
    """
    unit, scale, variance = covariance, torch.ones(d, dtype=torch.float64), 1.0
    if isinstance(covariance, RadialFunction):
        scale = 1 / torch.tensor(covariance.lengthscale, dtype=torch.float64)
        variance = covariance.variance
        unit = covariance_from_state(covariance.state() | {"lengthscale": [1.0] * d, "variance": 1.0})

    numbers, recipe, slot = [], [], [d, d]
    places = []
    for k, terms in enumerate((first, second)):
        place = {}
        for a, c in terms.items():
            if not isinstance(c, float):
                place[a] = slot[k]
                slot[k] += 1
        places.append(place)
    plain: dict = {}
    for a, c in first.items():
        for b, e in second.items():
            gamma = tuple(i + j for i, j in zip(a, b, strict=True))
            number = (-1.0) ** sum(b) * float(torch.prod(scale ** torch.tensor(gamma))) * variance
            number *= (c if isinstance(c, float) else 1.0) * (e if isinstance(e, float) else 1.0)
            left, right = places[0].get(a), places[1].get(b)
            if left is None and right is None:
                plain[gamma] = plain.get(gamma, 0.0) + number
            else:
                recipe.append((gamma, left, right, len(numbers)))
                numbers.append(number)
    for gamma, number in plain.items():
        recipe.append((gamma, None, None, len(numbers)))
        numbers.append(number)

    def pair(y, x, c):
        coefficients: dict = {}
        for gamma, left, right, at in recipe:
            term = c.elem(at)
            term = term if left is None else y.elem(left) * term
            term = term if right is None else x.elem(right) * term
            coefficients[gamma] = coefficients[gamma] + term if gamma in coefficients else term
        return unit.derivatives([y.elem(j) - x.elem(j) for j in range(d)], coefficients)

    return pair, {"c": torch.tensor(numbers, dtype=torch.float64)}, scale


def one_group(F):
    """All functionals as one group, with zeros for the derivatives that a functional lacks.

    Parameters
    ----------
    F : Functionals
        n functionals.

    Returns
    -------
    FunctionalGroup
        With a tensor (n,) for each derivative; constants stay floats where all groups share them.
    """
    X = F.points
    terms = {}
    for a in dict.fromkeys(a for g in F.groups for a in g.terms):
        terms[a] = _joined([g.terms.get(a, 0.0) for g in F.groups], F.sizes, X)
    if all(g.minus is None for g in F.groups):
        return FunctionalGroup(X, terms)
    minus = torch.cat([g.X if g.minus is None else g.minus for g in F.groups])
    return FunctionalGroup(X, terms, minus, _joined([0.0 if g.minus is None else -1.0 for g in F.groups], F.sizes, X))


def _joined(values, sizes, like):
    if all(isinstance(v, float) and v == values[0] for v in values):
        return values[0]
    return torch.cat([torch.as_tensor(v, dtype=like.dtype).expand(n) for v, n in zip(values, sizes, strict=True)])
