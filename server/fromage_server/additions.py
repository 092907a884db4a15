"""Pictures to be added to a collection, as requests name them."""

from __future__ import annotations

from dataclasses import dataclass

from fromage_index.editor import Addition
from fromage_index.errors import ImageNotFound
from fromage_index.record import ImageRecord, Metadata
from fromage_server.errors import ApiError
from fromage_server.gallery import Gallery
from fromage_server.ingest import Embedded
from fromage_server.media import SourceImage
from fromage_server.prompt import Picture


@dataclass(frozen=True)
class NewPicture:
    """A picture to be added; ``param`` is the field of the request that it comes from. One that is
    copied brings its key and metadata along, where they are None."""

    source: Picture | SourceImage
    param: str
    key: str | None
    metadata: Metadata | None

    def addition(self, image: SourceImage, made: Embedded, gallery: Gallery) -> Addition:
        """The change that adds it. Reads files where it is a copy."""
        there = self._copied(gallery)
        key, told = self.key, Metadata()
        if there is not None:
            key = key or there.key
            told = there.metadata if self.metadata is None else told
        return Addition(image.data, made.vector, made.size, key, self.metadata or {}, told=told)

    def _copied(self, gallery: Gallery) -> ImageRecord | None:
        """The image that it is a copy of."""
        ref = self.source.source.ref if isinstance(self.source, Picture) else None
        if ref is None or ref.collection is None or ref.id is None:
            return None
        try:
            return gallery.collection(ref.collection).image(ref.id)
        except (ApiError, ImageNotFound):
            return None  # it went since its file was read
