"""`fromage eval demo`: every row of the demo's table, end to end through the shipped bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromage_weights.demo.answers import counts_right, ground_right, names_right, words_of
from fromage_weights.demo.glyphs import Artist, openmoji
from fromage_weights.demo.grammar import Wish
from fromage_weights.demo.measures import Row
from fromage_weights.demo.noto import noto_artist
from fromage_weights.demo.phrases import NO_COLOUR, REFUSALS
from fromage_weights.demo.protocols import Queries, Query
from fromage_weights.demo.responder import Message, Reply, Responder
from fromage_weights.demo.scenes import render
from fromage_weights.demo.splits import Split
from fromage_weights.demo.sprites import LARGE
from fromage_weights.demo.world import Scene

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle

POOL = 5000
_BATCH = 256


@dataclass(frozen=True)
class Pool:
    """The pictures to search: `embeddings` (P, E), unit norm."""

    scenes: list[Scene]
    embeddings: Tensor

    def best(self, query: Tensor, k: int) -> list[Scene]:
        order = (self.embeddings @ query).topk(k).indices.tolist()
        return [self.scenes[i] for i in order]


class Evaluation:
    """One bundle, one split, one pool."""

    def __init__(
        self,
        loaded: LoadedBundle,
        *,
        split: Split = "test",
        pool: int = POOL,
        queries: int = 300,
        seed: int = 0,
    ) -> None:
        assert loaded.vision is not None
        self._vision, self._mappers = loaded.vision, loaded.model.mappers
        self._responder = Responder(loaded)
        self._queries, self._count = Queries(split, seed=seed), queries
        self._rng = np.random.default_rng([seed, 31])
        scenes = self._queries.pool(pool)
        features = self._features(scenes, "crop")
        self.pool = Pool(scenes, self._mappers.image_embeddings(features))

    def _features(self, scenes: Sequence[Scene], mode: str, artist: Artist = openmoji) -> Tensor:
        """Drawn large, then through the server's own preprocessing."""
        assert mode in ("crop", "squash")
        parts = []
        for start in range(0, len(scenes), _BATCH):
            images = [
                Image.fromarray(render(scene, self._rng, LARGE, artist))
                for scene in scenes[start : start + _BATCH]
            ]
            pixels = [self._vision.preprocess(i, mode) for i in images]  # type: ignore[arg-type]
            parts.append(self._vision.encode(torch.stack(pixels)))
        return torch.cat(parts)

    def rows(self) -> list[Row]:
        """All rows, in the table's order."""
        return [
            *self._emission(),
            *self._requests(),
            *self._captions(),
            *self._context(),
            *self._uploads(),
            *self._questions(),
            *self._other_hand(),
        ]

    def ask(self, queries: Sequence[Query]) -> list[Reply]:
        """The reply to each query's last turn; the model's own replies stand in between."""
        chats: list[list[Message]] = [[] for _ in queries]
        replies: list[Reply] = []
        uploads = [q.upload for q in queries if q.upload]
        features = iter([*self._features(uploads, "squash")] if uploads else [])
        for depth in range(max(len(q.turns) for q in queries)):
            for chat, query in zip(chats, queries, strict=True):
                shown = next(features) if query.upload and depth == 0 else None
                chat.append(Message("user", query.turns[depth].question, shown))
            replies = self._responder.replies(chats)
            for chat, reply in zip(chats, replies, strict=True):
                mark = "" if reply.query is None else "[RET]"
                chat.append(Message("assistant", reply.text.strip() + mark))
        return replies

    def _emission(self) -> list[Row]:
        known = [*self._queries.object_requests(self._count)]
        known += self._queries.full_requests(self._count)
        shown = [reply.query is not None for reply in self.ask(known)]
        chat = [r.query is not None for r in self.ask(self._queries.small_talk(self._count))]
        refused = [
            r.query is None and _refuses(r.text)
            for r in self.ask(self._queries.unknown(self._count))
        ]
        missed = [not s for s in shown]
        return [
            _row("[RET] where a picture is asked for", shown, 98),
            _row("[RET] in new small talk", chat, 3, below=True),
            _row("unknown thing: says so, shows nothing", refused, 90),
            _row("known thing wrongly refused", missed, 3, below=True),
        ]

    def _requests(self) -> list[Row]:
        bare = self._queries.object_requests(self._count)
        first, _ = self._found(bare, _shows_object)
        full, five = self._found(self._queries.full_requests(self._count), Wish.admits)
        return [
            _row("chat, object only: first picture has it", first, 60),
            _row("chat, all attributes: first picture right", full, 40),
            _row("chat, all attributes: one of first five", five, 65),
        ]

    def _found(
        self, queries: Sequence[Query], good: Callable[[Wish, Scene], bool]
    ) -> tuple[list[bool], list[bool]]:
        """Whether the first picture, and one of the first five, is what the query wants."""
        first, five = [], []
        for query, reply in zip(queries, self.ask(queries), strict=True):
            assert query.wish is not None
            best = self.pool.best(reply.query, 5) if reply.query is not None else []
            right = [good(query.wish, scene) for scene in best]
            first.append(any(right[:1]))
            five.append(any(right))
        return first, five

    def _captions(self) -> list[Row]:
        rows = []
        draws = (("single", self._queries.single, 55, 90), ("pair", self._queries.pair, 30, 65))
        for kind, draw, one, ten in draws:
            captions = self._queries.captions(self._count, draw)
            queries = self._responder.caption_queries([text for text, _ in captions])
            right = [
                [wish.admits(scene) for scene in self.pool.best(query, 10)]
                for (_, wish), query in zip(captions, queries, strict=True)
            ]
            rows.append(_row(f"plain caption, {kind}: R@1", [r[0] for r in right], one))
            rows.append(_row(f"plain caption, {kind}: R@10", [any(r) for r in right], ten))
        return rows

    def _context(self) -> list[Row]:
        turns, _ = self._found(self._queries.three_turns(self._count), Wish.admits)
        edits, _ = self._found(self._queries.edits(self._count), Wish.admits)
        return [
            _row("three turns: first picture has all", turns, 35),
            _row("upload and edit: first picture right", edits, None),
        ]

    def _uploads(self) -> list[Row]:
        single = self._queries.descriptions(self._count, self._queries.single)
        pair = self._queries.descriptions(self._count, self._queries.pair)
        said = self._answers(single)
        both = [names_right(scene, words) for scene, words in self._answers(pair)]
        return [
            _row("upload, single: object named", [names_right(s, w) for s, w in said], 25),
            _row("upload, single: count right", [counts_right(s, w) for s, w in said], 90),
            _row("upload, single: background right", [ground_right(s, w) for s, w in said], 97),
            _row("upload, pair: both objects named", both, None),
        ]

    def _answers(self, queries: Sequence[Query]) -> list[tuple[Scene, set[str]]]:
        """Each upload's scene and the words of the answer to it."""
        replies = self.ask(queries)
        return [
            (query.upload, words_of(reply.text))
            for query, reply in zip(queries, replies, strict=True)
            if query.upload
        ]

    def _questions(self) -> list[Row]:
        counts = self._answers(self._queries.counts(self._count))
        grounds = self._answers(self._queries.grounds(self._count))
        half = self._count // 2 + 50
        there = self._answers(self._queries.existence(half, present=True))
        absent = self._answers(self._queries.existence(half, present=False))
        yes = ["yes" in words for _, words in there]
        no = ["no" in words for _, words in absent]
        return [
            _row("question: how many", [counts_right(s, w) for s, w in counts], 80),
            _row("question: which background", [ground_right(s, w) for s, w in grounds], 95),
            _row("question: is there a … (balanced)", [*yes, *no], None),
            _row("  … where there is one", yes, None),
            _row("  … where there is none", no, None),
        ]

    def _other_hand(self) -> list[Row]:
        """Plain captions over the pool as Noto draws it; left out where that font isn't."""
        artist = noto_artist()
        if artist is None:
            return []
        features = self._features(self.pool.scenes, "crop", artist)
        pool = Pool(self.pool.scenes, self._mappers.image_embeddings(features))
        captions = self._queries.captions(self._count, self._queries.single)
        queries = self._responder.caption_queries([text for text, _ in captions])
        right = [
            any(wish.admits(scene) for scene in pool.best(query, 10))
            for (_, wish), query in zip(captions, queries, strict=True)
        ]
        return [_row("unseen vendor (Noto), single: R@10", right, None)]


def _row(name: str, hits: Sequence[bool], target: float | None, *, below: bool = False) -> Row:
    return Row(name, sum(hits), len(hits), target, below)


def _shows_object(wish: Wish, scene: Scene) -> bool:
    return wish.objects[0] in scene.objects


def _refuses(text: str) -> bool:
    return text.strip() in (*REFUSALS, *NO_COLOUR)
