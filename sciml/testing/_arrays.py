"""What a checked function returned, as NumPy."""

import numpy as np


def as_numpy(value):
    """Return an array, tensor or number as a NumPy array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
