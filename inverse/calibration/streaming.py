r"""Snapshots that come one after another: a triangular factor keeps all that calibration needs of them.

With one matrix for all snapshots, data enter by :math:`\sum_l w_l \bar y_l y_l^T = L^H L` alone. L is m by m however
many snapshots there were, is brought up to date by an orthogonal factorisation, and keeps the digits that the sum of
products would lose.

.. math:: w_l = \lambda^{p - l}, \qquad p_{\mathrm{eff}} = (\sum_l w_l)^2 / \sum_l w_l^2

Notation  lambda forgetting factor a snapshot; p_eff number of equal snapshots that would tell as much: L is scaled so
          that its weights sum to it, which makes standard deviations right for signals whose power is steady.
Cost      2 m^2 operations a snapshot, m^2 numbers of memory; an answer m^2 n + m^3 an iteration.
Pitfalls  flags of single entries and outliers need the snapshots themselves. A covariance has half the digits: exact
          data come back with an error of 1e-8 from `SnapshotStream.add_covariance`. Means are not subtracted: an offset
          of the sensors is not a gain.
References
    G. H. Golub, C. F. Van Loan, Matrix Computations, on updating factorisations; S. Haykin, Adaptive Filter Theory, on
    exponential forgetting.
"""

from functools import partial

import numpy as np
import torch

from sciml._config import resolve
from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.inverse.calibration.call import METHODS, Call, as_prior
from sciml.inverse.calibration.dense_route import solve_dense
from sciml.inverse.calibration.elimination import Shared
from sciml.inverse.calibration.gauge import check_gauge
from sciml.inverse.calibration.problem import as_problem, triangular_factor
from sciml.linalg.arrays import enter
from sciml.validation import check_number, check_option

__all__ = ["SnapshotStream", "calibrate_stream", "held_out_chi2"]

_RANK = 1e-10  # negative eigenvalues of a covariance beside the largest one that pass for rounding


class SnapshotStream:
    """The triangular factor of snapshots seen so far.

    Parameters
    ----------
    m : int
        Number of sensors.
    forgetting : float
        Weight of a snapshot beside the one after it, above 0 and at most 1; 1 by default: all count alike. Snapshots
        older than ``1 / (1 - forgetting)`` hardly count.

    Attributes
    ----------
    n_seen : int
        Snapshots added.
    weight, squares : float
        Sums of their weights and of the squares of these.
    kind : {"numpy", "torch"}
        Of the snapshots, and of answers.

    Examples
    --------
    >>> import torch
    >>> stream = SnapshotStream(1)
    >>> stream.add(torch.ones(4, 1)).add(torch.ones(5, 1)).factor().abs()
    tensor([[3.]], dtype=torch.float64)
    """

    def __init__(self, m, forgetting=1.0):
        self.m = check_number("m", m, low=1, integer=True)
        self.forgetting = check_number("forgetting", forgetting, low=0, high=1, inclusive="high")
        self.n_seen, self.weight, self.squares, self._factor, self.kind = 0, 0.0, 0.0, None, "numpy"

    @property
    def effective(self):
        """Number of equal snapshots that would tell as much, a float; 0.0 before the first."""
        return self.weight**2 / self.squares if self.squares > 0 else 0.0

    def add(self, Y):
        """Take in snapshots, the newest last, and return the stream.

        Parameters
        ----------
        Y : array, shape (p, m)
            Finite. The answers are of its kind.

        Raises
        ------
        InvalidInputError
            If it has another number of sensors.
        """
        Y = self._entered("Y", Y)
        p = len(Y)
        if p:
            age = torch.arange(p - 1, -1, -1, dtype=torch.float64, device=Y.device)
            roots = self.forgetting ** (age / 2)
            self._take(Y if self.forgetting == 1 else roots[:, None] * Y, p)
        return self

    def add_covariance(self, C, n_samples):
        """Take in snapshots by their covariance, as if all of them came at once, and return the stream.

        Parameters
        ----------
        C : array, shape (m, m)
            Mean of ``y y^H`` (no mean subtracted), Hermitian and finite.
        n_samples : int
            Number of snapshots behind it.

        Raises
        ------
        NotPositiveDefiniteError
            If an eigenvalue is negative beyond rounding.
        """
        C = self._entered("C", C)
        lam, V = torch.linalg.eigh((C + C.mH) / 2)
        if float(lam[0]) < -_RANK * float(lam[-1].abs()):
            raise NotPositiveDefiniteError(
                f"C must be positive semidefinite, a mean of y y^H; its smallest eigenvalue is {float(lam[0]):.3g} "
                f"beside a largest of {float(lam[-1]):.3g}. Do not subtract the noise from its diagonal.",
                smallest=float(lam[0]),
            )
        # L^H L = sum conj(y) y^T is the conjugate of the sum of y y^H.
        L = (_geometric(self.forgetting, n_samples) * lam.clamp_min(0)).sqrt()[:, None] * V.mT
        self._take(L, int(n_samples))
        return self

    def _entered(self, name, value):
        (t,), _ = enter(value, names=(name,), check_finite=False)
        if t.ndim != 2 or t.shape[1] != self.m:
            raise InvalidInputError(f"{name} must have {self.m} columns, one a sensor; got shape {tuple(t.shape)}.")
        self.kind = "torch" if isinstance(value, torch.Tensor) else "numpy"
        return t.to(torch.complex128 if t.is_complex() else torch.float64)

    def _take(self, rows, p):
        decay = self.forgetting**p
        old = self._factor
        if old is not None:
            if old.is_complex() or rows.is_complex():
                old, rows = old.to(torch.complex128), rows.to(torch.complex128)
            old = decay**0.5 * old
        self._factor = triangular_factor(rows[None], None if old is None else old[None])[0]

        self.weight = decay * self.weight + _geometric(self.forgetting, p)
        self.squares = decay**2 * self.squares + _geometric(self.forgetting**2, p)
        self.n_seen += p

    def factor(self):
        """Return L (q, m), q at most m, with weights that sum to the effective number."""
        if self._factor is None:
            raise InvalidInputError("no snapshots were added yet. Call add first.")
        scale = (self.weight / self.squares) ** 0.5
        return self._factor if scale == 1 else scale * self._factor


def calibrate_stream(
    stream,
    A,
    *,
    s_basis=None,
    d_basis=None,
    prior=None,
    gauge="norm",
    refine=True,
    method="auto",
    noise="white",
    noise_std=None,
    w=None,
    sensors=None,
    tol=1e-10,
    max_iter=300,
    on_failure=None,
):
    """Return the gains that `self_calibrate` finds from the snapshots of a stream, model "snapshots".

    Parameters
    ----------
    stream : SnapshotStream
        With at least one snapshot.
    A : array, shape (m, n)
        What the sensors see of a signal.
    s_basis, d_basis, prior, gauge, refine, method, noise, noise_std, w, sensors, tol, max_iter, on_failure
        As for `self_calibrate`; "matrix-free" is no method here. The scatter of the snapshots is not at hand, so that
        ``method="auto"`` judges by the residuals alone.

    Returns
    -------
    CalibrationResult
        Without signals.

    Raises
    ------
    InvalidInputError
        As `self_calibrate`.

    Examples
    --------
    >>> import torch
    >>> y = torch.tensor([[1.0], [2.0], [-1.0]]) * torch.tensor([1.0, 2.0, 0.5])
    >>> stream = SnapshotStream(3).add(y[:2]).add(y[2:])
    >>> calibrate_stream(stream, torch.ones(3, 1), gauge=("reference", 0)).gains.round(decimals=6)
    tensor([1.0000, 2.0000, 0.5000], dtype=torch.float64)
    """
    check_option("method", method, tuple(word for word in METHODS if word != "matrix-free"))
    check_option("noise", noise, ("white", "per-sensor"))
    if s_basis is not None and d_basis is not None:
        raise InvalidInputError("s_basis and d_basis must not be given together; got both. Leave one out.")
    factor, asked = stream.factor(), on_failure
    alike = partial(_alike, kind=stream.kind, device=factor.device)
    factor, A, noise_std, w, s_basis, d_basis = map(alike, (factor, A, noise_std, w, s_basis, d_basis))
    problem = as_problem(factor, A, model="snapshots", sensors=sensors, noise_std=noise_std)
    problem.count = stream.effective
    call = Call(
        problem=problem,
        gauge=check_gauge(gauge, problem.sensors),
        method=method,
        noise=noise,
        loss="gaussian",
        w=w,
        prior=as_prior(prior),
        refine=bool(refine),
        tol=check_number("tol", tol, low=0),
        max_iter=check_number("max_iter", max_iter, low=0, integer=True),
        callback=None,
        progress=None,
        on_failure=resolve("on_failure", on_failure),
        strict=asked is None or asked == "raise",
        s_basis=s_basis,
        d_basis=d_basis,
    )
    return solve_dense(call)


def held_out_chi2(Y, gains, A, sigma):
    r"""Return how well gains explain other snapshots: their misfit over its expectation, one if all is well.

    .. math:: \frac{1}{p (k - n)} \sum_l \min_x \|\mathrm{diag}(\sigma)^{-1} (y_l - d \circ A x)\|^2

    Parameters
    ----------
    Y : Tensor, shape (p, m)
        Snapshots that the gains were not fitted to.
    gains : Tensor, shape (m,)
        NaN where unidentified: the other k sensors are judged.
    A : Tensor, shape (m, n)
        What the sensors see of a signal.
    sigma : Tensor, shape () or (m,)
        Standard deviation of the noise, above 0.

    Returns
    -------
    float
        NaN where no more sensors are left than a signal has unknowns.

    Examples
    --------
    >>> import torch
    >>> Y = torch.tensor([[1.0, -1.0]]).double()  # nothing of it is along (1, 1)
    >>> held_out_chi2(Y, torch.ones(2).double(), torch.ones(2, 1).double(), torch.tensor(1.0))
    2.0
    """
    known = torch.isfinite(gains.abs())
    d = torch.where(known, gains, 0)[None]
    w = (1 / sigma.double().square()).expand(len(gains))[None]
    count = torch.full((1,), float(len(Y)), dtype=torch.float64, device=Y.device)
    problem = Shared(triangular_factor(Y.to(d.dtype)[None]), A[None].to(d.dtype), count, w, known[None])
    freedom = float(problem.degrees(d)[0])
    return float(problem.cost(d)[0]) / freedom if freedom > 0 else float("nan")


def _geometric(q, p):
    """1 + q + ... + q^(p - 1)."""
    return float(p) if q == 1 else (1 - q**p) / (1 - q)


def _alike(value, kind, device):
    """Arrays and numbers in one kind, since kinds do not mix."""
    if value is None:
        return None
    if kind == "torch":
        return torch.as_tensor(value, device=device)
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
