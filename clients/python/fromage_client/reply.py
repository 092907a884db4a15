"""What the server answers, typed. Keys this version doesn't know are left out, not refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .images import ImageRef
from .rich import Figure, Rich

Json = Mapping[str, Any]
Record = TypeVar("Record")


@dataclass(frozen=True)
class TextPart:
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True)
class ImagePart:
    """The image that the `ret_index`-th [RET] brought, and the next best ones."""

    ret_index: int
    image: ImageRef
    alternatives: tuple[ImageRef, ...] = ()
    query_embedding: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, data: Json, server: str) -> ImagePart:
        return cls(
            ret_index=data["ret_index"],
            image=ImageRef.from_json(data["image"], server),
            alternatives=image_refs(data.get("alternatives", ()), server),
            query_embedding=_vector(data.get("query_embedding")),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "image",
            "ret_index": self.ret_index,
            "image": self.image.to_json(),
            "alternatives": [row.to_json() for row in self.alternatives],
        }


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Usage:
    """Tokens and images of one reply; `dropped_turns` is what truncation left out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    images_in: int = 0
    images_out: int = 0
    dropped_turns: int = 0


@dataclass(frozen=True)
class Timings:
    """Milliseconds: waiting for a place, to the first token, in all."""

    queue_ms: float
    ttft_ms: float | None
    total_ms: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability; `top` holds the likeliest ones at its place."""

    token_id: int
    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()

    @classmethod
    def from_json(cls, data: Json) -> TokenLogprob:
        top = tuple(cls.from_json(row) for row in data.get("top", ()))
        return cls(data["token_id"], data["token"], data["logprob"], top)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the JSON answer and the last event of a stream have in common."""

    finish_reason: str
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Reply(Ending, Rich):
    """A reply: text and images in the order they were generated.

    In a notebook it shows itself with its pictures; `show()` and `print` show it anywhere.
    """

    id: str
    model: str
    content: tuple[Part, ...]

    @classmethod
    def from_json(cls, data: Json, server: str) -> Reply:
        content = data["message"]["content"] if "message" in data else data["content"]
        parts = tuple(part_from_json(part, server) for part in content)
        return cls(id=data["id"], model=data["model"], content=parts, **ending(data))

    @property
    def text(self) -> str:
        """The text without the images."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images shown, without their alternatives."""
        return tuple(part.image for part in self.content if isinstance(part, ImagePart))

    @property
    def message(self) -> dict[str, Any]:
        """This reply as a message of the history, to be sent back with the next one."""
        return assistant_message(self.content)

    def _pieces(self) -> Iterable[str | Figure]:
        return pieces(self.content)


@dataclass(frozen=True)
class Retrieval(Rich):
    """The ranked images for a context, best first. A notebook shows them with their scores."""

    images: tuple[ImageRef, ...]
    query_embedding: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, data: Json, server: str) -> Retrieval:
        return cls(image_refs(data["images"], server), _vector(data.get("query_embedding")))

    def _pieces(self) -> Iterable[str | Figure]:
        return [image.figure() for image in self.images]


@dataclass(frozen=True)
class Score:
    """The natural log-likelihood of one text after its context; the mean is per token."""

    log_likelihood: float
    mean_log_likelihood: float
    tokens: int


@dataclass(frozen=True)
class BundleInfo:
    """What stands behind a model's name: the frozen pair, and how it is run.

    `context` in tokens, `soft_tokens` for each image; `numbers` is the type computed with.
    """

    language_model: str
    architecture: str
    vision_encoder: str
    context: int
    soft_tokens: int
    shared_dim: int
    device: str
    numbers: str


@dataclass(frozen=True)
class ModelInfo:
    """`created` is Unix time in seconds."""

    id: str
    created: int
    owned_by: str
    bundle: BundleInfo

    @classmethod
    def from_json(cls, data: Json) -> ModelInfo:
        return record(cls, {**data, "bundle": record(BundleInfo, data["bundle"])})


@dataclass(frozen=True)
class CollectionInfo:
    """`size` in images, `dim` of its vectors.

    `default` marks the one that is searched where none is named, `writable` one whose images can be
    added, changed and deleted, `droppable` one that can be dropped. Times are Unix time in seconds.
    """

    name: str
    size: int
    dim: int
    default: bool
    writable: bool
    droppable: bool
    created_at: int
    changed_at: int


def assistant_message(parts: Iterable[Part]) -> dict[str, Any]:
    """What an assistant said, whole or cut off, as a message of the history."""
    return {"role": "assistant", "content": [part.to_json() for part in parts]}


def record(kind: type[Record], data: Json) -> Record:
    """The dataclass `kind` from the keys of `data` that it has."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in data.items() if name in names})


def ending(data: Json) -> dict[str, Any]:
    """The fields of `Ending`, from the JSON that holds them."""
    ids = data.get("token_ids")
    return {
        "finish_reason": data["finish_reason"],
        "usage": record(Usage, data["usage"]),
        "timings": record(Timings, data["timings"]),
        "token_ids": None if ids is None else tuple(ids),
        "logprobs": logprobs(data),
    }


def logprobs(data: Json) -> tuple[TokenLogprob, ...] | None:
    found = data.get("logprobs")
    return None if found is None else tuple(map(TokenLogprob.from_json, found))


def part_from_json(data: Json, server: str) -> Part:
    if data["type"] == "text":
        return TextPart(data["text"])
    return ImagePart.from_json(data, server)


def image_refs(rows: Iterable[Json], server: str) -> tuple[ImageRef, ...]:
    return tuple(ImageRef.from_json(row, server) for row in rows)


def pieces(content: Iterable[Part]) -> list[str | Figure]:
    """What there is to see of a reply, whole or cut off."""
    return [part.text if isinstance(part, TextPart) else part.image.figure() for part in content]


def _vector(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
