"""Symmetric positive definite matrices: functions with exact derivatives, distances, geodesics, means, coordinates.

Shapes are (..., n, n), real symmetric or complex Hermitian; NumPy in, NumPy out; torch in, torch out, with gradients.
"""

from sciml.linalg.spd.checks import as_spd as as_spd
from sciml.linalg.spd.functions import clip_eigenvalues as clip_eigenvalues
from sciml.linalg.spd.functions import expm as expm
from sciml.linalg.spd.functions import invm as invm
from sciml.linalg.spd.functions import invsqrtm as invsqrtm
from sciml.linalg.spd.functions import logm as logm
from sciml.linalg.spd.functions import powm as powm
from sciml.linalg.spd.functions import sqrtm as sqrtm
from sciml.linalg.spd.multipliers import lyapunov as lyapunov
from sciml.linalg.spd.multipliers import schur_multiplier as schur_multiplier
from sciml.linalg.spd.multipliers import transport_from_identity as transport_from_identity
from sciml.linalg.spd.multipliers import transport_to_identity as transport_to_identity
