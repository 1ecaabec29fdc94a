"""Ready imaging problems, and the estimators that learn them from pairs of images."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sciml.datasets import noisy, photographs
from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.inverse.bilevel import (
    Blur,
    FieldsOfExperts,
    LearnedTV,
    Mask,
    SquaredError,
    field_of_experts,
    field_of_experts_start,
    learn_hyperparameters,
    psnr,
    total_variation,
)
from sciml.linalg.operators import as_operator

CLEAN = photographs(["camera", "coffee", "brick"], 24)
NOISY = noisy(CLEAN, 0.1, 0)
QUICK = {"max_iter": 4, "on_failure": "ignore"}


@pytest.fixture(scope="module")
def tv():
    return LearnedTV(tol=1e-6).fit(NOISY, CLEAN)


def experts(**options):
    return FieldsOfExperts(n_filters=2, size=3, **{**QUICK, **options})


# ---------------------------------------------------------------- the benchmarks


def test_total_variation_of_eight_photographs_is_learned():
    """The optimum of the set, from a distant start, with about as much work as a single tight solve."""
    x = photographs("sk8")
    result = learn_hyperparameters(total_variation(noisy(x)), SquaredError(x), np.array([-5.0, -5.0]), tol=1e-4)
    assert result.value == pytest.approx(11.272070, abs=1e-4)
    np.testing.assert_allclose(result.theta, [-2.1577, -4.0928], atol=0.02)
    reached = result.history["n_units"][result.history["value"] <= 11.27220]
    assert reached[0] <= 300


@pytest.mark.parametrize(("start", "eps0"), [((-2.0, -2.0), 100.0), ((-8.0, -3.0), 1.0), ((0.0, -6.0), 1e-3)])
def test_the_optimum_is_found_from_everywhere(start, eps0):
    from sciml.inverse.bilevel import Auto

    x = photographs("sk8")
    result = learn_hyperparameters(
        total_variation(noisy(x)), SquaredError(x), np.array(start), tol=1e-4, method=Auto(eps0=eps0)
    )
    assert result.value == pytest.approx(11.272070, abs=1e-4)
    assert result.n_units <= 2000


def test_a_field_of_experts_beats_total_variation():
    """Ten filters on six photographs: 4.3876 is the optimum of total variation on the same data."""
    x = photographs("sk8", 64)[:6]
    result = learn_hyperparameters(
        field_of_experts(noisy(x)), SquaredError(x), field_of_experts_start(), max_units=400, max_iter=500,
        on_failure="ignore",
    )  # fmt: skip
    assert result.value + result.value_bar <= 4.15
    assert result.n_units <= 600


# ---------------------------------------------------------------- what the estimators learn


def test_weight_and_width_minimise_the_error(tv):
    def loss(theta):
        other = LearnedTV(theta0=theta, max_iter=0, on_failure="ignore", solve_tol=1e-9).fit(NOISY, CLEAN)
        return float(((other.transform(NOISY) - CLEAN) ** 2).sum() / 6)

    best = loss(tv.theta_)
    assert best == pytest.approx(tv.bilevel_result_.value, rel=1e-7)
    for step in ([0.1, 0.0], [-0.1, 0.0], [0.0, 0.3], [0.0, -0.3]):
        assert loss(tv.theta_ + step) > best
    assert tv.alpha_ == pytest.approx(np.exp(tv.theta_[0]))
    assert tv.nu_ == pytest.approx(np.exp(tv.theta_[1]))


def test_restored_images_are_better_than_noisy_ones(tv):
    data, truth = noisy(photographs("astronaut", 24), 0.1, 5), photographs("astronaut", 24)
    assert tv.score(data, truth) > float(psnr(data, truth).mean()) + 0.8
    assert experts(max_iter=10).fit(NOISY, CLEAN).score(data, truth) > float(psnr(data, truth).mean()) + 0.5


def test_a_transformed_image_minimises_its_energy(tv):
    x = torch.from_numpy(tv.set_params(solve_tol=1e-10).transform(NOISY)).requires_grad_()
    tv.set_params(solve_tol=1e-4)
    t = torch.cat([torch.diff(x, dim=1).reshape(3, -1), torch.diff(x, dim=2).reshape(3, -1)], 1)
    h = 0.5 * ((x - torch.from_numpy(NOISY)) ** 2).sum() + 0.5 * tv.alpha_ * torch.sqrt(t**2 + tv.nu_**2).sum()
    (slope,) = torch.autograd.grad(h, x)
    # The Hessian is at most 1 + 4 alpha / nu, about 50.
    assert float(slope.norm()) <= 50 * 1e-10 * float(x.detach().norm())


@pytest.mark.parametrize("unit", [255.0, 2.0**-20])
def test_units_do_not_matter(unit):
    one, other = LearnedTV().fit(NOISY, CLEAN), LearnedTV().fit(unit * NOISY, unit * CLEAN)
    assert other.alpha_ == pytest.approx(unit * one.alpha_, rel=1e-6)
    assert other.nu_ == pytest.approx(unit * one.nu_, rel=1e-6)
    assert other.score(unit * NOISY, unit * CLEAN) == pytest.approx(one.score(NOISY, CLEAN), abs=1e-5)
    assert other.bilevel_result_.n_units == pytest.approx(one.bilevel_result_.n_units, rel=0.05)
    a, b = (experts().fit(u * NOISY, u * CLEAN) for u in (1.0, unit))
    np.testing.assert_allclose(b.alpha_, unit * a.alpha_, rtol=1e-4)
    np.testing.assert_allclose(b.filters_, a.filters_, rtol=0, atol=1e-4)


def test_an_expert_holds_what_theta_says():
    model = experts().fit(NOISY, CLEAN)
    theta = model.theta_
    assert theta.shape == (23,)
    np.testing.assert_allclose(model.alpha_, np.exp(theta[0] + theta[1:3]))
    np.testing.assert_allclose(model.nu_, np.exp(theta[3:5]))
    np.testing.assert_allclose(model.filters_.mean((1, 2)), 0, atol=1e-15)
    assert experts(random_state=0).fit(NOISY, CLEAN).theta_.tolist() == theta.tolist()
    assert (experts(random_state=1).fit(NOISY, CLEAN).theta_ != theta).any()


# ---------------------------------------------------------------- operators


def test_missing_pixels_are_filled():
    mask = np.random.default_rng(0).random(CLEAN.shape[1:]) < 0.6
    data = mask * noisy(CLEAN, 0.02, 1)
    model = LearnedTV(Mask(mask), mu0=1e-2).fit(data, CLEAN)
    assert model.score(data, CLEAN) > float(psnr(data, CLEAN, model.peak_).mean()) + 8


def test_a_blur_is_undone():
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    blur = Blur(kernel)
    data = noisy(blur.forward(torch.from_numpy(CLEAN), None).numpy(), 0.01, 1)
    model = LearnedTV(blur).fit(data, CLEAN)
    assert model.score(data, CLEAN) > float(psnr(data, CLEAN, model.peak_).mean()) + 1
    assert model.noise_level_ == pytest.approx(0.01, rel=0.05)


def test_data_of_an_operator_may_have_another_shape():
    A = np.random.default_rng(0).standard_normal((40, 36)) / 6
    truth = np.kron(np.random.default_rng(1).random((4, 2, 2)), np.ones((3, 3)))
    data = noisy(truth.reshape(4, -1) @ A.T, 0.05, 2)
    model = LearnedTV(as_operator(A), dtype="float64").fit(data, truth)
    assert model.transform(data).shape == (4, 6, 6)
    assert model.transform(data[0]).shape == (6, 6)
    plain = np.linalg.lstsq(A, data.T, rcond=None)[0].T.reshape(truth.shape)
    assert model.score(data, truth) > float(psnr(plain, truth, model.peak_).mean()) + 1


# ---------------------------------------------------------------- kinds of arrays, and odd ones


def test_every_kind_of_array_comes_back(tv):
    plain = tv.transform(NOISY)
    assert type(plain) is np.ndarray
    kept = tv.transform(torch.from_numpy(NOISY))
    assert isinstance(kept, torch.Tensor)
    np.testing.assert_array_equal(kept.numpy(), plain)
    frame = xr.DataArray(NOISY, dims=("scene", "y", "x"), coords={"scene": list("abc")}, name="image")
    framed = tv.transform(frame)
    assert framed.dims == frame.dims
    assert framed.name == "image"
    assert framed.scene.values.tolist() == list("abc")
    np.testing.assert_array_equal(framed.values, plain)
    one = tv.transform(frame[1])
    assert one.dims == ("y", "x")
    np.testing.assert_allclose(one.values, plain[1], atol=1e-4)
    assert tv.denoise(NOISY).tolist() == plain.tolist()
    fitted = LearnedTV(tol=1e-6).fit(frame, torch.from_numpy(CLEAN))
    np.testing.assert_allclose(fitted.theta_, tv.theta_, rtol=1e-12)


def test_float32_stays_float32():
    model = LearnedTV().fit(NOISY.astype(np.float32), CLEAN.astype(np.float32))
    assert model.transform(NOISY.astype(np.float32)).dtype == np.float32
    assert model.theta_.dtype == np.float64
    reference = LearnedTV().fit(NOISY, CLEAN)
    assert model.score(NOISY, CLEAN) == pytest.approx(reference.score(NOISY, CLEAN), abs=1e-3)


def test_a_single_image_is_a_batch_of_one():
    single, batch = LearnedTV().fit(NOISY[0], CLEAN[0]), LearnedTV().fit(NOISY[:1], CLEAN[:1])
    assert single.theta_.tolist() == batch.theta_.tolist()
    assert single.transform(NOISY[0]).tolist() == batch.transform(NOISY[:1])[0].tolist()
    assert single.score(NOISY[0], CLEAN[0]) == batch.score(NOISY[:1], CLEAN[:1])


def test_images_of_another_size_are_restored(tv):
    other = noisy(photographs("grass", 15), 0.1, 0)
    assert tv.transform(other).shape == (1, 15, 15)
    assert tv.transform(other[0, :4]).shape == (4, 15)


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_constant_images_without_noise_stay_as_they_are(level):
    flat = np.full((2, 8, 8), level)
    model = LearnedTV(on_failure="ignore").fit(flat, flat)
    assert model.bilevel_result_.status in ("flat", "converged")
    np.testing.assert_allclose(model.transform(flat), flat, atol=1e-12)
    assert model.peak_ == 1.0


def test_constant_images_are_freed_of_noise():
    flat = np.full((2, 12, 12), 0.5)
    data = noisy(flat, 0.1, 3)
    model = LearnedTV(on_failure="ignore").fit(data, flat)
    assert float(np.abs(model.transform(data) - flat).max()) < 0.03


# ---------------------------------------------------------------- conventions and errors


@pytest.mark.parametrize("model", [LearnedTV(tol=0.1, theta0=[0.0, 0.0]), FieldsOfExperts(n_filters=3)])
def test_estimators_follow_the_conventions(model):
    copy = clone(model)
    assert type(copy) is type(model)
    assert copy.get_params() == model.get_params()
    assert copy.set_params(tol=0.5).tol == 0.5
    assert "tol=" in repr(copy)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copy.transform(NOISY)


def test_an_early_end_is_said():
    with pytest.warns(ConvergenceWarning, match="status 'max_iter' after 1 steps"):
        LearnedTV(theta0=[-5.0, -5.0], max_iter=1).fit(NOISY, CLEAN)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: LearnedTV().fit(NOISY, CLEAN[:2]), r"noisy must belong to clean.*\(3, 24, 24\).*\(2, 24, 24\)"),
        (lambda: LearnedTV().fit(NOISY[0, 0], CLEAN[0, 0]), r"clean must be images.*got shape \(24,\)"),
        (lambda: LearnedTV().fit(NOISY + np.inf, CLEAN), "noisy must be finite"),
        (lambda: LearnedTV(theta0=[1.0]).fit(NOISY, CLEAN), r"theta0 must be of shape \(2,\); got \(1,\)"),
        (lambda: LearnedTV(tol=-1).fit(NOISY, CLEAN), "tol must be a number above 0"),
        (lambda: LearnedTV(method="best").fit(NOISY, CLEAN), "method must be one of"),
        (lambda: LearnedTV(bounds=(0, 1)).fit(NOISY, CLEAN), "theta0 must lie within bounds"),
        (lambda: LearnedTV(Mask(np.zeros((24, 24))), mu0=0.0).fit(NOISY, CLEAN), "mu0 must be above 0"),
        (
            lambda: LearnedTV(as_operator(np.ones((5, 576)))).fit(NOISY, CLEAN),
            r"that operator makes of clean, \(3, 5\)",
        ),
        (lambda: FieldsOfExperts(size=4).fit(NOISY, CLEAN), "size must be odd"),
        (lambda: FieldsOfExperts(n_filters=0).fit(NOISY, CLEAN), "n_filters must be an integer at least 1"),
        (lambda: FieldsOfExperts(size=51).fit(NOISY, CLEAN), "filters of size 51 need images"),
        (lambda: LearnedTV(**QUICK).fit(NOISY, CLEAN).transform(NOISY[0, 0]), "noisy must hold samples with 2 axes"),
        (lambda: psnr(NOISY, CLEAN[:2]), r"images must have the shape of truth, \(2, 24, 24\)"),
        (lambda: psnr(NOISY, CLEAN, 0), "peak must be a number above 0"),
        (lambda: field_of_experts_start(2, 3, scale=0.0), "scale must be a number above 0"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()


def test_the_ratio_of_signal_to_noise():
    truth = np.zeros((3, 2, 2))
    assert psnr(truth + np.array([0.1, 1.0, 0.0])[:, None, None], truth).tolist() == pytest.approx([20, 0, np.inf])
    assert psnr(truth + 25.5, truth, peak=255).tolist() == pytest.approx([20.0] * 3)
