r"""Eigenspectra of the weights of a neural network: how heavy their tails are, without the bias of a layer's shape.

.. math:: \alpha = 1 + K \Big/ \sum_{j \ge i} \ln (\lambda_j / \lambda_i)

A trained layer has a heavier tail of eigenvalues than noise, and the exponent alpha says how heavy. Read from the whole
matrix, it depends on the shape, even for noise; read from many windows of one shape (FARMS), it does not. Each exponent
comes with an interval and its distance from noise, and drives layer-wise learning rates and layer-wise sparsity.
"""

import importlib

# What needs torch is loaded when it is asked for.
_LATER = {
    "FarmsSpectrum": "farms",
    "Layer": "layouts",
    "LayerwiseLR": "scheduler",
    "MPFit": "marchenko_pastur",
    "PowerLawFit": "power_law",
    "PruningTable": "pruning_baselines",
    "SparsityPlan": "sparsity",
    "SpectraComparison": "comparison",
    "SpectraResult": "result",
    "apply_masks": "pruning",
    "assign_lr": "learning_rates",
    "assign_sparsity": "sparsity",
    "compare": "comparison",
    "compare_pruning": "pruning_baselines",
    "diagnose": "solve",
    "farms_spectrum": "farms",
    "fit_mp": "marchenko_pastur",
    "fit_powerlaw": "power_law",
    "hill": "power_law",
    "layers_of": "layouts",
    "mp_alpha": "marchenko_pastur",
    "null_alpha": "noise_baseline",
    "null_std": "noise_baseline",
    "open_weights": "sources",
    "param_groups": "layer_groups",
    "prune": "pruning",
    "spectrum": "gram_spectrum",
}


def __getattr__(name):
    if name in _LATER:
        value = getattr(importlib.import_module(f"sciml.stats.spectra.{_LATER[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LATER})
