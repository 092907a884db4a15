"""Metadata beside a folder of images: metadata.jsonl or metadata.csv.

Each line names its image by relative path, in `file_name` (the Hugging Face image-folder
convention) or `path`; everything else on the line is the image's metadata.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fromage_index.errors import BadMetadata
from fromage_index.plain_json import parse
from fromage_index.record import Metadata

SIDECARS = ("metadata.jsonl", "metadata.csv")
_NAMES = ("file_name", "path")
# What a number looks like when writing it back gives the same text: a code like 007 is none.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?")


def read_sidecar(folder: Path) -> dict[str, Metadata]:
    """Relative path to metadata, empty without a sidecar; raises BadMetadata."""
    found = [folder / name for name in SIDECARS if (folder / name).is_file()]
    if len(found) > 1:
        raise BadMetadata(f"{folder} has both {' and '.join(SIDECARS)}; keep one")
    if not found:
        return {}
    return read_metadata_file(found[0])


def read_metadata_file(file: Path) -> dict[str, Metadata]:
    """Relative path to metadata, of a .jsonl or .csv file; raises BadMetadata."""
    lines = _jsonl(file) if file.suffix == ".jsonl" else _csv(file)
    metadata: dict[str, Metadata] = {}
    for number, fields in lines:
        name = next((fields.pop(name) for name in _NAMES if name in fields), None)
        if not isinstance(name, str) or not name:
            raise BadMetadata(
                f"{file}, line {number}: there is no {' or '.join(_NAMES)} to name the image"
            )
        metadata[PurePosixPath(name).as_posix()] = fields
    return metadata


def _jsonl(file: Path) -> Iterator[tuple[int, Metadata]]:
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = _read(line)
        except ValueError as error:
            raise BadMetadata(f"{file}, line {number}: {error}") from error
        if not isinstance(fields, dict):
            raise BadMetadata(f"{file}, line {number}: a JSON object was expected")
        yield number, fields


def _read(line: str) -> Any:
    """Raises ValueError also for what could not be written again."""
    content = parse(line)
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    except ValueError:
        raise ValueError("NaN and infinite numbers are not JSON") from None
    return content


def _csv(file: Path) -> Iterator[tuple[int, Metadata]]:
    """Empty cells are absent; a column of numbers only becomes numbers."""
    try:
        rows = list(csv.DictReader(_text(file).splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise BadMetadata(f"{file}: {error}") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise BadMetadata(f"{file}, row {number}: another number of cells than the first row")
    columns = [column for column in (rows[0] if rows else {}) if column not in _NAMES]
    numeric = {c for c in columns if all(_NUMBER.fullmatch(row[c]) for row in rows if row[c])}
    for number, row in enumerate(rows, 2):
        yield (
            number,
            {c: json.loads(v) if c in numeric else v for c, v in row.items() if v != ""},
        )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMetadata(f"{file} cannot be read as UTF-8: {error}") from error
