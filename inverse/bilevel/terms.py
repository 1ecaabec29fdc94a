r"""Terms of a structured lower level: potentials of linear features, with learned weights and widths.

.. math:: w(\theta) \sum_j \varphi\big((D(\theta) x)_j; \nu(\theta)\big)

Notation  t = D x features; w, nu numbers, or one for each of K channels; second, third, mixed the suprema over t of
          phi'', of the modulus of its derivative in t, and of that of its derivative in nu, at width 1.
Pitfalls  a weight that can become negative makes h lose its convexity, and a width of 0 its second derivative: learn
          their logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.analysis import as_analysis
from sciml.inverse.bilevel.maps import as_map
from sciml.inverse.bilevel.potentials import find_potential

__all__ = ["BoundTerm", "Term"]


@dataclass(frozen=True)
class Term:
    r"""One penalty :math:`w(\theta) \sum_j \varphi((D x)_j; \nu(\theta))`.

    Parameters
    ----------
    D : Differences, Filters, LinearOperator, or tuple (forward, adjoint, norm)
        The features; two functions on batches come with a bound of the operator's norm.
    potential : {"smooth-abs", "log-cosh", "square"} or Potential
        What is added up over the features.
    weight : Exp, callable or float
        The weight w: a map of theta, a torch function of theta, or fixed; one number, or one for each channel of `D`.
    nu : Exp, callable, float or None
        The width, likewise, in the units of the features; None (the default) for a potential without one.

    Raises
    ------
    InvalidInputError
        If `nu` is missing for a potential that has a width, or given for one that has none.

    Examples
    --------
    >>> from sciml.inverse.bilevel import Differences, Exp, Term
    >>> Term(Differences(), "smooth-abs", weight=Exp(0, scale=0.5), nu=Exp(1)).nu
    Exp(1, scale=1)
    """

    D: Any
    potential: Any
    weight: Any
    nu: Any = None

    def __post_init__(self):
        potential = find_potential(self.potential)
        if potential.has_width and self.nu is None:
            raise InvalidInputError(
                f"nu must be given for the potential {type(potential).__name__}, which has a width; got None. "
                "Pass Exp(index), or a number."
            )
        if not potential.has_width and self.nu is not None:
            raise InvalidInputError(f"nu must be None for the potential {type(potential).__name__}; got {self.nu!r}.")
        for name, value in (
            ("D", as_analysis(self.D)),
            ("potential", potential),
            ("weight", as_map("weight", self.weight)),
            ("nu", None if self.nu is None else as_map("nu", self.nu)),
        ):
            object.__setattr__(self, name, value)


class BoundTerm:
    """A term at one theta: its operator, and its weight and width in the dtype of the data."""

    def __init__(self, term, theta, like):
        self.theta, self.potential = theta, term.potential
        self.weight, self.width, self.learned = term.weight, term.nu, term.D.learned
        self.D = term.D.bind(theta, like)
        self.w64 = _positive("weight", term.weight.value(theta), term.D.n_channels, strict=False)
        self.w = self._number(self.w64, like)
        self.nu64 = self.nu = None
        if term.nu is not None:
            self.nu64 = _positive("nu", term.nu.value(theta), term.D.n_channels, strict=True)
            self.nu = self._number(self.nu64, like)

    def _number(self, value, like):
        """Return a float, or numbers of channels in the shape of features."""
        return self.D.shaped(value.to(like)) if value.ndim else float(value)

    def groups(self, b):
        """Yield slices of b samples to work on at a time."""
        size = self.D.group(b)
        return [slice(a, min(a + size, b)) for a in range(0, b, size)]

    def add_gradient(self, t, out):
        """Add D^T w phi'(t) to `out`."""
        self.D.add_adjoint(self.potential.slope(t, self.nu).mul_(self.w), out)

    def constants(self):
        """Return the shares of L, LH and LJ; LJ is None with learned filters."""
        second, third, mixed = self.potential.bounds
        w, D = self.w64, self.D
        nu = torch.ones_like(w) if self.nu64 is None else self.nu64
        L = D.gram_estimate(w * second / nu)
        LH = D.gram_bound(w * third / nu**2 * D.row_norms().to(w)) if third else 0.0
        if self.learned:
            return L, LH, None
        # |J(x) t - J(x') t| <= max over unit t of (|a t| + |b t|) lambda_max(D^T D) |x - x'|, channel by channel.
        a = self.weight.jacobian(self.theta) * (second / nu).reshape(-1, 1)
        b = torch.zeros_like(a)
        if self.width is not None:
            b = self.width.jacobian(self.theta) * (w * mixed / nu**2).reshape(-1, 1)
        norm = torch.linalg.vector_norm
        change = torch.maximum(norm(a + b, dim=1), norm(a - b, dim=1))
        return L, LH, D.gram_bound(change if w.ndim or nu.ndim else change[0])


def _positive(name, value, n_channels, strict):
    """Check numbers of a term; an overflow passes, for the search to turn away."""
    if value.ndim and (n_channels is None or len(value) != n_channels):
        rule = "one number for features without channels" if n_channels is None else f"one or {n_channels} numbers"
        raise InvalidInputError(f"{name} must give {rule}; got {len(value)}. See the index of its Exp.")
    bad = (value <= 0) if strict else (value < 0)
    if bool(bad.any()):
        raise InvalidInputError(
            f"{name} must be {'above' if strict else 'at least'} 0 at every theta; got {float(value.min())}. "
            "Learn its logarithm: Exp(index)."
        )
    return value
