"""The scheduler: a schedule times a factor, without compounding, resumed to the bit, within its share of time."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.stats.spectra import scheduler as module
from sciml.stats.spectra.exponents import read_exponents
from sciml.stats.spectra.layer_groups import layer_owners
from sciml.stats.spectra.scheduler import LayerwiseLR, param_groups

ALPHAS = {"0.weight": 2.0, "2.weight": 3.0, "4.weight": 4.0}


@pytest.fixture(autouse=True)
def _draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def known(monkeypatch):
    """Exponents that are known: the factors are 0.5, 1 and 1.5. Diagnoses are counted."""
    calls = []

    def exponents(model, names, metric):
        calls.append(metric)
        return read_exponents({name: ALPHAS[name] for name in names}, se=dict.fromkeys(names, 0.0))

    monkeypatch.setattr(module, "model_exponents", exponents)
    return calls


def network():
    return nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))


def train(model, optimizer):
    model(torch.ones(3, 12)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


BASES = {
    "none": lambda o: None,
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 8, eta_min=0.01),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "steps": lambda o: schedules.MultiStepLR(o, [2, 5], 0.1),
    "warm-up from zero": lambda o: schedules.LambdaLR(o, lambda t: min(t / 4, 1.0)),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.4, 10),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.3, step_size_up=3),
    "warm restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3),
    "sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=3), schedules.ExponentialLR(o, 0.9)], [3]
    ),
    "chain": lambda o: schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.9), schedules.StepLR(o, 2)], o),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=0),
}
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.2, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.2),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=0.2, fused=True),
}


def step(scheduler, k):
    scheduler.step(1.0 + k) if isinstance(scheduler, schedules.ReduceLROnPlateau) else scheduler.step()


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("base", BASES)
def test_rates_are_the_base_schedule_times_the_factor_at_every_step(known, base, grouped):
    plain, tuned = network(), network()
    reference = OPTIMIZERS["sgd"](plain.parameters())
    alone = BASES[base](reference)
    optimizer = OPTIMIZERS["sgd"](param_groups(tuned, 0.2) if grouped else tuned.parameters())
    scheduler = LayerwiseLR(optimizer, tuned, BASES[base](optimizer), initial=True)
    for k in range(9):
        (eta,) = [group["lr"] for group in reference.param_groups]
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [0.5 * eta, 1.0 * eta, 1.5 * eta]
        assert scheduler.get_last_lr() == rates == scheduler.get_lr()
        assert {group["momentum"] for group in optimizer.param_groups} == {reference.param_groups[0]["momentum"]}
        train(plain, reference)
        train(tuned, optimizer)
        if alone is not None:
            step(alone, k)
        scheduler.step(1.0 + k)
    assert len(known) == 10


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("base", BASES)
def test_a_resumed_training_is_bit_identical_and_diagnoses_nothing_on_the_way(known, base, kind):
    def build():
        model = network()
        optimizer = OPTIMIZERS[kind](param_groups(model, 0.2))
        return model, optimizer, LayerwiseLR(optimizer, model, BASES[base](optimizer), every=3)

    def go(model, optimizer, scheduler, steps):
        rates = []
        for k in steps:
            train(model, optimizer)
            scheduler.step(1.0 + k)
            rates.append(scheduler.get_last_lr())
        return rates

    torch.manual_seed(1)
    model, optimizer, scheduler = build()
    go(model, optimizer, scheduler, range(4))
    file = io.BytesIO()
    torch.save([copy.deepcopy(one.state_dict()) for one in (model, optimizer, scheduler)], file)
    rates = go(model, optimizer, scheduler, range(4, 9))

    file.seek(0)
    states = torch.load(file, weights_only=True)
    again = build()
    before = len(known)
    for one, state in zip(again, states, strict=True):
        one.load_state_dict(state)
    assert len(known) == before
    assert [group["lr"] for group in again[1].param_groups] == again[2].get_last_lr()
    assert go(*again, range(4, 9)) == rates
    for key in ("n_steps", "n_estimates", "interval", "layers"):
        assert again[2].report()[key] == scheduler.report()[key]
    for ours, theirs in zip(model.parameters(), again[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_first_factors_come_after_the_first_interval(known):
    model = network()
    optimizer = torch.optim.SGD(param_groups(model, 0.1))
    scheduler = LayerwiseLR(optimizer, model, every=3)
    for _ in range(2):
        scheduler.step()
        assert scheduler.get_last_lr() == [0.1, 0.1, 0.1]
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05, 0.1, pytest.approx(0.15, rel=1e-15)]
    assert len(known) == scheduler.report()["n_estimates"] == 1
    for _ in range(6):
        scheduler.step()
    assert scheduler.report()["interval"] == 3
    assert scheduler.report()["layers"]["4.weight"] == {"alpha": 4.0, "factor": 1.5}


def test_rates_set_by_hand_are_the_new_global_ones(known):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = LayerwiseLR(optimizer, model, initial=True)
    for eta in (0.0, 0.4, 0.02):
        for group in optimizer.param_groups:
            group["lr"] = eta
        for _ in range(2):
            scheduler.step()
            assert scheduler.get_last_lr() == [0.5 * eta, eta, 1.5 * eta]


def test_rates_that_are_tensors_stay_the_same_tensors(known):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.25))
    scheduler = LayerwiseLR(optimizer, model, schedules.ExponentialLR(optimizer, 0.5), initial=True)
    kept = [group["lr"] for group in optimizer.param_groups]
    train(model, optimizer)
    scheduler.step()
    assert all(group["lr"] is one for group, one in zip(optimizer.param_groups, kept, strict=True))
    assert [float(one) for one in kept] == [0.0625, 0.125, 0.1875]


def test_groups_with_rates_of_their_own_keep_their_ratio(known):
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.4},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.3)
    scheduler = LayerwiseLR(optimizer, model, initial=True)
    assert scheduler.get_last_lr() == [0.2, 0.1, pytest.approx(0.15)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3] * 3
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_weights_that_are_not_finite_keep_the_last_factors_and_are_named(known):
    model = network()
    optimizer = torch.optim.SGD(param_groups(model, 0.1))
    scheduler = LayerwiseLR(optimizer, model, initial=True)
    rates = scheduler.get_last_lr()
    model[2].weight.data[0, 0] = math.nan
    with pytest.warns(FallbackWarning, match=r"not finite in 2\.weight: the layer-wise factors stay"):
        scheduler.step()
    assert scheduler.get_last_lr() == rates


def test_without_any_standard_error_shrinkage_moves_no_rate(monkeypatch):
    monkeypatch.setattr(module, "model_exponents", lambda model, names, metric: read_exponents(ALPHAS))
    model = network()
    optimizer = torch.optim.SGD(param_groups(model, 0.1))
    with pytest.warns(FallbackWarning, match="no layer has a standard error"):
        scheduler = LayerwiseLR(optimizer, model, shrink=True, initial=True)
    assert scheduler.get_last_lr() == [0.1, 0.1, 0.1]


def test_layers_without_an_exponent_keep_the_global_rate(known, monkeypatch):
    monkeypatch.setitem(ALPHAS, "2.weight", math.inf)
    model = network()
    scheduler = LayerwiseLR(torch.optim.SGD(param_groups(model, 0.1)), model, initial=True)
    assert scheduler.get_last_lr() == [0.05, 0.1, pytest.approx(0.15)]
    assert scheduler.report()["untuned"] == ["2.weight"]


def test_excluded_layers_keep_the_global_rate(known):
    for in_groups in (True, False):
        model = network()
        groups = param_groups(model, 0.1, exclude=["first"] if in_groups else ())
        optimizer = torch.optim.SGD(groups)
        scheduler = LayerwiseLR(optimizer, model, exclude=() if in_groups else "first", initial=True)
        rates = {group["layer"]: group["lr"] for group in optimizer.param_groups}
        assert rates["2.weight"] == 0.05
        assert rates["4.weight"] == pytest.approx(0.15)
        assert rates["" if in_groups else "0.weight"] == 0.1
        assert list(scheduler.report()["layers"]) == ["2.weight", "4.weight"]


def test_the_last_layer_is_not_the_first(known):
    model = network()
    scheduler = LayerwiseLR(torch.optim.SGD(model.parameters(), 0.1), model, exclude=["last"], initial=True)
    assert list(scheduler.report()["layers"]) == ["0.weight", "2.weight"]
    scheduler = LayerwiseLR(torch.optim.SGD(model.parameters(), 0.1), model, exclude=["last", "first"], initial=True)
    assert list(scheduler.report()["layers"]) == ["2.weight"]


def test_diagnosis_takes_no_more_than_its_share_of_the_time(known, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    slow = module.model_exponents

    def costly(*arguments):
        clock[0] += 1.0
        return slow(*arguments)

    monkeypatch.setattr(module, "model_exponents", costly)
    model = network()
    scheduler = LayerwiseLR(torch.optim.SGD(param_groups(model, 0.1)), model, max_fraction=0.1, every=2)
    for _ in range(60):
        clock[0] += 2.0
        scheduler.step()
    report = scheduler.report()
    # The first at step 2, since nothing is known of its cost; then one second in ten: every five steps.
    assert report["interval"] == 5
    assert report["every"] == 2
    assert report["n_estimates"] == 1 + 58 // 5
    assert report["n_deferred"] == 3 * 11 + 2
    assert report["seconds_training"] == 120.0
    assert report["fraction"] == pytest.approx(12 / 120)


def test_a_real_network_is_diagnosed_and_trains():
    model = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 24))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scheduler = LayerwiseLR(optimizer, model, schedules.CosineAnnealingLR(optimizer, 4), shrink=True)
    for _ in range(2):
        model(torch.randn(8, 40)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    report = scheduler.report()
    assert all(one["alpha"] > 1 for one in report["layers"].values())
    assert all(0.5 <= one["factor"] <= 1.5 for one in report["layers"].values())


# ---------------------------------------------------------------- what follows what


class Block(nn.Module):
    """Pre-activation: each normalisation comes before its convolution."""

    def __init__(self):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.scale = nn.Parameter(torch.ones(4))


class Gpt(nn.Module):
    """Two normalisations before attention and before the rest, as in GPT."""

    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(8)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
        self.ln_2 = nn.LayerNorm(8)
        self.mlp = nn.ModuleDict({"fc": nn.Linear(8, 32), "proj": nn.Linear(32, 8)})


def followers(model):
    return {name: owner for name, owner in layer_owners(model).items() if name != owner}


def test_biases_follow_their_weights():
    assert followers(nn.LSTM(3, 4)) == {"bias_ih_l0": "weight_ih_l0", "bias_hh_l0": "weight_hh_l0"}
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    assert followers(attention) == {
        "in_proj_bias": "in_proj_weight",
        "bias_k": "in_proj_weight",
        "bias_v": "in_proj_weight",
        "out_proj.bias": "out_proj.weight",
    }
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    weight = "parametrizations.weight.original1"
    assert followers(normed) == {"bias": weight, "parametrizations.weight.original0": weight}


def test_normalisations_follow_the_layer_they_normalise():
    named = followers(Block())
    assert (named["norm1.weight"], named["norm2.bias"]) == ("conv1.weight", "conv2.weight")
    assert named["scale"] is None
    ordered = followers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    assert ordered["1.weight"] == "0.weight"
    first = followers(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)))
    assert first["0.weight"] == "1.weight"
    block = followers(Gpt())
    assert (block["ln_1.weight"], block["ln_2.weight"]) == ("attn.qkv.weight", "attn.proj.weight")
    encoder = followers(nn.TransformerEncoderLayer(8, 2, 16))
    assert (encoder["norm1.weight"], encoder["norm2.weight"]) == ("self_attn.out_proj.weight", "linear2.weight")
    assert followers(nn.Sequential(nn.LayerNorm(5), nn.Linear(8, 4)))["0.weight"] is None


def test_groups_hold_every_parameter_once():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 9))
    model[3].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    groups = param_groups(model, 0.1, 0.01, vector_decay=False)
    assert sorted((g["layer"], len(g["params"]), g["weight_decay"]) for g in groups) == [
        ("", 1, 0.0),
        ("0.weight", 1, 0.01),
        ("1.weight", 1, 0.01),
        ("1.weight", 2, 0.0),
    ]
    held = [id(p) for g in groups for p in g["params"]]
    assert len(held) == len(set(held)) == 5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"every": 0}, "every must be an integer at least 1"),
        ({"max_fraction": 0.0}, "max_fraction must be a number above 0"),
        ({"rule": "liner"}, "Did you mean 'linear'"),
        ({"s": (2.0, 1.0)}, r"s\[1\] must be a number at least 2"),
        ({"exclude": 3}, "exclude must be a list of 'first', 'last' and names of layers; got 3"),
        ({"exclude": ["5.weight"]}, "exclude must hold 'first', 'last' or names of layers; got '5.weight'"),
        ({"optimizer": None}, "optimizer must be a torch.optim.Optimizer; got NoneType"),
        ({"base_scheduler": 3}, "base_scheduler must be a torch scheduler or None; got int"),
        ({"model": nn.Linear(3, 3)}, "optimizer must hold a weight matrix of model"),
    ],
)
def test_wrong_arguments_are_refused(change, match):
    model = network()
    given = {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "model": model, **change}
    with pytest.raises(InvalidInputError, match=match):
        LayerwiseLR(**given)


def test_what_does_not_belong_together_is_refused(known):
    model = network()
    optimizer, other = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(InvalidInputError, match="base_scheduler must act on optimizer"):
        LayerwiseLR(optimizer, model, schedules.StepLR(other, 2))
    scheduler = LayerwiseLR(optimizer, model, schedules.ReduceLROnPlateau(optimizer))
    with pytest.raises(InvalidInputError, match="metrics must be the number"):
        scheduler.step()
    with pytest.raises(InvalidInputError, match="state_dict must be of a scheduler of this model"):
        scheduler.load_state_dict({**scheduler.state_dict(), "layers": ["0.weight"]})
    with pytest.raises(InvalidInputError, match="the same kind of base_scheduler"):
        scheduler.load_state_dict({**scheduler.state_dict(), "base": None})
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(InvalidInputError, match="optimizer must keep its 3 groups; it has 4 now"):
        scheduler.step(1.0)
    with pytest.raises(InvalidInputError, match="parameters that can be trained; got none"):
        param_groups(nn.ReLU(), 0.1)
    with pytest.raises(InvalidTypeError, match="model must be a torch.nn.Module"):
        param_groups([], 0.1)
