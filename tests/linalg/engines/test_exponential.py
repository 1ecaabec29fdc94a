"""The fused exponential is the exponential, to two units of the last place, and at the ends of the range."""

import numpy as np
import pytest
import torch

from sciml.linalg.engines.exponential import exp, replace_exponentials


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(torch.float64, -708.0, 709.78), (torch.float32, -86.9, 88.72)], ids=["f64", "f32"]
)
def test_agrees_with_a_longer_dtype_to_two_units_of_the_last_place(dtype, low, high):
    ends = torch.linspace(low, high, 200_001, dtype=dtype)
    x = torch.cat([ends, torch.linspace(-1, 1, 100_001, dtype=dtype)])
    truth = np.exp(x.numpy().astype(np.longdouble))
    error = np.abs(exp(x).numpy().astype(np.longdouble) / truth - 1)
    assert float(error.max()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ends_of_the_range(dtype):
    x = torch.tensor([0.0, -torch.inf, -1e30, -800.0, torch.inf, 1e30, 800.0, torch.nan], dtype=dtype)
    assert exp(x)[:-1].tolist() == [1.0, 0.0, 0.0, 0.0, torch.inf, torch.inf, torch.inf]
    assert bool(exp(x)[-1].isnan())


def test_a_graph_keeps_its_values_when_exponentials_are_replaced():
    from torch.fx.experimental.proxy_tensor import make_fx

    def softened(x):
        return (torch.exp(-(x**2)).sum(1) + torch.cos(x[:, 0]).exp(),)

    x = torch.linspace(-2, 2, 60, dtype=torch.float64).reshape(10, 6)
    graph = make_fx(softened, tracing_mode="fake")(x)
    new = replace_exponentials(graph, [x])
    torch.testing.assert_close(new(x)[0], softened(x)[0], rtol=1e-14, atol=0)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert "aten.exp" not in new.code.replace("aten.exp2", "")
    else:
        assert new is graph
