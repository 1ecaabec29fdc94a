"""The answer of :func:`classify_spd`: a classifier with calibrated probabilities, conformal sets and its own report."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

from sciml._config import config_context
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.results import Result, array, internal
from sciml.stats.spd.calibration import calibrated
from sciml.stats.spd.conformal import LabelSets, conformal_threshold
from sciml.stats.spd.distance_views import NearestMean, NearestNeighbours
from sciml.stats.spd.logistic import log_softmax
from sciml.stats.spd.trials import as_trials
from sciml.stats.spd.views import TangentView, view_from_settings
from sciml.validation import check_number

__all__ = ["FittedView", "SPDResult"]


@dataclass(eq=False)
class FittedView:
    """A view with all that it needs to judge new trials.

    Parameters
    ----------
    view : object
        The view.
    prepared : dict
        What makes its blocks.
    state : dict
        What makes features of blocks, or a classifier by distance.
    option : float
        Penalty C, temperature or number of neighbours.
    coef : ndarray, shape (m, k), or None
        Coefficients of features; None for classifiers by distance.
    intercept : ndarray, shape (k,), or None
        Intercepts.
    domains : dict
        The whitening of each domain, by name.
    """

    view: object
    prepared: dict
    state: dict
    option: float
    coef: np.ndarray | None
    intercept: np.ndarray | None
    domains: dict

    def proba(self, blocks, domains):
        """Return probabilities (N, k) of blocks."""
        if domains is not None:
            blocks = np.concatenate([blocks[:0]] + [self._recentred(blocks, domains)])
        if self.coef is None:
            return np.exp(self.view.log_proba(blocks, self.state, self.option))
        return np.exp(log_softmax(self.view.features(blocks, self.state) @ self.coef + self.intercept))

    def _recentred(self, blocks, domains):
        out = np.empty_like(blocks)
        for number, state in enumerate(self.domains.values()):
            rows = domains == number
            if rows.any():
                out[rows] = self.view.recentred(blocks[rows], state)
        return out


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SPDResult(Result):
    """A fitted classifier of trials or matrices.

    Parameters
    ----------
    classes : ndarray, shape (k,)
        Labels, sorted.
    cv_proba : ndarray, shape (N, k)
        Calibrated probabilities of the training trials from classifiers that have not seen them; penalty, mixture and
        calibration were chosen without them, too.
    cv_accuracy : float
        Share of training trials that `cv_proba` gets right.
    cv_balanced_accuracy : float
        Mean of that share over the classes.
    cv_log_loss : float
        Mean negative log-probability of the true class; natural logarithm.
    channels : list of str
        Names of the channels.
    report_data : dict
        What was tried and decided: the table of `cv_results`, sizes, notes.
    """

    classes: np.ndarray = array("class", help="labels")
    cv_proba: np.ndarray = array("trial", "class", help="out-of-fold probability")
    cv_accuracy: float = math.nan
    cv_balanced_accuracy: float = math.nan
    cv_log_loss: float = math.nan
    channels: list = field(default_factory=list)
    report_data: dict = field(default_factory=dict)
    _model: dict = internal(default=None)

    @property
    def classes_(self):
        """ndarray, shape (k,): `classes`, as scikit-learn calls them."""
        return self.classes

    @property
    def cv_results(self):
        """dict of ndarray: one row a view: "view", "option", "log_loss", "accuracy", "weight", "seconds"; best first.

        ``pandas.DataFrame(clf.cv_results)`` makes a table of it.
        """
        return {key: np.asarray(column) for key, column in self.report_data["table"].items()}

    @property
    def domains(self):
        """list: names of the domains whose statistics are known; empty without domains."""
        return list(self._model["views"][0].domains)

    def predict(self, X, *, domains=None):
        """Return the most probable labels.

        Parameters
        ----------
        X : array, list, DataArray or Trials
            Trials or matrices as in training.
        domains : array, shape (N,), or None
            Domain of each trial, where domains were given in training; one name for all is enough.

        Returns
        -------
        ndarray, shape (N,)
            Labels of `classes`.

        Raises
        ------
        InvalidInputError
            If X has other channels, or a domain has no statistics yet.
        """
        return self.classes[self._log_proba(X, domains).argmax(1)]

    def predict_proba(self, X, *, domains=None):
        """Return calibrated probabilities.

        Parameters
        ----------
        X : array, list, DataArray or Trials
            Trials or matrices as in training.
        domains : array, shape (N,), or None
            Domain of each trial, where domains were given in training.

        Returns
        -------
        ndarray, shape (N, k)
            Rows sum to one; columns as `classes`.

        Raises
        ------
        InvalidInputError
            If X has other channels, or a domain has no statistics yet.
        """
        return np.exp(self._log_proba(X, domains))

    def predict_set(self, X, alpha=0.1, *, domains=None, class_conditional=False):
        """Return sets of labels that hold the true one with probability 1 - alpha.

        Parameters
        ----------
        X : array, list, DataArray or Trials
            Trials or matrices as in training.
        alpha : float
            Share of misses that is accepted, between 0 and 1; 0.1 by default.
        domains : array, shape (N,), or None
            Domain of each trial, where domains were given in training.
        class_conditional : bool
            Keep the promise in each class by itself; False by default, since it asks for many trials of every class.

        Returns
        -------
        LabelSets
            A sequence of arrays of labels; ``numpy.asarray`` of it is the indicator matrix (N, k). Sets may be empty.

        Raises
        ------
        InvalidInputError
            If `alpha` is out of range, X has other channels, or a domain has no statistics yet.

        Notes
        -----
        See `conformal`: the promise is for trials exchangeable with the training trials, or, where groups were given,
        for trials of new groups like them.
        """
        alpha = check_number("alpha", alpha, low=0, high=1, inclusive="neither")
        codes, k = self._model["codes"], len(self.classes)
        scores = 1.0 - self.cv_proba[np.arange(len(codes)), codes]
        if class_conditional:
            thresholds = np.array([conformal_threshold(scores[codes == c], alpha) for c in range(k)])
        else:
            thresholds = np.full(k, conformal_threshold(scores, alpha))
        return LabelSets(1.0 - self.predict_proba(X, domains=domains) <= thresholds, self.classes)

    def score(self, X, y, *, domains=None):
        """Return the share of labels that are right.

        Parameters
        ----------
        X : array, list, DataArray or Trials
            Trials or matrices as in training.
        y : array, shape (N,)
            True labels.
        domains : array, shape (N,), or None
            Domain of each trial, where domains were given in training.

        Returns
        -------
        float

        Raises
        ------
        InvalidInputError
            If `y` has another length than X.
        """
        y, labels = np.asarray(y), self.predict(X, domains=domains)
        if y.shape != labels.shape:
            raise InvalidInputError(f"y must have one label for each of {len(labels)} trials; got shape {y.shape}.")
        return float((labels == y).mean())

    def adapt(self, X, domain):
        """Return a classifier that also knows a new domain, from its trials without labels.

        Parameters
        ----------
        X : array, list, DataArray or Trials
            Trials of the new domain; their classes should be mixed about as in training.
        domain : str or int
            Its name. A name that is known gets new statistics.

        Returns
        -------
        SPDResult
            This one stays as it is.

        Raises
        ------
        InvalidInputError
            If the classifier was fitted without domains.
        InvalidTypeError
            If `domain` is neither text nor number.
        """
        if not self.domains:
            raise InvalidInputError(
                f"domain {domain!r} cannot be added: the classifier was fitted without domains. "
                "Pass domains= to classify_spd."
            )
        (domain,), trials, views = names_of("domain", [domain], 1), self._trials(X), []
        for fitted, blocks in zip(self._model["views"], self._blocks(trials), strict=True):
            known = {**fitted.domains, domain: fitted.view.domain_state(blocks)}
            views.append(dataclasses.replace(fitted, domains=known))
        return dataclasses.replace(self, _model={**self._model, "views": views})

    def report(self):
        """Return what was found and how, in a few lines: a str."""
        data = self.report_data
        k = len(self.classes)
        counts = ", ".join(f"{c} ({n})" for c, n in zip(self.classes, data["counts"], strict=True))
        lines = [
            f"{type(self).__name__}: {data['n_trials']} trials, {k} classes, {data['what']}",
            f"  classes          {counts}",
            f"  accuracy         {self.cv_accuracy:.3f} (balanced {self.cv_balanced_accuracy:.3f})",
            f"  judged by        {data['judged_by']}",
            f"  log-loss         {self.cv_log_loss:.3f}; {math.log(k):.3f} would be knowing nothing",
            f"  calibration      {data['calibration']}",
            "  mixture",
        ]
        table = data["table"]
        rows = list(zip(*(table[key] for key in ("view", "log_loss", "accuracy", "weight")), strict=True))
        lines += [f"    {w:5.2f}  {v:<44} log-loss {a:.3f}, accuracy {b:.3f}" for v, a, b, w in rows if w > 0]
        rest = [row for row in rows if row[3] == 0][:5]
        if rest:
            lines.append("  best of the others")
            lines += [f"           {v:<44} log-loss {a:.3f}, accuracy {b:.3f}" for v, a, b, _ in rest]
        lines += [f"  note: {note}" for note in data["notes"]]
        return "\n".join(lines)

    def coords(self):
        """Return the labels as coordinates of the axis "class"."""
        return {"class": self.classes}

    def _trials(self, X):
        """Return new trials, scaled as in training."""
        model = self._model
        if model["kind"] == "series" and getattr(X, "kind", None) == "matrices":
            raise InvalidInputError("X must be series as in training; got matrices.")
        trials = as_trials(X, kind=model["kind"])
        if trials.n_channels != len(self.channels):
            what = "channels" if model["kind"] == "series" else "rows and columns of each matrix"
            raise InvalidInputError(
                f"X must have the {len(self.channels)} {what} of training; got {trials.n_channels}."
            )
        named = hasattr(X, "dims") or hasattr(X, "channels")
        if named and model["named"] and list(trials.channels) != self.channels and model["kind"] == "series":
            if sorted(trials.channels) != sorted(self.channels):
                strange = sorted(set(trials.channels) - set(self.channels))
                raise InvalidInputError(f"X must have the channels of training, {self.channels}; got also {strange}.")
            order = [trials.channels.index(name) for name in self.channels]
            trials = trials.map_series(lambda x: x[:, order], self.channels)
        return scaled(trials, model["scale"])

    def _blocks(self, trials):
        """Yield the blocks of each view; views of one source share them."""
        cache = {}
        for fitted in self._model["views"]:
            key = fitted.view.source
            if key not in cache or fitted.view.supervised:
                cache[key] = fitted.view.blocks(trials, fitted.prepared)
            yield cache[key]

    def _log_proba(self, X, domains):
        trials = self._trials(X)
        domains = self._domains(domains, len(trials))
        # Coefficients hold differences of large numbers: float64 whatever the configuration says.
        with config_context(dtype="float64"):
            P = self._mixture(trials, domains)
        return calibrated(np.log(np.maximum(P, np.finfo(float).tiny)), self._model["calibration"])

    def _mixture(self, trials, domains):
        """Return the mean of the views' probabilities, (N, k)."""
        model = self._model
        parts = zip(model["weights"], model["views"], self._blocks(trials), strict=True)
        return sum(weight * fitted.proba(blocks, domains) for weight, fitted, blocks in parts)

    def _domains(self, domains, n):
        """Return the number of each trial's domain among those known, or None."""
        known = self.domains
        if not known:
            if domains is not None:
                raise InvalidInputError("domains were not given in training. Pass domains= to classify_spd, too.")
            return None
        if domains is None:
            raise InvalidInputError(
                f"domains must name the domain of each trial, since the classifier was fitted with {known[:5]}. "
                'For a new one: clf = clf.adapt(X, "new"), then clf.predict(X, domains="new").'
            )
        names = names_of("domains", [domains] * n if np.ndim(domains) == 0 else domains, n)
        numbers = {name: number for number, name in enumerate(known)}
        for name in names:
            if name not in numbers:
                raise InvalidInputError(
                    f"domain {name!r} has no statistics; known are {known[:5]}. "
                    f"Take some of its trials without labels: clf = clf.adapt(X, {name!r})."
                )
        return np.array([numbers[name] for name in names])

    def _state(self):
        model, out, views = self._model, {}, []
        for i, fitted in enumerate(model["views"]):
            plain = {"settings": fitted.view.settings(), "option": fitted.option, "prepared": {}, "arrays": []}
            put = lambda key, value, i=i, plain=plain: (  # noqa: E731
                out.__setitem__(f"{i}.{key}", np.asarray(value)),
                plain["arrays"].append(key),
            )
            for key, value in fitted.prepared.items():
                if isinstance(value, np.ndarray):
                    put(f"prepared.{key}", value)
                else:
                    plain["prepared"][key] = value
            for key, value in fitted.state.items():
                put(f"state.{key}", value)
            if fitted.coef is not None:
                put("coef", fitted.coef)
                put("intercept", fitted.intercept)
            for j, state in enumerate(fitted.domains.values()):
                put(f"domain.{j}", state)
            views.append(plain)
        out |= {"views": views, "domains": self.domains, "kind": model["kind"], "named": model["named"]}
        for key in ("weights", "calibration", "codes", "scale"):
            out[key] = np.asarray(model[key])
        return out

    @classmethod
    def _restore(cls, fields, state):
        views = []
        for i, plain in enumerate(state["views"]):
            prepared, learned, domains, coef, intercept = dict(plain["prepared"]), {}, {}, None, None
            for key in plain["arrays"]:
                value, (kind, _, name) = state[f"{i}.{key}"], key.partition(".")
                if kind == "prepared":
                    prepared[name] = value
                elif kind == "state":
                    learned[name] = value
                elif kind == "domain":
                    domains[state["domains"][int(name)]] = value
                elif kind == "coef":
                    coef = value
                else:
                    intercept = value
            view = _view(plain["settings"])
            views.append(FittedView(view, prepared, learned, plain["option"], coef, intercept, domains))
        model = {key: state[key] for key in ("weights", "calibration", "codes", "scale", "kind", "named")}
        return cls(**fields, _model={**model, "views": views})


def _view(settings):
    kinds = {"mean": NearestMean, "neighbours": NearestNeighbours}
    if settings["view"] not in kinds:
        return view_from_settings(settings)
    base = view_from_settings({**settings, "view": "tangent"})
    assert isinstance(base, TangentView)
    return kinds[settings["view"]](base.descriptor, base.metric, base.theta)


def names_of(name, values, n):
    """Return the names of groups or domains of n trials as a list of str, int, float or bool."""
    values = values.values if hasattr(values, "dims") else values
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    # By way of objects, since an array of texts and numbers would make texts of all of them.
    values = np.asarray(values, dtype=object)
    if values.shape != (n,):
        raise InvalidInputError(f"{name} must have one name for each of {n} trials; got shape {values.shape}.")
    names = [value.item() if isinstance(value, np.generic) else value for value in values.tolist()]
    for i, value in enumerate(names):
        if not isinstance(value, (str, int, float)):
            raise InvalidTypeError(
                f"{name} must be texts or numbers; that of trial {i} is {value!r}. Name every trial's, with str(...)."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInputError(f"{name} must be finite; that of trial {i} is {value}. Name every trial's.")
    return names


def scaled(trials, scale):
    """Return trials whose channels are divided by `scale`, (n,); matrices as they are."""
    if trials.kind == "matrices":
        return trials
    return trials.map_series(lambda x: x / scale[:, None])
