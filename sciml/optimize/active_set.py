r"""Newton's method on the support, for smooth convex functions with weighted absolute values.

.. math:: F(x) = f(x) + \sum_j \alpha_j |x_j|, \qquad H_{WW}\, d_W = -(G_W + \alpha_W \zeta_W), \qquad
          x^{+} = P_\zeta(x + t d)

Notation  G, H gradient and Hessian of f; v subgradient of F of least norm; W the unknowns at work: the support of x
          and some that want to leave zero, those with the largest |v_j|; zeta (d,) the orthant, sign x_j or -sign G_j;
          P_zeta sets entries to zero that left it.
Cost      a step: one evaluation of f and G, and one Cholesky factor of |W| unknowns. For quadratics and a start whose
          support is nearly right, two or three steps to rounding.
Pitfalls  many unknowns want to leave a far start at once, and most of them wrongly: W grows by its own size at most.
          Where H_WW is singular (more unknowns than rows, equal columns) the energy is linear along some directions,
          and the step follows these until an unknown meets zero, as the simplex method would.
References  Andrew and Gao, Scalable training of L1-regularized log-linear models, 2007 (orthants); Lee, Battle, Raina,
            Ng, Efficient sparse coding algorithms, 2006 (signs on an active set).
"""

import math

import numpy as np
import torch
from scipy.linalg.lapack import get_lapack_funcs

from sciml.exceptions import InvalidInputError
from sciml.optimize.results import BatchedMinimum
from sciml.optimize.rowwise import batch, norm, tolerance
from sciml.validation import check_number

_ENTER = 16  # unknowns that may leave zero in one step, however small the support
_HALVINGS = 30
_FLAT = 1e4  # roundings below which a curvature, in units of the diagonal, counts as none
_FAR = 10.0  # penalties this many times smaller than what pulls at zero are reached in stages


def l1_newton(at, x0, *, l1, gtol, max_iter):
    r"""Minimise every sample's function plus weighted absolute values, by Newton steps on the support [1]_ [2]_.

    Parameters
    ----------
    at : callable
        ``at(x, i)`` returns a point for sample i at x, ndarray (d,), with ``value`` (float) and ``gradient``, ndarray
        (d,), of the smooth part, and ``hessian(W)``, the block (w, w) of its Hessian for unknowns W, int64 (w,).
    x0 : torch.Tensor, shape (B, d)
        Starting points.
    l1 : float or torch.Tensor, broadcast to (B, d)
        alpha, at least 0; an entry 0 leaves its unknown without a penalty.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of the subgradient of least norm is at most this.
    max_iter : int
        Newton steps at most, for each sample.

    Returns
    -------
    BatchedMinimum
        `gradient` holds the subgradients of least norm. `L` and `secant_min` are not computed: 0 and inf. A sample is
        not converged where rounding keeps it from its tolerance.

    Raises
    ------
    InvalidInputError
        If `x0` has another shape than (B, d), or `gtol` is negative or nan.

    Notes
    -----
    The steps are many small operations one after the other, which NumPy on the CPU does three times as fast as torch:
    so `at` is asked with NumPy arrays, whatever the device of `x0`.

    References
    ----------
    .. [1] G. Andrew and J. Gao, Scalable training of L1-regularized log-linear models, ICML 2007.
    .. [2] H. Lee, A. Battle, R. Raina, A. Ng, Efficient sparse coding algorithms, NIPS 2006.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from types import SimpleNamespace
    >>> from sciml.optimize.active_set import l1_newton
    >>> C, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([5.0, 1.0])
    >>> def at(x, i):
    ...     return SimpleNamespace(value=float(x @ C @ x / 2 - b @ x), gradient=C @ x - b,
    ...                            hessian=lambda W: C[np.ix_(W, W)])
    >>> l1_newton(at, torch.zeros(1, 2, dtype=torch.float64), l1=1.0, gtol=1e-12, max_iter=10).x
    tensor([[2.0000, 0.0000]], dtype=torch.float64)
    """
    x = batch("x0", x0)
    if x0.ndim != 2:
        raise InvalidInputError(f"x0 must be of shape (B, d); got {tuple(x0.shape)}. Write the unknowns in one row.")
    l1 = torch.as_tensor(l1, dtype=x.dtype, device=x.device).expand(x.shape)
    gtol = tolerance("gtol", gtol, x)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    rows = zip(x.cpu().numpy(), l1.cpu().numpy(), gtol.tolist(), strict=True)
    with np.errstate(all="ignore"):  # what is not finite is looked for, and reported
        ends = [_one(lambda z, i=i: at(z, i), *row, max_iter) for i, row in enumerate(rows)]
    X, V = (torch.from_numpy(np.stack([end[k] for end in ends])).to(x) for k in (0, 1))
    size = norm(V)
    return BatchedMinimum(
        x=X,
        gradient=V,
        gradient_norm=size,
        n_iter=torch.tensor([end[2] for end in ends], device=x.device),
        converged=size <= gtol,
        L=torch.zeros_like(size),
        secant_min=torch.full_like(size, torch.inf),
        last_step=torch.tensor([end[3] for end in ends], dtype=torch.float64, device=x.device),
    )


def _one(at, x, l1, gtol, max_iter):
    """Return the minimiser of one sample, its subgradient of least norm, the steps taken and the last one's length."""
    point, n_iter = at(x), 0
    # From afar nearly everything wants to leave zero: larger penalties first, tenfold apart.
    pull = np.where((x == 0) & (l1 > 0), np.abs(point.gradient) / l1, 0.0)
    excess = float(pull.max(initial=0.0)) / _FAR
    while 1 < excess < math.inf and n_iter < max_iter:
        rough = 1e-3 * excess * float(l1.max())
        x, point, n_iter, _ = _descend(at, x, point, excess * l1, max(gtol, rough), n_iter, max_iter)
        excess /= _FAR
    x, point, n_iter, moved = _descend(at, x, point, l1, gtol, n_iter, max_iter)
    return x, _subgradient(point.gradient, x, l1), n_iter, moved


def _descend(at, x, point, l1, gtol, n_iter, max_iter):
    """Take steps until the subgradient is small, or nothing falls any more."""
    eps = float(np.finfo(x.dtype).eps)
    held = l1 > 0  # the others have no kink at zero
    v = _subgradient(point.gradient, x, l1)
    size, moved, value = _norm(v), 0.0, point.value + float(l1 @ np.abs(x))
    while n_iter < max_iter and size > gtol and math.isfinite(size):
        W, zeta = _at_work(x, v, held)
        d, W, H = _direction(point, v, W, zeta, x, l1)
        near, weight, accepted = x[W], l1[W], None
        for trial in _trials(H, point.gradient[W], d, near, zeta[W], weight):
            new = x.copy()
            new[W] = trial
            candidate = at(new)
            after = candidate.value + float(l1 @ np.abs(new))
            u = _subgradient(candidate.gradient, new, l1)
            length = _norm(u)
            move, change = trial - near, after - value
            if abs(change) <= 32 * eps * max(abs(value), abs(point.value)):
                # Below the rounding of the values: by the trapezoidal rule, which is exact for quadratics.
                slope = 0.5 * (point.gradient[W] + candidate.gradient[W])
                change = float((slope * move + weight * (np.abs(trial) - np.abs(near))).sum())
            predicted, noise = float(v[W] @ move), 8 * eps * float((np.abs(v[W]) + weight) @ np.abs(move))
            # What falls by less than rounding must show in the subgradient, or the steps would go on for ever.
            if (change <= 1e-4 * predicted and predicted < -noise) or (change <= noise and length < 0.5 * size):
                accepted = (new, candidate, u, length, after)
                break
        if accepted is None:
            break
        moved, n_iter = _norm(accepted[0] - x), n_iter + 1
        x, point, v, size, value = accepted
    return x, point, n_iter, moved


def _subgradient(gradient, x, l1):
    """Return the subgradient of least norm; see `l1_subgradient`."""
    return np.where(x == 0, gradient - np.clip(gradient, -l1, l1), gradient + l1 * np.sign(x))


def _at_work(x, v, held):
    """Return the unknowns of the next step and the orthant that it must not leave."""
    support = (x != 0) | ~held
    entering = ~support & (v != 0)
    room = max(_ENTER, int(np.count_nonzero(support)))
    if np.count_nonzero(entering) > room:
        chosen = np.argpartition(np.where(entering, -np.abs(v), 0.0), room)[:room]
        entering = np.zeros_like(entering)
        entering[chosen] = True
    return np.flatnonzero(support | entering), np.where(x != 0, np.sign(x), -np.sign(v))


def _direction(point, v, W, zeta, x, l1):
    """Return a direction of descent and its unknowns, without those that it would move from zero the wrong way."""
    H = point.hessian(W)
    while True:
        d = _newton(H, v[W], x[W], l1[W])
        wrong = (x[W] == 0) & (d * zeta[W] < 0)
        if not wrong.any():
            return d, W, H
        right = np.flatnonzero(~wrong)
        W, H = W[right], H[np.ix_(right, right)]


def _newton(H, v, near, l1):
    """Return the Newton direction, or one without curvature where that is steeper."""
    scale = np.sqrt(H.diagonal())
    D = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 1.0)
    H, v, tiny = D[:, None] * H * D, D * v, _FLAT * float(np.finfo(H.dtype).eps)
    factor, solve = get_lapack_funcs(("potrf", "potrs"), (H,))
    chol, info = factor(H, lower=True, overwrite_a=False, clean=False)
    if info == 0 and len(H) and float(chol.diagonal().min()) ** 2 > tiny:
        return -D * solve(chol, v, lower=True)[0]
    if not np.isfinite(H).all() or not len(H):
        return np.full_like(v, np.nan)
    # Unknowns that depend on one another: without curvature the energy is linear until an entry meets zero.
    curvature, axes = np.linalg.eigh(H)
    along = axes.T @ v
    flat = curvature <= tiny * max(float(curvature[-1]), 1.0)
    linear = -D * (axes[:, flat] @ along[flat])
    if _norm(along[flat]) > 1e-9 * _norm(v) + tiny * _norm(D * l1):
        ends = near / -linear
        ends = ends[(ends > 0) & (l1 > 0)]
        return linear * (float(ends.min()) if len(ends) else 1.0)
    return -D * (axes[:, ~flat] @ (along[~flat] / curvature[~flat]))


def _trials(H, gradient, d, near, zeta, l1):
    """Yield points on the projected path from `near` along d: first the best for the model, then ever nearer ones."""
    meets = near / -d
    meets = np.sort(meets[(meets > 0) & (meets <= 1) & (l1 > 0)])
    if not len(meets):
        yield _projected(near, d, zeta, l1)
        best = 1.0
    else:
        # Every entry that meets zero bends the path; the first bends matter most.
        steps = np.concatenate([meets[: 2 * _ENTER], 0.5 ** np.arange(4)]).astype(d.dtype)
        paths = _projected(near, steps[:, None] * d, zeta, l1)
        moves = paths - near
        model = moves @ gradient + 0.5 * ((moves @ H) * moves).sum(1) + (np.abs(paths) - np.abs(near)) @ l1
        k = int(model.argmin())
        best = float(steps[k])
        yield paths[k]
        best = min(best, float(meets[0]))
        yield _projected(near, best * d, zeta, l1)
    for _ in range(_HALVINGS):
        best *= 0.5
        yield _projected(near, best * d, zeta, l1)


def _projected(near, move, zeta, l1):
    """Return near + move, with zeros where an entry left its orthant, or met its end up to rounding."""
    there = near + move
    return np.where((there * zeta < 8 * np.finfo(there.dtype).eps * np.abs(near)) & (l1 > 0), 0.0, there)


def _norm(a):
    a = a.astype(np.float64, copy=False)
    return math.sqrt(float(a @ a))
