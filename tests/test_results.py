"""A result says what it is, and comes back from a file as it went in."""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sciml
from sciml import results
from sciml.exceptions import InvalidInputError
from sciml.iterate import Status, Step, run
from sciml.results import Result, array, internal, load


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Mean(Result):
    """A mean of matrices, as an example."""

    mean: np.ndarray = array("row", "column", units="m^2", help="the mean")
    spread: np.ndarray = array("row", help="standard deviations", optional=True)
    report: dict = None
    error_estimate: float = 0.0

    def coords(self):
        return {"row": (np.arange(len(self.mean)) * 0.5, "m")}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Line(Result):
    """A result with an internal that is rebuilt from its state."""

    slope: float = 0.0
    evaluate: Any = internal()

    def _state(self):
        return {"offset": np.array([3.0]), "tensor": torch.ones(2), "word": ("up", 1)}

    @classmethod
    def _restore(cls, fields, state):
        assert state["word"] == ["up", 1]
        assert isinstance(state["tensor"], torch.Tensor)
        return cls(**fields, evaluate=lambda x: fields["slope"] * x + state["offset"])


def answer(**fields):
    loop = run([Step(1.0, 1.0), Step(0.0, 1e-9)], name="toy", tol=1e-8, max_iter=3)
    return Mean.of(loop, {"method": "toy", "seed": np.int64(3)}, **{"mean": np.eye(2), **fields})


def test_of_takes_over_the_run():
    result = answer()
    assert result.status is Status.CONVERGED
    assert result.converged
    assert result.n_iter == 1
    assert result.history["criterion"].tolist() == [1.0, 1e-9]
    assert result.settings == {"method": "toy", "seed": 3}
    assert type(result.settings["seed"]) is int
    assert answer(n_iter=7).n_iter == 7


@pytest.mark.parametrize(
    ("status", "converged"),
    [("converged", True), ("not_converged", False), ("near_singular", False), (Status.MAX_ITER, False)],
)
def test_a_status_may_be_a_plain_word(status, converged):
    result = Mean.of(None, {}, mean=np.eye(2), status=status)
    assert result.status == status
    assert result.converged is converged


def test_repr_tells_class_status_steps_criterion_and_shapes():
    assert repr(answer()) == "<Mean CONVERGED n_iter=1 criterion=1.0e-09 | mean(2, 2)>"
    assert repr(answer(spread=np.ones(2))).endswith("mean(2, 2) spread(2)>")
    assert repr(Line(status="near_singular", evaluate=None)) == "<Line near_singular n_iter=0>"


def test_html_holds_the_escaped_repr_and_the_table():
    text = answer()._repr_html_()
    assert "&lt;Mean CONVERGED" in text
    assert "the mean" in text


def test_to_xarray_has_axes_units_names_history_and_plain_attributes(tmp_path):
    result = answer(spread=torch.ones(2, requires_grad=True), report={"n": 3, "ok": True, "none": None})
    data = result.to_xarray()
    assert data["mean"].dims == ("row", "column")
    assert data["mean"].attrs == {"units": "m^2", "long_name": "the mean"}
    assert data["row"].values.tolist() == [0.0, 0.5]
    assert data["row"].attrs["units"] == "m"
    assert data["history_criterion"].dims == ("iteration",)
    assert data["spread"].values.tolist() == [1.0, 1.0]
    assert data.attrs["status"] == "CONVERGED"
    assert json.loads(data.attrs["report"]) == {"n": 3, "ok": True, "none": None}
    assert all(type(value) in (str, int, float) for value in data.attrs.values())
    data["mean"][0, 0] = 9.0
    assert result.mean[0, 0] == 1.0
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as again:
        xr.testing.assert_identical(again.load(), data)


@pytest.mark.parametrize("status", [Status.STALLED, "alias_warning"])
def test_save_and_load_give_everything_back(tmp_path, status):
    report = {"names": ("a", "b"), "size": np.float32(0.5), 3: None, "nan_is": float("inf"), "flag": np.True_}
    result = answer(status=status, report=report, error_estimate=1e-300, mean=np.array([[1, 2j], [3, np.nan]]))
    assert result.save(tmp_path / "a.npz") == tmp_path / "a.npz"
    again = sciml.load(tmp_path / "a.npz")
    assert type(again) is Mean
    assert again.status == status
    np.testing.assert_array_equal(again.mean, result.mean)
    assert again.mean.dtype == result.mean.dtype
    assert again.spread is None
    assert again.settings == result.settings
    plain = {"names": ["a", "b"], "size": 0.5, "3": None, "nan_is": float("inf"), "flag": True}
    assert again.report == result.report == plain
    assert again.error_estimate == 1e-300
    assert list(again.history) == list(result.history)
    for key, row in result.history.items():
        np.testing.assert_array_equal(again.history[key], row)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128, torch.int32])
def test_tensors_come_back_as_tensors(tmp_path, dtype):
    mean = torch.tensor([[1.0, 2.0], [3.0, 4.5]]).to(dtype)
    if dtype.is_floating_point:
        mean.requires_grad_(True)
    again = load(answer(mean=mean).save(tmp_path / "a.npz"))
    assert isinstance(again.mean, torch.Tensor)
    assert again.mean.dtype == dtype
    assert not again.mean.requires_grad
    assert torch.equal(again.mean, mean.detach())


def test_internals_are_rebuilt_from_the_state(tmp_path):
    again = load(Line(slope=2.0, evaluate=None).save(tmp_path / "line.npz"))
    assert again.evaluate(5.0) == 13.0


def test_a_file_can_be_read_by_a_fresh_process(tmp_path):
    path = Result.of(None, {"seed": 3}, n_iter=2, status=Status.STALLED).save(tmp_path / "a.npz")
    code = f"import sciml; r = sciml.load({str(path)!r}); print(r, r.settings)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "<Result STALLED n_iter=2> {'seed': 3}"


def test_saving_replaces_a_file_whole_and_leaves_nothing_when_it_fails(tmp_path, monkeypatch):
    path = answer().save(tmp_path / "a.npz")
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="no space"):
            answer(n_iter=9).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert path.read_bytes() == before
    answer(n_iter=9).save(path)
    assert load(path).n_iter == 9
    with pytest.raises(InvalidInputError, match="path must lie in a folder that exists; got .*nowhere"):
        answer().save(tmp_path / "nowhere" / "a.npz")


def doctored(tmp_path, **changes):
    """Save a result and change entries of its head."""
    path = answer().save(tmp_path / "a.npz")
    with np.load(path) as file:
        arrays = dict(file)
    head = json.loads(arrays.pop("head").tobytes()) | changes
    np.savez(path, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
    return path


def test_foreign_and_damaged_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*none.npz"):
        load(tmp_path / "none.npz")
    for name, content in (("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInputError, match=f"path must be a file written by Result.save; .*{name}.* is none"):
            load(tmp_path / name)
    path = answer().save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InvalidInputError, match="cut.npz"):
        load(tmp_path / "cut.npz")
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 0xFF
    (tmp_path / "bit.npz").write_bytes(damaged)
    with pytest.raises(InvalidInputError, match="bit.npz.* is damaged"):
        load(tmp_path / "bit.npz")
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    with pytest.raises(InvalidInputError, match="other.npz.* is damaged or of another origin"):
        load(tmp_path / "other.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as file:
        file.writestr("head.npy", "not an array")
    with pytest.raises(InvalidInputError, match="zip.npz"):
        load(tmp_path / "zip.npz")


@pytest.mark.parametrize(
    "name",
    ["os:system", "subprocess:Popen", "sciml.results:load", "sciml.nothing:Mean", "sciml.exceptions:Mean", "", 3],
)
def test_a_file_names_no_class_but_a_result(tmp_path, name):
    path = doctored(tmp_path, **{"class": name})
    with pytest.raises(InvalidInputError, match=f"{name!r}, which is no result of this sciml"):
        load(path)


def test_a_foreign_module_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInputError, match="no result of this sciml"):
        load(doctored(tmp_path, **{"class": "trap:Mean"}))


def test_a_pickle_in_the_file_is_refused(tmp_path):
    path = answer().save(tmp_path / "a.npz")
    with np.load(path) as file:
        arrays = dict(file)
    arrays["field.mean"] = np.array([{"a": 1}], dtype=object)
    np.savez(path, **arrays)
    with pytest.raises(InvalidInputError, match="damaged or of another origin.*pickle"):
        load(path)


def test_a_later_format_and_unknown_fields_are_named(tmp_path):
    with pytest.raises(InvalidInputError, match="has format 99; this version reads 1"):
        load(doctored(tmp_path, format=99))
    with pytest.raises(InvalidInputError, match="does not fit Mean of this version: .*colour"):
        load(doctored(tmp_path, fields={"status": "converged", "colour": 1}))
    with pytest.raises(InvalidInputError, match="damaged"):
        load(doctored(tmp_path, fields={"status": {"enum": "HAPPY"}}))


def test_what_cannot_be_saved_is_named_when_the_result_is_made():
    with pytest.raises(InvalidInputError, match=r"Mean.settings\['f'\]\[0\] must be numbers, .*got builtin_function"):
        Mean.of(None, {"f": [len]}, mean=np.eye(2))
    with pytest.raises(
        InvalidInputError, match=r"mean of Mean must have the axes \('row', 'column'\); got shape \(3,\)"
    ):
        Mean.of(None, {}, mean=np.ones(3))
    with pytest.raises(InvalidInputError, match="axes must differ; got"):
        array("n", "n")
    with pytest.raises(InvalidInputError, match="field.mean must be an array of numbers or texts; got dtype object"):
        Mean.of(None, {}, mean=np.array([[None]])).save("never.npz")


def test_is_frozen():
    with pytest.raises(AttributeError):
        answer().n_iter = 3


def test_plot_finds_plotting_beside_the_class(monkeypatch):
    module = type(sys)("sciml.made_up.plotting")
    module.plot = lambda result, *, ax=None: (result.n_iter, ax)
    monkeypatch.setitem(sys.modules, "sciml.made_up", type(sys)("sciml.made_up"))
    monkeypatch.setitem(sys.modules, "sciml.made_up.plotting", module)
    monkeypatch.setattr(Mean, "__module__", "sciml.made_up.result")
    assert answer().plot(ax=3) == (1, 3)
    monkeypatch.setattr(Mean, "__module__", "sciml.results")
    with pytest.raises(NotImplementedError, match="Mean has no picture: there is no module sciml.plotting"):
        answer().plot()


def test_only_classes_made_by_subclassing_are_known():
    assert results._CLASSES[f"{__name__}:Mean"] is Mean


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Batched(Result):
    """Arrays with any leading axes."""

    level: Any = array("...", help="a number for each channel")
    gains: np.ndarray = array("...", "sensor", help="gains")


def test_leading_axes_are_any_number_and_none_is_a_python_number(tmp_path):
    one = Batched(level=np.array(0.5), gains=np.ones(3))
    assert type(one.level) is float
    assert one.to_xarray()["level"].dims == ()
    many = Batched(level=np.zeros((2, 4)), gains=np.ones((2, 4, 3)))
    assert many.to_xarray()["gains"].dims == ("batch_0", "batch_1", "sensor")
    assert many.to_xarray()["level"].dims == ("batch_0", "batch_1")
    again = load(one.save(tmp_path / "one.npz"))
    assert type(again.level) is float
    assert again.level == 0.5
    assert load(many.save(tmp_path / "many.npz")).gains.shape == (2, 4, 3)
    with pytest.raises(InvalidInputError, match=r"gains of Batched must have the axes \('...', 'sensor'\)"):
        Batched(level=0.5, gains=np.float64(1.0))
