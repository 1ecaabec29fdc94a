"""Sparse matrices in compressed rows."""

from sciml.linalg.operators.base import LinearOperator


class Sparse(LinearOperator):
    """To come."""
