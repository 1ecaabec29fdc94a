r"""Are the constants of a lower level what they are said to be? Measured curvature against mu, L, LH, LJ and Lg.

Error bars rest on :math:`\mu \le \lambda(H) \le L` and on Lipschitz constants of H and J. A Ritz value lies within the
spectrum and a difference quotient below the Lipschitz constant, so one outside of a bound refutes it.

Notation  H, J second and mixed derivatives of h at x; p Newton step from x; d unknowns a sample.
Cost      about four times `n_steps` Hessian products, and as many for differences of Hessians.
Pitfalls  what is not refuted is not proved: the spectrum between the points looked at is not seen, nor, for d > 64, the
          ends of it that `n_steps` products do not reach. A bound that holds for the mean of the energies fails here,
          since a sample's own energy is looked at.
References  G. Golub and C. Van Loan, Matrix Computations, 2013, section 10.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import CertificateError, InvalidInputError
from sciml.inverse.bilevel.counter import Counter
from sciml.linalg.arrays import enter
from sciml.optimize import batched_cg, lanczos_extremes
from sciml.random import generator, normal
from sciml.validation import check_number

__all__ = ["ConstantsReport", "check_constants"]

# So many unknowns are looked at completely.
_ALL = 64
# A bound is refuted beyond this share of it, and beyond rounding.
_SHARE = 1e-6
_ROUNDINGS = 100

_RULES = {
    "mu": "a lower bound of the eigenvalues of the Hessian of h",
    "L": "an upper bound of the eigenvalues of the Hessian of h",
    "LH": "a Lipschitz constant of the Hessian of h in x",
    "LJ": "a Lipschitz constant in x of the mixed derivative of h",
    "Lg": "a Lipschitz constant of the gradient of g in x",
}
_REMEDIES = {"mu": "The energy of one sample counts, as it is differentiated, not a mean over samples. "}


@dataclass(frozen=True)
class ConstantsReport:
    """What was said of the curvature, and what was seen.

    Parameters
    ----------
    given : dict of ndarray, shape (B,), or None
        "mu", "L", "LH", "LJ" (and "Lg" with an upper level) as given; None where unknown.
    seen : dict of ndarray, shape (B,)
        The smallest eigenvalue seen for "mu", the largest for "L", the steepest quotient for the others.
    n_units : float
        What it cost: gradients and Hessian products of the whole batch.

    Examples
    --------
    >>> import numpy as np
    >>> report = ConstantsReport({"mu": np.array([1.0]), "L": None}, {"mu": np.array([2.0]), "L": np.array([4.0])}, 9.0)
    >>> report.tightness
    {'mu': 0.5}
    """

    given: dict
    seen: dict
    n_units: float

    @property
    def tightness(self):
        """How near the bounds are to what was seen, from 0 to 1, by name: of the worst sample, where one is given."""
        found = {}
        for name, bound in self.given.items():
            if bound is not None:
                low, high = (bound, self.seen[name]) if name == "mu" else (self.seen[name], bound)
                found[name] = float(np.min(np.where(high > 0, low / np.where(high > 0, high, 1), 1.0)))
        return found


def check_constants(lower, theta, x=None, *, upper=None, n_steps=None, n_points=4, random_state=0, count=None):
    r"""Compare the constants of a lower level with its curvature at a few points, and raise where one is refuted.

    The points are `x`, the end of a Newton step from there, and others at random around that. At each, Lanczos steps
    [1]_ give eigenvalues of H from within; from one to the next, Lanczos steps on the difference of the Hessians and
    products with that of the mixed derivatives give quotients
    :math:`\|H(x') - H(x)\| / \|x' - x\| \le L_H`, :math:`\|J(x') - J(x)\| / \|x' - x\| \le L_J`; and products
    with third derivatives, whose norm for unit vectors is at most :math:`L_H`, climb by the power method.

    Parameters
    ----------
    lower : Lower
        The lower level.
    theta : array, shape (n,)
        The hyperparameters.
    x : array, shape (B, *shape), or None
        Where to begin; zeros by default (None), where lower or upper level know the shape.
    upper : UpperLoss or None
        An upper level whose Lg is looked at as well; None (the default) leaves it out.
    n_steps : int or None
        Lanczos steps at each point; None (the default) takes all d up to 64, which is the whole spectrum, else 20.
    n_points : int
        Points; 4 by default. 1 looks at mu, L and Lg at `x` alone, for a gradient and `n_steps` products.
    random_state : None, int or numpy.random.Generator
        For directions and points; 0 by default, so that a check can be repeated.
    count : Counter or None
        Is told what it costs, as products that estimate eigenvalues; None (the default) tells nobody.

    Returns
    -------
    ConstantsReport
        Bounds and what was seen, so that idle bounds show: a tightness of 1e-3 costs a factor of 1e3 in error bars.

    Raises
    ------
    CertificateError
        If an eigenvalue is below mu (1 - 1e-6) or above L (1 + 1e-6), or a quotient above its bound (1 + 1e-6), by more
        than rounding; it names the constant, what was seen and where, and carries them.
    InvalidInputError
        If the shape of x is not known, or `x` or `theta` are not finite.

    References
    ----------
    .. [1] G. Golub and C. Van Loan, Matrix Computations, 2013, section 10.1.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import LowerProblem
    >>> def h(x, theta, idx):  # curvature 1 + exp(theta) along the first axis, 3 + exp(theta) along the second
    ...     return 0.5 * (x[:, 0] ** 2 + 3 * x[:, 1] ** 2) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=1.0, L=5.0, LH=0.0, shape=(2,), n_samples=1)
    >>> report = check_constants(lower, [0.0])
    >>> report.seen["mu"].round(6), report.seen["L"].round(6)
    (array([2.]), array([4.]))
    >>> wrong = LowerProblem(h, mu=2.5, shape=(2,), n_samples=1)
    >>> check_constants(wrong, [0.0])
    Traceback (most recent call last):
        ...
    sciml.exceptions.CertificateError: mu must be a lower bound of the eigenvalues of the Hessian of h; got 2.5, ...
    """
    if n_steps is not None:
        n_steps = check_number("n_steps", n_steps, low=1, integer=True)
    n_points = check_number("n_points", n_points, low=1, integer=True)
    x, theta = _start(lower, upper, x, theta)
    rng, spent = generator(random_state), Counter()
    idx = torch.arange(len(x), device=x.device)
    d = x[0].numel()
    steps = n_steps if n_steps is not None else d if d <= _ALL else 20
    points = _points(lower, x, theta, idx, n_points, rng, spent)
    constants = lower.constants(theta, idx)
    given = {name: getattr(constants, name) for name in ("mu", "L", "LH", "LJ")}
    if upper is not None:
        given["Lg"] = upper.Lg(x, theta, idx)
    seen = _seen(points, upper, rng, steps)
    rounding = _ROUNDINGS * torch.finfo(x.dtype).eps * seen["L"]
    if count is not None:
        count.add({"power": spent.lower + spent.hvp + spent.third, "cross": spent.cross})
    for name, bound in given.items():
        # Quotients of differences are seen without what rounding may have added to them.
        _refute(name, bound, seen[name], rounding if name in ("mu", "L") else 0 * rounding)
    numbers = {name: None if bound is None else bound.detach().cpu().numpy() for name, bound in given.items()}
    return ConstantsReport(numbers, {name: seen[name].cpu().numpy() for name in given}, spent.units(len(x)))


def _start(lower, upper, x, theta):
    """Return x and theta as tensors; zeros where no x was given."""
    (theta,), _ = enter(theta, names=("theta",), dtype="float64")
    if theta.ndim != 1:
        raise InvalidInputError(f"theta must be of shape (n,); got {tuple(theta.shape)}. Flatten it.")
    if x is None:
        known = [level for level in (lower, upper) if level is not None]
        shape = next((level.shape for level in known if level.shape is not None), None)
        B = next((level.n_samples for level in known if level.n_samples is not None), None)
        if shape is None or B is None:
            raise InvalidInputError(
                "x must be given, shape (B, ...), since neither level knows its shape; got None. Pass a starting "
                "point, or shape and n_samples to the lower level."
            )
        return torch.zeros((B, *shape), dtype=torch.float64, device=theta.device), theta
    (x,), _ = enter(x, names=("x",))
    if x.ndim < 2 or not x.numel():
        raise InvalidInputError(f"x must be of shape (B, ...), one row a sample; got {tuple(x.shape)}.")
    return x.detach(), theta.detach().to(x.device)


def _points(lower, x, theta, idx, n_points, rng, count):
    """Return linearisations at x, at the end of a Newton step, and at distances near and far from there."""
    first = lower.at(x, theta, idx, count)
    if n_points == 1:
        return [first]
    step = batched_cg(first.hvp, -first.gradient, atol=1e-2 * _norm(first.gradient), max_iter=50).x
    there = x + torch.nan_to_num(step)
    points = [first, lower.at(there, theta, idx, count)]
    scale = torch.maximum(_norm(there), _norm(step))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)) / x[0].numel() ** 0.5
    for k in range(n_points - 2):
        # Derivatives of a smoothed absolute value change within a small part of the size of x.
        part = (1.0, 0.01)[k % 2]
        away = normal(rng, tuple(x.shape), device=x.device, dtype=x.dtype)
        points.append(lower.at(there + part * _column(scale, x) * away, theta, idx, count))
    return points


def _seen(points, upper, rng, steps):
    """Return the smallest eigenvalue, the largest, and the steepest quotients over the points."""
    lows, highs, steep = [], [], []
    for point in points:
        low, high = lanczos_extremes(point.hvp, _probe(point, rng), n_steps=steps)
        lows.append(low)
        highs.append(high)
        if upper is not None:
            steep.append(_upper_curvature(upper, point, rng, steps))
    seen = {"mu": torch.stack(lows).amin(0), "L": torch.stack(highs).amax(0)}
    seen["LH"] = seen["LJ"] = torch.zeros_like(seen["L"])
    if upper is not None:
        seen["Lg"] = torch.stack(steep).amax(0)
    # Where the support of a nonsmooth problem changes there is no Lipschitz constant.
    if len(points) > 1 and all(point.mask is None for point in points):
        for point in points:
            seen["LH"] = torch.maximum(seen["LH"], _third_derivative(point, rng))
        for one, two in zip(points, points[1:], strict=False):
            for name, change in (("LH", _change_of_hessian), ("LJ", _change_of_cross)):
                size, whole = change(one, two, rng, min(steps, 10) if one.x[0].numel() > _ALL else steps)
                whole = whole if name == "LJ" else seen["L"]
                unit = _ROUNDINGS * torch.finfo(one.x.dtype).eps
                away = _norm(two.x - one.x)
                quotient = (size - unit * whole).clamp_min(0) / torch.where(away > 0, away, torch.ones_like(away))
                seen[name] = torch.maximum(seen[name], torch.where(away > 0, quotient, torch.zeros_like(away)))
    return seen


def _upper_curvature(upper, point, rng, steps):
    def hvp(v, rows):
        return upper.hvp(point.x[rows], point.theta, point.idx[rows], v)

    low, high = lanczos_extremes(hvp, _probe(point, rng), n_steps=steps)
    return torch.maximum(torch.where(torch.isfinite(low), low, 0 * low).abs(), high.abs())


def _third_derivative(point, rng, n_iter=6):
    """Return how steep H is at a point, from within, by the power method of symmetric tensors."""
    best = torch.zeros(len(point.x), dtype=torch.float64, device=point.x.device)
    p = _probe(point, rng)
    for _ in range(n_iter):
        length = _norm(p)
        p = p / _column(torch.where(length > 0, length, torch.ones_like(length)), p)
        try:
            p, _ = point.third(p, p, [slice(0, len(p))])
        except NotImplementedError:
            break
        best = torch.maximum(best, _norm(p))
    return best


def _change_of_hessian(one, two, rng, steps):
    """Return the size of H' - H from within; its own size is known elsewhere."""

    def hvp(v, rows):
        return two.hvp(v, rows) - one.hvp(v, rows)

    low, high = lanczos_extremes(hvp, _probe(one, rng), n_steps=steps)
    return torch.maximum(torch.where(torch.isfinite(low), low, 0 * low).abs(), high.abs()), None


def _change_of_cross(one, two, rng, steps):
    """Return the size of J' - J from within, and that of J."""
    n, b = len(one.theta), len(one.x)
    theta_like = {"dtype": torch.float64, "device": one.x.device}
    if n <= _ALL:
        before = torch.stack([one.cross(e) for e in torch.eye(n, **theta_like)])
        after = torch.stack([two.cross(e) for e in torch.eye(n, **theta_like)])
        flat = (after - before).reshape(n, b, -1).transpose(0, 1).to(torch.float64)  # (b, n, d)
        size = torch.linalg.eigvalsh(flat @ flat.mT)[:, -1].clamp_min(0).sqrt()
        return size, _norm(before.transpose(0, 1)) + _norm(after.transpose(0, 1))
    size, whole = torch.zeros(b, **theta_like), torch.zeros(b, **theta_like)
    t = normal(rng, (n,), device=one.x.device)
    for _ in range(5):
        # The power method on the sum over samples; each quotient is a bound from within for its own sample.
        t = t / t.norm()
        before, after = one.cross(t), two.cross(t)
        change = after - before
        size, whole = torch.maximum(size, _norm(change)), torch.maximum(whole, _norm(before) + _norm(after))
        every = [slice(0, b)]
        t = (two.cross_adjoint(change, every) - one.cross_adjoint(change, every))[0]
        if not float(t.norm()) > 0:
            break
    return size, whole


def _refute(name, bound, seen, rounding):
    """Raise where what was seen lies beyond a bound."""
    if bound is None:
        return
    bound = bound.to(seen)
    if name == "mu":
        beyond = seen < bound * (1 - _SHARE) - rounding
        worst = int(torch.where(beyond, seen / bound, torch.inf).argmin())
    else:
        beyond = seen > bound * (1 + _SHARE) + rounding
        worst = int(torch.where(beyond, seen / bound.clamp_min(1e-300), -torch.inf).argmax())
    if not bool(beyond.any()):
        return
    got, number = float(bound[worst]), float(seen[worst])
    most = "at most" if name == "mu" else "at least"
    raise CertificateError(
        f"{name} must be {_RULES[name]}; got {got:.7g}, but sample {worst} has {number:.7g}. {_REMEDIES.get(name, '')}"
        f"Pass a value of {most} {number:.3g} that holds for all x, or None to go on without a certificate.",
        constant=name,
        given=got,
        seen=number,
        sample=worst,
    )


def _probe(point, rng):
    """Return random directions; within the support of a nonsmooth problem, off which its Hessian is made up."""
    v = normal(rng, tuple(point.x.shape), device=point.x.device, dtype=point.x.dtype)
    return v if point.mask is None else torch.where(point.mask, v, torch.zeros_like(v))


def _norm(a):
    return a.to(torch.float64).reshape(len(a), -1).norm(dim=1)


def _column(scalar, like):
    return scalar.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
