"""The demo's world in the files of the paper's protocols: stories (VIST), dialogues (VisDial) and
captions, over held-out scenes in wordings kept for evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fromage_weights.demo import sight
from fromage_weights.demo.dialogue import Turn
from fromage_weights.demo.grammar import describe, wish_of
from fromage_weights.demo.protocols import Queries, draw_pool
from fromage_weights.demo.scenes import render
from fromage_weights.demo.splits import Split
from fromage_weights.demo.sprites import LARGE
from fromage_weights.demo.world import Scene

OPTIONS = 100
_POOL = 5000
_Ask = Callable[[Scene, np.random.Generator, Split], Turn]
# Two yes/no questions in five.
_ROUNDS: tuple[_Ask, ...] = (
    sight.what, sight.how_many, sight.which_colour, sight.is_there, sight.is_there
)  # fmt: skip
Fact = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """`facts` are what it says of the picture; `kind` is the question that it answers."""

    text: str
    kind: str
    facts: frozenset[Fact]


class DemoFiles:
    """Writes `count` stories, dialogues or captioned pictures of one split."""

    def __init__(self, split: Split, count: int, *, seed: int = 0) -> None:
        self._split: Split = split
        self._count = count
        self._queries = Queries(split, draw_pool(split, _POOL), seed=seed)
        self._rng = np.random.default_rng([seed, 41])

    def stories(self, folder: Path) -> tuple[Path, Path]:
        """A story-in-sequence file and its folder of pictures; no caption names the background."""
        told = self._queries.stories(self._count)
        scenes = list(dict.fromkeys(scene for story in told for scene in story.scenes))
        numbers = {scene: number for number, scene in enumerate(scenes)}
        frames = [
            [
                {
                    "story_id": str(number),
                    "photo_flickr_id": str(numbers[scene]),
                    "worker_arranged_photo_order": place,
                    "text": caption,
                }
            ]
            for number, story in enumerate(told)
            for place, (caption, scene) in enumerate(zip(story.captions, story.scenes, strict=True))
        ]
        images = [{"id": str(number)} for number in range(len(scenes))]
        file = folder / "demo.story-in-sequence.json"
        return _write(file, {"images": images, "annotations": frames}), self._draw(folder, scenes)

    def dialogues(self, folder: Path) -> tuple[Path, Path, Path]:
        """A VisDial file, its dense annotations, and the folder of pictures.

        A hundred answers to choose from at each question: right and wrong ones to the same question
        and true ones to others. How relevant an answer to the same question is: the facts that it
        states and the right one states, as a share of all that either states.
        """
        draw = (self._queries.single, self._queries.pair)
        scenes = [draw[i % 2]() for i in range(self._count)]
        questions: dict[str, int] = {}
        answers: dict[str, int] = {}
        dialogues: list[dict[str, Any]] = []
        dense: list[dict[str, Any]] = []
        for image, scene in enumerate(scenes):
            rounds: list[dict[str, Any]] = []
            for place in self._rng.permutation(len(_ROUNDS)).tolist():
                turn, right = self._asked(_ROUNDS[place], scene)
                options = self._options(right, scene)
                question = turn.question.rstrip("?")
                rounds.append(
                    {
                        "question": questions.setdefault(question, len(questions)),
                        "answer": answers.setdefault(right.text, len(answers)),
                        "answer_options": [
                            answers.setdefault(o.text, len(answers)) for o in options
                        ],
                        "gt_index": options.index(right),
                    }
                )
                relevance = [round(_relevance(option, right), 3) for option in options]
                dense.append(
                    {"image_id": image, "round_id": len(rounds), "gt_relevance": relevance}
                )
            dialogues.append({"image_id": image, "caption": "", "dialog": rounds})
        told = {"questions": [*questions], "answers": [*answers], "dialogs": dialogues}
        file = _write(
            folder / "demo_visdial.json", {"version": "1.0", "split": self._split, "data": told}
        )
        return file, _write(folder / "demo_visdial_dense.json", dense), self._draw(folder, scenes)

    def captions(self, folder: Path) -> tuple[Path, Path]:
        """A .tsv of captions that say everything, half of them of pairs, and the pictures."""
        draw = (self._queries.single, self._queries.pair)
        scenes = [draw[i % 2]() for i in range(self._count)]
        images = self._draw(folder, scenes)
        rows = [
            f"{describe(wish_of(scene), self._rng)}\timages/{number}.png"
            for number, scene in enumerate(scenes)
        ]
        file = folder / "demo_captions.tsv"
        file.write_text("\n".join(("caption\timage", *rows, "")), encoding="utf-8")
        return file, images

    def _asked(self, ask: _Ask, scene: Scene) -> tuple[Turn, Answer]:
        turn = ask(scene, self._rng, self._split)
        return turn, _answer(ask, turn.answer, scene)

    def _options(self, right: Answer, scene: Scene) -> list[Answer]:
        """`right` among other answers, no text twice."""
        found = {right.text: right}
        for ask in dict.fromkeys(_ROUNDS):
            _, other = self._asked(ask, scene)
            found.setdefault(other.text, other)
        asked = next(a for a in _ROUNDS if a.__name__ == right.kind)
        tries = 0
        while len(found) < OPTIONS:
            tries += 1
            # Some questions have few answers.
            own = tries < OPTIONS // 2
            ask = asked if own else _ROUNDS[int(self._rng.integers(len(_ROUNDS)))]
            near = tries % 2 == 0
            _, other = self._asked(ask, self._like(scene) if near else self._queries.single())
            found.setdefault(other.text, other)
        options = list(found.values())
        return [options[i] for i in self._rng.permutation(len(options)).tolist()]

    def _like(self, scene: Scene) -> Scene:
        """The same with another count or background."""
        if not scene.is_pair and self._rng.random() < 0.5:
            count = int(self._rng.choice([n for n in (1, 2, 3) if n != scene.count]))
            return Scene(scene.objects, count, scene.background)
        return Scene(scene.objects, scene.count, self._queries.single().background)

    def _draw(self, folder: Path, scenes: Sequence[Scene]) -> Path:
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes):
            Image.fromarray(render(scene, self._rng, LARGE)).save(images / f"{number}.png")
        return images


def _answer(ask: _Ask, text: str, scene: Scene) -> Answer:
    """What `text` says about `scene`."""
    objects: set[Fact] = {("object", name) for name in scene.objects}
    count = ("count", "pair" if scene.is_pair else str(scene.count))
    ground = ("background", scene.background)
    said: dict[str, set[Fact]] = {
        "what": {*objects, count, ground},
        "how_many": {*objects, count},
        "which_colour": {ground},
        "is_there": {*objects, count, ("is there", text.split(",")[0])},
    }
    return Answer(text, ask.__name__, frozenset(said[ask.__name__]))


def _relevance(option: Answer, right: Answer) -> float:
    """From 0, about something else or with the wrong yes or no, to 1, the same."""
    if option.kind != right.kind:
        return 0.0
    if right.kind == "is_there" and option.text.split(",")[0] != right.text.split(",")[0]:
        return 0.0
    return len(option.facts & right.facts) / len(option.facts | right.facts)


def _write(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file
