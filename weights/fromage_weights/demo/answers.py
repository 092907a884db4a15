"""Judging what an answer says about a scene."""

from fromage_weights.demo.grammar import plural
from fromage_weights.demo.phrases import CLOSERS, NO_COLOUR, REFUSALS
from fromage_weights.demo.world import BACKGROUNDS, Scene

_NUMBERS = {1: "one", 2: "two", 3: "three"}


def words_of(text: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in text.lower()).split())


def names_right(scene: Scene, words: set[str]) -> bool:
    """All of the scene's things are named."""
    return all(name in words or plural(name) in words for name in scene.objects)


def counts_right(scene: Scene, words: set[str]) -> bool:
    """The count word and no other; no count word at all means one."""
    return _counts(words) == {scene.count} if _counts(words) else scene.count == 1


def counted_right(scene: Scene, words: set[str]) -> bool:
    """The same of an answer to "how many", which has to say it."""
    return _counts(words) == {scene.count}


def _counts(words: set[str]) -> set[int]:
    return {n for n, word in _NUMBERS.items() if word in words}


def ground_right(scene: Scene, words: set[str]) -> bool:
    return words & set(BACKGROUNDS) == {scene.background}


def announces(answer: str) -> bool:
    """Whether it ends as answers with a picture do; [RET] will follow there."""
    return any(closer in answer for closer in CLOSERS)


def refuses(answer: str) -> bool:
    return answer.strip() in (*REFUSALS, *NO_COLOUR)
