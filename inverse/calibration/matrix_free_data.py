r"""The data of a large calibration as a stream of blocks of snapshots, with the products that were made counted.

Notation  y (p, m) data; W (p, m) weights or None; A_l (m, n); x (p, n) signals, or (n,) for one that all snapshots see;
          R_i = sum_l W_li |y_li|^2.
Cost      a block holds about three arrays of its size, 2^16 numbers each unless one snapshot is longer.
"""

from __future__ import annotations

import torch

from sciml.inverse.calibration.ensemble_base import Ensemble

_BLOCK = 2**16  # numbers: 1 MiB of complex128, within the caches of a processor
_SHORT = {torch.float64: torch.float32, torch.complex128: torch.complex64}
_LONG = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_FEWEST = 12  # blocks, so that a part of the snapshots can be taken
# A sensor whose energy is this part of the median one has seen nothing but rounding.
_SILENT = 1e-24


class Stream:
    """Data, weights and the measurement, a block of snapshots at a time.

    Parameters
    ----------
    y : Tensor, shape (p, m)
        Real or complex; kept in its precision.
    ensemble : Ensemble
        Of p matrices or one for all.
    W : Tensor, shape (p, m), or None
        Weights not below 0; None (the default) for ones.
    shared : bool
        Whether all snapshots see one signal; False by default.

    Attributes
    ----------
    energy : Tensor, shape (m,)
        R, in double precision.
    active : Tensor of bool, shape (m,)
        Sensors that saw anything with a weight above 0.
    plain : bool
        Whether there are neither weights nor sensors left out.

    Examples
    --------
    >>> from sciml.inverse.calibration.ensembles import PartialDFT
    >>> stream = Stream(torch.ones(3, 8), PartialDFT(8, 2))
    >>> stream.dtype, stream.blocks, stream.energy[:2]
    (torch.complex64, [(0, 1), (1, 2), (2, 3)], tensor([3., 3.], dtype=torch.float64))
    """

    def __init__(self, y: torch.Tensor, ensemble: Ensemble, W: torch.Tensor | None = None, shared: bool = False):
        self.ensemble, self.shared = ensemble, shared
        self.p, self.m = y.shape
        self.n = ensemble.shape[1]
        complex_ = y.is_complex() or ensemble.dtype.is_complex
        single = y.dtype in (torch.float32, torch.complex64)
        self.dtype = (
            (torch.complex64 if single else torch.complex128)
            if complex_
            else (torch.float32 if single else torch.float64)
        )
        self.y, self.W = y, W
        self.short, self.long = _SHORT.get(self.dtype, self.dtype), _LONG.get(self.dtype, self.dtype)
        step = max(1, min(_BLOCK // max(self.m, self.n), -(-self.p // _FEWEST))) if ensemble.divisible else self.p
        self.blocks = [(a, min(a + step, self.p)) for a in range(0, self.p, step)]
        self.n_forward = self.n_adjoint = 0
        self._keep = None
        self.energy = self._energies()
        heard = self.energy > 0
        median = self.energy[heard].median() if bool(heard.any()) else 0.0
        self.active = heard & (self.energy > _SILENT * median)
        if not bool(self.active.all()):
            self._keep = self.active.to(self.y.real.dtype if y.is_complex() else y.dtype)
        self.plain = W is None and self._keep is None

    def _energies(self):
        total = torch.zeros(self.m, dtype=torch.float64, device=self.y.device)
        for a, b in self.blocks:
            squares = self.y[a:b].abs().square()
            total += (squares if self.W is None else squares * self.W[a:b]).sum(0, dtype=torch.float64)
        return total

    def data(self, a, b, dtype=None):
        """Return the data of a block, in the dtype of the computation or another."""
        return self.y[a:b].to(dtype or self.dtype)

    def weighted(self, U, a, b):
        """Return W U for a block; U itself where there are no weights."""
        if self.W is not None:
            U = U * self.W[a:b].to(U.real.dtype if U.is_complex() else U.dtype)
        return U if self._keep is None else U * self._keep.to(U.real.dtype if U.is_complex() else U.dtype)

    def part(self, x, a, b):
        """Return the signals of a block: (b - a, n), or (1, n) for one that all snapshots see."""
        return x[None] if self.shared else x[a:b]

    def forward(self, x, a, b):
        """Return A_l x_l of a block, (b - a, m)."""
        self.n_forward += b - a
        return self.ensemble.forward(self.part(x, a, b), a, b).expand(b - a, -1)

    def adjoint(self, U, a, b):
        """Return A_l^H u_l of a block, (b - a, n); their sum, (n,), for one signal that all snapshots see."""
        self.n_adjoint += b - a
        if not self.shared:
            return self.ensemble.adjoint(U, a, b)
        if not self.ensemble.batch_shape:
            U = U.sum(0, keepdim=True)
        return self.ensemble.adjoint(U, a, b).sum(0)

    def zeros(self, dtype=None):
        """Return signals of zeros."""
        return torch.zeros(self.zeros_shape(), dtype=dtype or self.dtype, device=self.y.device)

    def zeros_shape(self):
        """Return the shape of the signals."""
        return (self.n,) if self.shared else (self.p, self.n)

    def gram_part(self, a, b):
        """Return the diagonal of A_l^H A_l of a block, or of their sum for one signal that all snapshots see."""
        gram = self.ensemble.gram
        if self.shared:
            return gram.sum(0) if gram.shape[0] > 1 else gram[0] * self.p
        return gram[a:b] if gram.shape[0] > 1 else gram

    def find_gram(self):
        """Ask, by one random vector a snapshot, whether A_l^H A_l = c I; remember and return whether that holds."""
        generator = torch.Generator().manual_seed(0)
        sizes, low, high = torch.finfo(self.dtype).eps * max(self.m, self.n) ** 0.5 * 100, None, None
        blocks = self.blocks if self.ensemble.batch_shape else [(0, 1)]
        for a, b in blocks:
            X = torch.randn(b - a, self.n, generator=generator, dtype=torch.float64).to(self.y.device, self.dtype)
            image = self.ensemble.adjoint(self.ensemble.forward(X, a, b), a, b)
            self.n_forward, self.n_adjoint = self.n_forward + b - a, self.n_adjoint + b - a
            c = (X.conj() * image).sum(-1).real / X.abs().square().sum(-1)
            low = float(c.min()) if low is None else min(low, float(c.min()))
            high = float(c.max()) if high is None else max(high, float(c.max()))
            wrong = (image - c[:, None] * X).norm(dim=-1) > sizes * image.norm(dim=-1)
            if bool(wrong.any()) or high - low > sizes * high or not low > 0:
                return False
        self.ensemble.gram = torch.full((1, self.n), (low + high) / 2, dtype=torch.float64, device=self.y.device)
        return True

    def dof(self):
        """Return data minus unknowns: snapshots with no more data than unknowns add nothing."""
        n_sensors = int(self.active.sum())
        if self.W is None:
            rows = torch.full((self.p,), n_sensors, dtype=torch.float64)
        else:
            parts = [((self.W[a:b] > 0) & self.active).sum(1) for a, b in self.blocks]
            rows = torch.cat(parts).double().cpu()
        free = rows.sum() - self.n if self.shared else (rows - self.n).clamp_min(0).sum()
        return float(free) - n_sensors + 1

    def work(self):
        """Return how often all snapshots went through a product and an adjoint one so far."""
        return self.n_forward / self.p, self.n_adjoint / self.p
