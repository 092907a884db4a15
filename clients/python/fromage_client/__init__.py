"""Python client for a FROMAGe chat server, whose replies mix text and pictures."""

from .client import Client
from .errors import (
    FromageError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServerError,
    ServerFailure,
    StreamInterrupted,
    TransportFailed,
    UnexpectedAnswer,
)
from .events import Event, ImageShown, MessageEnd, MessageStart, ReplyBuilder, TextDelta, fold
from .messages import Upload
from .reply import (
    CollectionInfo,
    ImagePart,
    ImageRef,
    ModelInfo,
    Reply,
    Retrieval,
    Score,
    TextPart,
    Timings,
    TokenLogprob,
    Usage,
)

__all__ = [
    "Client",
    "CollectionInfo",
    "Event",
    "FromageError",
    "ImagePart",
    "ImageRef",
    "ImageShown",
    "InvalidRequest",
    "MessageEnd",
    "MessageStart",
    "ModelInfo",
    "NotFound",
    "Overloaded",
    "Reply",
    "ReplyBuilder",
    "Retrieval",
    "Score",
    "ServerError",
    "ServerFailure",
    "StreamInterrupted",
    "TextDelta",
    "TextPart",
    "Timings",
    "TokenLogprob",
    "TransportFailed",
    "UnexpectedAnswer",
    "Upload",
    "Usage",
    "fold",
]
