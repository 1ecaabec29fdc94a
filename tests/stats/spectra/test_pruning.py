"""Pruning: exact counts, every layout by its outputs, Wanda's norms as the layers see them, honest tables."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.stats.spectra.exponents import model_exponents
from sciml.stats.spectra.input_activity import batches_of, evaluating, input_norms
from sciml.stats.spectra.pruning import CRITERIA, apply_masks, prune
from sciml.stats.spectra.pruning_baselines import compare_pruning
from sciml.stats.spectra.solve import diagnose
from sciml.stats.spectra.sparsity import Ratios, assign_sparsity
from sciml.stats.spectra.weight_views import as_rows, from_rows, prunable_weights


class Conv1D(nn.Module):
    """A Linear that stores its transpose, as transformers have it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x):
        return x @ self.weight


@pytest.fixture(autouse=True)
def _draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (11, 7)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 9)),
    "circular": (lambda: nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular"), (2, 3, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
    "conv1d": (lambda: Conv1D(5, 7), (11, 7)),
    "lstm": (lambda: nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True), (3, 6, 4)),
    "gru": (lambda: nn.GRU(4, 5), (6, 3, 4)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8)),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("ratio", [0.0, 0.37, 1.0])
def test_the_number_of_zeros_is_exact_in_every_layout(kind, ratio, criterion):
    make, shape = LAYERS[kind]
    model = make()
    before = copy.deepcopy(model.state_dict())
    masks = prune(model, ratio, criterion=criterion, calibration=torch.randn(shape))
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(ratio * total)
    for name, value in model.state_dict().items():
        expected = before[name].masked_fill(~masks[name], 0) if name in masks else before[name]
        assert torch.equal(value, expected)
    assert model.training
    assert hooks(model) == 0


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_are_outputs(kind):
    for weight in prunable_weights(LAYERS[kind][0]()):
        rows = as_rows(weight)
        assert torch.equal(from_rows(weight, rows), weight.parameter)
        assert rows.numel() == weight.parameter.numel()
    if kind in ("linear", "conv", "transposed", "conv1d"):
        # Only the first output changes with the first row.
        make, shape = LAYERS[kind]
        model, x = make(), torch.randn(shape)
        (weight,) = prunable_weights(model)
        y = model(x).detach()
        mask = torch.zeros_like(as_rows(weight))
        mask[0] = 1
        with torch.no_grad():
            weight.parameter.add_(from_rows(weight, mask))
        axis = 1 if "weight" in dir(model) and y.ndim > 2 else -1
        changed = (model(x) - y).abs().transpose(0, axis).flatten(1).sum(1) > 0
        assert changed.tolist() == [True] + [False] * (len(changed) - 1)


def test_magnitudes_and_rows_by_hand_with_ties_by_index():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0, 3.0, 4.0], [1.0, 10.0, -20.0, 30.0]])
    masks = prune(copy.deepcopy(layer), 3 / 8)
    assert masks["weight"].tolist() == [[False, False, True, True], [False, True, True, True]]
    masks = prune(copy.deepcopy(layer), 3 / 8, criterion="row")
    assert masks["weight"].tolist() == [[False, False, True, True], [False, True, True, True]]
    masks = prune(copy.deepcopy(layer), 4 / 8, criterion="row")
    assert masks["weight"].tolist() == [[False, False, True, True], [False, False, True, True]]
    layer.weight.data.fill_(1.0)
    assert prune(layer, 3 / 8)["weight"].tolist() == [[False, False, False, True], [True] * 4]


def test_wanda_by_hand_and_dead_inputs_go_first():
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0, 9.0]])
    x = torch.tensor([[3.0, 1.0, 0.0], [4.0, 1.0, 0.0]])
    (weight,) = prunable_weights(layer)
    assert input_norms(layer, x, [weight])["weight"].tolist() == [[5.0, pytest.approx(2.0**0.5), 0.0]]
    assert prune(copy.deepcopy(layer), 1 / 3, criterion="wanda", calibration=x)["weight"].tolist() == [
        [True, True, False]
    ]
    assert prune(copy.deepcopy(layer), 2 / 3, criterion="wanda", calibration=x)["weight"].tolist() == [
        [True, False, False]
    ]


def test_norms_of_a_convolution_are_those_of_its_patches():
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    x = torch.randn(2, 4, 9, 9)
    norms = input_norms(layer, x, prunable_weights(layer))["weight"]
    patches = nn.functional.unfold(x, 3, stride=2, padding=1)  # (2, 4 * 9, positions)
    expected = patches.square().sum((0, 2)).sqrt().reshape(2, 18)
    torch.testing.assert_close(norms, expected.repeat_interleave(3, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_norms_of_a_parametrised_layer_are_those_of_the_layer():
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm, nn.utils.parametrizations.spectral_norm):
        for make, shape in (LAYERS["linear"], LAYERS["conv"], LAYERS["transposed"]):
            layer, x = make(), torch.randn(shape)
            expected = input_norms(layer, x, prunable_weights(layer))["weight"]
            wrapped = wrap(layer)
            (weight,) = prunable_weights(wrapped)
            torch.testing.assert_close(input_norms(wrapped, x, [weight])[weight.name], expected)
            assert as_rows(weight).shape[-1] == expected.shape[-1]


def test_norms_of_a_recurrent_layer_are_those_of_inputs_and_states():
    layer = nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
    x = torch.randn(3, 6, 4)
    norms = input_norms(layer, x, prunable_weights(layer))
    first = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
    first.load_state_dict({k: v for k, v in layer.state_dict().items() if "_l0" in k})
    h1, h2 = first(x)[0], layer(x)[0]

    def norm(values):
        return values.detach().square().sum((0, 1)).sqrt()[None]

    torch.testing.assert_close(norms["weight_ih_l0_reverse"], norm(x))
    torch.testing.assert_close(norms["weight_ih_l1"], norm(h1))
    torch.testing.assert_close(norms["weight_hh_l0"], norm(h1[:, :-1, :5]))
    torch.testing.assert_close(norms["weight_hh_l1_reverse"], norm(h2[:, 1:, 5:]))


def test_norms_of_attention_are_those_of_query_key_value_and_heads():
    layer = nn.MultiheadAttention(6, 2, batch_first=True)
    q, k, v = torch.randn(2, 3, 6), torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    norms = input_norms(layer, (q, k, v), prunable_weights(layer))
    for i, x in enumerate((q, k, v)):
        expected = x.square().sum((0, 1)).sqrt().expand(6, -1)
        torch.testing.assert_close(norms["in_proj_weight"][6 * i : 6 * i + 6], expected)
    bare = copy.deepcopy(layer)
    bare.out_proj.weight.data, bare.out_proj.bias.data = torch.eye(6), torch.zeros(6)
    heads = bare(q, k, v)[0].detach()
    torch.testing.assert_close(norms["out_proj.weight"], heads.square().sum((0, 1)).sqrt()[None])


def test_batches_add_up_and_come_in_every_form():
    layer = nn.Linear(3, 2)
    x = torch.randn(10, 3)
    weights = prunable_weights(layer)
    whole = input_norms(layer, x, weights)["weight"]
    for form in ([x[:4], x[4:]], ((x[:5], x[5:])[i] for i in range(2)), {"input": x}, (x,), [(x,)], [x.numpy()]):
        torch.testing.assert_close(input_norms(layer, form, weights)["weight"], whole)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(10)), batch_size=4)
    torch.testing.assert_close(input_norms(layer, loader, weights)["weight"], whole)
    assert [args for args, _ in batches_of([])] == []


def test_the_mode_of_every_module_comes_back_and_hooks_go_also_after_an_error():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    prune(model, 0.5, criterion="wanda", calibration=torch.randn(9, 3))
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        prune(model, 0.9, criterion="wanda", calibration=torch.randn(9, 5))
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert hooks(model) == 0
    assert torch.backends.mha.get_fastpath_enabled()
    assert int((model[0].weight == 0).sum()) == 6  # of the first call only
    with evaluating(model), torch.no_grad():
        assert not model.training


def test_tied_weights_are_pruned_once_and_answer_to_both_names():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    masks = prune(model, {"1.weight": 0.5})
    assert list(masks) == ["0.weight"]
    assert int((model[1].weight == 0).sum()) == 8
    with pytest.raises(InvalidInputError, match=r"'1\.weight' is tied to another"):
        prune(model, {"0": 0.5, "1.weight": 0.5})
    # The norms are those of all places.
    x = torch.randn(5, 4)
    norm = input_norms(model, x, prunable_weights(model)[:1])["0.weight"]
    inner = model[0](x).detach()
    torch.testing.assert_close(norm, (x.square().sum(0) + inner.square().sum(0)).sqrt()[None])


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_weight_norm_is_pruned_by_the_name_of_the_weight_it_makes():
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm):
        model = nn.Sequential(wrap(nn.Linear(40, 20)), nn.Linear(20, 20))
        alphas = diagnose(model, metrics=("alpha_farms",))
        plan = assign_sparsity(alphas, 0.5, eps=0.4)
        masks = prune(model, plan)
        model(torch.zeros(1, 40))
        assert int((model[0].weight == 0).sum()) == sum(
            int((~mask).sum()) for name, mask in masks.items() if name[0] == "0"
        )
        assert model_exponents(model, list(masks)).names == list(masks)


def test_one_ratio_leaves_embeddings_heads_and_norms_alone():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 4), "fc": nn.Linear(4, 4), "norm": nn.LayerNorm((2, 4))})
    model["lm_head"] = nn.Linear(4, 6)
    model["out"] = nn.Linear(4, 6)
    model["out"].weight = model["embed"].weight
    assert list(prune(model, 0.5)) == ["fc.weight"]
    assert list(prune(model, {"embed.weight": 0.5})) == ["embed.weight"]


def test_a_plan_is_followed_to_the_count_and_by_its_criterion():
    model = nn.Sequential(nn.Linear(11, 7), nn.Linear(7, 5))
    sizes = {"0.weight": 77, "1.weight": 35}
    plan = assign_sparsity({"0.weight": 2.0, "1.weight": 3.0}, 0.43, sizes=sizes, unit="layer")
    masks = prune(model, plan)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == plan.counts
    rows = prune(nn.Linear(10, 4), Ratios({"weight": 0.5}, "row"))["weight"]
    assert (~rows).sum(1).tolist() == [5, 5, 5, 5]


def test_masks_are_applied_again():
    layer = nn.Linear(4, 3)
    masks = prune(layer, 0.5)
    layer.weight.data += 1
    apply_masks(layer, masks)
    assert torch.equal(layer.weight != 0, masks["weight"])
    with pytest.raises(InvalidInputError, match=r"weight has \(2, 4\), its mask \(3, 4\)"):
        apply_masks(nn.Linear(4, 2), masks)


def test_half_precision_and_double_agree_with_their_own_weights():
    for dtype in (torch.bfloat16, torch.float64):
        layer = nn.Linear(6, 4).to(dtype)
        masks = prune(layer, 0.5, criterion="wanda", calibration=torch.randn(5, 6).to(dtype))
        assert int((layer.weight == 0).sum()) == int((~masks["weight"]).sum()) == 12


def test_the_table_has_the_plain_ways_and_leaves_the_model():
    model = nn.Sequential(nn.Linear(12, 12, bias=False), nn.ReLU(), nn.Linear(12, 12, bias=False))
    x = torch.randn(20, 12) * torch.logspace(-1, 0, 12)
    y = model(x).detach()
    before = copy.deepcopy(model.state_dict())

    def score(net):
        assert not net.training
        return -float((net(x) - y).square().mean())

    table = compare_pruning(model, score, 0.6, calibration=iter([x]), eps=(-0.2, 0.2), alphas=[2.0, 3.0], unit="layer")
    assert table.to_dict()["name"] == ["dense", "uniform", "row", "wanda", "eps=-0.2", "eps=0.2"]
    assert table.score("dense") == 0
    assert {row["zeros"] for row in table.rows[1:]} == {round(0.6 * 288) / 288}
    assert table.score("wanda") == table.best["score"] > table.score("uniform")
    assert table.ratios["eps=0.2"]["0.weight"] < 0.6 < table.ratios["eps=0.2"]["2.weight"]
    assert table.ratios["eps=-0.2"]["0.weight"] > 0.6
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.training


@pytest.mark.parametrize(
    ("ratios", "options", "match"),
    [
        (1.2, {}, "ratios must be a number at least 0 and at most 1; got 1.2"),
        ({"3": 0.5}, {}, r"'3' is none of 0\.weight, 1\.weight"),
        ({"0.weight": -0.1}, {}, r"ratios\['0\.weight'\] must be a number at least 0"),
        ({}, {}, "ratios must name at least one weight"),
        (0.5, {"criterion": "wand"}, "criterion must be one of .*Did you mean 'wanda'"),
        (0.5, {"criterion": "wanda"}, "calibration must be a batch of inputs, or batches, .* got NoneType"),
        (0.5, {"criterion": "wanda", "calibration": []}, "calibration must hold at least one batch"),
        (
            0.5,
            {"criterion": "wanda", "calibration": torch.full((1, 4), np.nan)},
            r"those of 0\.weight, 1\.weight are not",
        ),
    ],
)
def test_wrong_arguments_are_refused(ratios, options, match):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(InvalidInputError, match=match):
        prune(model, ratios, **options)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_what_cannot_be_pruned_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data[0, 0] = np.nan
    with pytest.raises(InvalidInputError, match=r"1\.weight has 1 that are not"):
        prune(model, 0.5)
    lonely = nn.ModuleList([nn.Linear(4, 4)])
    lonely.forward = lambda x: x
    with pytest.raises(InvalidInputError, match=r"0\.weight saw none of it"):
        prune(lonely, 0.5, criterion="wanda", calibration=torch.zeros(1, 4))
    with pytest.raises(InvalidInputError, match="bilinear|belongs to a Bilinear"):
        prune(nn.Bilinear(3, 3, 2), 0.5, criterion="wanda", calibration=(torch.zeros(1, 3), torch.zeros(1, 3)))
    with pytest.raises(InvalidInputError, match="got none"):
        prune(nn.LayerNorm(4), 0.5)
    with pytest.raises(InvalidTypeError, match="model must be a torch.nn.Module; got dict"):
        prune({}, 0.5)
    with pytest.raises(InvalidInputError, match="'weight' has none yet"):
        prune(nn.LazyLinear(3), 0.5)
    with pytest.raises(InvalidInputError, match="without projections"):
        prune(nn.LSTM(4, 5, proj_size=2), 0.5, criterion="wanda", calibration=torch.zeros(2, 1, 4))


def test_masks_of_numbers_and_scores_that_are_none_are_named():
    layer = torch.nn.Linear(20, 20)
    with pytest.raises(InvalidInputError, match="masks must be tensors of torch.bool; that of weight is torch.f"):
        apply_masks(layer, {"weight": torch.ones(20, 20)})
    with pytest.raises(InvalidInputError, match="evaluate must be a callable that returns a score; got 3"):
        compare_pruning(layer, 3, 0.5)
