"""Solve the demonstration problems, print one table, and write figures and a netCDF file into ``demo_output/``.

Run by ``make demo``, or as ``python gallery/demo.py [folder]``. A method that joins the package adds a section: a
function that takes the folder, yields rows of the table, and writes its figures; see `SECTIONS` at the end.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# One thread each, unless told otherwise: the methods are compared, and threads that wait for a busy core cost more than
# they bring. Read once, when NumPy and torch are imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(
    str(ROOT)
)  # for the problems with known solutions and the peers in benchmarks/; behind the package itself


@dataclass(frozen=True)
class Row:
    """One line of the table; `certificate` is None for a method that gives none."""

    problem: str
    method: str
    error: float
    certificate: tuple | None
    unknowns: int
    seconds: float


# ---------------------------------------------------------------- differential equations


def differential_equations(folder) -> Iterator[Row]:
    """P1, P4, P8, a star and a cube, beside the peers that apply; see benchmarks/problems.py for the equations."""
    from benchmarks.bench_gp_pde import statement
    from benchmarks.peers import peers, tuned
    from benchmarks.problems import problem
    from sciml import solve_pde

    solve_pde(statement(problem("P4", frequency_scale=0.1)))  # the first call of torch is slow; it is not what is timed
    for name in ("P1", "P4", "P8", "star", "cube"):
        case = problem(name)
        X = case.test_points()
        statement_ = statement(case)
        solution, seconds = timed(solve_pde, statement_)
        certificate = (solution.error_estimate, solution.status)
        label = f"{name}: {case.title}"
        yield Row(
            label, "sciml.solve_pde", case.error(solution(X), X), certificate, len(solution.coefficients), seconds
        )
        for peer, (solver, ladder) in (peers(case) or {}).items():
            if peer.startswith("finite") and case.dims > 1:
                continue  # too far behind to teach anything; see benchmarks/
            shape, _ = tuned(solver, case, ladder, X)  # its best size, before the clock runs
            answer, seconds = timed(solver, case, shape)
            yield Row(
                "", PEERS.get((peer, case.dims > 1), peer), case.error(answer(X), X), None, answer.unknowns, seconds
            )
        if case.inside is not None:
            answer, seconds = timed(star_by_differences, case, 401)
            on_grid, values = answer
            yield Row("", PEERS["finite differences", False], case.error(values, on_grid), None, len(values), seconds)
        draw(solution, case, folder)
        if name == "star":
            solution.to_xarray(201).to_netcdf(folder / "star.nc", engine="h5netcdf")


PEERS = {
    ("Chebyshev", False): "Chebyshev collocation",
    ("Chebyshev", True): "Chebyshev, fast diagonalisation",
    ("finite differences", False): "second-order finite differences",
}
# Parts of the domain in which the oscillation can be seen, units of x.
WINDOWS = {"P1": [(0.0, 0.5)], "P8": [(0.0, 0.4)] * 2, "cube": [(0.0, 1.0)] * 3}


def draw(solution, case, folder):
    """Write the solution, a window of it, its error and its spectrum as figures."""
    import matplotlib.pyplot as plt

    from sciml.solvers.gp_pde.plotting import plot, plot_error, plot_spectrum

    name, window = case.name, WINDOWS.get(case.name)
    pictures = {
        "solution": lambda: plot(solution, window=window),
        "error": lambda: plot_error(solution, case.solution, window=window if case.dims == 3 else None),
        "spectrum": lambda: plot_spectrum(solution),
    }
    for kind, picture in pictures.items():
        figure = np.ravel(picture())[0].figure
        figure.savefig(folder / f"{name}_{kind}.png", dpi=150)
        plt.close(figure)


def star_by_differences(case, n):
    """Solve Poisson's equation on a region by second-order differences, arms cut at the boundary (Shortley, Weller).

    Returns
    -------
    points : array (m, 2)
        Nodes inside, of a grid of n by n.
    values : array (m,)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    axes = [np.linspace(*bounds, n) for bounds in case.box]
    h = axes[0][1] - axes[0][0]
    X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = case.inside(X)
    number = np.full(len(X), -1)
    number[inside] = np.arange(inside.sum())
    X, place = X[inside], np.flatnonzero(inside)
    right, diagonal, rows, columns, entries = case.source(X), np.zeros(len(X)), [], [], []
    for axis, stride in ((0, n), (1, 1)):
        arms = {}
        for side in (-1, 1):
            step = side * h * np.eye(2)[axis]
            neighbour = number[place + side * stride]
            low, high = np.zeros(len(X)), np.ones(len(X))
            cut = neighbour < 0
            for _ in range(40):  # bisection for the boundary, as a part of the arm
                middle = (low + high) / 2
                at = case.inside(X + middle[:, None] * step)
                low, high = np.where(at, middle, low), np.where(at, high, middle)
            arms[side] = np.where(cut, low, 1.0), neighbour, step
        total = arms[-1][0] + arms[1][0]
        for length, neighbour, step in arms.values():
            weight = 2 / (length * total * h**2)
            diagonal -= weight
            open_ = neighbour >= 0
            rows.append(np.flatnonzero(open_))
            columns.append(neighbour[open_])
            entries.append(weight[open_])
            edge = (X + length[:, None] * step)[~open_]
            right[~open_] -= weight[~open_] * case.solution(edge)
    every = np.arange(len(X))
    A = coo_array(
        (np.concatenate([diagonal, *entries]), (np.concatenate([every, *rows]), np.concatenate([every, *columns]))),
        shape=(len(X), len(X)),
    )
    return X, spsolve(A.tocsc(), right)


# ---------------------------------------------------------------- all sections


SECTIONS = {"Differential equations": differential_equations}
NOTES = """
rel. L2      relative L2 error against the known solution, on a test grid
certificate  the method's own estimate of that error, made without the solution, and its status
unknowns     features, or values on a grid: on a box the smallest of several with an error below 1e-10, else the best
seconds      one solution on one thread, without start-up"""


def timed(function, *arguments):
    """Return what a function returns, and its seconds."""
    start = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - start


def line(*cells):
    """Return a row of the table as text."""
    problem, method, error, certificate, unknowns, seconds = cells
    return f"{problem:46}  {method:31}  {error:>7}  {certificate:15}  {unknowns:>9}  {seconds:>7}"


def cells(row):
    """Return the numbers of a row as texts."""
    certificate = "-" if row.certificate is None else f"{row.certificate[0]:.0e} {row.certificate[1]}"
    return row.problem, row.method, f"{row.error:.0e}", certificate, f"{row.unknowns:,d}", f"{row.seconds:.3f}"


def rows(folder):
    """Run all sections; yield (section, row), and print what they warn of."""
    for title, section in SECTIONS.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for row in section(folder):
                yield title, row
        for warning in caught:
            print(f"warning: {warning.message}")


def main(folder):
    """Run all sections; return the exit status: 1 when a method claims more than it reached."""
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    start, began = time.perf_counter(), time.time() - 1
    head = line("problem", "method", "rel. L2", "certificate", "unknowns", "seconds")
    table, last, honest = [head, line("-" * 46, "-" * 31, "-" * 7, "-" * 15, "-" * 9, "-" * 7)], None, True
    print(*table, sep="\n")
    for title, row in rows(folder):
        fresh = [title] if title != last else []
        fresh.append(line(*cells(row)))
        print(*fresh, sep="\n", flush=True)
        table, last = table + fresh, title
        if row.certificate is not None and row.certificate[1] == "converged":
            honest = honest and row.error <= 10 * row.certificate[0]
    table.append(NOTES)
    print(NOTES)
    (folder / "table.txt").write_text("\n".join(table) + "\n")
    if not honest:
        print("\nA certificate was too good: an error exceeds ten times its estimate.")
    written = sorted(path.name for path in folder.iterdir() if path.stat().st_mtime >= began)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"\n{time.perf_counter() - start:.0f} seconds in all. Written to {shown}/: {', '.join(written)}")
    return 0 if honest else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "demo_output"))
