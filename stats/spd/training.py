r"""Train a network on SPD matrices: AdamW, cosine schedule, clipped gradients, early stop on a validation split.

.. math:: \eta_k = \tfrac12 \eta (1 + \cos(\pi k / K)), \qquad \min_\theta \sum_i -\log p_\theta(y_i \mid X_i)

Notation  X samples; y labels 0 ... n_classes - 1; k step, K steps in all; eta learning rate.
Cost      an epoch is N/batch_size passes forward and backward.
Pitfalls  the epoch that is kept is chosen on a split of what was handed in, never on test data; with groups, whole
          groups are split off. Seeds come from one generator; no global seed is touched.
References I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101; R. Kobler et
          al., arXiv 2206.01323 for batches of several domains.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spd.batch_norm import SPDBatchNorm
from sciml.validation import check_number

__all__ = ["TrainingHistory", "fit_spdnet"]

_DOMAINS_A_BATCH = 5


@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """What training did, epoch by epoch.

    Parameters
    ----------
    train_loss, validation_loss : list of float
        Mean negative logarithm of the probability of the right class, in nats; the second is empty without a split.
    best_epoch : int
        Epoch whose parameters were kept, from 0.
    stopped_early : bool
        Whether the validation loss had not fallen for `patience` epochs.
    validation : list of int
        Rows that were split off.

    Examples
    --------
    >>> history = TrainingHistory(
    ...     train_loss=[0.5], validation_loss=[], best_epoch=0, stopped_early=False, validation=[]
    ... )
    >>> history.best_epoch
    0
    """

    train_loss: list
    validation_loss: list
    best_epoch: int
    stopped_early: bool
    validation: list


def fit_spdnet(
    net,
    X,
    y,
    *,
    domains=None,
    groups=None,
    n_epochs=100,
    batch_size=50,
    lr=5e-3,
    weight_decay=1e-4,
    clip=1.0,
    validation=0.2,
    patience=20,
    random_state=None,
    callback=None,
):
    """Train a network in place.

    Parameters
    ----------
    net : torch.nn.Module
        Such as :class:`~sciml.stats.spd.network.SPDNet`; called as ``net(X)``, or ``net(X, domain)`` with `domains`.
    X : torch.Tensor, shape (N, ...)
        Samples, in float64 by default; on the device of the network.
    y : torch.Tensor of int, shape (N,)
        Labels from 0.
    domains : torch.Tensor of int, shape (N,), or None
        Domain of each sample; each batch then holds up to five domains in equal parts.
    groups : array_like, shape (N,), or None
        Samples that may not be divided by the split; None (the default): any may.
    n_epochs : int
        Passes over the data; 100 by default. The schedule ends with the last.
    batch_size : int
        Samples a step; 50 by default.
    lr : float
        Learning rate at the start; 5e-3 by default.
    weight_decay : float
        Decay of the weights of linear layers; 1e-4 by default. Matrix parameters and biases have none.
    clip : float
        Largest norm of a gradient; 1 by default.
    validation : float
        Fraction split off to choose the epoch, stratified by class; 0.2 by default, 0 trains on all to the end.
    patience : int
        Epochs without a lower validation loss before training stops; 20 by default.
    random_state : None, int or numpy.random.Generator
        Split and order of the batches.
    callback : callable or None
        ``callback(epoch, train_loss, validation_loss)``; a true value stops.

    Returns
    -------
    TrainingHistory

    Raises
    ------
    InvalidInputError
        If lengths differ, an argument is out of range, or the loss is not finite.

    Notes
    -----
    Batch norms with ``center="momentum"`` get the schedule of their momenta: it ends ten epochs before training.

    References
    ----------
    I. Loshchilov, F. Hutter, arXiv 1711.05101.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.stats.spd.network import SPDNet
    >>> rng = np.random.default_rng(0)
    >>> y = torch.arange(40) % 2
    >>> X = torch.diag_embed(torch.from_numpy(np.exp(0.1 * rng.normal(size=(40, 3)))) * (1.0 + y)[:, None])
    >>> net = SPDNet((3, 2), 2, rng=rng)
    >>> history = fit_spdnet(net, X, y, n_epochs=15, random_state=0)
    >>> bool((net.eval()(X).argmax(1) == y).all())
    True
    """
    n_epochs = check_number("n_epochs", n_epochs, low=1, integer=True)
    batch_size = check_number("batch_size", batch_size, low=2, integer=True)
    lr = check_number("lr", lr, low=0, inclusive="neither")
    weight_decay = check_number("weight_decay", weight_decay, low=0)
    clip = check_number("clip", clip, low=0, inclusive="neither")
    validation = check_number("validation", validation, low=0, high=1, inclusive="low")
    patience = check_number("patience", patience, low=1, integer=True)
    for name, values in (("y", y), ("domains", domains), ("groups", groups)):
        if values is not None and len(values) != len(X):
            raise InvalidInputError(f"{name} must be as long as X, {len(X)}; got {len(values)}. Give one a sample.")
    rng = generator(random_state)
    train, held = _split(y, groups, validation, rng)
    optimizer = torch.optim.AdamW(_parameters(net, weight_decay), lr=lr)
    n_steps = n_epochs * len(_batches(train, domains, batch_size, copy.deepcopy(rng)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    losses, held_losses, best, best_state = [], [], 0, None
    stopped = False
    for epoch in range(n_epochs):
        _set_momenta(net, epoch, n_epochs, domains, batch_size)
        losses.append(_epoch(net, X, y, domains, _batches(train, domains, batch_size, rng), optimizer, schedule, clip))
        if len(held):
            held_losses.append(_loss(net, X, y, domains, held, batch_size))
            if best_state is None or held_losses[-1] < held_losses[best]:
                best, best_state = epoch, copy.deepcopy(net.state_dict())
            stopped = epoch - best >= patience
        else:
            best = epoch
        told = callback is not None and callback(epoch, losses[-1], held_losses[-1] if held_losses else None)
        if stopped or told:
            break
    if best_state is not None:
        net.load_state_dict(best_state)
    net.eval()
    return TrainingHistory(
        train_loss=losses, validation_loss=held_losses, best_epoch=best, stopped_early=stopped, validation=held.tolist()
    )


def _split(y, groups, fraction, rng):
    """Return rows to train on and rows to choose the epoch by: a part of every class, or whole groups."""
    labels = y.cpu().numpy()
    if fraction == 0:
        return np.arange(len(labels)), np.arange(0)
    if groups is not None:
        names = rng.permutation(np.unique(np.asarray(groups)))
        if len(names) < 2:
            raise InvalidInputError(
                f"groups must hold at least two groups to split one off; got {len(names)}. Pass validation=0."
            )
        n_held = min(max(1, round(fraction * len(names))), len(names) - 1)
        held = np.isin(np.asarray(groups), names[:n_held])
    else:
        held = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            held[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _batches(rows, domains, size, rng):
    """Return batches of rows of one epoch; with domains, of up to five domains in equal parts."""
    if domains is None:
        pieces, size_of = [rng.permutation(rows)], size
    else:
        names = domains.cpu().numpy()[rows]
        several = min(_DOMAINS_A_BATCH, len(np.unique(names)))
        size_of = max(2, size // several)
        pieces = [rng.permutation(rows[names == name]) for name in np.unique(names)]
    chunks = [piece[i : i + size_of] for piece in pieces for i in range(0, len(piece), size_of)]
    if domains is None:
        batches = chunks
    else:
        order = rng.permutation(len(chunks))
        step = max(1, size // size_of)
        batches = [np.concatenate([chunks[k] for k in order[i : i + step]]) for i in range(0, len(order), step)]
    if len(batches) > 1 and len(batches[-1]) == 1:  # a single sample has no dispersion
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _call(net, X, domains, rows):
    index = torch.as_tensor(rows, device=X.device)
    return net(X[index]) if domains is None else net(X[index], domains[index])


def _epoch(net, X, y, domains, batches, optimizer, schedule, clip):
    net.train()
    total = 0.0
    for rows in batches:
        loss = torch.nn.functional.cross_entropy(
            _call(net, X, domains, rows), y[torch.as_tensor(rows, device=y.device)]
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        if not bool(torch.isfinite(norm)):
            raise InvalidInputError(
                f"the loss or its gradient is not finite (loss {float(loss.detach()):g}): X may hold nearly singular "
                "matrices. Estimate covariances with shrinkage (shrink=1e-3), or lower lr."
            )
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(rows)
    return total / sum(map(len, batches))


@torch.no_grad()
def _loss(net, X, y, domains, rows, size):
    net.eval()
    logits = torch.cat([_call(net, X, domains, rows[i : i + size]) for i in range(0, len(rows), size)])
    return float(torch.nn.functional.cross_entropy(logits, y[torch.as_tensor(rows, device=y.device)]))


def _parameters(net, weight_decay):
    """Return two groups: the weights of linear layers, which decay, and all else, which does not."""
    linear = {id(module.weight) for module in net.modules() if isinstance(module, torch.nn.Linear)}
    decaying = [p for p in net.parameters() if id(p) in linear]
    others = [p for p in net.parameters() if id(p) not in linear]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _set_momenta(net, epoch, n_epochs, domains, batch_size):
    present = 1 if domains is None else min(_DOMAINS_A_BATCH, len(torch.unique(domains)))
    for module in net.modules():
        if isinstance(module, SPDBatchNorm):
            module.set_epoch(epoch + 1, max(2, n_epochs - 10), 1 / present)
