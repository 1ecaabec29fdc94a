"""Does a change of units change the answer?  A power of two rescales without rounding, so equality can be asked for."""

import numpy as np

from sciml.testing._arrays import as_numpy


def check_units(function, inputs, degrees_in, degrees_out, *, powers=(-40, -20, 20, 40)):
    r"""Check that scaled inputs give exactly scaled outputs.

    With inputs :math:`x_i` scaled by :math:`2^{k p_i}`, each output must scale by :math:`2^{k q_j}`, bit for bit. Take
    even powers: a square root of an odd power of two rounds.

    Parameters
    ----------
    function : callable
        ``function(*inputs)`` returns an array or number, or a dict of them.
    inputs : sequence of ndarray, torch.Tensor or float
        The data at scale one.
    degrees_in : sequence of int
        :math:`p_i`, one for each input; 0 for one without units.
    degrees_out : int or dict of int
        :math:`q_j`, of the one output or by key; 0 for a count of iterations.
    powers : sequence of int
        The values of k; by default from 1e-12 to 1e12 in size.

    Raises
    ------
    AssertionError
        If an output is not exactly scaled, holds a NaN, or an output's degree is missing; or if no input is scaled or
        all outputs are zero, since nothing is tested then.

    Examples
    --------
    >>> check_units(np.linalg.norm, [np.array([3.0, 4.0])], [1], 1)
    """
    if not any(degrees_in):
        raise AssertionError("no input has a degree other than 0, so nothing would be tested.")
    base = _outputs(function(*inputs))
    degrees = degrees_out if isinstance(degrees_out, dict) else {"the answer": degrees_out}
    if set(degrees) != set(base):
        raise AssertionError(f"degrees_out must name the outputs {sorted(base)}; got {sorted(degrees)}.")
    if not any(np.any(value) for value in base.values()):
        raise AssertionError("all outputs are zero, so nothing was tested.")
    for k in powers:
        scaled = [x * 2.0 ** (k * p) if p else x for x, p in zip(inputs, degrees_in, strict=True)]
        for key, value in _outputs(function(*scaled)).items():
            wanted = base[key] * 2.0 ** (k * degrees[key]) if degrees[key] else base[key]
            if not np.array_equal(value, wanted):
                if value.shape != np.shape(wanted):
                    raise AssertionError(f"{key} changes its shape with inputs scaled by 2**{k}: {value.shape}.")
                off = abs(value - wanted)
                raise AssertionError(
                    f"{key} depends on the units: with inputs scaled by 2**{k} it is off by {np.max(off):.3g}, "
                    f"where its largest entry should be {np.max(abs(wanted)):.3g}."
                )


def _outputs(value):
    if isinstance(value, dict):
        return {key: as_numpy(item) for key, item in value.items()}
    return {"the answer": as_numpy(value)}
