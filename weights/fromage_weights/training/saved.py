"""A Hugging Face `datasets` directory on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromage_weights.errors import TrainingDataInvalid, one_line
from fromage_weights.fingerprint import digest_of_rows

_CAPTION_KEYS = ("caption", "text", "txt", "sentence", "captions")


class HubDataset:
    """The column of images is the one of that type (or named `image`: bytes, or paths), the
    captions' the first of caption, text, sentence … that is there; a list of captions gives its
    first."""

    def __init__(self, directory: Path) -> None:
        loaded = _load(directory)
        from datasets import Dataset, Image

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
        self._rows: Any = loaded.cast_column(image, Image(decode=False)) if typed else loaded
        self._captions: Any = loaded.select_columns([caption])
        self.fingerprint = digest_of_rows([str(loaded._fingerprint), len(loaded)])

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return f"{self._directory.name}:{index}"  # paths in it may be missing, or all the same

    def caption(self, index: int) -> str:
        found = self._captions[index][self._caption]
        if isinstance(found, list):
            found = found[0] if found else None
        return "" if found is None else str(found)

    def image(self, index: int) -> bytes:
        value = self._value(index)
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value.get("path") is None:
            raise OSError("its row has no image")
        return Path(value["path"]).read_bytes()

    def _value(self, index: int) -> dict[str, Any]:
        value = self._rows[index][self._image]
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
