r"""Screening: try many views by cross-validation, keep what predicts best, and mix the best few.

A view is judged by the log-loss of its out-of-fold probabilities; its penalty is chosen by the same. The mixture is
grown greedily, one view at a time and with repetition, from the few that differ from the best by less than a standard
error, as long as the log-loss of the mean probability falls:

.. math:: \bar p = \frac{1}{m} \sum_{j=1}^{m} p_{v_j}

Notation  V folds; k classes; P (N, k) out-of-fold log-probabilities of a view; w weights of the mixture, of sum one.
Cost      for each view the features of all trials, and V + 1 paths of logistic regressions; views whose reference moves
          with the fold pay their features V times.
          Matrices so large or many that this takes more than some seconds get one reference of all training trials
          for all folds: no label is in it.
Pitfalls  the same trials choose and judge. The score that is reported comes from choices (penalty, mixture,
          calibration) made anew without each fold, so that it is free of that choice.
References  R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes, Ensemble selection from libraries of models, ICML 2004.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from sciml.exceptions import NotPositiveDefiniteError
from sciml.iterate import End, Status, Step
from sciml.stats.spd.logistic import PENALTIES, log_softmax, logistic_path, principal_axes

__all__ = ["Candidate", "log_loss", "mixture_weights", "mix", "screen_steps", "second_round"]

_PERFECT = 2e-3  # a log-loss below which no penalty is worth a search
_FOLD_FLOPS = 5e8  # beyond it the folds share the reference of all training trials, which knows no labels
_PATIENCE = 2  # penalties in a row that may be worse before the path is left
_PICKS = 12  # views in a mixture, counted with repetition
_EQUALS = 4  # views at most that start a mixture
_LEAST_GAIN = 1e-3  # relative fall of the log-loss that a further view must bring


@dataclass(eq=False)
class Candidate:
    """A view after its cross-validation.

    Parameters
    ----------
    view : TangentView, TrendView or DistanceView
        What was tried.
    prepared : dict
        What the view learned from all training trials to make blocks.
    penalties : tuple of float
        Values of C that were tried.
    paths : ndarray, shape (n_penalties, N, k)
        Out-of-fold probabilities for each, mean of the repeats.
    seconds : float
        Time it took.
    domains : dict
        The whitening of each domain, by name; empty without domains.
    choice : int
        Number of the penalty with the smallest log-loss over all trials.
    """

    view: object
    prepared: dict
    penalties: tuple
    paths: np.ndarray
    seconds: float
    domains: dict = field(default_factory=dict)
    choice: int = 0

    def chosen(self, codes, rows=None):
        """Return the number of the best penalty as judged by some of the trials.

        Parameters
        ----------
        codes : ndarray of int, shape (N,)
            Classes.
        rows : ndarray or None
            Trials that judge; all by default.
        """
        rows = slice(None) if rows is None else rows
        return int(np.argmin([round(log_loss(P[rows], codes[rows]), 9) for P in self.paths]))


def log_loss(P, codes):
    """Return the mean negative logarithm of the probability of the true class.

    Parameters
    ----------
    P : ndarray, shape (N, k)
        Probabilities.
    codes : ndarray of int, shape (N,)
        Classes from 0.

    Returns
    -------
    float
        Natural logarithm; 0 is perfect, log k is knowing nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.screening import log_loss
    >>> round(log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)
    0.4904
    """
    return float(_losses(P, codes).mean())


def _losses(P, codes):
    # A probability that rounds to zero costs as much as one in a hundred thousand: one trial decides nothing alone.
    return -np.log(np.maximum(P[np.arange(len(codes)), codes], 1e-5))


def screen_steps(views, trials, codes, folds, *, domains=None, time_budget=None, chooser=None, more=None, skipped=None):
    """Yield the candidates found so far, one view at a time; the starting point first.

    Parameters
    ----------
    views : list
        Views in the order in which they are tried; those of one source together share their blocks.
    trials : Trials
        Training trials.
    codes : ndarray of int, shape (N,)
        Classes from 0.
    folds : ndarray of int, shape (n_repeats, N)
        The fold that validates each trial.
    domains : ndarray or None
        The domain of each trial.
    time_budget : float or None
        Seconds after which no further view is begun; None, the default: no limit.
    chooser : callable or None
        ``chooser(view, blocks, codes, folds)`` returns penalties and out-of-fold probabilities; the logistic path by
        default.
    more : callable or None
        ``more(candidates)`` returns further views once the list is done; None, the default: none.
    skipped : list or None
        Where given, a view whose geometry cannot have these matrices is noted there, (view, reason), and the next is
        tried; None, the default: the error is raised.

    Yields
    ------
    Step
        Value: a tuple of Candidate; criterion: the share of views that are still to be tried.
    """
    start = time.monotonic()
    found, queue, n_known = [], list(views), len(views)
    cache: dict = {}
    yield Step((), 1.0)
    while queue:
        view = queue.pop(0)
        if found and time_budget is not None and time.monotonic() - start > time_budget:
            left = len(queue) + 1
            return End(Status.MAX_ITER, f"time_budget={time_budget:g} s was spent with {left} views untried: raise it")
        began = time.monotonic()
        try:
            candidate = _try(view, trials, codes, folds, domains, cache, chooser)
            candidate.seconds = time.monotonic() - began
            candidate.choice = candidate.chosen(codes)
            found.append(candidate)
        except NotPositiveDefiniteError as error:
            if skipped is None or not (queue or found or more is not None):
                raise
            skipped.append((view, str(error).partition(";")[0]))
        if found and min(log_loss(c.paths[c.choice], codes) for c in found) < _PERFECT:
            # Nothing that follows could predict better.
            yield Step(tuple(found), 0.0)
            return None
        if not queue and more is not None:
            queue, more = list(more(found)), None
            n_known += len(queue)
        yield Step(tuple(found), len(queue) / n_known)
    return None


def second_round(candidates, codes, metrics, n_best):
    """Return tangent views of the best descriptors in further geometries.

    Parameters
    ----------
    candidates : sequence of Candidate
        What was tried.
    codes : ndarray of int, shape (N,)
        Classes from 0.
    metrics : sequence of str
        Geometries to try.
    n_best : int
        Number of descriptors.

    Returns
    -------
    list of TangentView
        None that was tried already.
    """
    from dataclasses import replace

    tangents = [c for c in candidates if hasattr(c.view, "metric")]
    tangents.sort(key=lambda c: round(log_loss(c.paths[c.choice], codes), 9))
    tried = {c.view for c in tangents}
    best = list(dict.fromkeys(c.view.descriptor for c in tangents))[:n_best]
    base = tangents[0].view if tangents else None
    views = [replace(base, descriptor=d, metric=metric) for d in best for metric in metrics]
    return [view for view in views if view not in tried]


def mixture_weights(P, codes):
    """Return weights of a mixture of probabilities, grown greedily.

    Parameters
    ----------
    P : ndarray, shape (V, N, k)
        Out-of-fold probabilities of V views.
    codes : ndarray of int, shape (N,)
        Classes from 0.

    Returns
    -------
    ndarray, shape (V,)
        Non-negative, of sum one; most are zero.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.screening import mixture_weights
    >>> good, bad = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.8, 0.2]])
    >>> mixture_weights(np.stack([bad, good]), np.array([0, 1])).tolist()
    [0.0, 1.0]
    """
    losses = np.stack([_losses(view, codes) for view in P])  # (V, N)
    alone = losses.mean(1).round(9)
    # Views that are as good as the best but for chance start together: which of them wins is chance, too.
    first = np.argsort(alone, kind="stable")[:_EQUALS]
    behind = losses[first] - losses[first[0]]
    first = first[behind.mean(1) <= behind.std(1) / np.sqrt(len(codes))]
    counts = np.zeros(len(P), dtype=int)
    counts[first] = 1
    total = P[first].sum(0)
    best = log_loss(total / len(first), codes)
    for picks in range(len(first) + 1, _PICKS + 1):
        losses = np.array([round(log_loss((total + view) / picks, codes), 9) for view in P])
        pick = int(losses.argmin())
        if not losses[pick] < best * (1 - _LEAST_GAIN):
            break
        counts[pick] += 1
        total, best = total + P[pick], losses[pick]
    return counts / counts.sum()


def mix(P, weights):
    """Return the logarithm of a weighted mean of probabilities.

    Parameters
    ----------
    P : ndarray, shape (V, N, k)
        Probabilities.
    weights : ndarray, shape (V,)
        Of sum one.

    Returns
    -------
    ndarray, shape (N, k)
    """
    return np.log(np.maximum(np.tensordot(weights, P, 1), np.finfo(float).tiny))


def _try(view, trials, codes, folds, domains, cache, chooser):
    """Return a candidate: out-of-fold probabilities of one view."""
    if view.supervised:
        prepared, blocks = view.prepare(trials, codes), None
        whitening = {}
    else:
        if view.source not in cache:
            cache.clear()  # views of one source follow one another
            prepared = view.prepare(trials, codes)
            cache[view.source] = prepared, view.blocks(trials, prepared)
        prepared, blocks = cache[view.source]
        blocks, whitening = recentre(view, blocks, domains)
    if blocks is None:
        penalties, paths = _supervised_paths(view, trials, codes, folds, domains)
    else:
        penalties, paths = (logistic_paths if chooser is None else chooser)(view, blocks, codes, folds)
    return Candidate(view, prepared, penalties, paths, 0.0, whitening)


def recentre(view, blocks, domains):
    """Return blocks whitened by domain, and the whitening of each.

    Parameters
    ----------
    view : TangentView or TrendView
        Knows how.
    blocks : ndarray
        Training blocks.
    domains : ndarray, shape (N,), or None
        Names; None: nothing is done.

    Returns
    -------
    blocks : ndarray
    whitening : dict
        State by name.
    """
    if domains is None:
        return blocks, {}
    out, whitening = np.empty_like(blocks), {}
    for name in np.unique(domains):
        rows = domains == name
        whitening[name.item()] = state = view.domain_state(blocks[rows])
        out[rows] = view.recentred(blocks[rows], state)
    return out, whitening


def logistic_paths(view, blocks, codes, folds):
    """Return penalties and out-of-fold probabilities of logistic regression on a view's features.

    Parameters
    ----------
    view : TangentView or TrendView
        The view.
    blocks : ndarray
        Its blocks of all training trials.
    codes : ndarray of int, shape (N,)
        Classes from 0.
    folds : ndarray of int, shape (n_repeats, N)
        The fold that validates each trial.

    Returns
    -------
    penalties : tuple of float
    paths : ndarray, shape (n_penalties, N, k)
    """
    Y, pairs = np.eye(codes.max() + 1)[codes], _pairs(folds)
    if view.exact_in_folds or len(pairs) * blocks.size * float(blocks.shape[-1]) > _FOLD_FLOPS:
        Z, _ = principal_axes(view.features(blocks, view.fit(blocks)))
        weights = np.stack([folds[repeat] != fold for repeat, fold in pairs]).astype(float)
        return _path(Z, Y, weights, codes, folds, pairs)
    features = []
    for repeat, fold in pairs:
        seen = folds[repeat] != fold
        features.append(_axes_of(view.features(blocks, view.fit(blocks[seen])), seen))
    return _separate_paths(features, Y, codes, folds, pairs)


def _pairs(folds):
    return [(repeat, fold) for repeat in range(len(folds)) for fold in np.unique(folds[repeat])]


def _axes_of(F, rows):
    """Return features of all trials in the axes of the training trials, (N, r)."""
    Z, back = principal_axes(F[rows])
    coef, shift = back(np.eye(Z.shape[1]), np.zeros(Z.shape[1]))
    return F @ coef + shift


def _separate_paths(features, Y, codes, folds, pairs):
    """Paths of problems that have features of their own, padded to one width: zeros change no solution."""
    width = max(Z.shape[1] for Z in features)
    stacked = np.zeros((len(features), len(Y), width))
    for j, Z in enumerate(features):
        stacked[j, :, : Z.shape[1]] = Z
    weights = np.stack([folds[repeat] != fold for repeat, fold in pairs]).astype(float)
    return _path(stacked, Y, weights, codes, folds, pairs)


def _path(Z, Y, weights, codes, folds, pairs):
    paths = []
    for _, W, b in logistic_path(Z, Y, weights):
        P = np.zeros(Y.shape)
        for j, (repeat, fold) in enumerate(pairs):
            held = folds[repeat] == fold
            Zh = Z[held] if Z.ndim == 2 else Z[j, held]
            P[held] += np.exp(log_softmax(Zh @ W[j] + b[j])) / len(folds)
        paths.append(P)
        if _worsens(paths, codes):
            break
    return PENALTIES[: len(paths)], np.stack(paths)


def _worsens(paths, codes):
    losses = [log_loss(P, codes) for P in paths]
    if len(paths) <= _PATIENCE:
        return losses[-1] < _PERFECT
    return losses[-1] < _PERFECT or min(losses[-_PATIENCE:]) > min(losses[:-_PATIENCE]) * (1 + 1e-3)


def _supervised_paths(view, trials, codes, folds, domains):
    """Blocks that depend on labels are made anew for each fold."""
    Y, pairs, features = np.eye(codes.max() + 1)[codes], _pairs(folds), []
    for repeat, fold in pairs:
        seen = folds[repeat] != fold
        prepared = view.prepare(trials.subset(seen), codes[seen])
        blocks, _ = recentre(view, view.blocks(trials, prepared), domains)
        features.append(_axes_of(view.features(blocks, view.fit(blocks[seen])), seen))
    return _separate_paths(features, Y, codes, folds, pairs)
