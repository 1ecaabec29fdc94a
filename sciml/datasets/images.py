"""Grey photographs of one size that come with scikit-image, and noise to put on them.

Cost      milliseconds a photograph; nothing is fetched.
Pitfalls  photographs of one subject are no test of generality: keep those that hyperparameters are learned on apart
          from those that they are judged by. Values beyond 0 and 1 are kept where noise made them.
References  S. van der Walt et al., scikit-image: image processing in Python, PeerJ 2, 2014, e453.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.arrays import enter
from sciml.validation import check_number, check_option

__all__ = ["noisy", "photographs"]

# The eight photographs of a benchmark of learned regularisation, in the order that its noise is drawn in.
_SETS = {"sk8": ("camera", "astronaut", "coffee", "chelsea", "rocket", "brick", "grass", "gravel")}
# Those that a wheel of scikit-image holds; others of its names would be fetched.
_BUNDLED = (
    *_SETS["sk8"],
    *("cat", "cell", "clock", "coins", "colorwheel", "horse", "hubble_deep_field", "immunohistochemistry"),
    *("logo", "microaneurysms", "moon", "page", "retina", "text"),
)


def photographs(names="sk8", size=96):
    """Return photographs as grey squares of one size.

    A photograph is turned to luminance, its centred square is cut out and resized with anti-aliasing.

    Parameters
    ----------
    names : str or sequence of str
        Names of photographs, such as "camera", or the set "sk8" (the default): camera, astronaut, coffee, chelsea,
        rocket, brick, grass and gravel.
    size : int
        Rows and columns; 96 by default.

    Returns
    -------
    ndarray, shape (n, size, size), float64
        Luminance between 0 (black) and 1 (white), dimensionless.

    Raises
    ------
    ImportError
        If scikit-image is not installed; install it by ``pip install scikit-image``.
    InvalidInputError
        If a name is unknown, `names` is empty, or `size` is below 1.

    References
    ----------
    S. van der Walt et al., scikit-image: image processing in Python, PeerJ 2, 2014, e453.

    Examples
    --------
    >>> from sciml.datasets import photographs
    >>> photographs(["camera", "brick"], size=32).shape
    (2, 32, 32)
    """
    names = _SETS.get(names, (names,)) if isinstance(names, str) else tuple(names)
    size = check_number("size", size, low=1, integer=True)
    if not names:
        raise InvalidInputError("names must hold at least one photograph; got none. Pass 'sk8', or a list of names.")
    for name in names:
        check_option("names", name, _BUNDLED)
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "photographs needs scikit-image, which is not installed. Run pip install scikit-image, or pass images of "
            "your own, an array (n, rows, columns)."
        ) from error
    return np.stack([_grey_square(getattr(data, name)(), size) for name in names])


def _grey_square(image, size):
    """Return the centred square of a photograph in luminance, resized."""
    from skimage.color import rgb2gray
    from skimage.transform import resize
    from skimage.util import img_as_float64

    grey = rgb2gray(image[..., :3]) if image.ndim == 3 else img_as_float64(image)
    side = min(grey.shape)
    top, left = ((length - side) // 2 for length in grey.shape)
    return resize(grey[top : top + side, left : left + side], (size, size), anti_aliasing=True).astype(np.float64)


def noisy(images, sigma=0.1, seed=19):
    """Add independent normal noise.

    Parameters
    ----------
    images : array, any shape
        NumPy, torch or xarray.
    sigma : float
        Standard deviation of the noise, in the units of `images`; 0.1 by default.
    seed : int
        Seed of the torch generator that draws the noise of all images at once, on the CPU in float64, so that it is
        the same for every kind, dtype and device; 19 by default, that of the benchmark on the set "sk8".

    Returns
    -------
    array, shape as `images`
        Of their kind and dtype; values may lie beyond those of `images`.

    Raises
    ------
    InvalidInputError
        If `sigma` is negative, or an image is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.datasets import noisy
    >>> noisy(np.zeros(2), sigma=1.0, seed=0).round(4)
    array([ 1.541 , -0.2934])
    """
    import torch

    sigma = check_number("sigma", sigma, low=0)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InvalidTypeError(f"seed must be an integer; got {seed!r} of type {type(seed).__name__}.")
    (images,), leave = enter(images, names=("images",))
    draw = torch.randn(images.shape, generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float64)
    return leave(images + (sigma * draw).to(images))
