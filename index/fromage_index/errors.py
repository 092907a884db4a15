"""What can go wrong with a collection of images.

IndexFailure
├── UnreadableImage          bytes that are not a picture this project can open
├── CollectionNotFound       no collection at that path
├── CollectionExists         a new collection would replace what stands there
├── CollectionBusy           another process is writing it
├── PlaceUnusable            a directory that cannot be made or written
├── CollectionDamaged        a file of the collection is missing or differs from its checksum
├── DimensionMismatch        vectors of another length than the collection's or the bundle's
├── ImageNotFound            the collection has no image with that id
├── AmbiguousKey             several images have the key that should name one
├── ImageUnavailable         the image is known, its file cannot be read now
├── BadFilter                a metadata filter that says nothing the index understands
├── BadQuery                 a search with k, min_score or vectors out of range
├── BadVectors               embeddings with NaN, zero rows or the wrong shape
├── BadMetadata              metadata that is no object of plain values, or a file of it
├── BadKey                   a key that is no text
├── BadName                  a collection cannot be called that
├── BadPickle                embeddings in a form that cannot be read without running code
├── NothingToIndex           a source without a single usable image
└── FaissInstallation        no FAISS, or two builds of it at once
"""

from __future__ import annotations

from pathlib import Path


class IndexFailure(Exception):
    """Root of every error this package raises on purpose."""


class PlaceUnusable(IndexFailure):
    """A collection's directory cannot be made there."""


class UnreadableImage(IndexFailure):
    """The bytes are not a picture that can be opened; the message says why and what can."""


class CollectionNotFound(IndexFailure):
    """There is no collection at the given path."""


class CollectionExists(IndexFailure):
    """Something already stands where the new collection should go."""


class CollectionBusy(IndexFailure):
    """Another process is building or changing the collection."""


class CollectionDamaged(IndexFailure):
    """A file of the collection is missing, cut short or altered.

    `file` is the file at fault.
    """

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(
            f"{file} is damaged: {problem}. Build the collection again, or restore the file."
        )
        self.file = file


class DimensionMismatch(IndexFailure):
    """Vectors whose length is not the collection's, or embeddings that don't fit the bundle."""


class ImageNotFound(IndexFailure):
    """No image with that id in the collection."""


class AmbiguousKey(IndexFailure):
    """Several images of the collection have that key; ids tell them apart."""


class ImageUnavailable(IndexFailure):
    """The image is in the collection, its bytes cannot be had (file gone, or known by URL only)."""


class BadFilter(IndexFailure):
    """A metadata filter is wrong; `field` names the key at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"filter field {field!r}: {problem}")
        self.field = field


class BadQuery(IndexFailure):
    """A search parameter is out of range; `field` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class BadVectors(IndexFailure):
    """Embeddings that cannot be indexed: NaN or infinite values, zero rows, or a wrong shape."""


class BadMetadata(IndexFailure):
    """Metadata is no object of plain values, or a file of it has a line that cannot be read."""


class BadKey(IndexFailure):
    """A key holds half of a surrogate pair: nothing can print it, or send it."""


class BadName(IndexFailure):
    """A name that no address can hold, or that is too long; the message says the rule."""


class BadPickle(IndexFailure):
    """A pickle that is damaged, or holds anything but arrays, lists, dicts, strings and numbers."""


class NothingToIndex(IndexFailure):
    """The source holds no image that could be indexed."""


class FaissInstallation(IndexFailure):
    """FAISS is missing, or its CPU and GPU builds are installed over each other."""
