r"""Manufactured problems: an operator, a known solution, and the source that follows from it by hand.

Notation  w, a, b angular frequencies, radians a unit length; every source is the operator applied to the solution,
          written out; tests/benchmarks compares the two by finite differences.
Pitfalls  a test grid that shares the solution's period sees no error: the grids here are uniform, with end points.

``problem("P1")`` is the published one, ``problem("P1", stretch=2, frequency_scale=0.5)`` a variant on a domain twice as
long with half the frequencies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """A linear problem with constant coefficients whose solution is known.

    Attributes
    ----------
    name, title : str
        Short name and the solution in words.
    box : tuple of (float, float)
        Bounds in every dimension.
    operator : dict of multi-index to float
        ``{(2, 0): 1.0, (0, 2): 1.0}`` is the Laplacian.
    source, solution : callable
        X (n, d) -> (n,).
    conditions : {"dirichlet", "initial-inflow"}
        Values on the whole boundary; or at the start of the last dimension, time, and at the lower end of the first.
    inside : callable or None
        X (n, d) -> bool (n,), where the domain is only a part of the box.
    boundary : array (m, d) or None
        Points of the boundary of such a domain.
    n_test : int
        Points of the test grid in every dimension.
    """

    name: str
    title: str
    box: tuple
    operator: dict
    source: Callable
    solution: Callable
    conditions: str = "dirichlet"
    inside: Callable | None = None
    boundary: np.ndarray | None = None
    n_test: int = 300

    @property
    def dims(self):
        """Number of dimensions, time included."""
        return len(self.box)

    def test_points(self):
        """Return the uniform test grid, end points included, restricted to the domain: (n, d)."""
        axes = [np.linspace(lower, upper, self.n_test) for lower, upper in self.box]
        X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.dims)
        return X if self.inside is None else X[self.inside(X)]

    def random_points(self, n, rng):
        """Return about n uniform random points of the domain (exactly n for a box)."""
        lower, upper = np.array(self.box).T
        X = lower + (upper - lower) * rng.random((n, self.dims))
        return X if self.inside is None else X[self.inside(X)]

    def error(self, values, X):
        """Return the relative L2 error of values (n,) at X (n, d)."""
        truth = self.solution(X)
        return float(np.linalg.norm(values - truth) / np.linalg.norm(truth))


SECOND = {(2,): 1.0}
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
LAPLACE_3D = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}
sin, cos, exp, pi = np.sin, np.cos, np.exp, np.pi


def _tone(name, box, w):
    return Problem(
        name,
        f"sin {w:g}x",
        box,
        SECOND,
        source=lambda X: -(w**2) * sin(w * X[:, 0]),
        solution=lambda X: sin(w * X[:, 0]),
    )


def _product(t, a, b):
    """Return sin(at) cos(bt) and its second derivative."""
    value = sin(a * t) * cos(b * t)
    return value, -(a**2 + b**2) * value - 2 * a * b * cos(a * t) * sin(b * t)


def p1(stretch=1.0, frequency_scale=1.0):
    """One fast tone."""
    return _tone("P1", ((0.0, 2 * pi * stretch),), 100 * frequency_scale)


def p2(stretch=1.0, frequency_scale=1.0):
    """A product of a slow and a fast tone: frequencies 94 and 106."""
    a, b = 6 * frequency_scale, 100 * frequency_scale
    return Problem(
        "P2",
        f"sin {a:g}x cos {b:g}x",
        ((0.0, 2 * pi * stretch),),
        SECOND,
        source=lambda X: _product(X[:, 0], a, b)[1],
        solution=lambda X: _product(X[:, 0], a, b)[0],
    )


def p3(stretch=1.0, frequency_scale=1.0):
    """A fast tone under a growing amplitude."""
    w = 200 * frequency_scale
    return Problem(
        "P3",
        f"x sin {w:g}x",
        ((0.0, 2 * pi * stretch),),
        SECOND,
        source=lambda X: 2 * w * cos(w * X[:, 0]) - w**2 * X[:, 0] * sin(w * X[:, 0]),
        solution=lambda X: X[:, 0] * sin(w * X[:, 0]),
    )


def p4(stretch=1.0, frequency_scale=1.0, shift=pi / 2):
    """Three scales; `shift` makes the finest a cosine (as written) or, at 0, a sine (as computed) in the source."""
    waves = [(1.0, frequency_scale, 0.0), (0.1, 20 * frequency_scale, 0.0), (0.05, 100 * frequency_scale, shift)]
    return Problem(
        "P4",
        "sin x + 0.1 sin 20x + 0.05 cos 100x",
        ((0.0, stretch),),
        SECOND,
        source=lambda X: sum(-c * w**2 * sin(w * X[:, 0] + p) for c, w, p in waves),
        solution=lambda X: sum(c * sin(w * X[:, 0] + p) for c, w, p in waves),
    )


def p5(stretch=1.0, frequency_scale=1.0):
    """A very fast tone on a parabola."""
    w = 500 * frequency_scale
    return Problem(
        "P5",
        f"sin {w:g}x - 2 (x - 1/2)^2",
        ((0.0, stretch),),
        SECOND,
        source=lambda X: -(w**2) * sin(w * X[:, 0]) - 4,
        solution=lambda X: sin(w * X[:, 0]) - 2 * (X[:, 0] - 0.5) ** 2,
    )


def p8(stretch=1.0, frequency_scale=1.0):
    """A product of fast tones, zero on the published boundary."""
    w = 100 * frequency_scale
    return Problem(
        "P8",
        f"sin {w:g}x sin {w:g}y",
        ((0.0, 2 * pi * stretch),) * 2,
        LAPLACE,
        source=lambda X: -2 * w**2 * sin(w * X[:, 0]) * sin(w * X[:, 1]),
        solution=lambda X: sin(w * X[:, 0]) * sin(w * X[:, 1]),
    )


def p9(stretch=1.0, frequency_scale=1.0):
    """A sum of products, one in each variable."""
    a, b = 6 * frequency_scale, 20 * frequency_scale
    return Problem(
        "P9",
        f"sin {a:g}x cos {b:g}x + sin {a:g}y cos {b:g}y",
        ((0.0, 2 * pi * stretch),) * 2,
        LAPLACE,
        source=lambda X: _product(X[:, 0], a, b)[1] + _product(X[:, 1], a, b)[1],
        solution=lambda X: _product(X[:, 0], a, b)[0] + _product(X[:, 1], a, b)[0],
    )


def p11(stretch=1.0, frequency_scale=1.0, speed=200.0):
    """Advection: dimensions (x, t), data at t = 0 and at the inflow only."""
    w = frequency_scale
    return Problem(
        "P11",
        f"sin {w:g}(x - {speed:g}t)",
        ((0.0, stretch),) * 2,
        {(1, 0): speed, (0, 1): 1.0},
        source=lambda X: np.zeros(len(X)),
        solution=lambda X: sin(w * (X[:, 0] - speed * X[:, 1])),
        conditions="initial-inflow",
    )


def p12(stretch=1.0, frequency_scale=1.0):
    """A product of fast tones that does not vanish on the boundary."""
    w = 100 * frequency_scale
    return Problem(
        "P12",
        f"sin {w:g}x cos {w:g}y",
        ((0.0, 2 * pi * stretch),) * 2,
        LAPLACE,
        source=lambda X: -2 * w**2 * sin(w * X[:, 0]) * cos(w * X[:, 1]),
        solution=lambda X: sin(w * X[:, 0]) * cos(w * X[:, 1]),
    )


def chirp(stretch=1.0, frequency_scale=1.0):
    """A broad-band solution: its local frequency grows from zero to 80."""
    a = 20 * frequency_scale

    def value(t):
        return sin(a * t**2)

    def second(t):
        return 2 * a * cos(a * t**2) - 4 * a**2 * t**2 * sin(a * t**2)

    return Problem(
        "chirp",
        f"sin {a:g}x^2 sin {a:g}y^2",
        ((0.0, 2 * stretch),) * 2,
        LAPLACE,
        source=lambda X: second(X[:, 0]) * value(X[:, 1]) + value(X[:, 0]) * second(X[:, 1]),
        solution=lambda X: value(X[:, 0]) * value(X[:, 1]),
    )


def boundary_layer(stretch=1.0, frequency_scale=1.0):
    """A harmonic function that oscillates along an edge and decays from it within 1 / w."""
    w = 100 * frequency_scale

    def decay(y):  # sinh(w (H - y)) / sinh(w H) with H = stretch, without overflow
        return (exp(-w * y) - exp(-w * (2 * stretch - y))) / -np.expm1(-2 * w * stretch)

    return Problem(
        "boundary-layer",
        f"sin {w:g}x sinh {w:g}(1 - y) / sinh {w:g}",
        ((0.0, stretch),) * 2,
        LAPLACE,
        source=lambda X: np.zeros(len(X)),
        solution=lambda X: sin(w * X[:, 0]) * decay(X[:, 1]),
    )


def star(stretch=1.0, frequency_scale=1.0, n_boundary=400):
    """A five-petal star, r = 0.7 + 0.2 cos 5 phi."""
    a, b = 30 * frequency_scale, 20 * frequency_scale

    def radius(phi):
        return stretch * (0.7 + 0.2 * cos(5 * phi))

    phi = 2 * pi * np.arange(n_boundary) / n_boundary
    return Problem(
        "star",
        f"sin {a:g}x cos {b:g}y + exp(x - y)",
        ((-0.9 * stretch, 0.9 * stretch),) * 2,
        LAPLACE,
        source=lambda X: -(a**2 + b**2) * sin(a * X[:, 0]) * cos(b * X[:, 1]) + 2 * exp(X[:, 0] - X[:, 1]),
        solution=lambda X: sin(a * X[:, 0]) * cos(b * X[:, 1]) + exp(X[:, 0] - X[:, 1]),
        inside=lambda X: np.hypot(X[:, 0], X[:, 1]) < radius(np.arctan2(X[:, 1], X[:, 0])),
        boundary=radius(phi)[:, None] * np.stack([cos(phi), sin(phi)], axis=1),
    )


def cube(stretch=1.0, frequency_scale=1.0):
    """Three dimensions: a fast product and a slow plane wave."""
    w = 40 * frequency_scale
    return Problem(
        "cube",
        f"sin {w:g}x sin {w:g}y sin {w:g}z + sin(x + y + z)",
        ((0.0, 2 * pi * stretch),) * 3,
        LAPLACE_3D,
        source=lambda X: -3 * w**2 * sin(w * X).prod(axis=1) - 3 * sin(X.sum(axis=1)),
        solution=lambda X: sin(w * X).prod(axis=1) + sin(X.sum(axis=1)),
        n_test=43,  # 41 would put every node where sin 40x vanishes
    )


PROBLEMS = {
    "P1": p1,
    "P2": p2,
    "P3": p3,
    "P4": p4,
    "P5": p5,
    "P8": p8,
    "P9": p9,
    "P11": p11,
    "P12": p12,
    "chirp": chirp,
    "boundary-layer": boundary_layer,
    "star": star,
    "cube": cube,
}


def problem(name, *, stretch=1.0, frequency_scale=1.0, **options):
    """Return a problem by name, on a domain `stretch` times as long, with `frequency_scale` times the frequencies."""
    if name not in PROBLEMS:
        raise ValueError(f"name must be one of {', '.join(PROBLEMS)}; got {name!r}.")
    return PROBLEMS[name](stretch=stretch, frequency_scale=frequency_scale, **options)


# Nonlinear problems, which the peers here do not solve


@dataclass(frozen=True)
class NonlinearProblem(Problem):
    """A problem with a pointwise nonlinear term, L u + N(u) = f, whose solution is known.

    Attributes
    ----------
    term, slope : callable
        N and dN / du, u (n,) -> (n,).
    """

    term: Callable = None
    slope: Callable = None


def _cubic(name, title, box, operator, image, solution, linear=-1.0, n_test=300):
    """Return L u + u^3 + linear u = f from u and L u."""
    return NonlinearProblem(
        name,
        title,
        box,
        operator,
        source=lambda X: image(X) + solution(X) ** 3 + linear * solution(X),
        solution=solution,
        n_test=n_test,
        term=lambda u: u**3 + linear * u,
        slope=lambda u: 3 * u**2 + linear,
    )


def p6(stretch=1.0, frequency_scale=1.0):
    """P1 under a double-well force."""
    p = p1(stretch, frequency_scale)
    return _cubic("P6", p.title, p.box, SECOND, p.source, p.solution)


def p7(stretch=1.0, frequency_scale=1.0):
    """P2 under a double-well force."""
    p = p2(stretch, frequency_scale)
    return _cubic("P7", p.title, p.box, SECOND, p.source, p.solution)


def p10(stretch=1.0, frequency_scale=1.0):
    """A product of three scales in each variable, under a double-well force."""
    waves = [(1.0, frequency_scale, -pi / 2), (0.1, 20 * frequency_scale, -pi / 2), (1.0, 100 * frequency_scale, 0.0)]

    def value(t, order=0):
        return sum(c * w**order * cos(w * t + p + order * pi / 2) for c, w, p in waves)

    return _cubic(
        "P10",
        "g(x) g(y), g(t) = sin t + 0.1 sin 20t + cos 100t",
        ((0.0, stretch),) * 2,
        LAPLACE,
        image=lambda X: value(X[:, 0], 2) * value(X[:, 1]) + value(X[:, 0]) * value(X[:, 1], 2),
        solution=lambda X: value(X[:, 0]) * value(X[:, 1]),
    )


def elliptic(stretch=1.0, frequency_scale=1.0):
    """The nonlinear elliptic problem of Chen et al. (2021), -Laplacian u + u^3 = f."""
    a, b = pi * frequency_scale, 4 * pi * frequency_scale

    def wave(X, w):
        return sin(w * X[:, 0]) * sin(w * X[:, 1])

    return _cubic(
        "elliptic",
        "sin pi x sin pi y + 2 sin 4 pi x sin 4 pi y",
        ((0.0, stretch),) * 2,
        {(2, 0): -1.0, (0, 2): -1.0},
        image=lambda X: 2 * a**2 * wave(X, a) + 4 * b**2 * wave(X, b),
        solution=lambda X: wave(X, a) + 2 * wave(X, b),
        linear=0.0,
    )


NONLINEAR = {"P6": p6, "P7": p7, "P10": p10, "elliptic": elliptic}
