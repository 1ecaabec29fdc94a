"""Names of the geometries of positive definite matrices, and the other names under which they are known.

Notation  bw Bures-Wasserstein; gbw the same in the coordinates of a metric parameter M; airm affine-invariant;
          logeuclid, logchol Euclidean after a matrix logarithm, or after that of the Cholesky factor; euclid entrywise.
          harmonic and power are means only.
Cost      none.
Pitfalls  other packages call airm "riemann" and bw "wasserstein", some with twice or four times the squared length.
References  Y. Thanwerdas, X. Pennec, O(n)-invariant Riemannian metrics on SPD matrices, 2023.
"""

from __future__ import annotations

import difflib

from sciml.exceptions import InvalidInputError

__all__ = ["METRICS", "canonical_metric"]

METRICS = ("bw", "gbw", "airm", "logeuclid", "logchol", "euclid")
MEANS = (*METRICS, "harmonic", "power")

# Compared in lower case with hyphens, underscores and blanks taken out.
_ALIASES = {
    "bw": ("bures", "wasserstein", "bureswasserstein", "wasserstein2", "buwas"),
    "gbw": ("generalizedbures", "generalisedbures", "generalizedbureswasserstein", "generalisedbureswasserstein"),
    "airm": ("riemann", "riemannian", "affineinvariant", "ai", "aim", "karcher"),
    "logeuclid": ("logeuclidean", "le", "lem"),
    "logchol": ("logcholesky", "lc", "lcm"),
    "euclid": ("euclidean", "frobenius", "arithmetic"),
    "harmonic": (),
    "power": ("powereuclid", "powereuclidean"),
}
_KNOWN = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases)}


def canonical_metric(name, options=METRICS, *, argument="metric"):
    """Return the short name of a geometry from any of its names.

    Parameters
    ----------
    name : str
        Such as "riemann", "wasserstein", "affine-invariant" or "log-euclidean"; case, hyphens and blanks do not count.
    options : sequence of str
        The short names allowed; those of distances by default.
    argument : str
        The argument's name, for the message.

    Returns
    -------
    str
        One of `options`.

    Raises
    ------
    InvalidInputError
        If the name is unknown or stands for a geometry that is not allowed here.

    Examples
    --------
    >>> from sciml.linalg.spd import canonical_metric
    >>> canonical_metric("riemann"), canonical_metric("Log-Euclidean"), canonical_metric("wasserstein")
    ('airm', 'logeuclid', 'bw')
    """
    found = None
    if isinstance(name, str):
        found = _KNOWN.get("".join(letter for letter in name.lower() if letter not in "-_ "))
    if found in options:
        return found
    near = difflib.get_close_matches(str(name), [alias for alias, short in _KNOWN.items() if short in options], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidInputError(f"{argument} must be one of {', '.join(map(repr, options))}; got {name!r}.{hint}")
