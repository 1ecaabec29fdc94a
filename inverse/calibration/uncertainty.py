r"""Covariance of the gains, and the Cramer-Rao bound.

.. math:: \mathrm{cov}(d) = \sigma^2 F^+, \qquad
          F = \sum_l \mathrm{diag}(\bar v_l) W_l^{1/2} (I - P_l) W_l^{1/2} \mathrm{diag}(v_l)

with v_l = A_l x_l. The null space of F holds d, the common factor; the pseudo-inverse is orthogonal to it, which is the
error after the best alignment.

Notation  F (b, m, m), d (b, m), J (b, m, k) derivative of the gains by their parameters.
Pitfalls  at the truth F is the bound; at an estimate it also holds the power of the noise in v, which makes it a little
          too large at low signal-to-noise ratios: `without_noise` takes it out.
References
    G. H. Golub, V. Pereyra 1973 for the elimination; the bound is Fisher's information of d after the signals are
    profiled out.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter

__all__ = ["crb", "gain_covariance", "without_noise"]

_MOST = 0.9  # of the information at an estimate that may be noise; beyond it, linear error theory says nothing
_NOTHING = (
    0.7  # of it in a direction that fits the data as well: the likelihood chose among noise, which lowers the part
)


def gain_covariance(F, d, active, J=None):
    """Return the pseudo-inverse of F orthogonal to d, in the subspace of J, and whether it is regular.

    Parameters
    ----------
    F : Tensor, shape (b, m, m)
        Gauss-Newton matrix.
    d : Tensor, shape (b, m)
        Gains.
    active : Tensor of bool, shape (b, m)
        Sensors that take part.
    J : Tensor, shape (b or 1, m, k), or None
        Derivative by the parameters; the identity by default.

    Returns
    -------
    covariance : Tensor, shape (b, m, m)
        For noise of variance one; zero where not active, infinite on the diagonal in directions without information.

    Examples
    --------
    >>> import torch
    >>> F = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    >>> gain_covariance(F, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])
    """
    b, m = d.shape
    d = torch.where(active, d, 0)
    free = J is None
    J = torch.diag_embed(active.to(F.dtype)) if free else torch.where(active[..., None], J.expand(b, -1, -1), 0)
    # In an orthonormal basis of the admissible directions that are orthogonal to d.
    unit = d / torch.linalg.vector_norm(d, dim=-1, keepdim=True).clamp_min(torch.finfo(d.real.dtype).tiny)
    K = torch.where(active[..., :, None] & active[..., None, :], F, 0) if free else J.mH @ F @ J
    # J theta = d for some theta: the same direction in the parameters.
    driver = "gelsd" if d.device.type == "cpu" else None
    theta = d[..., None] if free else torch.linalg.lstsq(J, d[..., None], driver=driver).solution
    theta = theta / torch.linalg.vector_norm(theta, dim=-2, keepdim=True).clamp_min(torch.finfo(d.real.dtype).tiny)
    size = torch.diagonal(K, dim1=-2, dim2=-1).real
    k = K.shape[-1]
    idle = size <= 0
    top = torch.where(idle, 0.0, size).sum(-1) / (~idle).sum(-1).clamp_min(1)
    K = K + top[:, None, None] * (theta @ theta.mH) + torch.diag_embed(torch.where(idle, top[:, None], 0.0).to(K.dtype))
    scale = torch.diagonal(K, dim1=-2, dim2=-1).real.clamp_min(torch.finfo(size.dtype).tiny).rsqrt()
    K = scale[..., None] * ((K + K.mH) / 2) * scale[..., None, :]
    L, info = torch.linalg.cholesky_ex(K)
    pivots = torch.diagonal(L, dim1=-2, dim2=-1).real
    if free and not bool(info.any()) and bool((pivots.amin(-1) > 1e-5).all()):
        # Far from singular, as a rule: a factor tells as much as the eigenvalues, in a tenth of the time.
        C = torch.cholesky_inverse(L) * scale[..., None] * scale[..., None, :]
        return _orthogonal(torch.where(active[..., :, None] & active[..., None, :], C, 0), unit)
    lam, V = torch.linalg.eigh(K)
    lost = lam <= k * torch.finfo(size.dtype).eps * lam[..., -1:]
    V = scale[..., None] * V
    inverse = (V / torch.where(lost, float("inf"), lam)[..., None, :]) @ V.mH
    # The direction of the factor is projected out of the gains, not of the parameters: that is the best alignment.
    C = _orthogonal(J @ inverse @ J.mH, unit)
    beyond = ((J @ V).abs().square() * lost[..., None, :]).sum(-1) > 0
    infinite = torch.where(beyond & (lost.any(-1))[:, None], float("inf"), 0.0)
    return C if not bool(lost.any()) else C + torch.diag_embed(torch.where(infinite > 0, infinite, 0.0).to(C.dtype))


def _orthogonal(C, unit):
    """C with the direction of a unit vector projected out on both sides."""
    C = C - unit[..., :, None] * (unit[..., None, :].conj() @ C)
    C = C - (C @ unit[..., :, None]) * unit[..., None, :].conj()
    return (C + C.mH) / 2


def without_noise(C, noise, doubtful=None):
    r"""Return the covariance of the maximum-likelihood gains, with the noise in F taken out: :math:`F_0^+ F F_0^+`.

    The score has the covariance sigma^2 F, noise in v included, but the curvature of the mean likelihood is
    F_0 = F - noise. At high signal-to-noise ratios the two are equal; at 5 dB the standard deviations would be a sixth
    too small without it.

    Parameters
    ----------
    C : Tensor, shape (b, m, m)
        Pseudo-inverse of F, as `gain_covariance` returns it.
    noise : Tensor, shape (b, m, m)
        Mean of the part of F that noise makes, in the same units.
    doubtful : Tensor of bool, shape (b,), or None
        Channels in which several directions fit the data about as well: those of them whose information is mostly noise
        get a variance beyond any gain. None, the default: all channels.

    Examples
    --------
    >>> import torch
    >>> without_noise(torch.tensor([[[0.5]]]), torch.tensor([[[0.5]]])).round(decimals=4)
    tensor([[[0.8889]]])
    """
    infinite = torch.isinf(torch.diagonal(C, dim1=-2, dim2=-1).real)
    plain = torch.where(torch.isfinite(C.abs()), C, 0)
    lam, V = torch.linalg.eigh((plain + plain.mH) / 2)
    root = (V * lam.clamp_min(0).sqrt()[..., None, :]) @ V.mH
    K = root @ noise @ root
    part, U = torch.linalg.eigh((K + K.mH) / 2)
    growth = (1 - part.clamp(0, _MOST)) ** -2
    nothing = part > _NOTHING if doubtful is None else (part > _NOTHING) & doubtful[:, None]
    growth = torch.where(nothing, 1e6, growth)
    C = root @ ((U * growth[..., None, :]) @ U.mH) @ root
    return C + torch.diag_embed(torch.where(infinite, float("inf"), 0.0).to(C.dtype)) if bool(infinite.any()) else C


def crb(d, x, A, sigma):
    r"""Return the Cramer-Rao bound of the gains: the smallest covariance that an unbiased estimate can have.

    Parameters
    ----------
    d : array, shape (m,)
        True gains, none zero.
    x : array, shape (p, n) or (n,)
        True signals; ``(n,)`` with a three-dimensional `A` means repeated measurements of one signal.
    A : array, shape (m, n) or (p, m, n)
        One matrix for all snapshots, or one for each.
    sigma : float or array, shape (m,) or (p, m)
        Standard deviation of the noise of an entry, :math:`\sigma^2 = E|\varepsilon|^2`, units of the data; infinite
        where there is no datum.

    Returns
    -------
    array, shape (m, m)
        Covariance of the gains orthogonal to `d`, that is, of the error left after the best alignment by a common
        factor: the relative error of an efficient estimate is ``sqrt(trace(C)) / norm(d)``, and ``sqrt(diag(C))`` are
        the standard deviations of the gains. Where the data determine less, the diagonal is infinite.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a gain or standard deviation is zero.

    References
    ----------
    .. [1] A. van den Bos, A Cramer-Rao lower bound for complex parameters, 1994.

    Examples
    --------
    Two sensors, one known source seen with amplitude 1: half the variance of the noise is along the common factor.

    >>> crb([1.0, 1.0], [[1.0]], [[1.0], [1.0]], 0.1).diagonal().round(6)
    array([0.005, 0.005])
    """
    from sciml.inverse.calibration.elimination import Diverse, Joint

    for name, value in (("d", d), ("x", x), ("A", A), ("sigma", sigma)):
        if value is None:
            raise InvalidInputError(f"{name} must be an array or a number; got None. Pass the true one.")
    (d, x, A, s), leave = enter(d, x, A, sigma, names=("d", "x", "A", "sigma"), check_finite=False)
    for name, value in (("d", d), ("x", x), ("A", A)):
        if not bool(torch.isfinite(value.abs()).all()):
            raise InvalidInputError(f"{name} must be finite; got a NaN or an infinity. Remove these entries.")
    m = len(d) if d.ndim == 1 else -1
    joint = x.ndim == 1 and A.ndim == 3
    if joint:
        fits = A.shape == (A.shape[0], m, len(x))
    else:
        fits = x.ndim == 2 and A.ndim in (2, 3) and A.shape[-2:] == (m, x.shape[-1]) and A.shape[:-2] in ((), (len(x),))
    if not fits:
        raise InvalidInputError(
            f"d, x and A must have shapes (m,), (p, n) and (m, n) or (p, m, n), or (m,), (n,) and (p, m, n); got "
            f"{tuple(d.shape)}, {tuple(x.shape)} and {tuple(A.shape)}. Transpose, or add an axis."
        )
    if bool((d == 0).any()) or bool((s.real <= 0).any()) or bool(torch.isnan(s.real).any()):
        raise InvalidInputError(
            "d and sigma must hold no zero: a gain of zero has no inverse, noise of zero no bound; got "
            f"{int((d == 0).sum())} zeros in d and a smallest sigma of {float(s.real.min()):g}. Leave such sensors out."
        )
    long = torch.complex128 if d.is_complex() else torch.float64
    d_long, x, A, s = d.to(long), x.to(long), A.to(long), s.real.to(torch.float64)
    p = len(A) if joint else len(x)
    try:
        W = (1 / s.square()).expand(p, m)[None]
    except RuntimeError:
        raise InvalidInputError(
            f"sigma must be a number or of shape ({m},) or ({p}, {m}); got {tuple(s.shape)}."
        ) from None
    A = A[None] if A.ndim == 3 else A[None, None]
    ones = torch.ones(1, m, dtype=torch.bool, device=d.device)
    problem = (Joint if joint else Diverse)(d_long.new_zeros(1, p, m), A, W.contiguous(), ones)
    problem.y = problem.predict(d_long[None], x[None])
    _, _, F = problem.gauss_newton(d_long[None])
    # Sensors without information have no finite bound, and no part in the alignment of the others.
    informed = torch.diagonal(F, dim1=-2, dim2=-1).real > 0
    C = gain_covariance(F, d_long[None], informed)
    C = C + torch.diag_embed(torch.where(informed, 0.0, float("inf")).to(C.dtype)) if not bool(informed.all()) else C
    return leave(C[0].to(d.dtype))
