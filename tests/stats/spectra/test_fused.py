"""Parts of fused weights: each part is proved by what a real layer does when its rows are zero."""

import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.sources import open_weights


def numbers(*shape, random_state=0):
    return torch.as_tensor(generator(random_state).standard_normal(shape))


def named(obj, **options):
    layers, _ = layers_of(open_weights(obj), **options)
    return {layer.name: layer for layer in layers}


def stacked(parts):
    return torch.cat([part.matrix() for part in parts])


def random_module(module):
    module = module.double()
    with torch.no_grad():
        for k, weight in enumerate(module.parameters()):
            weight.copy_(numbers(*weight.shape, random_state=k) / 3)
    return module


# ---------------------------------------------------------------- gates


def lstm_step(gates, x, h, c):
    """The cell of the textbook, from its four matrices by name."""
    a = {name: x @ gates["ih", name].T + h @ gates["hh", name].T for name in ("input", "forget", "cell", "output")}
    c = a["forget"].sigmoid() * c + a["input"].sigmoid() * a["cell"].tanh()
    return a["output"].sigmoid() * c.tanh(), c


def test_the_gates_of_an_lstm_are_those_of_the_textbook():
    module = random_module(torch.nn.LSTM(3, 5, bias=False))
    layers = named(module)
    assert len(layers) == 8
    gates = {
        (side, name): layers[f"weight_{side}_l0[{name} gate]"].matrix()
        for side in ("ih", "hh")
        for name in ("input", "forget", "cell", "output")
    }
    x, h, c = numbers(4, 3), torch.zeros(5).double(), torch.zeros(5).double()
    for row in x:
        h, c = lstm_step(gates, row, h, c)
    torch.testing.assert_close(h, module(x)[0][-1], rtol=1e-12, atol=1e-12)


def test_the_gates_of_a_gru_are_those_of_the_textbook():
    module = random_module(torch.nn.GRUCell(3, 5, bias=False))
    layers = named(module.state_dict())
    W, U = (
        {word: layers[f"weight_{side}[{word} gate]"].matrix() for word in ("reset", "update", "new")}
        for side in ("ih", "hh")
    )
    x, h = numbers(3), numbers(5, random_state=1)
    reset, update = ((W[word] @ x + U[word] @ h).sigmoid() for word in ("reset", "update"))
    new = (W["new"] @ x + reset * (U["new"] @ h)).tanh()
    expected = module(x[None], h[None])[0]
    torch.testing.assert_close((1 - update) * new + update * h, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_projected_lstm_has_four_gates_though_its_recurrent_weight_is_narrow(as_module):
    # (4 * 6, 8): taken for a GRU of 8 by its shape alone.
    module = torch.nn.LSTM(3, 6, proj_size=2, num_layers=2, bidirectional=True)
    layers = named(module if as_module else module.state_dict())
    assert layers["weight_hh_l1_reverse[output gate]"].matrix().shape == (6, 2)
    assert torch.equal(layers["weight_ih_l1[forget gate]"].matrix(), module.weight_ih_l1[6:12])
    assert layers["weight_hr_l0"].rows == 2
    assert sum(layer.kind == "recurrent" for layer in layers.values()) == 4 * (4 + 4 + 1)


def test_a_plain_recurrence_has_no_gates():
    layers = named(torch.nn.RNN(3, 5).state_dict())
    assert [(layer.name, layer.kind) for layer in layers.values()] == [
        ("weight_ih_l0", "recurrent"),
        ("weight_hh_l0", "recurrent"),
    ]


def test_gates_without_the_recurrent_weight_stay_whole():
    layers = named({"weight_ih_l0": torch.ones(20, 3)})
    assert layers["weight_ih_l0"].part == "fused"


# ---------------------------------------------------------------- queries, keys, values


def test_attention_falls_apart_into_queries_keys_and_values():
    module = random_module(torch.nn.MultiheadAttention(8, 2, bias=False))
    layers = named(module)
    x = numbers(6, 8, random_state=9)
    q, k, v = (
        (x @ layers[f"in_proj_weight[{word}]"].matrix().T).unflatten(-1, (2, 4)).transpose(0, 1) for word in "qkv"
    )
    heads = (q @ k.mT / 2).softmax(-1) @ v
    expected = module(x, x, x, need_weights=False)[0]
    ours = heads.transpose(0, 1).flatten(1) @ layers["out_proj.weight"].matrix().T
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert {layer.kind for layer in layers.values()} == {"attention"}


@pytest.mark.parametrize(
    "key", ["in_proj_weight", "a.qkv.weight", "a.Wqkv.weight", "a.qkv_proj.weight", "a.c_attn.weight"]
)
def test_three_equal_parts_need_no_heads(key):
    W = numbers(24, 8)
    parts = named({key: W})
    assert list(parts) == [f"{key}[q]", f"{key}[k]", f"{key}[v]"]
    assert torch.equal(stacked(parts.values()), W)


def test_the_weights_of_gpt2_are_cut_along_columns():
    W = numbers(8, 24)
    parts = named({"h.0.attn.c_attn.weight": W, "h.0.crossattention.c_attn.weight": W[:, :16]})
    assert torch.equal(parts["h.0.attn.c_attn.weight[k]"].matrix(), W[:, 8:16])
    assert torch.equal(parts["h.0.crossattention.c_attn.weight[v]"].matrix(), W[:, 8:16])


def grouped(queries_per_group, groups, width, inputs):
    """Queries, keys and values of grouped attention, in both orders."""
    heads = queries_per_group * groups
    Q, K, V = (numbers(n * width, inputs, random_state=n) for n in (heads, groups, groups + 100))
    V = V[: groups * width]
    by_group = [
        torch.cat([Q.unflatten(0, (groups, -1))[g], K.unflatten(0, (groups, -1))[g], V.unflatten(0, (groups, -1))[g]])
        for g in range(groups)
    ]
    return (Q, K, V), torch.cat([Q, K, V]), torch.cat(by_group)


@pytest.mark.parametrize(("queries", "groups"), [(1, 4), (2, 2), (4, 1), (3, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "interleaved"])
def test_grouped_queries_are_cut_in_either_order(queries, groups, layout):
    truth, contiguous, interleaved = grouped(queries, groups, 3, 10)
    W = contiguous if layout == "contiguous" else interleaved
    options = {"qkv_layout": layout, "num_heads": queries * groups, "num_kv_heads": groups}
    parts = named({"attn.qkv_proj.weight": W}, **options)
    for word, expected in zip("qkv", truth, strict=True):
        layer = parts[f"attn.qkv_proj.weight[{word}]"]
        assert torch.equal(layer.matrix(), expected)
        assert torch.equal(layer.take([2, 0, 2]), expected[[2, 0, 2]])
        assert torch.equal(torch.cat(list(layer.row_blocks(nbytes=2 * 80))), expected)


@pytest.mark.parametrize(
    ("metadata", "queries", "groups", "interleaved"),
    [
        ({"model_type": "gpt_neox", "num_attention_heads": 4}, 1, 4, True),
        ({"config": {"model_type": "bloom", "n_head": 4}}, 1, 4, True),
        ({"model_type": "chatglm", "num_heads": 4}, 1, 4, True),
        (
            {"model_type": "chatglm", "num_heads": 4, "multi_query_attention": True, "multi_query_group_num": 2},
            2,
            2,
            False,
        ),
        ({"model_type": "falcon", "num_heads": 4, "multi_query": True}, 4, 1, False),
        ({"model_type": "falcon", "num_heads": 4, "multi_query": False}, 1, 4, True),
        ({"model_type": "falcon", "num_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True}, 2, 2, True),
    ],
)
def test_the_model_tells_the_order_of_query_key_value(metadata, queries, groups, interleaved):
    truth, one, other = grouped(queries, groups, 3, 12)
    source = open_weights({"h.0.self_attention.query_key_value.weight": other if interleaved else one})
    source.metadata.update(metadata)
    layers, _ = layers_of(source)
    assert len(layers) == 3
    for layer, expected in zip(layers, truth, strict=True):
        assert torch.equal(layer.matrix(), expected)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("a.query_key_value.weight", (24, 8)),  # GPT-NeoX and ChatGLM order it differently
        ("a.wqkv.weight", (24, 8)),
        ("a.qkv_proj.weight", (15, 8)),  # three equal parts would be 5 x 8, grouped queries something else
        ("a.qkv.weight", (25, 8)),
        ("a.gate_up_proj.weight", (7, 8)),
    ],
)
def test_what_is_not_told_stays_whole(key, shape):
    parts = named({key: numbers(*shape)})
    assert list(parts) == [key]
    assert parts[key].part == "fused"


class GPTNeoXAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.num_attention_heads = 2
        self.query_key_value = torch.nn.Linear(8, 24, bias=False)


def test_the_class_of_a_module_tells_the_order_without_a_configuration():
    block = torch.nn.ModuleDict({"attention": GPTNeoXAttention()})
    W = block["attention"].query_key_value.weight.detach()
    keys = named(block)["attention.query_key_value.weight[k]"].matrix()
    assert torch.equal(keys, torch.cat([W[4:8], W[16:20]]))


class GEGLU(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(4, 12, bias=False)


def test_the_class_of_a_module_tells_that_it_is_gated():
    module = torch.nn.Sequential(GEGLU())
    assert torch.equal(named(module)["0.proj.weight[gate]"].matrix(), module[0].proj.weight[6:])
    assert list(named(module.state_dict())) == ["0.proj.weight"]


def test_heads_of_a_text_model_do_not_cut_the_attention_of_images():
    source = open_weights({"vision.attn.qkv.weight": numbers(48, 16)})
    source.metadata.update({"num_heads": 4, "num_kv_heads": 2})
    assert [layer.rows for layer in layers_of(source)[0]] == [16, 16, 16]


def test_heads_that_do_not_fit_keep_the_weight_whole():
    W = numbers(24, 10)
    assert list(named({"a.qkv.weight": W}, num_heads=5, num_kv_heads=2)) == ["a.qkv.weight"]


@pytest.mark.parametrize(
    "key", ["mamba.in_proj.weight", "mlp.c_fc.weight", "mlp.dense_h_to_4h.weight", "mlp.up_proj.weight"]
)
def test_names_of_plain_weights_are_not_cut(key):
    layer = named({key: numbers(24, 8)})[key]
    assert layer.part == ""
    assert (layer.rows, layer.cols) == (24, 8)


# ---------------------------------------------------------------- gate and up, keys and values


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("mlp.gate_up_proj.weight", ("gate", "up")),
        ("mlp.up_gate_proj.weight", ("up", "gate")),
        ("mlp.w12.weight", ("gate", "up")),
        ("attn.to_kv.weight", ("k", "v")),
    ],
)
def test_two_halves(key, words):
    W = numbers(12, 5)
    parts = named({key: W})
    for word, half in zip(words, (W[:6], W[6:]), strict=True):
        assert torch.equal(parts[f"{key}[{word}]"].matrix(), half)


def test_fused_on_request():
    W = numbers(24, 8)
    assert torch.equal(named({"attn.qkv.weight": W}, split_fused=False)["attn.qkv.weight"].matrix(), W)


@pytest.mark.parametrize("options", [{"qkv_layout": "thirds"}, {"num_heads": 0}, {"num_kv_heads": 1.5}])
def test_wrong_options_are_named(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        named({"a": torch.ones(2, 2)}, **options)


# ---------------------------------------------------------------- experts


@pytest.mark.parametrize("rows", [True, False])
def test_stacked_experts_fall_apart_into_gate_and_up(rows):
    W = numbers(3, 12, 8) if rows else numbers(3, 8, 12)
    down = numbers(3, 8, 6) if rows else numbers(3, 6, 8)
    parts = named({"mlp.experts.gate_up_proj": W, "mlp.experts.down_proj": down})
    up = W[1, 6:] if rows else W[1, :, 6:]
    assert torch.equal(parts["mlp.experts.gate_up_proj[expert 1 up]"].matrix(), up)
    assert torch.equal(torch.cat(list(parts["mlp.experts.gate_up_proj[expert 1 up]"].row_blocks(nbytes=99))), up)
    assert torch.equal(parts["mlp.experts.down_proj[expert 2]"].take([3, 1]), down[2, [3, 1]])
    assert {layer.kind for layer in parts.values()} == {"expert"}


def test_interleaved_experts_are_known_by_their_biases():
    W = numbers(2, 8, 12)
    shapes = {"mlp.experts.gate_up_proj_bias": numbers(2, 12), "mlp.experts.down_proj": numbers(2, 6, 8)}
    parts = named({"mlp.experts.gate_up_proj": W, **shapes})
    assert torch.equal(parts["mlp.experts.gate_up_proj[expert 0 gate]"].matrix(), W[0, :, ::2])


@pytest.mark.parametrize("down", [(8, 4), (4, 8)])
def test_a_square_expert_is_cut_along_the_axis_that_its_sibling_tells(down):
    W = numbers(2, 8, 8)
    up = named({"experts.gate_up_proj": W, "experts.down_proj": numbers(2, *down)})["experts.gate_up_proj[expert 0 up]"]
    assert torch.equal(up.matrix(), W[0, 4:] if down == (8, 4) else W[0, :, 4:])


def test_an_expert_without_its_sibling_stays_whole():
    parts = named({"experts.gate_up_proj": numbers(2, 8, 8), "experts.other": numbers(2, 8, 4)})
    assert len([name for name in parts if "gate_up" in name]) == 2
