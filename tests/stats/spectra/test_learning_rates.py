"""A rate for each layer: the published maps, their limits, and what noise and gaps do to them."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.stats.spectra.exponents import by_tensor, model_exponents, read_exponents
from sciml.stats.spectra.learning_rates import RULES, assign_lr, rate_factors, shrunken

many = st.lists(st.floats(1.5, 9), min_size=2, max_size=12)


def dataset(**columns):
    table = {
        "alpha_farms": [2.0, 3.0, 4.0],
        "alpha": [4.0, 3.0, 2.0],
        "alpha_se": [0.0, 0.0, 0.0],
        "numel": [10, 20, 30],
        **columns,
    }
    data = xr.Dataset({key: ("layer", values) for key, values in table.items()}, {"layer": ["a", "b[q]", "c"]})
    return data.assign_coords(tensor=("layer", ["a", "b", "c"]), kind=("layer", ["linear", "attention", "embedding"]))


def test_linear_rates_meet_both_ends_and_the_published_formula():
    alpha = np.array([2.5, 2.0, 4.0, 3.0])
    rates = assign_lr(alpha, 0.1, s=(0.1, 1.9))
    assert_allclose(rates, 0.1 * (0.1 + 1.8 * (alpha - 2) / 2), rtol=1e-14)
    assert rates[1] == 0.1 * 0.1
    assert rates[2] == 0.1 * 1.9


@pytest.mark.parametrize(("rule", "f"), [("sqrt", np.sqrt), ("log2", np.log2)])
def test_rates_by_a_function_are_normalised_to_the_global_one(rule, f):
    alpha = np.array([2.0, 4.0, 8.0])
    rates = assign_lr(alpha, 0.3, rule)
    assert_allclose(rates, 0.3 * 3 * f(alpha) / f(alpha).sum(), rtol=1e-14)
    assert rates.mean() == pytest.approx(0.3, rel=1e-14)


def test_step_rates_go_by_rank_from_zero_and_ties_share_theirs():
    assert_allclose(assign_lr([9.0, 2.0, 3.0, 5.0], 1.0, "step"), [1.25, 0.5, 0.75, 1.0], rtol=1e-14)
    assert_allclose(assign_lr([2.0, 3.0, 3.0, 5.0], 1.0, "step"), [0.5, 0.875, 0.875, 1.25], rtol=1e-14)


def test_sigmoid_rates_are_the_published_formula_and_do_not_overflow():
    alpha = np.array([2.0, 2.1, 2.4])
    sigma = 1 / (1 + np.exp(-10 * (alpha - alpha.mean())))
    assert_allclose(assign_lr(alpha, 2.0, "sigmoid", 0.25), 2 * 10 ** (0.25 * (sigma - 0.5)), rtol=1e-13)
    assert_allclose(rate_factors([1.0, 1e6], "sigmoid", 1.0), [10**-0.5, 10**0.5], rtol=1e-13)
    # A pair keeps the ratio of the highest to the lowest.
    low, high = rate_factors([1.0, 1e6], "sigmoid", (0.5, 1.5))
    assert high / low == pytest.approx(3.0)
    gentle = rate_factors(alpha, "sigmoid", 0.25, tau=1.0)
    assert np.ptp(gentle) < np.ptp(rate_factors(alpha, "sigmoid", 0.25))


@pytest.mark.parametrize("rule", RULES)
def test_equal_exponents_and_single_layers_keep_the_global_rate(rule):
    assert_allclose(assign_lr([3.0, 3.0, 3.0], 0.1, rule), 0.1, rtol=1e-15)
    assert_allclose(assign_lr([3.0, np.nextafter(3.0, 4)], 0.1, rule), 0.1, rtol=1e-15)
    assert assign_lr([3.0], 0.1, rule).tolist() == [0.1]
    assert assign_lr([2.0, 3.0], 0.0, rule).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
@given(alpha=many)
def test_a_higher_exponent_never_gets_a_lower_rate(rule, alpha):
    order = np.argsort(alpha, kind="stable")
    rates = assign_lr(alpha, 1.0, rule)
    assert (np.diff(rates[order]) >= 0).all()
    assert_allclose(assign_lr(np.array(alpha)[order], 1.0, rule), rates[order], rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_layers_without_an_exponent_get_the_global_rate_and_are_named(rule):
    with pytest.warns(FallbackWarning, match=r"not finite for flat, gone: 2 of 4 layers get the global rate 0\.5"):
        rates = assign_lr({"a": 2.0, "flat": np.inf, "b": 4.0, "gone": np.nan}, 0.5, rule)
    assert list(rates) == ["a", "flat", "b", "gone"]
    assert rates["flat"] == rates["gone"] == 0.5
    assert [rates["a"], rates["b"]] == assign_lr([2.0, 4.0], 0.5, rule).tolist()


def test_results_give_names_and_embeddings_keep_the_global_rate():
    assert assign_lr(dataset(), 1.0) == {"a": 0.5, "b[q]": 1.5, "c": 1.0}
    assert assign_lr(dataset(), 1.0, embeddings=True) == {"a": 0.5, "b[q]": 1.0, "c": 1.5}
    assert assign_lr(dataset(), 1.0, metric="alpha") == {"a": 1.5, "b[q]": 0.5, "c": 1.0}

    class Result:
        def to_xarray(self):
            return dataset()

    assert assign_lr(Result(), 1.0) == assign_lr(dataset(), 1.0)
    assert assign_lr(dataset()["alpha_farms"], 1.0) == {"a": 0.5, "b[q]": 1.0, "c": 1.5}
    assert assign_lr(torch.tensor([2.0, 4.0]), 1.0).tolist() == [0.5, 1.5]


def test_shrinkage_pulls_noisy_exponents_and_leaves_sure_ones():
    alpha = np.array([2.0, 3.0, 4.0, 7.0])
    se = np.array([0.1, 0.1, 0.1, 2.0])
    T = alpha.var(ddof=1) - np.mean(se**2)
    expected = alpha.mean() + (1 - se**2 / (se**2 + T)) * (alpha - alpha.mean())
    assert_allclose(shrunken(alpha, se), expected, rtol=1e-14)
    assert shrunken(alpha, np.zeros(4)).tolist() == alpha.tolist()
    # An unknown error counts as the largest known one.
    assert_allclose(shrunken(alpha, [0.1, 0.1, 2.0, np.nan]), shrunken(alpha, [0.1, 0.1, 2.0, 2.0]), rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_where_errors_explain_all_differences_no_rate_moves(rule):
    alpha = [2.0, 2.1, 2.2]
    assert_allclose(assign_lr(alpha, 0.1, rule, se=[0.5] * 3, shrink=True), 0.1, rtol=1e-12)
    assert_allclose(assign_lr(alpha, 0.1, rule, se=[0.0] * 3, shrink=True), assign_lr(alpha, 0.1, rule), rtol=1e-12)


def test_the_range_of_the_linear_map_shrinks_with_the_exponents():
    # Variance 2, errors 1: half the variance between the layers is noise, and half of the range is left.
    rates = assign_lr([2.0, 4.0], 1.0, se=[1.0, 1.0], shrink=True)
    assert_allclose(rates, [0.75, 1.25], rtol=1e-14)


def test_parts_are_joined_by_their_sizes_and_gaps_do_not_count():
    parts = {"w[q]": 2.0, "w[k]": 5.0, "w[v]": np.nan, "u": np.inf, "v": np.nan}
    sizes = {"w[q]": 30, "w[k]": 10, "w[v]": 10, "u": 5, "v": 5}
    table = by_tensor(read_exponents(parts, se=dict.fromkeys(parts, 0.4), sizes=sizes))
    assert table.names == ["w", "u", "v"]
    assert_allclose(table.alpha, [2.75, np.inf, np.nan])
    assert_allclose(table.sizes, [50, 5, 5])
    assert table.se[0] == pytest.approx(np.sqrt(0.75**2 + 0.25**2) * 0.4)


def test_exponents_of_a_model_are_of_whole_tensors():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.MultiheadAttention(24, 2), torch.nn.Linear(24, 3))
    table = model_exponents(model, ["0.in_proj_weight", "0.out_proj.weight"])
    assert table.names == ["0.in_proj_weight", "0.out_proj.weight"]
    assert (table.alpha > 1).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rule": "liner"}, "rule must be one of .*Did you mean 'linear'"),
        ({"s": (1.5, 0.5)}, r"s\[1\] must be a number at least 1.5; got 0.5"),
        ({"s": 0.5}, "s must be a lowest and a highest factor for rule 'linear'; got 0.5"),
        ({"rule": "sigmoid", "s": (0.0, 1.0)}, "above 0 for rule 'sigmoid'"),
        ({"rule": "sigmoid", "tau": 0.0}, "tau must be a number above 0"),
        ({"eta": -0.1}, "eta must be a number at least 0; got -0.1"),
        ({"shrink": True}, "shrink must have standard errors"),
        ({"shrink": True, "se": [np.nan, np.nan]}, "se must hold a finite standard error"),
        ({"se": [0.1]}, "se must be one number for each of the 2 layers; got 1"),
        ({"alphas": [0.5, 2.0], "rule": "log2"}, "alphas must be above 1 for rule 'log2'; got 0.5"),
        ({"alphas": []}, "alphas must hold at least one layer"),
        ({"alphas": [[1.0]]}, r"alphas must be one real number for each layer; got list of shape \(1, 1\)"),
        ({"alphas": dataset(), "metric": "alpha_fams"}, "metric must be a variable of alphas; got 'alpha_fams'"),
    ],
)
def test_wrong_arguments_are_refused(options, match):
    with pytest.raises(InvalidInputError, match=match):
        assign_lr(**{"alphas": [2.0, 3.0], "eta": 0.1, **options})
