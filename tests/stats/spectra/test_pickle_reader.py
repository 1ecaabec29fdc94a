"""Plain values come back as pickle gives them; what would run something ends the reading with its name."""

import collections
import io
import os
import pickle
import pickletools
import struct

import pytest

from sciml.exceptions import CheckpointError, UnsafeCheckpointError
from sciml.random import generator
from sciml.stats.spectra.pickle_reader import MAX_PICKLE, Cursor, GlobalName, read_pickle
from sciml.stats.spectra.regular_file import RegularFile

SHARED = [1, 2]
VALUES = {
    "numbers": [0, 1, -1, 255, 256, 65536, 2**31, -(2**40), 2**80, -(2**3000), 1.5, -0.0, float("inf")],
    "words": ["", "ä", "a" * 300, "a\nb\\n", b"", b"\x00\xff", b"x" * 300, bytearray(b"ab")],
    "constants": [None, True, False],
    "containers": {
        "a": (),
        "b": (1,),
        "c": (1, 2),
        "d": (1, 2, 3),
        "e": (1, 2, 3, 4),
        "f": [],
        "g": {},
        "h": [[1], [2]],
    },
    "keys": {1: "a", None: "b", 2.5: "c", "d": "e", b"f": "g"},
    "shared": [SHARED, SHARED, {"again": SHARED}],
    "many": list(range(3000)) + [{str(k): k for k in range(2000)}],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back(name, protocol):
    value = VALUES[name]
    if protocol < 3 and name in ("words", "keys"):
        value = [item for item in value if not isinstance(item, (bytes, bytearray))]
    elif protocol < 5 and name == "words":
        value = [item for item in value if not isinstance(item, bytearray)]
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"behind")
    read = read_pickle(stream, "x", calls={})
    assert read == value
    assert repr(read) == repr(value)
    assert stream.read() == b"behind"
    if name == "shared":
        assert read[0] is read[1] is read[2]["again"]


@pytest.mark.parametrize("protocol", range(6))
def test_sets_become_lists(protocol):
    calls = {"builtins.set": list, "builtins.frozenset": list}
    assert read_pickle(io.BytesIO(pickle.dumps({3}, protocol)), "x", calls=calls) == [3]
    assert read_pickle(io.BytesIO(pickle.dumps(frozenset([3]), protocol)), "x", calls=calls) == [3]


def test_a_value_may_hold_itself():
    endless = []
    endless.append(endless)
    read = read_pickle(io.BytesIO(pickle.dumps(endless)), "x", calls={})
    assert read[0] is read


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


class Own:
    pass


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.system, "true"), "posix.system"),
        (Runs(eval, "1"), "builtins.eval"),
        (Runs(getattr, 1, "real"), "builtins.getattr"),
        (Own(), ""),
        (os.path.join, "posixpath.join"),
        (collections.Counter, "collections.Counter"),
    ],
)
def test_the_name_of_what_would_run_is_told(value, name, protocol):
    with pytest.raises(
        UnsafeCheckpointError, match="'model.pt' names .*only unpickling gives.*Nothing was run"
    ) as error:
        read_pickle(io.BytesIO(pickle.dumps([1, value], protocol)), "model.pt", calls={"os.path": int})
    assert name in error.value.offending
    assert error.value.offending in str(error.value)
    assert error.value.path == "model.pt"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"cos\nsystem\n.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02\x82\x07.", "extension 7"),
        (b"\x80\x02\x83\x07\x00.", "extension 7"),
        (b"\x80\x02\x84\x07\x00\x00\x00.", "extension 7"),
        (b"c__builtin__\neval\n.", "builtins.eval"),
        (b"(c__builtin__\nint\nS'1'\no.", "builtins.int"),
        (b"c" + b"a" * 5000 + b"\nb\n.", "a" * 200 + "..."),
        (b"\x80\x04\x8c\x02os\x8c\x05\x1b[2J\n\x93.", "os.\\x1b[2J\\n"),
        (b"\x80\x04\x8c\x02os\x8c\x03\xed\xa0\x80\x93.", "os.\\ud800"),
    ],
)
def test_every_way_to_a_name_is_closed(code, name):
    with pytest.raises(UnsafeCheckpointError) as error:
        read_pickle(io.BytesIO(code), "x", calls={}, names={"builtins.int"})
    assert error.value.offending == name


def test_a_name_that_may_stand_may_not_be_called():
    value = pickle.dumps(int)
    assert read_pickle(io.BytesIO(value), "x", calls={}, names={"builtins.int"}).name == "builtins.int"
    with pytest.raises(UnsafeCheckpointError, match="builtins.int"):
        read_pickle(io.BytesIO(pickle.dumps(Runs(int, "7"))), "x", calls={}, names={"builtins.int"})


def test_known_names_get_their_arguments_and_attributes_are_dropped():
    class Words(dict):
        pass

    Words.__module__, Words.__qualname__ = "collections", "OrderedDict"
    ordered = collections.OrderedDict(a=1)
    ordered.version = 3
    calls = {"collections.OrderedDict": lambda *items: dict(*items)}
    for protocol in range(2, 6):
        assert read_pickle(io.BytesIO(pickle.dumps([ordered], protocol)), "x", calls=calls) == [{"a": 1}]


BROKEN = {
    "nothing": b"",
    "no end": pickle.dumps({"a": 1})[:-1],
    "an empty stack": b"\x80\x02.",
    "no such opcode": b"\xfe.",
    "no such memo": b"\x80\x02h\x05.",
    "a mark that is not there": b"\x80\x02u.",
    "a mark above the stack": b"N(0u.",
    "items of a number": b"K\x01(K\x02K\x03u.",
    "entries of a number": b"K\x01K\x02a.",
    "a key without a value": b"}(K\x01u.",
    "a call of a number": b"K\x01)R.",
    "a call without a tuple": b"cbuiltins\nset\nK\x01R.",
    "a name of numbers": b"K\x01K\x02\x93.",
    "a tuple of too few": b"K\x01\x86.",
    "a length beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc",
    "a word that is no UTF-8": b"\x8c\x02\xff\xff.",
    "a long number of words": b"L" + b"9" * 5000 + b"L\n.",
    "a persistent identifier": b"K\x01Q.",
    "attributes of nothing": b"Nb.",
    "wrong arguments": b"cbuiltins\nset\nK\x01K\x02\x86R.",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_pickle_is_told(name):
    with pytest.raises(CheckpointError, match="'model.pt' is no file of weights that torch wrote") as error:
        read_pickle(io.BytesIO(BROKEN[name]), "model.pt", calls={"builtins.set": lambda items: list(items)})
    assert not isinstance(error.value, UnsafeCheckpointError)


def test_keys_that_cannot_be_hashed_safely_become_words():
    deep = b"(" + b")" + b"\x85" * 200_000 + b"K\x01d."  # {((((...)))): 1}
    assert list(read_pickle(io.BytesIO(deep), "x", calls={}).values()) == [1]
    assert list(read_pickle(io.BytesIO(b"(]K\x01d."), "x", calls={}).values()) == [1]
    assert read_pickle(io.BytesIO(pickle.dumps({(1, "a"): 2})), "x", calls={}) == {"(1, 'a')": 2}


def test_no_opcode_reaches_the_interpreter():
    known, closed = pickle.dumps([1, "a", (2,)]), 0
    rng = generator(0)
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    for _ in range(1500):
        picked = b"".join(codes[k] for k in rng.integers(0, len(codes), 12))
        try:
            read_pickle(io.BytesIO(known[:-1] + picked + bytes(rng.integers(0, 256, 20, dtype="u1"))), "x", calls={})
        except CheckpointError:
            closed += 1
    assert closed > 1000


def test_a_cursor_reads_on_and_stops_at_its_bound(tmp_path, monkeypatch):
    path = tmp_path / "x"
    data = b"first line\n" + bytes(range(256)) * 600
    path.write_bytes(data)
    cursor = Cursor(RegularFile(path), 6)
    assert cursor.readline() == b"line\n"
    assert cursor.tell() == 11
    assert b"".join(cursor.read(n) for n in (3, 70_000, 1, 2**62)) == data[11:]
    assert cursor.read(1) == cursor.readline() == b""
    monkeypatch.setattr("sciml.stats.spectra.pickle_reader.MAX_PICKLE", 20)
    assert Cursor(RegularFile(path)).read(2**62) == data[:20]
    assert Cursor(RegularFile(path), 2, end=5).read(9) == data[2:5]
    assert MAX_PICKLE < 2**30


def test_a_name_is_only_a_name():
    assert not callable(GlobalName("os.system"))
