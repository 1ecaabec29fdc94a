r"""Independent baselines in NumPy and SciPy alone: Chebyshev collocation and second-order finite differences.

Every solver takes a problem of `benchmarks.problems` and the number of nodes in each dimension, end points included,
and returns an `Answer`: an evaluator at any points and the number of unknowns.

Notation  x_j Chebyshev points, cos(j pi / N) mapped to the box, both ends included; D differentiation matrix;
          U values on the grid, one axis a dimension.
Cost      chebyshev 1D n^3; box 2 d n^(d + 1) after d eigenproblems n^3; advection one Sylvester equation;
          differences n log n, of the sine transform.
Pitfalls  the diagonal of D is minus the sum of its row: the textbook formula loses half of the digits at n = 400.
          Unit Courant number makes the box scheme exact when the source is zero: it is offered as such, by name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, linalg, signal


@dataclass(frozen=True)
class Answer:
    """A solution: ``answer(X)`` at points (n, d) gives (n,); `unknowns` counts the values solved for."""

    evaluate: Callable
    unknowns: int

    def __call__(self, X):
        return self.evaluate(np.asarray(X, dtype=float))


# Chebyshev collocation


def chebyshev_points(n, lower, upper):
    """Return n Chebyshev points, increasing, ends included."""
    j = np.arange(n)
    return lower + (upper - lower) * np.sin(0.5 * np.pi * j / (n - 1)) ** 2


def _differences(n):
    """Return x_i - x_j on [-1, 1] as a product of sines, which does not cancel; 1 on the diagonal."""
    j = np.arange(n)
    gap = 2 * np.sin(0.5 * np.pi * (j[:, None] + j) / (n - 1)) * np.sin(0.5 * np.pi * (j[:, None] - j) / (n - 1))
    np.fill_diagonal(gap, 1.0)
    return gap


def _balance(D):
    """Set the diagonal to minus the sum of the rest of its row, so that constants are killed exactly."""
    np.fill_diagonal(D, 0.0)
    np.fill_diagonal(D, -D.sum(axis=1))
    return D


def differentiation_matrix(n, lower, upper):
    """Return the first-derivative matrix (n, n) on the Chebyshev points."""
    weight = (-1.0) ** np.arange(n)
    weight[[0, -1]] *= 0.5
    return _balance(weight / weight[:, None] / _differences(n)) * (2 / (upper - lower))


def second_derivative_matrix(n, lower, upper):
    """Return the second-derivative matrix (n, n) from its own formula, which loses less than D @ D."""
    D = differentiation_matrix(n, -1.0, 1.0)
    return _balance(2 * D * (np.diag(D)[:, None] - 1 / _differences(n))) * (2 / (upper - lower)) ** 2


def barycentric_matrix(x, points):
    """Return the matrix (m, n) that interpolates values at the Chebyshev points `points` to x (m,)."""
    weight = (-1.0) ** np.arange(len(points))
    weight[[0, -1]] *= 0.5
    gap = x[:, None] - points
    hit = gap == 0
    gap[hit] = 1.0
    B = weight / gap
    B /= B.sum(axis=1, keepdims=True)
    rows = hit.any(axis=1)
    B[rows] = hit[rows]
    return B


def _interpolator(axes, U):
    """Evaluate a tensor of values on Chebyshev axes; quick where coordinates repeat, as on a grid."""

    def evaluate(X):
        distinct, places = zip(*(np.unique(column, return_inverse=True) for column in X.T), strict=True)
        if math.prod(len(d) for d in distinct) <= 4 * len(X):
            V = U
            for axis, (x, points) in enumerate(zip(distinct, axes, strict=True)):
                V = np.moveaxis(np.tensordot(barycentric_matrix(x, points), V, axes=(1, axis)), 0, axis)
            return V[places]
        values = np.empty(len(X))
        for start in range(0, len(X), 512):  # blocks bound the temporaries
            part = X[start : start + 512]
            V = np.tensordot(barycentric_matrix(part[:, 0], axes[0]), U, axes=1)
            for column, points in zip(part.T[1:], axes[1:], strict=True):
                V = np.einsum("ij,ij...->i...", barycentric_matrix(column, points), V)
            values[start : start + 512] = V
        return values

    return evaluate


def _grid(axes):
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _on_grid(function, axes):
    X = _grid(axes)
    return function(X.reshape(-1, len(axes))).reshape(X.shape[:-1])


def _with_boundary(problem, axes):
    """Grid of zeros with the data on the whole boundary."""
    U = np.zeros([len(axis) for axis in axes])
    X = _grid(axes)
    rim = np.ones(U.shape, dtype=bool)
    rim[(slice(1, -1),) * len(axes)] = False
    U[rim] = problem.solution(X[rim])
    return U


def chebyshev_line(problem, shape):
    """Solve a one-dimensional Dirichlet problem by dense collocation."""
    (n,), ((lower, upper),) = shape, problem.box
    x = chebyshev_points(n, lower, upper)
    matrices = {(0,): np.eye(n), (1,): differentiation_matrix(n, lower, upper)}
    matrices[(2,)] = second_derivative_matrix(n, lower, upper)
    L = sum(value * matrices[index] for index, value in problem.operator.items())
    u = np.zeros(n)
    u[[0, -1]] = problem.solution(x[[0, -1], None])
    right = problem.source(x[1:-1, None]) - L[1:-1][:, [0, -1]] @ u[[0, -1]]
    u[1:-1] = linalg.solve(L[1:-1, 1:-1], right, overwrite_a=True, overwrite_b=True, check_finite=False)
    return Answer(_interpolator([x], u), n - 2)


def _second_order(problem):
    """Coefficients of the pure second derivatives and of the value; refuse any other term."""
    rest, second = dict(problem.operator), []
    for axis in range(problem.dims):
        second.append(rest.pop(tuple(2 * (i == axis) for i in range(problem.dims)), 0.0))
    value = rest.pop((0,) * problem.dims, 0.0)
    if rest or 0.0 in second:
        raise ValueError(f"operator must be a sum of second derivatives and a constant; got {problem.operator}.")
    return second, value


def _along(M, U, axis):
    """Apply a matrix along one axis."""
    return np.moveaxis(np.tensordot(M, U, axes=(1, axis)), 0, axis)


def chebyshev_box(problem, shape):
    """Solve a Poisson or Helmholtz problem with Dirichlet data on a box by fast diagonalisation."""
    second, value = _second_order(problem)
    axes = [chebyshev_points(n, *bounds) for n, bounds in zip(shape, problem.box, strict=True)]
    inner = (slice(1, -1),) * problem.dims
    U = _with_boundary(problem, axes)
    right = _on_grid(problem.source, [axis[1:-1] for axis in axes])
    spectra, found = [], {}
    for axis, (n, bounds, factor) in enumerate(zip(shape, problem.box, second, strict=True)):
        key = (n, bounds, factor)
        if key not in found:  # equal sides share their eigenproblem
            D2 = factor * second_derivative_matrix(n, *bounds)
            eigenvalues, V = linalg.eig(D2[1:-1, 1:-1], check_finite=False)
            found[key] = D2, eigenvalues.real, V.real, linalg.lu_factor(V.real, check_finite=False)
        D2, *spectrum = found[key]
        rim = U[tuple(slice(None) if i == axis else slice(1, -1) for i in range(problem.dims))]
        right -= _along(D2[1:-1], rim, axis)
        spectra.append(spectrum)
    for axis, (_, _, factored) in enumerate(spectra):
        moved = np.moveaxis(right, axis, 0)
        solved = linalg.lu_solve(factored, moved.reshape(len(moved), -1), check_finite=False)
        right = np.moveaxis(solved.reshape(moved.shape), 0, axis)
    right = right / (sum(np.ix_(*[eigenvalues for eigenvalues, _, _ in spectra])) + value)
    for axis, (_, V, _) in enumerate(spectra):
        right = _along(V, right, axis)
    U[inner] = right
    return Answer(_interpolator(axes, U), right.size)


def chebyshev_advection(problem, shape):
    """Solve u_t + c u_x = f in space-time, dimensions (x, t), by one Sylvester equation."""
    speed, rate = problem.operator[(1, 0)], problem.operator[(0, 1)]
    axes = [chebyshev_points(n, *bounds) for n, bounds in zip(shape, problem.box, strict=True)]
    Dx = speed * differentiation_matrix(shape[0], *problem.box[0])
    Dt = rate * differentiation_matrix(shape[1], *problem.box[1])
    U = np.zeros(shape)
    start, inflow = _grid([axes[0], axes[1][:1]]), _grid([axes[0][:1], axes[1]])
    U[:, 0], U[0] = problem.solution(start[:, 0]), problem.solution(inflow[0])
    right = _on_grid(problem.source, [axes[0][1:], axes[1][1:]])
    right -= np.outer(Dx[1:, 0], U[0, 1:]) + np.outer(U[1:, 0], Dt[1:, 0])
    U[1:, 1:] = linalg.solve_sylvester(Dx[1:, 1:], Dt[1:, 1:].T, right)
    return Answer(_interpolator(axes, U), right.size)


# Second-order finite differences


def _local_cubic(box, U):
    """Evaluate values on a uniform grid by the cubic through four neighbours in each dimension, error h^4."""

    def evaluate(X):
        firsts, weights = [], []
        for (lower, upper), n, x in zip(box, U.shape, X.T, strict=True):
            s = (x - lower) / (upper - lower) * (n - 1)
            first = np.clip(np.floor(s).astype(int) - 1, 0, n - 4)
            t = s - first
            firsts.append(first)
            weights.append(
                [
                    -(t - 1) * (t - 2) * (t - 3) / 6,
                    t * (t - 2) * (t - 3) / 2,
                    -t * (t - 1) * (t - 3) / 2,
                    t * (t - 1) * (t - 2) / 6,
                ]
            )
        values = np.zeros(len(X))
        for offsets in np.ndindex(*(4,) * U.ndim):
            place = tuple(first + o for first, o in zip(firsts, offsets, strict=True))
            values += math.prod(w[o] for w, o in zip(weights, offsets, strict=True)) * U[place]
        return values

    return evaluate


def differences_line(problem, shape):
    """Solve a one-dimensional Dirichlet problem with central differences: one tridiagonal system."""
    (n,), ((lower, upper),) = shape, problem.box
    x, h = np.linspace(lower, upper, n, retstep=True)
    a2, a1, a0 = (problem.operator.get((k,), 0.0) for k in (2, 1, 0))
    below, centre, above = a2 / h**2 - a1 / (2 * h), a0 - 2 * a2 / h**2, a2 / h**2 + a1 / (2 * h)
    u = np.zeros(n)
    u[[0, -1]] = problem.solution(x[[0, -1], None])
    right = problem.source(x[1:-1, None])
    right[0] -= below * u[0]
    right[-1] -= above * u[-1]
    bands = np.repeat([[above], [centre], [below]], n - 2, axis=1)
    u[1:-1] = linalg.solve_banded((1, 1), bands, right, overwrite_ab=True, overwrite_b=True, check_finite=False)
    return Answer(_local_cubic(problem.box, u), n - 2)


def differences_box(problem, shape):
    """Solve a Poisson or Helmholtz problem with Dirichlet data on a box by the fast sine transform."""
    second, value = _second_order(problem)
    axes = [np.linspace(*bounds, n) for n, bounds in zip(shape, problem.box, strict=True)]
    inner = (slice(1, -1),) * problem.dims
    U = _with_boundary(problem, axes)
    right = _on_grid(problem.source, [axis[1:-1] for axis in axes])
    symbol = value
    for axis, (n, (lower, upper), factor) in enumerate(zip(shape, problem.box, second, strict=True)):
        scale = factor * ((n - 1) / (upper - lower)) ** 2
        sides = np.moveaxis(U[tuple(slice(None) if i == axis else slice(1, -1) for i in range(problem.dims))], axis, 0)
        edge = np.moveaxis(right, axis, 0)
        edge[0] -= scale * sides[0]
        edge[-1] -= scale * sides[-1]
        k = np.arange(1, n - 1).reshape([-1 if i == axis else 1 for i in range(problem.dims)])
        symbol = symbol - 4 * scale * np.sin(0.5 * np.pi * k / (n - 1)) ** 2
    U[inner] = fft.idstn(fft.dstn(right, type=1) / symbol, type=1)
    return Answer(_local_cubic(problem.box, U), right.size)


def differences_advection(problem, shape):
    """Solve u_t + c u_x = f by the box scheme, centred in space and time, marched over t; c > 0."""
    speed, rate = problem.operator[(1, 0)], problem.operator[(0, 1)]
    (x, h), (t, k) = (np.linspace(*b, n, retstep=True) for n, b in zip(shape, problem.box, strict=True))
    courant = speed / rate * k / h
    ratio = (1 - courant) / (1 + courant)
    U = np.empty(shape)
    U[:, 0] = problem.solution(np.column_stack([x, np.full(len(x), t[0])]))
    U[0] = problem.solution(np.column_stack([np.full(len(t), x[0]), t]))
    # A zero source costs nothing; else it is sampled at the centres of the cells.
    F = _on_grid(problem.source, [x[:-1] + h / 2, t[:-1] + k / 2]) * 2 * k / rate / (1 + courant)
    for m in range(len(t) - 1):
        # u_{i+1}^{m+1} = u_i^m + ratio (u_{i+1}^m - u_i^{m+1}) + source: a recurrence in i, hence a filter.
        known = U[:-1, m] + ratio * U[1:, m] + F[:, m]
        U[1:, m + 1] = signal.lfilter([1.0], [1.0, ratio], known, zi=[-ratio * U[0, m + 1]])[0]
    return Answer(_local_cubic(problem.box, U), U[1:, 1:].size)


# The best number of nodes


def chebyshev_need(problem, tol=1e-13, largest=4096):
    """Return, for every dimension, the Chebyshev points that the exact solution needs: where coefficients pass tol.

    Along five lines parallel to the axis; the whole of the knowledge that tuning may take from the solution.
    """
    rng = np.random.default_rng(0)
    need = []
    for axis, (lower, upper) in enumerate(problem.box):
        lines = problem.random_points(64, rng)[:5]
        n = 32
        while True:
            x = chebyshev_points(n, lower, upper)
            X = np.repeat(lines[:, None], n, axis=1)
            X[..., axis] = x
            values = problem.solution(X.reshape(-1, problem.dims)).reshape(len(lines), n)
            size = np.abs(fft.dct(values, type=1, axis=1)).max(axis=0)
            last = int(np.flatnonzero(size > tol * size.max())[-1]) + 1
            if last < 0.8 * n or n >= largest:
                need.append(max(last, 8))
                break
            n *= 2
    return need


def peers(problem):
    """Return the peers of a problem, name -> (solver, ladder of shapes); none where the domain is no box."""
    if problem.inside is not None:
        return {}
    need = chebyshev_need(problem)
    spectral = [tuple(math.ceil(f * n) + 2 for n in need) for f in (0.7, 0.8, 0.9, 1.0, 1.1, 1.25)]
    if problem.conditions == "initial-inflow":
        (x0, x1), (t0, t1) = problem.box
        crossings = problem.operator[(1, 0)] / problem.operator[(0, 1)] * (t1 - t0) / (x1 - x0)
        ladder = {c: [(n + 1, math.ceil(n * crossings / c) + 1) for n in (25, 50, 100, 200)] for c in (0.8, 1.0)}
        return {
            "Chebyshev space-time": (chebyshev_advection, spectral),
            "box scheme, Courant 0.8": (differences_advection, ladder[0.8]),
            "box scheme, Courant 1": (differences_advection, ladder[1.0]),
        }
    sizes = {1: [2**k + 1 for k in range(8, 19)], 2: [2**k + 1 for k in range(7, 12)], 3: [2**k + 1 for k in (5, 6, 7)]}
    uniform = [(n,) * problem.dims for n in sizes[problem.dims]]
    if problem.dims == 1:
        return {"Chebyshev": (chebyshev_line, spectral), "finite differences": (differences_line, uniform)}
    return {"Chebyshev": (chebyshev_box, spectral), "finite differences": (differences_box, uniform)}


def tuned(solver, problem, ladder, X, target=1e-10):
    """Return the shape of the ladder that a fair user would take: the first with an error below target, else the best.

    Returns
    -------
    shape, error : tuple of int, float
    """
    best = None
    for shape in ladder:
        error = problem.error(solver(problem, shape)(X), X)
        if best is None or error < best[1]:
            best = shape, error
        if error < target:
            break
    return best
