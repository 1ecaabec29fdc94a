r"""What a batch norm needs of a geometry: centre matrices at a mean, measure and rescale them, and move the mean.

Every geometry is an object with the same methods; a batch is (b, ch, n, n), and a mean (k, ch, n, n), of which
each matrix of the batch is handed its own (k = 1 or k = b).

====================  ==========================  ====================================  ===========================
geometry              state of the mean           centred                               rescaled by c
====================  ==========================  ====================================  ===========================
log-Euclidean         log of the mean             Z = log X - mean                      exp(bias + c Z)
affine-invariant      factor C                    A = C^-1 X C^-T                       B A^c B'
Bures-Wasserstein     factor C                    A = C^-1 X C^-T                       B h(A) B'
its generalised form  S, the mean of M^-1-        Z = sqrt((s_i + s_j)/2) (T - I)_ij    B g(I + c Z)^2 B'
                      whitened matrices           in the frame of S, T from S to X
log-Cholesky          mean of (K, log D)          (K - mean)/D_mean, log D - mean       exp-diagonal lower L, L L'
====================  ==========================  ====================================  ===========================

Notation  L = K + D the Cholesky factor, K strictly lower; h and g as in :mod:`sciml.stats.spd.normalising_maps`;
          B = tril(bias, -1) + diag(exp(diag(bias))).
Cost      one eigendecomposition a matrix (log-Euclidean: a second for exp, none where the logarithm is asked for;
          generalised: two; log-Cholesky: none).
Pitfalls  all but the Bures-Wasserstein pair need nonsingular matrices and say so. The log-Cholesky parts below the
          diagonal are divided by the mean's diagonal, else the answer would depend on the unit of the data.
References Z. Wang et al., arXiv 2504.00660; Z. Chen et al., A Lie group approach to Riemannian batch normalization,
          ICLR 2024, arXiv 2403.11261; Z. Lin, Riemannian geometry of SPD matrices via Cholesky decomposition, 2019.
"""

from typing import Any, NamedTuple

import torch

from sciml.exceptions import NotPositiveDefiniteError
from sciml.linalg.spd.checks import check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.functions import spectral
from sciml.linalg.spd.multipliers import multiply_in_basis
from sciml.stats.spd.normalising_maps import rescale, scatter

__all__ = ["Centred", "make_geometry", "positive_lower"]


class Centred(NamedTuple):
    """A batch centred at a mean, with what its eigendecomposition gave.

    Parameters
    ----------
    matrix : torch.Tensor, shape (b, ch, n, n)
        Centred matrices; their meaning depends on the geometry.
    eig : tuple or None
        Eigenvalues and eigenvectors of `matrix`, where the geometry has them.
    step : torch.Tensor or None
        What the geometry averages to move the mean, where it is not `matrix`.

    Examples
    --------
    >>> import torch
    >>> Centred(torch.eye(2), None, None).matrix.shape
    torch.Size([2, 2])
    """

    matrix: torch.Tensor
    eig: Any = None
    step: torch.Tensor | None = None


def positive_lower(parameter):
    """Return the lower triangular matrix with positive diagonal that free numbers stand for.

    Parameters
    ----------
    parameter : torch.Tensor, shape (..., n, n)
        Any numbers, dimensionless; the upper triangle is not used, and the diagonal is the logarithm of the answer's.

    Returns
    -------
    torch.Tensor, shape (..., n, n)

    Examples
    --------
    >>> import torch
    >>> positive_lower(torch.zeros(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return parameter.tril(-1) + torch.diag_embed(parameter.diagonal(dim1=-2, dim2=-1).exp())


def _whiten(C, X):
    """Return C^-1 X C^-T."""
    # One triangular inverse for the batch, which is as accurate as the solves and many times cheaper than two a matrix.
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device).expand_as(C)
    inverse = torch.linalg.solve_triangular(C, eye, upper=False)
    return symmetrise(inverse @ X @ inverse.mT)


def _lower(A):
    """Return lower triangular L with L L' = A A', by QR: no product whose condition would be squared."""
    R = torch.linalg.qr(A.mT).R
    sign = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(R.dtype)
    return (R * sign.unsqueeze(-1)).mT


def _usable(C):
    """Return which lower triangular factors are finite and regular to working precision, (k, ch)."""
    C = C.detach()
    # A pivot against its own row, so that channels may have different units.
    pivots, rows = C.diagonal(dim1=-2, dim2=-1), torch.linalg.vector_norm(C, dim=-1)
    return torch.isfinite(rows).all(-1) & (pivots > 8 * torch.finfo(C.dtype).eps ** 0.5 * rows).all(-1)


def _first_factor(mean):
    """Return a Cholesky factor of means of one batch; a singular one gets the least ridge that makes it regular."""
    C, info = torch.linalg.cholesky_ex(mean)
    scale = mean.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    jitter = torch.finfo(mean.dtype).eps
    while not bool((good := (info == 0) & _usable(C)).all()):
        if jitter > 1e-4 or not bool(torch.isfinite(scale).all()) or not bool((scale > 0).all()):
            raise NotPositiveDefiniteError(
                "X must have a mean of positive trace to start the running mean from; its mean eigenvalues are "
                f"{scale.flatten().tolist()}. Estimate the covariances with shrinkage (shrink=1e-3).",
                index=None,
            )
        jitter *= 10
        other, _ = torch.linalg.cholesky_ex(mean + jitter * scale * eye)
        C = torch.where(good[..., None, None], C, other)
        info = torch.where(good, info, torch.linalg.cholesky_ex(mean + jitter * scale * eye).info)
    return C


class _LogEuclidean:
    needs_metric = False

    def centre(self, X, mean, metric):
        eig = eigh_symmetric(symmetrise(X))
        check_eigenvalues("X", eig[0], "positive")
        return Centred(spectral(X, "log", eig=eig) - mean)

    def start(self, X, metric):
        return self.centre(X, 0.0, metric).matrix.mean(0)

    def scatter(self, centred):
        return centred.matrix.square().sum((-2, -1))

    def step(self, centred):
        return centred.matrix

    def move(self, mean, step, t):
        return mean + t * step, torch.isfinite(step.detach()).all(-1).all(-1)

    def logarithm(self, centred, c, bias):
        scaled = c.unsqueeze(-1) * centred.matrix
        return scaled if bias is None else scaled + symmetrise(bias)

    def output(self, centred, c, bias):
        return spectral(self.logarithm(centred, c, bias), "exp")


def _biased(Y, bias):
    if bias is None:
        return Y
    B = positive_lower(bias)
    return symmetrise(B @ Y @ B.mT)


class _Factored:
    """What the geometries share that whiten by a factor of the mean and add a bias by a congruence."""

    needs_metric = False
    kind = "root"

    def centre(self, X, mean, metric):
        A = _whiten(mean, X)
        return Centred(A, eigh_symmetric(A))

    def start(self, X, metric):
        return _first_factor(symmetrise(X.mean(0)))

    def scatter(self, centred):
        return scatter(centred.matrix, self.kind, centred.eig)

    def output(self, centred, c, bias):
        return _biased(rescale(centred.matrix, c, self.kind, centred.eig), bias)

    def logarithm(self, centred, c, bias):
        if bias is not None:
            return spectral(self.output(centred, c, bias), "log")
        return rescale(centred.matrix, c, self.kind, centred.eig, log=True)

    def _moved(self, mean, K, t):
        C = _lower(mean @ K)
        good = _usable(C)
        if t > 0.99:
            # In the frame of the old mean, where units do not matter: a direction that all matrices lack. A shorter
            # step cannot lose it.
            spread = eigh_symmetric(K)[0]
            good = good & (spread[..., 0] > 8 * torch.finfo(K.dtype).eps ** 0.5 * spread[..., -1])
        return torch.where(good[..., None, None], C, mean), good


class _BuresWasserstein(_Factored):
    def step(self, centred):
        return spectral(centred.matrix, "sqrt", eig=centred.eig)

    def move(self, mean, step, t):
        # R = mean of the roots is the optimal transport map from the identity; the geodesic to its end is K K.
        eye = torch.eye(step.shape[-1], dtype=step.dtype, device=step.device)
        return self._moved(mean, eye + t * (step - eye), t)


class _AffineInvariant(_Factored):
    kind = "power"

    def centre(self, X, mean, metric):
        centred = super().centre(X, mean, metric)
        check_eigenvalues("X (in the frame of the mean)", centred.eig[0], "positive")
        return centred

    def step(self, centred):
        return spectral(centred.matrix, "log", eig=centred.eig)

    def move(self, mean, step, t):
        return self._moved(mean, spectral(0.5 * t * step, "exp"), t)


class _Generalised(_Factored):
    """Bures-Wasserstein geometry in the coordinates of a learned metric M = C C', X -> C^-1 X C^-T."""

    needs_metric = True

    def centre(self, X, mean, metric):
        inside = eigh_symmetric(mean)
        root, inverse_root = spectral(mean, "sqrt", eig=inside), spectral(mean, "invsqrt", eig=inside)
        R = spectral(root @ _whiten(metric, X) @ root, "sqrt")
        T = symmetrise(inverse_root @ R @ inverse_root)  # optimal transport from the mean to the sample
        eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
        return Centred(multiply_in_basis(mean, T - eye, "from_identity", *inside), None, T)

    def start(self, X, metric):
        return symmetrise(_whiten(metric, X).mean(0))

    def scatter(self, centred):
        return centred.matrix.square().sum((-2, -1))

    def step(self, centred):
        return centred.step

    def move(self, mean, step, t):
        eye = torch.eye(step.shape[-1], dtype=step.dtype, device=step.device)
        K = eye + t * (step - eye)
        new = symmetrise(K @ mean @ K)
        good = (torch.linalg.cholesky_ex(new.detach()).info == 0) & torch.isfinite(new.detach()).all(-1).all(-1)
        return torch.where(good[..., None, None], new, mean), good

    def output(self, centred, c, bias):
        W = torch.eye(centred.matrix.shape[-1], dtype=c.dtype, device=c.device) + c.unsqueeze(-1) * centred.matrix
        return _biased(rescale(W, c.detach(), "square", eigh_symmetric(W)), bias)

    def logarithm(self, centred, c, bias):
        return spectral(self.output(centred, c, bias), "log")


class _LogCholesky:
    needs_metric = False

    def _coordinates(self, X):
        L, info = torch.linalg.cholesky_ex(symmetrise(X))
        if bool((info != 0).any()):
            where = tuple(int(i) for i in (info != 0).nonzero()[0])
            raise NotPositiveDefiniteError(
                f"X must be positive definite; the Cholesky factorisation of matrix {where} failed at pivot "
                f"{int(info[where])}. Estimate covariances with shrinkage (shrink=1e-3), or choose metric='bw'.",
                index=where,
            )
        return L.tril(-1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).log())

    def centre(self, X, mean, metric):
        shift = self._coordinates(X) - mean
        unit = mean.diagonal(dim1=-2, dim2=-1).exp().unsqueeze(-1)
        return Centred(shift.tril(-1) / unit + torch.diag_embed(shift.diagonal(dim1=-2, dim2=-1)), None, shift)

    def start(self, X, metric):
        return self._coordinates(X).mean(0)

    def scatter(self, centred):
        return centred.matrix.square().sum((-2, -1))

    def step(self, centred):
        return centred.step

    def move(self, mean, step, t):
        return mean + t * step, torch.isfinite(step.detach()).all(-1).all(-1)

    def output(self, centred, c, bias):
        lower = c.unsqueeze(-1) * centred.matrix
        L = positive_lower(lower if bias is None else lower + bias.tril())
        return symmetrise(L @ L.mT)

    def logarithm(self, centred, c, bias):
        return spectral(self.output(centred, c, bias), "log")


_GEOMETRIES = {
    "logeuclid": _LogEuclidean,
    "bw": _BuresWasserstein,
    "gbw": _Generalised,
    "airm": _AffineInvariant,
    "logchol": _LogCholesky,
}


def make_geometry(metric):
    """Return the geometry object of a name.

    Parameters
    ----------
    metric : {"logeuclid", "bw", "gbw", "airm", "logchol"}
        Its name.

    Returns
    -------
    object
        With ``centre``, ``start``, ``scatter``, ``step``, ``move``, ``output`` and ``logarithm``.

    Examples
    --------
    >>> import torch
    >>> geometry = make_geometry("bw")
    >>> X = 4 * torch.eye(2).expand(3, 1, 2, 2)
    >>> geometry.centre(X, geometry.start(X, None), None).matrix[0, 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _GEOMETRIES[metric]()
