r"""Prune a network in place, with exact counts: by magnitude, within rows, or weighted by the inputs (Wanda).

.. math:: s_{ij} = |W_{ij}| \ \text{ or } \ |W_{ij}|\, \|x_j\|_2, \qquad
          M_{ij} = [\,s_{ij} \text{ not among the smallest}\,]

Notation  W (out, in) a weight, one row for each output; x_j values of input j over the calibration data; M mask, True
          where a weight is kept; r the share of zeros of a tensor.
Cost      a sort of each weight; Wanda one pass of the calibration data.
Pitfalls  masks are not remembered by the optimiser: apply them again after each step of a fine-tuning. Which ratios
          and which criterion are best is a question to the data: `compare_pruning` asks it.
References  M. Sun and others, A simple and effective pruning approach for large language models, 2023,
          arXiv 2306.11695.
          S. Han and others, Learning both weights and connections for efficient neural networks, 2015,
          arXiv 1506.02626.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.input_activity import input_norms
from sciml.stats.spectra.water_filling import exact_counts
from sciml.stats.spectra.weight_views import as_rows, from_rows, prunable_weights, resolve_names
from sciml.validation import check_number, check_option

__all__ = ["CRITERIA", "apply_masks", "prune"]

CRITERIA = ("magnitude", "row", "wanda")


def prune(model, ratios, *, criterion=None, calibration=None):
    """Set the least important weights of a network to zero, in place.

    Parameters
    ----------
    model : torch.nn.Module
        On any device; its mode, buffers and hooks are as before.
    ratios : float, dict of str to float, or SparsityPlan
        Share of zeros: one for every weight matrix but embeddings and heads, or by tensor (a key of the state dict, or
        the path of the module). The counts of a plan are followed as they are.
    criterion : {"magnitude", "row", "wanda"} or None
        "magnitude": the smallest of a tensor; "row": the smallest for every output, which has no dead outputs and was
        often the best of the plain ways; "wanda": the smallest products of a weight and the norm of its input, for
        every output. None, the default: that of `ratios`, if it is a plan, else "magnitude".
    calibration : tensor, tuple or dict of tensors, or iterable of those
        Inputs of the model, for "wanda": one batch, or batches. A tuple is the positional arguments of one call, a
        dict the named ones; a list holds batches, as does a loader. What a model takes no argument for, such as the
        labels of a loader, is left out.

    Returns
    -------
    dict of str to torch.Tensor
        Masks by tensor, of the shape and on the device of the weight; True where it is kept.

    Raises
    ------
    InvalidInputError
        If a ratio is not between 0 and 1, a name is unknown, a weight is not finite, or a layer saw no calibration.

    Notes
    -----
    The number of zeros over all tensors is exactly what the ratios ask for, rounded once, and shared by largest
    remainder. Ties are broken by index. Zeros that are there go first; where a row holds more than its share, they
    stay in addition. Tied weights are pruned once.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.pruning import prune
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.1, -3.0, 2.0, -0.2]])
    >>> prune(layer, 0.5)["weight"].tolist(), layer.weight.tolist()
    ([[False, True, True, False]], [[0.0, -3.0, 2.0, 0.0]])
    """
    criterion = getattr(ratios, "criterion", None) if criterion is None else criterion
    criterion = check_option("criterion", criterion or "magnitude", CRITERIA)
    chosen, counts = _counts(prunable_weights(model), ratios)
    for weight in chosen:
        bad = int((~torch.isfinite(weight.parameter)).sum())
        if bad:
            raise InvalidInputError(f"model must have finite weights; {weight.name} has {bad} that are not. Repair it.")
    norms = None
    if criterion == "wanda":
        norms = input_norms(model, calibration, chosen)
    # All masks first: an error leaves the model as it was.
    masks = {}
    for weight, count in zip(chosen, counts, strict=True):
        scores = as_rows(weight).abs()
        if norms is not None:
            # float32 at least: a half-precision product would turn small scores into ties at zero.
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * norms[weight.name]
        kept = _kept(scores, int(count)) if criterion == "magnitude" else _kept_in_rows(scores, int(count))
        masks[weight.name] = from_rows(weight, kept)
    apply_masks(model, masks)
    return masks


def apply_masks(model, masks):
    """Set to zero what masks leave out, in place; for use after each step of a fine-tuning.

    Parameters
    ----------
    model : torch.nn.Module
        The model that was pruned, or one of the same shapes.
    masks : dict of str to torch.Tensor
        From `prune`.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.pruning import apply_masks
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> apply_masks(layer, {"weight": torch.tensor([[False, True]])})
    >>> layer.weight[0, 0].item()
    0.0
    """
    weights = resolve_names(prunable_weights(model), list(masks), "masks")
    with torch.no_grad():
        for weight, mask in zip(weights, masks.values(), strict=True):
            if getattr(mask, "dtype", None) != torch.bool:
                raise InvalidInputError(
                    f"masks must be tensors of torch.bool; that of {weight.name} is "
                    f"{getattr(mask, 'dtype', type(mask).__name__)}. Pass those of prune."
                )
            if mask.shape != weight.parameter.shape:
                raise InvalidInputError(
                    f"masks must have the shapes of the weights; {weight.name} has {tuple(weight.parameter.shape)}, "
                    f"its mask {tuple(mask.shape)}. Prune this model."
                )
            # Not a product: that would leave -0.0.
            weight.parameter.masked_fill_(~mask.to(weight.parameter.device), 0)


def _counts(weights, ratios):
    """Return the weights to prune and how many zeros each gets."""
    if not weights:
        raise InvalidInputError("model must have weights of two or more axes; got none.")
    if not hasattr(ratios, "items"):
        ratio = check_number("ratios", ratios, low=0, high=1)
        chosen = [weight for weight in weights if not weight.embedding]
        if not chosen:
            raise InvalidInputError("model must have a weight that is no embedding; name what to prune in ratios.")
        return chosen, exact_counts([ratio] * len(chosen), [weight.parameter.numel() for weight in chosen])
    if not ratios:
        raise InvalidInputError("ratios must name at least one weight; got none.")
    chosen = resolve_names(weights, list(ratios))
    shares = [check_number(f"ratios[{name!r}]", ratio, low=0, high=1) for name, ratio in ratios.items()]
    sizes = [weight.parameter.numel() for weight in chosen]
    planned = getattr(ratios, "counts", None)
    if planned is not None and all(abs(planned[k] - r * d) <= 1 for k, r, d in zip(ratios, shares, sizes, strict=True)):
        return chosen, [planned[name] for name in ratios]
    return chosen, exact_counts(shares, sizes)


def _kept(scores, count):
    """Return where scores are not among the `count` smallest."""
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[torch.sort(scores.reshape(-1), stable=True).indices[:count]] = False
    return kept.reshape(scores.shape)


def _kept_in_rows(scores, count):
    """Return where scores are not among the smallest of their row; rows lose alike, to one."""
    rows, columns = scores.shape
    each, extra = divmod(count, rows)
    ordered, order = torch.sort(scores, dim=1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept.scatter_(1, order[:, :each], False)
    if extra:
        # The rows whose next weight is the least lose one more.
        further = torch.sort(ordered[:, each], stable=True).indices[:extra]
        kept[further, order[further, each]] = False
    return kept
