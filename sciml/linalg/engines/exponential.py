r"""The exponential in operations that a compiler fuses: faster than the library's inside a compiled tile.

Notation  x = k log 2 + r with k whole and |r| <= log(2) / 2; exp(x) = 2^k (1 + r + r^2 g(r)), g a polynomial of
          degree 9 in float64 and 4 in float32, which interpolates at the Chebyshev points of the interval; 2^k is made
          from the bits of k.
Cost      some 20 operations, most of them fused multiply-adds; about two thirds of the time of the vectorised library
          function where the processor converts float64 to int64 in one instruction (AVX-512).
Pitfalls  results below 1e-307 in float64 and 2e-38 in float32 become zero.
"""

import math

import numpy as np
import torch

_RANGE = {torch.float64: (-708.0, 709.79), torch.float32: (-86.9, 88.73)}
# log 2 in two parts: the first has so few bits that k times it is exact.
_LOG2 = {
    torch.float64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),
    torch.float32: (0.693359375, -2.12194440054690583e-4),
}
_BITS = {torch.float64: (torch.int64, 52, 1022), torch.float32: (torch.int32, 23, 126)}


def _polynomial(degree):
    """Return the coefficients of g(r) = (exp(r) - 1 - r) / r^2, lowest first."""
    h = math.log(2) / 2
    nodes = h * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    # The series, not the quotient, which would cancel.
    values = sum(nodes**k / math.factorial(k + 2) for k in range(24))
    powers = np.vander(nodes / h, increasing=True)
    return (np.linalg.solve(powers, values) / h ** np.arange(degree + 1)).tolist()


_G = {torch.float64: _polynomial(9), torch.float32: _polynomial(4)}


def exp(x):
    """Return the exponential of a tensor in float32 or float64.

    Parameters
    ----------
    x : torch.Tensor, any shape
        Finite, infinite or NaN.

    Returns
    -------
    torch.Tensor
        Within two units of the last place; zero below 1e-307 in float64 and 2e-38 in float32.

    Examples
    --------
    >>> exp(torch.tensor([0.0, -torch.inf])).tolist()
    [1.0, 0.0]
    """
    low, high = _RANGE[x.dtype]
    whole, shift, bias = _BITS[x.dtype]
    one, rest = _LOG2[x.dtype]
    t = x.clamp(low, high)
    k = torch.round(t * (1 / math.log(2)))
    r = (t - k * one) - k * rest
    *lower, g = _G[x.dtype]
    for c in reversed(lower):
        g = g * r + c
    front = (g * r) * r + r + 1.0
    # One factor of two stays with the front: 2^1024 is no float64, but half of it times up to 2.8 may be one.
    power = ((k.to(whole) + bias) << shift).view(x.dtype)
    return torch.where(x < low, 0.0, (front + front) * power)


def replace_exponentials(graph, examples):
    """Return a traced graph in which :func:`exp` stands for the library's exponential, where that is faster.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        Tensor operations, derivatives included.
    examples : list of torch.Tensor
        Inputs, for their shapes.

    Returns
    -------
    torch.fx.GraphModule
        `graph` itself where nothing is gained: on GPUs, and on processors without AVX-512.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not capable or any(t.device.type != "cpu" or t.dtype not in _RANGE for t in examples):
        return graph

    class Rewritten(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            if target is torch.ops.aten.exp.default and args[0].dtype in _RANGE:
                return exp(args[0])
            return super().call_function(target, args, kwargs)

    with torch.no_grad():
        return make_fx(Rewritten(graph).run, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
