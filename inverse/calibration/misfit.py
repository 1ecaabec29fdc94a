r"""Is the model true, and what to answer where it is not: residuals that look like noise, and gains near a mean.

Signals that lie in the range of A only nearly leave residuals with a structure that all snapshots share. Maximum
likelihood takes it for a property of the gains, with an error that no number of snapshots removes and that can exceed
that of data left as they are. So residuals are tested, and where they are not noise the gains are shrunk to a mean.

The test  the residuals' covariance K (m, m) has by chance

.. math:: T = \mathrm{tr} K^2 / (\mathrm{tr} K)^2

of a mean and deviation known from white noise through the same projectors; the score is the distance in deviations.
T is largest where few directions hold the residuals. It does not depend on the size of the noise.

The answer  errors of the model pass through the gains, y = d (A x + u), hence are proportional to |d|; noise is not.
The posterior mean of log d (see `priors`) is computed under both, from several starts, and the one of highest
restricted likelihood of the residuals taken:

.. math:: \sum \log w - \sum_l \log\det(A_l^* D^* W_l D A_l) - N \log (f / N), \qquad N = \text{data} - \text{signals}.

Notation  y, A, W, d, f of the elimination; r = sqrt(W) (l, m); z = r y, u its explained part, rest = z - u; w sensor
          weights.
Cost      a few Gauss-Newton matrices for the test, 30 to 150 of them where it fails.
Pitfalls  a test of few residuals sees little: with a dozen snapshots misfit may pass for noise. Noise of different
          size at every sensor also fails the test; what follows is harmless then, yet weights are the remedy. Gains
          whose signs or phases are arbitrary have no mean: they are compared between two halves of the snapshots, and
          given up where these disagree.
References
    S. John, Some optimal multivariate tests, 1971; O. Ledoit, M. Wolf, Some hypothesis tests for the covariance matrix
    when the dimension is large compared to the sample size, 2002. D. A. Harville, Maximum likelihood approaches to
    variance component estimation, 1977 (restricted likelihood).
"""

import math
from dataclasses import dataclass

import torch

from sciml.inverse.calibration.bases import inverse_or_zero, project, range_basis
from sciml.inverse.calibration.elimination import Diverse, Joint, Shared, Total
from sciml.inverse.calibration.priors import Shrunk, shrink
from sciml.inverse.calibration.spectral import spectral_start
from sciml.random import generator, normal

__all__ = ["Assessment", "Decision", "assess", "choose", "mean_is_supported", "shrunk_gains"]

# Normal deviates of one false alarm in 100 000, and the same for deviations known from 32 draws (Student's t).
_DEVIATES = {"shared": 4.27, "own": 5.05}
_DRAWS = 32
_ENTRIES = 2**24  # numbers in the bases of the snapshots looked at; more snapshots are thinned out
_DISAGREEMENT = 0.5  # of two sets of gains, relative: one of them is wrong
_FEW = 50  # snapshots, below which likelihood may fit the misfit itself and leave no trace of it


@dataclass(frozen=True)
class Assessment:
    """How far residuals are from white noise.

    Parameters
    ----------
    score : float
        Distance of T from its mean under noise, in standard deviations; 0 where there is nothing to compare.
    misfit : bool
        Whether the score exceeds what chance reaches once in 100 000 times: 4.4 for many residuals of many sensors, 7
        for four of them, as T is skewed then.
    fraction : float
        Share of the weighted energy of the data that the residuals hold.

    Examples
    --------
    >>> Assessment(score=20.0, misfit=True, fraction=0.04).misfit
    True
    """

    score: float
    misfit: bool
    fraction: float


@dataclass(frozen=True)
class Decision:
    """What to answer for one channel, and why.

    Parameters
    ----------
    method : {"likelihood", "prior", "uncalibrated"}
        Keep the estimate of highest likelihood, take the gains below, or leave the data as they are.
    reason : str
        A sentence for the notes of the result.
    assessment : Assessment
        Of the residuals.
    gains : Tensor, shape (m,), or None
        None for "likelihood".
    covariance : Tensor, shape (m, m), or None
        Of these gains, the error of the model included; infinite where the data were of no use.
    sensor_weights : Tensor, shape (m,), or None
        That the gains were found with; None for ones.
    spread : float
        Standard deviation of log gains about their mean; NaN where not estimated.
    inflation : float
        Variance of the errors over what the residuals would let expect; NaN where not estimated.
    converged : bool
        Whether the steps became small.
    n_iter : int
        Steps.
    """

    method: str
    reason: str
    assessment: Assessment
    gains: torch.Tensor | None = None
    covariance: torch.Tensor | None = None
    sensor_weights: torch.Tensor | None = None
    spread: float = float("nan")
    inflation: float = float("nan")
    converged: bool = True
    n_iter: int = 0


def assess(elimination, d, *, random_state=0):
    """Test the residuals of gains for being white noise.

    Parameters
    ----------
    elimination : Elimination
        With b = 1.
    d : Tensor, shape (1, m)
        Gains of highest likelihood.
    random_state : None, int or numpy.random.Generator
        Of the noise that unequal projectors are compared with; 0 by default, so that the answer can be had again.

    Returns
    -------
    Assessment
        See there.

    Examples
    --------
    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> A, noise = torch.randn(1, 1, 20, 3, generator=rng), torch.randn(1, 50, 20, generator=rng)
    >>> clean = torch.randn(1, 50, 3, generator=rng) @ A[0].mT
    >>> pattern = torch.randn(1, 50, 1, generator=rng) * torch.randn(1, 1, 20, generator=rng)
    >>> data = (clean + 0.1 * noise, clean + 0.1 * noise + 0.2 * pattern)
    >>> [assess(Diverse(y, A), torch.ones(1, 20)).misfit for y in data]
    [False, True]
    """
    pieces = _pieces(elimination, d, None)
    K = sum(piece.rest.mH @ piece.rest for piece in pieces)
    energy = float(sum(piece.z.abs().square().sum() for piece in pieces))
    left = float(torch.diagonal(K).real.sum())
    fraction = left / energy if energy > 0 else 0.0
    if left <= 1e3 * torch.finfo(K.real.dtype).eps ** 2 * energy * elimination.m:
        return Assessment(0.0, False, fraction)
    T = float(K.abs().square().sum()) / left**2
    if len(pieces) == 1 and pieces[0].kind == "shared":
        kind = "shared"
        mean, deviation = _white(pieces[0].dimension, pieces[0].count, K.is_complex())
    else:
        kind = "own"
        mean, deviation = _drawn(pieces, K, generator(random_state))
    score = (T - mean) / deviation if deviation > 1e-12 * mean else 0.0
    rank = min(max(piece.dimension for piece in pieces), sum(piece.count for piece in pieces))
    return Assessment(score, score > _threshold(rank, K.is_complex(), _DEVIATES[kind]), fraction)


def _threshold(rank, is_complex, deviate):
    """Quantile of a standardised chi-squared variable, T being a mean of squares of products (Wilson and Hilferty)."""
    rank = max(rank, 1.0)
    freedom = rank**2 if is_complex else rank * (rank + 1) / 2
    share = 2 / (9 * freedom)
    return freedom**0.5 * ((1 - share + deviate * share**0.5) ** 3 - 1) / 2**0.5


def _white(k, p, is_complex):
    """Mean and asymptotic deviation of T for p white vectors of length k: Wishart moments, and Ledoit and Wolf 2002."""
    if k < 2 or p < 1:
        return 1.0, 0.0
    if is_complex:
        return (p + k) / (p * k + 1), 2**0.5 / (p * k)
    return (p + k + 1) / (p * k + 2), 2 / (p * k)


def _drawn(pieces, K, rng):
    """Mean and deviation of T for white noise through the projectors of the pieces."""
    values = []
    for _ in range(_DRAWS):
        total = 0
        for piece in pieces:
            e = normal(rng, (piece.count, len(K)), device=K.device, dtype=K.real.dtype)
            if K.is_complex():
                e = torch.complex(e, normal(rng, e.shape, device=K.device, dtype=K.real.dtype))
            e = torch.where(piece.r > 0, e, 0)
            e = e - piece.explain(e)
            total = total + e.mH @ e
        values.append(float(total.abs().square().sum() / torch.diagonal(total).real.sum().square()))
    values = torch.tensor(values, dtype=torch.float64)
    return float(values.mean()), float(values.std())


def mean_is_supported(elimination, centre, *, random_state=0, draws=48):
    """Tell whether gains of the phases of a mean fit the data better than gains of random phases, or signs.

    Parameters
    ----------
    elimination : Elimination
        With b = 1.
    centre : Tensor, shape (1, m)
        The mean, such as ones.
    random_state : None, int or numpy.random.Generator
        Of the phases; 0 by default, so that the answer can be had again.
    draws : int
        Sets of random phases; 48 by default.

    Returns
    -------
    bool
        Whether the misfit is below all of theirs and four of their deviations below their mean. Moduli are those of the
        data, so that their spread does not matter.

    Examples
    --------
    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> A = torch.randn(1, 1, 20, 3, generator=rng)
    >>> z = torch.randn(1, 50, 3, generator=rng) @ A[0].mT
    >>> signs = torch.randn(20, generator=rng).sign()
    >>> [mean_is_supported(Diverse(y, A), torch.ones(1, 20)) for y in (z, signs * z)]
    [True, False]
    """
    rng = generator(random_state)
    size = _amplitude(elimination)
    weights = torch.where(elimination.active, inverse_or_zero(size).square(), 0)
    modulus = torch.where(elimination.active, size, 1.0)
    phase = centre / centre.abs()
    mine = float(elimination.cost(phase * modulus, weights)[0])
    others = []
    for _ in range(draws):
        turn = normal(rng, centre.shape, device=size.device, dtype=size.dtype)
        if centre.is_complex():
            turn = torch.complex(turn, normal(rng, centre.shape, device=size.device, dtype=size.dtype))
        others.append(float(elimination.cost(phase * turn / turn.abs() * modulus, weights)[0]))
        if others[-1] <= mine:
            return False
    others = torch.tensor(others, dtype=torch.float64)
    return mine < min(float(others.min()), float(others.mean() - 4 * others.std()))


def choose(elimination, d, centre=None, *, y=None, random_state=0):
    """Decide between the gains of highest likelihood, gains shrunk to a mean, and none, for one channel.

    Parameters
    ----------
    elimination : Elimination
        With b = 1.
    d : Tensor, shape (1, m)
        Gains of highest likelihood, finite where active.
    centre : Tensor, shape (1, m), or None
        Mean of the gains, up to a factor; ones by default, instruments calibrated before.
    y : Tensor, shape (1, p, m), or None
        Data, zero where flagged, for eliminations that keep a triangular factor only. Without them the scatter of the
        snapshots and the agreement of two halves are not looked at.
    random_state : None, int or numpy.random.Generator
        Of the comparisons; 0 by default, so that the answer can be had again.

    Returns
    -------
    Decision
        See there.

    Examples
    --------
    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> d, A = torch.linspace(0.5, 2, 20).double()[None], torch.randn(1, 20, 3, generator=rng).double()
    >>> y = d * (torch.randn(50, 3, generator=rng).double() @ A.mT + 0.01 * torch.randn(50, 20, generator=rng))
    >>> choose(Diverse(y, A[:, None]), d).method  # errors proportional to the gains are no white noise
    'prior'
    """
    centre = torch.ones_like(d) if centre is None else centre
    verdict = assess(elimination, d, random_state=random_state)
    if not verdict.misfit and elimination.p < _FEW:
        verdict = _second_look(elimination, d, centre, verdict, random_state)
    if not verdict.misfit:
        reason = (
            f"residuals look like white noise (score {verdict.score:.1f}): the gains of highest likelihood are kept"
        )
        return Decision("likelihood", reason, verdict)
    if y is not None and isinstance(elimination, Shared):
        y = y[:, :: -(-y.shape[1] * elimination.m // _ENTRIES) or 1]
    supported = mean_is_supported(elimination, centre, random_state=random_state)
    found = shrunk_gains(elimination, d, centre, y, supported)
    seen = f"residuals are no white noise (score {verdict.score:.0f}, {100 * verdict.fraction:.2g} % of the energy)"
    if not supported:
        apart = _disagreement(elimination, found.d[None], centre, y)
        if apart > _DISAGREEMENT or not found.converged:
            return _give_up(elimination, centre, verdict, seen, apart)
    reason = (
        f"{seen}: the model holds only nearly, so that log gains were shrunk towards their mean, with a spread of "
        f"{found.spread:.2g} and errors of {found.inflation:.3g} times the variance of the residuals, both estimated"
    )
    return Decision(
        "prior",
        reason,
        verdict,
        found.d,
        found.covariance,
        found.sensor_weights,
        found.spread,
        found.inflation,
        found.converged,
        found.n_iter,
    )


def _second_look(elimination, d, centre, verdict, random_state):
    """The test for gains near their mean, where those of highest likelihood are altogether different."""
    own = torch.where(elimination.active, d, 0)[0]
    if _apart(torch.where(elimination.active, centre, 0)[0], own) <= _DISAGREEMENT:
        return verdict
    if not mean_is_supported(elimination, centre, random_state=random_state):
        return verdict
    near = shrink(elimination, torch.where(elimination.active, centre, 0), centre).d[None]
    if _apart(near[0], own) <= _DISAGREEMENT:
        return verdict
    return assess(elimination, near, random_state=random_state)


def _apart(first, second):
    """Distance of two sets of gains after the best alignment, relative."""
    inner = torch.vdot(first, second).abs() / (first.norm() * second.norm())
    return float((1 - inner.square()).clamp_min(0).sqrt())


def shrunk_gains(elimination, d, centre, y, supported) -> Shrunk:
    """Return the shrunk gains of highest restricted likelihood over starts and kinds of error, for one channel.

    Parameters
    ----------
    elimination : Elimination
        With b = 1.
    d : Tensor, shape (1, m)
        Gains to begin with where the mean is not supported.
    centre : Tensor, shape (1, m)
        Mean of the gains, up to a factor.
    y : Tensor, shape (1, p, m), or None
        Data, zero where flagged.
    supported : bool
        As `mean_is_supported` tells.

    Returns
    -------
    Shrunk
        See there.

    Examples
    --------
    >>> import torch
    >>> problem = Diverse(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).double(), torch.ones(1, 1, 4, 1).double())
    >>> found = shrunk_gains(problem, torch.ones(1, 4).double(), torch.ones(1, 4).double(), None, True)
    >>> (found.d / found.d[0]).round(decimals=3)
    tensor([1., 2., 3., 4.], dtype=torch.float64)
    """
    # A supported mean is a start in the right basin; likelihood would prefer basins that fit the misfit.
    starts = [centre] if supported else [d, _signal_start(elimination), centre]
    tried = []
    for start in starts:
        start = torch.where(elimination.active & (start == 0), centre, start)
        for proportional in (True, False):
            options = {
                "proportional": proportional,
                "scatter": lambda gains, weights: _scores(elimination, gains, weights, y),
            }
            found = shrink(elimination, start, centre, **options)
            if not supported and start.is_complex():
                # Arbitrary phases pass for a wide spread, which leads to the right ones; moduli may then be closer.
                found = shrink(elimination, found.d[None], centre, free_phases=True, **options)
            value = _restricted_likelihood(elimination, found.d[None], found.sensor_weights)
            tried.append((value if math.isfinite(value) else -math.inf, found))
    return max(tried, key=lambda pair: pair[0])[1]


def _signal_start(elimination):
    """Smallest eigenvector normalised by the energy of every sensor: of gains that errors are proportional to."""
    M, _ = elimination.schur()
    energy = _amplitude(elimination).square()
    s, _, _ = spectral_start(M, energy, elimination.active & (energy > 0))
    return inverse_or_zero(s)


def _amplitude(elimination):
    """Root of the weighted energy of every sensor (1, m), from the pieces for gains of one."""
    ones = torch.ones(1, elimination.m, dtype=elimination.dtype, device=elimination.device)
    energy = sum(piece.z.abs().square().sum(0) for piece in _pieces(elimination, ones, None))
    return energy.sqrt()[None]


def _disagreement(elimination, d, centre, y):
    """Distance between the gains of two halves of the snapshots, each free to prefer its own, or 0 where unknown."""
    halves = [_take(elimination, slice(k, None, 2), y) for k in (0, 1)]
    if any(half is None for half in halves):
        return 0.0
    heard = torch.stack([_amplitude(half) > 0 for half in halves]).all(0)
    halves = [half.restrict(heard) for half in halves]
    first, second = (shrunk_gains(half, d, centre, None, False).d for half in halves)
    return _apart(first, second)


def _give_up(elimination, centre, verdict, seen, apart):
    gains = torch.where(elimination.active, centre, 0)[0]
    infinite = torch.where(elimination.active[0], float("inf"), 0.0).to(gains.real.dtype)
    reason = (
        f"{seen}, no smaller with the phases of the mean than with random ones, and no other gains are found again "
        f"(those of two halves of the snapshots differ by {100 * apart:.0f} %): the data are left as they are"
    )
    return Decision("uncalibrated", reason, verdict, gains, torch.diag(infinite).to(gains.dtype))


def _take(elimination, part, y):
    """The same elimination with some of the snapshots, or None where it does not keep them."""
    if isinstance(elimination, Total):
        if y is None:
            return None
        numbers = torch.arange(elimination.p)[part]
        parts = []
        for piece, place in zip(elimination.parts, elimination.places, strict=True):
            mine = place[torch.isin(place.cpu(), numbers)]
            if len(mine):
                parts.append(_take(piece, slice(None), y[:, mine]))
        return None if not parts or any(p is None for p in parts) else Total(parts, elimination.places[: len(parts)])
    if isinstance(elimination, Shared):
        if y is None:
            return None
        y = torch.where(elimination.active[:, None], y, 0)[:, part]
        count = torch.full_like(elimination.count, y.shape[1])
        return Shared(y, elimination.A, count, elimination.w, elimination.active)
    A = elimination.A[:, part] if elimination.A.shape[1] > 1 else elimination.A
    W = None if elimination.W is None else elimination.W[:, part]
    return type(elimination)(elimination.y[:, part], A, W, elimination.active)


@dataclass
class _Piece:
    """Residuals of snapshots with their projectors.

    z, u, rest (l, m); roots of weights r (l or 1, m); count of snapshots and of all that these stand for; dimension of
    a residual; number of signal unknowns and log det of their information; and what a signal explains of any rows.
    """

    kind: str
    z: torch.Tensor
    u: torch.Tensor
    r: torch.Tensor
    count: int
    total: int
    dimension: float
    signals: float
    logdet: float
    explain: object

    @property
    def rest(self):
        return self.z - self.u


def _pieces(elimination, d, weights, y=None):
    """Residuals of one channel, by kinds of projector; snapshots beyond the budget are thinned out."""
    if isinstance(elimination, Total):
        places = elimination.places if y is not None else [None] * len(elimination.parts)
        rows = [None if place is None else y[:, place] for place in places]
        return [p for part, mine in zip(elimination.parts, rows, strict=True) for p in _pieces(part, d, weights, mine)]
    d = torch.where(elimination.active, d, 0)
    if isinstance(elimination, Shared):
        r = elimination._roots(weights)
        B = (r * d)[..., None] * elimination.A
        Q = range_basis(B)
        z = r * (elimination.factor[0] if y is None else y[0])
        rank = float(Q.abs().square().sum().round())
        count = int(elimination.count[0]) if y is None else len(z)

        def explain(e):
            return (e @ Q[0].conj()) @ Q[0].mT

        left = float((r > 0).sum()) - rank
        logdet = count * float(_log_det(B).sum())
        total = int(elimination.count[0])
        return [_Piece("shared", z, explain(z), r, count, total, left, count * rank, logdet, explain)]
    each = elimination.m * elimination.n
    step, total = -(-elimination.p * each // _ENTRIES), elimination.p
    if step > 1 and isinstance(elimination, Diverse):
        elimination = _take(elimination, slice(None, None, step), None)
    r = elimination._roots(weights, 0, elimination.p).expand(1, elimination.p, -1)
    z = (r * elimination.y)[0]
    B = (r * d[:, None])[..., None] * elimination.A
    if isinstance(elimination, Joint):
        B = B.reshape(1, 1, -1, elimination.n)
        Q = range_basis(B)

        def explain(e):
            return project(Q, e.reshape(1, 1, -1)).reshape(e.shape)
    else:
        Q = range_basis(B)

        def explain(e):
            return project(Q, e[None])[0]

    rank = float(Q.abs().square().sum().round())
    left = (float((r > 0).sum()) - rank) / max(elimination.p, 1)
    logdet = float(_log_det(B).sum())
    return [_Piece("own", z, explain(z), r[0], elimination.p, total, left, rank, logdet, explain)]


def _log_det(B):
    """log det B^H B over the directions that B has."""
    S = torch.linalg.svdvals(B)
    floor = max(B.shape[-2:]) * torch.finfo(S.dtype).eps * S.amax(-1, keepdim=True)
    return torch.where(floor < S, 2 * S.clamp_min(torch.finfo(S.dtype).tiny).log(), 0.0).sum(-1)


def _scores(elimination, d, weights, y):
    """Scores of the snapshots by log d, shape (p, m), as far as the snapshots are kept."""
    pieces = _pieces(elimination, d, weights, y)
    if y is None and any(piece.kind == "shared" and piece.count != len(piece.z) for piece in pieces):
        return d.new_zeros(0, d.shape[1])
    # Snapshots that were thinned out count through the others.
    return torch.cat([(piece.total / max(len(piece.z), 1)) ** 0.5 * piece.u.conj() * piece.rest for piece in pieces])


def _restricted_likelihood(elimination, d, weights):
    """Log-likelihood of the residuals, signals and noise variance profiled out, for real data twice that."""
    pieces = _pieces(elimination, d, None if weights is None else weights[None])
    user = _pieces(elimination, d, None)
    f = float(sum(piece.rest.abs().square().sum() for piece in pieces))
    N = sum(float((piece.r > 0).expand(piece.count, -1).sum()) - piece.signals for piece in pieces)
    ratio = 0.0
    for piece, plain in zip(pieces, user, strict=True):
        used = plain.r > 0
        logs = torch.where(used, 2 * (piece.r / torch.where(used, plain.r, 1.0)).clamp_min(1e-150).log(), 0.0)
        ratio += float(logs.expand(piece.count, -1).sum())
    tiny = torch.finfo(torch.float64).tiny
    return ratio - sum(piece.logdet for piece in pieces) - N * float(torch.tensor(max(f / max(N, 1), tiny)).log())
