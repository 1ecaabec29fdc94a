r"""First divided differences of scalar functions without cancellation and without a threshold for equality.

.. math:: f[a, b] = \frac{f(a) - f(b)}{a - b}, \qquad f[a, a] = f'(a)

They are the derivative of a matrix function in the eigenbasis (Daleckii and Krein). Each form below is exact to a few
roundings for every pair, equal, nearly equal or far apart, at every scale: with t = (a - b)/b for a >= b, the
difference a - b is exact where it is small, and ``log1p(t)/t`` and ``expm1(-x)/x`` are well conditioned for t, x >= 0.

Notation  a, b eigenvalues (broadcast against each other); hi, lo the larger and the smaller of them.
Cost      elementwise; a few transcendental calls a pair.
Pitfalls  the quotient of the square root is infinite at a = b = 0, as the derivative is.
References Ju. L. Daleckii, S. G. Krein, Integration and differentiation of functions of Hermitian operators, 1965;
          N. J. Higham, Functions of Matrices, SIAM 2008, section 3.
"""

import torch

__all__ = ["KINDS", "apply_function", "divided_difference"]

KINDS = ("sqrt", "invsqrt", "inv", "log", "exp", "pow", "clip")


def apply_function(kind, s, parameter=None):
    """Return f(s) for the eigenvalues s.

    Parameters
    ----------
    kind : {"sqrt", "invsqrt", "inv", "log", "exp", "pow", "clip"}
        Which function.
    s : torch.Tensor, any shape
        Eigenvalues; rounding below zero is taken as zero by the square root and by powers.
    parameter : float, torch.Tensor or None
        The exponent of "pow", the floor of "clip" (broadcast against `s`); None else.

    Returns
    -------
    torch.Tensor, shape of `s`

    Examples
    --------
    >>> import torch
    >>> apply_function("pow", torch.tensor([4.0]), 1.5).tolist()
    [8.0]
    """
    if kind == "sqrt":
        return s.clamp(min=0).sqrt()
    if kind == "invsqrt":
        return s.sqrt().reciprocal()
    if kind == "inv":
        return s.reciprocal()
    if kind == "log":
        return s.log()
    if kind == "exp":
        return s.exp()
    if kind == "pow":
        return s.clamp(min=0) ** parameter
    return torch.maximum(s, torch.as_tensor(parameter, dtype=s.dtype, device=s.device))


def divided_difference(kind, a, b, parameter=None):
    """Return f[a, b], exact to a few roundings at any separation, scale and condition.

    Parameters
    ----------
    kind : {"sqrt", "invsqrt", "inv", "log", "exp", "pow", "clip"}
        Which function, see :func:`apply_function`.
    a, b : torch.Tensor, broadcastable
        Eigenvalues in the units of the matrix.
    parameter : float, torch.Tensor or None
        As in :func:`apply_function`.

    Returns
    -------
    torch.Tensor, the broadcast shape
        In units of f over units of the matrix; symmetric in `a` and `b`.

    Notes
    -----
    The "clip" function has no derivative at its floor; an eigenvalue equal to the floor counts as clipped.

    Examples
    --------
    >>> import torch
    >>> one = torch.tensor(1.0, dtype=torch.float64)
    >>> round(divided_difference("log", one, one + 1e-15).item(), 12)
    1.0
    """
    if kind == "exp":
        hi, gap = torch.maximum(a, b), (a - b).abs()
        # The larger one in front: expm1 of a negative number is well conditioned, and nothing overflows early.
        return hi.exp() * torch.where(gap == 0, 1.0, -torch.expm1(-gap) / torch.where(gap == 0, 1.0, gap))
    if kind == "clip":
        floor = torch.as_tensor(parameter, dtype=a.dtype, device=a.device)
        hi, lo = torch.maximum(a, b), torch.minimum(a, b)
        mixed = (hi > floor) & (lo <= floor)
        across = (hi - floor) / torch.where(mixed, hi - lo, 1.0)
        return torch.where(mixed, across, (lo > floor).to(a.dtype))
    if kind == "inv":
        return -a.reciprocal() * b.reciprocal()
    if kind in ("sqrt", "invsqrt"):
        ra, rb = a.clamp(min=0).sqrt(), b.clamp(min=0).sqrt()
        return (ra + rb).reciprocal() if kind == "sqrt" else -1 / ra / rb / (ra + rb)
    hi, lo = torch.maximum(a, b).clamp(min=0), torch.minimum(a, b).clamp(min=0)
    gap = hi - lo
    equal = gap == 0
    safe_gap = torch.where(equal, 1.0, gap)
    ratio = torch.log1p(gap / torch.where(equal, 1.0, lo))  # log(hi / lo)
    if kind == "log":
        return torch.where(equal, lo.reciprocal(), ratio / safe_gap)
    p = parameter
    # hi^p - lo^p = hi^p (1 - e^(-p ratio)) for p > 0; the other way round for p < 0, for the same reason as in exp.
    lead = hi if p > 0 else lo
    difference = lead**p * (-torch.expm1(-abs(p) * ratio)) * (1.0 if p > 0 else -1.0)
    return torch.where(equal, p * lo ** (p - 1), difference / safe_gap)
