r"""Functions of a tile of pairs, and their derivatives, which are functions of a tile again.

A tile takes row tensors ``(m, w)``, column tensors ``(w, n)`` and parameters, and returns tensors of three kinds:
``"row"`` ``(m, w)``, a sum over the columns of the tile; ``"col"`` ``(w, n)``, a sum over its rows; ``"all"``, a sum
over both. An engine adds the tiles up. The derivative of a tile, by the chain rule, takes in addition the upstream
gradient of every output, of the same kind as that output, and returns a gradient of the kind of every input: so it is
a tile, too, and derivatives of any order come by recursion, without anything of the size of the matrix being kept.

Notation  phi pair function; Y (m, d), X (d, n) points; B (r, n) weights; g upstream gradient.
          sum       o_ir = sum_j phi_ij b_jr
          softmax   s_i = sum_j exp(phi_ij + w_j - o_i), which is one where o is the log-sum-exp of row i
Pitfalls  padding: rows may be padded by copies if their upstream gradients are padded by zeros, since every "col" and
          "all" output is linear in these; columns likewise if their weights are zeros (-inf for softmax).
"""

import torch

from sciml.linalg.engines.entries import Entries

# Up to so many right sides a compiled loop keeps one accumulator each; beyond, a matrix product is faster.
_UNROLLED = 8


class SumTile:
    """Sum ``o = phi(Y, X) B`` over the columns of a tile.

    Parameters
    ----------
    pair : Pair
        The pair function.
    """

    n_rows, n_cols, kinds, order = 1, 2, ("row",), 0
    row_pad, col_pad = ("copy",), ("copy", "zero")

    def __init__(self, pair):
        self.pair = pair
        self.key = ("sum", pair.key)

    def __call__(self, rows, cols, params, values=None):
        """Return the sums, shape (m, r); `values` may give the pair function's values in memory of its own."""
        (Y,), (X, B) = rows, cols
        phi = (values or self.pair)(Y, X, params)
        if values is not None or B.shape[0] > _UNROLLED:
            return (phi @ B.T,)
        return (torch.stack([(phi * weight).sum(1) for weight in B], 1),)


class SoftmaxTile:
    """Sum ``exp(phi + w - o)`` over the columns of a tile; its derivatives are those of the log-sum-exp.

    Parameters
    ----------
    pair : Pair
        The pair function, a logarithm.
    """

    n_rows, n_cols, kinds, order = 2, 2, ("row",), 0
    row_pad, col_pad = ("copy", "copy"), ("copy", "never")

    def __init__(self, pair):
        self.pair = pair
        self.key = ("softmax", pair.key)

    def __call__(self, rows, cols, params):
        """Return the sums, shape (m, 1)."""
        (Y, o), (X, w) = rows, cols
        return (torch.exp(self.pair(Y, X, params) + w - o).sum(1, keepdim=True),)


class LogSumExpTile:
    """The largest exponent of each row of a tile, and the sum of exponentials relative to it.

    Parameters
    ----------
    pair : Pair
        The pair function, a logarithm.
    """

    n_rows, n_cols, kinds, order = 1, 2, ("max", "row"), 0
    row_pad, col_pad = ("copy",), ("copy", "never")

    def __init__(self, pair):
        self.pair = pair
        self.key = ("logsumexp", pair.key)

    def __call__(self, rows, cols, params, values=None):
        """Return largest exponents and sums, shapes (m, 1); `values` as for a sum."""
        (Y,), (X, w) = rows, cols
        s = (values or self.pair)(Y, X, params) + w
        largest = s.amax(1, keepdim=True)
        # A row of -inf only: exp(-inf - 0) = 0 where exp(-inf + inf) would be NaN; likewise for +inf.
        base = torch.where(largest.isinf(), 0.0, largest)
        return largest, torch.exp(s - base).sum(1, keepdim=True)


class DerivativeTile:
    """The vector-Jacobian product of a tile.

    Parameters
    ----------
    base : tile
        What is differentiated.
    wanted : tuple of (str, int)
        The inputs whose gradients are returned, as kind ("row", "col" or "all") and number.
    given : tuple of bool
        Which outputs of the base have an upstream gradient.
    """

    def __init__(self, base, wanted, given):
        self.base, self.wanted, self.given = base, wanted, given
        self.pair, self.order = base.pair, base.order + 1
        kinds = [kind for kind, there in zip(base.kinds, given, strict=True) if there]
        self.n_rows, self.n_cols = base.n_rows + kinds.count("row"), base.n_cols + kinds.count("col")
        self.row_pad = (*base.row_pad, *["zero"] * kinds.count("row"))
        self.col_pad = (*base.col_pad, *["zero"] * kinds.count("col"))
        self.kinds = tuple(kind for kind, _ in wanted)
        self.key = ("derivative", wanted, given, base.key)

    def __call__(self, rows, cols, params):
        """Return the gradients wanted."""
        base = self.base
        own = {"row": base.n_rows, "col": base.n_cols}
        own["all"] = len(params) - sum(k == "all" and g for k, g in zip(base.kinds, self.given, strict=True))
        inputs = {"row": list(rows), "col": list(cols), "all": list(params)}
        upstream = {kind: iter(tensors[own[kind] :]) for kind, tensors in inputs.items()}
        inputs = {kind: tensors[: own[kind]] for kind, tensors in inputs.items()}

        def outputs(*moving):
            moved = {kind: list(tensors) for kind, tensors in inputs.items()}
            for (kind, number), tensor in zip(self.wanted, moving, strict=True):
                moved[kind][number] = tensor
            found = base(moved["row"], moved["col"], moved["all"])
            return tuple(out for out, there in zip(found, self.given, strict=True) if there)

        _, pull = torch.func.vjp(outputs, *[inputs[kind][number] for kind, number in self.wanted])
        kinds = [kind for kind, there in zip(base.kinds, self.given, strict=True) if there]
        return pull(tuple(next(upstream[kind]) for kind in kinds))


class Pair:
    """A pair function in the form that tiles call: ``pair(Y, X, params)`` gives the tile of values.

    Parameters
    ----------
    function : callable
        ``function(y, x, *params)`` on :class:`Entries` (or LazyTensors), returning a number a pair.
    key : hashable or None
        Names the function for the cache of compiled tiles; None where it cannot be named.
    squared : callable or None
        For kernels of the distance alone: ``squared(q, *params)`` of the squared distance, and `scale`.
    scale : callable or None
        ``scale(points, *params)`` stretches points ``(m, d)`` for `squared`.
    fill : callable or None
        ``fill(q, t, Y, X, *params)`` gives the values, too, in the memory of two tensors (m, n); without derivatives.
    """

    #: Whether the function takes LazyTensors; the form by squared distances does not.
    @property
    def lazy(self):
        """Whether the function can be called with LazyTensors."""
        return self.squared is None

    def __init__(self, function, key, squared=None, scale=None, fill=None):
        self.function, self.key, self.squared, self.scale, self.fill = function, key, squared, scale, fill

    def __call__(self, Y, X, params):
        """Return the values for all pairs, shape (m, n), of row points (m, d) and column points (d, n)."""
        if self.squared is not None:
            Y, Z = self.scale(Y, *params), self.scale(X.T, *params)
            q = (Y * Y).sum(1, keepdim=True) + (Z * Z).sum(1) - 2 * (Y @ Z.T)
            return self.squared(Entries([q.clamp_min(0)]), *params).parts[0].expand(Y.shape[0], X.shape[1])
        y, x = Entries(Y.unbind(1)[k][:, None] for k in range(Y.shape[1])), Entries(row[None] for row in X)
        value = self.function(y, x, *[Entries(_coordinates(p)) for p in params])
        parts = value.parts if isinstance(value, Entries) else [value]
        if len(parts) != 1:
            raise ValueError(f"it gives {len(parts)} numbers a pair; end it by .sum(-1)")
        part = torch.as_tensor(parts[0], dtype=Y.dtype, device=Y.device)
        return part.expand(Y.shape[0], X.shape[1])


def _coordinates(parameter):
    return [parameter] if parameter.ndim == 0 else parameter.reshape(-1).unbind()
