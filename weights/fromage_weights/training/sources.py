"""Images with captions, as people have them, read by position.

TsvFolder     a TSV with the columns `caption` and `image`, and the folder its paths are relative to
              (the reference's form)
TarShards     .tar files as img2dataset and webdataset write them: members that share a stem
HubDataset    a Hugging Face `datasets` directory on disk (`save_to_disk`)

Nothing is decoded here: a source gives bytes, and what cannot be read is found when they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.fingerprint import digest_of_rows
from fromage_weights.training.saved import HubDataset
from fromage_weights.training.tables import TsvFolder
from fromage_weights.training.tars import TarShards


class CaptionSource(Protocol):
    """Pairs 0 to len - 1, always in the same order. A pair of which a part is missing has an empty
    caption, or an image that cannot be had."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The image's name, for logs."""
        ...

    def caption(self, index: int) -> str: ...

    def image(self, index: int) -> bytes:
        """The file's bytes. Raises OSError where they cannot be had."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells whether a source is the one a cache was made from."""
        ...


def open_source(data: Path, images: Path | None = None) -> CaptionSource:
    """By what `data` is: a .tsv file, a .tar file, a folder of .tar files, or a saved dataset.

    Raises TrainingDataInvalid, which says what was expected.
    """
    if data.suffix.lower() == ".tsv":
        return TsvFolder(data, images if images is not None else data.parent)
    if not data.exists():
        raise TrainingDataInvalid(f"{data}: no such file or directory")
    if images is not None:
        raise TrainingDataInvalid(
            f"{data}: an image folder goes with a .tsv file (tabs between its columns) only"
        )
    if data.suffix.lower() == ".tar" and data.is_file():
        return TarShards([data])
    if data.is_dir() and (shards := sorted(f for f in data.glob("*.tar") if f.is_file())):
        return TarShards(shards)
    if any((data / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return HubDataset(data)
    raise TrainingDataInvalid(
        f"{data}: expected a .tsv file (columns caption and image), .tar shards of a webdataset, "
        "or a directory that `datasets.save_to_disk` wrote"
    )


class Limited:
    """The first `count` pairs of a source."""

    def __init__(self, source: CaptionSource, count: int) -> None:
        self._source, self._count = source, min(count, len(source))
        self.fingerprint = digest_of_rows([source.fingerprint, self._count])

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return self._source.key(index)

    def caption(self, index: int) -> str:
        return self._source.caption(index)

    def image(self, index: int) -> bytes:
        return self._source.image(index)
