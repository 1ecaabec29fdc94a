r"""Bounds raised step by step: the loop around a splitting, with its penalty balanced and its best multiplier kept.

Notation  a splitting has `advance`, `rescale`, `value` and a state; rho its penalty.
Cost      a step each, and every ten steps an estimate of the bound, a few dozen products.
Pitfalls  bounds do not rise at every step; the best one is kept, as a copy of the state.
"""

from __future__ import annotations

__all__ = ["ascend"]

_EVERY = 10
_BALANCE, _FACTOR = 3.0, 1.5
_STALLED, _PATIENCE = 0.02, 3  # of the gap; checks


def ascend(splitting, value, *, steps, goal, take):
    """Advance a splitting until its bound is near a value, or stalls; return the best multipliers.

    Parameters
    ----------
    splitting : KMeansSplitting or LikelihoodSplitting
        The state; changed in place.
    value : float
        What labels attain, in the units of the splitting's values: no bound is below.
    steps : int
        At most.
    goal : float
        Difference of bound and value at which to stop.
    take : callable
        Takes the splitting, returns what is kept of it.

    Returns
    -------
    best : float
        The least bound, as estimated; infinite if none was.
    kept : object
        What `take` gave there; None without one.
    done : int
        Steps taken.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.stats.clustering.kmeans_splitting import KMeansSplitting
    >>> X = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64)
    >>> ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    >>> state = KMeansSplitting(X, ones, torch.tensor([0, 0, 1, 1]), 2, zeros, np.random.default_rng(0))
    >>> best, B, done = ascend(state, 3.61, steps=100, goal=1e-6, take=lambda state: state.multiplier())
    >>> round(best, 6), done
    (3.61, 30)
    """
    best, kept, path, done = float("inf"), None, [], 0
    while done < steps:
        for _ in range(min(_EVERY, steps - done) - 1):
            splitting.advance()
            done += 1
        apart, moved = splitting.advance(measure=True)
        done += 1
        found = splitting.value()
        if found < best:
            best, kept = found, take(splitting)
        path.append(best)
        if best - value <= goal:
            break
        if len(path) > _PATIENCE and path[-1 - _PATIENCE] - best <= _STALLED * (best - value):
            break
        # Differences of both kinds below rounding say nothing about rho.
        if max(apart, moved) <= 1e-12:
            break
        if apart > _BALANCE * moved:
            splitting.rescale(_FACTOR)
        elif moved > _BALANCE * apart:
            splitting.rescale(1 / _FACTOR)
    return best, kept, done
