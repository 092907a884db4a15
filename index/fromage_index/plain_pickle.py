"""Reads a pickle of arrays, lists, dicts, strings and numbers without running anything in it.

Pickles name functions to call. Here every name leads to a stand-in of this module that only
notes its arguments; numpy's own constructors, which trust what they are given, never see the
file's bytes. Covers protocols 0 to 5 and the module paths of numpy 1 and 2.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fromage_index.errors import BadPickle

_TYPE = re.compile(r"(f[248]|[iu][1248]|b1|U\d{1,6}|S\d{1,6})")


def load_plain_pickle(file: Path) -> dict[str, Any]:
    """The dict in `file`; values that are arrays or lists of arrays come as numpy's.

    Raises BadPickle.
    """
    try:
        with file.open("rb") as opened:
            loaded = _PlainUnpickler(opened).load()
        if not isinstance(loaded, dict):
            raise BadPickle(f"it holds a {type(loaded).__name__}, not a dict")
        return {key: _resolve(value) for key, value in loaded.items()}
    except BadPickle as error:
        raise BadPickle(f"{file}: {error}") from error
    except OSError as error:
        raise BadPickle(f"{file} cannot be read ({error.strerror})") from error
    except Exception as error:  # a hostile or damaged stream may end in any of them
        raise BadPickle(f"{file} is not a pickle that can be read ({error})") from error


def _resolve(value: Any) -> Any:
    if isinstance(value, list):
        return [_resolve_one(item) for item in value]
    return _resolve_one(value)


def _resolve_one(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise BadPickle("it holds an array without content")
        return value.array
    return value


class _StandIn:
    """Without its own __setstate__ a class could be written to from the file."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise BadPickle("it sets the state of something that is no array")


class _Dtype(_StandIn):
    """numpy.dtype: a plain type in one of the two byte orders."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not _TYPE.fullmatch(code):
            raise BadPickle(f"it holds an array of type {code!r}; numbers and strings are read")
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        _version, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
            raise BadPickle("it holds an array of records; numbers and strings are read")
        self._order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _ArrayType(_StandIn):
    """numpy.ndarray, which is only ever passed on."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        raise BadPickle("it calls numpy.ndarray, which no saved array does")


class _Array(_StandIn):
    """numpy.core.multiarray._reconstruct: an array whose content follows as its state."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, raw = state
        self.array = _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Bytes as an array, once type, shape and length agree."""
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray | str):
        raise BadPickle("it holds an array of objects; numbers and strings are read")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise BadPickle(f"it holds an array of shape {shape!r}")
    # Protocols 0 to 2 spell bytes as text.
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    kind = dtype.dtype()
    if len(data) != math.prod(shape) * kind.itemsize or order not in ("C", "F"):
        raise BadPickle(f"it holds {len(data)} bytes for an array {kind} {shape}")
    flat: NDArray[Any] = np.frombuffer(data, dtype=kind) if data else np.empty(0, kind)
    return flat.reshape(shape, order=order)


class _FromBuffer(_StandIn):
    """numpy.core.numeric._frombuffer: an array in protocol 5."""

    __slots__ = ()

    def __new__(cls, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        return _array(raw, dtype, shape, order)


class _Scalar(_StandIn):
    """numpy.core.multiarray.scalar: one number or string."""

    __slots__ = ()

    def __new__(cls, dtype: Any, raw: Any) -> Any:
        return _array(raw, dtype, (), "C").item()


class _Latin1(_StandIn):
    """_codecs.encode: how protocols 0 to 2 spell bytes."""

    __slots__ = ()

    def __new__(cls, text: Any, encoding: Any = None) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise BadPickle(f"it asks for the codec {encoding!r}")
        return text.encode("latin-1")


class _NoBytes(_StandIn):
    """bytes(): how protocols 0 to 2 spell the empty ones."""

    __slots__ = ()

    def __new__(cls) -> Any:
        return b""


_STAND_INS: dict[str, type[_StandIn]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _ArrayType,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray.scalar": _Scalar,
    "numpy._core.numeric._frombuffer": _FromBuffer,
    "_codecs.encode": _Latin1,
    "__builtin__.bytes": _NoBytes,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        numpy_module = re.sub(r"^numpy\.core\.", "numpy._core.", module)
        try:
            return _STAND_INS[f"{numpy_module}.{name}"]
        except KeyError:
            raise BadPickle(
                f"it refers to {module}.{name}; only arrays, lists, dicts, strings and numbers "
                "are read"
            ) from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise BadPickle("it refers to objects outside the file, as PyTorch's files do")
