"""The loop around all methods for square systems: residuals confirmed in float64, refinement of float32 data.

Notation  B (..., n, R) right sides; X (..., n, R) iterates; R = B - A X true residual in the long dtype; D the
          correction of one descent, A D = R; relative (..., R) the norms of R over those of B.
Pitfalls  the residual that a method carries along drifts from the true one, and in float32 goes on to fall where the
          true one has long stopped near eps * condition. So the two are compared every 50 steps, and nothing is called
          converged before B - A X was formed anew. Squares of numbers beyond 1e154 or below 1e-154 leave the range
          of float64, so A and M far from the size of one are applied in other units, powers of two.
"""

from functools import cached_property

import torch

from sciml.iterate import End, Status, Step, run
from sciml.linalg.krylov.system import LONG, System, norm, power_of_two
from sciml.validation import check_number

_COMPARE = 50  # steps between two comparisons of the recurrence with the true residual
_LOST = 0.1  # relative difference of the two at which the recurrence counts as lost
_RESTARTS = 3  # in float64, after a residual that could not be confirmed
_REFINEMENTS = 20  # outer steps for float32 data
_INNER = 1e-2  # what an inner solve in float32 is asked for
_LOOKS = {10 * 2**k for k in range(12)}  # steps at which float32 is asked whether it can reach the tolerance
_HOPELESS = 1e-2  # eps32 times a condition number beyond which float32 gains too little to be worth its steps


def solve(name, method, A, b, M, x0, *, tol, max_iter, adjoint, options=None, **loop):
    """Run a method from door to door; `adjoint(A, g)` solves for derivatives, `loop` goes to `sciml.iterate.run`."""
    system, conditions = System(A, b, M, x0), []
    tol = check_number("tol", tol, low=0)
    if max_iter is None:
        max_iter = min(max(10 * system.B.shape[-2], 1000), 5000)
    steps = refined(system, tol, conditions, method, **(options or {}))
    done = run(steps, name=name, tol=tol, max_iter=max_iter, dtype="float64", **loop)
    condition = max(conditions, default=float("nan"))
    return system.report(done, tol=tol, name=name, condition=condition, adjoint=adjoint)


@torch.no_grad()
def refined(system, tol, conditions, method, **options):
    """Yield the iterates of a method; estimates of the condition number are left in a list.

    Parameters
    ----------
    system : System
        What to solve.
    tol : float
        Of the relative residual.
    conditions : list
        Receives estimates.
    method : type
        A :class:`Descent`.
    **options
        Of the method.

    Notes
    -----
    Each turn of the outer loop descends on A D = R, adds D to X, and forms R = B - A X in the long dtype. One turn is
    enough unless the data are float32 or the recurrence was wrong about its residual.
    """
    X = torch.where((system.norm_B == 0)[..., None, :], 0, system.X0)
    R, relative = system.residual(X)
    active = ~(relative <= tol)  # a NaN is active, too
    yield _step(system, X, relative, active)

    A, dtype, turn, reason = system.A, system.dtype, 0, None
    while bool(active.any()):
        unit = power_of_two(relative * system.norm_B)
        to_relative = unit / torch.where(system.norm_B > 0, system.norm_B, 1.0)
        descent = method(A, system, R / unit[..., None, :], dtype, active, **options)
        short, eps = dtype in LONG, torch.finfo(dtype).eps  # short: float32
        in_parts, switch = short and (turn > 0 or tol < 10 * eps), ""
        while True:
            descent.step()
            if short and descent.n_steps in _LOOKS:
                condition = descent.condition()
                in_parts = in_parts or tol < 10 * eps * condition
                if system.has_long and eps * condition > _HOPELESS:
                    switch = f"the condition number is {condition:.0e}"
                    descent.active &= False
            goal = torch.clamp(_INNER * relative, min=tol) if in_parts else torch.full_like(relative, tol)
            estimate = descent.filled(relative, descent.size * to_relative[..., descent.columns])
            descent.drop(estimate <= goal)
            if not bool(descent.active.any()):
                break  # nothing is claimed before the residual is confirmed
            yield _step(system, X, estimate, active, unit, descent.correction)
        conditions.append(descent.condition())

        before, turn = relative, turn + 1
        X, R, relative = _better(system, X, R, relative, X + unit[..., None, :] * descent.correction)
        active = active & ~(relative <= tol)
        broken, slow = active & descent.broken, active & ~(relative <= 0.5 * before)
        if short and bool((broken | slow).any()):
            switch = switch or "float32 no longer gained"
        if short and system.has_long and bool(active.any()):
            precision = f"float64 in the end: {switch}" if switch else "float32, residual and update in float64"
            system.choices["iteration"] = precision
            if switch:
                A, dtype, turn = system.A_long, system.long, 0
        else:
            active = active & ~broken
            reason = reason or descent.reason
        yield _step(system, X, relative, active)
        if turn > (_REFINEMENTS if short else _RESTARTS) and bool(active.any()):
            return End(Status.STALLED, _stagnation(relative, dtype, conditions))
    return reason


class _Iterate(Step):
    """A step whose value is formed when somebody looks at it: most are never looked at."""

    def __init__(self, form, criterion, scalars):
        for name, given in (("form", form), ("criterion", criterion), ("scalars", scalars)):
            object.__setattr__(self, name, given)

    @cached_property
    def value(self):
        """The iterate."""
        return self.form()


def _step(system, X, relative, active, unit=None, D=None):
    """Return the iterate X, or X + unit D."""

    def form():
        return system.shaped(X if D is None else X + unit[..., None, :] * D)

    return _Iterate(form, _largest(relative), {"active": int(active.sum())})


def _largest(relative):
    return float(relative.max()) if relative.numel() else 0.0


def _better(system, X, R, relative, X_new):
    """Return the iterate, its residual and relative norm, column by column those of the smaller residual."""
    R_new, relative_new = system.residual(X_new)
    keep = (relative_new > relative) | ~torch.isfinite(relative_new)
    if not bool(keep.any()):
        return X_new, R_new, relative_new
    column = keep[..., None, :]
    return torch.where(column, X, X_new), torch.where(column, R, R_new), torch.where(keep, relative, relative_new)


def _stagnation(relative, dtype, conditions):
    word = str(dtype).removeprefix("torch.")
    return (
        f"the residual b - A x formed anew stays at {_largest(relative):.1e} although the recurrence fell below tol: "
        f"tol is below what {word} reaches at a condition of about {max(conditions):.0e}. Loosen tol, or precondition"
    )


class _InUnits:
    """A product divided by a power of two, such that what came out first is of the size of what went in.

    Within the powers of two up to `far`, where no square is lost, the unit is one, and nothing is divided.
    """

    def __init__(self, product, far):
        self.product, self.far, self.unit = product, far, None

    def __call__(self, X):
        Y = self.product(X)
        if self.unit is None:
            size_X, size_Y = (float(norm(t).max()) if t.numel() else 0.0 for t in (X, Y))
            unit = float(power_of_two(torch.tensor(size_Y / size_X if size_X > 0 else 0.0, dtype=torch.float64)))
            self.unit = 1.0 if 1 / self.far <= unit <= self.far else unit
        return Y if self.unit == 1 else Y / self.unit


class Descent:
    """A method on A D = R from D = 0; columns that are done are frozen, and dropped when most are.

    A subclass gives `_start`, which sets its own blocks, `_advance`, which takes one step in the active columns and
    sets ``r`` and ``size``, and in ``_per_column`` the names of the tensors whose last axis are the columns.

    Parameters
    ----------
    A : callable
        Product with a block of columns.
    system : System
        Gives the preconditioner and the product in the long dtype.
    R : Tensor, shape (..., n, R)
        Right sides of about unit size, in the long dtype.
    dtype : torch.dtype
        What to iterate in.
    active : Tensor of bool, shape (..., R)
        Columns to work on.
    """

    _per_column: tuple[str, ...] = ()

    def __init__(self, A, system, R, dtype, active, **options):
        self.system, self.R, self.dtype = system, R, dtype
        far = 2.0**20 if dtype in LONG else 2.0**200
        self.A, self.M = _InUnits(A, far), _InUnits(system.M, far) if system.M else lambda X: X
        self.columns = _any_batch(active).nonzero()[:, 0]
        self.whole = torch.zeros_like(R, dtype=dtype)  # corrections of columns that have left
        self.r = R[..., self.columns].to(dtype)
        self.d = torch.zeros_like(self.r)
        self.size = torch.zeros_like(self.r[..., 0, :], dtype=torch.float64)
        self.active = active[..., self.columns]
        self.broken, self.reason, self.n_steps = torch.zeros_like(active), None, 0
        self._start(**options)

    def _start(self):
        """Set the blocks of the method."""

    def _advance(self):
        """Take one step in every active column."""
        raise NotImplementedError

    def condition(self):
        """Return an estimate of the condition number, from below."""
        return 1.0

    def step(self):
        """Take one step in every active column, and look at the true residual now and then."""
        self.n_steps += 1
        self._advance()
        if self.n_steps % _COMPARE == 0:
            self._compare()

    def _compare(self):
        """Form R - A D anew; a column whose recurrence has lost it has nothing more to gain from this descent.

        The recurrence is not overwritten: near the end of what the dtype can do, directions built on a residual that is
        rounding grow without bound. The outer loop starts afresh from the true residual instead.
        """
        true = self.residual()
        self.active = self.active & ~(norm(true - self.r) > _LOST * norm(true))

    def residual(self):
        """Return R - A D in the long dtype, for the columns still here."""
        return self.R[..., self.columns] - self.system.A_long(self._in_units(self.d))

    def _in_units(self, d):
        """Return a correction in the units of the user, in the long dtype where those differ."""
        d = d.to(self.R.dtype)
        return d if self.A.unit in (None, 1) else d / self.A.unit

    def _break(self, bad, status, reason):
        """Freeze columns, (..., R) of those still here, in which the method cannot go on; say why the first time."""
        if not bool(bad.any()):
            return
        self.broken = self.filled(self.broken, bad | self.broken[..., self.columns])
        self.active = self.active & ~bad
        self.reason = self.reason or End(status, reason)

    def drop(self, done):
        """Freeze columns that are done, (..., R) of the whole block; leave them out once they are the majority."""
        self.active = self.active & ~done[..., self.columns]
        left = _any_batch(self.active)
        if 2 * int(left.sum()) < len(left):
            self.whole = self._assembled()
            self.columns = self.columns[left]
            for name in ("r", "d", "active", "size", *self._per_column):
                setattr(self, name, getattr(self, name)[..., left])

    @property
    def correction(self):
        """D, the whole block (..., n, R)."""
        return self._assembled() if self.A.unit in (None, 1) else self._in_units(self._assembled())

    def _assembled(self):
        if len(self.columns) == self.whole.shape[-1]:
            return self.d
        return self.whole.index_copy(-1, self.columns, self.d)

    def filled(self, whole, part):
        """Return what is known of all columns, (..., R), with news of those still here."""
        if len(self.columns) == whole.shape[-1]:
            return part
        return whole.index_copy(-1, self.columns, part)


def _any_batch(flags):
    """Return which columns (R,) are set in any matrix of the batch, from (..., R)."""
    return flags.reshape(-1, flags.shape[-1]).any(0)
