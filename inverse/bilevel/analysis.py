r"""What a structured lower level penalises: linear features of x, which may depend on hyperparameters.

.. math:: t = D(\theta) x, \qquad \sum_k w_k \sum_j \varphi(t_{kj}; \nu_k)

Notation  x (b, *shape); t (b, ...) features of each sample, with K channels on the second axis where there are several;
          u like t; kappa like t, curvatures; omega (K,) weights of channels.
Pitfalls  an adjoint that is not exact makes a Hessian that is not symmetric, and conjugate gradients wrong without a
          word: see :func:`sciml.testing.check_adjoint`.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.operators import LinearOperator
from sciml.validation import check_number

__all__ = ["ALIGNMENT", "Analysis", "Bound", "aligned", "apply_rows", "as_analysis"]

# Bytes at whose multiples torch's memory begins.
ALIGNMENT = 64


class Analysis:
    """Base of the operators D of a term; subclasses are bound to a theta before they are applied.

    Attributes
    ----------
    n_channels : int or None
        Channels K with a weight and a width of their own; None where all features share them.
    learned : bool
        Whether D depends on theta.
    exact : bool
        Whether the bounds of its norm were computed, and not given.

    Examples
    --------
    >>> from sciml.inverse.bilevel import Differences
    >>> Differences().learned
    False
    """

    n_channels: int | None = None
    learned = False
    exact = True

    def check(self, shape):
        """Raise an error where the operator does not suit samples of a shape.

        Parameters
        ----------
        shape : tuple of int
            Of one sample.
        """

    def bind(self, theta, like):
        """Return the operator at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        like : torch.Tensor
            Gives the dtype and device to compute in.

        Returns
        -------
        Bound
        """
        raise NotImplementedError


class Bound:
    """An operator at one theta; subclasses give `forward`, `adjoint`, `gram_bound` and `row_norms`.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.analysis import Bound
    >>> Bound().sums(torch.ones(2, 3))
    tensor([[3.],
            [3.]], dtype=torch.float64)
    """

    def forward(self, x):
        """Return D x.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Samples.

        Returns
        -------
        torch.Tensor, shape (b, ...)
            A tensor of its own, free to be changed.
        """
        raise NotImplementedError

    def adjoint(self, u):
        """Return D^T u.

        Parameters
        ----------
        u : torch.Tensor, shape (b, ...)
            Like features.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        raise NotImplementedError

    def add_adjoint(self, u, out):
        """Add D^T u to `out`, in place.

        Parameters
        ----------
        u : torch.Tensor, shape (b, ...)
            Like features.
        out : torch.Tensor, shape (b, *shape)
            Is changed.
        """
        out += self.adjoint(u)

    def prepare(self, kappa):
        """Return curvatures in the form that `curve` takes: a tuple of tensors with the samples on the first axis.

        Parameters
        ----------
        kappa : torch.Tensor, shape (b, ...)
            Like features; may be changed.

        Returns
        -------
        tuple of torch.Tensor
        """
        return (kappa,)

    def curve(self, v, prepared, out):
        """Add D^T (kappa * D v) to `out`, in place.

        Parameters
        ----------
        v : torch.Tensor, shape (b, *shape)
            Directions.
        prepared : tuple of torch.Tensor
            As `prepare` returned it, or rows of these tensors.
        out : torch.Tensor, shape (b, *shape)
            Is changed.
        """
        self.add_adjoint(self.forward(v).mul_(prepared[0]), out)

    def group(self, b):
        """Return how many of b samples to work on at a time, so that temporaries stay small.

        Parameters
        ----------
        b : int
            Samples.

        Returns
        -------
        int
        """
        return b

    def shaped(self, values):
        """Return numbers of the channels in a shape that broadcasts with features.

        Parameters
        ----------
        values : torch.Tensor, shape () or (K,)
            One number, or one a channel.

        Returns
        -------
        torch.Tensor
        """
        return values

    def sums(self, u):
        """Return sums over the features of each channel, in float64.

        Parameters
        ----------
        u : torch.Tensor, shape (b, ...)
            Like features.

        Returns
        -------
        torch.Tensor, shape (b, K)
        """
        return u.reshape(len(u), -1).sum(1, dtype=torch.float64)[:, None]

    def gram_bound(self, omega):
        """Return an upper bound of the largest eigenvalue of sum_k omega_k D_k^T D_k.

        Parameters
        ----------
        omega : torch.Tensor, shape () or (K,), float64
            Weights, at least 0.

        Returns
        -------
        float
        """
        raise NotImplementedError

    def gram_estimate(self, omega):
        """Return a number just above that eigenvalue, for the length of steps; the bound where nothing better is known.

        Parameters
        ----------
        omega : torch.Tensor, shape () or (K,), float64
            Weights, at least 0.

        Returns
        -------
        float
        """
        return self.gram_bound(omega)

    def row_norms(self):
        """Return upper bounds of the 2-norms of the rows of D, one a channel, or one for all.

        Returns
        -------
        torch.Tensor, shape () or (K,), float64
        """
        raise NotImplementedError


class _Given(Analysis, Bound):
    """A fixed operator given by two functions on batches, and a bound of its norm."""

    exact = False

    def __init__(self, forward, adjoint, norm):
        self._forward, self._adjoint, self.norm = forward, adjoint, norm

    def bind(self, theta, like):
        return self

    def forward(self, x):
        return self._forward(x).clone()

    def adjoint(self, u):
        return self._adjoint(u)

    def gram_bound(self, omega):
        return float(omega) * self.norm**2

    def row_norms(self):
        # No row is longer than the norm of the matrix.
        return torch.tensor(self.norm, dtype=torch.float64)


class _Matrix(_Given):
    """A fixed linear operator of this library, applied to samples as vectors."""

    exact = True

    def __init__(self, operator, norm=None):
        self.operator = operator
        norm = torch.linalg.matrix_norm(operator.to_dense().to(torch.float64), 2) if norm is None else norm
        super().__init__(None, None, float(norm) * (1 + 1e-12))

    def check(self, shape):
        self._shape = tuple(shape)
        d = int(torch.Size(shape).numel())
        if self.operator.shape[1] != d:
            raise InvalidInputError(
                f"D must take the {d} entries of a sample of shape {tuple(shape)}; got an operator of shape "
                f"{tuple(self.operator.shape)}."
            )

    def bind(self, theta, like):
        if self.operator.dtype == like.dtype:
            return self
        other = _Matrix(self.operator.to(like.dtype), self.norm)
        other._shape = self._shape
        return other

    def forward(self, x):
        return apply_rows(self.operator._matmat, x.reshape(len(x), -1))

    def adjoint(self, u):
        return apply_rows(self.operator._rmatmat, u).reshape(len(u), *self._shape)


def apply_rows(product, rows):
    """Apply a product with columns to each row by itself, since one for all would round differently in other batches.

    Parameters
    ----------
    product : callable
        Takes a column (d, 1).
    rows : torch.Tensor, shape (b, d)
        Vectors.

    Returns
    -------
    torch.Tensor, shape (b, m)

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.analysis import apply_rows
    >>> apply_rows(lambda column: 2 * column, torch.ones(1, 2))
    tensor([[2., 2.]])
    """
    return torch.stack([product(aligned(row)[:, None])[:, 0] for row in rows])


def aligned(t):
    """Return a tensor at the start of a block of memory; itself, if it is there already.

    Matrix products round differently for other alignments, so that without this the bits of a sample would depend on
    its place in the batch.

    Parameters
    ----------
    t : torch.Tensor, any shape
        Is left alone.

    Returns
    -------
    torch.Tensor, shape of `t`

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.analysis import aligned
    >>> aligned(torch.arange(3.0)[1:]).data_ptr() % 64
    0
    """
    there = t.is_cuda or (t.is_contiguous() and t.data_ptr() % ALIGNMENT == 0)
    return t if there else t.clone(memory_format=torch.contiguous_format)


def as_analysis(D):
    """Return the operator of a term from what a user may give for one.

    Parameters
    ----------
    D : Analysis, LinearOperator, or tuple (forward, adjoint, norm)
        An operator; or two functions from batches to batches, with an upper bound of the operator's spectral norm.

    Returns
    -------
    Analysis

    Raises
    ------
    InvalidTypeError
        If it is none of these.
    InvalidInputError
        If the norm is negative or not finite.

    Examples
    --------
    >>> from sciml.inverse.bilevel.analysis import as_analysis
    >>> as_analysis((lambda x: 2 * x, lambda u: 2 * u, 2.0)).norm
    2.0
    """
    if isinstance(D, Analysis):
        return D
    if isinstance(D, LinearOperator):
        return _Matrix(D)
    if isinstance(D, tuple) and len(D) == 3 and callable(D[0]) and callable(D[1]):
        return _Given(D[0], D[1], check_number("norm", D[2], low=0))
    raise InvalidTypeError(
        "D must be Differences, Filters, a LinearOperator, or (forward, adjoint, norm) with two functions and a bound "
        f"of the norm; got {type(D).__name__}."
    )
