"""Windows of the watch are cut as asked for, and its file is read without running what it may name."""

import importlib.util
import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sciml.datasets import watch_windows
from sciml.datasets.watch import _read
from sciml.exceptions import InvalidInputError


@pytest.fixture(scope="module")
def series():
    return watch_windows(length=None)


@pytest.mark.data("seglearn")
def test_windows_are_those_of_a_plain_loop(series):
    watch = watch_windows()
    assert watch.X.shape == (1009, 6, 400)
    windows, y, groups = [], [], []
    for x, label, subject in zip(series.X, series.y, series.groups, strict=True):
        start = 0
        while start + 400 <= x.shape[1]:
            windows.append(x[:, start : start + 400])
            y.append(label)
            groups.append(subject)
            start += 200
    assert_array_equal(watch.X, windows)
    assert_array_equal(watch.y, y)
    assert_array_equal(watch.groups, groups)
    assert watch.X.dtype == np.float64


@pytest.mark.data("seglearn")
def test_the_study_is_complete(series):
    assert len(series.X) == 140
    assert series.class_names[:1] + series.class_names[3:] == ("PEN", "IR", "ER", "TRAP", "ROW")
    assert series.channels == ("ax", "ay", "az", "wx", "wy", "wz")
    assert series.sampling_rate == 50
    # Ten people, seven exercises, two arms.
    table = np.zeros((11, 7), int)
    np.add.at(table, (series.groups, series.y), 1)
    assert (table[1:] == 2).all()


@pytest.mark.data("seglearn")
def test_other_windows(series):
    assert len(watch_windows(step=400).X) == sum(x.shape[1] // 400 for x in series.X)
    longest = max(x.shape[1] for x in series.X)
    assert watch_windows(length=longest).X.shape == (1, 6, longest)
    with pytest.raises(InvalidInputError, match=f"length must be at most {longest}"):
        watch_windows(length=longest + 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"length": 0}, "length must be an integer at least 1"), ({"step": 0}, "step must be an integer")],
)
def test_bad_numbers_are_named(options, text):
    with pytest.raises(InvalidInputError, match=text):
        watch_windows(**options)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"watch_windows\(\) needs .*pip install --no-deps seglearn"):
        watch_windows()


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def npy(path, pickled):
    """Write an .npy file that holds one object, pickled already."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


@pytest.mark.parametrize("protocol", [2, 5])
def test_code_in_the_file_does_not_run(tmp_path, protocol):
    planted = tmp_path / "planted"
    holder = np.empty((), object)
    holder[()] = {"X": Evil(planted)}
    file = npy(tmp_path / "x.npy", pickle.dumps(holder, protocol=protocol))
    with pytest.raises(InvalidInputError, match=r"x.npy must hold arrays only: \w+.mkdir is not part of an array"):
        _read(file)
    assert not planted.exists()
    # The file is dangerous: a plain reader does run it.
    np.load(file, allow_pickle=True)
    assert planted.exists()


def test_arrays_come_back_and_encodings_are_held(tmp_path):
    holder = np.empty((), object)
    holder[()] = {"X": [np.arange(6.0).reshape(2, 3), np.ones(2, np.float32)], "words": ["a", "b"]}
    back = _read(npy(tmp_path / "x.npy", pickle.dumps(holder, protocol=2)))
    assert_array_equal(back["X"][0], [[0, 1, 2], [3, 4, 5]])
    assert back["X"][1].dtype == np.float32
    assert back["words"] == ["a", "b"]
    other = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(InvalidInputError, match="the encoding 'rot13' is not that of bytes"):
        _read(npy(tmp_path / "y.npy", other))
    np.save(tmp_path / "z.npy", np.ones(3))
    with pytest.raises(InvalidInputError, match="z.npy must hold one object"):
        _read(tmp_path / "z.npy")
