r"""Which Matern kernel: smoothness and lengthscales by the evidence of a part of the functionals.

.. math:: \log p(y) = -\tfrac{n}{2} \log(2 \pi e\, y^\top K^{-1} y / n) - \tfrac12 \log|K|

with the amplitude at its maximum.  A rough solution is explained best by a rough kernel, a smooth one by a smooth one;
the order of convergence follows.

Notation  p = nu - 1/2; l_j lengthscale of dimension j; m order of the equation; K Gram matrix of `N_EVIDENCE` data.
Cost      some 60 factorisations of at most 500 functionals, about a second.
Pitfalls  Matern kernels have 2 p derivatives; two functionals of order m need 2 m of them: p >= m.
          Lengthscales are measured in sides of the box, so that units do not matter.

References
----------
C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, chapter 5.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize

from sciml.exceptions import NotPositiveDefiniteError
from sciml.solvers.gp_pde.kernel_condition import condition_dense
from sciml.solvers.gp_pde.sparse_cholesky import coarse_to_fine
from sciml.solvers.gp_pde.stationary import RadialFunction

__all__ = ["choose_matern", "evidence_part"]

N_EVIDENCE = 500  # functionals whose evidence is asked
STARTS = np.log([0.05, 0.15, 0.4, 1.0])  # common lengthscales to begin with, in sides of the box
SHORTEST = 1e-3  # lengthscale, in sides of the box


def evidence_part(F, y, noise):
    """An even part of the functionals, at most `N_EVIDENCE` of them, with the boundary's share bounded.

    Parameters
    ----------
    F : Functionals
        n functionals; of those of highest order every beginning must be even.
    y, noise : torch.Tensor, shape (n,)
        Values and their variances.

    Returns
    -------
    tuple (Functionals, torch.Tensor, torch.Tensor)
    """
    if len(F) <= N_EVIDENCE:
        return F, y, noise
    sizes = np.array(F.sizes, float)
    share = np.maximum(np.floor(N_EVIDENCE * sizes / sizes.sum()), np.minimum(sizes, 4)).astype(int)
    index = []
    for g, s, k in zip(F.groups, F.slices(), share.tolist(), strict=True):
        first = torch.arange(k)
        if g.order < max(h.order for h in F.groups):  # boundary points may come in any order
            first = torch.as_tensor(coarse_to_fine(g.X.cpu().numpy())[:k])
        index.append(s.start + first)
    index = torch.cat(index).sort().values.to(y.device)
    return F.take(index), y[index], noise[index]


def choose_matern(F, y, noise, sides, smoothness, *, known_noise=False, start=None, lengths=None, longest=4.0):
    """Maximise the evidence over smoothness and lengthscales.

    Parameters
    ----------
    F : Functionals
        Few functionals.
    y, noise : torch.Tensor, shape (n,)
        Their values, and variances of these.
    sides : numpy.ndarray, shape (d,)
        Sides of the box.
    smoothness : sequence of int
        Values of p to try.
    known_noise : bool
        The noise is given in units of y: the amplitude is searched for, too, instead of being eliminated.
    start : RadialFunction, optional
        An earlier choice, which is refined instead of beginning anew.
    lengths : numpy.ndarray, shape (d,), optional
        Lengthscales, where they are given.
    longest : float
        Bound on the lengthscales, in sides of the box.

    Returns
    -------
    RadialFunction
    float
        The log evidence.
    """
    d = len(sides)
    unit = float(y.abs().max()) or 1.0
    if not bool((y != 0).any()):  # zero data say nothing of the kernel
        middle = smoothness[len(smoothness) // 2]
        return RadialFunction("matern", 0.3 * sides if lengths is None else lengths, p=middle), 0.0
    given = None if lengths is None else np.log(np.asarray(lengths, float) / sides)

    def value(x, p):
        own = x[:d] if given is None else given
        inside = np.clip(own, math.log(SHORTEST), math.log(longest)) if given is None else own
        k = RadialFunction("matern", sides * np.exp(inside), math.exp(2 * x[-1]) if known_noise else 1.0, p=p)
        try:
            found = condition_dense(k, F, y / unit, noise / unit**2)
        except NotPositiveDefiniteError:
            return -1e300, k
        n = len(F)
        evidence = found.log_evidence
        if known_noise:  # the amplitude is not eliminated
            amplitude = max(found.quadratic, 1e-300) / n
            evidence += 0.5 * n * (math.log(amplitude) + 1 - amplitude)
        # Where the evidence is flat the lengths stay near the sides of the box.
        return evidence - 10.0 * float(np.square(own - inside).sum()) - 1e-3 * float(np.square(own).sum()), k

    amplitudes = [[math.log(a)] for a in (0.1, 1.0, 10.0, 100.0)] if known_noise else [[]]
    starts = [[s] * d for s in STARTS] if given is None else [[]]
    begin = []
    for p in smoothness:
        points = [s + a for s in starts for a in amplitudes]
        if start is not None and start.p == p and given is None:
            points = [[math.log(v / s) for v, s in zip(start.lengthscale, sides, strict=True)]]
            points[0] += [0.5 * math.log(start.variance / unit**2)] * known_noise
        begin += [(value(np.array(x), p)[0], p, np.array(x)) for x in points]
    _, p, x = max(begin, key=lambda item: item[0])
    if len(x):
        # Nelder-Mead: the evidence is not smooth where the nugget jumps.
        simplex = np.vstack([x, x + 0.4 * np.eye(len(x))])
        options = {"initial_simplex": simplex, "maxfev": 20 + 12 * len(x), "xatol": 0.02, "fatol": 0.02}
        x = minimize(lambda x: -value(x, p)[0], x, method="Nelder-Mead", options=options).x
    evidence, k = value(x, p)
    variance = k.variance * unit**2 if known_noise else 1.0
    return RadialFunction("matern", k.lengthscale, variance, p=p), evidence
