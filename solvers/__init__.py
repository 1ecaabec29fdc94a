"""Differential equations: find a function from the equation that it satisfies and its values on a boundary.

Each problem has its folder, read in the order problem, method, result, plotting:

- ``gp_pde``: linear partial differential equations with high-frequency or many-scale solutions, by Gaussian features
  whose frequencies the solver finds itself, with an error estimate for every answer;
- ``gp_regression``: a function with its uncertainty from noisy values at scattered points.
"""

if __name__ != "sciml.solvers":
    raise ImportError("import sciml.solvers, not solvers")
