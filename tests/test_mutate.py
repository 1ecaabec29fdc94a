"""The tool that sees tests fail is not fooled itself, on a small tree of its own."""

import pytest

from .mutate import main

ENTRY = """[[mutant]]
name = "{name}"
file = "toy.py"
find = "{find}"
replace = "{replace}"
tests = ["tests/test_toy.py"]
"""


@pytest.fixture
def tree(tmp_path):
    """One module with one test."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "toy.py").write_text("def double(x):\n    return 2 * x + 0 * x\n")
    (tmp_path / "tests" / "test_toy.py").write_text("import toy\n\ndef test_it():\n    assert toy.double(3) == 6\n")
    return tmp_path


def mutants(tree, *entries):
    texts = [
        ENTRY.format(name=name, find=find, replace=replace) + more
        for name, find, replace, *more in entries
        for more in ["".join(more)]
    ]
    (tree / "tests" / "mutants.toml").write_text("\n".join(texts))


def test_kills_survivors_controls_and_the_checkout_stays(tree, capsys):
    before = (tree / "toy.py").read_text()
    mutants(tree, ("wrong factor", "2 * x", "3 * x"), ("same thing", "2 * x", "x + x", 'expect = "survive"\n'))
    assert main(["-j", "2"], tree) == 0
    out = capsys.readouterr().out
    assert "ok  killed    toy.py: wrong factor" in out
    assert "ok  survived  toy.py: same thing" in out
    assert "2 of 2 as expected" in out
    assert (tree / "toy.py").read_text() == before


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (("unseen", "0 * x", "0"), "BAD survived"),
        (("killed control", "2 * x", "3 * x", 'expect = "survive"\n'), "BAD killed"),
        (("gone", "5 * x", "3 * x"), "invalid: find occurs 0 times"),
        (("twice", "* x", "+ x"), "invalid: find occurs 2 times"),
        (("nothing", "2 * x", "2 * x"), "invalid: replace changes nothing"),
        (("no syntax", "2 * x", "2 )"), "invalid: pytest ended with"),
    ],
)
def test_what_is_not_as_expected_fails(tree, capsys, entry, verdict):
    mutants(tree, entry)
    assert main([], tree) == 1
    assert verdict in capsys.readouterr().out


def test_tests_that_fail_anyway_kill_nothing(tree, capsys):
    (tree / "tests" / "test_toy.py").write_text("def test_it():\n    assert 0\n")
    mutants(tree, ("wrong factor", "2 * x", "3 * x"))
    assert main([], tree) == 1
    assert "does not pass without any mutant" in capsys.readouterr().out


def test_words_choose_and_a_list_runs_nothing(tree, capsys):
    mutants(tree, ("first", "2 * x", "3 * x"), ("second", "2 * x", "4 * x"))
    assert main(["--list", "second"], tree) == 0
    assert capsys.readouterr().out == "toy.py: second\n"
    assert main(["third"], tree) == 1
