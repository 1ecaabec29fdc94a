"""Running statistics: the schedule of momenta, room for further domains, means by domain."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.batch_norm import SPDBatchNorm
from sciml.stats.spd.running_statistics import group_mean, keep_single, momentum_schedule, pick, sizes_of


def test_the_momentum_schedule():
    train, test = zip(*[momentum_schedule(k, 40, 0.2) for k in range(1, 51)], strict=True)
    assert train[0] == 1
    assert train[39] == pytest.approx(0.2)
    assert train[49] == pytest.approx(0.2)
    assert (np.diff(train) <= 0).all()
    assert test[0] == pytest.approx(0.15)
    assert test[49] == pytest.approx(1 - 0.85**0.2)
    with pytest.raises(InvalidInputError, match="fraction must be a number above 0"):
        momentum_schedule(1, 40, 0.0)


def test_means_by_domain_are_those_of_a_loop(rng):
    X, inverse = torch.from_numpy(rng.standard_normal((9, 2, 3, 3))), torch.tensor([0, 2, 1, 2, 0, 1, 1, 2, 2])
    sizes = sizes_of(X, inverse, 3)
    means = group_mean(X, inverse, sizes)
    assert sizes.tolist() == [2, 3, 4]
    for k in range(3):
        assert_allclose(means[k].numpy(), X[inverse == k].mean(0).numpy(), atol=1e-15)
    assert torch.equal(pick(means, inverse)[3], means[2])
    assert_allclose(group_mean(X, None, sizes_of(X, None, 1)).numpy(), X.mean(0, keepdim=True).numpy(), atol=1e-15)
    kept = keep_single(torch.tensor([True, False, True]), means, 0 * means)
    assert torch.equal(kept[2], means[2])
    assert not kept[1].any()


@pytest.mark.parametrize("center", ["running", "momentum"])
def test_further_domains_leave_the_others(center, rng):
    A = torch.from_numpy(rng.standard_normal((8, 3, 6)))
    X = A @ A.mT
    norm = SPDBatchNorm(3, metric="bw", center=center, n_domains=2)
    norm.reset_running_stats(X, domain=1)
    before = norm.eval()(X, 1)
    norm.add_domains(2)
    assert torch.equal(norm(X, 1), before)
    assert norm.ready.tolist() == [False, True, False, False]
    norm.reset_running_stats(4 * X, domain=3)
    assert_allclose(norm(4 * X, 3).detach().numpy(), before.detach().numpy(), rtol=1e-11, atol=1e-13)
    with pytest.raises(InvalidInputError, match="n_domains must be set to add domains"):
        SPDBatchNorm(3).add_domains()
