r"""Layer-wise learning rates as a torch scheduler: a global schedule, times a factor for each layer.

.. math:: \eta_{l, t} = \eta_t\, f_l(\alpha_1, \dots, \alpha_n)

Notation  eta_t global rate of a parameter group at step t, from the base scheduler; f_l factor of layer l, from the
          exponents alpha of all tuned layers.
Cost      a diagnosis every `every` steps; `max_fraction` bounds its share of the time.
Pitfalls  many schedulers compute a rate from the last one. If that holds a layer's factor, factors compound: the base
          scheduler here sees its own groups, whose rates never held one. At initialisation all layers are noise, and
          their differences mean nothing: the first factors come after `every` steps, unless `initial` asks for them.
References  Y. Zhou and others, Temperature balancing, layer-wise weight analysis, and neural network training, 2023,
          arXiv 2312.00359. Y. Hu and others, Eigenspectrum analysis of neural networks without aspect ratio bias, 2025,
          arXiv 2506.06280.
"""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.stats.spectra.exponents import model_exponents
from sciml.stats.spectra.group_options import copied, set_option, split_groups
from sciml.stats.spectra.layer_groups import excluded_layers, param_groups
from sciml.stats.spectra.learning_rates import rate_factors
from sciml.stats.spectra.weight_views import prunable_weights
from sciml.validation import check_number

__all__ = ["LayerwiseLR", "param_groups"]


class LayerwiseLR(LRScheduler):
    """Multiply the rates of a base scheduler by a factor for each layer, from the exponents of its weights [1]_.

    Call :meth:`step` where the base scheduler would be stepped, and not the base scheduler itself. Parameters that
    follow no layer, embeddings, and layers without an exponent keep the global rate.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of any kind. Groups that hold several layers are split in place, with their options; `param_groups` makes
        groups that need no splitting.
    model : torch.nn.Module
        Whose parameters they are.
    base_scheduler : LRScheduler, ReduceLROnPlateau or None
        Made on the same optimiser; gives the global rates. None, the default: the rates of the groups, and any set by
        hand before a step are taken as the new global ones.
    every : int
        Steps between diagnoses; 1 by default, for a step an epoch.
    rule, s, tau, shrink
        As for `assign_lr`.
    metric : str
        Exponent; "alpha_farms" by default, which does not depend on the shapes of the layers.
    max_fraction : float or None
        Largest share of the time between two diagnoses that a diagnosis may take: the interval is stretched until it
        holds. None, the default: no bound, and rates that do not depend on a clock.
    exclude : sequence of str
        Layers that are not tuned: names, "first", "last"; none by default.
    initial : bool
        Whether to diagnose at once, for a network that is trained already; False by default.

    Raises
    ------
    InvalidTypeError
        If an argument is of a kind that cannot be used.
    InvalidInputError
        If the base scheduler has another optimiser, no layer is in the optimiser, or an argument is out of its range.

    Notes
    -----
    To resume, make model, optimiser, base scheduler and this one as at the start, then load the states of the
    optimiser and of this one (which holds the base scheduler's): rates and the course of the schedule are
    bit-identical, without a diagnosis. With `max_fraction` the course depends on the clock.

    References
    ----------
    .. [1] Y. Zhou and others, Temperature balancing, 2023, arXiv 2312.00359.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.scheduler import LayerwiseLR, param_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32))
    >>> model[0].weight.data = torch.diag(torch.arange(1.0, 33.0))
    >>> model[2].weight.data = torch.diag(torch.arange(1.0, 33.0) ** 2)
    >>> optimizer = torch.optim.SGD(param_groups(model, 0.1))
    >>> cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    >>> scheduler = LayerwiseLR(optimizer, model, cosine, metric="alpha", initial=True)
    >>> [round(rate, 3) for rate in scheduler.get_last_lr()]
    [0.15, 0.05]
    """

    def __init__(
        self,
        optimizer,
        model,
        base_scheduler=None,
        *,
        every=1,
        rule="linear",
        s=(0.5, 1.5),
        metric="alpha_farms",
        tau=10.0,
        shrink=False,
        max_fraction=None,
        exclude=(),
        initial=False,
    ):
        # The base class's constructor is not called: it would step, and keep rates that hold factors as its own.
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidTypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}.")
        if base_scheduler is not None and not isinstance(base_scheduler, (LRScheduler, ReduceLROnPlateau)):
            raise InvalidTypeError(
                f"base_scheduler must be a torch scheduler or None; got {type(base_scheduler).__name__}."
            )
        if base_scheduler is not None and base_scheduler.optimizer is not optimizer:
            raise InvalidInputError("base_scheduler must act on optimizer; got one with another. Make it on this one.")
        self.optimizer, self.model, self.base_scheduler = optimizer, model, base_scheduler
        self.every = check_number("every", every, low=1, integer=True)
        self.max_fraction = (
            None if max_fraction is None else check_number("max_fraction", max_fraction, low=0, inclusive="neither")
        )
        self.metric = metric
        self._rule = {"rule": rule, "s": s, "tau": tau}
        self._shrink = bool(shrink)
        rate_factors([2.0, 3.0], **self._rule)  # refuses what is wrong now, not after an epoch

        left_out = excluded_layers(model, exclude)
        self._base_groups, self._places = split_groups(optimizer, model, left_out)
        tuned = {layer for _, layer in self._places if layer}
        self._layers = [w.name for w in prunable_weights(model) if w.name in tuned and not w.embedding]
        if not self._layers:
            raise InvalidInputError(
                "optimizer must hold a weight matrix of model that is tuned; got none. Make it of "
                "param_groups(model, lr)."
            )
        self.factors, self.alphas = {}, {}
        self.last_epoch, self._step_count = 0, 1
        self._since, self._n_estimates, self._n_deferred = 0, 0, 0
        self._cost, self._seconds_estimating, self._seconds_training, self._seconds_since = 0.0, 0.0, 0.0, 0.0
        self._last_interval = None
        if initial:
            self._estimate()
        self._write()
        self._mark = time.perf_counter()

    @property
    def base_lrs(self):
        """The global rate of each group, in the order of the optimiser's groups."""
        return [float(self._base_groups[k]["lr"]) for k, _ in self._places]

    def step(self, metrics=None):
        """Step the base scheduler, diagnose if it is time, and set the rates.

        Parameters
        ----------
        metrics : float or None
            What a ReduceLROnPlateau watches; None, the default, and without effect for other base schedulers.

        Raises
        ------
        InvalidInputError
            If a ReduceLROnPlateau gets no metrics, or groups were added to the optimiser.

        Warns
        -----
        FallbackWarning
            If weights are not finite: the factors stay as they are. If `shrink` finds no standard error: they are 1.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR, param_groups
        >>> model = torch.nn.Linear(20, 20)
        >>> optimizer = torch.optim.SGD(param_groups(model, 0.5))
        >>> scheduler = LayerwiseLR(optimizer, model, every=10)
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.5]
        """
        elapsed = time.perf_counter() - self._mark
        self._seconds_training += elapsed
        self._seconds_since += elapsed
        self._step_base(metrics)
        self.last_epoch += 1
        self._step_count += 1
        self._since += 1
        if self._since >= self.every:
            if self.max_fraction is None or self._cost <= self.max_fraction * self._seconds_since:
                self._estimate()
            else:
                self._n_deferred += 1
        self._write()
        self._mark = time.perf_counter()

    def get_lr(self):
        """Return the rate of each group: the global one times the layer's factor.

        Returns
        -------
        list of float

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR
        >>> model = torch.nn.Linear(20, 20)
        >>> LayerwiseLR(torch.optim.SGD(model.parameters(), 0.5), model).get_lr()
        [0.5]
        """
        pairs = zip(self.base_lrs, self._places, strict=True)
        return [rate * self.factors.get(layer, 1.0) for rate, (_, layer) in pairs]

    def get_last_lr(self):
        """Return the rates that were set last, one for each group of the optimiser.

        Returns
        -------
        list of float

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR
        >>> model = torch.nn.Linear(20, 20)
        >>> LayerwiseLR(torch.optim.SGD(model.parameters(), 0.5), model).get_last_lr()
        [0.5]
        """
        return list(self._last_lr)

    def report(self):
        """Return what was done and what it cost.

        Returns
        -------
        dict
            ``n_steps``; ``n_estimates`` diagnoses; ``n_deferred`` steps at which one was due and put off by
            `max_fraction`; ``every`` and ``interval``, the steps between diagnoses as asked for and as last done (None
            before the second); ``seconds_estimating`` and ``seconds_training`` (wall time); ``fraction``, their ratio;
            ``layers``: by layer, ``alpha`` and ``factor``; ``untuned``: layers without an exponent at the last
            diagnosis.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR
        >>> model = torch.nn.Linear(20, 20)
        >>> report = LayerwiseLR(torch.optim.SGD(model.parameters(), 0.5), model).report()
        >>> report["n_estimates"], report["layers"]
        (0, {'weight': {'alpha': nan, 'factor': 1.0}})
        """
        training = self._seconds_training
        return {
            "n_steps": self.last_epoch,
            "n_estimates": self._n_estimates,
            "n_deferred": self._n_deferred,
            "every": self.every,
            "interval": self._last_interval,
            "seconds_estimating": self._seconds_estimating,
            "seconds_training": training,
            "fraction": self._seconds_estimating / training if training > 0 else 0.0,
            "layers": {
                name: {"alpha": self.alphas.get(name, math.nan), "factor": self.factors.get(name, 1.0)}
                for name in self._layers
            },
            "untuned": [name for name in self._layers if self._n_estimates and name not in self.factors],
        }

    def state_dict(self):
        """Return all that is needed to go on, as numbers, texts, lists and dicts.

        Returns
        -------
        dict
            Which ``torch.load`` reads with ``weights_only=True``; the base scheduler's state is part of it.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR
        >>> model = torch.nn.Linear(20, 20)
        >>> LayerwiseLR(torch.optim.SGD(model.parameters(), 0.5), model).state_dict()["last_epoch"]
        0
        """
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self._base_groups]
        return {
            "last_epoch": self.last_epoch,
            "factors": dict(self.factors),
            "alphas": dict(self.alphas),
            "layers": list(self._layers),
            "groups": groups,
            "base": None if self.base_scheduler is None else self.base_scheduler.state_dict(),
            "counters": {key: getattr(self, key) for key in _COUNTERS},
        }

    def load_state_dict(self, state_dict):
        """Go on from a state, and set its rates.

        Parameters
        ----------
        state_dict : dict
            From :meth:`state_dict` of a scheduler of the same model and the same kind of base scheduler.

        Raises
        ------
        InvalidInputError
            If it is of another model or another kind of base scheduler.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.scheduler import LayerwiseLR
        >>> model = torch.nn.Linear(20, 20)
        >>> scheduler = LayerwiseLR(torch.optim.SGD(model.parameters(), 0.5), model)
        >>> state = scheduler.state_dict()
        >>> scheduler.step()
        >>> scheduler.load_state_dict(state)
        >>> scheduler.last_epoch
        0
        """
        groups, base = state_dict.get("groups", ()), state_dict.get("base")
        if state_dict.get("layers") != self._layers or len(groups) != len(self._base_groups):
            raise InvalidInputError(
                f"state_dict must be of a scheduler of this model; it has the layers {state_dict.get('layers')} in "
                f"{len(groups)} groups, not {self._layers} in {len(self._base_groups)}."
            )
        if (base is None) != (self.base_scheduler is None):
            raise InvalidInputError("state_dict must come with the same kind of base_scheduler; one of them has none.")
        for group, saved in zip(self._base_groups, groups, strict=True):
            group.update({key: copied(value) for key, value in saved.items()})
        if base is not None:
            self.base_scheduler.load_state_dict(base)
        self.factors, self.alphas = dict(state_dict["factors"]), dict(state_dict["alphas"])
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        for key in _COUNTERS:
            setattr(self, key, state_dict["counters"][key])
        self._write()
        self._mark = time.perf_counter()

    def _step_base(self, metrics):
        groups = self.optimizer.param_groups
        if len(groups) != len(self._places):
            raise InvalidInputError(
                f"optimizer must keep its {len(self._places)} groups; it has {len(groups)} now. Make a new scheduler."
            )
        if self.base_scheduler is None:
            for group, (k, _), last in zip(groups, self._places, self._last_lr, strict=True):
                if float(group["lr"]) != last:  # set by hand since: the new global rate
                    set_option(self._base_groups[k], "lr", float(group["lr"]))
            return
        watches = isinstance(self.base_scheduler, ReduceLROnPlateau)
        if watches and metrics is None:
            raise InvalidInputError("metrics must be the number that ReduceLROnPlateau watches; got None.")
        before = [dict(group) for group in self._base_groups]
        try:
            # The base scheduler sees the groups it was made with, whose rates never held a factor.
            self.optimizer.param_groups = self._base_groups
            self.base_scheduler.step(metrics) if watches else self.base_scheduler.step()
        finally:
            self.optimizer.param_groups = groups
        for group, (k, _) in zip(groups, self._places, strict=True):
            for key, value in self._base_groups[k].items():
                # A cyclic schedule moves the momentum, too.
                if key not in ("params", "lr", "layer") and value is not before[k].get(key):
                    group[key] = copied(value)

    def _estimate(self):
        """Diagnose and set new factors, unless weights are not finite."""
        start = time.perf_counter()
        weights = {w.name: w.parameter for w in prunable_weights(self.model)}
        bad = [name for name in self._layers if not bool(torch.isfinite(weights[name]).all())]
        if bad:
            warnings.warn(
                f"model has weights that are not finite in {', '.join(bad)}: the layer-wise factors stay as they are.",
                FallbackWarning,
                stacklevel=3,
            )
        else:
            self._adopt(model_exponents(self.model, self._layers, self.metric))
        self._cost = time.perf_counter() - start
        self._seconds_estimating += self._cost
        self._last_interval = self._since if self._n_estimates else None
        self._n_estimates += 1
        self._since, self._seconds_since = 0, 0.0

    def _adopt(self, table):
        wanted = set(self._layers)
        used = [i for i, name in enumerate(table.names) if name in wanted and np.isfinite(table.alpha[i])]
        alpha = table.alpha[used]
        se = table.se[used] if self._shrink and table.se is not None else None
        if self._shrink and (se is None or not np.isfinite(se).any()):
            warnings.warn(
                "no layer has a standard error, as with one window each: under shrink=True all keep the global rate.",
                FallbackWarning,
                stacklevel=4,
            )
            factors = np.ones(len(alpha))
        else:
            factors = rate_factors(alpha, **self._rule, se=se)
        names = [table.names[i] for i in used]
        self.alphas = dict(zip(names, alpha.tolist(), strict=True))
        self.factors = dict(zip(names, factors.tolist(), strict=True))

    def _write(self):
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_option(group, "lr", rate)
        # Read back: a rate that is a tensor may be of shorter precision.
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]


_COUNTERS = (
    "_since",
    "_n_estimates",
    "_n_deferred",
    "_cost",
    "_seconds_estimating",
    "_seconds_training",
    "_seconds_since",
    "_last_interval",
)
