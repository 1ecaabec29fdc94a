r"""What the data determine: counts, sensors without information, groups without common information, eigenvalue ratios.

Notation  M (b, m, m), N (b, m) of the elimination; B = N^-1/2 M N^-1/2 with eigenvalues lam ascending.
Pitfalls  an ambiguous problem has a residual as small as any, so success is never judged by it. Eigenvalues of pure
          noise scatter by 1/sqrt(degrees of freedom): only a ratio closer to one than that is a sign of ambiguity.
References
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196.
"""

import math

import torch

from sciml.exceptions import IdentifiabilityError
from sciml.inverse.calibration.bases import range_basis
from sciml.inverse.calibration.elimination import Shared

__all__ = [
    "check_counts",
    "common_groups",
    "dead_sensors",
    "null_count",
    "quiet_sensors",
    "ratio_threshold",
    "rounding_floor",
    "signals_seen",
    "uninformed_sensors",
]

_LINK = 1e-11  # a link weaker than this is rounding


def check_counts(model, m, n, p, k=None, *, sensors="sensors"):
    """Refuse a problem with fewer equations than unknowns.

    Parameters
    ----------
    model : {"repeated", "diverse", "snapshots"}
        Which equations: m p for m + n unknowns, or for m + n p; common snapshots count min(n, p) times at most, since
        more of them are combinations.
    m, n, p : int
        Sensors with data, unknowns of a signal, snapshots.
    k : int or None
        Dimension of the subspace of the gains or inverse gains; None (the default) means m.
    sensors : str
        What to call them in the message.

    Raises
    ------
    IdentifiabilityError
        With the number of missing snapshots, if more would help.

    Examples
    --------
    >>> check_counts("diverse", 32, 8, 2)
    >>> check_counts("diverse", 32, 24, 2)
    Traceback (most recent call last):
    ...
    sciml.exceptions.IdentifiabilityError: y must hold at least 4 snapshots for 32 sensors, 24 unknowns a snapshot and \
32 unknown gains up to a common factor; got 2, so 2 are missing. Measure more, or pass s_basis or d_basis.
    """
    free = (m if k is None else k) - 1
    if model == "repeated":
        needed, effective = math.ceil((free + n) / m) if m else 1, p
    else:
        if n >= m and free > 0:
            raise IdentifiabilityError(
                f"A must have fewer columns than there are {sensors} with data; got {n} columns for {m}: every signal "
                "fits any data. Use a smaller subspace of signals, or sparse_lift for sparse ones."
            )
        needed = math.ceil(free / (m - n)) if m > n else 1
        effective = min(n, p) if model == "snapshots" else p
    if effective >= needed:
        return
    if model == "snapshots" and needed > n:
        raise IdentifiabilityError(
            f"A must have more columns, or y more {sensors}: {needed} independent signals would be needed to tell "
            f"{free + 1} gains from data of {m} {sensors}, but signals of {n} unknowns are combinations of {n}. "
            "No number of snapshots is enough; pass s_basis or d_basis.",
        )
    raise IdentifiabilityError(
        f"y must hold at least {needed} snapshots for {m} {sensors}, {n} unknowns a snapshot and {free + 1} unknown "
        f"gains up to a common factor; got {p}, so {needed - p} are missing. Measure more, or pass s_basis or d_basis.",
        missing=needed - p,
    )


def uninformed_sensors(M, N, active):
    """Return the active sensors (b, m) whose data are zero, flagged, or fitted by a signal whatever they are.

    Parameters
    ----------
    M : Tensor, shape (b, m, m)
        Of the elimination.
    N : Tensor, shape (b, m)
        Likewise.
    active : Tensor of bool, shape (b, m)
        Sensors looked at.

    Examples
    --------
    >>> import torch
    >>> M, all_ = torch.diag(torch.tensor([1.0, 0.0, 1.0]))[None], torch.ones(1, 3, dtype=torch.bool)
    >>> uninformed_sensors(M, torch.ones(1, 3), all_)
    tensor([[False,  True, False]])
    """
    typical = _median(N, active)[:, None]
    energy = torch.diagonal(M, dim1=-2, dim2=-1).real
    usual = _median(energy, active)[:, None]
    return active & ((1e-8 * typical >= N) | (energy <= 1e-24 * usual) | (energy <= 0))


def common_groups(M, active):
    """Return, for each channel, the groups of sensors that share information: lists of lists of numbers.

    Parameters
    ----------
    M : Tensor, shape (b, m, m)
        Of the elimination: two sensors have a link where its entry is not rounding.
    active : Tensor of bool, shape (b, m)
        Sensors looked at.

    Examples
    --------
    >>> import torch
    >>> M = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1))[None]
    >>> common_groups(M, torch.ones(1, 3, dtype=torch.bool))
    [[[0, 1], [2]]]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    size = torch.diagonal(M, dim1=-2, dim2=-1).real.clamp_min(0).sqrt()
    linked = M.abs() > _LINK * size[..., :, None] * size[..., None, :]
    groups = []
    for link, taking_part in zip(linked.cpu().numpy(), active.cpu().numpy(), strict=True):
        index = taking_part.nonzero()[0]
        if len(index) == 0:
            groups.append([])
            continue
        _, label = connected_components(csr_array(link[index][:, index]), directed=False)
        order = {}
        for sensor, word in zip(index.tolist(), label.tolist(), strict=True):
            order.setdefault(word, []).append(sensor)
        groups.append(list(order.values()))
    return groups


def quiet_sensors(M, N, active, eigenvalues, vectors, freedom):
    """Return the active sensors (b, m) that would spoil an eigenvector: null vectors of their own, no more than noise.

    Parameters
    ----------
    M, N : Tensor, shapes (b, m, m) and (b, m)
        Of the elimination.
    active : Tensor of bool, shape (b, m)
        Sensors looked at.
    eigenvalues, vectors : Tensor, shapes (b, k) and (b, m, k)
        Smallest pairs of B.
    freedom : Tensor, shape (b,)
        Degrees of freedom of all sensors together.

    Notes
    -----
    They are set aside for the start only: maximum likelihood finds the gain of a weak sensor as well as any.

    Examples
    --------
    >>> import torch
    >>> M = torch.diag(torch.tensor([1.0, 50.0, 50.0]))[None]
    >>> lam, V = torch.linalg.eigh(M)
    >>> quiet_sensors(M, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), lam, V, torch.tensor([300.0]))
    tensor([[ True, False, False]])
    """
    diagonal = torch.diagonal(M, dim1=-2, dim2=-1).real / torch.where(active, N, 1.0)
    floor = rounding_floor(diagonal, active)
    noise = eigenvalues[:, :1]
    each = (freedom / active.sum(1).clamp_min(1))[:, None].clamp_min(1.0)
    quiet = diagonal <= noise * (1 + 4 / each.sqrt())
    null = (eigenvalues <= noise * (1 + 4 / each.sqrt()))[:, None, :]
    mass = torch.where(null, vectors.abs().square(), 0.0).sum(-1)
    return active & quiet & (mass > 0.9) & (noise > floor[:, None])


def dead_sensors(d, std, active, level=0.01):
    r"""Return the sensors (b, m) whose gain is zero within its error, and too small to belong to the others.

    Among m gains like the others, less than `level` would be expected as small as :math:`u = |d_i| + 2 \mathrm{std}_i`.
    The others are taken as a constant plus a Gaussian part (Rice's distribution), whose ratio K follows from the second
    and fourth moments of their moduli: gains that all lie near one leave no room for a small one, Gaussian gains do.

    Parameters
    ----------
    d : Tensor, shape (b, m)
        Gains, zero where not active.
    std : Tensor, shape (b, m)
        Their standard deviations.
    active : Tensor of bool, shape (b, m)
        Sensors looked at.
    level : float
        Expected number of false alarms; 0.01 by default.

    Examples
    --------
    >>> import torch
    >>> d = torch.tensor([[1.0, 1.1, 0.9, 1.0, 1.0, 1.1, 0.9, 0.001]])
    >>> dead_sensors(d, torch.full((1, 8), 0.001), torch.ones(1, 8, dtype=torch.bool)).nonzero().tolist()
    [[0, 7]]
    """
    size = d.abs()
    zero = active & (size <= 3 * std) & torch.isfinite(std)
    rest = active & ~zero
    count = rest.sum(1)
    power = torch.where(rest, size.square(), 0.0).sum(1) / count.clamp_min(1)
    fourth = torch.where(rest, size**4, 0.0).sum(1) / count.clamp_min(1)
    kurtosis = (fourth / power.square().clamp_min(torch.finfo(size.dtype).tiny)).nan_to_num(2.0)
    # E r^4 / (E r^2)^2 is 1 + (1 + 2 K) / (1 + K)^2 for complex Gaussian parts, 1 + 2 (1 + 2 K) / (1 + K)^2 for real
    # ones.
    excess = (kurtosis - 1).clamp_min(1e-6) / (1 if d.is_complex() else 2)
    root = (1 - excess.clamp_max(1.0)).clamp_min(0.0).sqrt()
    # Bounded, since moments of some tens of noisy moduli cannot tell how thin a tail is.
    K = torch.where(excess >= 1, 0.0, (1 - excess + root) / excess).clamp_max(6.0)
    u = (size + 2 * std) / power.sqrt().clamp_min(torch.finfo(size.dtype).tiny)[:, None]
    if d.is_complex():
        chance = (1 + K)[:, None] * (-K)[:, None].exp() * u.square()
    else:
        chance = 0.8 * (1 + K).sqrt()[:, None] * (-K / 2)[:, None].exp() * u
    # A handful of sensors tells nothing about their population.
    return zero & (active.sum(1)[:, None] * chance < level) & (count >= 3)[:, None]


def rounding_floor(diagonal, active):
    """Return the size (b,) below which an eigenvalue of B is rounding, from its diagonal (b, m)."""
    mean = torch.where(active, diagonal, 0.0).sum(1) / active.sum(1).clamp_min(1)
    return 1e3 * torch.finfo(diagonal.dtype).eps * active.sum(1) * mean


def signals_seen(elimination, noise_variance, k=None, sensor_weights=None):
    r"""Return the number of independent signals above the noise and the number needed, for each channel, or None.

    A singular value of the snapshots above :math:`\sigma (\sqrt p + \sqrt m)`, the largest of noise alone (Marchenko
    and Pastur; with the width of Tracy and Widom added), belongs to a signal. Snapshots that repeat fewer signals than
    needed determine the gains no better than one of each, however many there are.

    Parameters
    ----------
    elimination : Elimination
        The problem; None is returned unless all its snapshots have one matrix and the same weights.
    noise_variance : Tensor, shape (b,)
        Of an entry of weight one.
    k : int or None
        Number of parameters of the gains; one for each sensor by default.
    sensor_weights : Tensor, shape (b, m), or None
        Multiply the weights; ones by default.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    >>> signals_seen(Shared(A.mT[None, :1].repeat(1, 9, 1), A[None], torch.tensor([9.0])), torch.tensor([0.0]))
    [(1, 2)]
    """
    if not isinstance(elimination, Shared):
        return None
    r = elimination._roots(sensor_weights)
    size = torch.linalg.svdvals(r[:, None, :] * elimination.factor)
    rank = range_basis(r[..., None] * elimination.A).abs().square().sum((1, 2)).round().expand(elimination.b)
    sensors = elimination.active.sum(1)
    p, m = elimination.count.clamp_min(1).sqrt(), sensors.clamp_min(1).sqrt()
    # One in a hundred values of noise alone is beyond.
    quantile = 0.6 if elimination.dtype.is_complex else 2.0
    edge = ((p + m).square() + quantile * (p + m) * (1 / p + 1 / m) ** (1 / 3)).sqrt()
    noise = noise_variance.clamp_min(0).sqrt() * edge
    floor = 1e3 * torch.finfo(size.dtype).eps * size[:, 0]
    counts = (size > torch.maximum(noise, floor)[:, None]).sum(1)
    needed = torch.ceil(((sensors if k is None else k) - 1) / (sensors - rank).clamp_min(1))
    return list(zip(counts.tolist(), needed.int().tolist(), strict=True))


def ratio_threshold(dof):
    """Return the ratio of the two smallest eigenvalues up to which noise alone explains their distance, at most 1.5.

    Parameters
    ----------
    dof : Tensor, shape (b,)
        Degrees of freedom.

    Examples
    --------
    >>> import torch
    >>> ratio_threshold(torch.tensor([20.0, 20000.0]))
    tensor([1.5000, 1.0600])
    """
    return (1 + 6 * (2 / dof.clamp_min(1.0)).sqrt()).clamp_max(1.5)


def null_count(eigenvalues, floor, threshold):
    """Return the number of null directions (b,) and the ratio (b,) of the two smallest eigenvalues.

    Parameters
    ----------
    eigenvalues : Tensor, shape (b, k)
        Ascending.
    floor : Tensor, shape (b,)
        Below it they are rounding.
    threshold : Tensor, shape (b,)
        Ratio to the first up to which one counts as null.

    Examples
    --------
    >>> import torch
    >>> null_count(torch.tensor([[1.0, 1.1, 9.0]]), torch.tensor([1e-9]), torch.tensor([1.5]))
    (tensor([2]), tensor([1.1000]))
    """
    if eigenvalues.shape[1] == 0:
        return torch.ones_like(floor, dtype=torch.long), torch.full_like(floor, float("nan"))
    first = torch.maximum(eigenvalues[:, 0], floor / 1e3)
    limit = torch.maximum(threshold * first, floor)
    count = (eigenvalues <= limit[:, None]).sum(1).clamp_min(1)
    if eigenvalues.shape[1] == 1:
        return count, torch.full_like(first, float("inf"))
    return count, (eigenvalues[:, 1] / torch.where(first > 0, first, 1.0)).clamp_min(1.0)


def _median(t, active):
    return torch.nan_to_num(torch.where(active, t, float("nan")).nanmedian(dim=1).values)
