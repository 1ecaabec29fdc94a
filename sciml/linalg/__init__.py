"""Linear algebra shared by all areas: the boundary between NumPy, xarray and torch, and models solved in closed form.

The mathematics is written once, in torch; a public function takes its arrays through :func:`enter` and gives its
answers back through the function ``leave`` that ``enter`` returns, in the kind, dtype and device of the user's data.
"""

from sciml.linalg.arrays import enter as enter
from sciml.linalg.engines import EngineUnavailable as EngineUnavailable
from sciml.linalg.engines import kernel_logsumexp as kernel_logsumexp
from sciml.linalg.engines import kernel_matrix as kernel_matrix
from sciml.linalg.engines import kernel_sum as kernel_sum
from sciml.linalg.krylov import SolveRun as SolveRun
from sciml.linalg.krylov import cg as cg
