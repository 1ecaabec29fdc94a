"""The answer of `self_calibrate`: gains with their errors, signals, and what the data did not determine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.results import Result, array, internal

__all__ = ["CalibrationResult"]

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class CalibrationResult(Result):
    """Gains of an instrument; see `self_calibrate`. Leading axes "..." are those of the data.

    Parameters
    ----------
    dof : float or array, shape (...)
        Degrees of freedom of the noise: data minus unknowns; complex numbers for complex data.
    model : str
        "repeated", "diverse", "snapshots" or "covariance".
    method : str
        What was done.
    reason : str
        Why it was done.
    groups : list
        The groups of sensors that share information, a list of names or numbers each (for each channel, with leading
        axes). One group means that all gains are known up to one factor.
    unidentified : list
        Sensors without an answer: flagged, dead, or in a group other than the largest (for each channel).
    ambiguity : str
        What the data leave undetermined, in words; empty where it is nothing but the common factor.
    sensors : list
        Names of the sensors.
    gauge : str or list
        The choice of the common factor.
    channel_dims : list of str
        Names of the leading axes.
    report : dict
        Numbers of products, decisions, warnings.
    """

    gains: Array = array("...", "sensor", help="gains; NaN where unidentified")
    gains_std: Array = array("...", "sensor", help="standard deviation of the gains, root of E abs(error)^2")
    noise_std: Any = array(
        "...", units="data units over the root of the weights", help="standard deviation of the noise"
    )
    chi2_reduced: Any = array(
        "...", help="weighted misfit over degrees of freedom, where weights are inverse variances"
    )
    ambiguity_ratio: Any = array("...", help="ratio of the two smallest eigenvalues; near one the data are ambiguous")
    null_dimension: Any = array("...", help="directions that the data leave free, the common factor included")
    dof: Any = array("...", help="degrees of freedom of the noise")
    eigenvalues: Array = array("...", "pair", help="smallest eigenvalues: estimates of the noise variance if null")
    gains_within_groups: Array = array("...", "sensor", help="gains, each group in a gauge of its own")
    gains_cov: Array | None = array("...", "sensor", "sensor_2", help="covariance of the gains", optional=True)
    signals: Array | None = array("...", "unknown", help="signals", optional=True)
    sensor_noise_std: Array | None = array("...", "sensor", help="noise of each sensor, where learned", optional=True)
    model: str = ""
    method: str = ""
    reason: str = ""
    groups: list = field(default_factory=list)
    unidentified: list = field(default_factory=list)
    ambiguity: str = ""
    sensors: list = field(default_factory=list)
    gauge: Any = "norm"
    channel_dims: list = field(default_factory=list)
    report: dict = field(default_factory=dict)
    A: Any = internal(default=None)

    @property
    def inverse_gains(self):
        """What calibrates: one over the gains, NaN where unidentified."""
        return 1 / self.gains

    def calibrate(self, y):
        """Return the data divided by the gains; NaN for unidentified sensors.

        Parameters
        ----------
        y : array, shape (..., p, m) or (..., m)
            Data of the same sensors; with leading axes as those of the gains.

        Returns
        -------
        array, shape of y
            In the kind of `y`; for model "covariance" visibilities ``(..., m, m)`` are divided by both gains.

        Raises
        ------
        InvalidInputError
            If `y` has another number of sensors.
        """
        y = _sensors_last(y)
        (Y, s), leave = enter(y, _plain(self.gains), names=("y", "gains"), check_finite=False)
        m = s.shape[-1]
        if Y.ndim < 1 or Y.shape[-1] != m:
            raise InvalidInputError(
                f"y must have {m} sensors in its last axis; got shape {tuple(Y.shape)}. Transpose it."
            )
        if self.model == "covariance":
            return leave(Y / s[..., :, None] / s.conj()[..., None, :])
        return leave(Y / (s[..., None, :] if Y.ndim > s.ndim else s))

    def predict(self):
        """Return diag(d) A x, what the model says the data are: shape of the data.

        Raises
        ------
        InvalidInputError
            If the result was loaded and its operator could not be saved, or signals were not asked for.
        """
        if self.A is None or (self.signals is None and self.model != "covariance"):
            raise InvalidInputError(
                "predict needs the matrices and the signals; this result holds none (it was loaded without its "
                "operator, or learned from a stream). Multiply A @ signals by gains yourself."
            )
        gains = torch.as_tensor(_plain(self.gains))
        A = torch.as_tensor(_plain(self.A)) if isinstance(self.A, (np.ndarray, torch.Tensor)) else self.A
        if self.model == "covariance":
            out = gains[..., :, None] * A.to(gains) * gains.conj()[..., None, :]
        else:
            x = torch.as_tensor(_plain(self.signals))
            if not isinstance(A, torch.Tensor):
                seen = A(x)
            elif self.model == "snapshots":
                seen = x @ A.to(x).mT
            elif self.model == "diverse":
                seen = (A.to(x) @ x[..., None])[..., 0]
            else:
                seen = (A.to(x) @ x[..., None, :, None])[..., 0]
            out = gains[..., None, :] * seen
        return out if isinstance(self.gains, torch.Tensor) else out.numpy()

    def residuals(self, y):
        """Return the data minus the prediction, the shape of `y`.

        Parameters
        ----------
        y : array, shape (..., p, m)
            The data that were calibrated.

        Raises
        ------
        InvalidInputError
            If `y` has another shape than the prediction, or there is none; see `predict`.
        """
        y, predicted = _sensors_last(y), self.predict()
        if np.shape(y) != tuple(predicted.shape):
            raise InvalidInputError(
                f"y must have the shape of the data that were calibrated, {tuple(predicted.shape)}; got {np.shape(y)}. "
                "Pass these data."
            )
        return y - predicted

    def summary(self):
        """Return what there is to know, in a few lines: a str."""
        std, size = np.asarray(_plain(self.gains_std)), np.abs(np.asarray(_plain(self.gains)))
        known = np.isfinite(std) & np.isfinite(size)
        lines = [
            f"{type(self).__name__}: model {self.model!r}, method {self.method!r}",
            f"  because        {self.reason}",
            f"  gains          {int(known.sum())} of {known.size} identified, gauge {self.gauge!r}",
        ]
        if known.any():
            relative = float(np.sqrt((std[known] ** 2).mean()) / np.sqrt((size[known] ** 2).mean()))
            lines.append(f"  error          {relative:.2e} of the root mean square gain, by its own account")
            if std.ndim == 1:
                order = np.argsort(np.where(known, std / np.where(size > 0, size, 1), -1))[::-1][:5]
                worst = ", ".join(f"{self.sensors[i]}: {std[i] / size[i]:.1e}" for i in order if known[i])
                lines.append(f"  weakest        {worst} (relative)")
        lines.append(f"  noise_std      {_short(self.noise_std)}, reduced chi2 {_short(self.chi2_reduced)}")
        lines.append(
            f"  ambiguity      ratio {_short(self.ambiguity_ratio)}; {self.ambiguity or 'none but the factor'}"
        )
        if any(np.ravel(np.asarray(self.unidentified, dtype=object)).tolist()) or self.unidentified:
            lines.append(f"  unidentified   {self.unidentified}")
        return "\n".join(lines)

    def coords(self):
        """Return the names of the sensors as a coordinate."""
        return {"sensor": np.asarray(self.sensors)} if self.sensors else {}

    def batch_axes(self, count):
        """Return names for leading axes: those of the data, then "snapshot" for signals of several snapshots.

        Parameters
        ----------
        count : int
            How many.
        """
        lead = np.ndim(self.gains) - 1
        names = list(self.channel_dims) or [f"channel_{i}" if lead > 1 else "channel" for i in range(lead)]
        return tuple([*names, "snapshot"][:count])

    def _state(self):
        return {"A": self.A} if isinstance(self.A, (np.ndarray, torch.Tensor)) else {}

    @classmethod
    def _restore(cls, fields, state):
        return cls(**fields, A=state.get("A"))


def _plain(value):
    return value if isinstance(value, torch.Tensor) else np.asarray(value)


def _short(value):
    value = np.asarray(_plain(value), dtype=float)
    known = value[~np.isnan(value)]
    if value.ndim == 0 or not known.size:
        return f"{float(value):.3g}" if value.ndim == 0 else "nan"
    return f"{known.min():.3g} to {known.max():.3g}"


def _sensors_last(y):
    """Return named data with snapshots and sensors as the last axes, other data as they are."""
    if hasattr(y, "dims") and hasattr(y, "transpose") and "sensor" in y.dims:
        return y.transpose(..., *[name for name in ("snapshot", "sensor") if name in y.dims])
    return y
