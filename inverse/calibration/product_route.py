"""Self-calibration with operators: small ones are written out, large ones used by their products."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ambiguity import ranges
from sciml.inverse.calibration.answer import finish, status_of
from sciml.inverse.calibration.call import complain
from sciml.inverse.calibration.ensemble_adapters import as_ensemble
from sciml.inverse.calibration.identifiability import check_counts
from sciml.inverse.calibration.matrix_free import solve_matrix_free
from sciml.random import generator, normal

__all__ = ["DENSE_SENSORS", "solve_operator", "solve_products"]

DENSE_SENSORS = 3000  # a matrix of this size is factorised in seconds
_WORK = 5e8  # multiplications of one elimination, some tenths of a second, beyond which products are faster
_MANY = 16  # snapshots, a part of which is enough to tell whether the data are ambiguous
_RATIO = 1.5  # of the two smallest eigenvalues, the second of which is a bound from above
_LARGE = 2**21  # data beyond which no second eigenvalue is looked for
_DENSE_BYTES = 2**28  # operators whose matrices take no more than this are written out


def solve_operator(call):
    """Write small operators out and return None; solve large ones by their products."""
    problem = call.problem
    b, p, m = problem.y.shape
    ensemble = as_ensemble(problem.operator, p, m)
    own = p if ensemble.batch_shape else 1
    n = ensemble.shape[1]
    size, work = own * m * n * 16, own * m * n * (m + n)
    needs_matrices = call.s_basis is not None or call.d_basis is not None or call.prior is not None
    needs_matrices |= call.loss != "gaussian" or call.noise != "white" or call.method not in ("auto", "matrix-free")
    slow = work > _WORK and not needs_matrices
    if call.method == "matrix-free" or size > _DENSE_BYTES or m > DENSE_SENSORS or slow:
        problem.operator = ensemble
        return solve_products(call)
    dense = torch.as_tensor(ensemble.to_dense()).to(device=problem.y.device)
    long = torch.complex128 if problem.is_complex or dense.is_complex() else torch.float64
    problem.A = dense.to(long).reshape(1, own, m, -1)
    problem.y = problem.y.to(long)
    problem.is_complex = long.is_complex
    return None


def solve_products(call):
    """Solve channel by channel by products only; name groups of sensors where a second eigenvalue shows them."""
    problem = call.problem
    for name, value, wanted in (
        ("s_basis", call.s_basis, None),
        ("d_basis", call.d_basis, None),
        ("prior", call.prior, None),
        ("loss", call.loss, "gaussian"),
        ("noise", call.noise, "white"),
    ):
        # Arrays are not compared entry by entry.
        if value is not wanted and not (isinstance(value, str) and value == wanted):
            got = value if isinstance(value, str) else "one"
            raise InvalidInputError(
                f"{name} must be left at its default for matrix-free problems; got {got}. Pass A as an array with "
                f"at most {DENSE_SENSORS} sensors."
            )
    b, p, m = problem.y.shape
    ensemble = as_ensemble(problem.operator, p, m)
    if call.strict:
        check_counts(problem.model, m, ensemble.shape[1], p)
    # A second eigenvalue, which tells whether the data are ambiguous, costs a fifth more products and vectors.
    looks = p >= _MANY and ensemble.gram is not None and p * m <= _LARGE
    parts, groups, words = [], [], []
    for channel in range(b):
        W = None if problem.W is None else problem.W[channel if len(problem.W) > 1 else 0]
        solve = partial(
            solve_matrix_free,
            problem.y[channel],
            ensemble,
            model=problem.model,
            tol=max(call.tol, 1e-8),
            refine=call.refine,
            callback=call.callback,
            progress=call.progress,
            on_failure=call.on_failure,
        )
        part = solve(W=W, n_eigen=2 if looks else 1)
        lam = part.eigenvalues[0]
        known = part.active[0] & torch.isfinite(part.gains[0].abs())
        own, text = [known.nonzero()[:, 0].tolist()], ""
        if len(lam) > 1 and float(lam[1]) < _RATIO * float(lam[0]):
            own = linked_sensors(problem.y[channel], ensemble, known, W)
            if len(own) > 1:
                largest = max(own, key=len)
                mask = torch.zeros_like(known)
                mask[largest] = True
                only = mask.to(problem.y.real.dtype).expand(p, m)
                part = replace(solve(W=only if W is None else W * only), eigenvalues=part.eigenvalues)
                listed = " and ".join(ranges(group, problem.sensors) for group in own[:6])
                text = (
                    f"sensors {listed} share no common information: their relative gain is undetermined, and only the "
                    "first of the largest groups is answered for. Add signals that connect them"
                )
            else:
                part = replace(part, active=torch.zeros_like(part.active))
                text = (
                    f"the two smallest eigenvalues have the ratio {float(lam[1] / lam[0]):.3g}: several directions fit "
                    "the data about as well, and none is answered for. Measure more different signals"
                )
        parts.append(part)
        groups.append(own)
        words.append(text)
    join = lambda name: torch.cat([getattr(part, name) for part in parts])  # noqa: E731
    names = ("gains", "active", "noise_variance", "misfit", "dof", "eigenvalues", "converged", "variance")
    estimate = replace(parts[0], **{name: join(name) for name in names})
    signals = [part.signals for part in parts]
    own = estimate.gains

    def rescaled(d):
        # Gains were only multiplied by the factor of the gauge: signals take its inverse.
        known = d != 0
        ratio = torch.where(known, own / torch.where(known, d, 1), 0).nan_to_num(0.0).sum(1) / known.sum(1).clamp_min(1)
        stacked = signals[0] if len(signals) == 1 else torch.cat(signals)
        return stacked * ratio.to(stacked.dtype).reshape(-1, *[1] * (stacked.ndim - 1))

    if not looks:
        estimate.notes = [*estimate.notes, "ambiguities were not looked for, at this size or with this few snapshots"]
    known = estimate.active & torch.isfinite(estimate.gains.abs())
    lam = estimate.eigenvalues
    ratio = lam[:, 1] / lam[:, 0] if lam.shape[1] > 1 else torch.full_like(estimate.dof, float("nan"))
    result = finish(
        problem,
        estimate,
        gauge=call.gauge,
        known=known,
        covariance=None,
        groups=groups,
        ratio=ratio,
        null=torch.tensor([max(len(own), 1 + bool(text)) for own, text in zip(groups, words, strict=True)]),
        ambiguity=words,
        signals=None if any(t is None for t in signals) else rescaled,
        settings=call.settings(),
        reason="products with the operator only, since its matrices are large",
        status=status_of(estimate.converged, False),
        A=_forward(ensemble),
        report={"applications": _numbers(parts[0].history)},
    )
    complain(call, result)
    return result


def linked_sensors(y, ensemble, active, W=None):
    """Return the groups of sensors that matrices known by their products link: lists of numbers, of all active ones.

    Parameters
    ----------
    y : Tensor, shape (p, m)
        Data: a sensor without any has no links.
    ensemble : Ensemble
        The matrices.
    active : Tensor of bool, shape (m,)
        Sensors looked at.
    W : Tensor, shape (p, m), or None
        Weights; ones by default.

    Notes
    -----
    A random vector on some sensors, sent through A A^H, is not zero at any sensor with a link to them: a few products
    find a group.

    Examples
    --------
    >>> A = as_ensemble(torch.block_diag(torch.ones(2, 1), torch.ones(2, 1)).double(), 3, 4)
    >>> linked_sensors(torch.ones(3, 4).double(), A, torch.ones(4, dtype=torch.bool))
    [[0, 1], [2, 3]]
    """
    root = y if W is None else torch.where(W > 0, y, 0)
    left, groups = active.clone(), []
    rng = generator(0)
    while bool(left.any()):
        group = torch.zeros_like(active)
        group[left.nonzero()[0, 0]] = True
        while True:
            seed = torch.where(group, normal(rng, active.shape, device=y.device), 0).to(root.dtype)
            seen = root.conj() * ensemble.forward(ensemble.adjoint(root * seed))
            size = seen.abs().square().sum(0)
            more = (size > 1e-18 * size.max()) & left | group
            if bool((more == group).all()):
                break
            group = more
        groups.append(group.nonzero()[:, 0].tolist())
        left = left & ~group
    return groups


def _forward(ensemble):
    """Signals (..., p, n) -> what the sensors would see of them, without gains."""

    def seen(x):
        flat = x.reshape(-1, *x.shape[-2:]) if x.ndim > 1 else x[None, None]
        out = torch.stack([ensemble.forward(one) for one in flat])
        return out.reshape(*x.shape[:-2], *out.shape[1:])

    return seen


def _numbers(history):
    return {key: [float(v) for v in row] for key, row in history.items() if key in ("forward", "adjoint")}
