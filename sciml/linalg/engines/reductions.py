r"""The front doors: :func:`kernel_sum`, :func:`kernel_logsumexp` and the dense :func:`kernel_matrix`.

Notation  y (m, d) row points; x (n, d) column points; b (n, r) weights; phi the kernel.
Cost      m n evaluations of the kernel; memory for the outputs, and a tile or two.
Pitfalls  float32 points far from the origin carry the rounding of their coordinates: pass float64 with
          ``dtype="float32"``, and differences are centred before they are rounded.
"""

from functools import partial

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg import memory as _memory
from sciml.linalg.arrays import enter
from sciml.linalg.engines import dense
from sciml.linalg.engines.choose import DEFAULTS, choose, thresholds
from sciml.linalg.engines.pairs import prepare
from sciml.linalg.engines.reduce import Plan, reduce, reduce_logsumexp
from sciml.linalg.engines.tile import LogSumExpTile, SoftmaxTile, SumTile
from sciml.validation import check_number


def kernel_sum(
    y,
    x,
    b,
    *,
    kernel,
    params=None,
    engine="auto",
    center=None,
    products=1,
    memory=None,
    dtype=None,
    device=None,
    check_finite=None,
):
    r"""Return :math:`o_{ir} = \sum_j k(y_i, x_j)\, b_{jr}` without forming the matrix.

    Parameters
    ----------
    y : array, shape (m, d)
        Row points; leading batch dimensions are allowed and broadcast against those of `x` and `b`.
    x : array, shape (n, d)
        Column points.
    b : array, shape (n, r) or (n,)
        Weights; real or complex.
    kernel : sciml.kernels.Kernel or callable
        A kernel; or a function ``kernel(y, x)`` of two points, or ``kernel(d)`` of their difference, written with
        ``+ - * / ** |``, and the methods ``exp log sqrt rsqrt cos sin tanh abs square sum(-1) sqnorm2 norm2 clamp`` of
        its arguments, which stand for vectors of `d` coordinates. It must return a number a pair, such as
        ``lambda y, x: (-((y - x) ** 2).sum(-1)).exp()``.
    params : dict or None
        Keyword arguments of a callable, numbers or vectors, with gradients; None (the default) for none.
    engine : {"auto", "dense", "eager", "compiled", "keops"}
        "auto" (the default) asks the configuration, and if that says "auto", too, chooses by device, dtype, size and
        memory. A named engine is used or an error says why it cannot be.
    center : bool or None
        Subtract the mean of `x` from both point sets in float64 before they are cast to a shorter dtype. None (the
        default) does so for kernels of :mod:`sciml.kernels`, which depend on differences alone.
    products : int
        Calls like this one that are expected; compiling pays sooner then. 1 by default.
    memory : int, float, str or None
        What temporaries may take: bytes, "2GiB", or a fraction of free memory; None (the default) asks the
        configuration.
    dtype : None, "float32" or "float64"
        What to compute in; None (the default) keeps that of the data (half precision is computed in float32).
    device : None, str or torch.device
        Where to compute; None (the default) stays where tensors are. NumPy arrays go to CUDA under ``device="cuda"``
        only, or where the configuration says "auto", a GPU is there and the pairs are many.
    check_finite : bool or None
        Refuse NaN and infinity; None (the default) asks the configuration, which does by default.

    Returns
    -------
    array, shape (m, r) or (m,)
        In the kind, dtype and device of the data; differentiable to any order in `y`, `x`, `b`, `params` and the
        parameters of the kernel.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, entries or values of the kernel are not finite, or the points are complex.
    MemoryBudgetError
        If the engine needs more than `memory`; before anything is allocated.
    EngineUnavailable
        If the engine asked for by name cannot run here.

    Warns
    -----
    FallbackWarning
        Once, if the engine that "auto" prefers cannot run here and another is taken.

    Notes
    -----
    Sums are formed in the working dtype within a tile and in float64 across tiles. Differences are taken before they
    are scaled or squared, up to 16 coordinates always, and beyond wherever a matrix product would lose digits.

    Examples
    --------
    >>> from sciml.kernels import Gaussian
    >>> y, x = [[0.0, 0.0]], [[0.0, 0.0], [3.0, 4.0]]
    >>> kernel_sum(y, x, [[1.0], [1.0]], kernel=Gaussian(lengthscale=5.0)).round(4)
    array([[1.6065]])
    """
    check_number("products", products, low=1, integer=True)
    y, x, device = _placed(y, x, device, products)
    (Y, X, B), leave = _enter(y, x, b, names=("y", "x", "b"), dtype=dtype, device=device, check_finite=check_finite)
    Y, X = _points(y, x, Y, X, kernel, center)
    if B.ndim == 0:
        raise InvalidInputError(
            f"b must have one row for each of the {X.shape[-2]} rows of x; got the number {B.item()}."
        )
    vector = B.ndim == 1
    B = B[:, None] if vector else B
    if X.shape[-2] != B.shape[-2]:
        raise InvalidInputError(f"b must have one row for each of the {X.shape[-2]} rows of x; got {tuple(B.shape)}.")
    parts = torch.view_as_real(B.resolve_conj()).flatten(-2) if B.is_complex() else B.to(Y.dtype)
    options = {"engine": engine, "products": products, "memory": memory}

    def one(Y, X, B):
        pair, Y, X, values = prepare("kernel", kernel, params, Y, X)
        if min(Y.shape[0], X.shape[0], B.shape[1]) == 0:
            return B.new_zeros((Y.shape[0], B.shape[1]))
        tile = SumTile(pair)
        plan = Plan("kernel_sum", partial(choose, **options))
        with _naming("kernel", kernel):
            (out,) = reduce(plan, tile, [Y], [X, B], values)
        return _checked("kernel", out, check_finite)

    out = _over_batches(one, Y, X, parts)
    if B.is_complex():
        out = torch.view_as_complex(out.unflatten(-1, (-1, 2)).contiguous())
    return _short("kernel", leave(out[..., 0] if vector else out), check_finite)


def kernel_logsumexp(
    y,
    x,
    log_w=None,
    *,
    kernel_log,
    params=None,
    engine="auto",
    center=None,
    products=1,
    memory=None,
    dtype=None,
    device=None,
    check_finite=None,
):
    r"""Return :math:`o_i = \log \sum_j w_j \exp s(y_i, x_j)` without forming the matrix, and without overflow.

    Parameters
    ----------
    y : array, shape (m, d)
        Row points; leading batch dimensions are allowed and broadcast against those of `x` and `log_w`.
    x : array, shape (n, d)
        Column points.
    log_w : array, shape (n,) or (n, r), or None
        Logarithms of the weights; -inf for a weight of zero. None (the default) for weights of one.
    kernel_log : sciml.kernels.Kernel or callable
        The function `s`; of a kernel, its logarithm is taken, so that ``kernel_log=Gaussian(l)`` means
        ``s = -|r|^2 / (2 l^2)``. See :func:`kernel_sum` for callables.
    params, engine, center, products, memory, dtype, device, check_finite
        As for :func:`kernel_sum`.

    Returns
    -------
    array, shape (m,) or (m, r)
        In the kind, dtype and device of the data; -inf where every term is zero, or there is none. Differentiable to
        any order.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, entries are not finite, or the kernel is not positive everywhere.
    MemoryBudgetError
        If the engine needs more than `memory`; before anything is allocated.
    EngineUnavailable
        If the engine asked for by name cannot run here.

    Warns
    -----
    FallbackWarning
        Once, if the engine that "auto" prefers cannot run here and another is taken.

    Examples
    --------
    >>> from sciml.kernels import Gaussian
    >>> kernel_logsumexp([[0.0]], [[0.0], [2.0]], kernel_log=Gaussian(lengthscale=1.0)).round(4)
    array([0.1269])
    """
    check_number("products", products, low=1, integer=True)
    y, x, device = _placed(y, x, device, products)
    given = None if log_w is None else log_w
    (Y, X), leave = _enter(y, x, names=("y", "x"), dtype=dtype, device=device, check_finite=check_finite)
    Y, X = _points(y, x, Y, X, kernel_log, center)
    W = X.new_zeros(X.shape[-2]) if given is None else _log_weights(given, Y, X)
    if W.ndim == 0:
        raise InvalidInputError(
            f"log_w must have one row for each of the {X.shape[-2]} rows of x; got the number {W.item()}."
        )
    single = W.ndim == 1
    W = W[:, None] if single else W
    if X.shape[-2] != W.shape[-2]:
        raise InvalidInputError(
            f"log_w must have one row for each of the {X.shape[-2]} rows of x; got shape {tuple(W.shape)}."
        )
    options = {"engine": engine, "products": products, "memory": memory}

    def one(Y, X, W):
        pair, Y, X, values = prepare("kernel_log", kernel_log, params, Y, X, log=True)
        if min(Y.shape[0], X.shape[0], W.shape[1]) == 0:
            return W.new_full((Y.shape[0], W.shape[1]), -torch.inf)
        tile, columns = LogSumExpTile(pair), []
        for w in W.unbind(1):
            w = w[:, None]
            plan = Plan("kernel_logsumexp", partial(choose, **options))
            with _naming("kernel_log", kernel_log):
                columns.append(reduce_logsumexp(plan, tile, SoftmaxTile(pair), Y, X, w, values))
        return _checked("kernel_log", torch.cat(columns, 1), check_finite, infinite=True)

    out = _over_batches(one, Y, X, W)
    out = out[..., 0] if single else out
    if given is not None and isinstance(given, torch.Tensor) and not isinstance(y, torch.Tensor):
        return out
    return leave(out)


def kernel_matrix(y, x, *, kernel, params=None, memory=None, dtype=None, device=None, check_finite=None):
    r"""Return the dense matrix :math:`k(y_i, x_j)`.

    Parameters
    ----------
    y, x : array, shapes (m, d) and (n, d)
        Row and column points.
    kernel : sciml.kernels.Kernel or callable
        See :func:`kernel_sum`.
    params : dict or None
        Keyword arguments of a callable; None (the default) for none.
    memory : int, float, str or None
        What the matrix may take; None (the default) asks the configuration.
    dtype, device, check_finite
        As for :func:`kernel_sum`.

    Returns
    -------
    array, shape (m, n)
        In the kind, dtype and device of the points; differentiable.

    Raises
    ------
    InvalidInputError
        If shapes do not fit or entries are not finite.
    MemoryBudgetError
        If the matrix is larger than `memory`; before it is allocated.

    Examples
    --------
    >>> kernel_matrix([[0.0], [1.0]], [[0.0]], kernel=lambda d: (-(d**2).sum(-1)).exp()).round(4)
    array([[1.    ],
           [0.3679]])
    """
    (Y, X), leave = _enter(y, x, names=("y", "x"), dtype=dtype, device=device, check_finite=check_finite)
    Y, X = _points(y, x, Y, X, kernel, None)
    m, n, d = Y.shape[-2], X.shape[-2], Y.shape[-1]

    def one(Y, X):
        pair, Y, X, values = prepare("kernel", kernel, params, Y, X)
        if 0 in (m, n):
            return Y.new_zeros((m, n))
        moving = torch.is_grad_enabled() and any(t.requires_grad for t in (Y, X, *values))
        need = m * n * Y.dtype.itemsize * ((6 + 3 * d) if moving else 1)
        remedy = "use sciml.linalg.kernel_sum, which does not form it"
        what = f"a kernel matrix of {m} x {n}"
        _memory.require(need, what=what, remedy=remedy, memory=memory, device=Y.device)
        with _naming("kernel", kernel), _memory.exhaustion(what=what, remedy=remedy, device=Y.device):
            K = pair(Y, X.T, values) if moving else dense.matrix(pair, Y, X, values)
        return _checked("kernel", K, check_finite)

    return leave(_over_batches(one, Y, X))


# ---------------------------------------------------------------- arguments


def _enter(*arrays, names, dtype, device, check_finite):
    # The answer has other axes than the points: labels of a DataArray would be wrong where the sizes happen to agree.
    arrays = [array.data if type(array).__name__ == "DataArray" else array for array in arrays]
    return enter(*arrays, names=names, dtype=dtype, device=device, check_finite=check_finite)


def _placed(y, x, device, products):
    """Send NumPy data with very many pairs to a GPU, if there is one and nobody said otherwise."""
    from sciml._config import resolve

    if device is None and resolve("device") == "auto" and not isinstance(y, torch.Tensor | type(None)):
        try:
            pairs = len(y) * len(x) * products
        except TypeError:
            return y, x, device
        tensors = isinstance(x, torch.Tensor)
        if pairs >= DEFAULTS["cuda_pairs"] and not tensors and torch.cuda.is_available():
            limit = thresholds("cuda")["cuda_pairs"]
            return y, x, "cuda" if pairs >= limit else device
    return y, x, device


def _points(y, x, Y, X, kernel, center):
    """Check the points' shapes; centre them in float64 where they are about to lose digits."""
    from sciml.kernels.base import Kernel

    for name, points in (("y", Y), ("x", X)):
        if points.ndim < 2:
            raise InvalidInputError(
                f"{name} must be points of shape (n, d); got shape {tuple(points.shape)}. For points on a line pass "
                f"{name}[:, None]."
            )
        # Complex weights make all arrays of a call complex; points that were are told by their imaginary parts.
        if points.is_complex() and points.imag.any():
            raise InvalidInputError(f"{name} must be real; got dtype {points.dtype}. Pass real and imaginary parts.")
    Y, X = (points.real if points.is_complex() else points for points in (Y, X))
    if Y.shape[-1] != X.shape[-1]:
        raise InvalidInputError(
            f"y and x must have equally many coordinates; got shapes {tuple(Y.shape)} and {tuple(X.shape)}."
        )
    if Y.shape[-1] == 0 and 0 not in (Y.shape[-2], X.shape[-2]):
        raise InvalidInputError(f"y and x must have at least one coordinate; got shapes {tuple(Y.shape)}.")
    if center is None:
        center = isinstance(kernel, Kernel) and kernel.stationary
    if center and X.numel():
        raw_y, raw_x = (_original(points, cast) for points, cast in ((y, Y), (x, X)))
        if raw_x.dtype == torch.float64 and Y.dtype != torch.float64:
            mean = raw_x.detach().reshape(-1, raw_x.shape[-1]).mean(0)
            Y, X = (raw_y.to(torch.float64) - mean).to(Y.dtype), (raw_x - mean).to(X.dtype)
    return Y, X


def _original(points, cast):
    """Return the points in the dtype in which they came."""
    if isinstance(points, torch.Tensor):
        return points.to(cast.device)
    (tensor,), _ = enter(points, names=("points",), dtype="float64", check_finite=False)
    import numpy as np

    return tensor.to(cast.device) if np.asarray(points).dtype != np.float32 else cast


def _log_weights(log_w, Y, X):
    (W,), _ = enter(log_w, names=("log_w",), dtype=None, check_finite=False)
    if W.is_complex() or bool(torch.isnan(W).any()) or bool((torch.inf == W).any()):
        raise InvalidInputError("log_w must be real logarithms, finite or -inf; got NaN, +inf or complex numbers.")
    cast = W.to(dtype=Y.dtype, device=X.device)
    if bool((cast == torch.inf).any()):
        raise InvalidInputError(f"log_w must fit into {Y.dtype}; the largest is {float(W.max())}. Compute in float64.")
    return cast


def _over_batches(function, *tensors):
    """Call a function of matrices for each element of the broadcast batch, and stack."""
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))
    if not batch:
        return function(*tensors)
    size = 1
    for length in batch:
        size *= length
    flat = [t.expand(*batch, *t.shape[-2:]).reshape(size, *t.shape[-2:]) for t in tensors]
    if size == 0:
        first = function(*[t.new_zeros(t.shape[-2:]) for t in tensors])
        return first.new_zeros((*batch, *first.shape))
    return torch.stack([function(*[t[k] for t in flat]) for k in range(size)]).unflatten(0, batch)


class _naming:
    """Turn what goes wrong inside a user's pair function into an error that names it."""

    def __init__(self, name, kernel):
        self.name, self.kernel = name, kernel

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, (TypeError, AttributeError, ValueError)) and not callable(error):
            if isinstance(error, InvalidInputError) or self._is_kernel():
                return
            raise InvalidInputError(f"{self.name} could not be evaluated: {error}") from error

    def _is_kernel(self):
        from sciml.kernels.base import Kernel

        return isinstance(self.kernel, Kernel)


def _short(name, out, check_finite):
    """Refuse sums that fitted into float32 and do not fit into the half precision in which they return."""
    return _checked(name, out, check_finite) if getattr(out, "dtype", None) == torch.float16 else out


def _checked(name, out, check_finite, infinite=False):
    """Refuse values that are not finite: the data are, so the kernel gave them."""
    from sciml._config import resolve

    if not resolve("check_finite", check_finite):
        return out
    bad = ~(torch.isfinite(out) | (out == -torch.inf)) if infinite else ~torch.isfinite(out)
    if bool(bad.detach().any()):
        where = tuple(int(i) for i in bad.detach().nonzero()[0])
        raise InvalidInputError(
            f"{name} must give finite values that can be summed in {str(out.dtype).removeprefix('torch.')}; row "
            f"{where[0]} of the answer is {float(out.detach()[where])}. Look for a division by zero, a logarithm or an "
            "overflow, or compute in float64."
        )
    return out
