"""The exponent of noise: its mean and spread by formula beside fresh simulations, and the scores built from both.

`exponent`: many windows in a pool; `few`: pools of 1, 4 or 16 windows; `spread`: standard deviation over
matrices cut anew `repeats` times; `score`: (mean - exponent) / spread over Gaussian layers of several shapes, where the
formula is 0 and 1 and the note holds the p-value of a Kolmogorov-Smirnov test; `fit`: false spikes in noise, 1 %
wanted. `off` is the difference from the simulation in its standard errors, or their ratio for spreads.
"""

import time

import numpy as np

SETTINGS = {"seed": 0, "quantiles": (0.25, 0.5, 0.75), "entries": 4_000_000, "layers": 300}
COLUMNS = ("case", "shape", "formula", "simulated", "error", "off", "seconds", "note")


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def spectra(count, m, n, rng):
    """Return the eigenvalues of W W^T for Gaussian windows, shape (count, m)."""
    X = rng.standard_normal((count, m, n))
    return np.linalg.eigvalsh(X @ X.swapaxes(1, 2))


def exponents(pools, q):
    """Return the exponent of each row."""
    pools = np.sort(pools, axis=1)
    logs = np.log(pools[:, int(q * pools.shape[1]) :])
    return 1 + logs.shape[1] / (logs - logs[:, :1]).sum(1)


def cut(W, height, width, repeats, rng):
    """Return the pooled eigenvalues of a matrix cut anew several times."""
    down, across = W.shape[0] // height, W.shape[1] // width
    pool = []
    for _ in range(repeats):
        V = W[rng.permutation(len(W))][:, rng.permutation(W.shape[1])][: down * height, : across * width]
        tiles = V.reshape(down, height, across, width).swapaxes(1, 2).reshape(-1, height, width)
        pool.append(np.linalg.eigvalsh(tiles @ tiles.swapaxes(1, 2)).ravel())
    return np.concatenate(pool)


def means(quick):
    """Yield the mean exponent of many and of few windows."""
    from sciml.stats.spectra.noise_baseline import null_alpha

    entries = SETTINGS["entries"] * (1 if quick else 8)
    for m, n in ((8, 8), (8, 128), (16, 16), (16, 40), (32, 64), (64, 64), (100, 100), (100, 400)):
        start = time.process_time()
        count = max(40, entries // (m * n) // 40 * 40)
        rng = np.random.default_rng(SETTINGS["seed"])
        lam = np.concatenate([spectra(count // 40, m, n, rng) for _ in range(40)])
        seconds = time.process_time() - start
        for q in SETTINGS["quantiles"]:
            found = exponents(lam.reshape(20, -1), q)
            formula = null_alpha(m, n, q, count // 20)
            yield compared("exponent", m, n, formula, found, seconds, f"q={q}, pools of {count // 20}")
            for few in (1, 4, 16):
                if few * m * (1 - q) >= 8:
                    found = exponents(lam[: count // few * few].reshape(-1, few * m), q)
                    formula = null_alpha(m, n, q, few)
                    yield compared("few", m, n, formula, found, seconds, f"q={q}, pools of {few}")


def compared(case, m, n, formula, found, seconds, note):
    """Return a row for a mean."""
    error = float(found.std(ddof=1) / np.sqrt(len(found)))
    mean = float(found.mean())
    return row(case, f"{m} x {n}", formula, mean, error, (formula - mean) / error, seconds, note)


def spreads(quick):
    """Yield the standard deviation of the exponent."""
    from sciml.stats.spectra.noise_baseline import null_std

    count = 200 if quick else 1000
    cases = (((64, 64), (32, 32)), ((64, 128), (16, 16)), ((96, 96), (48, 48)), ((80, 80), (32, 32)))
    for shape, window in (*cases, ((64, 64), (16, 32))):
        for repeats in (1, 4):
            start = time.process_time()
            rng = np.random.default_rng(SETTINGS["seed"])
            pools = np.stack([cut(rng.standard_normal(shape), *window, repeats, rng) for _ in range(count)])
            seconds = time.process_time() - start
            for q in SETTINGS["quantiles"]:
                formula, found = null_std(*shape, *window, repeats, q), float(exponents(pools, q).std())
                name, note = f"{shape[0]} x {shape[1]}", f"q={q}, {repeats} cuts into {window[0]} x {window[1]}"
                error = found / np.sqrt(2 * count)
                yield row("spread", name, formula, found, error, formula / found, seconds, note)


def scores(quick):
    """Yield mean and standard deviation of the scores of Gaussian layers."""
    from scipy.stats import kstest

    from sciml.stats.spectra.noise_baseline import null_alpha, null_std

    rng, found, start = np.random.default_rng(SETTINGS["seed"]), [], time.process_time()
    shapes = ((64, 192), (96, 96), (128, 80), (120, 120), (64, 256), (100, 64))
    for k in range(SETTINGS["layers"]):
        rows, cols = shapes[k % len(shapes)]
        side = min(rows, cols) // 2
        repeats = -(-16 // ((rows // side) * (cols // side)))
        windows = repeats * (rows // side) * (cols // side)
        alpha = exponents(cut(rng.standard_normal((rows, cols)), side, side, repeats, rng)[None], 0.5)[0]
        found.append((null_alpha(side, side, n_windows=windows) - alpha) / null_std(rows, cols, side, side, repeats))
    found, seconds = np.array(found), time.process_time() - start
    note = f"p {kstest(found, 'norm').pvalue:.2f}"
    n, several = len(found), f"{len(shapes)} shapes"
    yield row("score", several, 0.0, found.mean(), n**-0.5, found.mean() * n**0.5, seconds, f"mean, {note}")
    yield row("score", several, 1.0, found.std(), (2 * n) ** -0.5, 1 / found.std(), seconds, f"sd, {note}")


def false_spikes(quick):
    """Yield how often a spike is found in noise."""
    from sciml.stats.spectra.marchenko_pastur import fit_mp

    for m, n, count in ((16, 16, 4000), (16, 64, 4000), (32, 32, 4000), (64, 128, 2000), (128, 128, 1000)):
        rng, start = np.random.default_rng(SETTINGS["seed"]), time.process_time()
        count = count // 4 if quick else count
        lam = np.concatenate([spectra(count // 10, m, n, rng) for _ in range(10)])
        begun = time.process_time()
        share = float(np.mean([fit_mp(values, (m, n)).num_spikes > 0 for values in lam]))
        each = 1e3 * (time.process_time() - begun) / count
        error = (0.01 * 0.99 / count) ** 0.5
        note = f"{each:.2f} ms a fit"
        yield row("fit", f"{m} x {n}", 0.01, share, error, (share - 0.01) / error, time.process_time() - start, note)


def rows(quick):
    """Yield the rows of the table."""
    for part in (means, spreads, scores, false_spikes):
        yield from part(quick)
