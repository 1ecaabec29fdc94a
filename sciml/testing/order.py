"""How fast do errors fall with the step?"""

import numpy as np

from sciml.exceptions import InvalidInputError


def observed_order(h, errors):
    r"""Return the exponent p of the best fit :math:`\text{error} = C h^p`.

    Parameters
    ----------
    h : array_like, shape (n,), n >= 2
        Steps or mesh widths, positive, at least two of them different; any unit.
    errors : array_like, shape (n,)
        Errors, positive; any unit. Leave out those at the level of rounding: they bend the fit.

    Returns
    -------
    float
        The slope of log(errors) over log(h) by least squares.

    Raises
    ------
    InvalidInputError
        If the lengths differ, a number is not positive and finite, or all steps are equal.

    Examples
    --------
    >>> round(observed_order([0.1, 0.05, 0.025], [1e-2, 2.5e-3, 6.25e-4]), 6)
    2.0
    """
    h, errors = np.asarray(h, dtype=float), np.asarray(errors, dtype=float)
    if h.ndim != 1 or h.shape != errors.shape:
        raise InvalidInputError(f"h and errors must be of one shape (n,); got {h.shape} and {errors.shape}.")
    for name, values in (("h", h), ("errors", errors)):
        bad = np.flatnonzero(~((values > 0) & np.isfinite(values)))
        if bad.size:
            raise InvalidInputError(
                f"{name} must be positive and finite; the entry at index {bad[0]} is {values[bad[0]]}. Leave it out."
            )
    if h.size < 2 or np.ptp(h) == 0:
        raise InvalidInputError(f"h must hold two different steps at least; got {h.tolist()}. Add a finer one.")
    x, y = np.log(h) - np.log(h).mean(), np.log(errors)
    return float(x @ y / (x @ x))
