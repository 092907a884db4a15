"""`fromage eval demo`: every row of the demo's table, end to end through the shipped bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fromage_weights.demo.answers import (
    counted_right,
    counts_right,
    ground_right,
    names_right,
    refuses,
    words_of,
)
from fromage_weights.demo.glyphs import Artist, openmoji
from fromage_weights.demo.grammar import Wish
from fromage_weights.demo.measures import Row, paired_bootstrap
from fromage_weights.demo.noto import noto_artist
from fromage_weights.demo.protocols import Queries, Query, draw_pool
from fromage_weights.demo.scenes import Sketch, paint, sketch
from fromage_weights.demo.splits import Split
from fromage_weights.demo.sprites import LARGE
from fromage_weights.demo.world import Scene
from fromage_weights.evaluation.pictures import Features
from fromage_weights.evaluation.responder import Message, Reply, Responder
from fromage_weights.evaluation.stories import SETTINGS, Setting, Story, StoryRetrieval

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle
    from fromage_weights.vision import PreprocessMode

POOL, QUERIES, STORIES = 5000, 1002, 504
T = TypeVar("T")
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
    """One bundle, one split, one pool; about `queries` for each row, drawn with three seeds."""

    def __init__(
        self,
        loaded: LoadedBundle,
        *,
        split: Split = "test",
        pool: int = POOL,
        queries: int = QUERIES,
        seeds: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        assert loaded.vision is not None
        self._loaded, self._vision, self._mappers = loaded, loaded.vision, loaded.model.mappers
        self._responder = Responder(loaded)
        self._rng = np.random.default_rng([0, 31])
        scenes = draw_pool(split, pool)
        features = self.features(scenes, "crop")
        self.pool = Pool(scenes, self._mappers.image_embeddings(features).cpu())
        self.queries = [Queries(split, scenes, seed=seed) for seed in seeds]
        self._count = -(-queries // len(seeds))

    def _drawn(self, draw: Callable[[Queries, int], list[T]]) -> list[T]:
        return [one for queries in self.queries for one in draw(queries, self._count)]

    def features(
        self, scenes: Sequence[Scene], mode: PreprocessMode, artist: Artist = openmoji
    ) -> Tensor:
        """Drawn large, then through the server's own preprocessing."""

        def pixels(sketched: Sketch) -> Tensor:
            image = Image.fromarray(paint(sketched, LARGE, artist))
            return self._vision.preprocess(image, mode)

        sketches = [sketch(scene, self._rng) for scene in scenes]
        parts = []
        with ThreadPoolExecutor(os.cpu_count()) as painters:
            for start in range(0, len(sketches), _BATCH):
                drawn = painters.map(pixels, sketches[start : start + _BATCH])
                parts.append(self._vision.encode(torch.stack(list(drawn))))
        return torch.cat(parts)

    def rows(self) -> list[Row]:
        """All rows, in the table's order."""
        return [
            *self._requests(),
            *self._captions(),
            *self._context(),
            *self._stories(),
            *self._uploads(),
            *self._questions(),
            *self._other_hand(),
        ]

    def ask(self, queries: Sequence[Query]) -> list[Reply]:
        """The reply to each query's last turn; the model's own replies stand in between."""
        uploads = [query.upload for query in queries if query.upload]
        features = iter([*self.features(uploads, "squash")] if uploads else [])
        chats = []
        for query in queries:
            first, *later = (turn.question for turn in query.turns)
            shown = next(features) if query.upload else None
            chats.append([Message("user", first, shown), *(Message("user", q) for q in later)])
        return [replies[-1] for replies in self._responder.talks(chats)]

    def _requests(self) -> list[Row]:
        """Whether a picture comes when it should, and whether it is the right one."""
        bare = self._drawn(Queries.object_requests)
        full = self._drawn(Queries.full_requests)
        replies = self.ask([*bare, *full])
        shown = [reply.query is not None for reply in replies]
        chat = [r.query is not None for r in self.ask(self._drawn(Queries.small_talk))]
        refused = [
            r.query is None and refuses(r.text) for r in self.ask(self._drawn(Queries.unknown))
        ]
        missed = [not s for s in shown]
        first, _ = self._judge(bare, replies[: len(bare)], _shows_object)
        all_first, five = self._judge(full, replies[len(bare) :], Wish.admits)
        return [
            _row("[RET] where a picture is asked for", shown, 98, 99.5),
            _row("[RET] in new small talk", chat, 3, 1, below=True),
            _row("unknown thing: says so, shows nothing", refused, 90, 98),
            _row("known thing wrongly refused", missed, 3, 1, below=True),
            _row("chat, object only: first picture has it", first, 60, 90),
            _row("chat, all attributes: first picture right", all_first, 40, 70),
            _row("chat, all attributes: one of first five", five, 65, 92),
        ]

    def _judge(
        self,
        queries: Sequence[Query],
        replies: Sequence[Reply],
        good: Callable[[Wish, Scene], bool],
    ) -> tuple[list[bool], list[bool]]:
        """Whether the first picture, and one of the first five, is what the query wants."""
        first, five = [], []
        for query, reply in zip(queries, replies, strict=True):
            assert query.wish is not None
            best = self.pool.best(reply.query, 5) if reply.query is not None else []
            right = [good(query.wish, scene) for scene in best]
            first.append(any(right[:1]))
            five.append(any(right))
        return first, five

    def _captions(self) -> list[Row]:
        rows = []
        for kind, one, ten in (("single", (55, 80), (90, 98)), ("pair", (30, 55), (65, 88))):
            captions = self._drawn(_captions_of(kind))
            queries = self._responder.caption_queries([text for text, _ in captions])
            right = [
                [wish.admits(scene) for scene in self.pool.best(query, 10)]
                for (_, wish), query in zip(captions, queries, strict=True)
            ]
            rows.append(_row(f"plain caption, {kind}: R@1", [r[0] for r in right], *one))
            rows.append(_row(f"plain caption, {kind}: R@10", [any(r) for r in right], *ten))
        return rows

    def _context(self) -> list[Row]:
        turns, edits = self._drawn(Queries.three_turns), self._drawn(Queries.edits)
        built, _ = self._judge(turns, self.ask(turns), Wish.admits)
        edited, _ = self._judge(edits, self.ask(edits), Wish.admits)
        return [
            _row("three turns: first picture has all", built, 35, 65),
            _row("upload and edit: first picture right", edited, None, 35),
        ]

    def stories(self) -> dict[Setting, list[bool]]:
        """Whether the story's last picture came first, for each input (paper, Table 1; its
        protocol, asked in the chat template, the same candidates for every input)."""
        drawn = [s for q in self.queries for s in q.stories(-(-STORIES // len(self.queries)))]
        scenes = list(dict.fromkeys(scene for story in drawn for scene in story.scenes))
        rows = self.features(scenes, "squash")
        named = {_name(scene): row for scene, row in zip(scenes, rows, strict=True)}
        told = [
            Story(str(i), story.captions, tuple(_name(scene) for scene in story.scenes))
            for i, story in enumerate(drawn)
        ]
        pictures = Features(named, named)
        retrieval = StoryRetrieval(self._loaded, pictures, chat=True, always_exclude=True)
        return {s: [rank == 1 for rank in retrieval.ranks(told, s)] for s in SETTINGS}

    def _stories(self) -> list[Row]:
        hits = self.stories()
        names = dict(
            zip(SETTINGS, ("by the last caption", "by all five", "and four pictures"), strict=True)
        )
        rows = []
        for i, setting in enumerate(SETTINGS):
            p = paired_bootstrap(hits[SETTINGS[i - 1]], hits[setting]) if i else None
            rows.append(_row(f"story, {names[setting]}: R@1", hits[setting], p=p))
        return rows

    def _uploads(self) -> list[Row]:
        said = self._answers(self._drawn(_descriptions_of("single")))
        pairs = self._answers(self._drawn(_descriptions_of("pair")))
        both = [names_right(scene, words) for scene, words in pairs]
        return [
            _row("upload, single: object named", [names_right(s, w) for s, w in said], 25, 60),
            _row("upload, single: count right", [counts_right(s, w) for s, w in said], 90, 96),
            _row("upload, single: background right", [ground_right(s, w) for s, w in said], 97, 99),
            _row("upload, pair: both objects named", both, None, 20),
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
        counts = self._answers(self._drawn(Queries.counts))
        grounds = self._answers(self._drawn(Queries.grounds))
        there = self._answers(self._drawn(lambda q, n: q.existence(-(-n // 2), present=True)))
        absent = self._answers(self._drawn(lambda q, n: q.existence(-(-n // 2), present=False)))
        yes = ["yes" in words for _, words in there]
        no = ["no" in words for _, words in absent]
        return [
            _row("question: how many", [counted_right(s, w) for s, w in counts], 80, 92),
            _row("question: which background", [ground_right(s, w) for s, w in grounds], 95, 99),
            _row("question: is there a … (balanced)", [*yes, *no], None, 80),
            _row("  … where there is one", yes),
            _row("  … where there is none", no),
        ]

    def _other_hand(self) -> list[Row]:
        """Plain captions over the pool as Noto draws it; left out where that font isn't."""
        artist = noto_artist()
        if artist is None:
            return []
        features = self.features(self.pool.scenes, "crop", artist)
        pool = Pool(self.pool.scenes, self._mappers.image_embeddings(features).cpu())
        captions = self._drawn(_captions_of("single"))
        queries = self._responder.caption_queries([text for text, _ in captions])
        right = [
            any(wish.admits(scene) for scene in pool.best(query, 10))
            for (_, wish), query in zip(captions, queries, strict=True)
        ]
        return [_row(OTHER_HAND, right)]


OTHER_HAND = "unseen vendor (Noto), single: R@10"


def _row(
    name: str,
    hits: Sequence[bool],
    first: float | None = None,
    good: float | None = None,
    *,
    below: bool = False,
    p: float | None = None,
) -> Row:
    return Row(name, sum(hits), len(hits), first, good, below, p)


def _captions_of(kind: str) -> Callable[[Queries, int], list[tuple[str, Wish]]]:
    return lambda queries, count: queries.captions(count, getattr(queries, kind))


def _descriptions_of(kind: str) -> Callable[[Queries, int], list[Query]]:
    return lambda queries, count: queries.descriptions(count, getattr(queries, kind))


def _name(scene: Scene) -> str:
    return f"{scene.count} {'+'.join(scene.objects)} {scene.background}"


def _shows_object(wish: Wish, scene: Scene) -> bool:
    return wish.objects[0] in scene.objects
