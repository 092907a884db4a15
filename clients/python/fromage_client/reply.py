"""What the server answers, typed. Keys this version doesn't know are left out, not refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

Json = Mapping[str, Any]
Record = TypeVar("Record")


@dataclass(frozen=True)
class ImageRef:
    """One image of a collection. `score` is a cosine in [-1, 1]; `key` is its owner's name for it.

    `width` and `height` (pixels) are None for a row the server knows by its URL only.
    """

    id: str
    collection: str
    key: str
    url: str
    score: float | None = None
    width: int | None = None
    height: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


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
    def from_json(cls, data: Json) -> ImagePart:
        return cls(
            ret_index=data["ret_index"],
            image=record(ImageRef, data["image"]),
            alternatives=tuple(record(ImageRef, row) for row in data.get("alternatives", ())),
            query_embedding=_vector(data.get("query_embedding")),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "image",
            "ret_index": self.ret_index,
            "image": asdict(self.image),
            "alternatives": [asdict(row) for row in self.alternatives],
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
class Reply(Ending):
    """A reply of /v1/chat or /v1/generate: text and images in the order they were generated."""

    id: str
    model: str
    content: tuple[Part, ...]

    @classmethod
    def from_json(cls, data: Json) -> Reply:
        content = data["message"]["content"] if "message" in data else data["content"]
        parts = tuple(map(_part, content))
        return cls(id=data["id"], model=data["model"], content=parts, **ending(data))

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return tuple(part.image for part in self.content if isinstance(part, ImagePart))

    @property
    def message(self) -> dict[str, Any]:
        """This reply as a message of the history, to be sent back with the next one."""
        return assistant_message(self.content)


@dataclass(frozen=True)
class Retrieval:
    """The ranked images for a context, best first."""

    images: tuple[ImageRef, ...]
    query_embedding: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, data: Json) -> Retrieval:
        images = tuple(record(ImageRef, row) for row in data["images"])
        return cls(images, _vector(data.get("query_embedding")))


@dataclass(frozen=True)
class Score:
    """The natural log-likelihood of one text after its context; the mean is per token."""

    log_likelihood: float
    mean_log_likelihood: float
    tokens: int


@dataclass(frozen=True)
class ModelInfo:
    id: str
    created: int
    owned_by: str


@dataclass(frozen=True)
class CollectionInfo:
    """`size` in images; `default` marks the one that is searched where none is named."""

    name: str
    size: int
    dim: int
    default: bool


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


def _part(data: Json) -> Part:
    return TextPart(data["text"]) if data["type"] == "text" else ImagePart.from_json(data)


def _vector(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
