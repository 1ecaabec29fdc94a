"""Dequantised weights against packers written here, entry by entry and in plain Python where that is short."""

import json

import numpy as np
import pytest
import torch

from sciml.random import generator
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.packed_floats import FLOAT4
from sciml.stats.spectra.sources import open_weights


def codes(*shape, high=16, random_state=0):
    return generator(random_state).integers(0, high, shape)


def real(*shape, random_state=1):
    return generator(random_state).uniform(0.5, 1.5, shape).astype(np.float32)


def tensors_of(**arrays):
    return {name.replace("__", "."): torch.as_tensor(array) for name, array in arrays.items()}


def only(tensors, metadata=()):
    source = open_weights(tensors)
    source.metadata.update(metadata)
    layers, skipped = layers_of(source)
    (layer,) = layers
    assert {layer.tensor, *(key for key, _ in skipped)} == set(source.tensors)
    return layer, dict(skipped)


def assert_reads(layer, W):
    """The matrix, in one piece, in blocks and by rows."""
    W = torch.as_tensor(W, dtype=torch.float32)
    assert layer.matrix().dtype == torch.float32
    torch.testing.assert_close(layer.matrix(), W, rtol=1e-6, atol=1e-7)
    blocks = list(layer.row_blocks(nbytes=3 * layer._stored_row(layer.views[0].base) + 12 * W.shape[1]))
    assert len(blocks) > 1
    torch.testing.assert_close(torch.cat(blocks), W, rtol=1e-6, atol=1e-7)
    assert layer.take([]).shape == (0, W.shape[1])
    index = [len(W) - 1, 0, 3, 3]
    torch.testing.assert_close(layer.take(index), W[index], rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- eight bits


@pytest.mark.parametrize(
    ("shape", "scale", "spread"),
    [
        ((24, 32), (), lambda s: s),
        ((24, 32), (1,), lambda s: s),
        ((24, 32), (24,), lambda s: s[:, None]),
        ((24, 32), (24, 1), lambda s: s),
        ((24, 32), (32,), lambda s: s[None]),
        ((24, 32), (1, 32), lambda s: s),
        ((24, 32), (24, 4), lambda s: s.repeat(8, 1)),
        ((24, 32), (3, 4), lambda s: s.repeat(8, 0).repeat(8, 1)),
    ],
)
@pytest.mark.parametrize("word", ["weight_scale", "weight__scale", "scale", "weight_scale_inv"])
def test_a_scale_belongs_to_the_tensor_a_row_a_column_a_group_or_a_block(shape, scale, spread, word):
    q, s = codes(*shape, high=256) - 128, real(*scale) if scale else np.float32(0.25)
    layer, skipped = only(tensors_of(fc__weight=q.astype(np.int8), **{f"fc__{word}": s}))
    assert skipped == {f"fc.{word.replace('__', '.')}": "scale of fc.weight"}
    assert_reads(layer, q * spread(s))


def test_blocks_of_128_may_be_cut_at_the_border():
    q, s = codes(150, 140, high=200) - 100, real(2, 2)
    stored = torch.as_tensor(q, dtype=torch.float32).to(torch.float8_e4m3fn)
    layer, _ = only({"a.weight": stored, "a.weight_scale_inv": torch.as_tensor(s)})
    assert layer.stored_dtype == "float8_e4m3fn"
    assert_reads(layer, stored.float() * torch.as_tensor(s.repeat(128, 0)[:150].repeat(128, 1)[:, :140]))


def test_the_configuration_tells_the_size_of_blocks():
    q, s = (codes(20, 30, high=99)).astype(np.int8), real(3, 4)
    layer, _ = only(
        tensors_of(a__weight=q, a__weight_scale_inv=s), {"quantization_config": {"weight_block_size": [8, 8]}}
    )
    assert_reads(layer, q * s.repeat(8, 0)[:20].repeat(8, 1)[:, :30])


def test_zero_points_are_subtracted_before_scaling():
    q, s, z = codes(12, 16, high=256).astype(np.uint8), real(12, 1), codes(12, 1, high=256).astype(np.uint8)
    layer, skipped = only(tensors_of(a__weight=q, a__scales=s, a__zero_point=z))
    assert skipped["a.zero_point"] == "zero point of a.weight"
    assert_reads(layer, s * (q.astype(float) - z))


def test_rows_of_llm_int8_are_scaled_by_their_maximum():
    q, s = (codes(12, 16, high=255) - 127).astype(np.int8), real(12)
    layer, _ = only(tensors_of(a__weight=q, a__SCB=s))
    assert_reads(layer, q * s[:, None] / 127)


def test_a_stack_of_experts_is_scaled_by_blocks():
    q = codes(3, 8, 12, high=99).astype(np.int8)
    for s in (real(3, 1, 12), real(3, 8, 1), real(3, 2, 3), real(3)):
        layers, _ = layers_of(open_weights(tensors_of(mlp__experts__w1=q, mlp__experts__w1_scale=s)))
        spread = s.repeat(8 // s.shape[1], 1).repeat(12 // s.shape[2], 2) if s.ndim == 3 else s[:, None, None]
        for e in range(3):
            torch.testing.assert_close(layers[e].matrix(), torch.as_tensor(q[e] * spread[e]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_short_floats_need_no_scale(dtype):
    W = torch.as_tensor(real(8, 6)).to(dtype)
    layer, _ = only({"a.weight": W})
    assert torch.equal(layer.matrix(), W.float())
    assert torch.equal(layer.take([5, 1]), W.float()[[5, 1]])


def test_integers_without_a_scale_that_fits_are_no_weights():
    q = codes(8, 6).astype(np.int8)
    for extra in ({}, {"a__weight_scale": real(5)}, {"a__weight_scale": real(8, 5)}):
        layers, skipped = layers_of(open_weights(tensors_of(a__weight=q, **extra)))
        assert not [layer for layer in layers if layer.tensor == "a.weight"]
        assert "scale" in dict(skipped)["a.weight"]
        assert len(layers) + len(skipped) == 1 + len(extra)


def test_a_scale_beside_a_float_is_left_alone():
    layers, _ = layers_of(open_weights(tensors_of(a__weight=real(8, 6), a__scale=real(8, 6))))
    assert [layer.name for layer in layers] == ["a.weight", "a.scale"]


# ---------------------------------------------------------------- four bits and so


def bit_stream(numbers, bits, order=None):
    """Pack numbers along axis 0 into int32 words: number j has the bits from j * bits on of the stream."""
    n, m = numbers.shape
    words = np.zeros((n * bits // 32, m), dtype=np.uint64)
    for j in range(n):
        for b in range(bits):
            at = j * bits + b
            words[at // 32] |= ((numbers[j] >> b) & 1).astype(np.uint64) << np.uint64(at % 32)
    return words.astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("v2", [False, True])
def test_gptq(bits, act_order, v2):
    inputs, outputs, size = 64, 32, 16
    q, s = codes(inputs, outputs, high=2**bits), real(inputs // size, outputs)
    z = codes(inputs // size, outputs, high=2**bits - 1, random_state=2) + (0 if v2 else 1)
    group = np.arange(inputs) // size
    if act_order:
        group = generator(3).permutation(group)
    tensors = tensors_of(
        a__qweight=bit_stream(q, bits), a__qzeros=bit_stream((z if v2 else z - 1).T, bits).T.copy(), a__scales=s
    )
    if act_order:
        tensors["a.g_idx"] = torch.as_tensor(group.astype(np.int32))
    layer, skipped = only(tensors, {"quantization_config": {"checkpoint_format": "gptq_v2"}} if v2 else {})
    assert skipped["a.qzeros"] == "zero points of a.qweight"
    assert (layer.rows, layer.cols, layer.stored_dtype) == (inputs, outputs, "int32")
    assert_reads(layer, s[group] * (q - z[group]))


def awq_pack(numbers):
    """Nibble number k of a word, from below, holds column (0, 2, 4, 6, 1, 3, 5, 7)[k] of its eight."""
    n, m = numbers.shape
    words = np.zeros((n, m // 8), dtype=np.uint32)
    for k, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words |= numbers[:, column::8].astype(np.uint32) << np.uint32(4 * k)
    return words.view(np.int32)


def test_awq():
    q, z, s = codes(64, 40), codes(4, 40, random_state=2), real(4, 40)
    layer, _ = only(tensors_of(a__qweight=awq_pack(q), a__qzeros=awq_pack(z), a__scales=s.astype(np.float16)))
    assert_reads(layer, s.astype(np.float16).astype(np.float32).repeat(16, 0) * (q - z.repeat(16, 0)))


def test_packed_queries_keys_and_values_are_cut_along_the_outputs():
    q, z, s = codes(16, 48), codes(1, 48, random_state=2), real(1, 48)
    layers, _ = layers_of(
        open_weights(tensors_of(attn__qkv__qweight=awq_pack(q), attn__qkv__qzeros=awq_pack(z), attn__qkv__scales=s))
    )
    W = torch.as_tensor(s * (q - z), dtype=torch.float32)
    assert [layer.name for layer in layers] == [f"attn.qkv.qweight[{word}]" for word in "qkv"]
    torch.testing.assert_close(layers[1].matrix(), W[:, 16:32], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
def test_compressed_tensors(bits, zeros, act_order):
    rows, columns, groups = 16, 30, 3
    q, s = codes(rows, columns, high=2**bits) - 2 ** (bits - 1), real(rows, groups)
    z = (codes(rows, groups, high=2**bits, random_state=2) - 2 ** (bits - 1)) * zeros
    group = generator(4).permutation(np.arange(columns) // 10) if act_order else np.arange(columns) // 10
    padded = np.zeros((rows, 32), dtype=int)
    padded[:, :columns] = q + 2 ** (bits - 1)
    tensors = tensors_of(
        a__weight_packed=bit_stream(padded.T, bits).T.copy(),
        a__weight_scale=s,
        a__weight_shape=np.array([rows, columns]),
    )
    if zeros:
        tensors["a.weight_zero_point"] = torch.as_tensor(bit_stream(z + 2 ** (bits - 1), bits))
    if act_order:
        tensors["a.weight_g_idx"] = torch.as_tensor(group.astype(np.int32))
    layer, skipped = only(tensors)
    assert skipped["a.weight_shape"] == "shape of a.weight_packed"
    assert_reads(layer, (q - z[:, group]) * s[:, group])


def bytes_of(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("columns", [48, 33])
def test_bitsandbytes(nested, columns):
    rows, block = 20, 64
    q, table = codes(rows, columns), real(16)
    flat = q.flatten()
    state = {"shape": [rows, columns], "blocksize": block, "dtype": "float32", "quant_type": "nf4"}
    n_blocks = -(-flat.size // block)
    if nested:
        inner, inner_table, outer = codes(n_blocks, high=256).astype(np.uint8), real(256), real(-(-n_blocks // 4))
        state |= {"nested_blocksize": 4, "nested_offset": 0.125}
        absmax = inner_table[inner] * outer.repeat(4)[:n_blocks] + 0.125
        extra = {"a__weight__nested_absmax": outer, "a__weight__nested_quant_map": inner_table}
    else:
        inner, absmax, extra = (x := real(n_blocks)), x, {}
    packed = ((flat[::2] << 4) | flat[1::2]).astype(np.uint8)[:, None]
    tensors = tensors_of(a__weight=packed, a__weight__absmax=inner, a__weight__quant_map=table, **extra)
    tensors["a.weight.quant_state.bitsandbytes__nf4"] = bytes_of(json.dumps(state))
    layer, skipped = only(tensors)
    assert set(skipped.values()) == {"quantisation state of a.weight"}
    assert_reads(layer, (table[flat] * absmax.repeat(block)[: flat.size]).reshape(rows, columns))


def test_a_state_that_cannot_be_read_is_told():
    tensors = tensors_of(
        a__weight=codes(8, 1).astype(np.uint8), a__weight__absmax=real(1), a__weight__quant_map=real(16)
    )
    tensors["a.weight.quant_state.bitsandbytes__fp4"] = bytes_of("{")
    layers, skipped = layers_of(open_weights(tensors))
    assert not layers
    assert "cannot be read" in dict(skipped)["a.weight"]


def test_mxfp4_experts():
    q, s = codes(2, 64, 2, 32), codes(2, 64, 2, high=10) + 122
    blocks = (q[..., ::2] | (q[..., 1::2] << 4)).astype(np.uint8)
    tensors = tensors_of(
        mlp__experts__gate_up_proj_blocks=blocks,
        mlp__experts__gate_up_proj_scales=s.astype(np.uint8),
        mlp__experts__gate_up_proj_bias=real(2, 64),
        mlp__experts__down_proj_blocks=blocks[:, :, :1],
        mlp__experts__down_proj_scales=s[:, :, :1].astype(np.uint8),
    )
    layers, skipped = layers_of(open_weights(tensors))
    W = (np.array(FLOAT4)[q] * 2.0 ** (s[..., None] - 127)).reshape(2, 64, 64)
    found = {layer.name: layer.matrix() for layer in layers}
    up = found["mlp.experts.gate_up_proj_blocks[expert 1 up]"]
    torch.testing.assert_close(up, torch.as_tensor(W[1, 1::2], dtype=torch.float32), rtol=0, atol=0)
    assert dict(skipped)["mlp.experts.gate_up_proj_scales"] == "scales of mlp.experts.gate_up_proj_blocks"


def test_nvfp4():
    q, s = codes(8, 32), torch.as_tensor(real(8, 2)).to(torch.float8_e4m3fn)
    tensors = tensors_of(a__weight_packed=(q[:, ::2] | (q[:, 1::2] << 4)).astype(np.uint8))
    tensors |= {"a.weight_scale": s, "a.weight_global_scale": torch.tensor([4.0])}
    layer, _ = only(tensors)
    assert_reads(layer, np.array(FLOAT4)[q] * s.float().numpy().repeat(16, 1) / 4)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a__qweight": np.zeros((4, 8), dtype=np.int32)},
        {
            "a__qweight": np.zeros((4, 7), dtype=np.int32),
            "a__qzeros": np.zeros((1, 1), dtype=np.int32),
            "a__scales": real(1, 8),
        },
        {"a__weight_packed": np.zeros((4, 8), dtype=np.int32), "a__weight_scale": real(4, 1)},
        {"a__weight_packed": np.zeros((4, 8), dtype=np.int32)},
    ],
)
def test_packed_weights_of_an_unknown_layout_are_told(tensors):
    layers, skipped = layers_of(open_weights(tensors_of(**tensors)))
    assert not layers
    assert any("packed weight" in reason for _, reason in skipped)


def test_quantisation_moves_the_matrix_by_half_a_step_only():
    W = generator(5).standard_normal((64, 64)).astype(np.float32)
    s = np.abs(W).max(axis=1, keepdims=True) / 127
    layer, _ = only(tensors_of(a__weight=np.round(W / s).astype(np.int8), a__weight_scale=s))
    assert float((layer.matrix() - torch.as_tensor(W)).abs().max()) <= s.max() / 2 * (1 + 1e-5)


def lying_bitsandbytes(shape=(4, 8), block=16, table=16, state=None, **parts):
    told = json.dumps({"shape": shape, "blocksize": block, **parts}) if state is None else state
    return {
        "q.weight": torch.zeros(16, 1, dtype=torch.uint8),
        "q.weight.absmax": torch.ones(2),
        "q.weight.quant_map": torch.linspace(-1, 1, table),
        "q.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(told.encode()), dtype=torch.uint8),
    }


def lying_gptq(**parts):
    good = {
        "qweight": torch.zeros(8, 64, dtype=torch.int32),
        "qzeros": torch.zeros(2, 8, dtype=torch.int32),
        "scales": torch.ones(2, 64),
        "g_idx": torch.arange(64, dtype=torch.int32) // 32,
    }
    return {f"q.{name}": tensor for name, tensor in {**good, **parts}.items()}


def lying_nvfp4(**parts):
    good = {"weight_packed": torch.zeros(8, 16, dtype=torch.uint8), "weight_scale": torch.ones(8, 2)}
    return {f"q.{name}": tensor for name, tensor in {**good, **parts}.items()}


@pytest.mark.parametrize(
    "tensors",
    [
        lying_bitsandbytes(shape=(4, 10**12)),
        lying_bitsandbytes(shape=(-4, -8)),
        lying_bitsandbytes(block=0),
        lying_bitsandbytes(block=2**60),
        lying_bitsandbytes(table=8),
        lying_bitsandbytes(state="[" * 100_000),
        lying_bitsandbytes(state='{"shape": [4, 1e999], "blocksize": 16}'),
        lying_bitsandbytes() | {"q.weight.nested_absmax": torch.ones(1)},
        lying_gptq(qzeros=torch.zeros(1, 8, dtype=torch.int32)),
        lying_gptq(scales=torch.ones(2, 0)),
        lying_gptq(g_idx=torch.full((64,), 2)),
        lying_gptq(g_idx=torch.full((64,), -1)),
        lying_gptq(g_idx=torch.zeros(64, 1)),
        lying_gptq(g_idx=torch.zeros(3)),
        lying_nvfp4(weight_global_scale=torch.zeros(0)),
        lying_nvfp4(weight_global_scale=torch.zeros(1)),
        lying_nvfp4(weight_scale=torch.ones(3, 2)),
        lying_nvfp4(weight_scale=torch.ones(8, 0)),
        lying_nvfp4(weight_scale=torch.ones(8, 2, dtype=torch.complex64)),
        {"q.weight": torch.zeros(8, 8, dtype=torch.int8), "q.weight_scale": torch.ones(0, 1)},
    ],
)
def test_parts_that_do_not_fit_set_the_weight_aside(tensors):
    source = open_weights(tensors)
    layers, skipped = layers_of(source)
    reasons = dict(skipped)
    assert not layers
    assert set(reasons) == set(tensors)
    key = next(iter(tensors))
    assert "quantised" in reasons[key] or "packed" in reasons[key]


@pytest.mark.parametrize("block", [5, "128", [0, 0], [128], [64.0, 64.0]])
def test_a_configuration_may_tell_nonsense_about_blocks(block):
    tensors = tensors_of(q__weight=codes(8, 8).astype(np.int8), q__weight_scale=real(2, 4))
    for told in (block, None):
        layer, _ = only(tensors, {"quantization_config": {"weight_block_size": told}})
        spread = tensors["q.weight_scale"].repeat_interleave(4, 0).repeat_interleave(2, 1)
        assert_reads(layer, tensors["q.weight"] * spread)
    layer, _ = only(tensors, {"quantization_config": "fp8"})
    assert layer.shape == (8, 8)


@pytest.mark.parametrize("number", ["x", [4], 0, -4, 1.5, True, 2**40])
def test_numbers_of_heads_that_are_none_are_not_known(number):
    tensors = {"attn.query_key_value.weight": torch.ones(24, 8)}
    layer, _ = only(tensors, {"config": {"num_attention_heads": number, "architectures": 3}, "model_type": "gpt_neox"})
    assert layer.part != "q"
