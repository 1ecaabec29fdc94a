r"""The published methods: constrained least squares and the smallest singular vector, by inverse power iterations.

With z = (s, x) and the stacked matrix :math:`\mathcal A z = (s \circ y_l - A_l x_l)_l`, the minimiser of
:math:`\|\mathcal A z\|^2` subject to :math:`w^* z = c` is a multiple of :math:`(\mathcal A^* \mathcal A)^{-1} w`: one
step of inverse power iteration from w. The spectral method takes infinitely many. Each step solves the block system by
the elimination of x, so that the stacked matrix is never formed.

Notation  G_l = A_l^* W A_l = R_l^* R_l, C_l = A_l^* W diag(y_l), M the Schur complement.
Cost      as one elimination, then m^2 + p m n a step.
Pitfalls  the answer of one step depends on w through its angle to the truth; both methods weigh the equations as if the
          noise were in a right side, and are biased at low signal-to-noise ratios. They are here to be compared with.
References
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196.
"""

import torch

from sciml.inverse.calibration.elimination import Joint, Shared, Total

__all__ = ["inverse_power"]


def inverse_power(elimination, w=None, n_steps=1, tol=0.0):
    """Return the inverse gains after steps of inverse power iteration on the whole system.

    Parameters
    ----------
    elimination : Elimination
        The problem.
    w : Tensor, shape (b, m) or (m,), or None
        The normaliser of the inverse gains, zero for the signals; ones by default: their sum is fixed.
    n_steps : int
        1, the default, is constrained least squares; many are the smallest singular vector.
    tol : float
        Stop when the direction changes by less; 0 by default.

    Returns
    -------
    s : Tensor, shape (b, m)
        Inverse gains, zero where a sensor does not take part.
    cosine : Tensor, shape (b,)
        Modulus of the cosine of the angle between w and the last direction: near zero w was a bad choice.

    Examples
    --------
    >>> import torch
    >>> d = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1))
    >>> s, _ = inverse_power(problem)
    >>> (s[:, :1] / s).round(decimals=5)
    tensor([[1., 2., 4.]], dtype=torch.float64)
    """
    M, _ = elimination.schur_kept()
    active = elimination.active
    size = torch.diagonal(M, dim1=-2, dim2=-1).real
    # Exact data leave M singular: a shift at rounding makes the same direction win at once.
    shift = 1e-14 * size.sum(-1, keepdim=True) / active.sum(-1, keepdim=True).clamp_min(1)
    for _ in range(8):
        L, info = torch.linalg.cholesky_ex(
            M + torch.diag_embed((shift + (~active) * size.amax(-1, keepdim=True)).to(M.dtype))
        )
        if not bool(info.any()):
            break
        # Many null directions: their rounding is larger than that of one.
        shift = torch.where((info > 0)[:, None], 10 * shift, shift)
    start = torch.ones_like(active, dtype=M.dtype) if w is None else w.to(M.dtype).expand(active.shape)
    s = start = torch.where(active, start, 0)
    blocks = _Signals(elimination)
    x = None
    for _ in range(n_steps):
        right = s if x is None else s + blocks.to_sensors(x)
        new = torch.where(active, torch.cholesky_solve(right[..., None], L)[..., 0], 0)
        x_new = blocks.from_sensors(new, x)
        length = (new.abs().square().sum(-1) + x_new.abs().square().flatten(1).sum(-1)).sqrt()
        # A direction may turn its sign or phase between steps.
        turn = (s.conj() * new).sum(-1)
        turn = torch.where(turn.abs() > 0, turn.conj() / turn.abs().clamp_min(1e-300), torch.ones_like(turn))
        factor = (turn / length.clamp_min(torch.finfo(length.dtype).tiny))[:, None]
        change = torch.linalg.vector_norm(new * factor - s, dim=-1)
        s, x = new * factor, x_new * factor.reshape(-1, *[1] * (x_new.ndim - 1))
        if bool((change <= tol * torch.linalg.vector_norm(s, dim=-1)).all()):
            break
    size = torch.linalg.vector_norm(start, dim=-1) * torch.linalg.vector_norm(s, dim=-1)
    return s, (start.conj() * s).sum(-1).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)


class _Signals:
    """The blocks of the stacked system that belong to the signals."""

    def __init__(self, elimination):
        if isinstance(elimination, Total):
            self.parts = [_Signals(part) for part in elimination.parts]
            return
        self.parts = None
        self.joint = isinstance(elimination, Joint)
        if isinstance(elimination, Shared):
            r = elimination._roots()[:, None, :]
            B, self.y = r[..., None] * elimination.A[:, None], r * elimination.factor
        else:
            r = elimination._roots(None, 0, elimination.p)
            B, self.y = r[..., None] * elimination.A, r * elimination.y
        self.r, self.count = r, self.y.shape[1]
        if self.joint:
            B = B.expand(len(self.y), self.count, -1, -1).reshape(len(self.y), 1, -1, elimination.n)
        self.Q, self.R = torch.linalg.qr(B)

    def to_sensors(self, x):
        """Return the sum of C_l^* G_l^-1 x_l."""
        if self.parts is not None:
            return sum(part.to_sensors(own) for part, own in zip(self.parts, self._split(x), strict=True))
        x = x[:, None] if self.joint else x
        c = torch.linalg.solve_triangular(self.R.mH, x[..., None], upper=False)
        u = (self.Q @ c)[..., 0]
        u = u.reshape(len(u), self.count, -1) if self.joint else u
        return (self.y.conj() * u).sum(1)

    def from_sensors(self, s, x):
        """Return G^-1 (C s + x)."""
        if self.parts is not None:
            given = [None] * len(self.parts) if x is None else self._split(x)
            return torch.cat([part.from_sensors(s, own) for part, own in zip(self.parts, given, strict=True)], 1)
        z = self.y * s[:, None, :]
        z = z.reshape(len(z), 1, -1) if self.joint else z
        right = self.Q.mH @ z[..., None]
        if x is not None:
            x = x[:, None] if self.joint else x
            right = right + torch.linalg.solve_triangular(self.R.mH, x[..., None], upper=False)
        out = torch.linalg.solve_triangular(self.R, right, upper=True)[..., 0]
        return out[:, 0] if self.joint else out

    def _split(self, x):
        return x.split([part.count for part in self.parts], 1)
