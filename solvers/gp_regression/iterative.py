"""stub"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Iterative:
    """stub."""


class IterativePosterior:
    pass
