"""The front door: layers by name, odd layers, options, invariances, interruption."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file

import sciml
from sciml.exceptions import InvalidInputError, InvalidTypeError, NonFiniteWeightError
from sciml.iterate import Status
from sciml.stats.spectra import solve
from sciml.stats.spectra.farms import farms_spectrum
from sciml.stats.spectra.gram_spectrum import spectrum
from sciml.stats.spectra.power_law import hill

HELD = ("alpha", "alpha_farms", "alpha_lo", "alpha_hi", "z_null", "alpha_ks", "num_spikes", "stable_rank", "status")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(20, 24, 3), torch.nn.BatchNorm2d(24), torch.nn.LSTM(32, 40), torch.nn.Linear(40, 64)
    )


def test_every_tensor_is_accounted_for(model):
    found = sciml.diagnose(model)
    rows, skipped = set(found.tensor), {name for name, _ in found.skipped}
    assert rows | skipped == set(model.state_dict())
    assert not rows & skipped
    assert list(found.layer[1:3]) == ["2.weight_ih_l0[input gate]", "2.weight_ih_l0[forget gate]"]
    assert all(reason for _, reason in found.skipped)


def test_dataset(model):
    found = sciml.diagnose(model).to_xarray()
    assert set(HELD) <= set(found.data_vars)
    assert found.alpha_farms.dims == ("layer",)
    assert found.sel(layer="3.weight").kind.item() == "linear"
    assert found.num_spikes.dtype.kind == "i"
    assert ((found.alpha_lo < found.alpha_farms) | (found.status == "one_window")).all()


def test_numbers_are_those_of_the_parts(rng):
    W = rng.standard_t(3, (70, 150))
    found = sciml.diagnose({"fc": W})
    lam = spectrum(W)
    assert found.alpha[0] == pytest.approx(hill(lam), rel=1e-12)
    assert found.alpha_ks[0] == pytest.approx(sciml.fit_powerlaw(lam).alpha, rel=1e-10)
    assert found.num_spikes[0] == sciml.fit_mp(lam, W.shape).num_spikes
    assert_allclose(found.spectra[0], lam, rtol=1e-12)
    # Other windows of the same layer: within the error.
    assert abs(found.alpha_farms[0] - farms_spectrum(W).alpha) < 4 * found.alpha_se[0]


def test_a_layer_does_not_depend_on_others(rng):
    a, b = rng.standard_normal((2, 40, 50))
    both = sciml.diagnose({"a": a, "b": b})
    assert sciml.diagnose({"b": b}).alpha_farms[0] == both.alpha_farms[1]
    assert sciml.diagnose({"a": a, "b": b}, exclude="a").alpha_farms[0] == both.alpha_farms[1]


def test_one_seed_one_answer(rng):
    weights = {"a": rng.standard_normal((40, 50))}
    one = sciml.diagnose(weights, random_state=5)
    assert sciml.diagnose(weights, random_state=5).alpha_farms == one.alpha_farms
    assert sciml.diagnose(weights, random_state=np.random.default_rng(5)).alpha_farms == one.alpha_farms
    assert sciml.diagnose(weights, random_state=6).alpha_farms != one.alpha_farms
    assert sciml.diagnose(weights).alpha_farms == sciml.diagnose(weights).alpha_farms


def test_equal_layers_of_other_names_have_other_windows(rng):
    W = rng.standard_normal((40, 50))
    found = sciml.diagnose({"a": W, "b": W.copy()})
    assert found.alpha[0] == found.alpha[1]
    assert found.alpha_farms[0] != found.alpha_farms[1]


def test_global_generators_are_left_alone(rng):
    before = torch.random.get_rng_state(), str(np.random.mtrand._rand.get_state())
    sciml.diagnose({"a": rng.standard_normal((40, 50))}, metrics="all")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert str(np.random.mtrand._rand.get_state()) == before[1]


def test_neurons_may_change_places(rng):
    W = rng.standard_normal((48, 80)) * np.arange(1, 49)[:, None] ** -0.5
    one = sciml.diagnose(W)
    other = sciml.diagnose(W[rng.permutation(48)][:, rng.permutation(80)])
    turned = sciml.diagnose(W.T)
    for name in ("alpha", "alpha_ks", "stable_rank", "entropy", "num_spikes", "sigma_mp", "participation", "ks_mp"):
        assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-9)
        assert_allclose(getattr(turned, name), getattr(one, name), rtol=1e-9)
    assert abs(other.alpha_farms[0] - one.alpha_farms[0]) < 4 * one.alpha_se[0]


@pytest.mark.parametrize("k", [-1060, -300, -1, 1, 500])
def test_units_do_not_matter(rng, k):
    W = rng.standard_normal((30, 45))
    W *= 2.0 ** (-20 if k == -1060 else 0)  # exact even where the largest are all that is not subnormal
    one, scaled = sciml.diagnose(W), sciml.diagnose(np.ldexp(W, k)) if k > -1000 else None
    if scaled is None:
        # Subnormal numbers have lost digits: the diagnosis is that of what is left.
        left = np.ldexp(np.ldexp(W, k), 900)
        one, scaled = sciml.diagnose(left), sciml.diagnose(np.ldexp(W, k))
    for name in ("alpha", "alpha_farms", "alpha_se", "z_null", "alpha_ks", "stable_rank", "num_spikes", "entropy"):
        assert_array_equal(getattr(scaled, name), getattr(one, name))


@pytest.mark.parametrize("k", [-1000, -200, 200, 1000])
def test_float32_takes_weights_beyond_its_range(rng, k):
    W = rng.standard_normal((30, 45)).astype(np.float32).astype(float)
    one, scaled = (sciml.diagnose(X, dtype="float32") for X in (W, np.ldexp(W, k)))
    for name in ("alpha", "alpha_farms", "alpha_se", "z_null", "alpha_ks", "stable_rank", "num_spikes"):
        assert_allclose(getattr(scaled, name), getattr(one, name), rtol=1e-5)


def test_a_default_device_is_not_where_files_are_read(tmp_path, rng):
    np.savez(tmp_path / "w.npz", a=rng.standard_normal((30, 45)))
    one = sciml.diagnose(tmp_path / "w.npz")
    with torch.device("meta"):
        other = sciml.diagnose(tmp_path / "w.npz")
    assert_array_equal(other.alpha_farms, one.alpha_farms)


def test_arrays_of_all_kinds_are_one(rng):
    W = rng.standard_normal((30, 45))
    one = sciml.diagnose({"a": W})
    read_only = W.copy()
    read_only.flags.writeable = False
    backwards = W[::-1, ::-1].copy()[::-1, ::-1]
    for other in (torch.tensor(W), np.asfortranarray(W), W.astype(">f8"), read_only, backwards):
        assert sciml.diagnose({"a": other}).alpha_farms == one.alpha_farms


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda rng: np.zeros((30, 40)), "zero"),
        (lambda rng: rng.standard_normal((9, 400)), "too_small"),
        (lambda rng: rng.standard_normal((20, 22)), "one_window"),
        (lambda rng: np.linalg.qr(rng.standard_normal((40, 40)))[0], "constant"),
        (lambda rng: rng.standard_normal((64, 8)) @ rng.standard_normal((8, 64)), "rank_deficient"),
        (lambda rng: np.concatenate([rng.standard_normal((40, 64)), np.zeros((60, 64))]), "ok"),
        (lambda rng: np.repeat(rng.standard_normal((32, 64)), 2, axis=0), "ok"),
    ],
)
def test_odd_layers(rng, make, status):
    found = sciml.diagnose({"odd": make(rng), "good": rng.standard_normal((40, 60))})
    assert list(found.layer_status) == [status, "ok"]
    assert math.isfinite(found.alpha_farms[1])
    assert found.status is Status.CONVERGED


def test_dead_neurons_are_counted_and_leave_the_others(rng):
    W = np.zeros((100, 64))
    W[::2] = rng.standard_normal((50, 64))
    found = sciml.diagnose({"fc": W})
    assert (found.n_dead_rows[0], found.n_dead_cols[0], found.rank[0]) == (50, 0, 50)
    # Noise of the shape that lives: 50 x 64, not 64 x 100.
    assert found.alpha[0] == pytest.approx(hill(spectrum(W[::2])), rel=1e-10)
    assert abs(found.z_null[0]) < 4
    assert found.alpha_mp[0] == sciml.mp_alpha(50 / 64)
    assert found.num_spikes[0] == 0


def test_noise_is_recognised_and_structure_is_not_noise(rng):
    noise = rng.standard_normal((96, 128))
    found = sciml.diagnose({"noise": noise, "trained": noise * np.arange(1, 97)[:, None] ** -0.5})
    assert abs(found.z_null[0]) < 4
    assert found.z_null[1] > 5


def test_z_of_noise_is_standard_normal(rng):
    z = [sciml.diagnose(rng.standard_normal((40, 60 + k)), metrics=["z_null"]).z_null[0] for k in range(60)]
    assert abs(np.mean(z)) < 4 / math.sqrt(60)
    assert 0.6 < np.std(z) < 1.5


def test_untrained_networks_of_torch_are_noise():
    z = []
    for seed in range(6):
        torch.manual_seed(seed)
        # Uniform entries: against Gaussian ones the mean would be -1.
        layers = [torch.nn.Linear(64, 64), torch.nn.LSTM(48, 48), torch.nn.Conv2d(32, 64, 3), torch.nn.Linear(64, 200)]
        z.append(sciml.diagnose(torch.nn.Sequential(*layers), metrics=["z_null"]).z_null)
    z = np.concatenate(z)
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert 0.6 < z.std() < 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(rng, value):
    bad = rng.standard_normal((32, 40))
    bad[3, 4] = bad[5, 6] = value
    weights = {"good": rng.standard_normal((32, 40)), "bad": bad}
    with pytest.raises(NonFiniteWeightError, match=r"layer 'bad' \(32 x 40\) has 2 NaN.*exclude=") as caught:
        sciml.diagnose(weights)
    assert (caught.value.layer, caught.value.count) == ("bad", 2)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    found = sciml.diagnose(weights, on_error="flag")
    assert list(found.layer_status) == ["ok", "non_finite"]
    assert math.isnan(found.alpha[1])
    assert math.isnan(found.alpha_farms[1])


def test_metrics_on_request(rng):
    weights = {"a": rng.standard_normal((30, 40))}
    only = sciml.diagnose(weights, metrics=["alpha_farms"])
    full = sciml.diagnose(weights)
    assert only.alpha_farms == full.alpha_farms
    assert math.isnan(only.alpha[0])
    assert only.spectra is None
    assert math.isnan(sciml.diagnose(weights, farms=False).alpha_farms[0])
    extra = sciml.diagnose(weights, metrics=["p_tail", "rand_distance", "alpha_moment"])
    assert list(extra.extra) == ["alpha_moment", "p_tail", "rand_distance"]
    assert 0 <= extra.to_xarray().p_tail.item() <= 1


def test_scrambled_noise_is_near_and_structure_far(rng):
    W = rng.standard_normal((80, 100))
    found = sciml.diagnose({"noise": W, "rows": W * np.arange(1, 81)[:, None] ** -1.0}, metrics=["rand_distance"])
    assert found.extra["rand_distance"][0] < 0.2 < found.extra["rand_distance"][1]


def test_large_layers_are_estimated(rng, monkeypatch):
    W = rng.standard_normal((200, 300)) * np.arange(1, 201)[:, None] ** -0.4
    exact = sciml.diagnose({"a": W})
    monkeypatch.setattr(solve, "_DENSE_SIDE", 100)
    found = sciml.diagnose({"a": W})
    assert found.layer_status[0] == "estimated"
    assert abs(found.alpha[0] - exact.alpha[0]) < 4 * found.alpha_error[0]
    assert found.log_spectral_norm[0] == pytest.approx(exact.log_spectral_norm[0], rel=1e-9)
    assert found.alpha_farms[0] == exact.alpha_farms[0]


def test_memory_decides_what_is_estimated(rng):
    W = rng.standard_normal((200, 300))
    assert sciml.diagnose({"a": W}, memory=200_000, farms=False).layer_status[0] == "estimated"
    # Two and a half Gram matrices of 200 x 200 must fit.
    for memory, status in ((790_000, "estimated"), (810_000, "ok")):
        assert sciml.diagnose({"a": W}, memory=memory, farms=False).layer_status[0] == status


def test_float32_keeps_exponents(rng):
    W = rng.standard_normal((64, 96))
    one, short = sciml.diagnose({"a": W}), sciml.diagnose({"a": W}, dtype="float32")
    assert_allclose(short.alpha_ks, one.alpha_ks, rtol=1e-3)
    assert_allclose(short.alpha_farms, one.alpha_farms, rtol=1e-3)
    assert short.settings["dtype"] == "float32"


def test_adapters_are_diagnosed_by_their_core(rng):
    B, A = rng.standard_normal((60, 12)), rng.standard_normal((12, 40))
    found = sciml.diagnose({"q.lora_A.weight": A, "q.lora_B.weight": B})
    expected = np.linalg.svd(B @ A, compute_uv=False)[:12] ** 2
    assert list(found.layer_status) == ["low_rank"]
    assert found.rank[0] == 12
    scale = found.frobenius[0] / expected.sum()
    assert_allclose(found.spectra[0][:12], np.sort(expected) * scale, rtol=1e-10)
    assert found.alpha[0] == pytest.approx(hill(expected), rel=1e-9)


def test_comparable_tells_the_share_of_the_window(rng):
    found = sciml.diagnose({"a": rng.standard_normal((64, 64)), "b": rng.standard_normal((80, 64)), "c": np.eye(20)})
    assert list(found.comparable) == [True, True, False]


def test_windows_without_their_zeros_are_not_comparable(rng):
    thin = rng.standard_normal((64, 8)) @ rng.standard_normal((8, 64))
    found = sciml.diagnose({"a": rng.standard_normal((64, 64)), "thin": thin})
    assert list(found.comparable) == [True, False]
    assert list(found.window) == [32, 32]
    assert list(found.layer_status) == ["ok", "rank_deficient"]


def test_published_grid(rng):
    W = rng.standard_normal((48, 60))
    found = sciml.diagnose({"a": W}, layout="grid", window=24, grid=3)
    assert found.alpha_farms[0] == pytest.approx(farms_spectrum(W, layout="grid", window=24, grid=3).alpha, rel=1e-12)
    assert math.isnan(found.alpha_lo[0])
    assert found.layer_status[0] == "ok"


@pytest.mark.parametrize("shape", [(50, 20, 3, 2), (20, 50, 3, 2)])
def test_published_kernels(rng, shape):
    W = rng.standard_normal(shape)
    exponents = []
    for b in range(2):
        pool = []
        for i in range(3):
            for j in range(2):
                slice_ = W[:, :, i, j] if shape[0] > shape[1] else W[:, :, i, j].T
                pool.append(np.linalg.svd(slice_[20 * b : 20 * b + 20], compute_uv=False) ** 2)
        exponents.append(hill(np.concatenate(pool)))
    found = sciml.diagnose({"conv.weight": W}, layout="grid")
    assert found.alpha_farms[0] == pytest.approx(np.mean(exponents), rel=1e-10)
    assert (found.n_windows[0], found.window[0]) == (12, 20)
    with pytest.raises(InvalidInputError, match='Q must be 1 for convolutions with layout="grid".*got 2'):
        sciml.diagnose({"conv.weight": W}, layout="grid", Q=2.0)


def test_a_callback_stops(rng):
    weights = {name: rng.standard_normal((20, 20)) for name in "abcd"}
    seen = []

    def stop(n_iter, step):
        seen.append((n_iter, len(step.value)))
        return n_iter == 2

    found = sciml.diagnose(weights, callback=stop)
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert found.status is Status.STOPPED
    assert list(found.layer) == ["a", "b"]
    assert found.skipped == [(name, "not reached: the diagnosis was stopped") for name in "cd"]


def test_an_interruption_returns_what_is_there(rng):
    def interrupt(n_iter, step):
        if n_iter == 1:
            raise KeyboardInterrupt

    found = sciml.diagnose({name: rng.standard_normal((20, 20)) for name in "abc"}, callback=interrupt)
    assert (found.status, len(found)) == (Status.STOPPED, 1)


def test_files_are_diagnosed_as_what_they_hold(tmp_path, model):
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    one = sciml.diagnose(model.state_dict())
    for name in ("model.safetensors", "model.pt"):
        found = sciml.diagnose(tmp_path / name)
        at = [list(one.layer).index(layer) for layer in found.layer]
        assert sorted(at) == list(range(len(one)))
        assert_array_equal(found.alpha_farms, one.alpha_farms[at])
        assert_allclose(found.alpha, one.alpha[at], rtol=1e-12)


@pytest.mark.parametrize(
    ("obj", "options", "error", "text"),
    [
        ({}, {}, InvalidInputError, "holds no tensors"),
        ({"a": "text"}, {}, InvalidInputError, "obj must hold weights; got none, such as 'a'"),
        (3, {}, InvalidTypeError, "obj must be a torch.nn.Module.*got int"),
        (np.eye(20), {"rho": 2}, InvalidInputError, "rho must be a number above 0 and at most 1; got 2"),
        (np.eye(20), {"q": 0}, InvalidInputError, "q must be a number above 0 and below 1; got 0"),
        (np.eye(20), {"metrics": "alpha"}, InvalidInputError, "metrics must be one of 'default', 'all'; got 'alpha'"),
        (np.eye(20), {"metrics": ["alfa"]}, InvalidInputError, "Did you mean 'alpha'"),
        (np.eye(20), {"metrics": 3}, InvalidInputError, 'metrics must be "default", "all" or a list of names; got 3'),
        (np.eye(20), {"metrics": []}, InvalidInputError, "metrics must name at least one variable"),
        (np.eye(20), {"on_error": "warn"}, InvalidInputError, "on_error must be one of 'raise', 'flag'"),
        (np.eye(20), {"dtype": "float16"}, InvalidInputError, "dtype must be one of"),
        (np.eye(20), {"random_state": "x"}, InvalidInputError, "random_state must be None"),
    ],
)
def test_bad_input(obj, options, error, text):
    with pytest.raises(error, match=text):
        sciml.diagnose(obj, **options)


def test_a_saved_diagnosis_comes_back_in_a_fresh_process(tmp_path, rng):
    found = sciml.diagnose({"a": rng.standard_normal((20, 30)), "b": np.ones(3)}, metrics="all")
    found.save(tmp_path / "found.npz")
    code = (
        "import sciml, sys; r = sciml.load(sys.argv[1]); "
        "sys.stdout.write(repr((list(map(str, r.layer)), r.alpha_farms.tolist(), r.skipped, sorted(r.extra))))"
    )
    command = [sys.executable, "-c", code, tmp_path / "found.npz"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == repr((["a"], found.alpha_farms.tolist(), [("b", "1 dimension")], sorted(found.extra)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(rng):
    W = torch.tensor(rng.standard_normal((200, 300)))
    one, other = sciml.diagnose({"a": W}), sciml.diagnose({"a": W.cuda()})
    assert_allclose(other.alpha, one.alpha, rtol=1e-9)
    assert_allclose(other.alpha_farms, one.alpha_farms, rtol=1e-9)
    assert_allclose(sciml.diagnose({"a": W}, device="cuda").alpha_ks, one.alpha_ks, rtol=1e-9)
