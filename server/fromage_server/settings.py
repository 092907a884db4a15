"""The server's settings: flags, then FROMAGE_* variables, then a TOML file, then the defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator

from fromage_index import names
from fromage_server.errors import SettingsError
from fromage_server.schema.completions import ImageDelivery

PREFIX: Final = "FROMAGE_"
CONFIG_KEY: Final = "config"
# Read by the test suite and the client, not by the server.
_NOT_SETTINGS: Final = frozenset({"FROMAGE_REQUIRE", "FROMAGE_REFERENCE", "FROMAGE_SERVER"})


def default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromage"


class Settings(BaseModel):
    """Built once, passed down, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field(default="demo", min_length=1, description="demo, a directory, or a hub id")
    collections: dict[str, Path] = Field(
        default_factory=dict, description="collections to search, NAME=DIR; the first is default"
    )
    images: dict[str, Path] = Field(
        default_factory=dict, description="folders of images to index at first start, NAME=FOLDER"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="numbers to compute with: auto, float32, bfloat16 or float16"
    )
    quantize: Literal["none", "int8", "int4"] = Field(
        default="none",
        description="hold the language model's weights in: int8, int4, or none for dtype",
    )
    tensor_parallel: int = Field(
        default=1,
        ge=1,
        le=64,
        description="GPUs that share the language model (processes, on a CPU)",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir, description="where built collections are kept"
    )
    collections_dir: Path | None = Field(
        default=None,
        description="where collections made over HTTP are kept, and found again at the next start "
        "(default: created, in the cache directory)",
    )
    read_only: bool = Field(default=False, description="refuse every change of the collections")
    max_batch: int = Field(default=8, ge=1, le=1024, description="sequences decoded together")
    max_queue: int = Field(default=64, ge=1, le=100_000, description="requests that may wait")
    max_context: int | None = Field(
        default=None,
        ge=16,
        description="longest prompt and reply, in tokens (default: the model's)",
    )
    prefill_tokens: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="prompt tokens computed in one step, at most (default: 512, on a GPU 2,048)",
    )
    kv_cache_bytes: ByteSize | None = Field(
        default=None,
        ge=1,
        description="memory for keys and values, such as 4GiB (default: what max_batch whole "
        "contexts need, within the free memory)",
    )
    deterministic: bool = Field(
        default=False,
        description="a reply does not depend on what else runs; slower, no prefix cache",
    )
    max_body_mib: int = Field(default=32, ge=1, le=1024, description="largest request body")
    upload_ttl_s: int = Field(default=3600, ge=1, description="seconds for which an upload is kept")
    upload_store_mib: int = Field(
        default=256, ge=1, description="memory for uploads, the oldest go first"
    )
    image_delivery: ImageDelivery = Field(
        default="both",
        description="how /v1/chat/completions brings pictures: field, markdown, both or none",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="address that clients reach the server at, in front of the pictures' paths in "
        "/v1/chat/completions (default: what the request says)",
    )
    keepalive_s: float = Field(
        default=15.0, gt=0, description="seconds of silence before a keep-alive"
    )
    shutdown_s: int = Field(
        default=30, ge=1, description="seconds that running replies get when the server is stopped"
    )

    @property
    def created_collections(self) -> Path:
        """Where collections made over HTTP are kept."""
        return self.collections_dir or self.cache_dir / "created"

    @field_validator("collections", "images", mode="before")
    @classmethod
    def _named_paths(cls, value: object) -> object:
        if isinstance(value, str):
            value = [item for item in value.split(",") if item.strip()]
        if isinstance(value, list):
            return dict(_named_path(item) for item in value)
        return value

    @field_validator("collections", "images")
    @classmethod
    def _plain_names(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name in value:
            if not names.is_name(name):
                raise ValueError(f"{name!r} is not a name: it has {names.RULE}")
        return value


def _named_path(item: object) -> tuple[str, str]:
    name, equals, path = str(item).partition("=")
    if not (equals and name.strip() and path.strip()):
        raise ValueError(f"{item!r} is not NAME=PATH")
    return name.strip(), path.strip()


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """``flags`` by setting name, None where not given. Raises SettingsError naming the source."""
    variables = _from_environment(environ)
    config = flags.get(CONFIG_KEY) or variables.pop(CONFIG_KEY, None)
    variables.pop(CONFIG_KEY, None)
    file = _from_file(Path(config)) if config else {}
    given = {key: value for key, value in flags.items() if value is not None and key != CONFIG_KEY}
    sources = {
        **{key: f"{config}: {key}" for key in file},
        **{key: PREFIX + key.upper() for key in variables},
        **{key: "--" + key.replace("_", "-") for key in given},
    }
    try:
        return Settings(**{**file, **variables, **given})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(item, sources) for item in error.errors())) from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An empty variable counts as not set: that is how compose files pass on what isn't there."""
    found: dict[str, str] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
            continue
        key = name.removeprefix(PREFIX).lower()
        if key != CONFIG_KEY and key not in Settings.model_fields:
            raise SettingsError(f"{name} is not a setting; there are {_names(PREFIX)}")
        if value:
            found[key] = value
    return found


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    for key in table:
        if key not in Settings.model_fields:
            raise SettingsError(f"{path}: {key} is not a setting; there are {_names('')}")
    return table


def _names(prefix: str) -> str:
    names = sorted(Settings.model_fields)
    return ", ".join(prefix + (name.upper() if prefix else name) for name in names)


def _explain(item: Any, sources: Mapping[str, str]) -> str:
    field = str(item["loc"][0])
    message = item["msg"].removeprefix("Value error, ")
    return f"{sources.get(field, field)} = {item['input']!r}: {message}"
