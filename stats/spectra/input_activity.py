r"""Norms of the inputs of every weight over calibration data, by forward hooks.

.. math:: \|x_j\|_2 = \Big( \sum_{\text{calls, samples, positions}} x_j^2 \Big)^{1/2}

Notation  x_j the values that weight column j is multiplied by: a feature of a Linear, a channel at an offset of the
          kernel of a convolution, a hidden unit of a recurrent layer.
Cost      a forward pass; for convolutions one backward pass of the layer in addition; attention and recurrent layers
          run twice, since their inner inputs show nowhere.
Pitfalls  a module that is linear in its weight W, fed with x^2, has the derivative sum of x_j^2 with respect to W_ij:
          that gives padding, stride, dilation and groups as the module itself does them. The fused attention kernels of
          torch never call their parts, hence no hooks; they are switched off for the while.
References  M. Sun and others, A simple and effective pruning approach for large language models, 2023,
          arXiv 2306.11695.
"""

from __future__ import annotations

import contextlib
import inspect

import torch
from torch import nn

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.weight_views import as_rows, is_transposed_linear

__all__ = ["batches_of", "evaluating", "input_norms"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)


def input_norms(model, calibration, weights):
    """Return the norms of the inputs of weights.

    Parameters
    ----------
    model : torch.nn.Module
        Run in evaluation mode, without gradients; its mode is restored and no hook stays, also after an error.
    calibration : tensor, tuple or dict of tensors, or iterable of those
        As for `prune`.
    weights : list of PrunableWeight
        Of the model.

    Returns
    -------
    dict of str to torch.Tensor
        By name of the weight; shape (1, inputs), or (outputs, inputs) where outputs see different inputs, in the units
        of the inputs. Where nothing but zeros came in, zero.

    Raises
    ------
    InvalidInputError
        If there is no calibration, a layer was never called or is of a kind whose inputs are unknown, or the inputs are
        not finite.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.input_activity import input_norms
    >>> from sciml.stats.spectra.weight_views import prunable_weights
    >>> layer = torch.nn.Linear(2, 3)
    >>> input_norms(layer, torch.tensor([[3.0, 1.0], [4.0, 0.0]]), prunable_weights(layer))["weight"].tolist()
    [[5.0, 1.0]]
    """
    sums, owners = {}, {}
    for weight in weights:
        # A tied weight gathers the inputs of all its places.
        for module, attribute in _places(model, weight):
            owners.setdefault(id(module), (module, []))[1].append((attribute, weight))

    def hook(module, args, kwargs, output):
        for attribute, weight in owners[id(module)][1]:
            squares = _squares(module, attribute, weight, args, kwargs, output)
            sums[weight.name] = sums[weight.name] + squares if weight.name in sums else squares

    n_batches, accepted = 0, _positional(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for module, _ in owners.values():
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for args, kwargs in batches_of(calibration, _device(model)):
            model(*args[:accepted], **kwargs)
            n_batches += 1
    if not n_batches:
        raise InvalidInputError("calibration must hold at least one batch; got none. Pass inputs of the model.")
    unseen = [weight.name for weight in weights if weight.name not in sums]
    if unseen:
        raise InvalidInputError(
            f"calibration must reach every layer that is pruned; {', '.join(unseen)} saw none of it. Leave these "
            "out of ratios, or use criterion='row'."
        )
    norms = {name: values.sqrt() for name, values in sums.items()}
    bad = [name for name, values in norms.items() if not torch.isfinite(values).all()]
    if bad:
        raise InvalidInputError(
            f"calibration must give finite inputs; those of {', '.join(bad)} are not. Repair the data."
        )
    return norms


@contextlib.contextmanager
def evaluating(model):
    """Put a model into evaluation mode without gradients for a while; every module gets its own mode back.

    Parameters
    ----------
    model : torch.nn.Module
        Any.

    Yields
    ------
    torch.nn.Module
        `model`.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.input_activity import evaluating
    >>> model = torch.nn.Dropout()
    >>> with evaluating(model):
    ...     print(model.training)
    False
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        # One by one: frozen parts of a model in training mode are in evaluation mode.
        for module, mode in modes:
            module.training = mode


def batches_of(calibration, device=None):
    """Yield the arguments of every call that calibration data stand for.

    Parameters
    ----------
    calibration : tensor, tuple or dict of tensors, or iterable of those
        A tensor is one batch; a tuple the positional arguments of one call; a dict its named ones; anything else is a
        collection of batches.
    device : torch.device or None
        Where to move tensors; None, the default: nowhere.

    Yields
    ------
    args : tuple
        Positional arguments.
    kwargs : dict
        Named ones.

    Raises
    ------
    InvalidInputError
        If it is none of these.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.input_activity import batches_of
    >>> [len(args) for args, _ in batches_of([torch.zeros(2), (torch.zeros(2), torch.ones(2))])]
    [1, 2]
    """
    single = isinstance(calibration, (torch.Tensor, tuple)) or hasattr(calibration, "keys")
    if calibration is None or (not single and not hasattr(calibration, "__iter__")):
        raise InvalidInputError(
            "calibration must be a batch of inputs, or batches, for criterion 'wanda'; got "
            f"{type(calibration).__name__}."
        )
    for batch in [calibration] if single else calibration:
        if hasattr(batch, "keys"):
            yield (), {key: _moved(batch[key], device) for key in batch.keys()}  # noqa: SIM118
        elif isinstance(batch, (tuple, list)):
            yield tuple(_moved(part, device) for part in batch), {}
        else:
            yield (_moved(batch, device),), {}


def _positional(model):
    """Return how many positional arguments a model takes: a loader gives labels, too, which it does not want."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _moved(value, device):
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(value) if hasattr(value, "__array__") else value
    return value.to(device) if isinstance(value, torch.Tensor) and device is not None else value


def _device(model):
    return next((parameter.device for parameter in model.parameters()), None)


def _places(model, weight):
    """Return every (module, attribute) whose parameter is this one."""
    return [
        (weight.layer, weight.role) if module is weight.module else (module, attribute)
        for module in model.modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if parameter is weight.parameter
    ] + _inner_places(model, weight)


def _inner_places(model, weight):
    """The output projection of attention is read by its owner, never called."""
    return [
        (module, "out_proj.weight")
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention) and module.out_proj.weight is weight.parameter
    ]


def _squares(module, attribute, weight, args, kwargs, output):
    """Return sums of squares of the inputs of a weight, shape (1 or outputs, inputs)."""
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, attribute, args, kwargs)
    x = args[0] if args else next(iter(kwargs.values()))
    if isinstance(module, nn.RNNBase):
        return _recurrent(module, attribute, x, args, kwargs)
    if isinstance(module, nn.Linear) or is_transposed_linear(module):
        return _sum_squares(x)
    if isinstance(module, _CONVOLUTIONS):
        return as_rows(weight, _by_derivative(module, x))
    raise InvalidInputError(
        f"ratios must name layers whose inputs are known for criterion 'wanda'; {weight.name} belongs to a "
        f"{type(module).__name__}. Leave it out, or use criterion='row'."
    )


def _sum_squares(x):
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    return (wide * wide.conj()).real.reshape(-1, wide.shape[-1]).sum(0)[None]


def _by_derivative(module, x):
    """Return, for every weight of a convolution, the sum of squares of what it was multiplied by."""
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32)).square()
    zero = torch.zeros_like(module.weight, dtype=wide.dtype, requires_grad=True)
    parameters = {"weight": zero}
    if module.bias is not None:
        parameters["bias"] = torch.zeros_like(module.bias, dtype=wide.dtype)
    with torch.enable_grad():
        # The class's own forward: the module's hooks must not run again.
        total = torch.func.functional_call(_bare(module), parameters, (wide,)).sum()
        return torch.autograd.grad(total, zero)[0]


def _bare(module):
    """Return a shallow copy of a module without hooks and parametrisations."""
    parametrised = nn.utils.parametrize.is_parametrized(module)
    kind = type(module).__bases__[0] if parametrised else type(module)
    copy = kind.__new__(kind)
    copy.__dict__ = {**module.__dict__}
    copy._parameters = dict(module._parameters)
    if "weight" not in copy._parameters and hasattr(module, "weight"):
        # A weight norm leaves no parameter of this name.
        copy.__dict__.pop("weight", None)
        copy._parameters["weight"] = module.weight
        copy._modules = {key: value for key, value in module._modules.items() if key != "parametrizations"}
    for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        if name in copy.__dict__:
            setattr(copy, name, type(module.__dict__[name])())
    return copy


def _attention(module, attribute, args, kwargs):
    names = ("query", "key", "value")
    given = {**dict(zip(names, args, strict=False)), **{key: kwargs[key] for key in names if key in kwargs}}
    if attribute == "out_proj.weight":
        width = module.out_proj.weight.shape[1]
        bare = _bare(module)
        bare._modules = {**module._modules, "out_proj": nn.Identity()}
        bare.out_proj.weight = torch.eye(
            width, device=module.out_proj.weight.device, dtype=module.out_proj.weight.dtype
        )
        bare.out_proj.bias = None
        return _sum_squares(bare(*args, **kwargs)[0])
    if attribute == "in_proj_weight":
        parts = [_sum_squares(given[name]) for name in names]
        return torch.cat([part.expand(module.embed_dim, -1) for part in parts])
    return _sum_squares(given[{"q": "query", "k": "key", "v": "value"}[attribute[0]]])


def _recurrent(module, attribute, x, args, kwargs):
    """Return sums of squares for one layer and direction of a recurrent module, run layer by layer."""
    state = args[1] if len(args) > 1 else kwargs.get("hx")
    if state is not None or not isinstance(x, torch.Tensor) or module.proj_size:
        raise InvalidInputError(
            "calibration must start recurrent layers at zero, with plain tensors and without projections, for "
            "criterion 'wanda'. Use criterion='row' for this one."
        )
    kind, _, place = attribute.partition("_l")
    backward = place.endswith("_reverse")
    layer = int(place.removesuffix("_reverse"))
    directions = 2 if module.bidirectional else 1
    for k in range(layer + 1):
        single = type(module)(
            x.shape[-1],
            module.hidden_size,
            bias=module.bias,
            batch_first=module.batch_first,
            bidirectional=module.bidirectional,
            **({"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}),
        ).to(x)
        for name, _ in list(single.named_parameters()):
            setattr(single, name, nn.Parameter(getattr(module, name.replace("_l0", f"_l{k}")).detach()))
        if k < layer:
            x = single(x)[0]
    if kind == "weight_ih":
        return _sum_squares(x)
    out = single(x)[0].unflatten(-1, (directions, module.hidden_size))[..., int(backward), :]
    time = 0 if out.ndim == 2 or not module.batch_first else 1
    # The state that a step starts from: that of the step before, and zero at the first.
    steps = out.shape[time] - 1
    return _sum_squares(out.narrow(time, 1 if backward else 0, steps))
