"""What has been spent, in samples: every gradient and every product of the lower level passes by here.

Notation  one unit is one gradient of h, or one product with its Hessian, for the whole batch of B samples; samples that
          are finished are not computed and do not count, so that units are sums of samples over B.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counter:
    """Counts of evaluations at the lower level, in samples.

    Parameters
    ----------
    lower : float
        Gradients of h; a linearisation counts as one, since it computes the gradient.
    hvp : float
        Products with the Hessian of h, in linear systems and Newton steps.
    power : float
        Products with the Hessian that estimate its extreme eigenvalues.
    cross : float
        Products with the mixed derivative J, or its transpose; not part of a unit, but counted.
    third : float
        Products with third derivatives of h.

    Examples
    --------
    >>> from sciml.inverse.bilevel.counter import Counter
    >>> count = Counter(lower=8, hvp=16)
    >>> count.units(8)
    3.0
    """

    lower: float = 0.0
    hvp: float = 0.0
    power: float = 0.0
    cross: float = 0.0
    third: float = 0.0

    def units(self, n_samples):
        """Return gradients and Hessian products over the number of samples.

        Parameters
        ----------
        n_samples : int
            B, the samples of the whole batch.

        Returns
        -------
        float
            Units.
        """
        return (self.lower + self.hvp + self.power + self.third) / n_samples

    def add(self, other):
        """Add the counts of another counter.

        Parameters
        ----------
        other : Counter or dict
            Counts by name.
        """
        other = other if isinstance(other, dict) else other.as_dict()
        for name, number in other.items():
            setattr(self, name, getattr(self, name) + number)

    def as_dict(self):
        """Return the counts by name.

        Returns
        -------
        dict of float
        """
        return {field.name: getattr(self, field.name) for field in fields(self)}
