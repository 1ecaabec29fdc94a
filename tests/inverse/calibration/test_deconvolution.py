"""Blind deconvolution: kernels and signals from coded data, in time and in images, and what they are worth."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, IdentifiabilityError, InvalidInputError
from sciml.inverse.calibration import deconvolution
from sciml.inverse.calibration.coded_signals import CodedSignals, Taps, tap_columns
from sciml.inverse.calibration.deconvolution import blind_deconvolve
from sciml.random import generator
from sciml.results import load
from sciml.testing import check_adjoint


def held(x, shape, axes):
    """Every number held over a block of pixels, for the last axes."""
    for axis, (N, n) in enumerate(zip(shape, axes, strict=True)):
        x = np.take(x, np.arange(N) * n // N, axis=x.ndim - len(shape) + axis)
    return x


def problem(model, p, shape, axes, taps=None, *, is_complex=False, noise=0.0, seed=0, kernel=None, channels=()):
    """Received data, codes, kernel, signals and the standard deviation of the noise."""
    rng = generator(seed)

    def normal(*size):
        z = rng.standard_normal(size)
        return (z + 1j * rng.standard_normal(size)) / np.sqrt(2) if is_complex else z

    codes = rng.choice([-1.0, 1.0], shape if model == "snapshots" else (p, *shape))
    x = normal(*channels, *(axes if model == "repeated" else (p, *axes)))
    h = normal(*channels, *(taps or shape)) if kernel is None else np.asarray(kernel)
    along = tuple(range(-len(shape), 0))
    sent = held(x, shape, axes)
    sent = codes * (sent[(..., None, *[slice(None)] * len(shape))] if model == "repeated" else sent)
    H = np.fft.fftn(h, s=shape, axes=along)
    y = np.fft.ifftn(H[(..., None, *[slice(None)] * len(shape))] * np.fft.fftn(sent, axes=along), axes=along)
    y = y if is_complex else y.real
    sigma = noise * np.sqrt(np.mean(np.abs(y) ** 2))
    return y + sigma * normal(*y.shape), codes, h, x, sigma


def error(found, truth):
    """Distance after the best factor, relative."""
    found, truth = np.ravel(found), np.ravel(truth)
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return np.linalg.norm(factor * found - truth) / np.linalg.norm(truth)


CASES = [
    ("diverse", 3, (32,), (8,), None),
    ("diverse", 1, (32,), (8,), (5,)),
    ("diverse", 3, (30,), (7,), (4,)),
    ("repeated", 3, (32,), (32,), None),
    ("repeated", 2, (32,), (32,), (5,)),
    ("snapshots", 6, (32,), (8,), None),
    ("snapshots", 3, (32,), (8,), (4,)),
    ("diverse", 3, (8, 6), (4, 3), None),
    ("diverse", 2, (8, 6), (4, 3), (3, 2)),
    ("repeated", 3, (8, 6), (8, 6), (3, 3)),
]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(("model", "p", "shape", "axes", "taps"), CASES)
def test_exact_data_give_kernel_and_signals(model, p, shape, axes, taps, is_complex):
    y, codes, h, x, _ = problem(model, p, shape, axes, taps, is_complex=is_complex)
    found = blind_deconvolve(y, codes, signal_shape=axes, model=model, kernel_size=taps)
    assert found.kernel.shape == h.shape
    assert found.signals.shape == x.shape
    assert found.kernel.dtype == found.signals.dtype == y.dtype
    # The worst of these problems amplifies rounding by some 1e3.
    assert error(found.kernel, h) < 1e-11
    assert error(found.signals, x) < 1e-11
    # The product of both is what was received, whatever the gauge.
    factor = np.vdot(h, found.kernel) / np.vdot(h, h)
    assert_allclose(found.signals * factor, x, atol=1e-10)
    assert_allclose(np.linalg.norm(found.kernel), 1)
    assert found.converged


def test_largest_tap_is_positive_and_the_response_is_the_spectrum():
    for is_complex in (False, True):
        y, codes, h, *_ = problem("diverse", 3, (8, 6), (4, 3), (3, 2), is_complex=is_complex)
        for size in ((3, 2), None):
            found = blind_deconvolve(y, codes, signal_shape=(4, 3), kernel_size=size)
            k = found.kernel
            largest = k.ravel()[np.argmax(np.abs(k))]
            assert abs(largest.imag) < 1e-12
            assert largest.real > 0
            assert_allclose(found.response, np.fft.fftn(k, s=(8, 6), axes=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("taps", [None, (3,)])
def test_a_sum_of_one(taps):
    for is_complex in (False, True):
        y, codes, h, x, _ = problem("diverse", 3, (32,), (8,), (3,), is_complex=is_complex, seed=4)
        found = blind_deconvolve(y, codes, signal_shape=8, kernel_size=taps, gauge="sum")
        assert_allclose(found.kernel[:3], h / h.sum(), atol=1e-11)
        assert_allclose(found.signals, x * h.sum(), atol=1e-10)


def test_real_kernels_without_a_first_tap_are_real():
    # Their gains sum up to zero, so that the phase of these is arbitrary.
    y, codes, h, *_ = problem("diverse", 3, (32,), (8,), kernel=[0.0, 1.0, -0.5, 0.2])
    for size in (4, None):
        found = blind_deconvolve(y, codes, signal_shape=8, kernel_size=size)
        assert_allclose(found.kernel[:4], h / np.linalg.norm(h), atol=1e-11)


def test_centred_kernels_lie_around_delay_zero():
    y, codes, h, *_ = problem("diverse", 3, (9, 8), (3, 2), (3, 4))
    y = np.roll(y, (-1, -2), axis=(1, 2))
    found = blind_deconvolve(y, codes, signal_shape=(3, 2), kernel_size=(3, 4), kernel_centered=True)
    assert error(found.kernel, h) < 1e-11
    free = blind_deconvolve(y, codes, signal_shape=(3, 2), kernel_centered=True)
    assert error(free.kernel[3:6, 2:6], h) < 1e-11


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("gauge", ["norm", "sum"])
def test_errors_are_as_long_as_stated(is_complex, gauge):
    h = np.array([1.0, 0.8, 0.3, -0.2]) * (1 + 0.5j if is_complex else 1)
    ratios, noises = [], []
    for seed in range(20):
        options = {"is_complex": is_complex, "noise": 0.02, "seed": seed, "kernel": h}
        y, codes, _, _, sigma = problem("diverse", 3, (32,), (8,), **options)
        found = blind_deconvolve(y, codes, signal_shape=8, kernel_size=4, gauge=gauge)
        factor = 1 / h.sum() if gauge == "sum" else np.vdot(h, found.kernel) / np.vdot(h, h)
        ratios.append(np.sum(np.abs(found.kernel - factor * h) ** 2) / np.sum(found.kernel_std**2))
        noises.append(found.noise_std**2 / sigma**2)
    # Three directions, unevenly weighed: the ratio of a run has a standard deviation of at most sqrt(2) for real and 1
    # for complex data; 3.5 errors of the mean of 20.
    assert abs(np.mean(ratios) - 1) < 3.5 * (1 if is_complex else np.sqrt(2)) / np.sqrt(20)
    # 96 - 27 degrees of freedom a run.
    assert abs(np.mean(noises) - 1) < 4 * np.sqrt(2 / 69 / 20)


def test_a_short_kernel_is_found_better_than_a_free_one():
    y, codes, h, *_ = problem("diverse", 3, (64,), (16,), noise=0.02, kernel=[1.0, 0.8, 0.3])
    short = blind_deconvolve(y, codes, signal_shape=16, kernel_size=3)
    free = blind_deconvolve(y, codes, signal_shape=16)
    assert error(short.kernel, h) < 0.4 * error(free.kernel, np.r_[h, np.zeros(61)])
    assert np.linalg.norm(short.kernel_std) < 0.4 * np.linalg.norm(free.kernel_std)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kernel", [[1, 1, 1, 1], [1, 0, 0, 0, 1], [1, -2, 1]])
def test_frequencies_that_the_kernel_stops_are_no_obstacle(kernel, is_complex):
    zeros = np.flatnonzero(np.abs(np.fft.fft(kernel, 64)) < 1e-9)
    assert len(zeros)
    for noise, bound in ((0.0, 1e-12), (0.01, 5e-3)):
        options = {"is_complex": is_complex, "noise": noise, "kernel": np.array(kernel, dtype=float)}
        y, codes, h, *_ = problem("diverse", 3, (64,), (16,), **options)
        found = blind_deconvolve(y, codes, signal_shape=16, kernel_size=len(kernel))
        assert error(found.kernel, h) < bound
        assert np.isfinite(found.kernel_std).all()
        assert np.isfinite(found.response).all()
        assert not found.ambiguity
    y, codes, h, *_ = problem("diverse", 3, (64,), (16,), kernel=np.array(kernel, dtype=float))
    free = blind_deconvolve(y, codes, signal_shape=16, on_failure="ignore")
    assert free.lost_frequencies == [zeros.tolist()]
    assert error(free.kernel[: len(kernel)], h) < 1e-10
    assert np.isinf(free.kernel_std).all()


def test_channels_are_solved_each_by_itself():
    y, codes, h, x, _ = problem("diverse", 3, (8, 6), (4, 3), (3, 2), channels=(2, 2), noise=0.01)
    batch = blind_deconvolve(y, codes, signal_shape=(4, 3), kernel_size=(3, 2))
    assert batch.kernel.shape == (2, 2, 3, 2)
    assert batch.signals.shape == (2, 2, 3, 4, 3)
    assert batch.noise_std.shape == (2, 2)
    for i, j in np.ndindex(2, 2):
        one = blind_deconvolve(y[i, j], codes, signal_shape=(4, 3), kernel_size=(3, 2))
        assert_allclose(batch.kernel[i, j], one.kernel, atol=1e-9)
        assert_allclose(batch.kernel_std[i, j], one.kernel_std, rtol=1e-6)
        assert error(one.kernel, h[i, j]) < 0.05
    frame = batch.to_xarray()
    assert frame.kernel.dims == ("channel_0", "channel_1", "tap_0", "tap_1")
    assert frame.signals.dims == ("channel_0", "channel_1", "snapshot", "unknown_0", "unknown_1")


def test_units_shifts_and_order_do_not_matter():
    y, codes, *_ = problem("diverse", 3, (32,), (8,), (4,), noise=0.02)
    one = blind_deconvolve(y, codes, signal_shape=8, kernel_size=4)
    scaled = blind_deconvolve(1e6 * y, 1e-3 * codes, signal_shape=8, kernel_size=4)
    assert_allclose(scaled.kernel, one.kernel, atol=1e-9)
    assert_allclose(scaled.signals, 1e9 * one.signals, rtol=1e-6)
    turned = blind_deconvolve(y[::-1].copy(), codes[::-1].copy(), signal_shape=8, kernel_size=4)
    assert_allclose(turned.signals, one.signals[::-1], rtol=1e-6, atol=1e-8)
    wide = blind_deconvolve(np.roll(y, 2, axis=1), codes, signal_shape=8, kernel_size=6)
    # Two taps more are unknown: equal within the errors only.
    assert np.abs(wide.kernel[2:] - one.kernel).max() < 6 * wide.kernel_std.max()


def test_weights_leave_frequencies_out():
    y, codes, h, *_ = problem("diverse", 3, (32,), (8,), (4,))
    hum = 5 * np.cos(2 * np.pi * 7 * np.arange(32) / 32)
    W = np.ones(32)
    W[[7, 25]] = 0
    found = blind_deconvolve(y + hum, codes, signal_shape=8, kernel_size=4, weights=W)
    assert error(found.kernel, h) < 1e-11


def test_known_noise_gives_chi2():
    y, codes, *_, sigma = problem("diverse", 8, (64,), (16,), (4,), noise=0.02)
    found = blind_deconvolve(y, codes, signal_shape=16, kernel_size=4, noise_std=sigma)
    # 512 - 131 degrees of freedom.
    assert abs(found.chi2_reduced - 1) < 4 * np.sqrt(2 / 381)
    assert_allclose((found.noise_std / sigma) ** 2, found.chi2_reduced)


def test_kinds_of_arrays_and_precision(backend):
    y, codes, h, *_ = problem("diverse", 3, (32,), (8,), (4,))
    found = blind_deconvolve(backend.array(y), backend.array(codes), signal_shape=8, kernel_size=4)
    assert error(backend.numpy(found.kernel), h) < 1e-11
    short = blind_deconvolve(
        backend.array(y.astype("f4")), backend.array(codes.astype("f4")), signal_shape=8, kernel_size=4
    )
    assert backend.numpy(short.kernel).dtype == backend.numpy(short.signals).dtype == np.float32
    assert backend.numpy(short.response).dtype == np.complex64
    assert error(backend.numpy(short.kernel), h) < 1e-5


def test_the_measurement_is_its_matrix_and_has_its_adjoint(rng):
    for shape, axes, shared in (((12,), (5,), False), ((4, 6), (2, 3), False), ((4, 6), (2, 3), True)):
        codes = torch.from_numpy(rng.standard_normal(shape if shared else (3, *shape)))
        A = CodedSignals(codes, shape, axes, shared=shared)
        N, n = int(np.prod(shape)), int(np.prod(axes))
        through = [lambda z, f=f: f(torch.as_tensor(z)) for f in (A.forward, A.adjoint)]
        check_adjoint(*through, (3, n), (3, N), dtype="complex128")
        R = held(np.eye(n).reshape(n, *axes), shape, axes)
        wanted = np.fft.fftn(codes.numpy().reshape(-1, 1, *shape) * R, axes=range(2, 2 + len(shape)), norm="ortho")
        dense = np.asarray(A.to_dense()).reshape(-1, N, n)
        assert_allclose(dense, wanted.reshape(-1, n, N).swapaxes(1, 2), atol=1e-12)
        gram = np.swapaxes(dense, 1, 2).conj() @ dense
        assert_allclose(gram, np.broadcast_to(np.asarray(A.gram)[:, :, None] * np.eye(n), gram.shape), atol=1e-12)


def test_taps_and_columns_are_inverse(rng):
    taps, shape = [torch.arange(3) - 1, torch.arange(2)], (6, 5)
    h, B = torch.from_numpy(rng.standard_normal(6)) + 0j, tap_columns(taps, shape, "cpu")
    placed = np.zeros(shape)
    placed[np.ix_([5, 0, 1], [0, 1])] = h.real.reshape(3, 2)
    assert_allclose(B @ h, np.fft.fftn(placed).ravel(), atol=1e-12)
    assert_allclose(Taps(taps, shape, None)(B @ h), h, atol=1e-12)
    lost = torch.zeros(30, dtype=torch.bool)
    lost[[0, 7, 8]] = True
    assert_allclose(Taps(taps, shape, lost)((B @ h).masked_fill(lost, 0)), h, atol=1e-12)


def test_an_early_end_is_told():
    y, codes, *_ = problem("diverse", 3, (32,), (8,), (4,), noise=0.05)
    with pytest.warns(ConvergenceWarning, match="stopped after 1 iterations"):
        blind_deconvolve(y, codes, signal_shape=8, kernel_size=4, max_iter=1)


def test_too_few_data_are_refused():
    y, codes, *_ = problem("diverse", 1, (32,), (8,))
    with pytest.raises(IdentifiabilityError, match="1 more|missing"):
        blind_deconvolve(y, codes, signal_shape=8)
    with pytest.raises(IdentifiabilityError, match="missing"):
        blind_deconvolve(y, codes, signal_shape=8, kernel_size=26)
    with pytest.raises(IdentifiabilityError, match="fewer columns"):
        blind_deconvolve(y, codes)


BAD = [
    (lambda y, c: dict(codes=c[:2]), r"codes must be as long as y, one for each of its 3.*\(2, 32\)"),
    (lambda y, c: dict(codes=c[:, :30]), r"codes must be as long as y.*shape \(32,\).*\(3, 30\)"),
    (lambda y, c: dict(codes=c[None]), r"codes must have shape \(p, \*shape\).*\(1, 3, 32\)"),
    (lambda y, c: dict(y=np.where(y == y[1, 2], np.nan, y)), r"y must be finite.*\(1, 2\)"),
    (lambda y, c: dict(model="blind"), "model must be one of 'auto'"),
    (lambda y, c: dict(gauge="peak"), "gauge must be one of 'norm', 'sum'; got 'peak'"),
    (lambda y, c: dict(signal_shape=33), "signal_shape must be an integer at least 1 and at most 32; got 33"),
    (lambda y, c: dict(kernel_size=0), "kernel_size must be an integer at least 1 and at most 32; got 0"),
    (lambda y, c: dict(kernel_size=(2, 2)), r"kernel_size must be a number or hold one for each of 1 axes.*\(2, 2\)"),
    (lambda y, c: dict(weights=np.ones(31)), r"weights must have shape \(32,\).*\(31,\)"),
    (lambda y, c: dict(weights=np.arange(32.0)), "weights must be the same at opposite frequencies"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_bad_input_is_named(change, text):
    y, codes, *_ = problem("diverse", 3, (32,), (8,), (4,))
    with pytest.raises(InvalidInputError, match=text):
        blind_deconvolve(**{"y": y, "codes": codes, "signal_shape": 8, "kernel_size": 4, **change(y, codes)})


def test_kernels_without_a_sum_are_refused_as_such():
    y, codes, *_ = problem("diverse", 3, (32,), (8,), kernel=[1.0, -2.0, 1.0])
    with pytest.raises(InvalidInputError, match="gauge must be 'norm'"):
        blind_deconvolve(y, codes, signal_shape=8, kernel_size=3, gauge="sum")


@pytest.mark.parametrize("gauge", ["norm", "sum"])
def test_two_taps_that_sum_up_to_one_have_one_error(gauge):
    y, codes, *_ = problem("diverse", 3, (32,), (8,), (2,), noise=0.02)
    std = blind_deconvolve(y, codes, signal_shape=8, kernel_size=2, gauge=gauge).kernel_std
    assert (abs(std[0] / std[1] - 1) < 1e-9) == (gauge == "sum")


@pytest.mark.parametrize(
    ("model", "axes", "is_complex"),
    [("diverse", (16, 16), False), ("repeated", (64, 50), False), ("diverse", (8, 10), True)],
)
def test_large_images_give_the_taps_with_errors_by_transforms(model, axes, is_complex):
    ratios = []
    for seed in range(4):
        options = {"is_complex": is_complex, "noise": 0.02, "seed": seed}
        y, codes, h, x, sigma = problem(model, 3, (64, 50), axes, (3, 4), **options)
        found = blind_deconvolve(y, codes, signal_shape=axes, kernel_size=(3, 4), model=model)
        assert found.converged
        assert error(found.signals, x) < 0.1
        assert_allclose(found.response, np.fft.fftn(found.kernel, s=(64, 50), axes=(0, 1)), atol=1e-12)
        assert abs(found.noise_std / sigma - 1) < 0.05
        factor = np.vdot(h, found.kernel) / np.vdot(h, h)
        ratios.append(np.sum(np.abs(found.kernel - factor * h) ** 2) / np.sum(found.kernel_std**2))
    # Eleven directions or more a run, unevenly weighed: standard deviations of at most 0.6.
    assert abs(np.mean(ratios) - 1) < 3.5 * 0.6 / 2


def test_taps_by_transforms_are_those_of_the_dense_way(monkeypatch):
    for model, axes in (("diverse", (4, 3)), ("repeated", (8, 6))):
        y, codes, *_ = problem(model, 3, (8, 6), axes, (3, 2), noise=0.02, channels=(2,))
        W = 1 + np.cos(np.add.outer(2 * np.pi * np.arange(8) / 8, 2 * np.pi * np.arange(6) / 6)) / 2
        options = {"signal_shape": axes, "kernel_size": (3, 2), "model": model, "weights": W, "noise_std": 0.3}
        dense = blind_deconvolve(y, codes, **options)
        with monkeypatch.context() as patch:
            patch.setattr(deconvolution, "_DENSE", 10)
            sparse = blind_deconvolve(y, codes, **options)
        assert_allclose(sparse.kernel, dense.kernel, atol=1e-6)
        assert_allclose(sparse.signals, dense.signals, atol=1e-5 * np.abs(dense.signals).max())
        assert_allclose(sparse.noise_std, dense.noise_std, rtol=1e-6)
        assert_allclose(sparse.chi2_reduced, dense.chi2_reduced, rtol=1e-6)
        # The dense errors are corrected for the noise in what they are made of: a part as large as the noise.
        assert_allclose(sparse.kernel_std, dense.kernel_std, rtol=0.05)


def test_large_signals_go_by_transforms():
    y, codes, h, x, _ = problem("diverse", 4, (64, 64), (16, 32), noise=0.01, kernel=[[3.0, 1.0], [1.0, 0.5]])
    found = blind_deconvolve(y, codes, signal_shape=(16, 32))
    assert error(found.kernel[:2, :2], h) < 0.01
    assert error(found.signals, x) < 0.03
    assert found.kernel_std is None


def test_result_is_saved_and_loaded(tmp_path):
    y, codes, *_ = problem("diverse", 3, (8, 6), (4, 3), (3, 2))
    found = blind_deconvolve(y, codes, signal_shape=(4, 3), kernel_size=(3, 2))
    again = load(found.save(tmp_path / "kernel.npz"))
    assert_allclose(again.kernel, found.kernel)
    assert again.axes_count == 2
    assert found.calibration.model == "diverse"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"y": None}, "y must be an array"),
        ({"codes": None}, "codes must be"),
        ({"codes": np.zeros((3, 32))}, "not be zero"),
    ],
)
def test_nothing_received_or_sent_is_refused(change, text):
    y, codes, *_ = problem("diverse", 3, (32,), (8,), (4,))
    with pytest.raises(InvalidInputError, match=text):
        blind_deconvolve(**{"y": y, "codes": codes, "signal_shape": 8, "kernel_size": 4, **change})
