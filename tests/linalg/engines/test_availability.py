"""What is remembered about engines that cannot run."""

import warnings

import pytest

from sciml.exceptions import FallbackWarning
from sciml.linalg.engines import availability
from sciml.linalg.engines.availability import ENGINES, disable, reason_against, warn_once


def test_an_engine_is_warned_about_once(forgetful):
    assert disable("keops", OSError("first line\nsecond line")) == "OSError: first line"
    with pytest.warns(FallbackWarning, match="'keops' cannot run here .OSError: first line.; 'eager' is taken"):
        warn_once("keops", "eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_once("keops", "eager")


def test_reasons_are_listed(forgetful, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    disable("dense", ValueError())
    assert list(availability()) == list(ENGINES)
    assert availability()["dense"] == reason_against("dense") == "ValueError: no message"
    assert availability()["eager"] == "available"
    assert availability()["compiled"] == "no C++ compiler on the path"
