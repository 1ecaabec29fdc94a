"""Sparsities by layer: the budget holds whatever comes, ratios follow the exponents, plain ways are always told."""

import math
import warnings

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import sciml
from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.stats.spectra.sparsity import Ratios, assign_sparsity, block_of
from sciml.stats.spectra.water_filling import allocate, exact_counts


def problem(rng):
    """Return exponents with ties and gaps, sizes over six decades, a spread, bounds, and a target, often at a bound."""
    n = int(rng.integers(1, 30))
    alpha = 1 + rng.gamma(2, 2, n)
    if rng.random() < 0.3:
        alpha = np.round(alpha)
    for gap in (np.inf, np.nan):
        if rng.random() < 0.2:
            alpha[rng.integers(n)] = gap
    d = np.ceil(10 ** rng.uniform(1, 7, n))
    eps = rng.choice([rng.uniform(-1, 1), rng.uniform(-5, 5), 1.0, -1.0, 0.0])
    low, high = rng.choice([0.0, rng.uniform(0, 0.4)]), rng.choice([0.99, 1.0, rng.uniform(0.6, 1)])
    near = 1e-9 * (high - low)
    return alpha, d, eps, low, high, rng.choice([low, high, rng.uniform(low, high), low + near, high - near])


def test_a_thousand_budgets_are_exact_within_bounds_and_follow_the_exponents():
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(1000):
        alpha, d, eps, low, high, target = problem(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            plan = assign_sparsity(alpha, target, sizes=d, eps=eps, r_min=low, r_max=high, unit="layer")
        r, counts = np.asarray(plan), np.array(list(plan.counts.values()))
        worst = max(worst, abs(math.fsum(d * r) / math.fsum(d) - target))
        assert (r >= low).all()
        assert (r <= high).all()
        known = np.isfinite(alpha)
        steps = np.diff(r[known][np.argsort(alpha[known], kind="stable")])
        assert (steps * np.sign(eps) >= 0).all()
        assert_allclose(r[~known], target, rtol=0, atol=0)
        assert counts.sum() == round(math.fsum(d * r))
        assert (np.abs(counts - d * r) < 1 + 1e-9 * d).all()
    assert worst <= 1e-12


def fill_by_repetition(w, d, target, low, high):
    """Clip, give the deficit to the free layers in proportion, repeat: the twin that is easy to read."""
    fixed, r = np.zeros(len(w), dtype=bool), w.copy()
    while True:
        rest = target * d.sum() - (d * r)[fixed].sum()
        r[~fixed] = w[~fixed] * rest / (d * w)[~fixed].sum()
        over, under = ~fixed & (r > high), ~fixed & (r < low)
        if not (over | under).any():
            return r
        # One side at a time, the one that is off by more: the other may come right by itself.
        excess, lack = (d * (r - high))[over].sum(), (d * (low - r))[under].sum()
        bad, bound = (over, high) if excess >= lack else (under, low)
        r[bad], fixed = bound, fixed | bad


def test_is_the_limit_of_clipping_and_giving_to_the_others():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = 8
        alpha, d, eps = 1 + rng.gamma(2, 2, n), np.ceil(10 ** rng.uniform(1, 4, n)), rng.uniform(-0.9, 0.9)
        low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        target = rng.uniform(low + 0.01, high - 0.01)
        w = 1 - eps + 2 * eps * (alpha - alpha.min()) / np.ptp(alpha)
        expected = fill_by_repetition(w, d, target, low, high)
        assert_allclose(allocate(alpha, d, target, eps, low, high), expected, rtol=1e-9)


def test_without_clipping_it_is_the_published_scaling():
    alpha, d = np.array([2.0, 3.0, 5.0]), np.array([100.0, 10.0, 1000.0])
    w = 0.8 + 0.4 * (alpha - 2) / 3
    r = np.asarray(assign_sparsity(alpha, 0.5, sizes=d, unit="layer"))
    assert_allclose(r, w * 0.5 * d.sum() / (d * w).sum(), rtol=1e-14)


def test_raw_ratios_below_zero_are_filled_last():
    # eps = 3 makes the raw ratios -2, 1 and 4: the first gets nothing until the others are full.
    r = allocate(np.array([2.0, 3.0, 4.0]), np.ones(3), 0.5, 3.0)
    assert r[0] == 0
    assert_allclose(allocate(np.array([2.0, 3.0, 4.0]), np.ones(3), 0.9, 3.0), [0.72, 0.99, 0.99], rtol=1e-12)


def test_extreme_exponents_and_spreads_do_not_overflow():
    r = np.asarray(assign_sparsity([1e-300, 1.0, 1.7e308], 0.5, eps=1e6, unit="layer"))
    big = assign_sparsity({"a": 1e300, "b": 2e300}, 0.5, sizes={"a": 10**12, "b": 10**12}, unit="layer")
    assert list(big.values()) == pytest.approx([0.4, 0.6], rel=1e-12)
    assert_allclose(r, [0.255, 0.255, 0.99], rtol=1e-12)  # the first two differ by nothing beside the third
    assert abs(r.mean() - 0.5) <= 1e-12


def test_adapters_are_not_pruned_and_a_base_counts_once():
    rng = np.random.default_rng(0)
    tensors = {
        "a.base_layer.weight": rng.standard_normal((32, 32)),
        "a.lora_A.default.weight": rng.standard_normal((2, 32)),
        "a.lora_B.default.weight": rng.standard_normal((32, 2)),
        "b.weight": rng.standard_normal((32, 64)),
    }
    found = sciml.diagnose(tensors)
    assert "a.base_layer.weight[base+adapter]" in found.layer
    plain = sciml.diagnose({key: W for key, W in tensors.items() if "lora" not in key})
    plan = assign_sparsity(found, 0.5, unit="layer")
    assert plan.counts == assign_sparsity(plain, 0.5, unit="layer").counts
    assert sum(plan.counts.values()) == (32 * 32 + 32 * 64) // 2


def test_layers_of_a_block_share_their_mean():
    alphas = {
        f"model.layers.{i}.{part}": a for i, (p, q) in enumerate([(2, 4), (5, 5)]) for part, a in [("q", p), ("up", q)]
    }
    alphas["head"] = 4.0
    plan = assign_sparsity(alphas, 0.5, eps=0.4)
    assert plan["model.layers.0.q"] == plan["model.layers.0.up"] < plan["head"] < plan["model.layers.1.q"]
    single = assign_sparsity(alphas, 0.5, eps=0.4, unit="layer")
    assert single["model.layers.0.q"] < single["model.layers.0.up"]
    named = assign_sparsity(alphas, 0.5, eps=0.4, blocks=lambda key: key.split(".")[-1])
    assert named["model.layers.0.q"] == named["model.layers.1.q"]
    given = assign_sparsity(alphas, 0.5, eps=0.4, blocks={"head": "model", "model.layers.0.q": "model"})
    assert given["head"] == given["model.layers.0.q"]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("encoder.layer.3.attention.self.query.weight", "encoder.layer.3"),
        ("model.layers.31.mlp.experts.5.up_proj.weight", "model.layers.31"),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.0"),
        ("h.12.mlp.c_fc.weight", "h.12"),
        ("blocks.7.mlp.fc1.weight", "blocks.7"),
        ("layers.1.blocks.4.attn.qkv.weight", "layers.1.blocks.4"),
        ("decoder.block.2.layer.1.EncDecAttention.k.weight", "decoder.block.2"),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("player.3.weight", "player.3.weight"),
    ],
)
def test_blocks_are_read_from_names(name, block):
    assert block_of(name) == block


def test_parts_of_a_tensor_get_one_ratio_from_their_weighted_mean():
    alphas = {"a[q]": 2.0, "a[k]": 5.0, "b": 2.75, "c": 4.0}
    plan = assign_sparsity(alphas, 0.5, sizes={"a[q]": 300, "a[k]": 100, "b": 50, "c": 50}, unit="layer")
    assert list(plan) == ["a", "b", "c"]
    assert plan["a"] == pytest.approx(plan["b"], rel=1e-14)
    assert plan.counts["a"] + plan.counts["b"] + plan.counts["c"] == 250


def test_embeddings_of_a_result_are_left_out():
    data = xr.Dataset(
        {"alpha_farms": ("layer", [2.0, 3.0, 4.0]), "numel": ("layer", [10, 1000, 30])},
        {"layer": ["a", "e", "b"], "kind": ("layer", ["linear", "embedding", "linear"])},
    )
    plan = assign_sparsity(data, 0.5)
    assert list(plan) == ["a", "b"]
    assert sum(plan.counts.values()) == 20
    assert list(assign_sparsity(data, 0.5, embeddings=True)) == ["a", "e", "b"]
    with pytest.raises(InvalidInputError, match="a layer that is no embedding"):
        assign_sparsity(data.isel(layer=[1]), 0.5)


def test_gaps_get_the_target_and_are_named():
    with pytest.warns(FallbackWarning, match=r"not finite for b: 1 of 3 tensors get the target 0\.5 itself"):
        plan = assign_sparsity({"a": 2.0, "b": np.inf, "c": 4.0}, 0.5)
    assert plan["b"] == 0.5
    assert plan["a"] < 0.5 < plan["c"]


def test_counts_by_largest_remainder():
    assert exact_counts([0.29], [100]).tolist() == [29]
    assert exact_counts([0.25, 0.35, 0.4], [10, 10, 10]).tolist() == [3, 3, 4]
    assert exact_counts([0.16, 0.18, 0.16], [10, 10, 10]).tolist() == [2, 2, 1]
    assert exact_counts([0.99, 0.985], [100, 100], 0.99).tolist() == [99, 99]
    assert exact_counts([0.0, 1.0], [7, 9]).tolist() == [0, 9]


def test_counts_of_large_tensors_are_whole_and_exact():
    # Each product ends in about one half: none of them is a whole number that rounding missed.
    d = np.array([10_000_000_001, 10_000_000_003, 10_000_000_005])
    assert exact_counts([0.5, 0.5, 0.5], d).tolist() == [5_000_000_001, 5_000_000_001, 5_000_000_002]
    rng = np.random.default_rng(0)
    d = rng.integers(10**9, 10**11, 40)
    ratios = rng.uniform(0.1, 0.9, 40)
    counts = exact_counts(ratios, d)
    assert counts.sum() == round(math.fsum(ratios * d))
    assert_allclose(counts, ratios * d, rtol=0, atol=1)
    # 2000 products a little below whole numbers, which are brought there, make one too many in sum.
    assert exact_counts(np.full(2000, 1 - 6e-10), np.ones(2000)).sum() == 2000
    assert exact_counts(np.full(2000, 0.5 - 4e-10), np.full(2000, 2_000_000)).sum() == 1_999_999_998


def test_validation_returns_the_best_and_always_the_baselines():
    seen = []

    def best_at_minus_one_tenth(ratios):
        seen.append(ratios.criterion)
        return -abs(ratios["a"] - ratios["b"] - 0.1)

    plan = assign_sparsity({"a": 2.0, "b": 4.0}, 0.5, eps=[-0.3, -0.1, 0.2], validate=best_at_minus_one_tenth)
    assert seen == ["magnitude"] * 4 + ["row"]
    assert (plan.name, plan.eps, plan.criterion) == ("eps=-0.1", -0.1, "magnitude")
    assert plan.to_dict()["name"] == ["eps=-0.3", "eps=-0.1", "eps=0.2", "uniform", "row"]
    assert plan.to_dict()["best"] == [False, True, False, False, False]
    assert plan.scores[3]["score"] == pytest.approx(-0.1)
    assert plan.baselines["row"] == {"a": 0.5, "b": 0.5}
    assert plan.baselines["row"].criterion == "row"


def test_a_baseline_that_wins_is_returned():
    plan = assign_sparsity({"a": 2.0, "b": 4.0}, 0.5, eps=0.2, validate=lambda ratios, criterion: criterion == "row")
    assert (plan.name, plan.criterion) == ("row", "row")
    assert dict(plan) == {"a": 0.5, "b": 0.5}
    broken = assign_sparsity({"a": 2.0, "b": 4.0}, 0.5, eps=0.2, validate=lambda ratios: math.nan)
    assert broken.name == "eps=0.2"
    unscored = assign_sparsity({"a": 2.0, "b": 4.0}, 0.5)
    assert [math.isnan(score) for score in unscored.to_dict()["score"]] == [True] * 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": 0.995}, r"target must be between r_min and r_max, here between 0 and 0\.99; got 0\.995"),
        ({"target": 0.2, "r_min": 0.3}, r"between 0\.3 and 0\.99; got 0\.2"),
        ({"r_min": 0.6, "r_max": 0.4}, "r_max must be a number at least 0.6"),
        ({"unit": "blocks"}, "unit must be one of .*Did you mean 'block'"),
        ({"eps": [0.1, 0.2]}, "eps must be one number where validate is None; got 2"),
        ({"eps": np.nan}, "eps must be a number; got nan"),
        ({"sizes": [1, 0]}, "sizes must be above 0; got 0.0 for layer 1"),
        ({"sizes": [1, np.nan]}, "sizes must be above 0; got nan for layer 1"),
        ({"blocks": 3}, "blocks must be None or a dict of str to str or callable; got 3"),
        ({"validate": 3}, "validate must be None or a callable; got 3"),
        ({"sizes": {"a": 1}}, "sizes must have the layers as keys; the layers have no names"),
    ],
)
def test_wrong_arguments_are_refused(options, match):
    with pytest.raises(InvalidInputError, match=match):
        assign_sparsity(**{"alphas": [2.0, 3.0], "target": 0.5, **options})


def test_ratios_remember_how_they_are_meant():
    assert Ratios({"a": 0.5}).criterion is None
    assert dict(Ratios({"a": 0.5}, "row")) == {"a": 0.5}
