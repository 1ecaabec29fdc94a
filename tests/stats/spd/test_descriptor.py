"""Descriptors: units, order, form of the data; one grid equals its parts; nothing of the test data is learned."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.augmented import augmented_covariance
from sciml.stats.spd.descriptor import Descriptor, descriptor_grid
from sciml.stats.spd.trials import as_trials

KINDS = [
    Descriptor(),
    Descriptor(n_basis=3),
    Descriptor(n_basis=1, order=3, lag=4),
    Descriptor(order=2, lag=5, lag_estimator="toeplitz"),
    Descriptor(n_basis=2, order=2, lag=5, lag_estimator="toeplitz", shrink=0.1),
    Descriptor(estimator="oas", n_basis=1),
    Descriptor(prototypes=True),
    Descriptor(prototypes=True, xdawn=1, n_basis=1),
    Descriptor(bands=((0.05, 0.2), (0.2, 0.4)), order=2, lag=2),
    Descriptor(bands=((0.05, 0.2), (0.2, 0.5)), prototypes=True, band_layout="block", n_basis=1),
]
Y = np.arange(8) % 2


@pytest.fixture
def x(rng):
    return rng.normal(size=(8, 3, 60)).cumsum(axis=2) + 4.0


def matrices(descriptor, x, y=Y):
    return descriptor.matrices(x, descriptor.fit(x, y))


@pytest.mark.parametrize("descriptor", KINDS, ids=lambda d: d.label)
class TestEveryDescriptor:
    def test_units_leave_no_trace(self, descriptor, x):
        expected = matrices(descriptor, x)
        for k in (-60, -20, 20, 60):
            assert_array_equal(matrices(descriptor, 2.0**k * x), expected)
        for unit in (1e-6, 1e6):
            assert_allclose(matrices(descriptor, unit * x), expected, rtol=0, atol=1e-10 * np.abs(expected).max())

    def test_a_list_and_an_array_are_the_same(self, descriptor, x):
        assert_array_equal(matrices(descriptor, list(x)), matrices(descriptor, x))

    def test_trials_are_described_one_by_one(self, descriptor, x):
        state = descriptor.fit(x, Y)
        whole = descriptor.matrices(x, state)
        for rows in ([3], [5, 0, 2]):
            part = descriptor.matrices(x[rows], state)
            assert_allclose(part, whole[rows], rtol=0, atol=1e-13 * np.abs(whole).max())

    def test_symmetric_regular_and_as_large_as_named(self, descriptor, x):
        state = descriptor.fit(x, Y)
        M = descriptor.matrices(x, state)
        assert M.dtype == np.float64
        assert_array_equal(M, M.swapaxes(-1, -2))
        assert (np.linalg.eigvalsh(M)[..., 0] > 0).all()
        n_prototypes = state["prototypes"].shape[1] if descriptor.prototypes else 0
        names = descriptor.names(("a", "b", "c"), n_prototypes)
        assert len(names) == len(set(names)) == M.shape[-1]

    def test_the_data_are_not_changed(self, descriptor, x):
        before = x.copy()
        matrices(descriptor, x)
        assert_array_equal(x, before)

    def test_settings_make_it_again(self, descriptor, x):
        assert Descriptor(**descriptor.settings()) == descriptor
        assert hash(Descriptor(**descriptor.settings())) == hash(descriptor)

    def test_the_state_holds_arrays_and_numbers_only(self, descriptor, x):
        state = descriptor.fit(x, Y)
        assert all(isinstance(value, (int, float, np.ndarray)) for value in state.values())


def test_a_grid_equals_its_parts(x):
    states = [d.fit(x, Y) for d in KINDS]
    banks = {}
    for _ in range(2):
        for descriptor, state, M in zip(KINDS, states, descriptor_grid(x, KINDS, states, banks=banks), strict=True):
            assert_array_equal(M, descriptor.matrices(x, state))


def test_trials_of_unequal_length_are_described_as_if_alone(x):
    series = [x[0], x[1, :, :40], x[2, :, :50], x[3, :, :40]]
    descriptor = Descriptor(n_basis=2, order=2, lag=3)
    state = descriptor.fit(series)
    M = descriptor.matrices(series, state)
    for i, t in enumerate(series):
        assert_allclose(M[i], descriptor.matrices(t[None], state)[0], rtol=0, atol=1e-13 * np.abs(M).max())


def test_the_scale_is_the_rms_of_training_trials_about_their_means(x):
    state = Descriptor().fit(x)
    assert_allclose(state["scale"], np.sqrt(x.var(axis=2).mean()), rtol=1e-14)
    assert_array_equal(Descriptor(scale=None).fit(x)["scale"], [1.0])
    unequal = [x[0], x[1, :, :40]]  # each trial counts the same
    assert_allclose(
        Descriptor().fit(unequal)["scale"] ** 2, (unequal[0].var(axis=1).mean() + unequal[1].var(axis=1).mean()) / 2
    )


def test_test_trials_teach_nothing(x, rng):
    for descriptor in KINDS:
        state = descriptor.fit(x[:4], Y[:4])
        alone = descriptor.matrices(x[4:6], state)
        with_others = descriptor.matrices(np.concatenate([x[4:6], 1e3 * rng.normal(size=(2, 3, 60))]), state)[:2]
        assert_allclose(with_others, alone, rtol=0, atol=1e-13 * np.abs(alone).max())


def test_without_shrinkage_and_scale_it_is_the_plain_matrix(x):
    descriptor = Descriptor(order=3, lag=2, shrink=0, scale=None)
    assert_array_equal(matrices(descriptor, x), augmented_covariance(x, 3, 2))


def test_blocks_of_bands_are_the_stack(x):
    bands = ((0.05, 0.2), (0.2, 0.4))
    stack, block = (matrices(Descriptor(bands=bands, band_layout=kind), x) for kind in ("stack", "block"))
    assert stack.shape == (8, 2, 3, 3)
    assert_array_equal(block[:, :3, :3], stack[:, 0])
    assert_array_equal(block[:, 3:, 3:], stack[:, 1])
    assert not block[:, :3, 3:].any()


def test_matrices_are_scaled_and_shrunk(x):
    C = x @ x.transpose(0, 2, 1)
    level = np.trace(C, axis1=1, axis2=2).mean() / 3
    own = np.trace(C, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    assert_allclose(matrices(Descriptor(shrink=0.1), C), (0.9 * C + 0.1 * own) / level, rtol=1e-12)
    assert_array_equal(matrices(Descriptor(shrink=0, scale=None), C), C)


@pytest.mark.parametrize("options", [{"n_basis": 1}, {"order": 2}, {"bands": ((0.1, 0.2),)}, {"prototypes": True}])
def test_matrices_have_no_series(options, x):
    with pytest.raises(InvalidInputError, match="needs series"):
        Descriptor(**options).fit(x @ x.transpose(0, 2, 1), Y)


def test_a_short_trial_is_named(x):
    series = [x[0], x[1], x[2, :, :12], x[3]]
    with pytest.raises(InvalidInputError, match=r"order \* lag = 3 \* 4 = 12 samples; trial 2 has 12"):
        matrices(Descriptor(order=3, lag=4), series)
    with pytest.raises(InvalidInputError, match="n_basis=13, and trial 2 leaves 12"):
        matrices(Descriptor(n_basis=13), series)


def test_a_constant_trial_is_named_unless_its_level_is_kept(x):
    x[5] = np.array([[0.1], [0.2], [0.3]])
    with pytest.raises(InvalidInputError, match="trial 5 is constant"):
        matrices(Descriptor(), x)
    M = matrices(Descriptor(n_basis=1, scale=None), x)
    assert_allclose(M[5, :3, 3], [0.1, 0.2, 0.3], rtol=1e-12)


def test_other_channels_are_refused(x):
    descriptor = Descriptor()
    with pytest.raises(InvalidInputError, match="the 3 channels of the training trials; got 2"):
        descriptor.matrices(x[:, :2], descriptor.fit(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_basis": -1}, "n_basis must be"),
        ({"order": 0}, "order must be"),
        ({"shrink": 2}, "shrink must be"),
        ({"estimator": "ml"}, "estimator must be"),
        ({"scale": "std"}, "scale must be"),
        ({"xdawn": 2}, "xdawn goes with"),
        ({"bands": ((0.3, 0.2),)}, "bands must satisfy"),
        ({"lag_estimator": "toeplitz", "estimator": "lw"}, "goes with"),
        ({"band_layout": "sum"}, "band_layout must be"),
    ],
)
def test_bad_options_are_told(options, text):
    with pytest.raises(InvalidInputError, match=text):
        Descriptor(**options)


def test_states_must_be_as_many_as_descriptors(x):
    with pytest.raises(InvalidInputError, match="got 1 for 2"):
        descriptor_grid(as_trials(x), KINDS[:2], [{}])


def test_labels_tell_what_is_done():
    assert Descriptor().label == "covariance"
    assert Descriptor(n_basis=3, estimator="lw").label == "time basis 3, lw"
    assert Descriptor(bands=((0.1, 0.2),), prototypes=True).label == "prototypes, 1 bands"
