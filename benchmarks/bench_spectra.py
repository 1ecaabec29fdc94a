"""Exponents of weights beside weightwatcher and the published windows: agreement, bias, coverage, spikes, seconds.

Seconds are those of this process on one core (`time.process_time`), the median of interleaved calls; `ratio` is the
peer's over ours. `value` is what the case names, `bar` what is to be reached, at most or between.

Spreads are (max - min) / mean of the exponent over the shapes of the case. Coverage is the share of intervals that hold
the mean of the exponent over all replicates of their population. The design deviation is that of the exponent over
permutations of rows and columns, which change nothing that the network computes: median over layers. The encoder's 39
matrices of at least 16 rows and columns have 22.7 million entries (sciml.datasets.sentence_encoder).
"""

import contextlib
import io
import logging
import time
import warnings

import numpy as np
import scipy.stats

from benchmarks.measure import interleaved
from benchmarks.spectra_problems import (
    POPULATIONS,
    as_module,
    encoder_weights,
    planted,
    published_alpha,
    published_eigenvalues,
)
from sciml.stats.spectra import diagnose, farms_spectrum, fit_mp, hill, mp_alpha
from sciml.stats.spectra.gram_spectrum import spectrum

SETTINGS = {
    "repeats": 5,
    "draws": 5,
    "replicates": 200,
    "noise_layers": 300,
    "permutations": 20,
    "grid": [192, 5],
    "large_grid": [2000, 15],
    "weightwatcher": "analyze(plot=False), default options; float64 singular values by scipy",
}
COLUMNS = ("case", "method", "seconds", "ratio", "value", "bar", "note")
# The exponent of noise at q = 1/2 by aspect ratio, to four digits, from quadratures of the Marchenko-Pastur law.
NOISE = {1: 2.1217, 0.9: 2.2041, 0.75: 2.3507, 2 / 3: 2.4492, 1 / 2: 2.7058, 1 / 3: 3.1175}
NOISE |= {1 / 4: 3.4546, 1 / 8: 4.4699, 1 / 16: 5.8775, 1 / 32: 7.8487, 1 / 64: 10.6228, 1 / 128: 14.5364}


def row(case, method, seconds=None, ratio=None, value=None, bar=None, note=""):
    """Return a row of the table."""
    return dict(zip(COLUMNS, (case, method, seconds, ratio, value, bar, note), strict=True))


def spread(values):
    """Return (max - min) / mean."""
    return float(np.ptp(values) / np.mean(values))


def noise():
    """Yield how well the exponent of noise is known, and how flat FARMS makes it over aspect ratios."""
    off = max(abs(float(mp_alpha(gamma)) - truth) for gamma, truth in NOISE.items())
    yield row("noise, 12 ratios", "mp_alpha", value=off, bar="<= 1e-4", note="worst difference from the table")
    limit = 1 + 3 * np.pi / 8 * np.sqrt(128)
    off = float(mp_alpha(1 / 128)) / limit - 1
    yield row("noise, 1 to 128", "mp_alpha", value=off, bar="<= 0.02", note="from 1 + 3 pi / (8 sqrt(gamma))")
    ratios = (1, 1.25, 1.5, 2, 3, 4, 6, 8, 16)
    plain, ours = (np.empty((SETTINGS["draws"], len(ratios))) for _ in range(2))
    for i in range(SETTINGS["draws"]):
        for j, ratio in enumerate(ratios):
            W = np.random.default_rng([i, j]).standard_normal((192, int(192 * ratio)))
            plain[i, j], ours[i, j] = hill(spectrum(W)), farms_spectrum(W).alpha
    case, note = "192 x (192 to 3072), noise", f"means of {len(plain)} draws"
    theory = np.array([float(mp_alpha(192 / int(192 * ratio))) for ratio in ratios])
    value = float(np.abs(plain.mean(0) / theory - 1).max())
    yield row(case, "plain, off mp_alpha", value=value, bar="<= 0.02", note=f"worst relative distance, {note}")
    yield row(case, "plain, spread", value=spread(plain.mean(0)), note=note)
    yield row(case, "FARMS, spread", value=spread(ours.mean(0)), bar="<= 0.015", note=note)
    value = float(np.mean([spread(one) for one in ours]))
    yield row(case, "FARMS, spread", value=value, note="of single draws, mean")


def populations():
    """Yield spreads over sizes and shapes of five populations."""
    bars = dict(zip(POPULATIONS, (0.019, 0.034, 0.027, 0.046, 0.054), strict=True))
    shapes = [(m, m * r) for m in (192, 384, 768) for r in (1, 2, 4) if m * r <= 1536]
    for name, draw in POPULATIONS.items():
        found = {"plain": [], "published, 96, 9 x 9": [], "FARMS": []}
        for m, n in shapes:
            layers = [draw(np.random.default_rng([m, n, i]), m, n) for i in range(SETTINGS["draws"])]
            found["plain"].append(np.mean([hill(spectrum(W)) for W in layers]))
            fixed = [published_alpha(published_eigenvalues(W, 96, 9)) for W in layers]
            found["published, 96, 9 x 9"].append(np.mean(fixed))
            found["FARMS"].append(np.mean([farms_spectrum(W).alpha for W in layers]))
        note = f"spread over 192 to 768 rows, ratios 1 to 4, means of {SETTINGS['draws']} draws"
        for method, alphas in found.items():
            bar = f"<= {bars[name]}" if method == "FARMS" else None
            yield row(name, method, value=spread(alphas), bar=bar, note=note)


def coverage(quick):
    """Yield how often intervals hold the mean of their population, and how noise is told from structure."""
    replicates = 40 if quick else SETTINGS["replicates"]
    for shape in ((384, 768), (128, 512)):
        for k, (name, draw) in enumerate(POPULATIONS.items()):
            found = [
                farms_spectrum(draw(np.random.default_rng([k, i, shape[0]]), *shape), random_state=i)
                for i in range(replicates)
            ]
            mean = np.mean([one.alpha for one in found])
            value = float(np.mean([one.lo <= mean <= one.hi for one in found]))
            note = f"mean {mean:.3f}, deviation {np.std([one.alpha for one in found]):.4f}"
            note += f", stated {np.mean([one.se for one in found]):.4f}"
            case = f"{name}, {shape[0]} x {shape[1]}"
            yield row(case, "coverage of 95 % intervals", value=value, bar="0.90 to 0.99", note=note)
    layers = 60 if quick else SETTINGS["noise_layers"]
    rng = np.random.default_rng(9)
    shapes = [(64, 64), (96, 192), (128, 512), (256, 256)]
    state = {f"w{i}": rng.standard_normal(shapes[i % 4]) for i in range(layers)}
    z = diagnose(state, metrics=["alpha_farms", "z_null"]).z_null
    p = float(scipy.stats.kstest(z, "norm").pvalue)
    note = f"mean {z.mean():.2f}, deviation {z.std():.2f}; p value of the Kolmogorov-Smirnov test"
    yield row(f"noise, {layers} layers", "z_null is standard normal", value=p, bar="> 0.01", note=note)


def permutations(weights, quick):
    """Yield how much an exponent depends on the order of neurons, over that of its stated error."""
    count = 6 if quick else SETTINGS["permutations"]
    keys = [key for key in weights if ".layer.0." in key or ".layer.5." in key]
    ratios, ours, fewer, published = [], [], [], []
    for key in keys:
        W = weights[key].astype(np.float64)
        rng = np.random.default_rng(0)
        found, some, other = [], [], []
        for i in range(count):
            V = W[rng.permutation(W.shape[0])][:, rng.permutation(W.shape[1])]
            found.append(farms_spectrum(V, random_state=i))
            some.append(farms_spectrum(V, random_state=i, min_windows=8).alpha)
            other.append(published_alpha(published_eigenvalues(V, *SETTINGS["grid"])))
        ours.append(np.std([one.alpha for one in found], ddof=1))
        fewer.append(np.std(some, ddof=1))
        published.append(np.std(other, ddof=1))
        ratios.append(ours[-1] / np.mean([one.se for one in found]))
    case = f"encoder, {len(keys)} layers permuted"
    note = f"{count} permutations; deviation over stated error, worst layer; median {np.median(ratios):.2f}"
    yield row(case, "FARMS", value=float(max(ratios)), bar="<= 1.5", note=note)
    bar = float(np.median(published))
    yield row(case, "published, 192, 5 x 5", value=bar, note="design deviation")
    for name, values in (("FARMS", ours), ("FARMS, min_windows=8", fewer)):
        yield row(case, name, value=float(np.median(values)), bar=f"<= {bar:.4f}", note="design deviation")


def watcher(module):
    """Return a function that lets weightwatcher analyse a module, silently; None where it is not installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import weightwatcher
    except ImportError:
        return None
    logging.disable(logging.INFO)  # its import shows those of all libraries
    logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)

    def analyse(**options):
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return weightwatcher.WeightWatcher(model=module).analyze(plot=False, savefig=False, **options)

    return analyse


def timed(function):
    """Return the answer of one call and its seconds."""
    start = time.process_time()
    answer = function()
    return answer, time.process_time() - start


def beside_weightwatcher(weights, quick):
    """Yield agreement of the fitted exponents of the encoder with weightwatcher, and seconds of both."""
    analyse = watcher(as_module(weights))
    fits = {"metrics": ["alpha_ks"], "farms": False}
    ours = {
        "alpha_ks, float64": lambda: diagnose(weights, **fits),
        "alpha_ks, float32": lambda: diagnose(weights, **fits, dtype="float32"),
        "all metrics without windows, float64": lambda: diagnose(weights, farms=False),
        "all metrics with FARMS, float64": lambda: diagnose(weights),
    }
    taken = interleaved(
        ours | ({"weightwatcher": analyse} if analyse else {}),
        2 if quick else SETTINGS["repeats"],
        clock=time.process_time,
    )
    theirs = taken.get("weightwatcher", {}).get("seconds")
    bars = {"alpha_ks, float64": "ratio >= 2.5", "alpha_ks, float32": "ratio >= 4"}
    case = f"encoder, {len(weights)} layers"
    note = f"median of {taken['alpha_ks, float64']['repeats']}"
    if analyse is None:
        yield row(case, "weightwatcher", note="not installed: pip install weightwatcher")
    else:
        yield row(case, "weightwatcher", seconds=theirs, note=note)
    for name in ours:
        seconds = taken[name]["seconds"]
        yield row(case, name, seconds, theirs and theirs / seconds, bar=bars.get(name), note=note)
    if analyse is None:
        return
    table = analyse()
    peers = dict(zip(table["longname"], table["alpha"], strict=True))
    for dtype, bar in (("float64", "<= 1e-9"), ("float32", None)):
        found = diagnose(weights, **fits, dtype=dtype)
        mine = {str(key).replace(".", "_"): a for key, a in zip(found.layer, found.alpha_ks, strict=True)}
        off = max(abs(mine[key] / peers[key] - 1) for key in peers)
        note = f"worst relative difference, {len(peers)} layers"
        yield row(case, f"alpha_ks, {dtype}, agreement", value=float(off), bar=bar, note=note)
    _, mine = timed(lambda: diagnose(weights, farms=False))
    few = dict(list(weights.items())[2:8]) if quick else weights
    _, theirs = timed(lambda: watcher(as_module(few))(mp_fit=True, randomize=True))
    mine *= len(few) / len(weights)
    yield row(f"encoder, {len(few)} layers", "weightwatcher, mp_fit, randomize", theirs, note="one call")
    note = "one call; fit of noise, edge and spikes of all layers"
    yield row(f"encoder, {len(few)} layers", "all metrics", mine, theirs / mine, bar="ratio >= 20", note=note)


def beside_the_grid(weights, quick):
    """Yield seconds of FARMS and of the published windows."""
    height, count = SETTINGS["grid"]
    work = {
        "published": lambda: [published_eigenvalues(W.astype(np.float64), height, count) for W in weights.values()],
        "FARMS": lambda: diagnose(weights, metrics=["alpha_farms"]),
        "FARMS, min_windows=8": lambda: diagnose(weights, metrics=["alpha_farms"], min_windows=8),
        "FARMS, float32": lambda: diagnose(weights, metrics=["alpha_farms"], dtype="float32"),
    }
    taken = interleaved(work, 1 if quick else SETTINGS["repeats"], clock=time.process_time)
    theirs = taken["published"]["seconds"]
    note = f"median of {taken['FARMS']['repeats']}"
    yield row("encoder", f"published, {height}, {count} x {count}", theirs, note=note)
    for name in list(work)[1:]:
        seconds = taken[name]["seconds"]
        yield row("encoder", name, seconds, theirs / seconds, bar="ratio >= 2", note=note)
    if quick:
        return
    height, count = SETTINGS["large_grid"]
    W = np.random.default_rng(0).standard_normal((4096, 4096))
    _, four = timed(lambda: published_eigenvalues(W, height, count, only=4))
    theirs = four * count**2 / 4
    yield row("4096 x 4096", f"published, {height}, {count} x {count}", theirs, note="extrapolated from 4 windows")
    for rho in (None, 1 / 8, 1 / 16):
        options = {} if rho is None else {"rho": rho}
        found, seconds = timed(lambda options=options: farms_spectrum(W, **options))
        note = f"alpha {found.alpha:.3f}, error {found.se:.4f}, {found.n_windows} windows of {found.height}"
        bar = "ratio >= 100" if rho == 1 / 8 else None
        yield row("4096 x 4096", f"FARMS, rho {rho or 0.5:.3g}", seconds, theirs / seconds, bar=bar, note=note)


def spikes():
    """Yield how many planted spikes are counted, beside weightwatcher."""
    for m, n in ((384, 384), (384, 1536), (256, 512)):
        for count in (0, 5, 20, 60):
            W = planted(np.random.default_rng([count, m, n]), m, n, count)
            found, seconds = timed(lambda W=W, m=m, n=n: fit_mp(spectrum(W), (m, n)))
            case = f"{m} x {n}, {count} spikes"
            off = abs(found.num_spikes - count)
            yield row(case, "fit_mp", seconds, value=float(off), bar="<= 1", note=f"{found.num_spikes} counted")
            analyse = watcher(as_module({"w": W}))
            if analyse:
                table, theirs = timed(lambda analyse=analyse: analyse(mp_fit=True))
                seen = int(table["num_spikes"].iloc[0])
                ratio = theirs / seconds
                yield row(case, "weightwatcher", theirs, ratio, float(abs(seen - count)), note=f"{seen} counted")


def on_the_gpu():
    """Yield agreement and wall time of one CUDA device, where there is one."""
    import torch

    if not torch.cuda.is_available():
        yield row("4096 x 4096, GPU", "FARMS", note="no CUDA device")
        return
    W = torch.from_numpy(np.random.default_rng(0).standard_normal((4096, 4096)))
    on = {"CPU": W, "GPU": W.cuda()}
    options = {"rho": 1 / 8}
    work = {name: (lambda V=V: farms_spectrum(V, **options)) for name, V in on.items()}
    taken = interleaved(work, 3, synchronise=torch.cuda.synchronize)
    alpha = {name: function().alpha for name, function in work.items()}
    ratio = taken["CPU"]["seconds"] / taken["GPU"]["seconds"]
    off = abs(alpha["GPU"] - alpha["CPU"])
    note = f"wall time; CPU {taken['CPU']['seconds']:.3g} s; value: difference of alpha"
    yield row("4096 x 4096, GPU", "FARMS, rho 0.125", taken["GPU"]["seconds"], ratio, off, "<= 1e-3, ratio >= 10", note)


def rows(quick=False):
    """Yield all rows."""
    yield from noise()
    yield from populations()
    yield from coverage(quick)
    yield from spikes()
    yield from on_the_gpu()
    try:
        weights = encoder_weights()
    except ImportError as error:
        yield row("encoder", "-", note=str(error))
        return
    yield from beside_weightwatcher(weights, quick)
    yield from beside_the_grid(weights, quick)
    yield from permutations(weights, quick)
