import collections
import os
import pickle
import struct

import numpy as np
import pytest

from lightning_igm.data.pickles import read_pickle

DATA = np.random.default_rng(0).integers(256, size=(5, 12), dtype=np.uint8)
MEAN = DATA.mean(axis=0)
CONTENT = {"data": DATA, "labels": [1, 1000, 3, 4, 5], "mean": MEAN, "batch_label": "first of 1"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data_batch_1"


def check(content):
    assert list(content) == list(CONTENT)
    assert content["data"].dtype == np.uint8
    assert np.array_equal(content["data"], DATA)
    assert np.array_equal(content["mean"], MEAN)
    assert content["labels"] == CONTENT["labels"]


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, and its names of NumPy's functions."""

    def __init__(self, file):
        super().__init__(file, protocol=2)

    def save_string(self, text):
        content = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}


def python2(content, path):
    with path.open("wb") as file:
        Python2Pickler(file).dump(content)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
    assert b"_codecs" not in path.read_bytes()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("keys", [str, str.encode])
def test_python_3(path, protocol, keys):
    content = {keys(key): value for key, value in CONTENT.items()}
    path.write_bytes(pickle.dumps(content, protocol))
    check(read_pickle(path))


def test_python_2(path):
    python2(CONTENT, path)
    content = read_pickle(path)
    check(content)
    assert content["batch_label"] == b"first of 1"


def test_names_of_numpy_1(path):
    path.write_bytes(pickle.dumps(CONTENT, 2).replace(b"numpy._core.", b"numpy.core."))
    check(read_pickle(path))


@pytest.mark.parametrize("protocol", [2, 5])
def test_other_arrays(path, protocol):
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big_endian": np.arange(5, dtype=">i4"),
        "strided": np.arange(10, dtype=np.float16)[::2],
        "bool": np.array([True, False]),
    }
    path.write_bytes(pickle.dumps({**arrays, "scalar": np.int64(7)}, protocol))
    content = read_pickle(path)
    assert content.pop("scalar") == 7
    for name, array in arrays.items():
        assert content[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert np.array_equal(content[name], array)


def refused(path, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        read_pickle(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


class Calls:
    """Is pickled as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.name}.*system"), (eval, "eval"), (collections.OrderedDict, "OrderedDict")],
)
def test_calls_nothing(path, tmp_path, protocol, function, name):
    argument = f"touch {tmp_path / 'hacked'}"
    argument = f"open({str(tmp_path / 'hacked')!r}, 'w')" if function is eval else argument
    content = {"data": DATA, "x": Calls(function, argument)}
    path.write_bytes(pickle.dumps(content, protocol))
    refused(path, f"is no pickle of arrays \\(it asks for .*{name}\\); replace it")
    assert not (tmp_path / "hacked").exists()


# An object dtype whose own flags deny it: NumPy would take the bytes for addresses of objects.
FIELD = {"a": (np.dtype("O"), 0)}
LIE = Calls(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), FIELD, 8, 1, 0))
ADDRESS = b"\1" * 8

# NumPy's own functions that make arrays out of pickles.
RECONSTRUCT = DATA.__reduce__()[0]
FROM_BUFFER = DATA.__reduce_ex__(5)[0]
SCALAR = MEAN[0].__reduce__()[0]


@pytest.mark.parametrize(
    "value",
    [
        Calls(np.ndarray, (1,), np.dtype("O"), ADDRESS),
        Calls(SCALAR, LIE, ADDRESS),
        Calls(FROM_BUFFER, ADDRESS, LIE, (1,), "C"),
        Calls(
            RECONSTRUCT,
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1,), LIE, False, ADDRESS),
        ),
    ],
    ids=["ndarray", "scalar", "frombuffer", "reconstruct"],
)
def test_no_objects_out_of_bytes(path, value):
    path.write_bytes(pickle.dumps({"data": value}))
    refused(path, "is no pickle of arrays")


def test_number_type_with_a_false_field(path):
    lie = Calls(np.dtype, "u8", False, True, state=(3, "|", None, ("a",), FIELD, 8, 1, 0))
    state = (1, (1,), lie, False, ADDRESS)
    array = Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)
    path.write_bytes(pickle.dumps({"data": array}))
    data = read_pickle(path)["data"]
    assert data.dtype.names is None
    assert data.tolist() == [int.from_bytes(ADDRESS, "little")]


@pytest.mark.parametrize(
    "array", [np.array([{}, None]), np.array(["a"]), np.zeros(1, [("x", int)]), np.array([1j])]
)
def test_no_other_arrays_than_of_numbers(path, array):
    path.write_bytes(pickle.dumps({"data": array}, 2))
    refused(path, "it holds .* values")


def test_truncated(path):
    whole = pickle.dumps(CONTENT)
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        refused(path, "is no pickle of arrays")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b".",  # Longer than any memory.
        b"\x80\x04}\x8c\x04dataR.",
        b"\x80\x09}.",
        b"\x80\x04\x8c\x02\xff\xff.",
        b"}(]K\x01u.",
        b".",
    ],
)
def test_damaged(path, content):
    path.write_bytes(content)
    refused(path, r"is no pickle of arrays \(.+\); replace it")


@pytest.mark.parametrize("content", [[DATA], 3, "text", DATA])
def test_no_dictionary(path, content):
    path.write_bytes(pickle.dumps(content))
    refused(path, "holds a .*, expected a dictionary")


def test_text_and_nothing(path):
    path.write_text("no pickle\nat all\n")
    refused(path, "is no pickle of arrays")
    with pytest.raises(FileNotFoundError):
        read_pickle(path.with_name("none"))
