r"""Trials of multivariate series, and positive definite matrices, drawn from a known truth.

Trials are mixtures :math:`x(t) = A_d s(t)` of sources whose power, frequency or trend depends on the class, seen
through a matrix that depends on the domain (a subject, a session, a way to wear the sensor),

.. math:: A_d = \exp(\delta\, G_d / \sqrt n)\, A, \qquad \operatorname{cov} x = A_d \Sigma_c A_d^T .

Matrices are :math:`X = C_k^{1/2} W C_k^{1/2}` with W Wishart of mean I, so that the class centre C_k is the mean of X.

Notation  n channels; T samples; c class; d domain; A (n, n) mixing; G_d (n, n) entries N(0, 1); delta the shift;
          Sigma_c (n, n) covariance of the sources.
Cost      N n^2 T + N n T log T.
Pitfalls  the covariance of one trial of T samples scatters about its expectation, the more the slower the sources are:
          an effective number of samples is T / 10 or less for EEG-like trials.
References  B. Blankertz et al., Optimizing spatial filters for robust EEG single-trial analysis, IEEE Signal Processing
            Magazine 25, 2008, 41 (the linear mixture).
"""

import math

import numpy as np
from scipy.linalg import expm

from sciml.datasets.series import LabelledTrials
from sciml.random import generator
from sciml.validation import check_number, check_option

__all__ = ["simulated_spd", "simulated_trials"]

# Hz: an EEG is commonly cut down to about this; the watch of sciml.datasets.watch_windows records at 50.
_RATES = {"eeg": 128.0, "slow": 128.0, "motion": 50.0}


def simulated_trials(
    n_trials=200,
    *,
    n_channels=6,
    n_times=256,
    n_classes=2,
    kind="eeg",
    separation=1.0,
    n_domains=1,
    shift=0.0,
    random_state=0,
):
    r"""Draw labelled trials of a mixture of sources, EEG-like or motion-like.

    Parameters
    ----------
    n_trials : int
        N; 200 by default. Classes and domains are as even as N allows, in random order.
    n_channels : int
        n; 6 by default. At least `n_classes` where `kind` is "eeg".
    n_times : int
        T; 256 by default.
    n_classes : int
        K, at least 2, the default; exactly 2 where `kind` is "slow".
    kind : {"eeg", "slow", "motion"}
        "eeg" (the default): 1/f noise from all sources; in class k source k oscillates at 10 Hz with
        :math:`e^{2 \mathrm{separation}}` times the power that it has in other classes. "slow": 1/f noise, and a trend
        along one direction whose sign is the class, so that both classes have the same covariance. "motion": a class is
        a frequency from 0.5 to 3 Hz with two harmonics along directions of its own, about a constant (gravity).
    separation : float
        Strength of what tells classes apart, dimensionless, at least 0; 1 by default. At 0 there is nothing to learn.
    n_domains : int
        Domains; 1 by default.
    shift : float
        delta, at least 0: how far the mixing of a domain is from the common one; 0 by default, 0.3 is a strong shift.
    random_state : None, int or numpy.random.Generator
        Seed; 0 by default.

    Returns
    -------
    LabelledTrials
        `X` (N, n, T), `groups` the domains from 0, and `truth` with "mixing" (D, n, n) and "covariances"
        (D, K, n, n), the expected second moment of a trial, averaged over its samples, without that of its constant.

    Raises
    ------
    InvalidInputError
        If a number is out of its range or the kind is unknown.

    References
    ----------
    B. Blankertz et al., IEEE Signal Processing Magazine 25, 2008, 41.

    Examples
    --------
    >>> from sciml.datasets import simulated_trials
    >>> trials = simulated_trials(60, n_domains=3, shift=0.3)
    >>> trials.X.shape, trials.groups.max(), trials.truth["covariances"].shape
    ((60, 6, 256), np.int64(2), (3, 2, 6, 6))
    """
    check_option("kind", kind, _RATES)
    n_trials = check_number("n_trials", n_trials, low=1, integer=True)
    K = check_number("n_classes", n_classes, low=2, high=2 if kind == "slow" else None, integer=True)
    n = check_number("n_channels", n_channels, low=K if kind == "eeg" else 1, integer=True)
    T = check_number("n_times", n_times, low=2, integer=True)
    n_domains = check_number("n_domains", n_domains, low=1, integer=True)
    separation = check_number("separation", separation, low=0)
    shift = check_number("shift", shift, low=0)
    rng = generator(random_state)

    mixing = _mixing(rng, n, n_domains, shift)
    order = rng.permutation(n_trials)
    y, groups = (order % K).astype(np.int64), (order // K % n_domains).astype(np.int64)
    draw = {"eeg": _eeg_sources, "slow": _slow_sources, "motion": _motion_sources}[kind]
    sources, Sigma = draw(rng, y, n, T, K, separation, _RATES[kind])
    return LabelledTrials(
        X=mixing[groups] @ sources,
        y=y,
        class_names=tuple(f"class {k}" for k in range(K)),
        groups=groups,
        sampling_rate=_RATES[kind],
        channels=tuple(f"ch{i}" for i in range(n)),
        truth={"mixing": mixing, "covariances": mixing[:, None] @ Sigma @ mixing[:, None].swapaxes(-1, -2)},
    )


def _mixing(rng, n, n_domains, shift):
    """Return one matrix a domain, of a condition that sources seen through a skull have: some tens."""
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    A = U * np.geomspace(5, 0.2, n) @ V
    return np.stack([expm(shift / math.sqrt(n) * G) @ A for G in rng.standard_normal((n_domains, n, n))])


def _noise(rng, shape, T, gain):
    """Return stationary noise of variance one; gain is the square root of its spectrum, at 2 T samples' frequencies."""
    white = rng.standard_normal((*shape, 2 * T))
    twice = np.concatenate([gain, gain[1:-1]])  # the bins of negative frequency
    gain = gain / math.sqrt(np.mean(twice**2))
    # Noise made by a Fourier transform is periodic: half the period is thrown away, so that a trial's ends do not meet.
    return np.fft.irfft(np.fft.rfft(white) * gain, 2 * T)[..., :T]


def _pink(frequencies):
    return 1 / np.sqrt(frequencies + 1)


def _eeg_sources(rng, y, n, T, K, separation, rate):
    frequencies = np.fft.rfftfreq(2 * T, 1 / rate)
    s = _noise(rng, (len(y), n), T, _pink(frequencies))
    peak = 1 / (1 + ((frequencies - 10) / 1.5) ** 2)
    s[:, :K] = _noise(rng, (len(y), K), T, peak + 0.3 * _pink(frequencies))
    power = np.ones((K, n))
    power[np.arange(K), np.arange(K)] = math.exp(2 * separation)
    return np.sqrt(power)[y][..., None] * s, power[:, :, None] * np.eye(n)


def _slow_sources(rng, y, n, T, K, separation, rate):
    s = _noise(rng, (len(y), n), T, _pink(np.fft.rfftfreq(2 * T, 1 / rate)))
    direction = rng.standard_normal(n)
    trend = np.outer(direction / np.linalg.norm(direction), np.linspace(-1, 1, T))
    size = separation * rng.gamma(4, 0.25, len(y))  # mean 1, second moment 1.25
    s += ((2 * y - 1) * size)[:, None, None] * trend
    extra = 1.25 * separation**2 * trend @ trend.T / T
    return s, np.broadcast_to(np.eye(n) + extra, (K, n, n))


def _motion_sources(rng, y, n, T, K, separation, rate):
    harmonics = np.arange(1, 4)
    common = np.geomspace(0.5, 3, K).prod() ** (1 / K)
    base = common * (np.geomspace(0.5, 3, K) / common) ** min(separation, 1.0)
    size = (2, K, n, len(harmonics))
    shared, own = rng.standard_normal(size), rng.standard_normal(size)
    shared[:] = shared[:, :1]
    a = (shared + separation * own) / math.hypot(1, separation) / harmonics
    a = a[0] + 1j * a[1]  # (K, n, 3): complex amplitudes
    constant = rng.standard_normal(n)
    pace = base[y] * np.exp(0.05 * rng.standard_normal(len(y)))
    strength = rng.gamma(16, 1 / 16, len(y))  # mean 1, second moment 17 / 16
    phase = 2 * math.pi * (rng.random(len(y))[:, None] + pace[:, None] * np.arange(T) / rate)
    wave = np.exp(1j * phase[:, None] * harmonics[:, None])  # (N, 3, T)
    s = strength[:, None, None] * np.real(a[y] @ wave) + constant[:, None]
    s += 0.3 * rng.standard_normal(s.shape)
    return s, 17 / 16 * 0.5 * np.real(a @ a.conj().swapaxes(-1, -2)) + 0.09 * np.eye(n)


def simulated_spd(
    n_matrices=200, *, n_features=5, n_classes=2, separation=1.0, degrees_of_freedom=20, condition=10.0, random_state=0
):
    r"""Draw exchangeable positive definite matrices of known classes.

    Classes are drawn first, independently and with equal probability; then, given the class, the matrix is Wishart.

    Parameters
    ----------
    n_matrices : int
        N; 200 by default.
    n_features : int
        n, rows and columns; 5 by default.
    n_classes : int
        K, at least 2, the default.
    separation : float
        Affine-invariant distance of a class centre from the common one, dimensionless, at least 0; 1 by default. At 0
        there is nothing to learn.
    degrees_of_freedom : int
        Of the Wishart distribution; 20 by default. Below n the matrices are singular, of this rank.
    condition : float
        Condition of the common centre, at least 1; 10 by default.
    random_state : None, int or numpy.random.Generator
        Seed; 0 by default.

    Returns
    -------
    LabelledTrials
        `X` (N, n, n), and `truth` with "centres" (K, n, n), the expectation of X in each class.

    Raises
    ------
    InvalidInputError
        If a number is out of its range.

    References
    ----------
    V. Vovk, A. Gammerman, G. Shafer, Algorithmic learning in a random world, 2005 (why exchangeable).

    Examples
    --------
    >>> from sciml.datasets import simulated_spd
    >>> spd = simulated_spd(100, n_features=4, n_classes=3)
    >>> spd.X.shape, bool(np.linalg.eigvalsh(spd.X).min() > 0), spd.truth["centres"].shape
    ((100, 4, 4), True, (3, 4, 4))
    """
    N = check_number("n_matrices", n_matrices, low=1, integer=True)
    n = check_number("n_features", n_features, low=1, integer=True)
    K = check_number("n_classes", n_classes, low=2, integer=True)
    dof = check_number("degrees_of_freedom", degrees_of_freedom, low=1, integer=True)
    separation = check_number("separation", separation, low=0)
    condition = check_number("condition", condition, low=1)
    rng = generator(random_state)

    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    root = Q * np.geomspace(1, condition**0.5, n)  # the common centre is root root'
    H = rng.standard_normal((K, n, n))
    H = H + H.swapaxes(-1, -2)
    H *= separation / np.linalg.norm(H, axis=(-2, -1), keepdims=True)
    halves = np.stack([root @ expm(h / 2) for h in H])
    y = rng.integers(K, size=N)
    Z = halves[y] @ rng.standard_normal((N, n, dof))
    X = Z @ Z.swapaxes(-1, -2) / dof
    return LabelledTrials(
        X=(X + X.swapaxes(-1, -2)) / 2,
        y=y.astype(np.int64),
        class_names=tuple(f"class {k}" for k in range(K)),
        truth={"centres": halves @ halves.swapaxes(-1, -2)},
    )
