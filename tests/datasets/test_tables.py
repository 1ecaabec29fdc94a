"""Tables with classes are those of their sources, and nothing is fetched for them."""

import builtins
import socket

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.datasets import LabelledTable, labelled_table
from sciml.exceptions import InvalidInputError

SIZES = {
    "iris": ((150, 4), [50, 50, 50]),
    "wine": ((178, 13), [59, 71, 48]),
    "digits": ((1797, 64), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "breast_cancer": ((569, 30), [212, 357]),
    "penguins": ((342, 4), [151, 68, 123]),
}


@pytest.mark.parametrize("name", SIZES)
def test_tables_are_complete_and_their_names_fit(name, monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"data would be fetched from {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    table = labelled_table(name)
    (n, p), sizes = SIZES[name]
    assert isinstance(table, LabelledTable)
    assert table.X.shape == (n, p)
    assert table.X.dtype == np.float64
    assert table.labels.dtype == np.int64
    assert np.isfinite(table.X).all()
    assert np.bincount(table.labels).tolist() == sizes
    assert len(table.class_names) == len(sizes)
    assert len(set(table.feature_names)) == len(table.units) == p
    assert all(isinstance(word, str) for word in (*table.class_names, *table.feature_names, *table.units))


def test_penguins_have_the_published_means():
    # K. B. Gorman and others, 2014: body masses of the three species of about 3.7, 3.7 and 5.1 kg; means of the file.
    table = labelled_table("penguins")
    assert table.feature_names == ("bill length", "bill depth", "flipper length", "body mass")
    assert table.units == ("mm", "mm", "mm", "g")
    means = np.stack([table.X[table.labels == k].mean(0) for k in range(3)])
    assert table.class_names == ("Adelie", "Chinstrap", "Gentoo")
    assert_allclose(means[:, 3], [3700.66, 3733.09, 5076.02], atol=0.005)
    assert_allclose(means[:, 0], [38.791, 48.834, 47.505], atol=0.0005)
    assert_array_equal(table.X[-1], [50.2, 18.7, 198, 3775])


def test_iris_is_that_of_scikit_learn():
    from sklearn.datasets import load_iris

    table, theirs = labelled_table("iris"), load_iris()
    assert_array_equal(table.X, theirs.data)
    assert_array_equal(table.labels, theirs.target)
    assert table.feature_names[3] == "petal width"
    assert table.units[3] == "cm"
    assert table.class_names[1] == "versicolor"


@pytest.mark.parametrize("name", ["iris", "penguins"])
def test_what_a_caller_writes_does_not_come_back(name):
    table = labelled_table(name)
    first = table.X[0, 0]
    table.X[0, 0] = -1
    table.labels[0] = 99
    again = labelled_table(name)
    assert again.X[0, 0] == first
    assert again.labels[0] == 0


def test_without_scikit_learn_the_remedy_is_named_and_penguins_remain(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"labelled_table\('wine'\) needs scikit-learn.*pip install scikit-learn"):
        labelled_table("wine")
    assert len(labelled_table("penguins").X) == 342


def test_an_unknown_name_is_answered_by_the_nearest():
    with pytest.raises(InvalidInputError, match="name must be one of .*got 'penguin'. Did you mean 'penguins'"):
        labelled_table("penguin")
