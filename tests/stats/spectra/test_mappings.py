"""Whatever lies in memory gets a name and rows, or a reason; nothing that is no weight passes for one."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.mappings import LaterTensor, open_mapping, renamed
from sciml.stats.spectra.tensor_names import plain_name, plain_names


def test_nested_dicts_and_lists_are_joined_by_dots():
    values = {
        "a": OrderedDict(b={"c": torch.ones(2)}),
        "d": [torch.ones(1), (np.ones(3), {"e": torch.ones(4)})],
        7: np.ones(5),
    }
    source = open_mapping(values)
    assert {name: tensor.shape for name, tensor in source.tensors.items()} == {
        "a.b.c": (2,), "d.0": (1,), "d.1.0": (3,), "d.1.1.e": (4,), "7": (5,),
    }  # fmt: skip
    assert all(tensor.name == name for name, tensor in source.tensors.items())


def test_other_values_are_listed():
    source = open_mapping({"a": torch.ones(2), "n": 3, "s": "word", "none": None, "list": [1, 2]})
    assert source.skipped == [
        ("n", "no tensor: int"), ("s", "no tensor: str"), ("none", "no tensor: NoneType"), ("list", "no tensor: list")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["module.module.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.", "module.a"], ["module.", "module.a"]),
        (["_orig_mod.a", "b._orig_mod.c"], ["a", "b.c"]),
        (["module._orig_mod.a", "_orig_mod.module.b"], ["a", "b"]),
        (["a._fsdp_wrapped_module.b", "a._checkpoint_wrapped_module.c"], ["a.b", "a.c"]),
        (["a", "_orig_mod.a"], ["a", "_orig_mod.a"]),
        (["_orig_mod"], ["_orig_mod"]),
        ([], []),
    ],
)
def test_prefixes_of_wrappers_are_taken_off(names, plain):
    assert list(plain_names(names).values()) == plain
    assert list(open_mapping({name: torch.ones(1) for name in names}).tensors) == plain
    raw = open_mapping({name: torch.ones(1) for name in names}, plain=False)
    assert list(raw.tensors) == names
    assert list(renamed(raw).tensors) == plain
    assert all(tensor.name == name for name, tensor in raw.tensors.items())


def test_only_whole_parts_of_a_name_are_a_wrapper():
    assert plain_name("my_orig_mod.weight") == "my_orig_mod.weight"


def test_two_tensors_never_share_a_name():
    source = open_mapping(
        {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(2), "c": {1: torch.ones(3), "1": torch.ones(4)}}
    )
    assert [tensor.shape[0] for tensor in source.tensors.values()] == [1, 2, 3, 4]
    assert list(source.tensors) == ["a.b", "a.b (2)", "c.1", "c.1 (2)"]


def test_the_state_of_an_optimiser_is_skipped_tensor_by_tensor():
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    source = open_mapping({"model": {"w": weight}, "optimizer": optimizer.state_dict()})
    assert list(source.tensors) == ["model.w"]
    name = "optimizer.state.0.momentum_buffer"
    assert source.skipped == [("optimizer", "state of an optimiser"), (name, "state of an optimiser")]
    flat = open_mapping({"w": weight, "states.w.exp_avg": torch.ones(3, 2)})
    assert flat.skipped == [("states.w.exp_avg", "state of an optimiser")]
    assert open_mapping({"exp_average": torch.ones(3, 2)}).skipped == []
    raw = open_mapping({"w": weight}, plain=False)
    raw.tensors["a.exp_avg_sq"] = raw.tensors["w"]
    assert list(renamed(raw).tensors) == ["w"]
    assert raw.skipped == [("a.exp_avg_sq", "state of an optimiser")]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(4, 3), np.arange(12).reshape(4, 3)[::-1, ::-2],
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.asfortranarray(np.arange(12, dtype=np.float16).reshape(4, 3)), np.arange(12).reshape(4, 3) > 5,
        np.arange(12, dtype=np.uint16).reshape(4, 3), 1j * np.arange(12).reshape(4, 3),
        np.ma.masked_array(np.arange(12.0).reshape(4, 3)),
    ],
)  # fmt: skip
def test_arrays_of_every_order_come_back(array):
    array.flags.writeable = False
    tensor = open_mapping({"weight": array}).tensors["weight"]
    truth = np.asarray(array)
    assert tensor.shape == truth.shape
    assert tensor.nbytes == truth.nbytes
    np.testing.assert_array_equal(tensor.read().numpy(), truth)
    np.testing.assert_array_equal(tensor.rows(1, 3).numpy(), truth[1:3])
    np.testing.assert_array_equal(tensor.take([3, 0, 3]).numpy(), truth[[3, 0, 3]])
    assert tensor.read().dtype == tensor.dtype


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array(["a"]), "dtype <U1"),
        (np.array([None, 1]), "dtype object"),
        (np.zeros(2, dtype=[("a", "f4")]), "which torch has not"),
        (np.zeros(2, dtype="M8[s]"), "which torch has not"),
        (torch.ones(2, device="meta"), "on the meta device"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.nn.parameter.UninitializedParameter(), "run the lazy module once"),
        (LaterTensor(reason="a reason"), "a reason"),
    ],
)
def test_what_has_no_numbers_is_skipped_with_a_reason(value, reason):
    source = open_mapping({"a": value})
    assert source.tensors == {}
    assert [name for name, _ in source.skipped] == ["a"]
    assert reason in source.skipped[0][1]


@pytest.mark.parametrize("kind", ["g", "G"])
def test_long_doubles_are_skipped_where_they_are_long(kind):
    array = np.ones(2, dtype=kind)
    source = open_mapping({"a": array})
    assert len(source.tensors) + len(source.skipped) == 1
    assert bool(source.skipped) == (array.dtype.itemsize > {"g": 8, "G": 16}[kind])


@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning")
def test_a_tensor_quantised_by_torch_is_dequantised():
    value = torch.quantize_per_tensor(torch.eye(3), 0.5, 0, torch.qint8)
    tensor = open_mapping({"a": value}).tensors["a"]
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor.rows(1, 3), torch.eye(3)[1:])


def test_a_distributed_tensor_is_gathered_when_it_is_read():
    class Sharded(torch.Tensor):
        def full_tensor(self):
            return torch.arange(6.0).reshape(3, 2)

    value = torch.zeros(3, 2).as_subclass(Sharded)
    assert torch.equal(open_mapping({"a": value}).tensors["a"].rows(2, 3), torch.tensor([[4.0, 5.0]]))


def test_what_converts_to_an_array_counts_as_one():
    class Foreign:
        shape = (2, 2)

        def __array__(self, dtype=None, copy=None):
            return np.eye(2)

    assert torch.equal(open_mapping({"a": Foreign()}).tensors["a"].read(), torch.eye(2).double())
    assert open_mapping({"a": np.ndarray}).skipped == [("a", "no tensor: type")]


def test_ties_tell_the_same_numbers_in_the_same_place():
    a = torch.arange(12.0).reshape(3, 4)
    values = {"a": a, "same": a.view(3, 4), "t": a.t(), "rows": a[:2], "copy": a.clone(), "other": a.view(torch.int32)}
    ties = {name: tensor.tie for name, tensor in open_mapping(values).tensors.items()}
    assert ties["a"] == ties["same"]
    assert len(set(ties.values())) == 5
    b = np.ones((3, 3))
    ties = [tensor.tie for tensor in open_mapping({"a": b, "b": b[:], "t": b.T, "c": b.copy()}).tensors.values()]
    assert ties[0] == ties[1]
    assert len(set(ties)) == 3
    assert open_mapping({"a": torch.zeros(0, 3)}).tensors["a"].tie is None


def test_containers_without_end_are_told():
    endless = {"a": torch.ones(2)}
    endless["again"] = endless
    layers = [torch.ones(1)]
    for _ in range(40):
        layers = [layers, layers]
    deep = {"a": torch.ones(1)}
    for _ in range(100):
        deep = {"b": deep}
    for value in (endless, layers, deep):
        with pytest.raises(InvalidInputError, match="obj holds itself, one part too often, or dicts deeper than 64"):
            open_mapping(value)


def test_a_part_may_be_shared():
    part = {"weight": torch.ones(2, 2)}
    source = open_mapping({"encoder": part, "decoder": part})
    assert source.tensors["encoder.weight"].tie == source.tensors["decoder.weight"].tie


def test_masked_entries_are_no_weights():
    masked = np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3, dtype=bool))
    source = open_mapping({"a": masked, "b": np.ones((4, 3))})
    assert list(source.tensors) == ["b"]
    assert source.skipped[0][0] == "a"
    assert "fill them first" in source.skipped[0][1]
