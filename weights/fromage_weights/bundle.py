"""A bundle: a directory that names the frozen pair and holds the mappers.

bundle.json           validated and versioned, everything that is not a tensor
mappers.safetensors   the trained tensors
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fromage_weights.errors import BundleInvalid, BundleNotFound, DamagedFile
from fromage_weights.mappers import FILE_NAME, Mappers, file_sha256
from fromage_weights.tokenizer import TokenizerRules

CONFIG_NAME = "bundle.json"
FORMAT_VERSION = 1
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FrozenModel(_Strict):
    """``id``: a hub id, an open_clip MODEL/PRETRAINED name, an absolute path, or a path that starts
    with "./" and is relative to the bundle. ``hash``: fingerprint of its weights. ``files``: the
    SHA-256 of every file of a model that lies inside the bundle; the fingerprint is a sample."""

    id: str = Field(min_length=1)
    hash: Sha256
    files: dict[str, Sha256] = {}

    @field_validator("id")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if value.startswith("./") and ".." in PurePosixPath(value).parts:
            raise ValueError("must not lead out of the bundle")
        return value

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name} leads out of the model's directory")
        return value


class ChatTemplate(_Strict):
    """How a message of each role becomes text; "{content}" stands for its text."""

    system: str = "{content}\n"
    user: str = "Q: {content}\nA:"
    assistant: str = " {content}\n"
    image: str = "{image}"
    image_position: Literal["inline", "before"] = "inline"

    @property
    def image_frame(self) -> tuple[str, str]:
        """What stands before and behind an image."""
        opening, _, closing = self.image.partition("{image}")
        return opening, closing

    @field_validator("system", "user", "assistant")
    @classmethod
    def _has_content(cls, value: str) -> str:
        if value.count("{content}") != 1:
            raise ValueError("must contain {content} exactly once")
        return value

    @field_validator("image")
    @classmethod
    def _has_image(cls, value: str) -> str:
        if value.count("{image}") != 1:
            raise ValueError("must contain {image} exactly once")
        return value


class BundleConfig(_Strict):
    format_version: Literal[1] = 1
    name: str = Field(min_length=1)
    lm: FrozenModel
    vision: FrozenModel
    vision_dim: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    hidden_dim: int = Field(ge=1)
    tied_head: bool
    n_visual_tokens: int = Field(ge=1)
    shared_dim: int = Field(ge=1)
    text_emb_layers: tuple[int, ...] = Field(min_length=1)
    ret_token: str = Field(default="[RET]", min_length=1)
    tokenizer_rules: TokenizerRules = "plain"
    chat_template: ChatTemplate = ChatTemplate()
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    # The model was trained on replies that end with their picture.
    stop_after_ret: bool = False
    prompt_image: Literal["squash", "crop"] = "crop"
    mappers_sha256: Sha256

    def new_mappers(self) -> Mappers:
        """Untrained mappers of this bundle's dimensions."""
        return Mappers(
            self.vision_dim,
            self.embed_dim,
            self.hidden_dim,
            self.n_visual_tokens,
            self.shared_dim,
            self.text_emb_layers,
            self.tied_head,
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle read from ``path``."""

    path: Path
    config: BundleConfig
    mappers: Mappers

    @property
    def hash(self) -> str:
        """Identifies everything that decides where an image lies in the shared space."""
        parts = f"{self.config.vision.hash}:{self.config.mappers_sha256}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def frozen_source(self, model: FrozenModel) -> str:
        """What to load: relative ids are looked up in the bundle's directory."""
        return str(self.path / model.id) if model.id.startswith("./") else model.id

    def check_files(self, model: FrozenModel) -> None:
        """Raises DamagedFile where a file of a model inside the bundle is not what it was."""
        for name, expected in model.files.items():
            file = self.path / model.id / name
            if not file.is_file():
                raise DamagedFile(file, "the file is missing")
            if (found := file_sha256(file)) != expected:
                raise DamagedFile(file, f"SHA-256 is {found}, {CONFIG_NAME} expects {expected}")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Raises BundleNotFound, BundleInvalid or DamagedFile."""
        path = Path(path)
        config = _read_config(path)
        file = path / FILE_NAME
        mappers = config.new_mappers()
        mappers.load(file)
        found = file_sha256(file)
        if found != config.mappers_sha256:
            raise DamagedFile(
                file, f"SHA-256 is {found}, {CONFIG_NAME} expects {config.mappers_sha256}"
            )
        return cls(path, config, mappers)


def save_bundle(
    path: Path,
    mappers: Mappers,
    *,
    name: str,
    lm: FrozenModel,
    vision: FrozenModel,
    **settings: object,
) -> Bundle:
    """Write both files; ``settings`` are the remaining keys of BundleConfig. Models inside the
    bundle must be there already: their files' checksums are noted."""
    path.mkdir(parents=True, exist_ok=True)
    config = BundleConfig.model_validate(
        {
            "name": name,
            "lm": _with_files(path, lm),
            "vision": _with_files(path, vision),
            "vision_dim": mappers.vision_dim,
            "embed_dim": mappers.embed_dim,
            "hidden_dim": mappers.hidden_dim,
            "tied_head": mappers.tied,
            "n_visual_tokens": mappers.n_visual_tokens,
            "shared_dim": mappers.shared_dim,
            "text_emb_layers": mappers.text_emb_layers,
            "mappers_sha256": mappers.save(path / FILE_NAME),
            **settings,
        }
    )
    (path / CONFIG_NAME).write_text(json_of(config), encoding="utf-8")
    return Bundle(path, config, mappers)


def json_of(config: BundleConfig) -> str:
    """What stands in ``CONFIG_NAME``."""
    return config.model_dump_json(indent=2) + "\n"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files in a model's folder, by their names there; none of hidden ones."""
    names = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    return {
        name.as_posix(): file_sha256(folder / name)
        for name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def _with_files(path: Path, model: FrozenModel) -> FrozenModel:
    if not model.id.startswith("./"):
        return model
    return model.model_copy(update={"files": checksums(path / model.id)})


def _read_config(path: Path) -> BundleConfig:
    file = path / CONFIG_NAME
    if not file.is_file():
        raise BundleNotFound(f"{path}: no bundle here ({CONFIG_NAME} is missing)")
    data = file.read_bytes()
    _check_version(file, data)
    try:
        return BundleConfig.model_validate_json(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}"
            for item in error.errors()
        )
        raise BundleInvalid(file, problems) from error


def _check_version(file: Path, data: bytes) -> None:
    """Said before the keys are looked at, which another version has others of."""
    try:
        told = json.loads(data)
    except ValueError:
        return
    version = told.get("format_version", FORMAT_VERSION) if isinstance(told, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleInvalid(
            file,
            f"a bundle of format {version}, this program reads {FORMAT_VERSION}: "
            "it takes a newer fromage-server",
        )
