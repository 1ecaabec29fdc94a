r"""Lower levels of one structure, with every derivative in closed form: a fit and weighted potentials of features.

.. math:: h_i(x, \theta) = \tfrac12 \|A x - y_i\|^2
          + \sum_k w_k(\theta) \sum_j \varphi\big((D_k x)_j; \nu_k(\theta)\big) + \tfrac{\mu_0}2 \|x\|^2

Notation  t = D x; s = phi'(t), kappa = w phi''(t); G = A^T (A x - y) + mu0 x + D^T w s; H = A^T A + mu0 + D^T kappa D;
          a column of J is dw D^T s + w dnu D^T d_nu s, and for learned filters w (S^T s + D^T phi''(t) S x) with the
          derivative S of D.
Cost      one product with H: one with A^T A, D and D^T, since kappa is kept; for total variation of eight images of
          96 x 96 pixels about a tenth of a millisecond in float32. Memory: t and kappa.
Pitfalls  the factor 1/2 before the weight of total variation, where there is one, belongs to the weight:
          ``Exp(0, scale=0.5)``. Where A has a null space mu is mu0, and so mu0 must be above 0. The Lipschitz constant
          of H is of the order w / nu^2 and useless as a bound for narrow potentials; that of J is unbounded for
          learned filters, since J holds x itself.
References  K. Kunisch, T. Pock, A bilevel optimization approach for parameter learning in variational models, 2013;
            Y. Chen, R. Ranftl, T. Pock, 2014, arXiv 1401.2804; Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv
            2308.10098.
"""

from __future__ import annotations

import copy

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.lower import Constants, Lower
from sciml.inverse.bilevel.measurements import as_measurement
from sciml.inverse.bilevel.potentials import find_potential
from sciml.inverse.bilevel.structured_point import StructuredPoint
from sciml.inverse.bilevel.terms import BoundTerm, Term
from sciml.linalg.arrays import enter
from sciml.linalg.operators import LinearOperator
from sciml.validation import check_number

__all__ = ["StructuredLower"]


class StructuredLower(Lower):
    """A fit to data and penalties of linear features, such as total variation or a field of experts.

    Parameters
    ----------
    A : None, Mask, Blur, LinearOperator, or tuple (forward, adjoint)
        How data arise from x; None is the identity (denoising).
    y : array, shape (B, *data)
        Data, one row a sample.
    terms : sequence of Term
        Penalties.
    mu0 : float
        Weight of the square of x, at least 0; 0 by default. Needed where A has a null space.
    shape : tuple of int or None
        Shape of one sample's x; None (the default) takes that of its data, or the width of a LinearOperator.
    spectrum : tuple (low, high) or None
        Bounds of the eigenvalues of A^T A for a LinearOperator or functions; None (the default) computes them for an
        operator with at most 2000 unknowns, and takes 0 and unknown otherwise.

    Raises
    ------
    InvalidTypeError
        If a term is not a Term, or `A` is of an unknown kind.
    InvalidInputError
        If there is no term, `y` is not finite, shapes do not fit, or `mu0` is negative.

    Notes
    -----
    The constants follow from the model and hold for all x: mu is the smallest eigenvalue of A^T A plus mu0; L, LH and
    LJ come from suprema of the potential's derivatives and the spectrum of sums of D^T D. L of filters is a Ritz value
    with a margin of 3 percent, since provable bounds are about eight times too large.

    Examples
    --------
    Total variation of one row of three pixels; a constant row has no slope:

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import Differences, Exp, StructuredLower, Term
    >>> from sciml.inverse.bilevel.counter import Counter
    >>> y = np.array([[1.0, 1.0, 4.0]])
    >>> lower = StructuredLower(None, y, [Term(Differences((-1,)), "smooth-abs", weight=Exp(0), nu=Exp(1))])
    >>> x, theta = torch.ones(1, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    >>> lower.gradient(x, theta, torch.tensor([0]), Counter())
    tensor([[ 0.,  0., -3.]], dtype=torch.float64)
    """

    def __init__(self, A, y, terms, mu0=0.0, *, shape=None, spectrum=None):
        (y,), _ = enter(y, names=("y",))
        if y.ndim < 2 or y.numel() == 0:
            raise InvalidInputError(
                f"y must be of shape (B, ...), one row a sample; got shape {tuple(y.shape)}. "
                "For one sample pass y[None]."
            )
        self.terms = tuple(terms) if isinstance(terms, (list, tuple)) else (terms,)
        if not self.terms:
            raise InvalidInputError("terms must hold at least one Term; got none.")
        for term in self.terms:
            if not isinstance(term, Term):
                raise InvalidTypeError(f"terms must hold Terms; got {type(term).__name__}. Write Term(D, ...).")
        self.mu0 = check_number("mu0", mu0, low=0)
        if shape is None:
            shape = (A.shape[1],) if isinstance(A, LinearOperator) else y.shape[1:]
        self.shape = tuple(int(n) for n in shape)
        self.A = as_measurement(A, spectrum).on(self.shape)
        if self.A.data_shape is None:
            self.A.data_shape = self._tried(y)
        if tuple(y.shape[1:]) != tuple(self.A.data_shape):
            raise InvalidInputError(
                f"y must hold data of shape {tuple(self.A.data_shape)} for each sample; got {tuple(y.shape[1:])}."
            )
        self.y, self.n_samples = y.detach(), len(y)
        if self.A.n_samples not in (None, self.n_samples):
            raise InvalidInputError(
                f"mask must have one entry for each sample; got {self.A.n_samples} for {self.n_samples} samples."
            )
        for term in self.terms:
            term.D.check(self.shape)
        # A potential of somebody else's comes with bounds of somebody else's.
        own = all(type(term.potential).__module__ == find_potential.__module__ for term in self.terms)
        self.exact = own and self.A.exact and all(term.D.exact for term in self.terms)
        self.quadratic = all(term.potential.bounds[1] == 0 for term in self.terms)
        self._cache_terms = self._cache_constants = self._cache_data = None
        _keep_memory()

    @property
    def dtype(self):
        """Of the data: float32 or float64."""
        return self.y.dtype

    def start(self):
        """Return where to start a first solve: the data where they are images themselves, else zero.

        Returns
        -------
        torch.Tensor, shape (B, *shape)
        """
        return self.A.start(self.y, torch.arange(self.n_samples, device=self.y.device))

    def _tried(self, y):
        """Return the shape of data that functions A and A^T agree on."""
        back = self.A.adjoint(y[:1], None)
        if tuple(back.shape) != (1, *self.shape):
            raise InvalidInputError(
                f"A must hold functions of batches; its adjoint made shape {tuple(back.shape)} of data of shape "
                f"{tuple(y[:1].shape)} for samples of shape {self.shape}. Pass shape, the shape of one sample."
            )
        return self.A.forward(back, None).shape[1:]

    def __getstate__(self):
        # What was derived from theta need not travel to other processes.
        return self.__dict__ | {"_cache_terms": None, "_cache_constants": None, "_cache_data": None}

    def constants(self, theta, idx):
        """Return the bounds at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        Constants
            `LJ` is None with learned filters, `L` where nobody knows the spectrum of A.

        Raises
        ------
        InvalidInputError
            If A has a null space and `mu0` is 0.
        """
        low, high = self.A.spectrum(idx)
        mu = low + self.mu0
        if not bool((mu > 0).all()):
            raise InvalidInputError(
                f"mu0 must be above 0 where A has a null space, or nearly one; got {self.mu0:g}, and "
                f"{float(low.min())} for the smallest eigenvalue of A^T A. Pass mu0=1e-3, or less."
            )
        theta, kept = theta.detach().to(torch.float64), self._cache_constants
        if kept is None or not torch.equal(kept[0], theta):
            L, LH, LJ = zip(*(term.constants() for term in self._at(theta, self.y)), strict=True)
            self._cache_constants = kept = theta.clone(), sum(L), sum(LH), None if None in LJ else sum(LJ)
        _, L, LH, LJ = kept
        one = torch.ones_like(mu)
        return Constants(mu, None if high is None else high + self.mu0 + L, LH * one, None if LJ is None else LJ * one)

    def gradient(self, x, theta, idx, count):
        """Return G.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told of b gradients.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        count.lower += len(x)
        x = x.detach()
        G = self._fit(x, idx)[1]
        for term in self._at(theta, x):
            for some in term.groups(len(x)):
                term.add_gradient(term.D.forward(x[some]), G[some])
        return G

    def at(self, x, theta, idx, count, value=False):
        """Return the linearisation at a point; its gradient counts when it is first asked for.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Where.
        theta : torch.Tensor, shape (n,)
            The hyperparameters.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.
        count : Counter
            Is told what it costs.
        value : bool
            Without meaning here: the value is computed when it is asked for.

        Returns
        -------
        Point
        """
        return StructuredPoint(self, x.detach(), theta.detach(), idx, count)

    def norm_J(self, point):
        """Return upper bounds of the norms of J for many hyperparameters, or None for few, or for learned filters.

        Parameters
        ----------
        point : Point
            Of this problem.

        Returns
        -------
        torch.Tensor, shape (b,), or None
        """
        if len(point.theta) <= 64 or any(term.D.learned for term in self.terms):
            return None
        return point.norm_J_bound()

    def to(self, device, dtype):
        """Return the problem with its data on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        StructuredLower
        """
        if self.y.device == torch.device(device) and self.y.dtype == dtype:
            return self
        other = copy.copy(self)
        other.y, other.A = self.y.to(device=device, dtype=dtype), self.A.to(device, dtype)
        other._cache_terms = other._cache_constants = other._cache_data = None
        return other

    def _fit(self, x, idx):
        """Return the residual A x - y, and the gradient of the fit and of the square."""
        residual = self.A.forward(x, idx) - self._data(idx)
        G = self.A.adjoint(residual, idx)
        if self.mu0:
            G = G + self.mu0 * x
        return residual, G

    def _data(self, idx):
        """Return the data of some samples; those asked for last are kept."""
        kept = self._cache_data
        if kept is None or not torch.equal(kept[0], idx):
            whole = len(idx) == self.n_samples and bool((idx == torch.arange(len(idx), device=idx.device)).all())
            self._cache_data = kept = idx.clone(), self.y if whole else self.y[idx]
        return kept[1]

    def _at(self, theta, like):
        """Return the terms at theta; those of the last theta are kept."""
        theta = theta.detach().to(torch.float64)
        kept = self._cache_terms
        if kept is None or kept[0] != (like.dtype, like.device) or not torch.equal(kept[1], theta):
            terms = [BoundTerm(term, theta.to(like.device), like.new_empty(0, *self.shape)) for term in self.terms]
            self._cache_terms = kept = (like.dtype, like.device), theta.clone(), terms
        return kept[2]


def _keep_memory():
    """Let the C library keep freed memory of the size of a batch, in place of returning it to the system.

    glibc gives freed blocks back and pays for each of their pages when it gets them again, which takes longer than the
    arithmetic on them; it stops doing so for sizes that it has seen freed. The block is never touched.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)
