"""Random numbers: one generator from whatever the user gave, and children of it for independent tasks.

The same int gives the same draw with NumPy, with torch on the CPU and on a GPU, since numbers are drawn on the CPU and
moved. No function here touches a global seed.
"""

import numbers

import numpy as np

from sciml.exceptions import InvalidInputError


def generator(random_state=None):
    """Return a NumPy generator.

    Parameters
    ----------
    random_state : None, int or numpy.random.Generator
        None (the default) draws a fresh seed, an int not below 0 is the seed, a generator is used itself and moves on.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    InvalidInputError
        For anything else; a legacy ``RandomState`` is refused, since its streams cannot be spawned.

    Examples
    --------
    >>> generator(0).integers(100, size=3)
    array([85, 63, 51])
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    is_int = isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool)
    if random_state is None or (is_int and random_state >= 0):
        return np.random.default_rng(random_state)
    hint = "Pass an int, or numpy.random.default_rng(seed)."
    if isinstance(random_state, np.random.RandomState):
        hint = "Pass numpy.random.default_rng(seed) in place of the legacy RandomState."
    raise InvalidInputError(
        "random_state must be None, an int not below 0 or a numpy.random.Generator; "
        f"got {random_state!r} of type {type(random_state).__name__}. {hint}"
    )


def spawn(rng, n):
    """Return independent generators, one for each task.

    Parameters
    ----------
    rng : numpy.random.Generator
        The parent; it remembers how many children it has had, so a second call gives others.
    n : int
        How many.

    Returns
    -------
    list of numpy.random.Generator

    Raises
    ------
    InvalidInputError
        If the parent was made from a bit generator without a seed sequence.

    Examples
    --------
    >>> [int(child.integers(100)) for child in spawn(generator(0), 3)]
    [80, 66, 65]
    """
    try:
        return rng.spawn(n)
    except TypeError as error:
        raise InvalidInputError(
            f"random_state must be a generator that can be spawned: {error}. Make it by numpy.random.default_rng(seed)."
        ) from None


def torch_generator(rng, device="cpu"):
    """Return a torch generator seeded by a NumPy one.

    Its draws differ from one device to another: use :func:`normal` where the same draw everywhere matters.

    Parameters
    ----------
    rng : numpy.random.Generator
        Gives one integer and moves on.
    device : str or torch.device
        Where the torch generator draws; the CPU by default.

    Returns
    -------
    torch.Generator

    Examples
    --------
    >>> torch_generator(generator(0)).device
    device(type='cpu')
    """
    import torch

    return torch.Generator(device=device).manual_seed(int(rng.integers(2**63 - 1)))


def normal(rng, shape, *, device=None, dtype=None):
    """Return standard normal numbers as a torch tensor, the same on every device.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source; drawn on the CPU in float64, so that the dtype does not change the stream.
    shape : int or tuple of int
        Shape of the answer.
    device : str, torch.device or None
        Where the tensor lives; the CPU by default.
    dtype : torch.dtype or None
        Floating dtype of the tensor; float64 by default.

    Returns
    -------
    torch.Tensor, shape `shape`
        Dimensionless.

    Examples
    --------
    >>> normal(generator(0), 2).numpy().round(3)
    array([ 0.126, -0.132])
    """
    import torch

    draw = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
    return draw.to(device=device or "cpu", dtype=dtype or torch.float64)
