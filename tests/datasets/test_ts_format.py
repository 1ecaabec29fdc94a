"""Text of the .ts format is read as it stands; what does not fit its header is named with its line."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sciml.datasets.ts_format import read_ts
from sciml.exceptions import InvalidInputError

HEAD = "% a comment\n#another\n@problemName made up\n@seriesLength 99\n@classLabel true b a 10\n@data\n"


@pytest.fixture
def write(tmp_path):
    def file(text):
        path = tmp_path / "x.ts"
        path.write_text(text)
        return path

    return file


def test_trials_channels_classes_and_missing_values(write):
    text = HEAD + "1,2.5,-3e-7:?,5,nan:a\n\n# between\n1e300:-0.1:10\n 7, 8 : 9,10 :b\n"
    trials, codes, classes = read_ts(write(text))
    assert classes == ("b", "a", "10")  # the header's order, not the alphabet's
    assert codes.tolist() == [1, 2, 0]
    assert codes.dtype == np.int64
    assert [trial.shape for trial in trials] == [(2, 3), (2, 1), (2, 2)]
    assert_array_equal(trials[0], [[1, 2.5, -3e-7], [np.nan, 5, np.nan]])
    assert_array_equal(trials[1], [[1e300], [-0.1]])
    assert_array_equal(trials[2], [[7, 8], [9, 10]])


def test_numbers_are_read_to_their_last_bit(write):
    values = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-100, 100)
    trials, _, _ = read_ts(write(HEAD + ",".join(map(repr, values.tolist())) + ":a\n"))
    assert_array_equal(trials[0][0], values)


def test_header_words_are_read_in_any_case(write):
    _, codes, classes = read_ts(write("@TimeStamps false\n@classlabel TRUE x y\n@DATA\n1:x\n"))
    assert classes == ("x", "y")
    assert codes.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "1,2:3,4:a\n1,2:3,4:c\n", r"x.ts, line 8: the class must be one of b, a, 10; got 'c'"),
        (HEAD + "1,2:3:a\n", r"line 7: the channels of a trial must have one length; got \[1, 2\]"),
        (HEAD + "1,two:a\n", r"line 7: values must be numbers or '\?'; .*'two'"),
        (HEAD + "1,,2:a\n", r"line 7: values must be numbers or '\?'"),
        (HEAD + "a\n", r"line 7: the channels of a trial must have one length; got \[\]"),
        (HEAD, "must name a file with trials after @data; x.ts holds none"),
        ("@timestamps true\n" + HEAD + "1:a\n", "without time stamps; x.ts has them"),
        ("@targetlabel true\n@data\n1:0.5\n", "at least two classes in its line @classLabel; x.ts has 0"),
        ("@classLabel false\n@data\n1\n", "x.ts has 0"),
    ],
)
def test_what_does_not_fit_is_named(write, text, message):
    with pytest.raises(InvalidInputError, match=message):
        read_ts(write(text))
