r"""The common factor of the gains, which no data determine: chosen after solving, and carried through the covariance.

Notation  d (b, m) gains; C (b, m, m) covariance orthogonal to d; c(d) the factor that is divided out; T (b, m, m) the
          derivative of d / c(d), so that the new covariance is T C T^H / |c|^2.
Pitfalls  fixing a noisy sensor inside the solve would spread its noise; here a reference sensor has no variance and the
          others have more. Sensors without an answer are left out of every mean.
"""

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.validation import check_option

__all__ = ["apply_gauge", "check_gauge"]

GAUGES = ("norm", "sum", "mean-phase")


def check_gauge(gauge, names):
    """Return a gauge as one of the words, or the number of the reference sensor.

    Parameters
    ----------
    gauge : str or tuple
        "norm", "sum", "mean-phase", or ("reference", sensor) with a name or a number.
    names : list
        Names of the sensors.

    Returns
    -------
    str or int
        The word, or the number of the sensor.

    Raises
    ------
    InvalidInputError
        If there is no such word or sensor.

    Examples
    --------
    >>> check_gauge(("reference", "east"), ["west", "east"])
    1
    """
    if isinstance(gauge, (tuple, list)) and len(gauge) == 2 and gauge[0] == "reference":
        name = gauge[1]
        if np.ndim(name) == 0 and name in names:
            return names.index(name)
        if isinstance(name, int) and not isinstance(name, bool) and -len(names) <= name < len(names):
            return name % len(names)
        raise InvalidInputError(
            f"gauge must name one of the {len(names)} sensors; got ('reference', {name!r}). Pass its name or number, "
            f"such as ('reference', {names[0]!r})."
        )
    if not isinstance(gauge, str):
        raise InvalidInputError(
            f"gauge must be one of {', '.join(map(repr, GAUGES))} or ('reference', sensor); got {gauge!r}."
        )
    return check_option("gauge", gauge, GAUGES)


def apply_gauge(gauge, d, C, known, variance=None):
    """Return gains and covariance in a gauge.

    Parameters
    ----------
    gauge : str or int
        As `check_gauge` returns it. "norm": root mean square one, the sum of the gains real and positive, and the
        covariance as it is, orthogonal to the gains. "sum": mean one. "mean-phase": geometric mean of the moduli one,
        mean phase zero. A number: the gain of that sensor is one.
    d : Tensor, shape (b, m)
        Gains.
    C : Tensor, shape (b, m, m), or None
        Covariance orthogonal to the gains.
    known : Tensor of bool, shape (b, m)
        Sensors with an answer; the others do not take part.
    variance : Tensor, shape (b, m), or None
        In place of the covariance; scaled only, which leaves the covariance of the factor out.

    Returns
    -------
    d, C, variance
        In the gauge.

    Examples
    --------
    >>> import torch
    >>> apply_gauge("sum", torch.tensor([[1.0, 3.0]]), None, torch.ones(1, 2, dtype=torch.bool))[0]
    tensor([[0.5000, 1.5000]])
    """
    b, m = d.shape
    plain = torch.where(known, d, 0)
    count = known.sum(1).clamp_min(1).to(plain.real.dtype)
    mean = plain.sum(1) / count
    tiny = torch.finfo(plain.real.dtype).tiny
    if gauge == "norm":
        size = (plain.abs().square().sum(1) / count).sqrt().clamp_min(tiny)
        turn = torch.where(mean.abs() > 0, mean / mean.abs().clamp_min(tiny), torch.ones_like(mean))
        c, T = size * turn, None
    else:
        one = known.to(plain.dtype)
        if gauge == "sum":
            c, row = mean, one / count[:, None]
        elif gauge == "mean-phase":
            size = torch.where(known, plain.abs().clamp_min(tiny).log(), 0).sum(1) / count
            turn = torch.where(mean.abs() > 0, mean / mean.abs().clamp_min(tiny), torch.ones_like(mean))
            if plain.is_complex():
                angle = torch.where(known, (plain * turn.conj()[:, None]).angle(), 0).sum(1) / count
                turn = turn * torch.polar(torch.ones_like(angle), angle)
            c = size.exp() * turn
            row = torch.where(known, c[:, None] / torch.where(known, d, 1), 0) / count[:, None]
        else:
            # Without an answer for the reference, the scale of the estimate is as good as any.
            c = torch.where(
                known[:, gauge], plain[:, gauge], (plain.abs().square().sum(1) / count).sqrt().to(plain.dtype)
            )
            row = torch.zeros_like(plain)
            row[:, gauge] = 1
        c = torch.where(c == 0, torch.ones_like(c), c)
        # d(d / c) = (delta - (d / c) row . delta) / c, with row the derivative of c.
        T = torch.diag_embed(one) - (plain / c[:, None])[..., :, None] * row[..., None, :]
        if not isinstance(gauge, str):
            T[:, gauge] = 0  # exactly, not to rounding
    scale = c.abs().square()
    if C is not None:
        infinite = torch.isinf(torch.diagonal(C, dim1=-2, dim2=-1).real)
        if T is not None:
            C = torch.where(torch.isfinite(C.abs()), C, 0)
            C = T @ C @ T.mH
        C = C / scale[:, None, None]
        if T is not None and bool(infinite.any()):
            C = C + torch.diag_embed(torch.where(infinite, float("inf"), 0.0).to(C.dtype))
    d = d / c[:, None]
    if not isinstance(gauge, str):
        d[:, gauge] = torch.where(known[:, gauge], 1.0, d[:, gauge])
    return d, C, None if variance is None else variance / scale[:, None]
