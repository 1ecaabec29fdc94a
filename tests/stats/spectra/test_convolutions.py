"""Kernels, modes and stacks: which matrices a tensor of three or more axes holds."""

import pytest
import torch

from sciml.random import generator
from sciml.stats.spectra.layouts import layers_of
from sciml.stats.spectra.sources import open_weights


def numbers(*shape, random_state=0):
    return torch.as_tensor(generator(random_state).standard_normal(shape))


def only(obj, **options):
    layers, skipped = layers_of(open_weights(obj), **options)
    (layer,) = layers
    return layer, skipped


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (1, 2, 3)])
@pytest.mark.parametrize("as_module", [True, False])
def test_a_kernel_is_one_matrix_for_each_position(kernel, as_module):
    convolution = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(kernel) - 1]
    module = convolution(16, 20, kernel, bias=False)
    layer, _ = only(module if as_module else {"features.0.weight": module.weight.detach()})
    flat = module.weight.detach().flatten(2)
    assert (layer.kind, layer.n_slices, layer.rows, layer.cols) == ("conv", flat.shape[2], 20, 16)
    assert torch.equal(torch.stack(list(layer.matrices()), dim=2), flat)
    assert layer.numel == module.weight.numel()
    assert torch.equal(layer.take([4, 1], k=flat.shape[2] - 1), flat[[4, 1], :, -1])
    assert torch.equal(torch.cat(list(layer.row_blocks(k=1, nbytes=500))), flat[:, :, 1])


def test_a_position_acts_like_a_convolution_with_one_entry():
    module = torch.nn.Conv2d(16, 16, 3, padding=1, bias=False).double()
    layer, _ = only(module)
    x = torch.zeros(1, 16, 5, 5).double()
    x[0, :, 2, 2] = numbers(16)
    # The output one to the right and below of the only point sees the first position of the kernel.
    torch.testing.assert_close(module(x)[0, :, 3, 3], layer.matrix(0) @ x[0, :, 2, 2], rtol=1e-12, atol=1e-12)


def test_few_channels_are_flattened():
    module = torch.nn.Conv2d(3, 64, 7, bias=False)
    layer, _ = only(module)
    assert (layer.n_slices, layer.rows, layer.cols) == (1, 64, 147)
    assert torch.equal(layer.matrix(), module.weight.detach().flatten(1))
    assert only(module, min_size=3)[0].n_slices == 49
    assert only(torch.nn.Conv2d(32, 32, 3, bias=False), conv="flatten")[0].cols == 288


def test_groups_are_pooled_and_never_mixed():
    module = torch.nn.Conv1d(32, 64, 5, groups=2, bias=False)
    layer, _ = only(module)
    assert (layer.n_slices, layer.rows, layer.cols) == (10, 32, 16)
    assert torch.equal(layer.matrix(7), module.weight.detach()[32:, :, 2])
    flat, _ = only(module, conv="flatten")
    assert (flat.n_slices, flat.rows, flat.cols) == (2, 32, 80)
    assert torch.equal(flat.matrix(1), module.weight.detach()[32:].flatten(1))


def test_a_depthwise_kernel_is_one_matrix_or_none():
    layer, _ = only(torch.nn.Conv2d(32, 32, 7, groups=32, bias=False))
    assert (layer.n_slices, layer.rows, layer.cols) == (1, 32, 49)
    for obj in (torch.nn.Conv2d(32, 32, 3, groups=32, bias=False), {"conv.weight": torch.ones(32, 1, 3, 3)}):
        layers, skipped = layers_of(open_weights(obj))
        assert not layers
        assert "depthwise convolution: its matrix 32 x 9 is below min_size=16" in skipped[0][1]


def test_one_input_channel_is_not_depthwise():
    assert only(torch.nn.Conv2d(1, 32, 3, bias=False))[0].cols == 9


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_its_outputs_as_rows(groups):
    module = torch.nn.ConvTranspose1d(32, 40, 3, groups=groups, bias=False).double()
    layer, _ = only(module)
    assert (layer.n_slices, layer.rows, layer.cols) == (3 * groups, 40 // groups, 32 // groups)
    x = numbers(1, 32, 1)
    y = torch.cat([layer.matrix(3 * g + 2) @ x[0].chunk(groups)[g] for g in range(groups)])
    torch.testing.assert_close(module(x)[0, :, 2:], y, rtol=1e-12, atol=1e-12)
    flat, _ = only(module, conv="flatten")
    assert (flat.n_slices, flat.rows, flat.cols) == (groups, 40 // groups, 96 // groups)
    assert torch.equal(flat.matrix(), module.weight.detach()[: 32 // groups].transpose(0, 1).flatten(1))


def test_kernels_of_patches_and_long_kernels_are_convolutions():
    assert only({"visual.conv1.weight": torch.ones(32, 3, 32, 32)})[0].cols == 3072
    assert only({"pos_conv_embed.conv.weight": torch.ones(32, 16, 128)})[0].n_slices == 128
    assert only({"patch_embed.proj.weight": torch.ones(32, 3, 2, 14, 14)})[0].kind == "conv"


# ---------------------------------------------------------------- modes


class Spectral(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights1 = torch.nn.Parameter(weights)


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_modes_are_complex_matrices_stored_either_way(as_module, paired):
    W = torch.complex(numbers(5, 4, 3, 2), numbers(5, 4, 3, 2, random_state=1))
    stored = torch.view_as_real(W) if paired else W
    layer, _ = only(Spectral(stored) if as_module else {"conv0.weights1": stored})
    assert (layer.kind, layer.n_slices, layer.is_complex) == ("spectral", 6, True)
    assert torch.equal(torch.stack(list(layer.matrices()), dim=2), W.flatten(2))
    assert torch.equal(layer.take([3], k=5), W[[3], :, 2, 1])


def test_a_last_axis_of_two_alone_makes_no_complex_numbers():
    assert not only({"features.0.weight": torch.ones(20, 20, 3, 3, 2)})[0].is_complex


def test_half_complex_becomes_complex64():
    with pytest.warns(UserWarning, match="ComplexHalf"):
        stored = torch.ones(4, 4, dtype=torch.complex32)
    assert only({"a": stored})[0].matrix().dtype == torch.complex64


# ---------------------------------------------------------------- stacks


def test_leading_axes_count_matrices():
    W = numbers(2, 3, 20, 16, 18)
    layer, _ = only({"attn.relative_table": W})
    assert layer.n_slices == 6 * 20
    layer, _ = only({"attn.rel_pos_table": numbers(1, 4, 20, 20)})
    assert (layer.n_slices, layer.rows) == (4, 20)
    layer, _ = only({"heads": W[0, 0]})
    assert torch.equal(layer.matrix(19), W[0, 0, 19])


def test_positions_of_an_image_are_rows():
    W = numbers(1, 4, 5, 32)
    layer, _ = only({"pos_embed": W})
    assert (layer.kind, layer.n_slices) == ("embedding", 1)
    assert torch.equal(layer.matrix(), W.reshape(20, 32))


def test_a_bilinear_map_is_a_stack_even_with_few_inputs():
    module = torch.nn.Bilinear(16, 4, 3, bias=False)
    layer, _ = only(module)
    assert (layer.kind, layer.n_slices, layer.rows, layer.cols) == ("linear", 3, 16, 4)
