"""Images of an evaluation's files: found in a folder, read, and turned into features."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from fromage_weights.errors import EvaluationDataInvalid
from fromage_weights.images import IMAGE_SUFFIXES, open_for_crop, open_image

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle
    from fromage_weights.vision import PreprocessMode, VisionEncoder

_log = logging.getLogger(__name__)
_BATCH = 32
_NUMBER = re.compile(r"(\d+)$")
Key = TypeVar("Key", bound=Hashable)


class ImageFolder:
    """All images below a folder, by their names."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise EvaluationDataInvalid(f"{root}: no such folder of images")
        self.root = root
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        self._by_name = {path.name: path for path in files}
        self._by_stem = {path.stem: path for path in files}
        self._by_number: dict[int, list[Path]] = {}
        for path in files:
            if found := _NUMBER.search(path.stem):
                self._by_number.setdefault(int(found[1]), []).append(path)

    def named(self, name: str, url: str | None = None) -> Path | None:
        """`name`.jpg and the like, else the file that `url` ends in."""
        return self._by_stem.get(name) or self._by_name.get(name) or self._by_url(url)

    def _by_url(self, url: str | None) -> Path | None:
        return None if url is None else self._by_name.get(url.rsplit("/", 1)[-1])

    def numbered(self, number: int) -> Path | None:
        """The file whose name ends in that number: VisualDialog_val2018_000000185565.jpg. Raises
        EvaluationDataInvalid where several do."""
        found = self._by_number.get(number, [])
        if len(found) > 1:
            names = " and ".join(path.name for path in found[:2])
            raise EvaluationDataInvalid(f"{self.root}: image {number} could be {names}")
        return found[0] if found else None


@dataclass(frozen=True)
class Features(Generic[Key]):
    """(vision_dim,) of every image that can be read: as it is ``shown`` in a prompt, and as it lies
    in an index that is ``searched``; both in the same order."""

    shown: dict[Key, Tensor]
    searched: dict[Key, Tensor]

    @classmethod
    def of(
        cls,
        loaded: LoadedBundle,
        files: Mapping[Key, Path],
        *,
        reference_compat: bool = False,
        progress: bool = False,
    ) -> Features[Key]:
        """Prepared as the server and `fromage index build` do; `reference_compat`: as the
        reference's scripts do, which squash every image. Those that cannot be read are logged by
        name and left out."""
        assert loaded.vision is not None
        bar = "images" if progress else None
        shown: PreprocessMode = loaded.bundle.config.prompt_image
        if reference_compat:
            shown = "squash"
        searched: PreprocessMode = "squash" if reference_compat else "crop"
        found = _encoded(loaded.vision, files, searched, bar)
        if shown == searched:
            return cls(found, found)
        readable = {key: files[key] for key in found}
        return cls(_encoded(loaded.vision, readable, shown, bar), found)


def _encoded(
    vision: VisionEncoder, files: Mapping[Key, Path], mode: PreprocessMode, progress: str | None
) -> dict[Key, Tensor]:
    from tqdm import tqdm

    found: dict[Key, Tensor] = {}
    waiting: list[tuple[Key, Tensor]] = []

    def encode() -> None:
        if waiting:
            rows = vision.encode(torch.stack([pixels for _, pixels in waiting]))
            found.update(zip((key for key, _ in waiting), rows, strict=True))
            waiting.clear()

    read = open_for_crop if mode == "crop" else open_image
    bar = tqdm(files.items(), desc=progress, unit=" images", disable=progress is None)
    for key, file in bar:
        try:
            pixels = vision.preprocess(read(file.read_bytes()), mode)
        except (OSError, ValueError) as error:
            _log.warning("left out: %s (%s)", file, error)
            continue
        waiting.append((key, pixels))
        if len(waiting) == _BATCH:
            encode()
    encode()
    return found


def read_json(file: Path) -> Any:
    """Raises EvaluationDataInvalid for what is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise EvaluationDataInvalid(f"{file}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise EvaluationDataInvalid(f"{file}: {error}") from error


@contextmanager
def expecting(file: Path, what: str) -> Iterator[None]:
    """What goes wrong while the content is taken apart means that it is something else."""
    try:
        yield
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise EvaluationDataInvalid(
            f"{file}: not {what} ({type(error).__name__}: {error})"
        ) from error


def present(files: Iterable[tuple[Key, Path | None]]) -> dict[Key, Path]:
    return {key: file for key, file in files if file is not None}
