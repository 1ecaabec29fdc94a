r"""Losses of linear models: value, slope, curvature and third derivative in the scores, all in closed form.

.. math:: \ell(z, t) = \tfrac12 (z - t)^2, \qquad \log(1 + e^z) - t z, \qquad \log \sum_k e^{z_k} - z_t

Notation  z scores, (N,), or (K, N) with classes first; t targets: (N,) numbers, 0 or 1, or class numbers; p
          probabilities; u, v directions of the shape of z; N rows, K classes.
Cost      a few passes over the scores. Classes come first, since then both products of a Hessian-vector product run
          along contiguous rows: twice as fast as (N, K) for K = 10.
Pitfalls  the constants are exact suprema: curvature 1, 1/4, 1/2 and third derivative 0, 1/(6 sqrt 3), sqrt(6)/9. The
          last is the largest third central moment of a variable that takes values z_k with sum z_k^2 = 1, whose range
          is sqrt 2: (sqrt 2)^3 / (6 sqrt 3).
References  D. Boehning, Multinomial logistic regression algorithm, Ann. Inst. Stat. Math. 1992 (the bound 1/2).
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.validation import check_option

__all__ = ["LOSSES", "Loss", "find_loss"]


class Loss:
    """One loss; the methods take scores and return arrays of their shape.

    Notes
    -----
    `curvature` is the largest eigenvalue that the Hessian in the scores of one row can have, `third_bound` the norm
    that its derivative can have, `classes` whether the scores have an axis of classes.
    """

    name = ""
    classes = False
    curvature = 1.0
    third_bound = 0.0

    def targets(self, name, y, dtype, n_classes=None):
        """Return targets as the loss wants them, or say what is wrong."""
        return y.to(dtype)

    def state(self, z):
        """Return what the derivatives share: nothing, or the probabilities."""

    def value(self, z, t):
        """Return the loss of each row, (N,)."""
        return 0.5 * (z - t) ** 2

    def slope(self, z, t, state):
        """Return the first derivative."""
        return z - t

    def curve(self, state, v):
        """Return the second derivative applied to v."""
        return v

    def diagonal(self, state, t):
        """Return the diagonal of the second derivative."""
        return torch.ones_like(t) if state is None else state * (1 - state)

    def third(self, state, u, v):
        """Return the third derivative applied to u and v."""
        return torch.zeros_like(v)


class _Squared(Loss):
    name = "squared"


class _Logistic(Loss):
    name = "logistic"
    curvature = 0.25
    third_bound = 1 / (6 * math.sqrt(3))

    def targets(self, name, y, dtype, n_classes=None):
        y = y.to(dtype)
        if set(y.unique().tolist()) <= {-1.0, 1.0}:
            return (y + 1) / 2
        bad = (y < 0) | (y > 1)
        if bool(bad.any()):
            raise InvalidInputError(
                f"{name} must hold classes 0 and 1 (or -1 and 1, or probabilities) for the logistic loss; got "
                f"{float(y[bad][0]):g}. Number the two classes 0 and 1, or take loss='multinomial'."
            )
        return y

    def state(self, z):
        return torch.sigmoid(z)

    def value(self, z, t):
        return torch.nn.functional.softplus(z, threshold=50.0) - t * z

    def slope(self, z, t, state):
        return state - t

    def curve(self, state, v):
        return state * (1 - state) * v

    def third(self, state, u, v):
        return state * (1 - state) * (1 - 2 * state) * u * v


class _Multinomial(Loss):
    name = "multinomial"
    classes = True
    curvature = 0.5
    third_bound = math.sqrt(6) / 9

    def targets(self, name, y, dtype, n_classes=None):
        whole = y.to(torch.long)
        if bool((whole != y).any()) or bool((whole < 0).any()) or (n_classes and int(whole.max()) >= n_classes):
            top = "" if n_classes is None else f" to {n_classes - 1}"
            raise InvalidInputError(
                f"{name} must hold class numbers from 0{top} for the multinomial loss; got values between "
                f"{float(y.min()):g} and {float(y.max()):g}. Number them by numpy.unique(..., return_inverse=True)."
            )
        return whole

    def state(self, z):
        return torch.softmax(z, 0)

    def value(self, z, t):
        return torch.logsumexp(z, 0) - z.gather(0, t[None])[0]

    def slope(self, z, t, state):
        one = torch.ones((), dtype=z.dtype, device=z.device)
        return state.scatter_add(0, t[None], -one.expand(1, len(t)))

    def curve(self, state, v):
        w = state * v
        return w.addcmul_(state, w.sum(0), value=-1)

    def third(self, state, u, v):
        # Derivative of p (v - <p, v>) along u, with dp = p (u - <p, u>).
        dp = self.curve(state, u)
        return dp * (v - (state * v).sum(0)) - state * (dp * v).sum(0)


LOSSES = {loss.name: loss for loss in (_Squared(), _Logistic(), _Multinomial())}


def find_loss(name):
    """Return a loss by its name.

    Parameters
    ----------
    name : {"squared", "logistic", "multinomial"}
        Its name.

    Returns
    -------
    Loss
        The one object of that name.

    Raises
    ------
    InvalidInputError
        If there is none of that name.

    Examples
    --------
    >>> from sciml.inverse.bilevel.losses import find_loss
    >>> find_loss("logistic").curvature
    0.25
    """
    return LOSSES[check_option("loss", name, LOSSES)]
