"""Matrices known by what they do.

Linear systems of science are large and structured: diagonal, sparse, Kronecker products, Toeplitz, low rank plus noise.
Stored as dense arrays they take n^2 numbers and n^3 work; as operators a few n and n log n. Each operator here knows
its product, adjoint, solve and determinant, so that an algorithm is written once for all of them. Derivatives pass
through solves and determinants by implicit differentiation, to second order, on CPU and GPU, from NumPy or torch.
What has no closed form goes to a Krylov method, and every answer tells how it was found and how exact it is.
"""

from sciml.linalg.operators.algebra import Product as Product
from sciml.linalg.operators.algebra import Scaled as Scaled
from sciml.linalg.operators.algebra import Sum as Sum
from sciml.linalg.operators.algebra import Transpose as Transpose
from sciml.linalg.operators.base import LinearOperator as LinearOperator
from sciml.linalg.operators.base import as_operator as as_operator
from sciml.linalg.operators.dense import Dense as Dense
from sciml.linalg.operators.function import Function as Function
