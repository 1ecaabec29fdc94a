"""sciml: differential equations, inverse problems and statistics, with answers that say how far they can be trusted.

The names of this module load what they need when they are first used, so that ``import sciml`` costs next to nothing:

>>> import sciml
>>> sorted(sciml.get_config())
['check_finite', 'device', 'dtype', 'engine', 'memory', 'on_failure', 'progress']
"""

import importlib
import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> module that defines it; sorted, and repeated for editors under TYPE_CHECKING below.
_WHERE = {
    "AugmentedCovariance": "sciml.stats.spd.descriptor_estimator",
    "BilevelElasticNet": "sciml.inverse.bilevel.sparse_estimator",
    "BilevelLasso": "sciml.inverse.bilevel.sparse_estimator",
    "BilevelLogistic": "sciml.inverse.bilevel.logistic_estimator",
    "BilevelRidge": "sciml.inverse.bilevel.ridge_estimator",
    "Box": "sciml.solvers.gp_pde",
    "Covariance": "sciml.stats.spd.descriptor_estimator",
    "DataCleaner": "sciml.inverse.bilevel.cleaning_estimator",
    "Descriptor": "sciml.stats.spd",
    "Dirichlet": "sciml.solvers.gp_pde",
    "FieldsOfExperts": "sciml.inverse.bilevel.imaging_estimator",
    "FilterBankCovariance": "sciml.stats.spd.descriptor_estimator",
    "FourierFrame": "sciml.solvers.gp_pde",
    "GPHM": "sciml.solvers.gp_pde",
    "GPPDERegressor": "sciml.solvers.gp_pde.estimator",
    "GPRegressor": "sciml.solvers.gp_regression.estimator",
    "GainPrior": "sciml.inverse.calibration",
    "HeldOut": "sciml.inverse.bilevel",
    "ILASDP": "sciml.stats.clustering.estimator",
    "Initial": "sciml.solvers.gp_pde",
    "KernelMethod": "sciml.solvers.gp_pde",
    "LayerwiseLR": "sciml.stats.spectra.scheduler",
    "LearnedTV": "sciml.inverse.bilevel.imaging_estimator",
    "LowerProblem": "sciml.inverse.bilevel",
    "MDM": "sciml.stats.spd.geometry_estimator",
    "Neumann": "sciml.solvers.gp_pde",
    "PDE": "sciml.solvers.gp_pde",
    "Periodic": "sciml.solvers.gp_pde",
    "PrototypeCovariance": "sciml.stats.spd.descriptor_estimator",
    "Region": "sciml.solvers.gp_pde",
    "Robin": "sciml.solvers.gp_pde",
    "SDPKMeans": "sciml.stats.clustering.estimator",
    "SPDBatchNorm": "sciml.stats.spd.batch_norm",
    "SPDKNN": "sciml.stats.spd.geometry_estimator",
    "SPDMean": "sciml.stats.spd.geometry_estimator",
    "SPDNet": "sciml.stats.spd.network",
    "SPDNetClassifier": "sciml.stats.spd.network_estimator",
    "SPDRecenter": "sciml.stats.spd.geometry_estimator",
    "SPDTangentSpace": "sciml.stats.spd.geometry_estimator",
    "SelfCalibrator": "sciml.inverse.calibration.estimator",
    "SquaredError": "sciml.inverse.bilevel",
    "StructuredLower": "sciml.inverse.bilevel",
    "TangentClassifier": "sciml.stats.spd.classifier_estimator",
    "TimeBasisCovariance": "sciml.stats.spd.descriptor_estimator",
    "UnknownFunction": "sciml.solvers.gp_pde",
    "UpperLoss": "sciml.inverse.bilevel",
    "assign_lr": "sciml.stats.spectra.learning_rates",
    "assign_sparsity": "sciml.stats.spectra.sparsity",
    "blind_deconvolve": "sciml.inverse.calibration",
    "check_constants": "sciml.inverse.bilevel",
    "check_hypergradient": "sciml.inverse.bilevel",
    "classify_spd": "sciml.stats.spd",
    "cluster": "sciml.stats.clustering",
    "config_context": "sciml._config",
    "diagnose": "sciml.stats.spectra.solve",
    "farms_spectrum": "sciml.stats.spectra.farms",
    "fit_gp": "sciml.solvers.gp_regression",
    "fit_mp": "sciml.stats.spectra.marchenko_pastur",
    "fit_powerlaw": "sciml.stats.spectra.power_law",
    "get_config": "sciml._config",
    "hill": "sciml.stats.spectra.power_law",
    "hypergradient": "sciml.inverse.bilevel",
    "ila_sdp": "sciml.stats.clustering",
    "kmeans_sdp": "sciml.stats.clustering",
    "learn_hyperparameters": "sciml.inverse.bilevel",
    "load": "sciml.results",
    "mp_alpha": "sciml.stats.spectra.marchenko_pastur",
    "open_weights": "sciml.stats.spectra.sources",
    "optimality_gap": "sciml.stats.clustering",
    "prune": "sciml.stats.spectra.pruning",
    "select_n_clusters": "sciml.stats.clustering",
    "self_calibrate": "sciml.inverse.calibration",
    "set_config": "sciml._config",
    "show_versions": "sciml._versions",
    "solve_pde": "sciml.solvers.gp_pde",
    "spectrum": "sciml.stats.spectra.gram_spectrum",
    "trace": "sciml._trace",
}
_PARTS = (
    "datasets",
    "exceptions",
    "inverse",
    "iterate",
    "kernels",
    "linalg",
    "optimize",
    "parallel",
    "progress",
    "random",
    "results",
    "solvers",
    "stats",
    "testing",
    "validation",
)
__all__ = ["__version__", *_WHERE, *_PARTS]

if TYPE_CHECKING:
    from sciml import (
        datasets,
        exceptions,
        inverse,
        iterate,
        kernels,
        linalg,
        optimize,
        parallel,
        progress,
        random,
        results,
        solvers,
        stats,
        testing,
        validation,
    )
    from sciml._config import config_context, get_config, set_config
    from sciml._trace import trace
    from sciml._versions import show_versions
    from sciml.inverse.bilevel import (
        HeldOut,
        LowerProblem,
        SquaredError,
        StructuredLower,
        UpperLoss,
        check_constants,
        check_hypergradient,
        hypergradient,
        learn_hyperparameters,
    )
    from sciml.inverse.bilevel.cleaning_estimator import DataCleaner
    from sciml.inverse.bilevel.imaging_estimator import FieldsOfExperts, LearnedTV
    from sciml.inverse.bilevel.logistic_estimator import BilevelLogistic
    from sciml.inverse.bilevel.ridge_estimator import BilevelRidge
    from sciml.inverse.bilevel.sparse_estimator import BilevelElasticNet, BilevelLasso
    from sciml.inverse.calibration import GainPrior, blind_deconvolve, self_calibrate
    from sciml.inverse.calibration.estimator import SelfCalibrator
    from sciml.results import load
    from sciml.solvers.gp_pde import (
        GPHM,
        PDE,
        Box,
        Dirichlet,
        FourierFrame,
        Initial,
        KernelMethod,
        Neumann,
        Periodic,
        Region,
        Robin,
        UnknownFunction,
        solve_pde,
    )
    from sciml.solvers.gp_pde.estimator import GPPDERegressor
    from sciml.solvers.gp_regression import fit_gp
    from sciml.solvers.gp_regression.estimator import GPRegressor
    from sciml.stats.clustering import cluster, ila_sdp, kmeans_sdp, optimality_gap, select_n_clusters
    from sciml.stats.clustering.estimator import ILASDP, SDPKMeans
    from sciml.stats.spd import Descriptor, classify_spd
    from sciml.stats.spd.batch_norm import SPDBatchNorm
    from sciml.stats.spd.classifier_estimator import TangentClassifier
    from sciml.stats.spd.descriptor_estimator import (
        AugmentedCovariance,
        Covariance,
        FilterBankCovariance,
        PrototypeCovariance,
        TimeBasisCovariance,
    )
    from sciml.stats.spd.geometry_estimator import MDM, SPDKNN, SPDMean, SPDRecenter, SPDTangentSpace
    from sciml.stats.spd.network import SPDNet
    from sciml.stats.spd.network_estimator import SPDNetClassifier
    from sciml.stats.spectra.farms import farms_spectrum
    from sciml.stats.spectra.gram_spectrum import spectrum
    from sciml.stats.spectra.learning_rates import assign_lr
    from sciml.stats.spectra.marchenko_pastur import fit_mp, mp_alpha
    from sciml.stats.spectra.power_law import fit_powerlaw, hill
    from sciml.stats.spectra.pruning import prune
    from sciml.stats.spectra.scheduler import LayerwiseLR
    from sciml.stats.spectra.solve import diagnose
    from sciml.stats.spectra.sources import open_weights
    from sciml.stats.spectra.sparsity import assign_sparsity

# A library stays silent until its user configures logging.
logging.getLogger("sciml").addHandler(logging.NullHandler())


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"sciml.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value  # the next access does not come here
        return value
    raise AttributeError(f"module 'sciml' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
