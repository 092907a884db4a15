"""GET /v1/collections."""

from __future__ import annotations

from fastapi import APIRouter

from fromage_server.schema.answers import CollectionCard, CollectionList
from fromage_server.state import State

router = APIRouter(tags=["images"])


@router.get("/v1/collections")
async def collections(state: State) -> CollectionList:
    """What can be searched; the first is the default."""
    gallery = state.service.gallery
    cards = [
        CollectionCard(
            name=name,
            size=gallery.collection(name).size,
            dim=gallery.collection(name).dim,
            default=name == gallery.default,
        )
        for name in gallery.names
    ]
    return CollectionList(collections=cards)
