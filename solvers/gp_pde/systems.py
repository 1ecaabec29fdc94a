r"""Several unknown functions: one basis for each, side by side.

The features of a system of m unknowns are those of its unknowns, one after the other; a derivative of unknown k goes by
the index (k, *alpha), and the features of the others are zero there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["SystemBasis"]


@dataclass(frozen=True)
class SystemBasis:
    """Features of several unknowns.

    Parameters
    ----------
    parts : tuple of JointBasis or ProductBasis, length m
        One basis for each unknown, on the same box.
    """

    parts: tuple

    @property
    def n_unknowns(self) -> int:
        """Number of unknowns m."""
        return len(self.parts)

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return self.parts[0].n_dims

    @property
    def n_features(self) -> int:
        """Number of features P, over all unknowns."""
        return sum(part.n_features for part in self.parts)

    @property
    def lower(self) -> tuple:
        """Lower corner of the box."""
        return self.parts[0].lower

    @property
    def upper(self) -> tuple:
        """Upper corner of the box."""
        return self.parts[0].upper

    @property
    def max_frequency(self) -> np.ndarray:
        """Largest angular frequency per dimension that the features hold, shape (d,), rad / unit."""
        return np.max([part.max_frequency for part in self.parts], axis=0)

    def block(self, k: int) -> slice:
        """Columns of unknown k."""
        start = sum(part.n_features for part in self.parts[:k])
        return slice(start, start + self.parts[k].n_features)

    def evaluate(self, X: torch.Tensor, index) -> torch.Tensor:
        """The derivative `index`, (k, *alpha), of every feature at X (n, d), shape (n, P): zero off the block of k."""
        k, *alpha = index
        out = X.new_zeros((len(X), self.n_features))
        out[:, self.block(k)] = self.parts[k].evaluate(X, tuple(alpha))
        return out

    def contract(self, X: torch.Tensor, index, theta: torch.Tensor) -> torch.Tensor:
        """``evaluate(X, index) @ theta`` without the zeros; theta (P,) or (P, q)."""
        k, *alpha = index
        return self.parts[k].evaluate(X, tuple(alpha)) @ theta[self.block(k)]
