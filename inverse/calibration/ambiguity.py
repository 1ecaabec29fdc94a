r"""What to do with what the data leave undetermined: name it, and keep it out of the answer.

Notation  gains (b, m), covariance (b, m, m), groups for each channel; null vectors (b, m, k) of inverse gains.
Pitfalls  gains of two groups without common information are each known up to a factor of their own: together they are
          no answer, so that only the largest group is kept. A standard deviation as large as a typical gain is no
          answer either.
"""

import math

import torch

_POOR = 0.25  # standard deviation over the size of the gains from which a small ratio of eigenvalues is believed

__all__ = ["describe_ambiguity", "phase_ramp", "ranges", "settle"]


def settle(answer, refined=True):
    """Return gains, standard deviations and what is identified, one group a channel.

    Parameters
    ----------
    answer : ChainAnswer
        With gains in a gauge of their own for each group.
    refined : bool
        Whether the gains are those of maximum likelihood, which the standard deviations are made for; True by default.
        Those of a poorer method may be too long to judge by, unless infinite.

    Returns
    -------
    gains : Tensor, shape (b, m)
        NaN where not identified relative to the largest group (the first of equal ones).
    covariance : Tensor, shape (b, m, m)
        Zero there.
    known : Tensor of bool, shape (b, m)
        Sensors with an answer.
    lost : Tensor of bool, shape (b, m)
        Sensors of the group whose standard deviation is as large as a typical gain.

    Examples
    --------
    >>> from sciml.inverse.calibration.chain import Chain, solve_chain
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> d = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1))
    >>> settle(solve_chain(problem, Chain()))[2]
    tensor([[True, True, True]])
    """
    estimate = answer.estimate
    known = torch.zeros_like(estimate.active)
    for channel, groups in enumerate(answer.groups):
        if groups:
            known[channel, max(groups, key=len)] = True
    # One sensor alone is a gain of one by definition, not by measurement.
    known = known & estimate.active & (known.sum(1) > 1)[:, None]
    gains = torch.where(known, estimate.gains, float("nan"))
    variance = torch.diagonal(estimate.covariance, dim1=-2, dim2=-1).real
    size = torch.where(known, gains.abs().square(), 0.0).sum(1) / known.sum(1).clamp_min(1)
    lost = known & ~(variance <= (size[:, None] if refined else 1e16 * size[:, None]))
    # Single sensors with little information keep their gain and its error; infinite variances are none.
    most = lost.sum(1) > known.sum(1) / 2
    lost = lost & (most[:, None] | ~torch.isfinite(variance))
    for channel in answer.overruled:
        known[channel], lost[channel] = estimate.active[channel], False
    gains = torch.where(known, estimate.gains, float("nan"))
    keep = known & ~lost
    keep = keep & (keep.sum(1) > 1)[:, None]
    covariance = torch.where(keep[..., :, None] & keep[..., None, :], estimate.covariance, 0)
    return torch.where(keep, gains, float("nan")), covariance, keep, lost


def describe_ambiguity(answer, known, lost, names, channel):
    """Return, in words, what the data of one channel leave undetermined; "" where it is nothing.

    Parameters
    ----------
    answer : ChainAnswer
        Of all channels.
    known, lost : Tensor of bool, shape (b, m)
        As `settle` returns them.
    names : list
        Of the sensors.
    channel : int
        Which one.

    Examples
    --------
    >>> ranges([0, 1, 2, 5], list("abcdef"))
    'a-c, f'
    """
    if channel in answer.overruled:
        return answer.overruled[channel]
    groups = answer.groups[channel]
    if len(groups) > 1:
        listed = " and ".join(ranges(group, names) for group in groups[:6])
        more = f" and {len(groups) - 6} more groups" if len(groups) > 6 else ""
        return (
            f"sensors {listed}{more} share no common information: their relative gain is undetermined, and only the "
            "first of the largest groups is answered for. Add signals, or a subspace of the gains, that connect them"
        )
    own, needed = (answer.signals_seen or {channel: (0, 0)})[channel]
    if own < needed and not bool(known[channel].any()):
        return (
            f"the snapshots are combinations of {own} signal{'' if own == 1 else 's'} above the noise, and {needed} "
            "are needed to tell the gains apart. Measure more different signals, or pass prior, s_basis or d_basis"
        )
    null, ratio = int(answer.null_dimension[channel]), float(answer.ratio[channel])
    undetermined = lost[channel].nonzero()[:, 0].tolist()
    variance = torch.diagonal(answer.estimate.covariance[channel]).real
    gains = torch.where(known[channel], answer.estimate.gains[channel], 0)
    typical = gains.abs().square().sum() / known[channel].sum().clamp_min(1)
    # A small ratio alone may be the noise of few data; gains that are well determined say so.
    poor = bool((known[channel] & ~(variance <= _POOR**2 * typical)).any()) or not bool(known[channel].any())
    if not undetermined and (null <= 1 or not poor):
        return ""
    told = f"the two smallest eigenvalues have the ratio {ratio:.3g}: {null} directions fit the data about as well"
    if null <= 1:
        told = "the information is too weak"
    ramp = phase_ramp(answer, channel) if null > 1 else None
    if ramp is not None:
        told += f", among them the gains times a phase that grows by {ramp:.3g} rad from sensor to sensor"
    if undetermined:
        told += f"; the gains of sensors {ranges(undetermined, names)} are undetermined"
    return told + ". Measure more different signals, or pass prior, s_basis or d_basis"


def phase_ramp(answer, channel):
    """Return the step in radians of a phase ramp that leaves the null space in place, or None.

    Parameters
    ----------
    answer : ChainAnswer
        With null vectors.
    channel : int
        Which one.

    Examples
    --------
    >>> from sciml.inverse.calibration.chain import Chain, solve_chain
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> d = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1))
    >>> phase_ramp(solve_chain(problem, Chain()), 0)
    """
    null = int(answer.null_dimension[channel])
    vectors = answer.null_vectors[channel][:, :null]
    m = len(vectors)
    if not vectors.is_complex() or vectors.shape[1] < 2 or m < 4:
        return None
    basis, _ = torch.linalg.qr(vectors)
    size = 16 * m
    # Some null vector times a ramp is a null vector: the largest singular value of U^H diag(exp(i phi k)) U is one.
    pairs = (basis.conj()[:, :, None] * basis[:, None, :]).reshape(m, -1)
    inside = (torch.fft.ifft(pairs, n=size, dim=0) * size).reshape(size, *[vectors.shape[1]] * 2)
    inside = torch.linalg.matrix_norm(inside, ord=2)
    phase = 2 * math.pi * torch.arange(size, device=inside.device) / size
    phase = torch.where(phase > math.pi, phase - 2 * math.pi, phase)
    inside = torch.where(phase.abs() >= math.pi / m, inside, 0.0)
    best = int(inside.argmax())
    return float(phase[best]) if float(inside[best]) > 0.98 else None


def ranges(numbers, names):
    """Return sensors as text, neighbours joined: "0-15, 20".

    Parameters
    ----------
    numbers : list of int
        Ascending.
    names : list
        Of all sensors.

    Examples
    --------
    >>> ranges([0, 1, 2, 7], range(8))
    '0-2, 7'
    """
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = [str(names[r[0]]) if len(r) == 1 else f"{names[r[0]]}-{names[r[-1]]}" for r in runs]
    return ", ".join(text[:12]) + (f" and {len(text) - 12} more" if len(text) > 12 else "")
