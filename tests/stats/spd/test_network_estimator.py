"""The classifier: any input, units, domains, saving, pipelines, errors."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.network_estimator import SPDNetClassifier


def trials(rng, N=60, n=3, T=40):
    y = np.where(np.arange(N) % 2 == 0, "left", "right")
    X = rng.standard_normal((N, n, T))
    X[:, 1] += np.where(y == "left", 1, -1)[:, None] * X[:, 0]
    return X, y


def quick(**options):
    return SPDNetClassifier(**({"n_epochs": 12, "batch_size": 20, "random_state": 0} | options))


def test_series_matrices_and_lists(rng):
    X, y = trials(rng)
    C = np.stack([np.cov(x) for x in X])
    ragged = [x[:, : 30 + i % 10] for i, x in enumerate(X)]
    for data in (X, C, ragged, torch.from_numpy(X)):
        clf = quick().fit(data, y)
        assert clf.classes_.tolist() == ["left", "right"]
        assert clf.score(data, y) > 0.95
        proba = clf.predict_proba(data)
        assert_allclose(proba.sum(1), 1, rtol=1e-12)
        assert (clf.classes_[proba.argmax(1)] == clf.predict(data)).all()


@pytest.mark.parametrize("options", [{}, {"batchnorm": None}, {"metric": "bw"}, {"descriptor": Descriptor(order=2)}])
def test_units_change_no_prediction(options, rng):
    X, y = trials(rng)
    C = np.stack([np.cov(x) for x in X])
    for data, factor in ((X, 1e-6), (X, 1e6), (C, 1e-12)):
        if data is C and "descriptor" in options:
            continue
        one, other = quick(**options).fit(data, y), quick(**options).fit(factor * data, y)
        assert_allclose(other.predict_proba(factor * data), one.predict_proba(data), rtol=0, atol=1e-6)
        assert (other.predict(factor * data) == one.predict(data)).all()


def test_the_same_seed_gives_the_same_network(rng):
    X, y = trials(rng)
    assert np.array_equal(quick().fit(X, y).predict_proba(X), quick().fit(X, y).predict_proba(X))


def test_it_can_be_cloned(rng):
    X, y = trials(rng)
    clf = quick(metric="airm", dims=(2,)).fit(X, y)
    fresh = clone(clf)
    assert fresh.get_params() == clf.get_params()
    assert np.array_equal(fresh.fit(X, y).predict(X), clf.predict(X))


@pytest.mark.parametrize("options", [{}, {"center": "momentum", "metric": "bw"}, {"batchnorm": None}])
def test_saving_is_exact(options, rng, tmp_path):
    X, y = trials(rng)
    domains = None if options.get("batchnorm", 1) is None else np.where(np.arange(60) < 30, "a", "b")
    clf = quick(descriptor=Descriptor(n_basis=1), dims=(3, 2), **options).fit(X, y, domains=domains)
    clf.save(tmp_path / "clf.npz")
    other = SPDNetClassifier.load(tmp_path / "clf.npz")
    assert np.array_equal(other.predict_proba(X, domains), clf.predict_proba(X, domains))
    assert other.predict(X, domains).tolist() == clf.predict(X, domains).tolist()
    assert other.dims == (3, 2)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InvalidInputError, match="path must be a file written by"):
        SPDNetClassifier.load(tmp_path / "other.npz")


def test_bands_are_channels(rng):
    X, y = trials(rng, T=80)
    clf = quick(descriptor=Descriptor(bands=((0.05, 0.15), (0.2, 0.4)))).fit(X, y)
    assert clf.channels_ == 2
    assert clf.score(X, y) > 0.9
    stacks = np.stack([[np.cov(x[:, :40]), np.cov(x[:, 40:])] for x in X])
    assert quick().fit(stacks, y).score(stacks, y) > 0.9


def test_a_new_domain_is_adapted_to_without_labels(rng):
    X, y = trials(rng, N=120)
    domains = np.repeat([1, 2, 3, 4], 30)
    mixing = np.array([np.eye(3) + 0.8 * rng.standard_normal((3, 3)) for _ in range(4)])
    X = mixing[np.arange(120) // 30] @ X
    old, new = domains != 4, domains == 4
    clf = quick(n_epochs=25, metric="airm").fit(X[old], y[old], domains=domains[old])
    with pytest.raises(InvalidInputError, match=r"4 has no statistics. Call adapt\(X, domain=4\)"):
        clf.predict(X[new], domains=4)
    clf.adapt(X[new], domain=4)
    assert clf.domains_.tolist() == [1, 2, 3, 4]
    assert clf.predict(X[new], domains=4).shape == (30,)
    # The domain matters, and is looked up trial by trial.
    own, other = (clf.predict_proba(X[new], domains=name) for name in (4, 1))
    assert np.abs(own - other).max() > 1e-3
    mixed = clf.predict_proba(X[new], domains=np.repeat([4, 1], 15))
    assert_allclose(mixed, np.concatenate([own[:15], other[15:]]), rtol=0, atol=1e-12)
    # Known domains are as before.
    again = quick(n_epochs=25, metric="airm").fit(X[old], y[old], domains=domains[old])
    assert np.array_equal(clf.predict(X[old], domains[old]), again.predict(X[old], domains[old]))


def test_bad_input_is_named(rng):
    X, y = trials(rng, N=20)
    with pytest.raises(InvalidInputError, match=r"y must hold at least two classes; got \['left'\]"):
        quick().fit(X[::2], y[::2])
    with pytest.raises(InvalidInputError, match="y must be as long as X, 20; got 19"):
        quick().fit(X, y[:19])
    clf = quick(n_epochs=1).fit(X, y)
    with pytest.raises(InvalidInputError, match="domains must be None"):
        clf.predict(X, domains=1)
    with pytest.raises(InvalidInputError, match="trained with domains"):
        clf.adapt(X, 1)
    with pytest.raises(InvalidInputError):
        clf.predict(X[:, :2])
    matrices = quick(n_epochs=1).fit(np.stack([np.cov(x) for x in X]), y)
    with pytest.raises(InvalidInputError, match="matrices of size 3"):
        matrices.predict(np.stack([np.cov(x[:2]) for x in X]))
