r"""Measured snapshots of sensor arrays whose signals lie only nearly in a known subspace, and gains to put on them.

The pixels of scanned digits, or of a small camera that looks at parts of photographs, are the sensors; every image is a
snapshot z (m,). A model says z = A x with a small matrix A (m, n): smooth images, or what training images span. It
holds only approximately, and what it leaves out has a structure that all snapshots share. Gains d make of them the data
d * z, with a truth to compare with.

Cost      milliseconds; nothing is fetched.
Pitfalls  these are no data to test consistency with: for n from 9 to 25 residuals hold from 16 to 49 % of the amplitude
          of the digits, from 5 to 11 % of that of the photographs. Pixels of digits that are hardly ever inked are left
          out, so that digits have 52 sensors.
References  E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI repository, 1998 (8 by 8 counts of
          inked pixels, from 0 to 16). S. van der Walt et al., scikit-image: image processing in Python, PeerJ 2, 2014,
          e453.
"""

import math

import numpy as np

from sciml.datasets.images import photographs
from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.validation import check_number, check_option

__all__ = ["gain_pattern", "measured_snapshots"]

_SIDE = 8


def measured_snapshots(source="digits", basis="dct", n=16):
    """Return measured snapshots and the matrix of a model that holds for them only approximately.

    Parameters
    ----------
    source : {"digits", "patches"}
        "digits" (the default): 1797 scanned digits of scikit-learn, counts between 0 and 16, 52 sensors. "patches": the
        1152 squares of 8 by 8 pixels of eight photographs of scikit-image at 96 by 96, luminance between 0 and 1, 64
        sensors.
    basis : {"dct", "pca"}
        "dct" (the default): the lowest frequencies of the two-dimensional discrete cosine transform, smooth images;
        what is left out is correlated with what is kept. "pca": the principal directions, about the origin, of every
        second snapshot; the others are returned, so that none of them was trained on.
    n : int
        Columns; 16 by default. For "dct" the square of a number up to 7; residuals fall with n.

    Returns
    -------
    snapshots : ndarray, shape (p, m), float64
        In the units above.
    A : ndarray, shape (m, n), float64
        Dimensionless; columns orthonormal but for the pixels left out.

    Raises
    ------
    ImportError
        If scikit-learn, or scikit-image for patches, is not installed.
    InvalidInputError
        If a word is unknown, or n does not fit.

    References
    ----------
    E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI repository, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.datasets import measured_snapshots
    >>> z, A = measured_snapshots("digits", n=16)
    >>> z.shape, A.shape
    ((1797, 52), (52, 16))
    >>> Q = np.linalg.qr(A)[0]
    >>> round(float(np.linalg.norm(z - z @ Q @ Q.T) / np.linalg.norm(z)), 2)
    0.4
    """
    check_option("source", source, ("digits", "patches"))
    check_option("basis", basis, ("dct", "pca"))
    n = check_number("n", n, low=1, integer=True)
    z = _digits() if source == "digits" else _patches()
    # A pixel that is dark in nearly all digits tells nothing of its gain.
    energy = np.square(z).sum(0)
    seen = energy > 0.01 * np.median(energy)
    if basis == "dct":
        k = math.isqrt(n)
        if k * k != n or k >= _SIDE:
            raise InvalidInputError(
                f"n must be the square of a number from 1 to {_SIDE - 1} for basis='dct'; got {n}. Pass 16, or "
                "basis='pca'."
            )
        grid = np.cos(np.pi * (np.arange(_SIDE)[:, None] + 0.5) * np.arange(k) / _SIDE)
        grid /= np.linalg.norm(grid, axis=0)
        return z[:, seen], np.kron(grid, grid)[seen]
    if n >= seen.sum():
        raise InvalidInputError(f"n must be below the number of sensors, {seen.sum()}; got {n}. Pass 16.")
    directions = np.linalg.svd(z[::2, seen], full_matrices=False)[2]
    return z[1::2, seen], directions[:n].T.copy()


def gain_pattern(m, spread=0.4, kind="positive", random_state=0):
    """Draw gains of m sensors.

    Parameters
    ----------
    m : int
        Number of sensors.
    spread : float
        Standard deviation of the logarithm of the modulus, dimensionless; 0.4 by default, 0 for moduli of one.
    kind : {"positive", "signs", "phases"}
        Real and positive (the default), real with random signs, or complex with uniform phases.
    random_state : None, int or numpy.random.Generator
        Seed; 0 by default.

    Returns
    -------
    ndarray, shape (m,), float64 or complex128
        Gains, dimensionless.

    Raises
    ------
    InvalidInputError
        If m is below one, the spread negative, or the kind unknown.

    Examples
    --------
    >>> from sciml.datasets import gain_pattern
    >>> gain_pattern(3, spread=0)
    array([1., 1., 1.])
    """
    m = check_number("m", m, low=1, integer=True)
    spread = check_number("spread", spread, low=0)
    check_option("kind", kind, ("positive", "signs", "phases"))
    rng = generator(random_state)
    modulus = np.exp(spread * rng.standard_normal(m))
    if kind == "signs":
        return modulus * rng.choice([-1.0, 1.0], m)
    return modulus * np.exp(2j * np.pi * rng.random(m)) if kind == "phases" else modulus


def _digits():
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "measured_snapshots('digits') needs scikit-learn, which is not installed. Run pip install scikit-learn, or "
            "pass source='patches'."
        ) from error
    return datasets.load_digits().data.astype(np.float64)


def _patches():
    images = photographs("sk8", size=12 * _SIDE)
    return images.reshape(-1, 12, _SIDE, 12, _SIDE).transpose(0, 1, 3, 2, 4).reshape(-1, _SIDE * _SIDE)
