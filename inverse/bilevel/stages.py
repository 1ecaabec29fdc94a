"""The work on one chunk of samples: plain functions of tensors, which run here or in a worker.

Notation  an item is a dict of what a stage needs: theta, x and the rest for the samples of the chunk, the number of the
          first of them, and their linearisation where it is at hand; what comes back has the counts beside the numbers.
Pitfalls  a linearisation that was paid for and is made again, since it did not travel, is not counted again.
"""

from __future__ import annotations

import torch

from sciml.inverse.bilevel.certificates import (
    lower_error,
    value_bar_corrected,
    value_bar_estimated,
    value_bar_plain,
)
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.dense import Factor, form
from sciml.inverse.bilevel.lower import NotFinite
from sciml.optimize import batched_cg, batched_lbfgs, lanczos_extremes, nag, newton_cg
from sciml.random import generator, normal

__all__ = [
    "adjoint_chunk",
    "error_chunk",
    "gradient_chunk",
    "norm_chunk",
    "response_chunk",
    "row_dots",
    "row_norms",
    "solve_chunk",
]


def solve_chunk(lower, upper, item):
    count, theta = Counter(), item["theta"]
    x0, idx = item["x"], _numbers(item)
    known = lower.constants(theta, idx)
    estimated = set()
    mu, L = known.mu, known.L
    # A solver of the problem's own may find out more of the curvature than holds everywhere.
    own = lower.solve(x0, theta, idx, item["eps"], count, item["max_inner"])
    if own is not None and getattr(own, "mu", None) is not None:
        mu = own.mu
        estimated |= {"mu"} if own.guess else set()
    if mu is None or L is None and item["solver"] in ("auto", "nag"):
        low, high = _extremes(lower, x0, theta, idx, count)
        if mu is None:
            mu = (0.5 * low).clamp_min(1e-12 * high.clamp_min(1e-300))
            estimated.add("mu")
        L = 1.05 * high if L is None else L
    mu = mu.to(torch.float64) * item["doubt"]
    _finite(mu)
    eps, point, got, n_lower, seen = item["eps"], None, own, 0, {}
    if eps is None and got is None:
        eps = 0.3 * row_norms(lower.gradient(x0, theta, idx, count)) / mu
    if got is None:
        eps = torch.as_tensor(eps, dtype=torch.float64, device=x0.device).expand(len(x0))
        _finite(eps)
        solver = item["solver"]
        if solver == "auto":
            solver = _choose(lower, x0, mu, L)
        got, point = _minimise(solver, lower, x0, theta, idx, eps, mu, L, count, item)
    x, G = got.x, got.gradient
    G_norm = row_norms(G)
    n_lower = int(got.n_iter.max()) if got.n_iter.numel() else 0
    eps = lower_error(G_norm, mu)
    if item["lower_error"] == "newton" and got.last_step is not None:
        # A Newton step that ends below its forcing term leaves at most three tenths of itself.
        step = torch.where(torch.isfinite(got.last_step), 0.3 * got.last_step, eps)
        eps = torch.where(got.n_iter > 0, torch.minimum(eps, step), eps)
    secant = got.secant_min
    if secant is not None:
        _contradict(seen, "mu", (secant / mu).min(), {"guess": known.mu is None})
    # Rounding of the gradient itself.
    unit = torch.finfo(x.dtype).eps
    spread = (L / mu) if L is not None else torch.ones_like(mu)
    eps = eps + unit * spread.clamp(1, 1e12) * row_norms(x)
    g, gg = upper.gradient(x, theta, idx)
    Lg, Lt = upper.Lg(x, theta, idx), upper.Lt(x, theta, idx)
    if Lg is None:
        Lg = _estimated_Lg(upper, x, theta, idx)
        estimated.add("Lg")
    # Rounding inside g, which its gradient does not tell: a residual may be a small difference of large numbers.
    shaken, _ = upper.gradient(x * (1 + 4 * unit * _probe(x).sign()), theta, idx)
    noise = 16 * (shaken.to(torch.float64) - g.to(torch.float64)).abs()
    nan = torch.full_like(mu, torch.nan)
    gg_norm = row_norms(gg)
    out = {"x": x, "G": G, "G_norm": G_norm, "eps": eps, "mu": mu, "g": g.to(torch.float64), "gg": gg}
    out |= {"L": nan if L is None else L.to(torch.float64), "LH": nan if known.LH is None else known.LH.to(mu)}
    out |= {"LJ": nan if known.LJ is None else known.LJ.to(mu), "Lg": Lg.to(mu), "Lt": nan if Lt is None else Lt.to(mu)}
    out |= {
        "gg_norm": gg_norm,
        "b0": value_bar_plain(gg_norm, eps, Lg) + noise,
        "noise": noise,
        "reached": got.converged,
    }
    out |= {"count": count.as_dict(), "point": point, "n_lower": n_lower, "estimated": estimated, "seen": seen}
    return out


def adjoint_chunk(lower, upper, item):
    count = Counter()
    point, mu = _point(lower, item, count), item["mu"]
    b = item["gg"] if point.mask is None else torch.where(point.mask, item["gg"], torch.zeros_like(item["gg"]))
    q0 = item["q"]
    if q0 is not None and point.mask is not None:
        q0 = torch.where(point.mask, q0, torch.zeros_like(q0))
    factor = None
    if item["dense"] and point.mask is None and item.get("near") is None:
        factor = _factor(point, item)
    seen, extra, n_cg = {}, {}, 0
    if factor is not None:
        q, delta = factor.solve(b)
        extra, top = {"H": factor.H}, None
        _contradict(seen, "mu", (factor.lowest() / mu).min(), item)
    else:
        near = _near(item)
        got = batched_cg(point.hvp, b, atol=_atol(item["delta"], b), x0=q0, preconditioner=near or point.precondition)
        q, delta, top = got.x, got.residual.to(torch.float64), got.curvature_max
        n_cg = int(got.n_iter.max()) if got.n_iter.numel() else 0
        _contradict(seen, "mu", (got.curvature_min / mu).min(), item)
    # The solver's own gradient, which need not be computed again; on a support it is another.
    G = item["G"] if point.mask is None else point.gradient
    c = item["g"] - row_dots(q, G)
    q_norm = row_norms(q)
    eps, Lg, LH = item["eps"], item["Lg"], item["LH"]
    b1 = value_bar_corrected(delta, eps, Lg, LH, q_norm)
    # Rounding of G, whose terms H_ij x_j cancel, as it is seen through q: as good as random.
    unit = torch.finfo(G.dtype).eps
    if top is None:
        spread = 8 * factor.spread(q, item["x"])
    else:
        top = torch.where(torch.isfinite(item["L"]), item["L"], top.to(mu))
        spread = 2 * q_norm * top * row_norms(item["x"]) / G[0].numel() ** 0.5
    rounding = item["noise"] + unit * (spread + 2 * q_norm * row_norms(G))
    b1e = value_bar_estimated(delta, eps, Lg) + rounding
    out = {"q": q, "q_norm": q_norm, "delta": delta, "c": c, "b1": b1 + rounding, "b1e": b1e, "grain": rounding}
    return {**out, **extra, "count": count.as_dict(), "point": point, "n_cg": n_cg, "seen": seen}


def gradient_chunk(lower, upper, item):
    count = Counter()
    point, blocks = _point(lower, item, count), item["blocks"]
    rows = -point.cross_adjoint(item["q"], blocks)
    direct = upper.gradient_theta(item["x"], item["theta"], point.idx, blocks)
    rows = rows if direct is None else rows + direct
    return {"z": rows, "count": count.as_dict(), "point": point}


def response_chunk(lower, upper, item):
    count = Counter()
    point, n = _point(lower, item, count), len(item["theta"])
    x, theta, idx, mu = item["x"], item["theta"], point.idx, item["mu"]
    factor = _factor(point, item) if item["dense"] and point.mask is None else None
    S, curved, excess, n_cg = [], [], torch.zeros_like(mu), 0
    for j, e in enumerate(torch.eye(n, dtype=torch.float64, device=x.device)):
        column = -point.cross(e)
        if factor is not None:
            s, residual = factor.solve(column)
        else:
            start = None if item["S"] is None else item["S"][j]
            atol = item["rtol"] * row_norms(column)
            got = batched_cg(point.hvp, column, atol=atol, x0=start, preconditioner=_near(item) or point.precondition)
            n_cg += int(got.n_iter.max()) if got.n_iter.numel() else 0
            s, residual = got.x, got.residual.to(mu)
        S.append(s)
        curved.append(upper.hvp(x, theta, idx, s))
        excess = excess + (residual / mu) ** 2
    gram = torch.stack([torch.stack([row_dots(s, c) for c in curved], -1) for s in S], -2)  # (b, n, n)
    own = torch.stack([torch.stack([row_dots(s, t) for t in S], -1) for s in S], -2)
    norm = torch.linalg.eigvalsh(own)[:, -1].clamp_min(0).sqrt() * (1 + 1e-10) + excess.sqrt()
    out = {"S": torch.stack(S), "S_norm": norm, "gauss_newton": gram, "count": count.as_dict(), "point": point}
    return {**out, "n_cg": n_cg}


def error_chunk(lower, upper, item):
    count = Counter()
    point, blocks = _point(lower, item, count), item["blocks"]
    x, theta, idx, q = item["x"], item["theta"], point.idx, item["q"]
    G = item["G"] if point.mask is None else point.gradient
    solved = _solver(point, item)
    p = solved(-G)
    gg = item["gg"] if point.mask is None else torch.where(point.mask, item["gg"], torch.zeros_like(item["gg"]))
    residual = gg - point.hvp(q)
    in_x, in_theta = point.third(p, q, blocks)
    curved = upper.hvp(x, theta, idx, p)
    if point.mask is not None:
        curved = torch.where(point.mask, curved, torch.zeros_like(curved))
    w = residual + curved - in_x
    if item["S"] is None:
        rows = -point.cross_adjoint(solved(w), blocks)
    else:
        per_sample = torch.stack([row_dots(s, w) for s in item["S"]], -1)  # (b, n)
        rows = torch.stack([per_sample[block].sum(0) for block in blocks])
    if bool((item["Lt"] != 0).any()):
        rows = rows + upper.cross_adjoint(x, theta, idx, p, blocks)
    return {"error": rows - in_theta, "count": count.as_dict(), "point": point}


def norm_chunk(lower, upper, item):
    count = Counter()
    point = _point(lower, item, count)
    norm, rigorous = lower.norm_J(point), True
    b, n = len(point.x), len(item["theta"])
    d = point.x[0].numel()
    if norm is None and n <= max(64, min(d, 512)):
        columns = torch.stack([point.cross(e) for e in torch.eye(n, dtype=torch.float64, device=point.x.device)])
        flat = columns.reshape(n, b, -1).transpose(0, 1).to(torch.float64)  # (b, n, d)
        norm = torch.linalg.matrix_norm(flat, ord=2) if min(n, d) <= 512 else torch.linalg.matrix_norm(flat)
        norm = norm * (1 + 1e-12)
    elif norm is None and d <= 512:
        singles, rows = [slice(i, i + 1) for i in range(b)], []
        for k in range(d):
            e = torch.zeros_like(point.x).reshape(b, -1)
            e[:, k] = 1
            rows.append(point.cross_adjoint(e.reshape(point.x.shape), singles))
        norm = torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2) * (1 + 1e-12)
    elif norm is None:
        norm, rigorous = torch.full((b,), torch.nan, dtype=torch.float64, device=point.x.device), False
    return {"norm": norm.to(torch.float64), "rigorous": rigorous, "count": count.as_dict(), "point": point}


def _minimise(solver, lower, x0, theta, idx, eps, mu, L, count, item):
    """Return what a solver found, and the linearisation there where it came along."""
    gtol = eps * mu
    if solver == "nag":

        def gradient(x, rows):
            return lower.gradient(x, theta, idx[rows], count)

        return nag(gradient, x0, mu=mu, L=L, gtol=gtol, max_iter=item["max_inner"]), None
    last, begun = [], []

    def at(x, rows):
        point = lower.at(x, theta, idx[rows], count, value=True)
        if not begun:
            # The gradient may be finite where the energy is not.
            begun.append(_finite(point.value))
        if len(rows) == len(x0):
            last[:] = [point]
        return point

    if solver == "lbfgs":

        def value_and_gradient(x, rows):
            point = at(x, rows)
            return point.value, point.gradient

        return batched_lbfgs(value_and_gradient, x0, gtol=gtol, max_iter=item["max_inner"]), None
    near = item.get("near")
    if near is not None and (factor := Factor(near)).sound:
        # The Hessian of a point nearby is the best preconditioner there is.
        plain = at

        def at(x, rows):
            point = plain(x, rows)
            point.precondition = lambda r, some: factor.precondition(r, rows[some])
            return point

    xtol = eps if item["lower_error"] == "newton" else 0.0
    got = newton_cg(at, x0, gtol=gtol, max_iter=item["max_inner"], xtol=xtol)
    point = last[0] if last and torch.equal(last[0].x, got.x) else None
    return got, point


def _choose(lower, x0, mu, L):
    d = x0[0].numel()
    if lower.quadratic or d <= 2000:
        return "newton_cg"
    return "nag" if float((L / mu).max()) <= 3000 else "newton_cg"


def _extremes(lower, x, theta, idx, count):
    """Return Ritz values of the Hessian at x, from a few Lanczos steps that are counted as such."""
    own = Counter()
    point = lower.at(x, theta, idx, own)
    v0 = _probe(x)
    low, high = lanczos_extremes(point.hvp, v0, n_steps=min(8, x[0].numel()))
    count.power += own.hvp + own.lower
    count.cross += own.cross
    return low.to(torch.float64), high.to(torch.float64)


def _estimated_Lg(upper, x, theta, idx):
    def hvp(v, rows):
        return upper.hvp(x[rows], theta, idx[rows], v)

    _, high = lanczos_extremes(hvp, _probe(x), n_steps=min(6, x[0].numel()))
    return 1.05 * high.to(torch.float64).clamp_min(0)


def _probe(x):
    """Return the same random direction for every sample, whatever else is in the batch."""
    one = normal(generator(0), tuple(x.shape[1:]), device=x.device, dtype=x.dtype)
    return one.expand(x.shape).contiguous()


def _contradict(seen, name, ratio, item):
    """Note a curvature below the mu that was given."""
    ratio = float(ratio)
    if ratio < 1 - 1e-6:
        name = f"estimated {name}" if item.get("guess") else name
        seen[name] = min(seen.get(name, 1.0), max(ratio, 1e-12))


def _factor(point, item):
    """Return the factored Hessians at a point, known or formed here; None where they are not definite."""
    factor = Factor(item["H"] if item.get("H") is not None else form(point))
    return factor if factor.sound else None


def _near(item):
    """Return a preconditioner from Hessians of this point or of one nearby, None where there are none."""
    H = item.get("H") if item.get("H") is not None else item.get("near")
    if H is None or not (factor := Factor(H)).sound:
        return None
    return factor.precondition


def _solver(point, item):
    """Return a function that solves systems with H to one percent."""
    if item.get("H") is not None and (factor := Factor(item["H"])).sound:
        return lambda b: factor.solve(b)[0]
    own = _near(item) or point.precondition
    return lambda b: batched_cg(point.hvp, b, atol=1e-2 * row_norms(b), preconditioner=own).x


def _point(lower, item, count):
    """Return the linearisation of an item: the one at hand, or a new one."""
    point = item.get("point")
    if point is None:
        before = count.lower
        point = lower.at(item["x"], item["theta"], _numbers(item), count)
        if item["free"]:
            count.lower = before
        return point
    if hasattr(point, "_count"):
        point._count = count
    point.forget()
    return point


def _numbers(item):
    start = item["start"]
    return torch.arange(start, start + len(item["x"]), device=item["x"].device)


def _finite(numbers):
    if not bool(torch.isfinite(numbers).all()):
        raise NotFinite
    return True


def _atol(delta, b):
    return torch.as_tensor(delta, dtype=torch.float64, device=b.device).expand(len(b))


def row_dots(a, b):
    return (a.to(torch.float64) * b.to(torch.float64)).reshape(len(a), -1).sum(1)


def row_norms(a):
    return row_dots(a, a).sqrt()
