"""Krylov methods: solve, decompose and sample with an operator that is known only through its products.

Every answer carries its residual recomputed in float64, the work, and the reason for each choice.
"""

from sciml.linalg.krylov.conjugate_gradient import cg as cg
from sciml.linalg.krylov.conjugate_gradient import cg_steps as cg_steps
from sciml.linalg.krylov.eigenpairs import EigenRun as EigenRun
from sciml.linalg.krylov.eigenpairs import lanczos as lanczos
from sciml.linalg.krylov.eigenpairs import lobpcg as lobpcg
from sciml.linalg.krylov.generalised_residual import gmres as gmres
from sciml.linalg.krylov.generalised_residual import gmres_steps as gmres_steps
from sciml.linalg.krylov.least_squares import lsmr as lsmr
from sciml.linalg.krylov.least_squares import lsmr_steps as lsmr_steps
from sciml.linalg.krylov.minimal_residual import minres as minres
from sciml.linalg.krylov.minimal_residual import minres_steps as minres_steps
from sciml.linalg.krylov.preconditioners import Preconditioner as Preconditioner
from sciml.linalg.krylov.preconditioners import block_jacobi as block_jacobi
from sciml.linalg.krylov.preconditioners import circulant as circulant
from sciml.linalg.krylov.preconditioners import jacobi as jacobi
from sciml.linalg.krylov.preconditioners import nystrom as nystrom
from sciml.linalg.krylov.preconditioners import pivoted_cholesky as pivoted_cholesky
from sciml.linalg.krylov.result import SolveRun as SolveRun
from sciml.linalg.krylov.stochastic import StochasticEstimate as StochasticEstimate
from sciml.linalg.krylov.stochastic import stochastic_logdet as stochastic_logdet
from sciml.linalg.krylov.stochastic import stochastic_trace as stochastic_trace
