"""One name for all ways of choosing; what is chosen always fits."""

import numpy as np
import pytest

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.lag_choice import METHODS, choose_lags


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("T", [12, 25, 300])
def test_what_is_chosen_fits_into_the_shortest_trial(method, T, rng):
    x = [*rng.normal(size=(9, 2, 300)).cumsum(axis=2), rng.normal(size=(2, T))]
    choice = choose_lags(x, np.arange(10) % 2, method=method)
    assert choice.method == method
    assert 1 <= choice.order <= 10
    assert 1 <= choice.lag <= 10
    assert choice.order == 1 or choice.order * choice.lag < T
    descriptor = Descriptor(order=choice.order, lag=choice.lag)
    assert len(descriptor.matrices(x, descriptor.fit(x))) == 10


@pytest.mark.parametrize("method", METHODS)
def test_units_change_no_choice(method, rng):
    x, y = rng.normal(size=(12, 2, 100)).cumsum(axis=2), np.arange(12) % 2
    expected = choose_lags(x, y, method=method)
    for unit in (2.0**-20, 2.0**20, 1e-6, 1e6):
        choice = choose_lags(unit * x, y, method=method)
        assert (choice.order, choice.lag) == (expected.order, expected.lag)


def test_only_the_screen_looks_at_labels(rng):
    x = rng.normal(size=(12, 2, 100)).cumsum(axis=2)
    for method in ("bic", "hq", "mdop", "ami_fnn"):
        assert choose_lags(x, method=method) == choose_lags(x, np.arange(12) % 2, method=method)
    with pytest.raises(InvalidInputError, match="y must be given"):
        choose_lags(x)


def test_only_what_is_offered_is_chosen(rng):
    x, y = rng.normal(size=(20, 2, 100)).cumsum(axis=2), np.arange(20) % 2
    for method in ("bic", "hq", "screen"):
        choice = choose_lags(x, y, method=method, orders=[2, 5], lags=(3, 7))
        assert choice.order in (2, 5)
        assert choice.lag in (3, 7)
        assert all(p in (2, 5) and lag in (3, 7) for _, p, lag in choice.table)


def test_the_table_begins_with_the_choice(rng):
    x, y = rng.normal(size=(20, 2, 100)), np.arange(20) % 2
    for method, best in (("bic", min), ("screen", max)):
        choice = choose_lags(x, y, method=method, orders=range(1, 4), lags=range(1, 4))
        assert choice.table[0][1:] == (choice.order, choice.lag)
        assert choice.table[0][0] == best(row[0] for row in choice.table)


@pytest.mark.parametrize(
    ("X", "options", "text"),
    [
        (np.stack([np.eye(3)] * 4), {"method": "bic"}, "got matrices"),
        (np.ones((4, 1, 9)), {"method": "aic"}, "method must be"),
        (np.ones((4, 1, 9)), {"method": "bic", "orders": [0]}, "orders must hold"),
        (np.ones((4, 1, 9)), {"method": "bic", "lags": []}, "lags must hold"),
    ],
)
def test_bad_input_is_told(X, options, text):
    with pytest.raises(InvalidInputError, match=text):
        choose_lags(X, **options)
