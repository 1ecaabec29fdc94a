r"""Classification of multichannel trials by their covariances, in Riemannian geometry.

.. math:: d^2(P, Q) = \operatorname{tr} P + \operatorname{tr} Q - 2 \operatorname{tr} (P^{1/2} Q P^{1/2})^{1/2}

A trial, such as a second of EEG or of an accelerometer, becomes a symmetric positive definite matrix; matrices are
compared in their own geometry (Bures-Wasserstein, affine-invariant, log-Euclidean, log-Cholesky), by a front door that
chooses among descriptors, by estimators of scikit-learn, or by layers of torch with a batch norm that cannot fold.
"""

import importlib

from sciml.stats.spd.conformal import LabelSets as LabelSets
from sciml.stats.spd.covariance import covariance as covariance
from sciml.stats.spd.descriptor import Descriptor as Descriptor
from sciml.stats.spd.result import SPDResult as SPDResult
from sciml.stats.spd.solve import classify_spd as classify_spd
from sciml.stats.spd.trials import Trials as Trials
from sciml.stats.spd.trials import as_trials as as_trials

# scikit-learn is loaded with the estimators, torch's layers with the networks.
_LATER = {
    "AugmentedCov": "pooling",
    "AugmentedCovariance": "descriptor_estimator",
    "BiMap": "layers",
    "CovPool": "pooling",
    "Covariance": "descriptor_estimator",
    "FilterBankCovariance": "descriptor_estimator",
    "GBWBatchNorm": "literal_batch_norm",
    "LogEig": "layers",
    "MDM": "geometry_estimator",
    "PrototypeCovariance": "descriptor_estimator",
    "ReEig": "layers",
    "RiemannianResidual": "residual",
    "SPDBatchNorm": "batch_norm",
    "SPDDropout": "layers",
    "SPDKNN": "geometry_estimator",
    "SPDMLR": "multinomial",
    "SPDMean": "geometry_estimator",
    "SPDNet": "network",
    "SPDNetClassifier": "network_estimator",
    "SPDRecenter": "geometry_estimator",
    "SPDTangentSpace": "geometry_estimator",
    "SPDVech": "layers",
    "TangentClassifier": "classifier_estimator",
    "TimeBasisCovariance": "descriptor_estimator",
    "choose_lags": "lag_choice",
    "fit_spdnet": "training",
    "screen_lags": "lag_screen",
}


def __getattr__(name):
    if name in _LATER:
        value = getattr(importlib.import_module(f"sciml.stats.spd.{_LATER[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LATER})
