"""What the demo is measured on: queries of held-out combinations in unseen wordings.

A protocol draws its queries from one split ("test" for reporting, "validation" for choosing):
its combinations and its wordings; training sees neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fromage_weights.demo import dialogue, sight
from fromage_weights.demo.dialogue import Turn, typed
from fromage_weights.demo.grammar import NAMES, Wish, describe, pick, wish_of, with_article
from fromage_weights.demo.phrases import kept_wordings
from fromage_weights.demo.small_talk import small_talk
from fromage_weights.demo.splits import Split, split_of
from fromage_weights.demo.world import Scene, pair_scenes, single_scenes


@dataclass(frozen=True)
class Query:
    """One conversation: what the user says turn by turn, and what has to come of the last turn."""

    turns: tuple[Turn, ...]
    upload: Scene | None = None

    @property
    def wish(self) -> Wish | None:
        return self.turns[-1].wish


@dataclass(frozen=True)
class SceneStory:
    """`scenes[i]` is what `captions[i]` leads to."""

    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]


def draw_pool(split: Split, size: int) -> list[Scene]:
    """Different scenes to search, half singles and half pairs, always the same: all of the split's
    singles, 600 of its pairs, and others."""
    rng = np.random.default_rng([0, 21])

    def some(scenes: list[Scene], count: int) -> list[Scene]:
        return [scenes[int(i)] for i in rng.permutation(len(scenes))[:count]]

    half = size // 2
    singles = [s for s in single_scenes() if split_of(s) == split]
    if size < 2 * len(singles):
        raise ValueError(f"a pool of {size} cannot hold the split's {len(singles)} single scenes")
    filler = some([s for s in single_scenes() if split_of(s) != split], half - len(singles))
    pairs = some([s for s in pair_scenes() if split_of(s) == split], min(600, size - half))
    others = some([s for s in pair_scenes() if split_of(s) == "train"], size - half - len(pairs))
    return [*singles, *filler, *pairs, *others]


class Queries:
    """All queries of one split, seeded; what they ask for is in `pool`."""

    def __init__(self, split: Split, pool: Sequence[Scene], *, seed: int = 0) -> None:
        self._split: Split = split
        self._rng = np.random.default_rng([seed, 22])
        own = [s for s in pool if split_of(s) == split]
        self._singles = [s for s in own if not s.is_pair]
        self._pairs = [s for s in own if s.is_pair]

    def single(self) -> Scene:
        return self._singles[int(self._rng.integers(len(self._singles)))]

    def pair(self) -> Scene:
        return self._pairs[int(self._rng.integers(len(self._pairs)))]

    def captions(self, count: int, draw: Callable[[], Scene]) -> list[tuple[str, Wish]]:
        wishes = [wish_of(draw()) for _ in range(count)]
        return [(describe(wish, self._rng), wish) for wish in wishes]

    def object_requests(self, count: int) -> list[Query]:
        """ "show me a dog": every class in turn."""
        made = []
        for i in range(count):
            name = NAMES[i % len(NAMES)]
            form = pick(self._rng, kept_wordings("REQUESTS", self._split))
            asked = typed(form.format(x=with_article(name)), self._rng)
            made.append(Query((Turn(asked, "", Wish((name,))),)))
        return made

    def full_requests(self, count: int) -> list[Query]:
        wishes = [wish_of(self.single()) for _ in range(count)]
        return [Query((dialogue.request(wish, self._rng, self._split),)) for wish in wishes]

    def three_turns(self, count: int) -> list[Query]:
        """Thing, then count, then background (or background, then count)."""
        made = []
        for _ in range(count):
            goal = wish_of(self.single())
            while goal.count == 1:
                goal = wish_of(self.single())
            first = Wish(goal.objects)
            steps = [dialogue.request(first, self._rng, self._split)]
            order = (replace(first, count=goal.count), replace(first, background=goal.background))
            for wish in (order[int(self._rng.integers(2))], goal):
                steps.append(self._towards(steps[-1].wish or first, wish))
            made.append(Query(tuple(steps)))
        return made

    def _towards(self, now: Wish, then: Wish) -> Turn:
        """The turn that changes `now` into `then`."""
        change = dialogue.recount if now.count != then.count else dialogue.reground
        while True:
            turn = change(now, self._rng, self._split)
            if turn.wish == then:
                return turn

    def edits(self, count: int) -> list[Query]:
        """An upload and a change of its count or background that leads to a held-out scene."""
        made = []
        for _ in range(count):
            goal = wish_of(self.single())
            if self._rng.random() < 0.5:
                others = [n for n in (1, 2, 3) if n != goal.count]
                start = replace(goal, count=int(self._rng.choice(others)))
            else:
                colours = [s.background for s in self._singles if s.background != goal.background]
                start = replace(goal, background=pick(self._rng, tuple(colours)))
            turn = self._towards(start, goal)
            assert start.count
            assert start.background
            made.append(Query((turn,), Scene(start.objects, start.count, start.background)))
        return made

    def stories(self, count: int) -> list[SceneStory]:
        """Five captions, each a change of what was shown, and the pictures they lead to. No caption
        names the background, which all pictures share: it takes the pictures to know it."""
        return [self._story(self.single()) for _ in range(count)]

    def _story(self, goal: Scene) -> SceneStory:
        first, second = self._rng.choice(
            [n for n in NAMES if n != goal.objects[0]], size=2, replace=False
        ).tolist()
        before = int(self._rng.choice([n for n in (1, 2, 3) if n != goal.count]))
        start = int(self._rng.choice([n for n in (1, 2, 3) if n != before]))
        steps = [
            dialogue.request(Wish((first,), start), self._rng, self._split),
            dialogue.exchange(Wish((first,), start), self._rng, self._split, second),
        ]
        steps.append(self._towards(Wish((second,), start), Wish((second,), before)))
        steps.append(
            dialogue.exchange(Wish((second,), before), self._rng, self._split, goal.objects[0])
        )
        steps.append(self._towards(Wish(goal.objects, before), Wish(goal.objects, goal.count)))
        scenes = []
        for step in steps:
            assert step.wish is not None
            assert step.wish.count is not None
            scenes.append(Scene(step.wish.objects, step.wish.count, goal.background))
        return SceneStory(tuple(step.question for step in steps), tuple(scenes))

    def descriptions(self, count: int, draw: Callable[[], Scene]) -> list[Query]:
        scenes = [draw() for _ in range(count)]
        return [Query((sight.what(scene, self._rng, self._split),), scene) for scene in scenes]

    def counts(self, count: int) -> list[Query]:
        scenes = [self.single() for _ in range(count)]
        return [Query((sight.how_many(scene, self._rng, self._split),), scene) for scene in scenes]

    def grounds(self, count: int) -> list[Query]:
        scenes = [self.single() for _ in range(count)]
        return [
            Query((sight.which_colour(scene, self._rng, self._split),), scene) for scene in scenes
        ]

    def existence(self, count: int, *, present: bool) -> list[Query]:
        scenes = [self.single() for _ in range(count)]
        return [
            Query((sight.is_there(scene, self._rng, self._split, present=present),), scene)
            for scene in scenes
        ]

    def small_talk(self, count: int) -> list[Query]:
        """Every unseen prompt, again with other capitals and marks until there are enough."""
        intents = small_talk()
        prompts = [prompt for intent in intents.values() for prompt in intent[self._split]]
        made = []
        for i in range(count):
            text = typed(prompts[i % len(prompts)], self._rng, endings=False)
            if i >= len(prompts) and text[-1].isalnum():
                text += pick(self._rng, (".", "!", " please", ""))
            made.append(Query((Turn(text, ""),)))
        return made

    def unknown(self, count: int) -> list[Query]:
        """Things outside the collection: unseen real words and made-up ones."""
        return [Query((dialogue.unknown_request(self._rng, self._split),)) for _ in range(count)]
