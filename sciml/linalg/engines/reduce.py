"""Reductions that torch can differentiate, by the tiles of their derivatives."""

import time

import torch

from sciml._trace import record, tracing
from sciml.linalg.engines.tile import DerivativeTile


class Plan:
    """How a reduction and its derivatives are computed.

    Parameters
    ----------
    name : str
        The operation, for traces and messages.
    choose : callable
        ``choose(tile, rows, cols, params)`` gives the engines. It is asked again for derivatives where the choice was
        left open: they are more work a pair, so that compiling pays earlier.
    """

    def __init__(self, name, choose):
        self.name, self.choose, self.first = name, choose, None

    def _choice(self, tile, rows, cols, params):
        if self.first is None:
            self.first = self.choose(tile, rows, cols, params)
        again = tile.order > 0 and self.first.engine == "auto"
        return self.choose(tile, rows, cols, params) if again else self.first

    def run(self, tile, rows, cols, params):
        """Return the outputs, and tell the open traces."""
        m, n, d = rows[0].shape[0], cols[0].shape[0], rows[0].shape[1]
        name = self.name + " derivative" * tile.order
        start = time.perf_counter()
        choice = self._choice(tile, rows, cols, params)
        outputs, engine, reason = choice.run(tile, rows, cols, params, f"{name} of {m} x {n} pairs")
        if tracing():
            from sciml.linalg.engines.choose import MODULES

            need = MODULES[engine].peak(tile, m, n, d + cols[-1].shape[1], rows[0].dtype)
            record(
                name,
                shapes=((m, d), (n, d), tuple(cols[-1].shape)),
                engine=engine,
                device=rows[0].device,
                reason=reason,
                seconds=time.perf_counter() - start,
                bytes=need,
            )
        return outputs


class _Reduce(torch.autograd.Function):
    """The outputs of a tile over all pairs; the derivative is the same for the tile's derivative."""

    @staticmethod
    def forward(ctx, plan, tile, counts, *tensors):
        ctx.plan, ctx.tile, ctx.counts = plan, tile, counts
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(plan.run(tile, *_split(tensors, counts)))

    @staticmethod
    def backward(ctx, *upstream):
        rows, cols, params = _split(ctx.saved_tensors, ctx.counts)
        names = [("row", k) for k in range(len(rows))] + [("col", k) for k in range(len(cols))]
        names += [("all", k) for k in range(len(params))]
        needed = [name for name, need in zip(names, ctx.needs_input_grad[3:], strict=True) if need]
        given = tuple(g is not None for g in upstream)
        none = [None] * 3
        if not needed or not any(given):
            return (*none, *[None] * len(names))
        grads = {}
        # One kind at a time: each is a loop of its own, and a tile that returns only rows compiles once for all uses.
        for kind in ("row", "col", "all"):
            wanted = tuple(name for name in needed if name[0] == kind)
            if wanted:
                tile = DerivativeTile(ctx.tile, wanted, given)
                extra = {"row": [], "col": [], "all": []}
                for out_kind, g in zip(ctx.tile.kinds, upstream, strict=True):
                    if g is not None:
                        extra[out_kind].append(g)
                found = reduce(ctx.plan, tile, [*rows, *extra["row"]], [*cols, *extra["col"]], [*params, *extra["all"]])
                grads.update(zip(wanted, found, strict=True))
        return (*none, *[grads.get(name) for name in names])


def _split(tensors, counts):
    r, c, p = counts
    return list(tensors[:r]), list(tensors[r : r + c]), list(tensors[r + c : r + c + p])


def reduce(plan, tile, rows, cols, params):
    """Return the outputs of a tile over all pairs, differentiable to any order.

    Parameters
    ----------
    plan : Plan
        How.
    tile : tile
        What; see :mod:`sciml.linalg.engines.tile`.
    rows, cols : list of torch.Tensor, shapes (m, w) and (n, w)
        Points, weights, upstream gradients.
    params : list of torch.Tensor
        Parameters.

    Returns
    -------
    tuple of torch.Tensor
        "row" outputs (m, w), "col" outputs (n, w), "all" outputs.
    """
    return _Reduce.apply(plan, tile, (len(rows), len(cols), len(params)), *rows, *cols, *params)


class _LogSumExp(torch.autograd.Function):
    """The log-sum-exp of each row; its derivative is a softmax sum, which is differentiated by its own tiles."""

    @staticmethod
    def forward(ctx, plan, tile, softmax, n_params, Y, X, w, *params):
        (o,) = plan.run(tile, [Y], [X, w], list(params))
        ctx.plan, ctx.softmax = plan, softmax
        ctx.save_for_backward(o, Y, X, w, *params)
        return o

    @staticmethod
    def backward(ctx, g):
        o, Y, X, w, *params = ctx.saved_tensors
        # Rows of -inf have no derivative; zero keeps exp(-inf - o) = 0.
        o = torch.where(o.isinf(), 0.0, o)
        names = [("row", 0), ("col", 0), ("col", 1), *[("all", k) for k in range(len(params))]]
        needed = [name for name, need in zip(names, ctx.needs_input_grad[4:], strict=True) if need]
        grads = {}
        for kind in ("row", "col", "all"):
            wanted = tuple(name for name in needed if name[0] == kind)
            if wanted:
                tile = DerivativeTile(ctx.softmax, wanted, (True,))
                found = reduce(ctx.plan, tile, [Y, o, g], [X, w], params)
                grads.update(zip(wanted, found, strict=True))
        return (None, None, None, None, *[grads.get(name) for name in names])


def reduce_logsumexp(plan, tile, softmax, Y, X, w, params):
    """Return the log-sum-exp of each row, shape (m, 1), differentiable to any order.

    Parameters
    ----------
    plan : Plan
        How.
    tile, softmax : LogSumExpTile, SoftmaxTile
        Of the same pair function.
    Y, X, w : torch.Tensor, shapes (m, d), (n, d), (n, 1)
        Points and log-weights.
    params : list of torch.Tensor
        Parameters.

    Returns
    -------
    torch.Tensor, shape (m, 1)
    """
    return _LogSumExp.apply(plan, tile, softmax, len(params), Y, X, w, *params)
