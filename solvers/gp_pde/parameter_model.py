r"""A problem with unknown parameters as a family of Gaussian linear models, one for each value of the parameters.

Given the parameters p, the equation and its conditions leave u Gaussian, :math:`\theta = \theta_0(p) + W(p) \zeta`,
and the observations are :math:`y = \Phi\theta + \epsilon`.  What is maximised over p is

.. math:: \log p(y \mid f, g, p) = \log N\bigl(y;\ \Phi\theta_0(p),\ \Phi W W^T \Phi^T + \sigma^2\bigr),

the density of the observations *given* source and conditions: these are causes, not data about p.

Notation  p (k,) parameters: numbers first, then coefficients of the logarithms of functions; theta_0 (P,), W (P, q)
          mean and root of the covariance given the equation; Phi (m, P) features at the observed points; D (P, k)
          derivative of theta_0 by p.
Cost      one QR of the equation's rows for a value of p, another for the derivative by all parameters at once.
Pitfalls  The joint density of source *and* observations is no substitute: the volume of a prior on u that the operator
          maps on a known source depends on p, which pulls every coefficient towards zero by as much as
          (features) x (relative sd) standard deviations.

References
----------
C. Rasmussen, C. Williams, Gaussian processes for machine learning, 2006, section 5.4. G. Golub, V. Pereyra, Separable
nonlinear least squares: the variable projection method and its applications, 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.linalg.gaussian_model import GaussianLinearModel
from sciml.solvers.gp_pde.collocation import operator_rows
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.evidence import Rows, StructuredPrior
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.points import condition_rows
from sciml.solvers.gp_pde.problem import UnknownFunction

__all__ = ["FieldValues", "LearnedFunction", "ParameterModel", "ParameterVector"]

EXACT = 1e-12  # noise of an exact equation against its row's norm times the size of u


class FieldValues(np.ndarray):
    """Values of a function at points, (n,), that know its gradient, (n, d), as ``values.gradient``.

    Examples
    --------
    >>> import numpy as np
    >>> kappa = FieldValues.of(np.array([1.0, 2.0]), np.array([[0.5], [0.5]]))
    >>> kappa.gradient[:, 0].tolist()
    [0.5, 0.5]
    """

    gradient: np.ndarray

    @classmethod
    def of(cls, values, gradient):
        """Join values (n,) and gradient (n, d)."""
        out = np.asarray(values).view(cls)
        out.gradient = gradient
        return out

    def __array_finalize__(self, parent):
        self.gradient = None  # arithmetic makes a plain array of values


class LearnedFunction:
    """A learned function, or its standard deviation; call it with points.

    Parameters
    ----------
    expansion : _Expansion
        Basis of its logarithm.
    coef : numpy.ndarray, shape (k,)
        Coefficients of the logarithm.
    root : numpy.ndarray, shape (k, q), optional
        Root of their covariance: then the values are standard deviations, in the function's units.
    """

    def __init__(self, expansion, coef, root=None):
        self.expansion, self.coef, self.root = expansion, coef, root

    def __call__(self, X):
        """Evaluate at points X (n, d), or (n,) when d = 1; returns (n,)."""
        X = np.asarray(X, float)
        X = X[:, None] if X.ndim == 1 else X
        values = np.asarray(self.expansion.values(X, self.coef))
        if self.root is None:
            return values
        return values * np.linalg.norm(self.expansion.features(X) @ self.root, axis=1)

    def state(self):
        """Plain values and arrays that rebuild it."""
        e = self.expansion
        state = {"name": e.name, "lower": float(e.spec.lower), "upper": float(e.spec.upper), "coef": self.coef}
        state |= {"n_terms": int(e.spec.n_terms), "dims": list(e.dims), "bounds": np.array(e.bounds)}
        return state if self.root is None else state | {"root": self.root}

    @classmethod
    def from_state(cls, state):
        """The function of `state`."""
        spec = UnknownFunction(state["lower"], state["upper"], int(state["n_terms"]), tuple(state["dims"]))
        expansion = _Expansion(str(state["name"]), spec, Box(np.asarray(state["bounds"]).tolist()))
        root = state.get("root")
        return cls(expansion, np.asarray(state["coef"]), None if root is None else np.asarray(root))

    def __repr__(self):
        return f"<{'standard deviation' if self.root is not None else 'estimate'} of {self.expansion.name}(x)>"


class _Expansion:
    """Chebyshev expansion of the logarithm of a positive function, about the middle of its bounds."""

    def __init__(self, name, spec, box):
        self.name, self.spec, self.bounds = name, spec, box.bounds
        self.dims = list(range(box.n_dims)) if spec.dims is None else [int(j) for j in np.atleast_1d(spec.dims)]
        lower, upper = box.lower[self.dims], box.upper[self.dims]
        self.basis = JointBasis(
            tuple(lower), tuple(upper), np.zeros((0, len(lower))), (int(spec.n_terms),) * len(lower), ()
        )
        self.size = self.basis.n_features
        self.middle = 0.5 * (math.log(spec.lower) + math.log(spec.upper))
        self.spread = 0.5 * (math.log(spec.upper) - math.log(spec.lower))
        self._kept = {}

    def features(self, X, dim=None):
        """T_k at X (n, d), or its derivative along a dimension; (n, k)."""
        key = (X.shape, float(X.sum()), float(X[0].sum()), dim)  # the same few sets of points again and again
        if key not in self._kept:
            alpha = [int(j == dim) for j in self.dims]
            if dim is not None and dim not in self.dims:
                return np.zeros((len(X), self.size))
            if len(self._kept) > 64:
                self._kept.clear()
            self._kept[key] = self.basis.evaluate(torch.as_tensor(np.ascontiguousarray(X[:, self.dims])), alpha).numpy()
        return self._kept[key]

    def values(self, X, coef):
        g = np.clip(self.features(X) @ coef, -2 * self.spread, 2 * self.spread)
        values = np.exp(self.middle + g)
        gradient = np.stack([values * (self.features(X, j) @ coef) for j in range(X.shape[1])], axis=1)
        return FieldValues.of(values, gradient)


class ParameterVector:
    """All unknown parameters as one vector: numbers, then coefficients of functions.

    Parameters
    ----------
    pde : PDE
        With parameters.
    """

    def __init__(self, pde):
        self.pde = pde
        self.numbers = [n for n, b in pde.parameters.items() if not isinstance(b, UnknownFunction)]
        self.functions = {
            n: _Expansion(n, b, pde.domain.box) for n, b in pde.parameters.items() if isinstance(b, UnknownFunction)
        }
        self.low = np.array([pde.parameters[n][0] for n in self.numbers])
        self.high = np.array([pde.parameters[n][1] for n in self.numbers])
        self.slices, at = {}, len(self.numbers)
        for name, expansion in self.functions.items():
            self.slices[name] = slice(at, at + expansion.size)
            at += expansion.size
        self.size = at

    @property
    def steps(self):
        """Steps of differences: small against the ranges, large against rounding; shape (k,)."""
        return np.concatenate([1e-5 * (self.high - self.low), np.full(self.size - len(self.low), 1e-4)])

    @property
    def spans(self):
        """Widths within which the prior holds each parameter, shape (k,)."""
        return np.concatenate([self.high - self.low, *[np.full(e.size, e.spread) for e in self.functions.values()]])

    def bind(self, p):
        """The problem at p."""
        values = {n: float(p[i]) for i, n in enumerate(self.numbers)}
        for name, expansion in self.functions.items():
            coef = np.array(p[self.slices[name]])
            values[name] = lambda X, e=expansion, c=coef: e.values(X, c)
        return self.pde.bind(values)

    def clipped(self, p):
        """p with its numbers inside their bounds."""
        p = np.array(p, float)
        m = len(self.numbers)
        p[:m] = np.clip(p[:m], self.low, self.high)
        return p

    def prior(self):
        """Prior of p about the middle: numbers wide, functions smooth with a weight and a decay to be learned."""
        wide = 10 * (self.high - self.low)
        out = StructuredPrior(np.full(len(wide), -1), np.zeros((len(wide), 1)), wide)
        for expansion in self.functions.values():
            own = StructuredPrior.of(expansion.basis, power=1.0)  # heavy enough for an analytic function
            block, fixed = own.block.copy(), own.fixed.copy()
            level = own.degree.sum(axis=1) == 0  # the level may lie anywhere within the bounds
            block[level], fixed[level] = -1, expansion.spread
            out = out.extended(StructuredPrior(block, own.degree, fixed, own.power))
        return out


@dataclass
class Given:
    """What the equation and its conditions leave of u at some p.

    Parameters
    ----------
    p : numpy.ndarray, shape (k,)
        Parameters.
    basis : JointBasis
        Features.
    A, y, noise, prior : torch.Tensor
        Rows of the equation and its conditions, right sides, noise levels, prior standard deviations.
    groups : list
        Points and terms of the rows, in order.
    theta, root : torch.Tensor, shapes (P,) and (P, q)
        Mean and root of the covariance.
    mean, spread : torch.Tensor, shapes (m,) and (m, q)
        Of the observed values, without their noise.
    Phi : torch.Tensor, shape (m, P)
        Features at the observed points.
    """

    p: np.ndarray
    basis: JointBasis
    A: torch.Tensor
    y: torch.Tensor
    noise: torch.Tensor
    prior: torch.Tensor
    groups: list
    theta: torch.Tensor
    root: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor
    Phi: torch.Tensor


class ParameterModel:
    """Rows of equation, conditions and observations at any p.

    Parameters
    ----------
    vector : ParameterVector
        The parameters.
    basis_of : callable
        p -> JointBasis; the same number of blocks for all p.
    X : numpy.ndarray, shape (n, d)
        Points of the equation.
    n_face : int
        Points on each face.
    device : torch.device
        Where the rows live.
    seed : int
        Of the points on the faces, the same for all p.
    exact : float
        Noise of exact equations against the norms of their rows times the size of u (default 1e-12): what a basis
        cannot meet must be allowed for, or it is left with no function at all.
    """

    def __init__(self, vector, basis_of, X, n_face, device, seed, exact=EXACT):
        self.exact = exact
        self.vector, self.basis_of, self.X, self.n_face = vector, basis_of, X, n_face
        self.device, self.seed = device, seed
        self.sampled = vector.pde._source.is_sampled
        points, values, sigma = vector.pde._observations
        self.points = points
        self.values = torch.as_tensor(values, device=device)
        self.sigma_known = sigma is not None
        self.relative = torch.as_tensor(np.ones(len(points)) if sigma is None else sigma, device=device)
        self.scale = float(np.sqrt(np.mean(values**2))) or 1.0
        self._kept = (None, {})

    def _features(self, basis, tag, X, terms):
        """`operator_rows` with derivatives of the features kept from the last basis."""
        key = (basis.n_base, basis.n_envelope, np.asarray(basis.omega).tobytes())
        if self._kept[0] != key:
            self._kept = (key, {})
        kept, out = self._kept[1], None
        for alpha, c in terms.items():
            if (tag, alpha) not in kept:
                kept[tag, alpha] = operator_rows(basis, X, {alpha: 1.0}, self.device)
            block = kept[tag, alpha]
            if isinstance(c, float):
                block = block * c
            else:
                block = block * torch.as_tensor(np.asarray(c), dtype=torch.float64, device=self.device)[:, None]
            out = block if out is None else out + block
        return out

    def equations(self, p):
        """Points, terms and right sides at p: the equation first, then each condition; and the problem bound to p."""
        bound = self.vector.bind(p)
        f = bound._source.values if self.sampled else bound._source(self.X)
        groups = [(self.X, bound.coefficient_values(self.X), np.asarray(f), None)]
        for rows in condition_rows(bound, self.n_face, np.random.default_rng(self.seed)):
            groups.append((rows.X, rows.terms, np.asarray(rows.rhs), rows.minus))
        return groups

    def rows(self, p, noise):
        """`Rows` of the equation and the conditions at p, with the basis and the groups.

        Parameters
        ----------
        p : numpy.ndarray, shape (k,)
            Parameters.
        noise : dict
            Levels "source" and "boundary", in the units of the data, where they are not exact.
        """
        basis, groups = self.basis_of(p), self.equations(p)
        out = []
        for i, (X, terms, rhs, minus) in enumerate(groups):
            A = self._features(basis, i, X, terms)
            size = torch.linalg.norm(A, dim=1)
            if minus is not None:
                A = A - self._features(basis, (i, "minus"), minus, terms)
            name = "source" if i == 0 else "boundary"
            y = torch.as_tensor(rhs, device=self.device)
            if name in noise:
                # Below the rounding of the rows what they leave free would be decided by rounding, not by the prior.
                floor = 3 * EXACT * self.scale * float(size.square().mean().sqrt())
                out.append(Rows(A, y, max(noise[name], floor), True, name, floor))
            else:
                size = torch.where(size > 0, size, torch.ones_like(size))
                out.append(Rows(A, y, self.exact * self.scale, False, f"exact {i}", weight=size, cause=True))
        return basis, out, groups

    def observed(self, basis, sigma):
        """`Rows` of the observations."""
        Phi = self._features(basis, "observed", self.points, {(0,) * basis.n_dims: 1.0})
        learn = not self.sigma_known
        return Rows(Phi, self.values, 1.0 if not learn else sigma, learn, "observations", weight=self.relative)

    def given(self, p, prior_std, noise):
        """Condition u on the equation and its conditions at p.

        Parameters
        ----------
        p : numpy.ndarray, shape (k,)
            Parameters.
        prior_std : callable
            JointBasis -> prior standard deviations (P,).
        noise : dict
            As for `rows`.

        Returns
        -------
        Given
        """
        basis, rows, groups = self.rows(p, noise)
        A = torch.cat([r.A for r in rows])
        y = torch.cat([r.y for r in rows])
        level = torch.cat([torch.full_like(r.y, r.std) if r.weight is None else r.std * r.weight for r in rows])
        prior = torch.as_tensor(prior_std(basis), device=self.device)
        posterior = GaussianLinearModel(A, y, prior_std=prior, noise_std=level).posterior()
        theta, root = posterior.mean, posterior.covariance_root()
        Phi = self._features(basis, "observed", self.points, {(0,) * basis.n_dims: 1.0})
        return Given(p, basis, A, y, level, prior, groups, theta, root, Phi @ theta, Phi @ root, Phi)

    def sensitivity(self, given, theta):
        """Derivative D (P, k) of theta_0 by p, u being what theta says.

        Parameters
        ----------
        given : Given
            At p.
        theta : torch.Tensor, shape (P,)
            Coefficients of u.

        Returns
        -------
        torch.Tensor, shape (P, k)
        """
        steps, columns = self.vector.steps, []
        if not len(steps):
            return given.root.new_zeros(len(theta), 0)
        for j in range(self.vector.size):
            e = np.zeros(self.vector.size)
            e[j] = steps[j]
            up, down = self.equations(given.p + e), self.equations(given.p - e)
            column = []
            for i, (a, b) in enumerate(zip(up, down, strict=True)):
                right = torch.as_tensor((a[2] - b[2]) / (2 * steps[j]), device=self.device)
                for alpha in set(a[1]) | set(b[1]):
                    c = (a[1].get(alpha, 0.0) - b[1].get(alpha, 0.0)) / (2 * steps[j])
                    if not np.any(c):
                        continue
                    u = self._features(given.basis, i, a[0], {alpha: 1.0}) @ theta
                    if a[3] is not None:
                        u = u - self._features(given.basis, (i, "minus"), a[3], {alpha: 1.0}) @ theta
                    right = right - u * torch.as_tensor(np.asarray(c), device=self.device)
                column.append(right)
            columns.append(torch.cat(column))
        right = torch.stack(columns, dim=1)
        # Not under the prior of u: what p makes of a free wave, x cos kx, needs envelopes that u itself has none of.
        broad = torch.full_like(given.prior, 3.0 * self.scale)
        model = GaussianLinearModel(given.A, right, prior_std=broad, noise_std=given.noise)
        return model.posterior().mean
