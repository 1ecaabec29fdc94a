"""Linear algebra shared by all areas: the boundary between NumPy, xarray and torch, and models solved in closed form.

The mathematics is written once, in torch; a public function takes its arrays through :func:`enter` and gives its
answers back through the function ``leave`` that ``enter`` returns, in the kind, dtype and device of the user's data.
"""

from sciml.linalg import spd as spd
from sciml.linalg.arrays import enter as enter
from sciml.linalg.engines import EngineUnavailable as EngineUnavailable
from sciml.linalg.engines import kernel_logsumexp as kernel_logsumexp
from sciml.linalg.engines import kernel_matrix as kernel_matrix
from sciml.linalg.engines import kernel_sum as kernel_sum
from sciml.linalg.krylov import EigenRun as EigenRun
from sciml.linalg.krylov import Preconditioner as Preconditioner
from sciml.linalg.krylov import SolveRun as SolveRun
from sciml.linalg.krylov import StochasticEstimate as StochasticEstimate
from sciml.linalg.krylov import block_jacobi as block_jacobi
from sciml.linalg.krylov import cg as cg
from sciml.linalg.krylov import circulant as circulant
from sciml.linalg.krylov import gmres as gmres
from sciml.linalg.krylov import jacobi as jacobi
from sciml.linalg.krylov import lanczos as lanczos
from sciml.linalg.krylov import lobpcg as lobpcg
from sciml.linalg.krylov import lsmr as lsmr
from sciml.linalg.krylov import minres as minres
from sciml.linalg.krylov import nystrom as nystrom
from sciml.linalg.krylov import pivoted_cholesky as pivoted_cholesky
from sciml.linalg.krylov import stochastic_logdet as stochastic_logdet
from sciml.linalg.krylov import stochastic_trace as stochastic_trace
from sciml.linalg.nufft import NonuniformFourier as NonuniformFourier
from sciml.linalg.nufft import nufft_type1 as nufft_type1
from sciml.linalg.nufft import nufft_type2 as nufft_type2
from sciml.linalg.operators import Block2x2 as Block2x2
from sciml.linalg.operators import BlockDiag as BlockDiag
from sciml.linalg.operators import BlockToeplitz as BlockToeplitz
from sciml.linalg.operators import Circulant as Circulant
from sciml.linalg.operators import Dense as Dense
from sciml.linalg.operators import Diagonal as Diagonal
from sciml.linalg.operators import Function as Function
from sciml.linalg.operators import Inverse as Inverse
from sciml.linalg.operators import KernelOperator as KernelOperator
from sciml.linalg.operators import Kronecker as Kronecker
from sciml.linalg.operators import KroneckerSum as KroneckerSum
from sciml.linalg.operators import LinearOperator as LinearOperator
from sciml.linalg.operators import LowRank as LowRank
from sciml.linalg.operators import Mask as Mask
from sciml.linalg.operators import Permutation as Permutation
from sciml.linalg.operators import Product as Product
from sciml.linalg.operators import Scaled as Scaled
from sciml.linalg.operators import ScaledIdentity as ScaledIdentity
from sciml.linalg.operators import SecondDifference as SecondDifference
from sciml.linalg.operators import Selection as Selection
from sciml.linalg.operators import Sparse as Sparse
from sciml.linalg.operators import Sum as Sum
from sciml.linalg.operators import Toeplitz as Toeplitz
from sciml.linalg.operators import Transpose as Transpose
from sciml.linalg.operators import Triangular as Triangular
from sciml.linalg.operators import as_operator as as_operator
from sciml.linalg.operators import laplacian as laplacian
