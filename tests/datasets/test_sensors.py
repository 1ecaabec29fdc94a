"""Measured snapshots come from what is installed, and models of them hold only nearly."""

import builtins
import socket

import numpy as np
import pytest

from sciml.datasets import gain_pattern, measured_snapshots, photographs
from sciml.exceptions import InvalidInputError


def residual(z, A):
    Q = np.linalg.qr(A)[0]
    return np.linalg.norm(z - z @ Q @ Q.T) / np.linalg.norm(z)


@pytest.mark.parametrize(
    ("source", "basis", "n", "shape", "share"),
    [
        ("digits", "dct", 9, (1797, 52), 0.49),
        ("digits", "dct", 25, (1797, 52), 0.28),
        ("digits", "pca", 24, (898, 52), 0.16),
        ("patches", "dct", 9, (1152, 64), 0.11),
        ("patches", "dct", 36, (1152, 64), 0.05),
        ("patches", "pca", 16, (576, 64), 0.08),
    ],
)
def test_models_hold_only_nearly(source, basis, n, shape, share):
    z, A = measured_snapshots(source, basis, n)
    assert z.shape == shape
    assert A.shape == (shape[1], n)
    assert z.dtype == A.dtype == np.float64
    assert residual(z, A) == pytest.approx(share, abs=0.006)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    z, _ = measured_snapshots()
    full = load_digits().data
    seen = (full**2).sum(0) > 0.01 * np.median((full**2).sum(0))
    np.testing.assert_array_equal(z, full[:, seen])
    assert z.max() == 16


def test_patches_tile_the_photographs():
    z, _ = measured_snapshots("patches")
    camera = photographs("camera", size=96)[0]
    np.testing.assert_array_equal(z[0].reshape(8, 8), camera[:8, :8])
    np.testing.assert_array_equal(z[13].reshape(8, 8), camera[8:16, 8:16])


def test_smooth_images_are_in_the_cosine_model():
    _, A = measured_snapshots("patches", "dct", 4)
    np.testing.assert_allclose(A.T @ A, np.eye(4), atol=1e-14)
    row = np.cos(np.pi * (np.arange(8) + 0.5) / 8)
    assert residual((3 + np.outer(row, row)).reshape(1, -1), A) < 1e-14


def test_principal_directions_are_learnt_from_the_other_half():
    z, A = measured_snapshots("patches", "pca", 5)
    full, _ = measured_snapshots("patches", "dct", 4)
    np.testing.assert_array_equal(z, full[1::2])
    top = np.linalg.svd(full[::2], full_matrices=False)[2][:5]
    np.testing.assert_allclose(abs(top @ A), np.eye(5), atol=1e-10)


def test_nothing_is_fetched(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"data would be fetched from {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert all(np.isfinite(measured_snapshots(source)[0]).all() for source in ("digits", "patches"))


def test_gains_have_the_spread_and_the_phases_asked_for():
    m = 20_000
    for kind in ("positive", "signs", "phases"):
        gains = gain_pattern(m, 0.3, kind, 5)
        # 4 standard errors of the deviation of normal numbers.
        assert np.log(abs(gains)).std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * m))
        mean = abs((gains / abs(gains)).mean())
        assert mean == 1 if kind == "positive" else mean < 4 / np.sqrt(m)
        np.testing.assert_array_equal(gains, gain_pattern(m, 0.3, kind, np.random.default_rng(5)))
    assert gain_pattern(4, kind="phases").dtype == np.complex128
    assert (gain_pattern(40, kind="signs") < 0).any()


def test_without_scikit_learn_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        measured_snapshots()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: measured_snapshots("digit"), "source must be one of .*Did you mean 'digits'"),
        (lambda: measured_snapshots(basis="dft"), "basis must be one of"),
        (lambda: measured_snapshots(n=15), "n must be the square of a number from 1 to 7 .*got 15"),
        (lambda: measured_snapshots(n=64), "n must be the square of a number from 1 to 7 .*got 64"),
        (lambda: measured_snapshots(basis="pca", n=52), "n must be below the number of sensors, 52; got 52"),
        (lambda: measured_snapshots(n=0), "n must be an integer at least 1; got 0"),
        (lambda: gain_pattern(0), "m must be an integer at least 1; got 0"),
        (lambda: gain_pattern(3, -1), "spread must be a number at least 0; got -1"),
        (lambda: gain_pattern(3, kind="phase"), "kind must be one of .*Did you mean 'phases'"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()
