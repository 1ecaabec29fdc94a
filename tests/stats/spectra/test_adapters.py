"""Adapters: pairs of factors, their scale, and the base that they change, against dense products."""

from types import SimpleNamespace

import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.sources import open_weights


def numbers(*shape, random_state=0):
    return torch.as_tensor(generator(random_state).standard_normal(shape))


def found(tensors, metadata=(), **options):
    source = open_weights(tensors)
    source.metadata.update(metadata)
    layers, skipped = layers_of(source, **options)
    return {layer.name: layer for layer in layers}, dict(skipped)


A, B = numbers(4, 24), numbers(20, 4, random_state=1)


@pytest.mark.parametrize(
    ("key_a", "key_b", "name"),
    [
        ("q.lora_A.weight", "q.lora_B.weight", "q[adapter]"),
        ("q.lora_A.default.weight", "q.lora_B.default.weight", "q[adapter]"),
        ("q.lora_A.french.weight", "q.lora_B.french.weight", "q[adapter french]"),
        ("q.lora_a.weight", "q.lora_b.weight", "q[adapter]"),
        ("q.lora_down.weight", "q.lora_up.weight", "q[adapter]"),
        ("to_q_lora.down.weight", "to_q_lora.up.weight", "to_q[adapter]"),
        ("q.lora_linear_layer.down.weight", "q.lora_linear_layer.up.weight", "q[adapter]"),
        ("lora_A", "lora_B", "[adapter]"),
    ],
)
def test_factors_are_paired_by_their_names(key_a, key_b, name):
    layers, skipped = found({key_a: A, key_b: B}, {"lora_alpha": 8})
    assert list(layers) == [name]
    assert skipped == {key_a: f"factor A of {name}"}
    layer = layers[name]
    assert (layer.kind, layer.rows, layer.cols, layer.low_rank, layer.tensor) == ("adapter", 20, 24, 4, key_b)
    left, right, scale = layer.factors()
    torch.testing.assert_close(scale * left @ right, 2 * B @ A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.matrix(), 2 * B @ A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat(list(layer.row_blocks(nbytes=900))), 2 * B @ A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.take([3, 3, 19]), 2 * B[[3, 3, 19]] @ A, rtol=1e-12, atol=1e-12)
    assert layer.numel == A.numel() + B.numel()


def test_the_core_has_the_eigenvalues_of_the_dense_product():
    layer = found({"q.lora_A.weight": A, "q.lora_B.weight": B}, {"lora_alpha": 8})[0]["q[adapter]"]
    left, right, scale = layer.factors()
    core = torch.linalg.qr(left)[1] @ torch.linalg.qr(right.T)[1].T * scale
    dense = torch.linalg.svdvals(2 * B @ A)
    torch.testing.assert_close(torch.linalg.svdvals(core), dense[:4], rtol=1e-12, atol=1e-12)


def test_factors_stored_as_their_transposes():
    layer = found({"q.lora_a": A.T, "q.lora_b": B.T}, {"lora_alpha": 4})[0]["q[adapter]"]
    torch.testing.assert_close(layer.matrix(), B @ A, rtol=1e-12, atol=1e-12)
    assert layer.low_rank == 4


def test_an_adapter_of_an_embedding_is_turned():
    tensors = {"e.lora_embedding_A.default": A, "e.lora_embedding_B.default": B, "e.base_layer.weight": numbers(24, 20)}
    layers, _ = found(tensors, {"lora_alpha": 4})
    torch.testing.assert_close(layers["e[adapter]"].matrix(), (B @ A).T, rtol=1e-12, atol=1e-12)
    left, right, scale = layers["e[adapter]"].factors()
    torch.testing.assert_close(scale * left @ right, (B @ A).T, rtol=1e-12, atol=1e-12)
    total = layers["e.base_layer.weight[base+adapter]"].matrix()
    torch.testing.assert_close(total, numbers(24, 20) + (B @ A).T, rtol=1e-12, atol=1e-12)


def test_an_adapter_of_a_convolution_is_flattened():
    down, up, W = numbers(2, 6, 3, 3), numbers(5, 2, 1, 1, random_state=1), numbers(5, 6, 3, 3, random_state=2)
    tensors = {"c.lora_down.weight": down, "c.lora_up.weight": up, "c.alpha": torch.tensor(1.0), "c.weight": W}
    layers, skipped = found(tensors)
    delta = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down).flatten(1) / 2
    torch.testing.assert_close(layers["c[adapter]"].matrix(), delta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layers["c.weight[base+adapter]"].matrix(), W.flatten(1) + delta, rtol=1e-12, atol=1e-12)
    assert skipped["c.alpha"] == "0 dimensions"


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": {"default": 6, "other": 1}}, 1.5),
        ({"lora_alpha": 8, "alpha_pattern": {"q": 4, "v": 99}}, 1.0),
        ({"adapter_config": {"lora_alpha": 16}}, 4.0),
        ({}, 1.0),
    ],
)
def test_the_configuration_tells_the_scale(metadata, scale):
    layers, _ = found({"m.q.lora_A.weight": A, "m.q.lora_B.weight": B}, metadata)
    assert layers["m.q[adapter]"].factors()[2] == pytest.approx(scale, rel=1e-15)
    assert ("scale" in layers["m.q[adapter]"].part) == (not metadata)


def test_a_stored_alpha_goes_before_the_configuration():
    tensors = {"q.lora_down.weight": A, "q.lora_up.weight": B, "q.alpha": torch.tensor(2.0)}
    assert found(tensors, {"lora_alpha": 40})[0]["q[adapter]"].factors()[2] == 0.5


@pytest.mark.parametrize("suffix", ["weight", "base_layer.weight"])
def test_the_base_is_shown_alone_and_with_its_adapters(suffix):
    W = numbers(20, 24, random_state=5)
    tensors = {f"q.{suffix}": W}
    tensors |= {"q.lora_A.default.weight": A, "q.lora_B.default.weight": B}
    tensors |= {"q.lora_A.two.weight": 2 * A, "q.lora_B.two.weight": B}
    layers, _ = found(tensors, {"lora_alpha": 4})
    key = f"q.{suffix}"
    assert set(layers) == {key, "q[adapter]", "q[adapter two]", f"{key}[base+adapter]", f"{key}[base+adapter two]"}
    assert torch.equal(layers[key].matrix(), W)
    for word, factor in (("", 1), (" two", 2)):
        total = layers[f"{key}[base+adapter{word}]"]
        assert (total.kind, total.low_rank) == ("linear", None)
        expected = W + factor * B @ A
        torch.testing.assert_close(total.matrix(), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(total.take([7, 2]), expected[[7, 2]], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat(list(total.row_blocks(nbytes=999))), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(InvalidInputError, match=r"adapter to have factors; q\..*is none"):
        layers[key].factors()


def test_a_base_stored_as_its_transpose_turns_the_adapter():
    W = numbers(24, 20, random_state=5)
    for alpha in (4, 12):
        layers, _ = found({"q.weight": W, "q.lora_A.weight": A, "q.lora_B.weight": B}, {"lora_alpha": alpha})
        total = layers["q.weight[base+adapter]"].matrix()
        torch.testing.assert_close(total, W + alpha / 4 * (B @ A).T, rtol=1e-12, atol=1e-12)


def test_a_square_base_is_turned_where_the_configuration_says_so():
    W, a, b = numbers(9, 9), numbers(2, 9), numbers(9, 2)
    tensors = {"q.weight": W, "q.lora_A.weight": a, "q.lora_B.weight": b}
    for turned in (False, True):
        layers, _ = found(tensors, {"lora_alpha": 2, "fan_in_fan_out": turned})
        delta = (b @ a).T if turned else b @ a
        torch.testing.assert_close(layers["q.weight[base+adapter]"].matrix(), W + delta, rtol=1e-12, atol=1e-12)


def test_a_quantised_base_is_dequantised_before_the_adapter_is_added():
    q, s = torch.arange(480).reshape(20, 24).to(torch.int8), torch.full((20, 1), 0.5)
    tensors = {"q.weight": q, "q.weight_scale": s, "q.lora_A.weight": A.float(), "q.lora_B.weight": B.float()}
    total = found(tensors, {"lora_alpha": 4})[0]["q.weight[base+adapter]"].matrix()
    torch.testing.assert_close(total, q * s + B.float() @ A.float(), rtol=1e-5, atol=1e-4)


def test_adapters_with_magnitudes_offer_no_sum():
    tensors = {"q.weight": numbers(20, 24), "q.lora_A.weight": A, "q.lora_B.weight": B}
    tensors["q.lora_magnitude_vector"] = torch.ones(20)
    assert set(found(tensors)[0]) == {"q.weight", "q[adapter]"}


@pytest.mark.parametrize(
    "tensors",
    [
        {"q.lora_A.weight": A},
        {"q.lora_A.weight": A, "q.lora_B.weight": B[:, :3]},
        {"down.weight": A, "up.weight": B},
    ],
)
def test_what_is_no_pair_of_factors_stays_plain(tensors):
    layers, _ = found(tensors)
    assert set(layers) == set(tensors)


def test_a_base_of_another_shape_is_left_alone():
    tensors = {"q.weight": numbers(30, 24), "q.lora_A.weight": A, "q.lora_B.weight": B}
    assert set(found(tensors)[0]) == {"q.weight", "q[adapter]"}


def test_each_adapter_of_a_module_has_its_own_configuration():
    """As peft keeps them: `peft_config` by the name of the adapter, somewhere in the model."""

    def config(**words):
        return SimpleNamespace(to_dict=lambda: words)

    model = torch.nn.Module()
    model.inner = torch.nn.Module()
    for name, base, factors in (("A", A, (4, 24)), ("B", B, (20, 4))):
        holder = torch.nn.ModuleDict({key: torch.nn.Linear(*factors[::-1], bias=False) for key in ("default", "two")})
        for part in holder.values():
            part.weight = torch.nn.Parameter(base)
        setattr(model.inner, f"lora_{name}", holder)
    model.inner.base_layer = torch.nn.Linear(24, 20, dtype=torch.float64)
    model.inner.peft_config = {
        "default": config(r=4, lora_alpha=12),
        "two": config(r=4, lora_alpha=1, use_rslora=True, alpha_pattern={"inn.r": 10}),
    }
    source = open_weights(model)
    assert (source.metadata["r"], source.metadata["lora_alpha"]) == (4, 12)
    layers = {layer.name: layer for layer in layers_of(source)[0]}
    assert layers["inner[adapter]"].factors()[2] == 12 / 4
    assert layers["inner[adapter two]"].factors()[2] == 10 / 2
    assert layers["inner[adapter]"].part == "adapter"
    total = layers["inner.base_layer.weight[base+adapter]"].matrix()
    expected = model.inner.base_layer.weight.detach() + 3 * B @ A
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("told", "scale"),
    [
        ({"lora_alpha": "16"}, 1.0),
        ({"lora_alpha": [1]}, 1.0),
        ({"lora_alpha": float("inf")}, 1.0),
        ({"lora_alpha": 8, "alpha_pattern": "q"}, 2.0),
        ({"lora_alpha": 8, "alpha_pattern": {"(": 4}}, 2.0),
        ({"lora_alpha": 8, "alpha_pattern": {"(a+)+b": 4, "(a|a)*b": 4, ".*.*.*b": 4}}, 2.0),
        ({"lora_alpha": 8, "alpha_pattern": {r"layers\.\d+\.a*": 4}}, 1.0),
        ({"lora_alpha": 8, "alpha_pattern": {"x|a*": 4}}, 1.0),
        ({"lora_alpha": 8, "alpha_pattern": {"aaa": 4}}, 2.0),
        ({"lora_alpha": 8, "adapter_configs": {"default": 3}}, 2.0),
        ({"lora_alpha": 8, "config": {"text_config": "none"}, "adapter_config": [1]}, 2.0),
    ],
)
def test_a_configuration_may_tell_nonsense_or_search_forever(told, scale):
    path = "layers.3." + "a" * 60
    layers, _ = found({f"{path}.lora_A.weight": A, f"{path}.lora_B.weight": B}, told)
    assert layers[f"{path}[adapter]"].factors()[2] == scale
