"""Training: it learns, is reproducible, chooses the epoch on a split, keeps groups whole, and says what went wrong."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spd.network import SPDNet
from sciml.stats.spd.training import _batches, _parameters, _split, fit_spdnet


def problem(rng, N=60, n=4, separation=1.0):
    """Two classes that differ in the correlation of the first two channels."""
    y = torch.arange(N) % 2
    A = torch.from_numpy(rng.standard_normal((N, n, 30)))
    A[:, 1] += separation * (2 * y[:, None] - 1) * A[:, 0]
    return A @ A.mT / 30, y


def test_it_learns_and_is_reproducible(rng):
    X, y = problem(rng)
    nets, histories = [], []
    state = torch.get_rng_state()
    for _ in range(2):
        draw = np.random.default_rng(0)
        net = SPDNet((4, 3), 2, rng=draw)
        histories.append(fit_spdnet(net, X, y, n_epochs=15, batch_size=20, random_state=draw))
        nets.append(net)
    assert not nets[0].training
    assert histories[0] == histories[1]
    assert torch.equal(nets[0](X), nets[1](X))
    assert torch.equal(torch.get_rng_state(), state)
    test_X, test_y = problem(rng, N=200)
    assert (nets[0](test_X).argmax(1) == test_y).double().mean() > 0.95


def test_permuted_labels_give_chance(rng):
    X, y = problem(rng, N=80)
    y = y[torch.from_numpy(rng.permutation(80))]
    net = SPDNet((4, 3), 2, rng=rng)
    fit_spdnet(net, X, y, n_epochs=8, random_state=0)
    test_X, test_y = problem(rng, N=400)
    # The two classes are told apart or swapped at random; the mean over the classes stays near the half only if
    # nothing leaks from the labels of the test data, which the network never sees.
    assert fit_history_is_chance(net, X, y)
    assert net(test_X).shape == (400, 2)
    assert test_y.shape == (400,)


def fit_history_is_chance(net, X, y):
    history = fit_spdnet(net, X, y, n_epochs=5, random_state=1)
    return min(history.validation_loss) > 0.6  # log 2 = 0.69 is no knowledge


def test_the_best_epoch_on_the_split_is_kept(rng):
    X, y = problem(rng, separation=0.2)
    net = SPDNet((4, 4), 2, rng=rng)
    history = fit_spdnet(net, X, y, n_epochs=60, batch_size=10, lr=0.1, patience=6, random_state=0)
    assert history.stopped_early
    assert history.best_epoch == int(np.argmin(history.validation_loss))
    assert len(history.validation_loss) == history.best_epoch + 7
    rows = torch.tensor(history.validation)
    loss = torch.nn.functional.cross_entropy(net(X[rows]), y[rows])
    assert float(loss.detach()) == pytest.approx(min(history.validation_loss), rel=1e-9)


def test_without_a_split_all_is_used_to_the_end(rng):
    X, y = problem(rng)
    history = fit_spdnet(SPDNet((4, 3), 2, rng=rng), X, y, n_epochs=3, validation=0, random_state=0)
    assert (history.best_epoch, history.validation, history.validation_loss) == (2, [], [])


def test_the_callback_can_stop(rng):
    X, y = problem(rng)
    seen = []
    history = fit_spdnet(
        SPDNet((4, 3), 2, rng=rng), X, y, random_state=0, callback=lambda k, a, b: seen.append((k, a, b)) or k == 1
    )
    assert len(history.train_loss) == 2
    assert seen[1] == (1, history.train_loss[1], history.validation_loss[1])


def test_the_split_is_stratified_or_by_groups():
    y = torch.tensor(40 * [0] + 10 * [1])
    train, held = _split(y, None, 0.2, generator(0))
    assert sorted([*train, *held]) == list(range(50))
    assert (y[held] == 1).sum() == 2
    assert len(held) == 10
    groups = np.repeat(np.arange(5), 10)
    train, held = _split(y, groups, 0.2, generator(0))
    assert not set(groups[train]) & set(groups[held])
    assert len(held) == 10
    with pytest.raises(InvalidInputError, match="groups must hold at least two groups"):
        _split(y, np.zeros(50), 0.2, generator(0))


def test_batches_hold_every_row_once():
    rows = np.arange(7, 108)
    for domains in (None, torch.arange(200) % 7):
        batches = _batches(rows, domains, 20, generator(0))
        assert sorted(np.concatenate(batches)) == list(rows)
        assert min(map(len, batches)) > 1
    counts = np.unique((np.arange(200) % 7)[batches[0]], return_counts=True)[1]
    assert counts.max() <= 20


def test_no_batch_of_one():
    assert sorted(map(len, _batches(np.arange(21), None, 10, generator(0)))) == [10, 11]


def test_only_linear_weights_decay(rng):
    net = SPDNet((4, 3), 2, metric="gbw", rng=rng)
    decaying, others = _parameters(net, 0.1)
    assert [id(p) for p in decaying["params"]] == [id(net.head.weight)]
    assert others["weight_decay"] == 0
    assert len(others["params"]) == len(list(net.parameters())) - 1


def test_domains_and_the_momentum_schedule(rng):
    X, y = problem(rng)
    domains = torch.arange(60) // 20
    X = X * 10.0 ** domains[:, None, None]
    net = SPDNet((4, 3), 2, metric="bw", center="momentum", n_domains=3, rng=rng)
    fit_spdnet(net, X, y, domains=domains, n_epochs=20, batch_size=30, random_state=0)
    assert (net(X, domains).argmax(1) == y).double().mean() > 0.9
    assert net.norms[0].momenta[0].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_epochs": 0}, "n_epochs must be an integer at least 1"),
        ({"batch_size": 1}, "batch_size must be an integer at least 2"),
        ({"validation": 1.0}, "validation must be a number at least 0 and below 1"),
        ({"lr": 0}, "lr must be a number above 0"),
        ({"groups": [1, 2]}, "groups must be as long as X, 60; got 2"),
        ({"domains": torch.zeros(3)}, "domains must be as long as X, 60; got 3"),
    ],
)
def test_bad_input_is_named(arguments, match, rng):
    X, y = problem(rng)
    with pytest.raises(InvalidInputError, match=match):
        fit_spdnet(SPDNet((4, 3), 2, rng=rng), X, y, **arguments)


def test_a_loss_that_is_not_finite_is_an_error(rng):
    X, y = problem(rng)
    net = SPDNet((4, 3), 2, rng=rng)
    with torch.no_grad():
        net.head.bias.fill_(torch.inf)
    with pytest.raises(InvalidInputError, match="loss or its gradient is not finite"):
        fit_spdnet(net, X, y, n_epochs=1, random_state=0)
