"""Matrices known by what they do.

Linear systems of science are large and structured: diagonal, sparse, Kronecker products, Toeplitz, low rank plus noise.
Stored as dense arrays they take n^2 numbers and n^3 work; as operators a few n and n log n. Each operator here knows
its product, adjoint, solve and determinant, so that an algorithm is written once for all of them. Derivatives pass
through solves and determinants by implicit differentiation, to second order, on CPU and GPU, from NumPy or torch.
What has no closed form goes to a Krylov method, and every answer tells how it was found and how exact it is.
"""

from sciml.linalg.operators.algebra import Inverse as Inverse
from sciml.linalg.operators.algebra import Product as Product
from sciml.linalg.operators.algebra import Scaled as Scaled
from sciml.linalg.operators.algebra import Sum as Sum
from sciml.linalg.operators.algebra import Transpose as Transpose
from sciml.linalg.operators.base import LinearOperator as LinearOperator
from sciml.linalg.operators.base import as_operator as as_operator
from sciml.linalg.operators.blocks import Block2x2 as Block2x2
from sciml.linalg.operators.blocks import BlockDiag as BlockDiag
from sciml.linalg.operators.circulant import Circulant as Circulant
from sciml.linalg.operators.dense import Dense as Dense
from sciml.linalg.operators.diagonal import Diagonal as Diagonal
from sciml.linalg.operators.diagonal import ScaledIdentity as ScaledIdentity
from sciml.linalg.operators.function import Function as Function
from sciml.linalg.operators.kernel import KernelOperator as KernelOperator
from sciml.linalg.operators.kronecker import Kronecker as Kronecker
from sciml.linalg.operators.kronecker import KroneckerSum as KroneckerSum
from sciml.linalg.operators.laplacian import SecondDifference as SecondDifference
from sciml.linalg.operators.laplacian import laplacian as laplacian
from sciml.linalg.operators.low_rank import LowRank as LowRank
from sciml.linalg.operators.permutation import Mask as Mask
from sciml.linalg.operators.permutation import Permutation as Permutation
from sciml.linalg.operators.permutation import Selection as Selection
from sciml.linalg.operators.sparse import Sparse as Sparse
from sciml.linalg.operators.toeplitz import BlockToeplitz as BlockToeplitz
from sciml.linalg.operators.toeplitz import Toeplitz as Toeplitz
from sciml.linalg.operators.triangular import Triangular as Triangular
