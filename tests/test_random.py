"""One seed, one stream: on NumPy and torch, in this order or that."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator, normal, spawn, torch_generator


def test_an_int_is_a_seed_and_a_generator_moves_on():
    assert generator(3).random() == generator(np.int64(3)).random() == np.random.default_rng(3).random()
    assert generator(3).random() != generator(4).random()
    rng = np.random.default_rng(0)
    assert generator(rng) is rng
    assert generator().random() != generator().random()


@pytest.mark.parametrize("bad", [-1, 1.5, "seed", True, np.random])
def test_a_wrong_random_state_is_named(bad):
    with pytest.raises(InvalidInputError, match="random_state must be None, an int not below 0 or .*; got .*of type"):
        generator(bad)


def test_a_legacy_state_is_refused_with_the_remedy():
    with pytest.raises(InvalidInputError, match=r"Pass numpy.random.default_rng\(seed\) in place of the legacy"):
        generator(np.random.RandomState(0))  # noqa: NPY002


def test_children_differ_from_one_another_and_come_again_from_the_same_seed():
    first, again = spawn(generator(5), 3), spawn(generator(5), 3)
    draws = [child.random() for child in first]
    assert len(set(draws)) == 3
    assert draws == [child.random() for child in again]
    parent = generator(5)
    spawn(parent, 3)
    assert spawn(parent, 1)[0].random() not in draws


def test_torch_draws_follow_the_seed_and_leave_the_global_one_alone():
    state = torch.get_rng_state()
    one, two = (torch.rand(3, generator=torch_generator(generator(s))) for s in (1, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.rand(3, generator=torch_generator(generator(2))))
    assert torch.equal(state, torch.get_rng_state())


def test_normal_numbers_are_numpys_in_every_dtype():
    wanted = np.random.default_rng(7).standard_normal((2, 3))
    draw = normal(generator(7), (2, 3))
    assert draw.dtype == torch.float64
    np.testing.assert_array_equal(draw.numpy(), wanted)
    np.testing.assert_array_equal(normal(generator(7), (2, 3), dtype=torch.float32).numpy(), wanted.astype(np.float32))
    assert normal(generator(7), ()).shape == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normal_numbers_are_the_same_on_a_gpu():
    assert torch.equal(normal(generator(7), 5, device="cuda").cpu(), normal(generator(7), 5))
