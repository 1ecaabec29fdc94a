r"""Minimise or solve for many samples at once, each with a tolerance, a constant and an end of its own.

The functions know no problem: they take callables that return gradients or Hessian products of those samples of a
batch that are still at work, ``rows``, so that a finished sample costs nothing. What they return for a sample does not
depend, bit for bit on the CPU, on the company it was in. Memory does not grow with the number of iterations.

>>> import torch
>>> diagonal = torch.tensor([[1.0, 2.0], [4.0, 8.0]], dtype=torch.float64)
>>> batched_cg(lambda v, rows: diagonal[rows] * v, torch.ones(2, 2, dtype=torch.float64), atol=1e-9).x
tensor([[1.0000, 0.5000],
        [0.2500, 0.1250]], dtype=torch.float64)
"""

from sciml.optimize.active_set import l1_newton as l1_newton
from sciml.optimize.conjugate_gradients import batched_cg as batched_cg
from sciml.optimize.coordinate_descent import coordinate_descent as coordinate_descent
from sciml.optimize.krylov_extremes import lanczos_extremes as lanczos_extremes
from sciml.optimize.limited_memory import batched_lbfgs as batched_lbfgs
from sciml.optimize.momentum import nag as nag
from sciml.optimize.proximal import l1_subgradient as l1_subgradient
from sciml.optimize.proximal import proximal_gradient as proximal_gradient
from sciml.optimize.proximal import soft_threshold as soft_threshold
from sciml.optimize.results import BatchedMinimum as BatchedMinimum
from sciml.optimize.results import BatchedSolve as BatchedSolve
from sciml.optimize.truncated_newton import newton_cg as newton_cg
