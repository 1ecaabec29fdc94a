"""A sentence encoder pruned in eleven ways: what sparsities from exponents are worth beside plain ones.

`score` is the mean cosine between the embeddings of the pruned and of the dense encoder over the sentences that
scikit-learn's descriptions of data sets hold (one half of them; Wanda is calibrated on the other). Nothing is trained
after pruning. All matrices of the six blocks are pruned to one total, embeddings are not; `eps` is the spread of
block-wise ratios, positive as published. `error` is the standard error of `score` minus that of uniform magnitudes,
over sentences.
"""

import copy
import math

import numpy as np

COLUMNS = ("sparsity", "way", "score", "error", "note")
SETTINGS = {"sparsities": [0.4, 0.5, 0.6], "eps": [-0.2, -0.1, 0.1, 0.2]}


def rows(quick=False):
    """Yield a row for each sparsity and way."""
    try:
        from benchmarks.sentence_model import sentence_model, sentences, tokens

        model, texts = sentence_model(), sentences()
    except ImportError as error:
        yield dict(zip(COLUMNS, (0.0, "-", math.nan, math.nan, str(error)), strict=True))
        return
    from sciml.stats.spectra import assign_sparsity, diagnose, prune

    asked, calibration = tokens(texts[::2]), tokens(texts[1::2])
    dense = model(asked)
    names = [name for name in model.state_dict() if name.endswith("weight") and ".layer." in name]
    names = [name for name in names if model.state_dict()[name].ndim == 2]
    found = diagnose(model, include=names, metrics=["alpha", "alpha_farms"])
    sizes = dict(zip(found.layer.tolist(), found.numel.tolist(), strict=True))

    def cosines(ratios, criterion):
        pruned = copy.deepcopy(model)
        prune(pruned, ratios, criterion=criterion, calibration=calibration if criterion == "wanda" else None)
        return (pruned(asked) * dense).sum(1).numpy()

    for sparsity in SETTINGS["sparsities"][1:2] if quick else SETTINGS["sparsities"]:
        uniform = dict.fromkeys(names, sparsity)
        ways = {
            "uniform, magnitudes": (uniform, "magnitude"),
            "uniform, magnitudes of each output": (uniform, "row"),
            "uniform, Wanda": (uniform, "wanda"),
        }
        for metric in ("alpha", "alpha_farms"):
            alphas = dict(zip(found.layer.tolist(), getattr(found, metric).tolist(), strict=True))
            for eps in SETTINGS["eps"]:
                plan = assign_sparsity(alphas, sparsity, sizes=sizes, eps=eps)
                ways[f"{metric}, eps={eps:g}, magnitudes"] = (plan, "magnitude")
        scores = {way: cosines(*given) for way, given in ways.items()}
        for way, score in scores.items():
            difference = score - scores["uniform, magnitudes"]
            error = float(difference.std(ddof=1) / np.sqrt(len(score)))
            note = f"{len(asked)} sentences"
            yield dict(zip(COLUMNS, (sparsity, way, float(score.mean()), error, note), strict=True))
