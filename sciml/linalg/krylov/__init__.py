"""Krylov methods: solve, decompose and sample with an operator that is known only through its products.

Every answer carries its residual recomputed in float64, the work, and the reason for each choice.
"""

from sciml.linalg.krylov.conjugate_gradient import cg as cg
from sciml.linalg.krylov.conjugate_gradient import cg_steps as cg_steps
from sciml.linalg.krylov.result import SolveRun as SolveRun
