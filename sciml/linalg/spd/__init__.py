"""Symmetric positive definite matrices: functions with exact derivatives, distances, geodesics, means, coordinates.

Shapes are (..., n, n), real symmetric or complex Hermitian; NumPy in, NumPy out; torch in, torch out, with gradients.
"""

from sciml.linalg.spd.barycentres import bures_mean as bures_mean
from sciml.linalg.spd.checks import as_spd as as_spd
from sciml.linalg.spd.closed_form_means import spd_mean as spd_mean
from sciml.linalg.spd.distances import affine_invariant_distance as affine_invariant_distance
from sciml.linalg.spd.distances import bures_distance as bures_distance
from sciml.linalg.spd.distances import log_cholesky_distance as log_cholesky_distance
from sciml.linalg.spd.distances import log_euclidean_distance as log_euclidean_distance
from sciml.linalg.spd.distances import spd_distance as spd_distance
from sciml.linalg.spd.factors import spd_factor as spd_factor
from sciml.linalg.spd.functions import clip_eigenvalues as clip_eigenvalues
from sciml.linalg.spd.functions import expm as expm
from sciml.linalg.spd.functions import invm as invm
from sciml.linalg.spd.functions import invsqrtm as invsqrtm
from sciml.linalg.spd.functions import logm as logm
from sciml.linalg.spd.functions import powm as powm
from sciml.linalg.spd.functions import sqrtm as sqrtm
from sciml.linalg.spd.geodesics import bures_exp as bures_exp
from sciml.linalg.spd.geodesics import bures_geodesic as bures_geodesic
from sciml.linalg.spd.geodesics import bures_log as bures_log
from sciml.linalg.spd.geodesics import bures_map as bures_map
from sciml.linalg.spd.geodesics import spd_geodesic as spd_geodesic
from sciml.linalg.spd.karcher import affine_invariant_mean as affine_invariant_mean
from sciml.linalg.spd.mean_result import MeanResult as MeanResult
from sciml.linalg.spd.medians import spd_median as spd_median
from sciml.linalg.spd.metrics import METRICS as METRICS
from sciml.linalg.spd.metrics import canonical_metric as canonical_metric
from sciml.linalg.spd.multipliers import lyapunov as lyapunov
from sciml.linalg.spd.multipliers import schur_multiplier as schur_multiplier
from sciml.linalg.spd.multipliers import transport_from_identity as transport_from_identity
from sciml.linalg.spd.multipliers import transport_to_identity as transport_to_identity
from sciml.linalg.spd.pairwise import pairwise_distances as pairwise_distances
from sciml.linalg.spd.tangent import from_tangent as from_tangent
from sciml.linalg.spd.tangent import tangent_coordinates as tangent_coordinates
from sciml.linalg.spd.tangent import unvech as unvech
from sciml.linalg.spd.tangent import vech as vech
