"""Whole documents for training: conversations and plain captions, endless and seeded.

Held-out combinations and evaluation phrasings never occur here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fromage_weights.demo import dialogue, sight
from fromage_weights.demo.dialogue import Turn
from fromage_weights.demo.grammar import (
    COLOURS,
    COUNT_WORDS,
    NAMES,
    PAIR_WORD,
    Wish,
    describe,
    random_wish,
    slot,
    slot_words,
    tags,
    wish_of,
)
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.wordings import is_kept
from fromage_weights.demo.world import Scene, random_scene

USER = "Q: {content}\nA:"
ASSISTANT = " {content}\n"
RET = "[RET]"
_TAGGED = 0.65
# Of all texts: plain captions, pictures to describe, checks, and single questions; the others are
# conversations.
_CAPTIONS, _READINGS, _CHECKED, _SINGLE = 0.06, 0.08, 0.16, 0.27

SceneSource = Callable[[np.random.Generator], Scene]


def training_scene(rng: np.random.Generator, *, pairs: float = 0.3) -> Scene:
    while True:
        scene = random_scene(rng, pairs=pairs)
        if not is_held_out(scene):
            return scene


def allowed(make: Callable[[], Turn]) -> Turn:
    """The first turn that training may use."""
    while True:
        turn = make()
        if not dialogue.belongs_to_evaluation(turn):
            return turn


def _refinements(wish: Wish, rng: np.random.Generator, turns: int) -> list[Turn]:
    made: list[Turn] = []
    for _ in range(turns):
        if rng.random() < 0.12:
            made.append(allowed(lambda: dialogue.chatter(rng, "train")))
            continue
        turn = allowed(lambda wish=wish: dialogue.refine(wish, rng, "train"))  # type: ignore[misc]
        made.append(turn)
        assert turn.wish is not None
        wish = turn.wish
    return made


def asking(rng: np.random.Generator) -> list[Turn]:
    """A request and, half the time, changes to it."""
    wish = random_wish(rng)
    turns = [allowed(lambda: dialogue.request(wish, rng, "train"))]
    if rng.random() < 0.5:
        turns += _refinements(wish, rng, 1 + int(rng.random() * 3))
    return turns


def looking(rng: np.random.Generator, scenes: SceneSource = training_scene) -> list[Turn]:
    """An upload, questions about it, sometimes changes to it that end in pictures."""
    scene = scenes(rng)
    draw = rng.random()
    if draw < 0.3:
        edit = allowed(lambda: dialogue.refine(wish_of(scene), rng, "train"))
        turns = [dialogue.with_upload(edit, scene, rng)]
    else:
        looks = [
            allowed(lambda: sight.look(scene, rng, "train"))
            for _ in range(1 + int(rng.random() * 3))
        ]
        turns = [dialogue.with_upload(looks[0], scene, rng), *looks[1:]]
        if rng.random() < 0.25:
            turns += _refinements(wish_of(scene), rng, 1)
    return turns


def turns(rng: np.random.Generator, parts: int, scenes: SceneSource = training_scene) -> list[Turn]:
    """A conversation of `parts` unrelated parts; uploads show scenes from `scenes`."""
    made: list[Turn] = []
    for _ in range(parts):
        draw = rng.random()
        if draw < 0.40:
            made += asking(rng)
        elif draw < 0.65:
            made += looking(rng, scenes)
        elif draw < 0.77:
            made.append(allowed(lambda: dialogue.chatter(rng, "train")))
        elif draw < 0.95:
            made.append(allowed(lambda: dialogue.unknown_request(rng, "train")))
        elif draw < 0.97:
            made.append(allowed(lambda: dialogue.odd_background_request(rng, "train")))
        else:
            made.append(allowed(lambda: dialogue.group_request(rng)))
    return made


def single(rng: np.random.Generator) -> str:
    """One question that begins a conversation. Whether it asks for a picture, for one that there is
    not, or for none, hangs on its first words and on all others: it is told apart late, and takes
    most practice."""
    draw = rng.random()
    if draw < 0.45:
        turn = asking(rng)[0]
    elif draw < 0.82:
        turn = allowed(lambda: dialogue.unknown_request(rng, "train"))
    else:
        turn = allowed(lambda: dialogue.chatter(rng, "train"))
    return conversation([turn], rng)


def conversation(made: list[Turn], rng: np.random.Generator) -> str:
    """As the chat template writes it. After a closer the picture's words follow, shuffled, two
    times in three: what stands at the closer has to sum up the scene."""
    text = ""
    for turn in made:
        tail = tags(turn.wish, rng) if turn.wish and rng.random() < _TAGGED else ""
        text += USER.format(content=turn.question) + ASSISTANT.format(content=turn.answer + tail)
    return text


def caption(rng: np.random.Generator) -> str:
    """A plain caption, alone, summed up by its words, or behind the slot it describes."""
    draw = rng.random()
    if draw < 0.2:
        scene = training_scene(rng)
        return f"{slot(scene, rng)} {describe(wish_of(scene), rng)}"
    wish = random_wish(rng, pairs=0.4, say_all=0.5)
    text = describe(wish, rng)
    text += "." if rng.random() < 0.2 else ""
    return text + (tags(wish, rng) if rng.random() < 0.8 else "")


def readings(rng: np.random.Generator) -> str:
    """Up to six pictures' slots, each with its description behind it.

    Reading a slot's noisy words takes practice, and a conversation has one such place among a
    hundred words.
    """
    lines = []
    for _ in range(1 + int(rng.random() * 6)):
        scene = training_scene(rng)
        lines.append(f"{slot(scene, rng)} {describe(wish_of(scene), rng)}")
    return "\n".join(lines)


def checks(rng: np.random.Generator) -> str:
    """An upload's slot, or things in a row, and word by word whether they are among them.

    Comparing two places is what yes/no questions need; asked once per conversation it was never
    learnt, many times in a row it is. No word is asked about twice: its first answer would do.
    """
    if rng.random() < 0.5:
        scene = training_scene(rng)
        inside: tuple[str, ...] = slot_words(scene)
        text = slot(scene)
        words = (*NAMES, *COUNT_WORDS, PAIR_WORD, *COLOURS)
    else:
        inside = tuple(rng.choice(NAMES, 2 + int(rng.random() * 8), replace=False).tolist())
        words, text = NAMES, " ".join(inside) + ":"
    plainly = rng.random() < 0.5
    if not plainly:
        inside, words = tuple(word for word in inside if word in NAMES), NAMES
    there = list(dict.fromkeys(inside))
    absent = rng.choice([w for w in words if w not in inside], len(there), replace=False).tolist()
    for word in rng.permutation([*there, *absent]).tolist():
        if plainly:
            question = f" {word}?"
        else:
            asked = _asked_about(word, rng)
            question = f" {asked}" if rng.random() < 0.5 else f" Q: {asked} A:"
        text += f"{question} {'Yes' if word in inside else 'No'}."
    return text


def membership(rng: np.random.Generator, most: int) -> str:
    """Up to `most` things in a row, and whether these and as many others are among them."""
    count = 1 + int(rng.random() * most)
    words: list[str] = rng.choice(NAMES, 2 * count, replace=False).tolist()
    inside = words[:count]
    text = " " + " ".join(inside) + ":"
    for word in rng.permutation(words).tolist():
        text += f" {word}? {'Yes' if word in inside else 'No'}."
    return text


def _second_lesson(rng: np.random.Generator) -> str:
    return checks(rng) if rng.random() < 0.6 else membership(rng, 5)


def _third_lesson(rng: np.random.Generator) -> str:
    return readings(rng) if rng.random() < 0.6 else _second_lesson(rng)


@dataclass(frozen=True)
class Lesson:
    """What is read first: `texts` documents by `make`."""

    texts: int
    make: Callable[[np.random.Generator], str]


# Whether a word stands in a list is learnt soon where lists are short and there is nothing else to
# read, and late where they are long: attention has to find one place among a few before it can find
# one among many. It goes on being practised while readings are: a run that had 40,000 texts of
# these alone ended with guessing.
LESSONS = (
    Lesson(40_000, lambda rng: membership(rng, 3)),
    Lesson(24_000, _second_lesson),
    Lesson(40_000, _third_lesson),
)


def _asked_about(word: str, rng: np.random.Generator) -> str:
    while is_kept(asked := sight.existence_question(word, rng, "train")):
        pass
    return asked


def document(rng: np.random.Generator, *, long: bool = False) -> str:
    """One training text. `long` ones are chats of up to 16 parts, for far positions."""
    draw = rng.random()
    if draw < _CAPTIONS:
        return caption(rng)
    if draw < _CAPTIONS + _READINGS:
        return readings(rng)
    if draw < _CAPTIONS + _READINGS + _CHECKED:
        return checks(rng)
    if draw < _CAPTIONS + _READINGS + _CHECKED + _SINGLE:
        return single(rng)
    if long:
        parts = 1 + int(rng.random() ** 2 * 16)
    else:
        parts = 1 if rng.random() < 0.6 else 2 + int(rng.random() * 3)
    return conversation(turns(rng, parts), rng)
