"""Bars are silent unless asked for."""

import subprocess
import sys

import sciml
from sciml.progress import bar


def test_is_silent_by_default_and_iterates(capfd):
    with bar(3, desc="steps") as steps:
        steps.update()
        steps.set_postfix(criterion=1.0)
    assert list(bar("abc", desc="letters")) == ["a", "b", "c"]
    out, err = capfd.readouterr()
    assert out + err == ""


def test_shows_when_asked_by_argument_or_configuration(capfd):
    assert list(bar([1, 2], desc="by argument", progress=True)) == [1, 2]
    with sciml.config_context(progress=True), bar(2, desc="by context") as steps:
        steps.update(2)
    out, err = capfd.readouterr()
    assert out == ""
    assert "by argument: 100%" in err
    assert "by context: 100%" in err


def test_the_argument_beats_the_configuration(capfd):
    with sciml.config_context(progress=True):
        assert list(bar([1], desc="hidden", progress=False)) == [1]
    assert capfd.readouterr().err == ""


def test_a_loop_moves_its_bar(capfd):
    from sciml.iterate import Step, run

    run([Step(1.0, 1.0), Step(0.5, 0.5), Step(0.0, 0.0)], name="toy", tol=1e-8, max_iter=4, progress=True)
    assert "toy:  50%" in capfd.readouterr().err


def test_a_silent_bar_imports_no_tqdm():
    code = "import sys, sciml.progress as p; list(p.bar([1], desc='a')); print('tqdm' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
