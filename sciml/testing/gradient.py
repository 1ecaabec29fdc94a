"""Is a gradient the gradient?  Against central differences over several steps, extrapolated to step zero."""

import numpy as np

from sciml.random import generator
from sciml.testing._arrays import as_numpy


def check_gradient(function, x, gradient=None, *, rtol=1e-6, step=None, n_directions=3, random_state=0):
    r"""Check a gradient against differences :math:`(f(x + h v) - f(x - h v)) / 2 h` along random directions.

    The step is halved several times and the differences are extrapolated to step zero (Ridders' table), so neither a
    good step nor the size of the third derivative need be known; the table also tells how exact its answer is.

    Parameters
    ----------
    function : callable
        ``function(x)``, a real number.
    x : ndarray or torch.Tensor, any shape, floating
        Where to check; in float64, or the differences will be too coarse.
    gradient : callable, array_like of the shape of `x`, or None
        ``gradient(x)`` or its value; None (the default) takes torch's automatic derivative of `function`, so `x` and
        `function` must be torch's then.
    rtol : float
        Bound on the mismatch over the norm of the gradient; 1e-6 by default, what the differences reach for functions
        without kinks.
    step : float or None
        The first and longest step, in the units of `x`; None (the default) takes 1/16 of the largest entry of `x`, or
        1/16 where `x` is zero.
    n_directions : int
        Random directions of length 1; 3 by default.
    random_state : None, int or numpy.random.Generator
        0 by default, so that a failure comes again.

    Returns
    -------
    float
        The largest mismatch found, over the norm of the gradient.

    Raises
    ------
    AssertionError
        If a mismatch exceeds `rtol`, the shape is wrong, or the differences are too rough to tell.

    References
    ----------
    C. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4, 1982.

    Examples
    --------
    >>> check_gradient(lambda x: (x**3).sum(), np.array([1.0, 2.0]), lambda x: 3 * x**2) < 1e-9
    True
    """
    rng = generator(random_state)
    given = gradient(x) if callable(gradient) else gradient
    G = _automatic(function, x) if given is None else as_numpy(given)
    if G.shape != tuple(x.shape):
        raise AssertionError(f"gradient must have the shape of x, {tuple(x.shape)}; got {G.shape}.")
    if not np.isfinite(G).all():
        raise AssertionError(f"gradient is wrong: {int((~np.isfinite(G)).sum())} of its entries are not finite.")
    if step is None:
        step = float(abs(as_numpy(x)).max(initial=0.0)) / 16 or 1 / 16
    norm = float(np.linalg.norm(G))
    worst = 0.0
    for _ in range(n_directions):
        v = rng.standard_normal(G.shape)
        v /= np.linalg.norm(v)
        slope, error = _slope(function, x, v, step)
        mismatch = abs(float((G * v).sum()) - slope)
        # A vanishing gradient has no scale of its own: there the differences' own error is all one can ask for.
        scale = max(norm, abs(slope))
        if not error <= max(rtol * scale, 1e-6 * step):
            raise AssertionError(f"the differences are too rough to tell: slope {slope:.6g} with error {error:.1e}.")
        if not mismatch <= rtol * scale + 10 * error:
            raise AssertionError(
                f"gradient is wrong: along a random direction it gives {float((G * v).sum()):.8g}, differences give "
                f"{slope:.8g} with error {error:.1e}; mismatch {mismatch:.1e} above rtol={rtol:.1e} times {scale:.3g}."
            )
        worst = max(worst, mismatch / scale if scale else mismatch)
    return worst


def _automatic(function, x):
    import torch

    x = x.detach().clone().requires_grad_(True)
    (G,) = torch.autograd.grad(function(x), x)
    return as_numpy(G)


def _slope(function, x, v, step, n_steps=8):
    """Return the derivative along v at step zero, and its error: Ridders' table over steps step / 2**k."""
    if hasattr(x, "detach"):
        import torch

        x, v = x.detach(), torch.as_tensor(v, dtype=x.dtype, device=x.device)
    best, best_error, row = np.nan, np.inf, []
    for k in range(n_steps):
        h = step / 2**k
        new = [(float(function(x + h * v)) - float(function(x - h * v))) / (2 * h)]
        for j, old in enumerate(row):
            # The error series of a central difference has even powers of h only.
            new.append(new[j] + (new[j] - old) / (4.0 ** (j + 1) - 1))
            error = max(abs(new[-1] - new[j]), abs(new[-1] - old))
            if error <= best_error:
                best, best_error = new[-1], error
        row = new
    return best, best_error
