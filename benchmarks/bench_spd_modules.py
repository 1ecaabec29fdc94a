r"""Layers of networks of positive definite matrices: seconds beside spd-learn, derivatives, and accuracy on a watch.

Seconds are those of this process for one forward and backward pass in training mode on one core, the median of
interleaved calls; their `figure` is the ratio to three batched eigendecompositions of the same matrices with their
gradients, that of a whole training step the ratio to a step without a normalisation. A layer's derivatives are checked
by finite differences at G = M = I and at repeated and nearly repeated eigenvalues; `figure` is 1 where they agree. The
watch: windows of 400 samples of six channels, order 3, lag 10 and mean (19 x 19, shrinkage 1e-2), one subject of {1, 3,
6, 8, 10} left out in turn; BiMap 19 to 12, normalisation, logarithm, linear layer; 20 epochs of Adam at 5e-3, batches
of 50; `figure` is the mean accuracy on those five and over three starts; the last epoch counts, nothing is chosen.
`bar` is what is to be reached.
"""

import time
import warnings

import numpy as np

from benchmarks.bench_spd import matrices
from benchmarks.measure import interleaved

SETTINGS = {"batch": 30, "repeats": 5, "epochs": 20, "watch_batch": 50, "learning_rate": 5e-3, "seeds": 3}
COLUMNS = ("case", "method", "seconds", "figure", "bar", "note")
HELD_OUT = (1, 3, 6, 8, 10)


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def layers(n):
    """Return normalisations by name: ours, the published layer as it stands, and those of spd-learn."""
    import torch

    from sciml.stats.spd import GBWBatchNorm, SPDBatchNorm

    found = {metric: SPDBatchNorm(n, metric=metric) for metric in ("logeuclid", "bw", "gbw", "airm", "logchol")}
    found["bw, batch centre"] = SPDBatchNorm(n, metric="bw", center="batch")
    found["published, theta 1"] = GBWBatchNorm(n, literal=True, theta=1.0)
    found["published, theta 0.5"] = GBWBatchNorm(n, literal=True, theta=0.5)
    try:
        from spd_learn.modules import SPDBatchNormLie, SPDBatchNormMeanVar

        found["spd-learn mean and variance"] = SPDBatchNormMeanVar(n)
        for metric in ("AIM", "LEM", "LCM"):
            found[f"spd-learn Lie {metric}"] = SPDBatchNormLie(n, metric=metric)
    except ImportError:
        pass
    return {name: layer.to(torch.float64).train() for name, layer in found.items()}


def times(sizes):
    """Yield seconds of a pass, and the ratio to three eigendecompositions with gradients."""
    import torch

    for n in sizes:
        X = torch.from_numpy(matrices(SETTINGS["batch"], n, 1e2, 0))
        weights = torch.from_numpy(np.random.default_rng(1).standard_normal(X.shape))
        weights = weights + weights.mT

        def decompose(X=X, weights=weights):
            Y = X.clone().requires_grad_()
            s, U = torch.linalg.eigh(Y)
            ((weights * U).sum() + s.sum()).backward()

        def run(layer, X=X, weights=weights):
            Y = X.clone().requires_grad_()
            (weights * layer(Y)).sum().backward()

        calls = {"eigendecomposition": decompose}
        calls |= {name: (lambda layer=layer, run=run: run(layer)) for name, layer in layers(n).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of folding: what is timed is the pass
            taken = interleaved(calls, SETTINGS["repeats"], clock=time.process_time)
        unit = 3 * taken["eigendecomposition"]["seconds"]
        peer = taken.get("spd-learn mean and variance", {}).get("seconds")
        for name, call in taken.items():
            ratio = call["seconds"] / unit
            note = (
                f"{call['seconds'] / peer:.2f} of spd-learn's mean and variance" if peer else "spd-learn not installed"
            )
            bar = 1.5 if n == 50 and name in ("logeuclid", "bw", "gbw", "airm", "logchol") else None
            yield row(f"normalise {len(X)}, n={n}", name, call["seconds"], ratio, bar, note)


def watch_data():
    """Return matrices, classes and subjects of the watch."""
    from sciml.datasets import watch_windows
    from sciml.stats.spd.descriptor import Descriptor

    watch = watch_windows()
    descriptor = Descriptor(order=3, lag=10, n_basis=1, shrink=1e-2)
    return watch, descriptor


def network(norm, seed, n_classes=7):
    """Return BiMap, a normalisation, logarithm and linear layer: `SPDNet`, or with ReEig before the logarithm.

    Parameters
    ----------
    norm : None, dict or torch.nn.Module
        No normalisation, options of `SPDNet`, or somebody else's layer.
    """
    import torch

    from sciml.stats.spd import BiMap, LogEig, ReEig, SPDNet, SPDVech

    rng = np.random.default_rng(seed)
    if norm is None or isinstance(norm, dict):
        return SPDNet((19, 12), n_classes, rng=rng, **({"batchnorm": None} if norm is None else norm))
    head = torch.nn.Linear(78, n_classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return torch.nn.Sequential(BiMap(19, 12, rng=rng), norm, ReEig(), LogEig(), SPDVech(), head).double()


def trained(net, X, y, seed):
    """Train for the epochs of the table; no validation, no choice."""
    import torch

    optimiser = torch.optim.Adam(net.parameters(), lr=SETTINGS["learning_rate"])
    rng = np.random.default_rng(seed)
    net.train()
    for _ in range(SETTINGS["epochs"]):
        for rows in np.array_split(rng.permutation(len(X)), max(1, round(len(X) / SETTINGS["watch_batch"]))):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


def norms():
    """Return what makes the normalisation of each row, and its bar."""
    found = {"none": (lambda: None, None)}
    for metric in ("bw", "logeuclid", "airm", "logchol", "gbw"):
        found[metric] = (lambda metric=metric: {"metric": metric}, 0.91 if metric == "bw" else None)
    for theta in (0.5, 1.0):
        found[f"published, theta {theta:g}"] = (lambda theta=theta: {"batchnorm": "literal", "theta": theta}, None)
    try:
        from spd_learn.modules import SPDBatchNormMeanVar

        found["spd-learn mean and variance"] = (lambda: SPDBatchNormMeanVar(12), None)
    except ImportError:
        pass
    return found


def step_times():
    """Yield seconds of a training step of the watch's network, in terms of that without a normalisation."""
    import torch

    X = torch.from_numpy(matrices(SETTINGS["watch_batch"], 19, 1e3, 0))
    y = torch.arange(len(X)) % 7
    calls = {}
    for name, (make, _) in norms().items():
        net = network(make(), 0).train()
        optimiser = torch.optim.Adam(net.parameters(), lr=SETTINGS["learning_rate"])

        def step(net=net, optimiser=optimiser):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(X), y).backward()
            optimiser.step()

        calls[name] = step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = interleaved(calls, 4 * SETTINGS["repeats"], clock=time.process_time)
    for name, call in taken.items():
        ratio = call["seconds"] / taken["none"]["seconds"]
        yield row(
            f"training step, {len(X)} of 19 x 19", name, call["seconds"], ratio, 1.2 if name == "bw" else None, ""
        )


def accuracies(held_out, seeds, names=None):
    """Yield accuracy on subjects left out, the mean of some starts."""
    import torch

    watch, descriptor = watch_data()
    y, parts = torch.from_numpy(watch.y), []
    for subject in held_out:
        inside = watch.groups != subject
        parts.append((inside, torch.from_numpy(descriptor.matrices(watch.X, descriptor.fit(watch.X[inside])))))
    for name, (make, bar) in norms().items():
        if names and name not in names:
            continue
        shares, seconds = np.empty((seeds, len(parts))), 0.0
        for seed, p in np.ndindex(*shares.shape):
            inside, C = parts[p]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the published layer warns of folding, which is the point here
                start = time.process_time()
                net = trained(network(make(), seed), C[inside], y[inside], seed)
                seconds += time.process_time() - start
                with torch.no_grad():
                    shares[seed, p] = (net(C[~inside]).argmax(1) == y[~inside]).double().mean()
        note = f"starts {', '.join(f'{share:.3f}' for share in shares.mean(1))}"
        yield row(f"watch, {len(held_out)} subjects left out", name, seconds, float(shares.mean()), bar, note)


def derivatives():
    """Yield whether finite differences agree with each layer's gradient at matrices that need care."""
    import torch

    from sciml.stats.spd import BiMap, GBWBatchNorm, LogEig, ReEig, SPDBatchNorm

    n, rng = 4, np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((3, n, n)))[0]
    spectra = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.5, 0.5], [1.0, 1 + 1e-11, 0.3, 3.0]])
    X = torch.from_numpy((Q * spectra[:, None]) @ Q.swapaxes(-1, -2))
    made = {metric: SPDBatchNorm(n, metric=metric) for metric in ("logeuclid", "bw", "gbw", "airm", "logchol")}
    made |= {
        "published, theta 1": GBWBatchNorm(n, literal=True, theta=1.0),
        "published, theta 0.5": GBWBatchNorm(n, literal=True, theta=0.5),
    }
    made |= {"BiMap": BiMap(n, 3), "ReEig": ReEig(), "LogEig": LogEig()}
    for name, layer in made.items():
        layer = layer.double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.train()(X)  # statistics of a first batch
            layer.eval()
            inputs = X.clone().requires_grad_()
            call = lambda Y, layer=layer: layer((Y + Y.mT) / 2)  # noqa: E731
            try:
                passed = torch.autograd.gradcheck(call, (inputs,), eps=1e-6, atol=1e-6, rtol=1e-6)
            except torch.autograd.gradcheck.GradcheckError as error:
                passed, name = False, f"{name}: {str(error)[:60]}"
        yield row("gradcheck, repeated eigenvalues", name, None, float(passed), 1.0, "eps 1e-6, atol 1e-6")


def rows(quick):
    """Yield the rows of all tables."""
    yield from derivatives()
    yield from times((12,) if quick else (12, 50, 100))
    yield from step_times()
    if quick:
        yield from accuracies(HELD_OUT[:1], 1, ("none", "bw"))
    else:
        yield from accuracies(HELD_OUT, SETTINGS["seeds"])
