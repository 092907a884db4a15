"""Python client for a FROMAGe chat server, whose replies mix text and pictures."""

from .async_client import AsyncClient
from .client import Client
from .collection import Added, AsyncCollection, Collection, NewImage
from .conversation import AsyncConversation, Conversation
from .errors import (
    FromageError,
    Interrupted,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    ServerError,
    ServerFailure,
    TimedOut,
    TransportFailed,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    UnreadableConversation,
    UnusablePicture,
)
from .events import (
    Event,
    ImageShown,
    MessageEnd,
    MessageStart,
    ReplyBuilder,
    TextDelta,
    TokensTold,
    fold,
)
from .images import ImageRef
from .messages import Upload
from .pictures import Picture
from .reply import (
    CollectionInfo,
    ImagePart,
    ModelInfo,
    Reply,
    Retrieval,
    Score,
    TextPart,
    Timings,
    TokenLogprob,
    Usage,
)
from .streams import AsyncReplyStream, ReplyStream

__all__ = [
    "Added",
    "AsyncClient",
    "AsyncCollection",
    "AsyncConversation",
    "AsyncReplyStream",
    "Client",
    "Collection",
    "CollectionInfo",
    "Conversation",
    "Event",
    "FromageError",
    "ImagePart",
    "ImageRef",
    "ImageShown",
    "Interrupted",
    "InvalidRequest",
    "MessageEnd",
    "MessageStart",
    "ModelInfo",
    "NewImage",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Picture",
    "Reply",
    "ReplyBuilder",
    "ReplyStream",
    "Retrieval",
    "Score",
    "ServerError",
    "ServerFailure",
    "TextDelta",
    "TextPart",
    "TimedOut",
    "Timings",
    "TokenLogprob",
    "TokensTold",
    "TransportFailed",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "UnreadableConversation",
    "UnusablePicture",
    "Upload",
    "Usage",
    "fold",
]
