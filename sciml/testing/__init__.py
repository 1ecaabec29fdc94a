"""Checks that a test of a numerical method can ask for: adjoints, gradients, units, orders of convergence.

Each raises :class:`AssertionError` with the numbers, and refuses to pass when it has looked at nothing.
"""

from sciml.testing.adjoint import check_adjoint as check_adjoint
from sciml.testing.gradient import check_gradient as check_gradient
from sciml.testing.order import observed_order as observed_order
from sciml.testing.units import check_units as check_units
