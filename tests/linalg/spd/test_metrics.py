"""Names of geometries."""

import pytest

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd import METRICS, canonical_metric


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("riemann", "airm"),
        ("affine-invariant", "airm"),
        ("Affine_Invariant", "airm"),
        ("wasserstein", "bw"),
        ("Bures-Wasserstein", "bw"),
        ("log-euclidean", "logeuclid"),
        ("log cholesky", "logchol"),
        ("euclidean", "euclid"),
        *((name, name) for name in METRICS),
    ],
)
def test_aliases(alias, name):
    assert canonical_metric(alias) == name


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(InvalidInputError, match="metric must be one of 'bw', .*got 'riemman'. Did you mean 'riemann'"):
        canonical_metric("riemman")


def test_a_mean_is_no_distance():
    assert canonical_metric("harmonic", ("harmonic",)) == "harmonic"
    with pytest.raises(InvalidInputError, match="got 'harmonic'"):
        canonical_metric("harmonic")
    with pytest.raises(InvalidInputError, match="mean must be one of 'bw'; got None"):
        canonical_metric(None, ("bw",), argument="mean")
