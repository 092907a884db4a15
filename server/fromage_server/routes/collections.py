"""/v1/collections: what can be searched, made and dropped."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from fromage_index.manifest import unix_time
from fromage_server.live import LiveCollection
from fromage_server.schema.collections import (
    CollectionCard,
    CollectionList,
    CreateCollectionRequest,
    DroppedCollection,
)
from fromage_server.state import ServerState, State

router = APIRouter(tags=["collections"])
_PATH = "/v1/collections"
Name = Annotated[str, Path(description="The collection's name.", examples=["holidays"])]


@router.get(_PATH)
async def collections(state: State) -> CollectionList:
    """What can be searched; the first is the default."""
    cards = await state.workers.files(_cards, state)
    return CollectionList(collections=cards)


@router.post(_PATH, status_code=201)
async def create(body: CreateCollectionRequest, state: State) -> CollectionCard:
    """A new, empty collection. It is kept in the server's collections directory and found again
    at the next start."""
    live = await state.service.curator.create(body.name)
    return await state.workers.files(_card, state, live)


@router.delete(_PATH + "/{collection}")
async def drop(collection: Name, state: State) -> DroppedCollection:
    """Removes a collection and all its files; only one that was made with POST."""
    await state.service.curator.drop(collection)
    return DroppedCollection(name=collection)


def _cards(state: ServerState) -> list[CollectionCard]:
    return [_card(state, live) for live in state.service.gallery.all]


def _card(state: ServerState, live: LiveCollection) -> CollectionCard:
    collection = live.latest()
    manifest = collection.manifest
    return CollectionCard(
        name=live.name,
        size=collection.size,
        dim=collection.dim,
        default=live.name == state.service.gallery.default,
        writable=state.service.curator.writable(live),
        droppable=live.droppable,
        created_at=unix_time(manifest.created_at),
        changed_at=unix_time(manifest.changed_at or manifest.created_at),
    )
