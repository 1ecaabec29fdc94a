"""Claims about the acceptance benchmarks: a bar judges what it says, data are what is named, counts are right."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import bench_gp_pde_acceptance as acceptance
from benchmarks import bench_gp_pde_calibration as calibration
from benchmarks import bench_gp_pde_truncation as truncation
from benchmarks.problems import NONLINEAR

REACHED = {"error": 1e-9, "cpu": 1.0, "unknowns": 80, "steps": 6, "memory_mb": 10.0, "status": "converged"}


def test_the_published_nonlinear_problems_are_those():
    x = np.linspace(0, 1, 7)[:, None]
    u = np.sin(100 * x[:, 0])
    assert_allclose(NONLINEAR["P6"]().source(x), -1e4 * u + u * (u**2 - 1), rtol=1e-13, atol=1e-10)
    X = np.array([[0.3, 0.8]])
    g = np.sin(X) + 0.1 * np.sin(20 * X) + np.cos(100 * X)
    assert_allclose(NONLINEAR["P10"]().solution(X), g.prod(axis=1), rtol=1e-12)
    v = np.sin(np.pi * X).prod(axis=1) + 2 * np.sin(4 * np.pi * X).prod(axis=1)
    assert_allclose(NONLINEAR["elliptic"]().solution(X), v, rtol=1e-12)


def test_a_bar_names_what_is_missed():
    bar = acceptance.Bar(1e-9, cpu=1.0, unknowns=80, steps=6, memory_mb=10.0)
    assert bar.missed(REACHED) == ""
    worse = {"error": 2e-9, "cpu": 1.1, "unknowns": 81, "steps": 7, "memory_mb": 11.0}
    for key, value in worse.items():
        assert bar.missed(REACHED | {key: value}) == key
    assert bar.missed(REACHED | worse) == "error cpu unknowns steps memory_mb"
    assert acceptance.Bar(1e-9).missed(REACHED | {"cpu": 1e9}) == ""
    assert acceptance.Bar(1e-9).missed(REACHED | {"error": np.nan}) == "error"
    assert str(bar) == "1e-09, 1 s, 80 unknowns, 6 steps, 10 MB"


def test_a_status_that_says_so_will_do_where_the_bar_allows_it():
    bar = acceptance.Bar(1e-9, or_says_so=True)
    assert bar.missed(REACHED | {"error": 1.0}) == "error"
    assert bar.missed(REACHED | {"error": 1.0, "status": "not_converged"}) == ""
    assert str(bar).endswith("or says so")


@pytest.mark.parametrize("name", acceptance.CASES)
def test_a_case_is_posed_as_its_name_says(name):
    case = acceptance.CASES[name]
    p, pde = acceptance.posed(case)
    assert pde.is_linear == (p.name not in NONLINEAR)
    assert pde._source.is_sampled == (case.samples is not None)
    if case.samples is None:
        return
    n = case.samples if isinstance(case.samples, int) else case.samples[0]
    assert pde._source.points.shape == (n, p.dims)
    assert f"from {n}" in name
    assert_array_equal(pde._source.values, p.source(pde._source.points))
    assert case.options == {}  # no frequency is handed in


def test_samples_of_the_boundary_lie_on_all_of_it(rng):
    p = acceptance.named("elliptic")
    X = acceptance.edge_samples(p, 124, rng)
    on = np.concatenate([X == 0.0, X == 1.0], axis=1)
    assert_array_equal(on.sum(axis=1), 1)
    assert_array_equal(on.sum(axis=0), 31)  # a quarter each


def test_a_row_holds_error_and_verdict():
    case = dataclasses.replace(acceptance.CASES["P4"], bar=acceptance.Bar(1e-9, unknowns=5))
    found = acceptance.row("P4", case, 1)
    assert found["error"] < 1e-9
    assert found["anchor_error"] < 1e-8
    assert (found["met"], found["missed"], found["status"]) == ("no", "unknowns", "converged")
    assert found["steps"] is None
    good = acceptance.row("P6", dataclasses.replace(acceptance.CASES["P6"], bar=acceptance.Bar(1e-9, steps=6)), 1)
    assert good.keys() == found.keys()
    assert (good["met"], good["anchor_error"]) == ("yes", None)
    assert 1 <= good["steps"] <= 6


def test_truncations_follow_the_full_solution():
    case = acceptance.CASES["P4"]
    full, solution = truncation.row("P4", "full", case)
    levels = truncation.levels(solution)
    n = full["unknowns"]
    assert [o["max_features"] for o in levels.values() if "max_features" in o] == [
        int(np.ceil(s * n)) for s in (0.3, 0.5, 0.8, 1.2)
    ]
    assert levels["2 rungs"] == {"max_iter": 2}
    known = sorted(c["omega"][0] for c in solution.report["carriers"])
    assert_allclose(levels["carriers off"]["frequencies"], 1.01 * np.array(known), rtol=1e-4)
    cut, _ = truncation.row("P4", "0.3 n", case, **levels["0.3 n"])
    assert cut["unknowns"] <= 0.3 * n + 1
    assert cut["error"] > 1e-6
    assert cut["status"] == "not_converged"


def test_the_last_row_counts():
    row = {"test": "a", "error_estimate": 1.0, "ratio": 2.0, "cpu": 1.0, "honest": "yes", "true": "yes"}
    table = [row] * 18 + [row | {"honest": "no", "ratio": 20.0}, row | {"true": "no", "error_estimate": None}]
    last = truncation.counted(table)
    assert (last["honest"], last["true"]) == ("0.950 met", "0.950 missed")
    assert (last["ratio"], last["cpu"]) == (20.0, 20.0)
    assert "20 rows, 1 without" in last["level"]
    assert truncation.counted(table[1:])["honest"].endswith("missed")


def test_the_inverse_problem_is_that_of_kappa():
    x, h = np.linspace(0.1, 6, 50)[:, None], 1e-3
    u = calibration.u_kappa
    fourth = (-u(x + 2 * h) + 16 * u(x + h) - 30 * u(x) + 16 * u(x - h) - u(x - 2 * h)) / (12 * h**2)
    assert_allclose(fourth + 950 * u(x), calibration.f_kappa(x), rtol=0, atol=1e-3)  # h^4 30^6 / 90 = 8e-6


def test_coverage_is_judged_on_both_sides():
    def met(coverage, error=1e-4):
        found = {"draws": 2, "coverage": coverage, "error": error, "bar_error": 5e-4}
        return calibration._row("a", "", found, (0.0, 0.0))["met"]

    assert [met(c) for c in (0.89, 0.9, 0.95, 0.99, 1.0)] == ["no", "yes", "yes", "yes", "no"]
    assert met(0.95, error=6e-4) == "no"


def test_a_row_of_draws_counts_them(monkeypatch):
    def drawn(seed, noise, n_source):
        assert (noise, n_source) == (0.001, None)
        off = (0.01, -0.02, 0.03, 0.2)[seed]
        status = "converged" if seed else "not_converged"
        return SimpleNamespace(parameters={"kappa": 950 + off}, parameters_std={"kappa": 0.02}, status=status)

    monkeypatch.setattr(calibration, "inverse", drawn)
    found = calibration.inverse_row("inverse, sd 0.001", 4)
    assert (found["draws"], found["converged"], found["coverage"], found["met"]) == (4, 3, 0.75, "no")
    assert_allclose(found["z_mean"], 2.75)
    assert_allclose(found["error"], np.sqrt((1 + 4 + 9 + 400) / 4) * 1e-2 / 950)


def test_a_row_of_bands_leaves_the_ends_out(monkeypatch):
    p = acceptance.named("P3")

    class Found:
        status = "converged"

        def __call__(self, X):
            return p.solution(X) + np.where(np.arange(len(X)) % 2, 3.0, 1.0)

        def std(self, X):  # nothing at the ends
            return np.minimum(1.0, np.minimum(X[:, 0], 2 * np.pi - X[:, 0]) * 1e3)

    monkeypatch.setattr(calibration, "noisy", lambda *arguments: (p, Found()))
    found = calibration.noise_row("noise 1 %, 80 samples", 2)
    assert found["coverage"] == 0.5
    assert_allclose(found["z_sd"], 1.0)
    assert found["converged"] == 2
