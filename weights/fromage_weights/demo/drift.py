"""What `fromage eval drift` asks the demo: held-out requests, and captions of drawn pictures."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch

from fromage_weights.demo.evaluate import Evaluation
from fromage_weights.evaluation.drift import FIRST, Probe, Search
from fromage_weights.evaluation.responder import Message

if TYPE_CHECKING:
    from torch import Tensor

    from fromage_weights.demo.protocols import Query
    from fromage_weights.demo.splits import Split
    from fromage_weights.loading import LoadedBundle

POOL, COUNT = 2000, 300


def demo_probe(
    loaded: LoadedBundle, split: Split, *, pool: int = POOL, count: int = COUNT
) -> tuple[Probe, Search]:
    """About ``count`` chats (requests, small talk, questions about an upload) and as many captions.
    What depends on the language model is not part of it."""
    evaluation = Evaluation(loaded, split=split, pool=pool, queries=count, seeds=(0,))
    queries, each = evaluation.queries[0], -(-count // 4)
    asked = [
        *queries.object_requests(each),
        *queries.full_requests(each),
        *queries.small_talk(each),
        *queries.descriptions(each, queries.single),
    ]
    captions = [
        *queries.captions(-(-count // 2), queries.single),
        *queries.captions(count // 2, queries.pair),
    ]
    scenes = evaluation.pool.scenes
    right = [{i for i, scene in enumerate(scenes) if wish.admits(scene)} for _, wish in captions]
    images = evaluation.pool.embeddings

    def search(found: Tensor) -> list[list[Hashable]]:
        best: list[list[Hashable]] = (found @ images.T).topk(FIRST).indices.tolist()
        return best

    return Probe(_chats(evaluation, asked), [text for text, _ in captions], right), search


def _chats(evaluation: Evaluation, asked: list[Query]) -> list[list[Message]]:
    uploads = [query.upload for query in asked if query.upload]
    rows = iter(evaluation.features(uploads, "squash") if uploads else torch.empty(0))
    return [
        [Message("user", query.turns[0].question, next(rows) if query.upload else None)]
        for query in asked
    ]
