r"""What pairs of sensors say about gains: weights, groups of connected sensors, and where to start.

Notation  V, M, W (b, m, m) data, model, weights; H = W o V o conj(M) = D Q D^* without noise, Q = W o |M|^2. Sensors
          are joined where Q > 0. With K the matrix of zeros and ones of joined pairs and D = diag(K 1), D + K is
          singular exactly where all pairs of a group join one half of it with the other.
Cost      one eigenvalue decomposition of an (m, m) matrix for the groups, one for the start.
Pitfalls  entries of M that are rounding only join nothing: a pair counts from W |M|^2 = 1e-24 of its sensors' best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.sparse.csgraph import connected_components

from sciml.exceptions import IdentifiabilityError, InvalidInputError
from sciml.linalg.arrays import enter

__all__ = ["Pairs", "connected_groups", "members", "product", "read_pairs"]

# A pair says nothing where its weight W |M|^2 is rounding beside those of both its sensors.
_NO_PAIR = 1e-24
# Normalised eigenvalues of D + K below this: the scale between two halves of a group is free.
_BIPARTITE = 1e-9


def connected_groups(M, W=None):
    """Return the groups of sensors that pairs with information join: W |M|^2 > 0 off the diagonal.

    Parameters
    ----------
    M : array, shape (m, m) or (b, m, m)
        Model of the visibilities.
    W : array or None, shape (m, m) or (b, m, m)
        Weights; None takes ones.

    Returns
    -------
    list of list of int
        The sensors of each group, the largest first; a sensor without a pair is a group of its own. For a batch, one
        such list for each channel.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.visibility_pairs import connected_groups
    >>> connected_groups(np.kron(np.eye(2), np.ones((2, 2))))
    [[0, 1], [2, 3]]
    """
    (M, W), _ = enter(M, W, names=("M", "W"))
    labels = _labels(_informative(M.abs() ** 2 if W is None else W.real * M.abs() ** 2))
    groups = [members(row) for row in labels.reshape(-1, M.shape[-1])]
    return groups if labels.ndim > 1 else groups[0]


@dataclass
class Pairs:
    """What the pairs of b channels say: V, M, W with empty diagonals, (b, m, m), and what is not determined by them."""

    V: torch.Tensor
    M: torch.Tensor
    W: torch.Tensor
    covariance: torch.Tensor  # V with its diagonal
    active: torch.Tensor  # (b, m) bool
    labels: torch.Tensor  # (b, m) int: the group; different negative numbers where not active
    start: torch.Tensor  # (b, m)
    notes: list

    @property
    def same(self):
        """Whether two active sensors are of one group, as numbers (b, m, m)."""
        same = (self.labels[:, :, None] == self.labels[:, None, :]) & self.active[:, :, None]
        return same.to(self.W.dtype)


def read_pairs(V, M, W=None, start=None, *, keep_bipartite=False):
    """Check the arguments; find the groups, the sensors without information and the start.

    Parameters
    ----------
    V, M : array, shape (m, m) or (b, m, m)
        Hermitian data, NaN where missing, and model.
    W : array or None, shape (m, m) or (b, m, m)
        Symmetric weights; None takes 1 / (V_ii V_jj).
    start : array or None, shape (m,), (1,) or (b, m)
        Gains to begin with, brought to the best scale; None takes the phases of the eigenvector.
    keep_bipartite : bool
        Keep sensors of groups in which a scale is free, too; False by default, which takes them out.

    Returns
    -------
    Pairs
        On the device of V, in double precision.

    Raises
    ------
    InvalidInputError
        If shapes differ, V or M is not Hermitian, or a weight is negative.
    IdentifiabilityError
        If no channel has more pairs than sensors.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.visibility_pairs import read_pairs
    >>> read_pairs(4 * np.ones((4, 4)), np.ones((4, 4)), start=np.ones(4)).start.numpy()
    array([[2., 2., 2., 2.]])
    """
    (V, M), _ = enter(V, M, names=("V", "M"), check_finite=False)
    (W,), _ = enter(W, names=("W",), check_finite=False, device=V.device)
    b, m = _common_shape(V, M, W)
    V, M = (_hermitian(name, t, missing=name == "V") for name, t in (("V", V), ("M", M)))
    V, M = V.expand(b, m, m), M.expand(b, m, m)
    missing = V.isnan()
    covariance, off = V.masked_fill(missing, 0), ~torch.eye(m, dtype=torch.bool, device=V.device)
    W = _usual_weights(V, covariance * off) if W is None else _given_weights(W).expand(b, m, m)
    W = W.masked_fill(missing, 0)
    W, notes = torch.where(_informative(W * M.abs() ** 2), W, 0), []
    labels, active = _labels(W > 0), (W > 0).any(2)
    for k in _where((~active).any(1)):
        notes.append(f"Channel {k}: no pair with weight belongs to the sensors {_short(_where(~active[k]))}.")
    if not keep_bipartite:
        active &= ~_halves((W > 0).to(W.dtype), labels, active, notes)
    labels = torch.where(active, labels, -1 - torch.arange(m, device=V.device))
    W = W * (active[:, :, None] & active[:, None, :])
    missing_pairs = active.sum(1) + 1 - (W > 0).sum((1, 2)) // 2
    if bool((missing_pairs > 0).all()):
        k = int(missing_pairs.argmin())
        raise IdentifiabilityError(
            f"V must hold more pairs with weight than sensors; channel {k} has {int((W[k] > 0).sum()) // 2} usable "
            f"pairs of {int(active[k].sum())} usable sensors. {' '.join(notes[:2])} Add pairs: all of four sensors are "
            "enough.",
            missing=int(missing_pairs[k]),
        )
    for k in range(b):
        if missing_pairs[k] > 0:
            notes.append(f"Channel {k}: there are too few pairs with weight, {int(missing_pairs[k])} more are needed.")
            active[k], W[k] = False, 0
        groups = [group for group in members(labels[k]) if len(group) > 1]
        if len(groups) > 1:
            named, what = ", ".join(map(_short, groups)), "phase" if V.is_complex() else "sign"
            notes.append(f"Channel {k}: no pair joins the groups {named}: their relative {what} is undetermined.")
    V = covariance
    pairs = Pairs(V * off, M * off, W, V, active, labels, V.new_zeros(b, m), notes)
    pairs.start = _start(pairs) if start is None else _given(start, pairs)
    return pairs


def _common_shape(V, M, W):
    shapes = {name: tuple(t.shape) for name, t in (("V", V), ("M", M), ("W", W)) if t is not None}
    for name, shape in shapes.items():
        if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
            raise InvalidInputError(f"{name} must have shape (m, m) or (b, m, m); got {shape}. Pass square matrices.")
    sizes, batches = {s[-1] for s in shapes.values()}, {s[0] for s in shapes.values() if len(s) == 3} - {1}
    if len(sizes) > 1 or len(batches) > 1 or 0 in sizes | batches:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InvalidInputError(
            f"V, M and W must hold as many sensors and channels, at least one; got the shapes {listed}. Give all of "
            "them one m, and one b where there are channels."
        )
    return next(iter(batches), 1), next(iter(sizes))


def _hermitian(name, t, *, missing):
    """Return double precision (b, m, m), exactly Hermitian; NaN on both sides where one side is NaN, if allowed."""
    t = t.to(torch.complex128 if t.is_complex() else torch.float64)
    t = t if t.ndim == 3 else t[None]
    bad = ~t.isfinite()
    if missing:
        bad &= ~t.isnan()
    if bool(bad.any()):
        where = tuple(int(v) for v in bad.nonzero()[0])
        remedy = "Use NaN for missing ones" if missing else "Use a weight of 0 for pairs to be left out"
        raise InvalidInputError(f"{name} must be finite; the entry at {where} is {t[where].item()}. {remedy}.")
    error = (t - t.mH).abs().nan_to_num(0)
    if float(error.amax()) > 1e-5 * float(t.abs().nan_to_num(0).amax()):
        where = tuple(int(v) for v in (error == error.amax()).nonzero()[0])
        raise InvalidInputError(
            f"{name} must be Hermitian; the entries at {where} and across the diagonal differ by "
            f"{float(error.amax()):.2g}. Fill both triangles: V[j, i] = conj(V[i, j])."
        )
    return (t + t.mH) / 2


def _usual_weights(V, pairs):
    """Return 1 / (V_ii V_jj); 0 for sensors whose pairs are all missing or zero."""
    diagonal, empty = V.diagonal(dim1=1, dim2=2).real, (pairs == 0).all(2)
    bad = ~(empty | (diagonal > 0))
    if bool(bad.any()):
        k, i = (int(v) for v in bad.nonzero()[0])
        raise InvalidInputError(
            f"V must have a positive diagonal when W is None, for W_ij = 1 / (V_ii V_jj); that of sensor {i} in "
            f"channel {k} is {float(diagonal[k, i])}. Pass W, such as ones for equal variances."
        )
    power = torch.where(empty, math.inf, diagonal)
    return 1 / power[:, :, None] / power[:, None, :]


def _given_weights(W):
    if W.is_complex() or not bool((W >= 0).all()) or not bool(W.isfinite().all()):
        bad = W if W.is_complex() else W[~((W >= 0) & W.isfinite())]
        raise InvalidInputError(
            f"W must be real, finite and at least 0; got {bad.flatten()[0].item()}. Use 0 for pairs to be left out."
        )
    W = W.to(torch.float64)
    if float((W - W.mT).abs().amax()) > 1e-6 * float(W.amax()):
        raise InvalidInputError("W must be symmetric; got a matrix that is not. Pass (W + W.T) / 2.")
    W = (W + W.mT) / 2
    return W if W.ndim == 3 else W[None]


def _informative(Q):
    """Return which pairs say something, (..., m, m) bool."""
    Q = Q * ~torch.eye(Q.shape[-1], dtype=torch.bool, device=Q.device)
    top = Q.amax(-1)
    return _NO_PAIR * (top[..., :, None] * top[..., None, :]).sqrt() < Q


def _labels(joined):
    flat = joined.reshape(-1, *joined.shape[-2:]).cpu().numpy()
    rows = [torch.from_numpy(connected_components(graph, directed=False)[1].astype("int64")) for graph in flat]
    return torch.stack(rows).reshape(joined.shape[:-1]).to(joined.device)


def members(labels):
    """Return the sensors of each label of a channel (m,), the largest group first."""
    groups = [(labels == k).nonzero()[:, 0].tolist() for k in labels.unique()]
    return sorted(groups, key=lambda group: (-len(group), group))


def _halves(joined, labels, active, notes):
    """Return the sensors of groups whose pairs leave a scale free: D + K is singular there, for any gains and weights.

    With ones for weights no eigenvalue is small but for that reason; they are real numbers, 0 and 1, (b, m, m).
    """
    D = torch.where(active, joined.sum(2), 1)
    scaled = joined / (D[:, :, None] * D[:, None, :]).sqrt()
    scaled.diagonal(dim1=1, dim2=2).add_(1)
    values, vectors = torch.linalg.eigh(scaled)
    mass = (vectors.abs() ** 2 * (values < _BIPARTITE)[:, None, :]).sum(2)  # of the null space, at each sensor
    free = torch.zeros_like(active)
    for k in (mass.sum(1) > 0.5).nonzero()[:, 0].tolist():
        for group in members(labels[k]):
            if len(group) > 1 and float(mass[k, group].sum()) > 0.5:
                free[k, group] = True
                notes.append(
                    f"Channel {k}: all pairs of the group {_short(group)} join one half of it with the other: the "
                    "scale between the halves is undetermined."
                )
    return free


def _start(pairs):
    """Return phases from the top eigenvector of W o V o conj(M) in each group, moduli by the best common scale."""
    magnitude = pairs.W.sqrt() * pairs.V.abs()
    # Clipped, since a single pair that is wildly wrong would be an eigenvector by itself.
    median = magnitude.masked_fill(pairs.W == 0, math.nan).flatten(1).nanmedian(1)[0].nan_to_num(1)
    limit = (4 * median).clamp_min(1e-300)[:, None, None]
    V = pairs.V * (limit / magnitude.maximum(limit))
    H, d = pairs.W * V * pairs.M.conj(), torch.ones_like(pairs.start)
    sizes = [[g for g in members(row) if len(g) > 1] for row in pairs.labels]
    for k in range(max(len(groups) for groups in sizes)):
        chosen = torch.zeros_like(pairs.active)
        for channel, groups in enumerate(sizes):
            if k < len(groups):
                chosen[channel, groups[k]] = True
        top = torch.linalg.eigh(H * (chosen[:, :, None] & chosen[:, None, :]))[1][..., -1]
        d = torch.where(chosen, torch.where(top == 0, 1, top.sgn()), d)
    return _scaled(d, pairs)


def _scaled(d, pairs):
    """Return gains times the square root of the best real factor for D M D^*, in each channel."""
    H, Q = pairs.W * pairs.V * pairs.M.conj(), pairs.W * pairs.M.abs() ** 2
    power = d.abs() ** 2
    over = (d.conj() * product(H, d)).sum(1).real
    under = (power * product(Q, power)).sum(1)
    factor = torch.where((over > 0) & (under > 0), over / under, 1).sqrt()
    return torch.where(pairs.active, d * factor[:, None], 0)


def _given(start, pairs):
    (start,), _ = enter(start, names=("start",), check_finite=False, device=pairs.V.device)
    b, m = pairs.active.shape
    if start.ndim not in (1, 2) or start.shape[-1] not in (1, m) or (start.ndim == 2 and start.shape[0] not in (1, b)):
        raise InvalidInputError(
            f"start must have shape ({m},) or ({b}, {m}); got {tuple(start.shape)}. Pass one gain for each sensor."
        )
    if start.is_complex() and not pairs.start.is_complex():
        raise InvalidInputError(f"start must be real for real data; got dtype {start.dtype}. Pass start.real.")
    start = start.to(pairs.start.dtype).expand(b, m)
    # Gains of an earlier result are NaN where nothing was known then.
    return _scaled(torch.where(start.isnan(), 1, start), pairs)


def product(matrix, vector):
    """Return matrices (b, m, m) times vectors (b, m): (b, m)."""
    return (matrix @ vector[..., None])[..., 0]


def _where(mask):
    return mask.nonzero()[:, 0].tolist()


def _short(sensors):
    """Return a list as text, only its ends where it is long."""
    if len(sensors) < 9:
        return str(sensors)
    return f"[{', '.join(map(str, sensors[:3]))}, ..., {sensors[-1]}] ({len(sensors)} sensors)"
