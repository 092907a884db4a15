"""A table of captions and paths, and the folder where the paths begin."""

from __future__ import annotations

import csv
from pathlib import Path

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.fingerprint import digest_of_rows


class TsvFolder:
    """`caption` and `image` are columns of the header line; others are passed over. One line, one
    pair: a quote that opens and does not close is a quote, and takes no further line with it."""

    def __init__(self, table: Path, images: Path) -> None:
        self._root = images
        if not images.is_dir():
            raise TrainingDataInvalid(f"{images}: no such folder of images")
        try:
            # Excel begins UTF-8 files with a byte order mark.
            with table.open(encoding="utf-8-sig", newline="") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingDataInvalid(f"{table}: {error}") from error
        header, *lines = [line.removesuffix("\r") for line in text.split("\n")]
        columns = _cells(header)
        if not {"caption", "image"} <= set(columns) or not any(lines):
            raise TrainingDataInvalid(
                f"{table}: expected a header line with the columns caption and image, and rows; "
                f"found the columns {', '.join(columns)} and {sum(map(bool, lines)):,} rows"
            )
        caption, image = columns.index("caption"), columns.index("image")
        rows = [_cells(line) for line in lines if line]
        self._rows = [(_cell(row, caption), _cell(row, image)) for row in rows]
        self.fingerprint = digest_of_rows([str(images.resolve()), self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return self._rows[index][1]

    def caption(self, index: int) -> str:
        return self._rows[index][0]

    def image(self, index: int) -> bytes:
        if not self.key(index):
            raise OSError("its row names no image")
        return (self._root / self.key(index)).read_bytes()


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split("\t")
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:  # quotes that are a part of the caption
        return line.split("\t")


def _cell(row: list[str], column: int) -> str:
    return row[column] if column < len(row) else ""
