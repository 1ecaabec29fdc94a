"""Photographs come from what is installed, and their noise is the same everywhere."""

import builtins
import socket

import numpy as np
import pytest
import torch
import xarray as xr

from sciml.datasets import noisy, photographs
from sciml.datasets.images import _BUNDLED
from sciml.exceptions import InvalidInputError, InvalidTypeError


@pytest.fixture(scope="module")
def eight():
    return photographs("sk8")


def test_the_benchmark_is_reproduced_to_its_last_digit(eight):
    x = torch.from_numpy(eight)
    assert x.shape == (8, 96, 96)
    assert x.dtype == torch.float64
    y = noisy(x, 0.1, 19)
    assert float(((y - x) ** 2).sum() / 16) == pytest.approx(46.402536, abs=5e-7)
    # Mean luminance of each photograph, recorded when the smoothed total variation of the set gave 11.526322.
    means = [0.5061, 0.4419, 0.3592, 0.4516, 0.2633, 0.4371, 0.4636, 0.4962]
    np.testing.assert_allclose(eight.mean((1, 2)), means, atol=6e-5)


def test_photographs_are_grey_between_black_and_white(eight):
    assert eight.min() >= 0
    assert eight.max() <= 1
    assert (eight.std((1, 2)) > 0.05).all()


def test_one_name_gives_the_photograph_of_the_set(eight):
    np.testing.assert_array_equal(photographs("coffee")[0], eight[2])
    np.testing.assert_array_equal(photographs(["brick", "camera"]), eight[[5, 0]])


def test_every_name_is_shipped_and_nothing_is_fetched(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"a photograph would be fetched from {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = photographs(_BUNDLED, size=8)
    assert images.shape == (len(_BUNDLED), 8, 8)
    assert np.isfinite(images).all()


def test_the_crop_is_centred():
    from skimage import data
    from skimage.color import rgb2gray
    from skimage.transform import resize

    cat = rgb2gray(data.chelsea())  # 300 rows, 451 columns: 75 columns are left out on the left, 76 on the right
    np.testing.assert_array_equal(photographs("chelsea", 50)[0], resize(cat[:, 75:375], (50, 50), anti_aliasing=True))


def test_the_noise_is_the_same_for_every_kind_and_dtype():
    clean = np.linspace(0, 1, 24).reshape(2, 3, 4)
    plain = noisy(clean, 0.2, 3)
    framed = noisy(xr.DataArray(clean, dims=("n", "y", "x"), coords={"n": [5, 7]}), 0.2, 3)
    short = noisy(torch.from_numpy(clean).float(), 0.2, 3)
    assert framed.coords["n"].values.tolist() == [5, 7]
    np.testing.assert_array_equal(framed.values, plain)
    assert short.dtype == torch.float32
    np.testing.assert_allclose(short.numpy(), plain, rtol=0, atol=1e-6)  # rounding to float32
    assert (noisy(clean, 0.2, 4) != plain).all()
    np.testing.assert_array_equal(noisy(clean, 0.0, 3), clean)


def test_the_noise_has_the_deviation_asked_for():
    # 4 standard errors of the standard deviation of 40 000 normal numbers.
    assert noisy(np.zeros(40_000), 0.5, 0).std() == pytest.approx(0.5, rel=4 / np.sqrt(80_000))


def test_without_scikit_image_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **options):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        photographs("camera")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: photographs("camera_"), InvalidInputError, "names must be one of .*'camera_'. Did you mean 'camera'"),
        (lambda: photographs([]), InvalidInputError, "names must hold at least one"),
        (lambda: photographs("camera", size=0), InvalidInputError, "size must be an integer at least 1; got 0"),
        (lambda: noisy(np.ones(2), -0.1), InvalidInputError, "sigma must be a number at least 0; got -0.1"),
        (lambda: noisy(np.array([1.0, np.nan])), InvalidInputError, "images must be finite; the entry at index 1"),
        (lambda: noisy(np.ones(2), 0.1, "a"), InvalidTypeError, "seed must be an integer; got 'a' of type str"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
