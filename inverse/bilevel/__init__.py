r"""Bilevel hyperparameter learning: choose theta so that the solutions of a problem that depends on it are good.

.. math:: \min_\theta \frac1B \sum_i g_i(\hat x_i(\theta), \theta) + r(\theta), \qquad
          \hat x_i(\theta) = \arg\min_x h_i(x, \theta)

The lower level can only be solved approximately, so neither the value nor the gradient of the upper level is exact:
every number carries an error bar, and every decision of the search is taken with the bars.
"""

from sciml.inverse.bilevel.auto import Auto as Auto
from sciml.inverse.bilevel.blurring import Blur as Blur
from sciml.inverse.bilevel.constants import ConstantsReport as ConstantsReport
from sciml.inverse.bilevel.constants import check_constants as check_constants
from sciml.inverse.bilevel.data_cleaning import DataCleaning as DataCleaning
from sciml.inverse.bilevel.differences import Differences as Differences
from sciml.inverse.bilevel.filters import Filters as Filters
from sciml.inverse.bilevel.fixed_accuracy import FixedAccuracy as FixedAccuracy
from sciml.inverse.bilevel.held_out import HeldOut as HeldOut
from sciml.inverse.bilevel.hoag import HOAG as HOAG
from sciml.inverse.bilevel.imaging import field_of_experts as field_of_experts
from sciml.inverse.bilevel.imaging import field_of_experts_start as field_of_experts_start
from sciml.inverse.bilevel.imaging import psnr as psnr
from sciml.inverse.bilevel.imaging import total_variation as total_variation
from sciml.inverse.bilevel.implicit import ImplicitArgmin as ImplicitArgmin
from sciml.inverse.bilevel.implicit_gradient import GradientReport as GradientReport
from sciml.inverse.bilevel.implicit_gradient import HypergradientInfo as HypergradientInfo
from sciml.inverse.bilevel.implicit_gradient import check_hypergradient as check_hypergradient
from sciml.inverse.bilevel.implicit_gradient import hypergradient as hypergradient
from sciml.inverse.bilevel.linear_models import LinearModel as LinearModel
from sciml.inverse.bilevel.lower import Lower as Lower
from sciml.inverse.bilevel.lower import LowerProblem as LowerProblem
from sciml.inverse.bilevel.maid import MAID as MAID
from sciml.inverse.bilevel.maps import Exp as Exp
from sciml.inverse.bilevel.measurements import Mask as Mask
from sciml.inverse.bilevel.result import BilevelResult as BilevelResult
from sciml.inverse.bilevel.solve import learn_hyperparameters as learn_hyperparameters
from sciml.inverse.bilevel.sparse_regression import SparseRegression as SparseRegression
from sciml.inverse.bilevel.sparse_regression import alpha_max as alpha_max
from sciml.inverse.bilevel.stochastic import Stochastic as Stochastic
from sciml.inverse.bilevel.structured import StructuredLower as StructuredLower
from sciml.inverse.bilevel.terms import Term as Term
from sciml.inverse.bilevel.upper import SquaredError as SquaredError
from sciml.inverse.bilevel.upper import UpperLoss as UpperLoss

# scikit-learn is loaded with the estimators, not with the functions.
_ESTIMATORS = {
    "BilevelElasticNet": "sparse_estimator",
    "BilevelLasso": "sparse_estimator",
    "BilevelLogistic": "logistic_estimator",
    "BilevelRidge": "ridge_estimator",
    "DataCleaner": "cleaning_estimator",
    "FieldsOfExperts": "imaging_estimator",
    "LearnedTV": "imaging_estimator",
}


def __getattr__(name):
    if name in _ESTIMATORS:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_ESTIMATORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
