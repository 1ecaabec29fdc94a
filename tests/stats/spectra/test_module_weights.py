"""A module's parameters and buffers, as the module acts by them, with what the layouts need to know."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.module_weights import check_not_empty, open_module, plain_config
from sciml.stats.spectra.stored_tensors import WeightSource


def test_every_parameter_and_buffer_is_there_in_the_order_of_the_state_dict():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LSTM(3, 4, bidirectional=True), nn.Embedding(5, 3))
    module.register_buffer("later", torch.ones(2), persistent=False)
    module.register_buffer("nothing", None)
    source = open_module(module)
    state = module.state_dict()
    assert [name for name in source.tensors if name != "later"] == list(state)
    for name, value in state.items():
        assert torch.equal(source.tensors[name].read(), value)
        assert source.tensors[name].dtype == value.dtype
    buffers = {name for name, tensor in source.tensors.items() if tensor.buffer}
    assert buffers == {"later", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert source.skipped == []
    assert not source.tensors["0.weight"].read().requires_grad


class Conv1D(nn.Module):
    """The name alone tells that the weight is stored as (inputs, outputs)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 2), {"type": "Linear", "family": "linear"}),
        (nn.Conv1d(4, 8, 3, groups=2), {"type": "Conv1d", "family": "conv", "groups": 2, "transposed": False}),
        (nn.ConvTranspose2d(4, 8, 3), {"type": "ConvTranspose2d", "family": "conv", "transposed": True}),
        (Conv1D(), {"type": "Conv1D", "family": "linear", "input_first": True, "transposed": False}),
        (nn.Embedding(5, 3), {"family": "embedding"}),
        (nn.EmbeddingBag(5, 3), {"family": "embedding"}),
        (nn.GRUCell(3, 4), {"family": "recurrent"}),
        (nn.RNN(3, 4), {"family": "recurrent"}),
        (nn.MultiheadAttention(8, 2), {"family": "attention", "num_heads": 2, "num_kv_heads": None}),
        (nn.LayerNorm(4), {"family": "norm"}),
        (RMSNorm(), {"type": "RMSNorm", "family": "norm"}),
        (parametrizations.weight_norm(nn.Conv1d(4, 8, 3, groups=2)), {"type": "Conv1d", "groups": 2}),
        (nn.Bilinear(2, 3, 4), {"family": "linear"}),
    ],
)
def test_a_module_tells_what_its_layout_depends_on(module, expected):
    info = open_module(module).modules[""]
    assert {key: getattr(info, key) for key in expected} == expected


def test_heads_come_from_the_nearest_module_around():
    attention = nn.Module()
    attention.num_heads, attention.num_key_value_heads = 8, 2
    attention.q_proj = nn.Linear(8, 8)
    cross = nn.Module()
    cross.n_heads = 4
    cross.out = nn.Sequential(nn.Linear(8, 8))
    block = nn.Module()
    block.attention, block.cross, block.mlp = attention, cross, nn.Linear(8, 8)
    modules = open_module(block).modules
    assert (modules["attention.q_proj"].num_heads, modules["attention.q_proj"].num_kv_heads) == (8, 2)
    assert (modules["cross.out.0"].num_heads, modules["cross.out.0"].num_kv_heads) == (4, None)
    assert modules["mlp"].num_heads is None


def test_the_configuration_is_read():
    module = nn.Linear(3, 2)
    module.config = SimpleNamespace(to_dict=lambda: {"num_attention_heads": 12, "num_key_value_heads": 4, "x": [1]})
    assert open_module(module).metadata == {
        "num_heads": 12, "num_kv_heads": 4, "config": module.config.to_dict()
    }  # fmt: skip
    assert plain_config({"n_head": 6, "hidden_size": 96})["num_heads"] == 6
    assert plain_config({"text_config": {"num_attention_heads": 3}, "model_type": "x"})["num_heads"] == 3
    assert "num_heads" not in plain_config({"num_attention_heads": "many"})
    assert plain_config(SimpleNamespace(n_heads=5))["num_heads"] == 5
    assert plain_config(None) == plain_config(3) == {}


def test_wrappers_are_looked_through():
    module = nn.Sequential(nn.Linear(3, 2))
    names = list(open_module(module).tensors)
    compiled_inside = nn.Sequential(torch.compile(nn.Linear(3, 2), backend="eager"))
    for wrapped in (
        nn.DataParallel(module),
        torch.compile(module, backend="eager"),
        torch.compile(nn.DataParallel(module), backend="eager"),
        compiled_inside,
    ):
        source = open_module(wrapped)
        assert list(source.tensors) == names == ["0.weight", "0.bias"]
        assert source.modules["0"].type == "Linear"


def test_tied_weights_are_told():
    module = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    module["head"].weight = module["embedding"].weight
    tensors = open_module(module).tensors
    assert tensors["embedding.weight"].tie == tensors["head.weight"].tie
    shared = nn.Linear(3, 3)
    assert list(open_module(nn.Sequential(shared, shared)).tensors) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_computed_weight_is_the_one_that_acts(wrap):
    layer = wrap(nn.Linear(5, 5))
    layer.train()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    source = open_module(nn.Sequential(layer))
    tensor = source.tensors["0.weight"]
    read, rows = tensor.read(), tensor.rows(1, 3)
    assert layer.training
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert not read.requires_grad
    layer.eval()
    with torch.no_grad():
        layer(torch.ones(1, 5))  # the older ways compute the weight when the layer is called
    assert torch.equal(read, layer.weight)
    assert torch.equal(rows, layer.weight[1:3])
    reasons = dict(source.skipped)
    stored = {f"0.{key}" for key in before} - {"0.bias"}
    assert set(reasons) >= stored
    assert set(reasons.values()) == {"part of 0.weight, which is computed from it"}
    assert list(source.tensors) == ["0.weight", "0.bias"]
    assert list(source.modules) == ["", "0"]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_old_weight_norm():
    layer = nn.utils.weight_norm(nn.Conv1d(3, 4, 2))
    with torch.no_grad():
        layer.weight_g.mul_(2)
    source = open_module(layer)
    layer(torch.ones(1, 3, 4))
    assert torch.equal(source.tensors["weight"].read(), layer.weight)
    assert {name for name, _ in source.skipped} == {"weight_g", "weight_v"}


def test_parameters_without_numbers_are_skipped_with_a_reason():
    module = nn.Sequential(nn.Linear(3, 2, device="meta"), nn.LazyLinear(4), nn.Linear(2, 2))
    source = open_module(module)
    assert list(source.tensors) == ["2.weight", "2.bias"]
    reasons = dict(source.skipped)
    assert "meta device" in reasons["0.weight"]
    assert "lazy" in reasons["1.weight"]


def test_an_empty_source_is_an_error():
    with pytest.raises(InvalidInputError, match="the module holds no tensors"):
        check_not_empty(WeightSource({}), "the module")
