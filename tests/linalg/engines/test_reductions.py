"""The engines agree with slow twins, with known answers, and with one another; what is wrong is named."""

import numpy as np
import pytest
import torch
from scipy.special import gamma

from sciml.exceptions import InvalidInputError, InvalidTypeError, MemoryBudgetError
from sciml.kernels import Gaussian, InverseMultiquadric, Laplace, Matern12, Matern32, RationalQuadratic
from sciml.linalg import kernel_logsumexp, kernel_sum
from sciml.linalg.engines import kernel_matrix

from .twins import KERNELS, TOLERANCE, distance, logsumexp, relative

# KeOps compiles some seconds for each formula: it gets few of them.
FEW = ("gaussian", "matern32")


def sample(rng, m, n, d=3, r=2, dtype="float64", batch=()):
    y, x = rng.standard_normal((*batch, m, d)).astype(dtype), rng.standard_normal((*batch, n, d)).astype(dtype)
    if m and n:
        x[..., 0, :] = y[..., 0, :]
    return y, x, rng.standard_normal((*batch, n, r)).astype(dtype)


# ---------------------------------------------------------------- against the twins


BOTH = [(FEW[0], "float64"), (FEW[1], "float32")]
ONE = [(FEW[1], "float32")]


def cases(names, compiled=None, keops=BOTH):
    """Engines by kernels and dtypes; all of them where nothing is compiled, a few formulas where it costs seconds."""
    full = [(name, dtype) for name in names for dtype in ("float32", "float64")]
    few = {"dense": full, "eager": full, "compiled": compiled or full, "keops": keops}
    marks = {"keops": pytest.mark.keops}
    found = [
        pytest.param(engine, *case, marks=marks.get(engine, ())) for engine, listed in few.items() for case in listed
    ]
    return pytest.mark.parametrize(("engine", "name", "dtype"), found, indirect=["engine"])


@cases(KERNELS)
def test_sums(engine, name, dtype, rng):
    make, phi, _ = KERNELS[name]
    y, x, b = sample(rng, 70, 90, dtype=dtype)
    found = kernel_sum(y, x, b, kernel=make(3), engine=engine)
    assert found.dtype == dtype
    assert relative(found, phi(y, x) @ b.astype(float)) < TOLERANCE[dtype]


@cases([name for name, (_, _, positive) in KERNELS.items() if positive], compiled=BOTH)
def test_log_sum_exps(engine, name, dtype, rng):
    make, phi, _ = KERNELS[name]
    y, x, _ = sample(rng, 70, 90, dtype=dtype)
    w = rng.uniform(-3, 3, 90).astype(dtype)
    found = kernel_logsumexp(y, x, w, kernel_log=make(3), engine=engine)
    assert found.dtype == dtype
    assert relative(found, logsumexp(np.log(phi(y, x)) + w.astype(float))) < TOLERANCE[dtype]


def slopes(name, y, x, b, g):
    """Gradients of sum(g * K b) in y, x, b and the length 0.8, written out."""
    r = y[:, None] - x[None]
    d = np.sqrt((r**2).sum(-1))
    c = g @ b.T
    if name == "gaussian":
        phi = np.exp(-(d**2) / (2 * 0.64))
        front, length = -phi / 0.64, d**2 * phi / 0.8**3
    else:
        a = np.sqrt(3) * d / 0.8
        phi = (1 + a) * np.exp(-a)
        front, length = -3 * np.exp(-a) / 0.64, a**2 * np.exp(-a) / 0.8
    pull = (c * front)[..., None] * r
    return pull.sum(1), -pull.sum(0), phi.T @ g, (c * length).sum()


@cases(FEW, compiled=BOTH, keops=ONE)
def test_gradients(engine, name, dtype, rng):
    y, x, b = sample(rng, 40, 50, dtype=dtype)
    g = rng.standard_normal((40, 2)).astype(dtype)
    leaves = [torch.from_numpy(v).requires_grad_() for v in (y, x, b)]
    length = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    kernel = {"gaussian": Gaussian, "matern32": Matern32}[name](length)
    out = kernel_sum(*leaves, kernel=kernel, engine=engine)
    found = torch.autograd.grad((out * torch.from_numpy(g)).sum(), [*leaves, length])
    wanted = slopes(name, *(v.astype(float) for v in (y, x, b, g)))
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", [0, 1, 7])
def test_batches(engine, size, rng):
    y, x, b = sample(rng, 6, 5, batch=(size,))
    kernel, phi = Gaussian(0.8), KERNELS["gaussian"][1]
    found = kernel_sum(y, x, b, kernel=kernel, engine=engine)
    assert relative(found, phi(y, x) @ b) < 1e-12
    wanted = logsumexp(np.log(phi(y, x)))
    assert relative(kernel_logsumexp(y, x, kernel_log=kernel, engine=engine), wanted) < 1e-12
    # Broadcast: points of all elements against weights of one, and the reverse.
    assert (
        relative(kernel_sum(y, x, np.ones((5, 2)), kernel=kernel, engine=engine), phi(y, x) @ np.ones((5, 2))) < 1e-12
    )
    plane = rng.standard_normal((5, 3))
    found = kernel_sum(y[:, None], plane, b[None], kernel=kernel, engine=engine)
    assert relative(found, phi(y[:, None], plane) @ b[None]) < 1e-12


def test_gradients_of_batches_add_up_over_what_was_broadcast(simple, rng):
    y, x, b = sample(rng, 6, 5, batch=(3,))
    shared = torch.from_numpy(x[0]).requires_grad_()
    kernel_sum(torch.from_numpy(y), shared, torch.from_numpy(b), kernel=Gaussian(), engine=simple).sum().backward()
    total = torch.zeros_like(shared)
    for k in range(3):
        one = torch.from_numpy(x[0]).requires_grad_()
        kernel_sum(*map(torch.from_numpy, (y[k],)), one, torch.from_numpy(b[k]), kernel=Gaussian()).sum().backward()
        total += one.grad
    assert relative(shared.grad, total) < 1e-13


@pytest.mark.parametrize("d", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("r", [1, 8, 9, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_coordinates_and_right_sides(simple, d, r, dtype, rng):
    for name in ("gaussian", "matern12", "matern52", "laplace"):
        make, phi, _ = KERNELS[name]
        y, x, b = sample(rng, 60, 50, d, r, dtype)
        y, x = 0.3 * y, 0.3 * x
        found = kernel_sum(y, x, b, kernel=make(d), engine=simple)
        assert relative(found, phi(y, x) @ b.astype(float)) < TOLERANCE[dtype], name


@pytest.mark.parametrize(("d", "r", "dtype"), [(1, 40, "float32"), (17, 9, "float64"), (3, 8, "float32")])
def test_many_coordinates_and_right_sides_compiled(d, r, dtype, rng):
    y, x, b = sample(rng, 60, 50, d, r, dtype)
    y, x = 0.3 * y, 0.3 * x
    found = kernel_sum(y, x, b, kernel=Gaussian(0.8), engine="compiled")
    assert relative(found, KERNELS["gaussian"][1](y, x) @ b.astype(float)) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("engine", ["dense", "eager", "compiled"], indirect=True)  # the tiles of KeOps are its own
def test_sizes_around_the_tiles(engine, name, rng):
    make, phi, _ = KERNELS[name]
    y, x, b = sample(rng, 1030, 5000)
    K = phi(y, x)
    for n in (1, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 5000):
        found = kernel_sum(y[:7], x[:n], b[:n], kernel=make(3), engine=engine)
        assert relative(found, K[:7, :n] @ b[:n]) < 1e-12, n
        found = kernel_logsumexp(y[:7], x[:n], kernel_log=make(3), engine=engine)
        assert relative(found, np.log(K[:7, :n].sum(1))) < 1e-12, n
    for m in (1, 255, 256, 257, 511, 512, 513, 1024, 1025, 1030):
        found = kernel_sum(y[:m], x[:9], b[:9], kernel=make(3), engine=engine)
        assert relative(found, K[:m, :9] @ b[:9]) < 1e-12, m
        # Padding must not reach the sums over rows either.
        turned = kernel_sum(x[:5000], y[:m], K[:m, :2], kernel=make(3), engine=engine)
        assert relative(turned, K[:m].T @ K[:m, :2]) < 1e-12, m


@pytest.mark.parametrize("m", [1, 257, 513])
@pytest.mark.parametrize("engine", ["dense", "eager", "compiled"])
def test_padding_does_not_reach_gradients(engine, m, rng):
    y, x, b = sample(rng, m, 70)
    leaves = [torch.from_numpy(v).requires_grad_() for v in (y, x, b)]
    length = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    out = kernel_sum(*leaves, kernel=Gaussian(length), engine=engine)
    found = torch.autograd.grad(out.sum(), [*leaves, length])
    for one, other in zip(found, slopes("gaussian", y, x, b, np.ones((m, 2))), strict=True):
        assert relative(one, other) < 1e-12


def test_the_same_points_give_the_same_sums_in_any_order(engine, rng):
    y, x, b = sample(rng, 30, 600)
    order = rng.permutation(600)
    one = kernel_sum(y, x, b, kernel=Gaussian(0.8), engine=engine)
    other = kernel_sum(y, x[order], b[order], kernel=Gaussian(0.8), engine=engine)
    # Sums of 600 terms are reordered.
    assert relative(one, other) < 600 * 2.3e-16


def test_engines_agree_on_a_mixture_of_everything(rng):
    kernel = 0.5 * Gaussian([0.5, 1.0, 2.0]) * Laplace(3.0) + InverseMultiquadric(0.4) * RationalQuadratic(2.0, 0.3)
    y, x, b = sample(rng, 200, 300)
    sums = [kernel_sum(y, x, b, kernel=kernel, engine=e) for e in ("dense", "eager", "compiled")]
    logs = [kernel_logsumexp(y, x, kernel_log=kernel, engine=e) for e in ("dense", "eager", "compiled")]
    for found in (*sums[1:], kernel_matrix(y, x, kernel=kernel) @ b):
        assert relative(found, sums[0]) < 1e-13
    for found in (*logs[1:], np.log(kernel_matrix(y, x, kernel=kernel).sum(1))):
        assert relative(found, logs[0]) < 1e-13


# ---------------------------------------------------------------- known answers


def test_lattice_sums_are_theta_functions(engine):
    # sum exp(-pi k^2) = pi^(1/4) / Gamma(3/4), Jacobi; shifted by a half or with alternating signs over 2^(1/4).
    k = np.arange(-20.0, 21.0)[:, None]
    theta = np.pi**0.25 / gamma(0.75)
    kernel = Gaussian(1 / np.sqrt(2 * np.pi))
    b = np.hstack([np.ones_like(k), (-1.0) ** k])
    found = kernel_sum([[0.0], [1.0], [0.5]], k, b, kernel=kernel, engine=engine)
    wanted = [[theta, theta / 2**0.25], [theta, -theta / 2**0.25], [theta / 2**0.25, 0.0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-15)


def test_lattice_sums_in_space(engine):
    k = np.arange(-5.0, 6.0)
    lattice = np.stack(np.meshgrid(k, k, k), -1).reshape(-1, 3)
    wanted = (np.pi**0.25 / gamma(0.75)) ** 3
    found = kernel_sum(
        np.zeros((1, 3)), lattice, np.ones((1331, 2)), kernel=Gaussian(1 / np.sqrt(2 * np.pi)), engine=engine
    )
    np.testing.assert_allclose(found, [[wanted, wanted]], rtol=1e-14)
    found = kernel_logsumexp(np.zeros((1, 3)), lattice, kernel_log=Gaussian(1 / np.sqrt(2 * np.pi)), engine=engine)
    np.testing.assert_allclose(found, [np.log(wanted)], rtol=1e-14)


def test_lattice_sums_are_geometric_series(simple):
    a, k = 0.5, np.arange(-160.0, 161.0)[:, None]
    e = np.exp(-a)
    for kernel, wanted in [
        (Matern12(1 / a), (1 + e) / (1 - e)),
        (Laplace(1 / a), (1 + e) / (1 - e)),
        (Matern32(np.sqrt(3) / a), (1 + e) / (1 - e) + 2 * a * e / (1 - e) ** 2),
    ]:
        found = kernel_sum([[0.0]], k, np.ones(321), kernel=kernel, engine=simple)
        np.testing.assert_allclose(found, [wanted], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_numbers_add_up_exactly(engine, dtype):
    # Kernels of one at one place; 12,502,500 is below 2^24.
    x = np.zeros((5000, 3), dtype)
    b = np.stack([np.arange(1, 5001), np.ones(5000)], 1).astype(dtype)
    found = kernel_sum(x[:2], x, b, kernel=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(found, [[12_502_500, 5000]] * 2)


def test_a_million_tenths_in_float32(simple):
    # Added one by one in float32, a million times 0.1 is off by a hundredth.
    x = np.zeros((1_000_000, 3), np.float32)
    b = np.full((1_000_000, 2), 0.1, np.float32)
    found = kernel_sum(x[:1], x, b, kernel=Gaussian(0.8), engine=simple)
    assert relative(found, np.full((1, 2), 1e6 * float(np.float32(0.1)))) < 5e-6


# ---------------------------------------------------------------- data away from the origin


def test_map_coordinates_in_float64_cost_nothing(engine, rng):
    y, x = rng.integers(0, 4096, (2, 60, 3)) / 1024
    b = rng.standard_normal((60, 2))
    far = kernel_sum(y + 2.0**20, x + 2.0**20, b, kernel=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(far, kernel_sum(y, x, b, kernel=Gaussian(0.8), engine=engine))


@pytest.mark.parametrize(("shift", "direct"), [(0, 5e-7), (10, 8e-6), (100, 6e-5), (1000, 5e-4)])
@pytest.mark.parametrize("engine", ["dense", "eager", "compiled"])
def test_shifted_points_in_float32_lose_what_their_rounding_costs(engine, shift, direct, rng):
    y, x = rng.uniform(0, 1, (2, 60, 3))
    truth = np.exp(-(distance(y, x) ** 2) / (2 * 0.01))
    single = [(v + shift).astype(np.float32) for v in (y, x)]
    found = kernel_sum(*single, np.eye(60, dtype=np.float32), kernel=Gaussian(0.1), engine=engine)
    assert np.abs(found - truth).max() < 2 * direct
    # Where the points come in float64, they are centred before they are rounded, and nothing is lost.
    found = kernel_sum(y + shift, x + shift, np.eye(60), kernel=Gaussian(0.1), engine=engine, dtype="float32")
    assert np.abs(found - truth).max() < 1.5e-6


def test_map_coordinates_in_float64_are_summed_in_float32_after_centring(simple, rng):
    y, x, b = sample(rng, 40, 50)
    truth = KERNELS["gaussian"][1](y, x) @ b
    far = kernel_sum(y + 1e6, x + 1e6, b, kernel=Gaussian(0.8), engine=simple, dtype="float32")
    assert far.dtype == np.float32
    # The points in float64 are off by 1e-10.
    assert relative(far, truth) < 5e-6
    blind = kernel_sum(y + 1e6, x + 1e6, b, kernel=Gaussian(0.8), engine=simple, dtype="float32", center=False)
    assert relative(blind, truth) > 1e-3
    by_hand = kernel_sum(
        y + 1e6, x + 1e6, b, kernel=lambda y, x: (-((y - x) ** 2).sum(-1) / 1.28).exp(), dtype="float32", center=True
    )
    assert relative(by_hand, truth) < 5e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["dense", "eager", "compiled"])
def test_far_clusters_in_many_dimensions_are_not_multiplied_out(engine, dtype, rng):
    # |y|^2 + |x|^2 - 2 y.x would be off by eps * 1e8.
    y = rng.standard_normal((40, 20)) * 0.2
    y[20:] += 2000.0
    y = y.astype(dtype)
    b = rng.standard_normal((40, 2)).astype(dtype)
    found = kernel_sum(y, y, b, kernel=Gaussian(0.8), engine=engine)
    assert relative(found, KERNELS["gaussian"][1](y, y) @ b.astype(float)) < TOLERANCE[dtype]


# ---------------------------------------------------------------- extremes of the exponent


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [(engine, dtype) for engine in ("dense", "eager", "compiled") for dtype in ("float32", "float64")]
    + [pytest.param("keops", "float64", marks=pytest.mark.keops)],
    indirect=["engine"],
)
def test_exponents_far_beyond_the_range_of_exp(engine, dtype):
    y, x = np.zeros((1, 3), dtype), np.array([[0, 0, 0], [0.8, 0, 0]], dtype)
    for base in (1e4, -1e4, 3e4):
        found = kernel_logsumexp(y, x, np.array([base, base], dtype), kernel_log=Gaussian(0.8), engine=engine)
        np.testing.assert_allclose(found, [base + np.log1p(np.exp(-0.5))], rtol=1e-7 if dtype == "float32" else 1e-15)
    # Far away, without weights: the exponent itself, not the logarithm of an underflow.
    far = kernel_logsumexp(np.array([[800.0, 0, 0]], dtype), x[:1], kernel_log=Gaussian(0.8), engine=engine)
    np.testing.assert_allclose(far, [-5e5], rtol=1e-6)


def test_weights_of_zero_and_rows_of_nothing(engine, rng):
    y, x, _ = sample(rng, 5, 6)
    w = rng.standard_normal(6)
    w[[0, 3]] = -np.inf
    found = kernel_logsumexp(y, x, w, kernel_log=Gaussian(0.8), engine=engine)
    wanted = logsumexp(np.log(KERNELS["gaussian"][1](y, x[[1, 2, 4, 5]])) + w[[1, 2, 4, 5]])
    assert relative(found, wanted) < 1e-12
    nothing = kernel_logsumexp(y, x, np.full(6, -np.inf), kernel_log=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(nothing, np.full(5, -np.inf))


def test_gradients_at_rows_of_nothing_are_zero(simple, rng):
    y, x, _ = sample(rng, 5, 6)
    for w in (np.full(6, -np.inf), np.where(np.arange(6) % 2, 0.0, -np.inf)):
        leaves = [torch.from_numpy(v).requires_grad_() for v in (y, x, w)]
        out = kernel_logsumexp(*leaves, kernel_log=Gaussian(), engine=simple)
        grads = torch.autograd.grad(torch.where(out.isinf(), 0.0, out).sum(), leaves)
        assert all(torch.isfinite(g).all() for g in grads)
        assert (grads[2][torch.from_numpy(np.isinf(w))] == 0).all()


def test_several_columns_of_log_weights(engine, rng):
    y, x, w = sample(rng, 5, 6, r=3)
    found = kernel_logsumexp(y, x, w, kernel_log=Gaussian(0.8), engine=engine)
    assert found.shape == (5, 3)
    wanted = logsumexp(np.log(KERNELS["gaussian"][1](y, x))[:, None, :] + w.T)
    assert relative(found, wanted) < 1e-12


# ---------------------------------------------------------------- kinds of data


def test_kinds_of_arrays(simple, backend, rng):
    y, x, b = sample(rng, 6, 5)
    truth = kernel_sum(y, x, b, kernel=Gaussian(), engine=simple)
    found = kernel_sum(*(backend.array(v) for v in (y, x, b)), kernel=Gaussian(), engine=simple)
    np.testing.assert_array_equal(backend.numpy(found), truth)
    np.testing.assert_array_equal(
        backend.numpy(kernel_sum(*(backend.array(v) for v in (y, x, b[:, 0])), kernel=Gaussian(), engine=simple)),
        kernel_sum(y, x, b[:, :1], kernel=Gaussian(), engine=simple)[:, 0],
    )


def test_layouts_of_memory_do_not_matter(engine, rng):
    y, x, b = sample(rng, 6, 5)
    truth = kernel_sum(y, x, b, kernel=Gaussian(0.8), engine=engine)
    read_only = y.copy()
    read_only.setflags(write=False)
    for other in (
        [np.asfortranarray(v) for v in (y, x, b)],
        [v[::-1].copy()[::-1] for v in (y, x, b)],
        [v.astype(">f8") for v in (y, x, b)],
        [np.repeat(v, 2, 0)[::2] for v in (y, x, b)],
        [read_only, x, b],
        [v.tolist() for v in (y, x, b)],
        [torch.from_numpy(np.asfortranarray(v)) for v in (y, x, b)],
    ):
        np.testing.assert_array_equal(kernel_sum(*other, kernel=Gaussian(0.8), engine=engine), truth)


def test_inputs_are_left_alone(engine, rng):
    y, x, b = sample(rng, 6, 5)
    kept = [v.copy() for v in (y, x, b)]
    kernel_sum(y, x, b, kernel=Gaussian(0.8), engine=engine)
    kernel_logsumexp(y, x, b[:, 0], kernel_log=Gaussian(0.8), engine=engine)
    for before, after in zip(kept, (y, x, b), strict=True):
        np.testing.assert_array_equal(before, after)


def test_whole_numbers_and_truth_values_are_numbers(simple):
    truth = kernel_sum([[0.0, 1.0]], [[1.0, 1.0]], [1.0], kernel=Gaussian(), engine=simple)
    np.testing.assert_allclose(truth, [np.exp(-0.5)], rtol=1e-15)
    for kind in (int, bool, np.int8, np.uint16):
        y, x, b = np.array([[0, 1]], kind), np.array([[1, 1]], kind), np.array([1], kind)
        np.testing.assert_array_equal(kernel_sum(y, x, b, kernel=Gaussian(), engine=simple), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(simple, dtype, rng):
    y, x, b = (torch.from_numpy(v).to(dtype) for v in sample(rng, 6, 5))
    found = kernel_sum(y, x, b, kernel=Gaussian(), engine=simple)
    assert found.dtype == dtype
    wanted = kernel_sum(y.float(), x.float(), b.float(), kernel=Gaussian(), engine=simple)
    assert torch.equal(found, wanted.to(dtype))


def test_sums_that_half_precision_cannot_hold_are_refused(simple):
    x = torch.zeros((9, 1), dtype=torch.float16)
    with pytest.raises(InvalidInputError, match="can be summed in float16; row 0 of the answer is inf"):
        kernel_sum(x, x, torch.full((9,), 6e4, dtype=torch.float16), kernel=Gaussian(), engine=simple)


def test_complex_weights_are_two_real_ones(engine, rng):
    y, x, b = sample(rng, 6, 5, r=1)
    c = b + 1j * rng.standard_normal((5, 1))
    K = KERNELS["gaussian"][1](y, x)
    for one, wanted in ((c, K @ c), (torch.from_numpy(c).conj(), K @ c.conj())):
        found = kernel_sum(y, x, one, kernel=Gaussian(0.8), engine=engine)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
    narrow = kernel_sum(*(v.astype("f4") for v in (y, x)), c.astype("c8"), kernel=Gaussian(0.8), engine="eager")
    assert narrow.dtype == np.complex64
    vector = kernel_sum(y, x, c[:, 0], kernel=Gaussian(0.8), engine=engine)
    np.testing.assert_allclose(vector, (K @ c)[:, 0], rtol=0, atol=1e-13)


def test_gradients_flow_through_complex_weights(simple, rng):
    y, x, b = (torch.from_numpy(v) for v in sample(rng, 4, 3))
    c = torch.complex(b, b.flip(0)).requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda y, c: kernel_sum(y, x, c, kernel=Gaussian(), engine=simple), (y, c))


def test_data_arrays(simple, rng):
    import xarray as xr

    y, x, b = sample(rng, 6, 5, r=1)
    Y = xr.DataArray(y, dims=("place", "axis"))
    found = kernel_sum(Y, x, b, kernel=Gaussian(), engine=simple)
    np.testing.assert_array_equal(np.asarray(found), kernel_sum(y, x, b, kernel=Gaussian(), engine=simple))


def test_tensors_of_one_kind_return_even_beside_numpy(simple, rng):
    y, x, b = sample(rng, 6, 5)
    found = kernel_sum(y, x, torch.from_numpy(b).requires_grad_(), kernel=Gaussian(), engine=simple)
    assert isinstance(found, torch.Tensor)
    assert found.requires_grad
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    found = kernel_logsumexp(y, x, w, kernel_log=Gaussian(), engine=simple)
    assert isinstance(found, torch.Tensor)
    assert found.requires_grad


# ---------------------------------------------------------------- nothing, and one


@pytest.mark.parametrize(("m", "n", "r"), [(0, 5, 2), (6, 0, 2), (6, 5, 0), (0, 0, 0)])
@pytest.mark.parametrize(
    ("engine", "d"),
    [*[(engine, d) for engine in ("dense", "eager") for d in (1, 3, 20)], ("compiled", 3)]
    + [pytest.param("keops", 3, marks=pytest.mark.keops)],
    indirect=["engine"],
)
def test_nothing_gives_zeros_without_an_engine(engine, m, n, r, d):
    found = kernel_sum(np.zeros((m, d)), np.zeros((n, d)), np.zeros((n, r)), kernel=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(found, np.zeros((m, r)))
    found = kernel_logsumexp(np.zeros((m, d)), np.zeros((n, d)), kernel_log=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(found, np.full(m, np.log(n) if n else -np.inf))


def test_one_point(engine):
    found = kernel_sum([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], [[2.0, 4.0]], kernel=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(found, [[2.0, 4.0]])
    found = kernel_logsumexp([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], kernel_log=Gaussian(0.8), engine=engine)
    np.testing.assert_array_equal(found, [0.0])


# ---------------------------------------------------------------- what is wrong is named

P = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("y", "x", "b", "words"),
    [
        (np.full((4, 2), np.nan), P, np.ones(4), r"y must be finite; the entry at index \(0, 0\) is nan"),
        (P, np.full((4, 2), np.inf), np.ones(4), r"x must be finite; the entry at index \(0, 0\) is inf"),
        (P, P, [1.0, np.nan, 0.0, 0.0], "b must be finite; the entry at index 1 is nan"),
        (P + 1j, P, np.ones(4), "y must be real; got dtype"),
        (P, P + 1j, np.ones(4), "x must be real; got dtype"),
        (P[0], P, np.ones(4), r"y must be points of shape \(n, d\); got shape \(2,\).*pass y\[:, None\]"),
        (P, 1.0, np.ones(4), r"x must be points of shape \(n, d\); got shape \(\)"),
        (P, np.zeros((4, 3)), np.ones(4), "y and x must have equally many coordinates"),
        (P, P, np.ones(3), r"b must have one row for each of the 4 rows of x; got \(3, 1\)"),
        (P, P, 1.0, "b must have one row for each of the 4 rows of x; got the number 1.0"),
        (P[:, :0], P[:, :0], np.ones(4), "at least one coordinate"),
        ([["a", "b"]], P, np.ones(4), "y must hold numbers"),
        ([[1.0, 2.0], [3.0]], P, np.ones(4), "y must be a rectangular array"),
    ],
)
def test_arrays_that_do_not_fit(y, x, b, words):
    with pytest.raises(InvalidInputError, match=words):
        kernel_sum(y, x, b, kernel=Gaussian())


@pytest.mark.parametrize(
    ("log_w", "words"),
    [
        (np.zeros(3), r"log_w must have one row for each of the 4 rows of x; got shape \(3, 1\)"),
        (0.0, "log_w must have one row for each of the 4 rows of x; got the number 0.0"),
        ([0.0, np.nan, 0.0, 0.0], r"log_w must be real logarithms, finite or -inf"),
        ([0.0, np.inf, 0.0, 0.0], r"log_w must be real logarithms, finite or -inf"),
        (np.full(4, 1j), r"log_w must be real logarithms, finite or -inf"),
    ],
)
def test_log_weights_that_do_not_fit(log_w, words):
    with pytest.raises(InvalidInputError, match=words):
        kernel_logsumexp(P, P, log_w, kernel_log=Gaussian())


def test_log_weights_that_float32_cannot_hold_are_refused():
    with pytest.raises(InvalidInputError, match=r"log_w must fit into torch.float32; the largest is 1e\+39"):
        kernel_logsumexp(P.astype("f4"), P.astype("f4"), np.full(4, 1e39), kernel_log=Gaussian())


@pytest.mark.parametrize(
    ("kernel", "error", "words"),
    [
        ("rbf", InvalidTypeError, "kernel must be a kernel of sciml.kernels or a function of two points; got str"),
        (None, InvalidTypeError, "got NoneType"),
        (lambda d: d, InvalidInputError, "kernel could not be evaluated: it gives 2 numbers a pair; end it by .sum"),
        (lambda d: None, InvalidInputError, "kernel could not be evaluated"),
        (lambda d: "a", InvalidInputError, "kernel could not be evaluated"),
        (lambda d: d.mean(), InvalidInputError, "a pair function has no operation 'mean'. Use"),
        (lambda d: d.sum(0), InvalidInputError, r"kernel must sum over the coordinates, by .sum\(-1\)"),
        (lambda d: d @ d, InvalidInputError, "kernel could not be evaluated: unsupported operand"),
        (lambda d: d + np.ones(3), InvalidInputError, "kernel combines vectors of 2 and 3 coordinates"),
        (lambda d: d.sum(-1) / 0.0, InvalidInputError, "kernel must give finite values.*row 0 of the answer is nan"),
        (lambda d: 1.0 if d[0] > 0 else 0.0, InvalidInputError, "kernel could not be evaluated: '>' not supported"),
        (lambda: 1.0, InvalidInputError, r"kernel must be a function of two points, kernel\(y, x\)"),
        (lambda a, b, c: 1.0, InvalidInputError, r"got the signature \(a, b, c\)"),
        (Gaussian, InvalidInputError, "got the signature"),
    ],
)
def test_kernels_that_are_none(simple, kernel, error, words):
    with pytest.raises(error, match=words):
        kernel_sum(P, P, np.ones(4), kernel=kernel, engine=simple)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logarithms_that_are_not_finite_are_refused(simple, value):
    with pytest.raises(InvalidInputError, match=f"kernel_log must give finite values.*is {value}"):
        kernel_logsumexp(P, P + 1, kernel_log=lambda d: (d**2).sum(-1) * value, engine=simple)


def test_overflow_in_float32_is_no_silent_infinity(simple):
    x = np.zeros((4, 1), np.float32)
    with pytest.raises(InvalidInputError, match="summed in float32; row 0 of the answer is inf.*compute in float64"):
        kernel_sum(x, x, np.full(4, 3e38, np.float32), kernel=Gaussian(), engine=simple)


def test_without_the_check_nan_comes_out_where_it_went_in(simple):
    y = np.array([[0.0], [np.nan]])
    found = kernel_sum(y, [[0.0]], [1.0], kernel=Gaussian(), engine=simple, check_finite=False)
    np.testing.assert_array_equal(found, [1.0, np.nan])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "gpu"}, "engine must be one of 'auto', 'dense', 'eager', 'compiled', 'keops'; got 'gpu'"),
        ({"products": 0}, "products must be an integer at least 1; got 0"),
        ({"products": 1.5}, "products must be an integer"),
        ({"memory": -1}, "memory must be"),
        ({"memory": "lots"}, "memory must be"),
        ({"dtype": "int32"}, "dtype must be one of"),
        ({"device": "toaster"}, "device must be one of"),
        ({"params": {"s": 1.0}}, r"params must be left out with a kernel of sciml.kernels.*got \['s'\]"),
    ],
)
def test_options_that_are_none(options, words):
    with pytest.raises(InvalidInputError, match=words):
        kernel_sum(P, P, np.ones(4), kernel=Gaussian(), **options)
    with pytest.raises(InvalidInputError, match=words):
        kernel_logsumexp(P, P, kernel_log=Gaussian(), **options)


def test_needs_beyond_the_budget_are_stated_before_anything_is_formed():
    y, b = np.zeros((2000, 2)), np.ones(2000)
    with pytest.raises(
        MemoryBudgetError, match="the engine 'dense' for 2000 x 2000 pairs takes .*pass engine='eager'"
    ) as e:
        kernel_sum(y, y, b, kernel=Gaussian(), engine="dense", memory="20MiB")
    assert e.value.needed > 32_000_000
    assert e.value.allowed == 20 * 2**20
    assert kernel_sum(y, y, b, kernel=Gaussian(), engine="auto", memory="20MiB")[0] == 2000.0
    with pytest.raises(MemoryBudgetError, match="2000 x 2000 pairs takes .* memory allows 1000 bytes. To go on") as e:
        kernel_logsumexp(y, y, kernel_log=Gaussian(), memory=1000)
    assert e.value.needed > 1000 == e.value.allowed
