"""A bug report says what an answer depends on, and comes out of a broken installation, too."""

import os
import sys

import numpy as np
import pytest

import sciml
from sciml import _versions


def test_the_report_names_packages_devices_compilers_and_engines(capsys):
    sciml.show_versions()
    lines = capsys.readouterr().out.splitlines()
    width = len("engine compiled")
    found = {line[:width].strip(): line[width:].strip() for line in lines}
    assert found["numpy"] == np.__version__
    assert found["sciml"] == sciml.__version__
    assert found["devices"].startswith("cpu")
    assert found["memory"].endswith("GiB for temporaries")
    assert {"C++", "nvcc", "torch", "joblib", "pykeops", "threads"} <= set(found)
    assert found["engine dense"] == found["engine eager"] == "available"
    assert all(found.values())


def compiler(folder, name, text, status=0):
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {status}\n")
    path.chmod(0o755)


def test_compilers_say_their_version_or_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert _versions.compilers() == {"C++": "missing", "nvcc": "missing"}
    compiler(tmp_path, "g++", "g++ 12.2\\nCopyright")
    compiler(tmp_path, "nvcc", "nvcc: a driver\\nrelease 13.0, V13")
    assert _versions.compilers() == {"C++": "g++: g++ 12.2", "nvcc": "nvcc: release 13.0, V13"}
    compiler(tmp_path, "mine", "", status=3)
    monkeypatch.setenv("CXX", "mine -O2")
    assert _versions.compilers()["C++"] == "mine: does not run (exit status 3)"
    monkeypatch.setenv("CXX", "nowhere")
    assert _versions.compilers()["C++"] == "missing"


def test_a_package_that_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setattr(_versions, "_PACKAGES", ("numpy", "no-such-package-at-all"))
    assert _versions.versions()["no-such-package-at-all"] == "missing"


def test_engines_that_cannot_even_be_imported_are_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sciml.linalg.engines", None)
    sciml.show_versions()
    assert "engine all" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="shell scripts")
def test_a_compiler_that_cannot_be_started_is_reported(tmp_path, monkeypatch):
    (tmp_path / "g++").write_bytes(b"\x7fELF nothing")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert _versions.compilers()["C++"].startswith("g++: does not run (")
