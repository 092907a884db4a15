"""Only arrays, lists, dicts, strings and numbers come out of a pickle, and nothing runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fromage_index.errors import BadPickle
from fromage_index.plain_pickle import load_plain_pickle

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def stored(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "x.pkl"
    file.write_bytes(data)
    return file


def roundtrip(tmp_path: Path, content: Any, protocol: int) -> Any:
    return load_plain_pickle(stored(tmp_path, pickle.dumps(content, protocol=protocol)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        VECTORS,
        np.asfortranarray(VECTORS),
        VECTORS[::2, ::3],
        VECTORS.astype(">f8"),
        VECTORS.astype(np.float16),
        np.empty((0, 4), np.float32),
        np.array(["a.png", "ü.png"]),
    ],
    ids=["plain", "fortran", "strided", "big-endian", "half", "empty", "strings"],
)
def test_arrays(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    content = {"paths": ["a", "ü"], "embeddings": array, "n": 3, "x": 1.5, "none": None}
    found = roundtrip(tmp_path, content, protocol)
    np.testing.assert_array_equal(found.pop("embeddings"), array)
    content.pop("embeddings")
    assert found == content


@pytest.mark.parametrize("protocol", range(6))
def test_lists_of_arrays_and_numpy_strings(tmp_path: Path, protocol: int) -> None:
    content = {"paths": [np.str_("a.png"), np.str_("ü.png")], "embeddings": list(VECTORS)}
    found = roundtrip(tmp_path, content, protocol)
    assert found["paths"] == ["a.png", "ü.png"]
    np.testing.assert_array_equal(np.stack(found["embeddings"]), VECTORS)


@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_1_module_names(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"embeddings": VECTORS}, protocol=protocol)
    if protocol == 2:  # names end at a newline
        assert b"numpy._core" in data
        data = data.replace(b"numpy._core", b"numpy.core")
    else:  # names carry their length, the frame its own
        start = data.index(b"\x8c\x13numpy._core.numeric")
        data = data[:2] + data[11:start] + b"\x8c\x12numpy.core.numeric" + data[start + 21 :]
    found = load_plain_pickle(stored(tmp_path, data))
    np.testing.assert_array_equal(found["embeddings"], VECTORS)


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [False, True])
def test_nothing_is_run(tmp_path: Path, protocol: int, inside: bool) -> None:
    import builtins
    import os
    import subprocess

    witness = tmp_path / "witness"
    hostile = [
        Calls(os.system, f"touch {witness}"),
        Calls(subprocess.check_call, ["touch", str(witness)]),
        Calls(builtins.eval, f"open({str(witness)!r}, 'w')"),
        Calls(builtins.exec, f"open({str(witness)!r}, 'w')"),
        Calls(builtins.getattr, "x", "join"),
        Calls(open, str(witness), "w"),
        Calls(np.fromfile, str(witness)),
        Calls(np.save, str(witness), VECTORS),
        Calls(np.load, str(witness)),
        np.add,
        np.linalg.norm,
        torch.ones(3),
        Path("/etc/passwd"),
        1j,
    ]
    for content in hostile:
        data = pickle.dumps({"paths": ["a", content]} if inside else content, protocol=protocol)
        with pytest.raises(BadPickle, match=r"refers to|not a dict"):
            load_plain_pickle(stored(tmp_path, data))
    assert not witness.exists()


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
FLOATS = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR"


@pytest.mark.parametrize(
    "array",
    [
        RECONSTRUCT,
        RECONSTRUCT + b"N" + b"b",
        RECONSTRUCT + b"(K\x01(K\x02t" + FLOATS + b"\x89C\x04abcdtb",
        RECONSTRUCT + b"(K\x01(J\xff\xff\xff\xfft" + FLOATS + b"\x89C\x04abcdtb",
        RECONSTRUCT + b"(K\x01(\x88t" + FLOATS + b"\x89C\x04abcdtb",
        RECONSTRUCT + b"(K\x01(K\x01tcnumpy\ndtype\n(X\x02\x00\x00\x00O8tR\x89]K\x01atb",
        RECONSTRUCT + b"(K\x01(K\x01tK\x07\x89C\x04abcdtb",
        b"cnumpy\ndtype\n(X\x05\x00\x00\x00f4,f4tR",
        FLOATS + b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00aNJ\xff\xff\xff\xffK\x00K\x00tb",
        b"cnumpy\nndarray\n(K\x01tR",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlbtR",
        # Writing to a stand-in itself: its state as attributes, in both spellings.
        b"cnumpy._core.numeric\n_frombuffer\n}X\x01\x00\x00\x00aK\x01sb",
        b"c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b",
        b"X\x01\x00\x00\x00aQ",
        b"\x82\x01",
    ],
)
def test_forged_arrays(tmp_path: Path, array: bytes) -> None:
    data = b"\x80\x04}X\x01\x00\x00\x00a" + array + b"s."
    with pytest.raises(BadPickle):
        load_plain_pickle(stored(tmp_path, data))
    test_lists_of_arrays_and_numpy_strings(tmp_path, 2)


def test_damaged_files(tmp_path: Path) -> None:
    data = pickle.dumps({"paths": ["a"], "embeddings": VECTORS})
    for cut in range(0, len(data) - 1, 7):
        with pytest.raises(BadPickle):
            load_plain_pickle(stored(tmp_path, data[:cut]))
    with pytest.raises(BadPickle, match="cannot be read"):
        load_plain_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(BadPickle, match="not a dict"):
        load_plain_pickle(stored(tmp_path, pickle.dumps([1])))
