r"""Self-calibration and blind deconvolution: the gains of the instrument and the signals from the same data.

.. math:: y_l = \mathrm{diag}(d)\, A_l\, x_l + \varepsilon_l, \qquad l = 1, \dots, p

The map from (d, x) to y is bilinear, but with s = 1/d the equations s y_l - A_l x_l = 0 are linear and homogeneous: one
least-squares problem, whose noise is corrected for and whose answer is refined to maximum likelihood. The answer comes
with standard deviations, and with the parts that the data do not determine named.
"""

from sciml.inverse.calibration.deconvolution import DeconvolutionResult as DeconvolutionResult
from sciml.inverse.calibration.deconvolution import blind_deconvolve as blind_deconvolve
from sciml.inverse.calibration.ensembles import DFTMask as DFTMask
from sciml.inverse.calibration.ensembles import FromCallable as FromCallable
from sciml.inverse.calibration.ensembles import PartialDFT as PartialDFT
from sciml.inverse.calibration.ensembles import SpreadCode as SpreadCode
from sciml.inverse.calibration.ensembles import Steering as Steering
from sciml.inverse.calibration.estimate import Estimate as Estimate
from sciml.inverse.calibration.priors import GainPrior as GainPrior
from sciml.inverse.calibration.result import CalibrationResult as CalibrationResult
from sciml.inverse.calibration.solve import self_calibrate as self_calibrate
from sciml.inverse.calibration.sparse_lift import SparseLiftResult as SparseLiftResult
from sciml.inverse.calibration.sparse_lift import sparse_lift as sparse_lift
from sciml.inverse.calibration.uncertainty import crb as crb
from sciml.inverse.calibration.visibilities import solve_visibilities as solve_visibilities
from sciml.inverse.calibration.visibilities import stefcal as stefcal
from sciml.inverse.calibration.visibility_pairs import connected_groups as connected_groups


def __getattr__(name):
    # scikit-learn is loaded with the estimator, not with the functions.
    if name == "SelfCalibrator":
        from sciml.inverse.calibration.estimator import SelfCalibrator

        return SelfCalibrator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
