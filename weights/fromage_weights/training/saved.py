"""A Hugging Face `datasets` directory on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fromage_weights.errors import TrainingDataInvalid, one_line
from fromage_weights.fingerprint import digest_of_rows

_CAPTION_KEYS = ("caption", "text", "txt", "sentence", "captions")


class HubDataset:
    """The column of images is the one of that type (or named `image`: bytes, or paths), the
    captions' the first of caption, text, sentence … that is there; a list of captions makes as many
    pairs."""

    def __init__(self, directory: Path) -> None:
        loaded = _load(directory)
        from datasets import Dataset, Image, Value

        if not isinstance(loaded, Dataset):
            raise TrainingDataInvalid(
                f"{directory}: holds the splits {', '.join(loaded)}; name the directory of one"
            )
        columns = loaded.column_names
        typed = [name for name in columns if isinstance(loaded.features[name], Image)]
        image = typed[0] if typed else "image"
        caption = next((name for name in _CAPTION_KEYS if name in columns), None)
        if image not in columns or caption is None or not len(loaded):
            raise TrainingDataInvalid(
                f"{directory}: expected rows, with a column of images and one of "
                f"{', '.join(_CAPTION_KEYS)}; found {len(loaded):,} of {', '.join(columns)}"
            )
        self._image, self._caption, self._directory = image, caption, directory
        # Other columns are not read, and not in the way in which they may have been set to be.
        images = loaded.with_format(None).select_columns([image])
        self._rows: Any = images.cast_column(image, Image(decode=False)) if typed else images
        self._captions: Any = loaded.with_format(None).select_columns([caption])
        single = isinstance(loaded.features[caption], Value)
        self._starts = np.cumsum([0, *([1] * len(loaded) if single else self._counts())])
        self.fingerprint = digest_of_rows([str(loaded._fingerprint), len(self)])

    def _counts(self) -> list[int]:
        """How many pairs each row of several captions makes: without any, one that cannot be
        read."""
        parts = self._captions.iter(batch_size=1000)
        return [max(1, len(found or ())) for part in parts for found in part[self._caption]]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def key(self, index: int) -> str:
        # Paths in it may be missing, or all the same.
        return f"{self._directory.name}:{self._place(index)[0]}"

    def caption(self, index: int) -> str:
        row, number = self._place(index)
        found = self._captions[row][self._caption]
        if isinstance(found, list):
            found = found[number] if found else None
        return "" if found is None else str(found)

    def image(self, index: int) -> bytes:
        value = self._value(self._place(index)[0])
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value.get("path") is None:
            raise OSError("its row has no image")
        return Path(value["path"]).read_bytes()

    def _place(self, index: int) -> tuple[int, int]:
        """The row, and which of its captions."""
        row = int(np.searchsorted(self._starts, index, side="right")) - 1
        return row, index - int(self._starts[row])

    def _value(self, row: int) -> dict[str, Any]:
        value = self._rows[row][self._image]
        if isinstance(value, dict):
            return value
        return {"path": value} if isinstance(value, str) else {"bytes": value}


def _load(directory: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise TrainingDataInvalid(
            f"{directory}: reading it takes the `datasets` library; install fromage-server[train]"
        ) from error
    try:
        return load_from_disk(str(directory))
    except Exception as error:  # it lets through what JSON, Arrow and the file system raise
        raise TrainingDataInvalid(f"{directory}: not readable ({one_line(error)})") from error
