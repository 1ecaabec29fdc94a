"""Checks that a test of a numerical method can ask for: adjoints, gradients, units, orders of convergence.

Each raises :class:`AssertionError` with the numbers, and refuses to pass when it has looked at nothing.
"""
