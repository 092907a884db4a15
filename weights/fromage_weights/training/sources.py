"""Images with captions, as people have them, read by position.

TsvFolder     a TSV with the columns `caption` and `image`, and the folder its paths are relative to
              (the reference's form)
TarShards     .tar files as img2dataset and webdataset write them: members that share a stem
HubDataset    a Hugging Face `datasets` directory on disk (`save_to_disk`)

Nothing is decoded here: a source gives bytes, and what cannot be read is found when they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fromage_weights.errors import TrainingDataInvalid

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_CAPTION_KEYS = ("caption", "text", "txt", "sentence", "captions")


class CaptionSource(Protocol):
    """Pairs 0 to len - 1, always in the same order."""

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
    if data.suffix == ".tsv":
        return TsvFolder(data, images if images is not None else data.parent)
    if images is not None:
        raise TrainingDataInvalid(f"{data}: an image folder goes with a .tsv file only")
    if data.suffix == ".tar" and data.is_file():
        return TarShards([data])
    if data.is_dir() and (shards := sorted(data.glob("*.tar"))):
        return TarShards(shards)
    if (data / "state.json").is_file():
        return HubDataset(data)
    if not data.exists():
        raise TrainingDataInvalid(f"{data}: no such file or directory")
    raise TrainingDataInvalid(
        f"{data}: expected a .tsv file (columns caption and image), .tar shards of a webdataset, "
        "or a directory that `datasets.save_to_disk` wrote"
    )


def _digest(rows: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


class TsvFolder:
    def __init__(self, table: Path, images: Path) -> None:
        self._root = images
        try:
            with table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TrainingDataInvalid(f"{table}: {error}") from error
        if not rows or not {"caption", "image"} <= set(rows[0]):
            raise TrainingDataInvalid(
                f"{table}: expected a header line with the columns caption and image, and rows"
            )
        self._rows = [(str(row["caption"] or ""), str(row["image"] or "")) for row in rows]
        self.fingerprint = _digest([str(images.resolve()), self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return self._rows[index][1]

    def caption(self, index: int) -> str:
        return self._rows[index][0]

    def image(self, index: int) -> bytes:
        return (self._root / self.key(index)).read_bytes()


class TarShards:
    """Members are found by one pass over the headers and then read at their offsets, so a source
    can be entered anywhere; compressed tars cannot, and are refused."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = list(shards)
        self._rows: list[tuple[int, str, str, int, int]] = []
        for number, shard in enumerate(self._shards):
            try:
                self._scan(number, shard)
            except tarfile.TarError as error:
                raise TrainingDataInvalid(f"{shard}: not an uncompressed tar ({error})") from error
        if not self._rows:
            raise TrainingDataInvalid(
                f"{self._shards[0].parent}: no image with a caption (.txt or .json) in its tars"
            )
        names = [(shard.name, shard.stat().st_size) for shard in self._shards]
        self.fingerprint = _digest([names, len(self._rows)])

    def _scan(self, number: int, shard: Path) -> None:
        stem, caption, image = "", None, None
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                base, _, suffix = name.partition(".")
                if (found := f"{folder}/{base}" if folder else base) != stem:
                    self._keep(number, stem, caption, image)
                    stem, caption, image = found, None, None
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    image = (member.offset_data, member.size)
                elif suffix in ("txt", "caption") or (suffix == "json" and caption is None):
                    file = archive.extractfile(member)
                    assert file is not None
                    caption = _member_caption(suffix, file.read()) or caption
        self._keep(number, stem, caption, image)

    def _keep(
        self, number: int, stem: str, caption: str | None, image: tuple[int, int] | None
    ) -> None:
        if caption is not None and image is not None:
            self._rows.append((number, stem, caption, *image))

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        number, stem, *_ = self._rows[index]
        return f"{self._shards[number].name}:{stem}"

    def caption(self, index: int) -> str:
        return self._rows[index][2]

    def image(self, index: int) -> bytes:
        number, _, _, offset, size = self._rows[index]
        with self._shards[number].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _member_caption(suffix: str, data: bytes) -> str | None:
    text = data.decode("utf-8", "replace").strip()
    if suffix != "json":
        return text or None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    found = told.get("caption") if isinstance(told, dict) else None
    return found if isinstance(found, str) and found else None


class HubDataset:
    """The column of images is the one of that type (or named `image`), the captions' the first of
    caption, text, sentence … that is there; a list of captions gives its first."""

    def __init__(self, directory: Path) -> None:
        try:
            from datasets import Dataset, Image, load_from_disk
        except ImportError as error:
            raise TrainingDataInvalid(
                f"{directory}: reading it takes the `datasets` library; "
                "install fromage-server[train]"
            ) from error
        loaded = load_from_disk(str(directory))
        if not isinstance(loaded, Dataset):
            raise TrainingDataInvalid(
                f"{directory}: holds the splits {', '.join(loaded)}; name the directory of one"
            )
        columns = loaded.column_names
        typed = [name for name in columns if isinstance(loaded.features[name], Image)]
        image = typed[0] if typed else "image"
        caption = next((name for name in _CAPTION_KEYS if name in columns), None)
        if image not in columns or caption is None:
            raise TrainingDataInvalid(
                f"{directory}: expected a column of images and one of {', '.join(_CAPTION_KEYS)}; "
                f"found {', '.join(columns)}"
            )
        self._image, self._caption, self._directory = image, caption, directory
        self._rows: Any = loaded.cast_column(image, Image(decode=False)) if typed else loaded
        self._captions: Any = loaded.select_columns([caption])
        self.fingerprint = _digest([str(loaded._fingerprint), len(loaded)])

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        path = self._value(index).get("path")
        return f"{self._directory.name}:{path or index}"

    def caption(self, index: int) -> str:
        found = self._captions[index][self._caption]
        return str(found[0] if isinstance(found, list) else found)

    def image(self, index: int) -> bytes:
        value = self._value(index)
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        return Path(value["path"]).read_bytes()

    def _value(self, index: int) -> dict[str, Any]:
        value = self._rows[index][self._image]
        return value if isinstance(value, dict) else {"bytes": value, "path": None}


class Limited:
    """The first `count` pairs of a source."""

    def __init__(self, source: CaptionSource, count: int) -> None:
        self._source, self._count = source, min(count, len(source))
        self.fingerprint = _digest([source.fingerprint, self._count])

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return self._source.key(index)

    def caption(self, index: int) -> str:
        return self._source.caption(index)

    def image(self, index: int) -> bytes:
        return self._source.image(index)


def open_image(data: bytes) -> Any:
    """The first frame, upright, as RGB. Raises OSError or ValueError for what is no image."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (SyntaxError, Image.DecompressionBombError, EOFError) as error:
        raise ValueError(str(error)) from error
