"""Does an operator's adjoint belong to it?  For all x and y, <A x, y> = <x, A^H y>."""

import math

import numpy as np

from sciml.random import generator
from sciml.testing._arrays import as_numpy


def check_adjoint(forward, adjoint, shape_in, shape_out, *, dtype="float64", rtol=None, n_trials=3, random_state=0):
    r"""Check that :math:`\langle A x, y \rangle = \langle x, A^H y \rangle` for random vectors.

    Parameters
    ----------
    forward, adjoint : callable
        ``forward(x)`` of shape `shape_out` and ``adjoint(y)`` of shape `shape_in`; they are given and may return
        NumPy arrays or CPU tensors.
    shape_in, shape_out : int or tuple of int
        Shapes of x and y.
    dtype : {"float64", "float32", "complex128", "complex64"}
        Of the vectors; a complex one also notices a missing conjugate. float64 by default.
    rtol : float or None
        Bound on ``|<A x, y> - <x, A^H y>| / (|A x| |y| + |x| |A^H y|)``; None (the default) takes 100 eps times the
        square root of the longer vector's length, a generous bound for the rounding of two inner products.
    n_trials : int
        Pairs of vectors; 3 by default, since one random pair misses a wrong adjoint with probability zero already.
    random_state : None, int or numpy.random.Generator
        0 by default, so that a failure comes again.

    Returns
    -------
    float
        The largest mismatch found, relative as above.

    Raises
    ------
    AssertionError
        If the mismatch exceeds `rtol` or is no number, a shape is wrong, or both products vanish.

    Examples
    --------
    >>> A = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 4.0]])
    >>> check_adjoint(lambda x: A @ x, lambda y: A.T @ y, 3, 2) < 1e-14
    True
    """
    rng = generator(random_state)
    shape_in, shape_out = _tuple(shape_in), _tuple(shape_out)
    if rtol is None:
        rtol = 100 * np.finfo(dtype).eps * math.sqrt(max(math.prod(shape_in), math.prod(shape_out), 1))
    worst = 0.0
    for trial in range(n_trials):
        x, y = _draw(rng, shape_in, dtype), _draw(rng, shape_out, dtype)
        Ax, Ay = as_numpy(forward(x.copy())), as_numpy(adjoint(y.copy()))
        for word, got, wanted in (("forward", Ax, shape_out), ("adjoint", Ay, shape_in)):
            if got.shape != wanted:
                raise AssertionError(f"{word} must return shape {wanted}; got {got.shape}.")
        scale = np.linalg.norm(Ax) * np.linalg.norm(y) + np.linalg.norm(x) * np.linalg.norm(Ay)
        if scale == 0:
            raise AssertionError("forward and adjoint both return zeros, so nothing was tested.")
        left, right = np.vdot(y, Ax), np.vdot(Ay, x)
        mismatch = abs(left - right) / scale
        if not mismatch <= rtol:
            raise AssertionError(
                f"adjoint does not belong to forward: <A x, y> = {left:.6g}, <x, A^H y> = {right:.6g}, relative "
                f"mismatch {mismatch:.1e} above rtol={rtol:.1e} (pair {trial})."
            )
        worst = max(worst, float(mismatch))
    return worst


def _tuple(shape):
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _draw(rng, shape, dtype):
    draw = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        draw = draw + 1j * rng.standard_normal(shape)
    return np.asarray(draw, dtype=dtype)
