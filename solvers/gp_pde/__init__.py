"""Partial differential equations of high frequency and many scales, by spectral-mixture Gaussian processes.

Question  Solve L u + N(u) = f with conditions on the boundary, when u oscillates ten to a thousand times across the
          domain; for one unknown or several, in space or in time, with noise, or with parameters to be learned.
Prior     u is a Gaussian process whose spectrum has few peaks; conditioning on the equation is one factorisation.
Answer    A function of points with derivatives, standard deviation and spectrum, and a certificate that does not
          flatter.
Start     ``sciml.solve_pde(PDE(domain, operator, source, conditions))``.
Neighbour A plain Chebyshev method where everything is smooth, resolved and on a box: this package falls back to it.
"""

from sciml.solvers.gp_pde.conditions import Dirichlet as Dirichlet
from sciml.solvers.gp_pde.conditions import Initial as Initial
from sciml.solvers.gp_pde.conditions import Neumann as Neumann
from sciml.solvers.gp_pde.conditions import Periodic as Periodic
from sciml.solvers.gp_pde.conditions import Robin as Robin
from sciml.solvers.gp_pde.domain import Box as Box
from sciml.solvers.gp_pde.domain import Region as Region
from sciml.solvers.gp_pde.frame import FourierFrame as FourierFrame
from sciml.solvers.gp_pde.gphm import GPHM as GPHM
from sciml.solvers.gp_pde.gphm import gphm_steps as gphm_steps
from sciml.solvers.gp_pde.gphm_objective import GPHMObjective as GPHMObjective
from sciml.solvers.gp_pde.gphm_objective import gphm_loss as gphm_loss
from sciml.solvers.gp_pde.kernel_route import KernelMethod as KernelMethod
from sciml.solvers.gp_pde.problem import PDE as PDE
from sciml.solvers.gp_pde.problem import UnknownFunction as UnknownFunction
from sciml.solvers.gp_pde.result import PDESolution as PDESolution
from sciml.solvers.gp_pde.solve import solve_pde as solve_pde
