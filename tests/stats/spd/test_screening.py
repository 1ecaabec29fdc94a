"""Mixtures of views: weights that lower the log-loss, and nothing else."""

import numpy as np
from numpy.testing import assert_allclose

from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.folds import stratified_folds
from sciml.stats.spd.screening import log_loss, logistic_paths, mix, mixture_weights, recentre, second_round
from sciml.stats.spd.views import TangentView, TrendView


def opinions(seed=0, n=200):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, n)
    out = []
    for strength in (1.0, 1.0, 0.0):
        p = 1 / (1 + np.exp(-(strength * (2 * codes - 1) + rng.normal(size=n))))
        out.append(np.stack([1 - p, p], 1))
    return np.stack(out), codes


def test_two_independent_views_are_mixed_and_noise_is_left_out():
    P, codes = opinions()
    weights = mixture_weights(P, codes)
    assert weights[2] == 0
    assert (weights[:2] > 0.2).all()
    assert_allclose(weights.sum(), 1)
    mixed = log_loss(np.exp(mix(P, weights)), codes)
    assert mixed < min(log_loss(view, codes) for view in P)


def test_a_view_that_adds_nothing_gets_nothing():
    P, codes = opinions()
    assert mixture_weights(P[[2, 0]], codes).tolist() == [0.0, 1.0]


def test_views_that_are_equal_but_for_chance_share():
    P, codes = opinions()
    assert mixture_weights(P[[0, 0, 2]], codes).tolist() == [0.5, 0.5, 0.0]


def test_one_sure_mistake_does_not_decide():
    codes = np.zeros(100, dtype=int)
    sure = np.tile([1 - 1e-9, 1e-9], (100, 1))
    sure[0] = [0.0, 1.0]
    assert log_loss(sure, codes) < log_loss(np.tile([0.85, 0.15], (100, 1)), codes)


def test_folds_are_judged_by_problems_solved_without_them():
    # With as many features as trials and no penalty everything is separable: only held-out loss tells of chance.
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat([0, 1], 20))
    L = rng.normal(size=(40, 6, 30))
    blocks = (L @ L.transpose(0, 2, 1) / 30)[:, None]
    folds = stratified_folds(codes, 5, n_repeats=1)
    for metric in ("logeuclid", "airm"):
        penalties, paths = logistic_paths(TangentView(Descriptor(), metric), blocks, codes, folds)
        assert len(paths) == len(penalties)
        assert_allclose(paths.sum(2), 1)
        assert min(log_loss(P, codes) for P in paths) > 0.65


def test_the_second_round_takes_the_best_descriptors_and_what_was_not_tried():
    class Tried:
        def __init__(self, view, p):
            self.view, self.choice = view, 0
            self.paths = np.array([[[1 - p, p]]])

    good, bad = Descriptor(n_basis=1), Descriptor()
    tried = [Tried(TangentView(bad, "logeuclid"), 0.1), Tried(TangentView(good, "logeuclid"), 0.9)]
    tried += [Tried(TrendView(1), 0.99), Tried(TangentView(good, "bw"), 0.8)]
    found = second_round(tried, np.array([1]), ["airm", "bw"], 1)
    assert [(view.descriptor, view.metric) for view in found] == [(good, "airm")]


def test_every_domain_is_whitened_by_its_own_mean():
    rng = np.random.default_rng(0)
    view, domains = TangentView(Descriptor(), "airm"), np.arange(20) % 2
    L = rng.normal(size=(20, 3, 30)) * np.where(domains, 9.0, 1.0)[:, None, None]
    blocks, whitening = recentre(view, (L @ L.transpose(0, 2, 1))[:, None], domains)
    assert list(whitening) == [0, 1]
    for name in (0, 1):
        assert_allclose(view.fit(blocks[domains == name])["reference"][0], np.eye(3), atol=1e-4)
