"""Shards of a webdataset: members of a tar that share a stem are a pair."""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fromage_weights.errors import TrainingDataInvalid
from fromage_weights.fingerprint import digest_of_rows
from fromage_weights.images import IMAGE_SUFFIXES

_TEXTS = (".txt", ".caption")


@dataclass
class _Pair:
    """What was found of one; an image is (offset, size) within the shard."""

    shard: int
    stem: str
    text: str | None = None
    told: str | None = None
    image: tuple[int, int] | None = None

    @property
    def caption(self) -> str | None:
        """A text of its own goes before what the JSON tells."""
        return self.text or self.told


class TarShards:
    """Members are found by one pass over the headers and then read at their offsets, so a source
    can be entered anywhere; compressed tars cannot, and are refused.

    A pair's stem is the name without its last suffix. Where that leaves an image and a caption
    alone, they belong together if their names agree up to the first dot, as webdataset has it.
    What stays alone is a pair that cannot be read: whoever reads it is told why.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = list(shards)
        self._pairs: list[_Pair] = []
        for number, shard in enumerate(self._shards):
            try:
                self._pairs += _joined(_scan(number, shard))
            except (OSError, tarfile.TarError) as error:
                raise TrainingDataInvalid(
                    f"{shard}: not a whole, uncompressed tar ({error}); make or fetch it again"
                ) from error
        if not any(pair.caption and pair.image for pair in self._pairs):
            raise TrainingDataInvalid(
                f"{self._shards[0].parent}: no image with a caption (.txt or .json) under the "
                "same stem in its tars"
            )
        names = [shard.name for shard in self._shards]
        self.fingerprint = digest_of_rows(
            [names, [(p.shard, p.stem, p.caption, p.image) for p in self._pairs]]
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def key(self, index: int) -> str:
        pair = self._pairs[index]
        return f"{self._shards[pair.shard].name}:{pair.stem}"

    def caption(self, index: int) -> str:
        return self._pairs[index].caption or ""

    def image(self, index: int) -> bytes:
        pair = self._pairs[index]
        if pair.image is None:
            raise OSError("there is no image beside its caption")
        offset, size = pair.image
        with self._shards[pair.shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _scan(number: int, shard: Path) -> list[_Pair]:
    """All stems that have an image or a caption, in the tar's order."""
    found: list[_Pair] = []
    latest: dict[str, _Pair] = {}
    for member, data in _members(shard):
        path = PurePosixPath(member.name)
        suffix = path.suffix.lower()
        kind = "image" if suffix in IMAGE_SUFFIXES else "text" if suffix in _TEXTS else "told"
        stem = str(path.with_suffix(""))
        pair = latest.get(stem)
        if pair is None or getattr(pair, kind) is not None:  # a stem that comes again is another
            pair = latest[stem] = _Pair(number, stem)
            found.append(pair)
        if kind == "image":
            pair.image = (member.offset_data, member.size)
        else:
            setattr(pair, kind, _caption(suffix, data))
    return [pair for pair in found if pair.image or pair.caption is not None]


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Images, and captions with their content. Raises TarError where the file does not end as a
    tar does; `tarfile` takes what it cannot read for the end."""
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            suffix = PurePosixPath(member.name).suffix.lower()
            if not member.isfile() or suffix not in (*IMAGE_SUFFIXES, *_TEXTS, ".json"):
                continue
            file = None if suffix in IMAGE_SUFFIXES else archive.extractfile(member)
            yield member, b"" if file is None else file.read()
        end = archive.offset
    with shard.open("rb") as raw:
        raw.seek(end)
        if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"cut off or damaged at byte {end:,}")


def _caption(suffix: str, data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    if suffix in _TEXTS:
        return text
    try:
        told = json.loads(text)
    except ValueError:
        return ""
    found = told.get("caption") if isinstance(told, dict) else None
    # JSON can spell halves of characters, which no tokenizer takes.
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""


def _joined(pairs: list[_Pair]) -> list[_Pair]:
    """With images and captions put together that are alone under their whole stem."""
    alone: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.image is None or not pair.caption:
            folder, _, name = pair.stem.rpartition("/")
            alone[f"{folder}/{name.partition('.')[0]}"].append(pair)
    gone: set[int] = set()
    for parts in alone.values():
        images = [part for part in parts if part.image is not None]
        captions = [part for part in parts if part.caption]
        if len(images) == len(captions) == 1:
            images[0].text = captions[0].caption
            gone.add(id(captions[0]))
    return [pair for pair in pairs if id(pair) not in gone]
