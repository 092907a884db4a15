"""What the tower's text side reads: short captions over a closed vocabulary of whole words.

A picture matches several captions: the whole of it ("two dogs on blue"), and each part
("a dog", "two things", "on blue", "a dog on the left"). The parts' captions are few, so that
all of them stand as negatives in every step.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from fromage_weights.demo.classes import CLASS_BY_NAME, CLASSES
from fromage_weights.demo.world import BACKGROUNDS, Scene

CONTEXT_LENGTH = 8
COUNT_WORDS = ("one", "two", "three")
_WORDS = ("a", "and", "on", "the", "left", "right", "thing", "things", "different")


@cache
def vocabulary() -> dict[str, int]:
    """Word to id; 0 pads, and the largest id ends a caption (open_clip pools there)."""
    names = [word for thing in CLASSES for word in (thing.name, thing.plural)]
    words = dict.fromkeys((*_WORDS, *COUNT_WORDS, *BACKGROUNDS, *names))
    return {"<pad>": 0, **{word: i for i, word in enumerate(words, 1)}, "<end>": len(words) + 1}


def tokenize(captions: Sequence[str]) -> Tensor:
    """(N, CONTEXT_LENGTH) ids; a word outside the vocabulary is a KeyError."""
    return torch.tensor([_row(caption) for caption in captions]).view(-1, CONTEXT_LENGTH)


@lru_cache(1 << 16)  # most captions of a step come in every step
def _row(caption: str) -> list[int]:
    ids = vocabulary()
    tokens = [*(ids[word] for word in caption.split()), ids["<end>"]]
    return tokens + [0] * (CONTEXT_LENGTH - len(tokens))


def full_caption(scene: Scene, *, background: bool = True) -> str:
    tail = f" on {scene.background}" if background else ""
    if scene.is_pair:
        return f"a {scene.objects[0]} and a {scene.objects[1]}{tail}"
    thing = CLASS_BY_NAME[scene.objects[0]]
    name = thing.name if scene.count == 1 else thing.plural
    return f"{COUNT_WORDS[scene.count - 1]} {name}{tail}"


OBJECT_CAPTIONS = tuple(f"a {thing.name}" for thing in CLASSES)
PLURAL_CAPTIONS = tuple(thing.plural for thing in CLASSES)
LEFT_CAPTIONS = tuple(f"a {thing.name} on the left" for thing in CLASSES)
RIGHT_CAPTIONS = tuple(f"a {thing.name} on the right" for thing in CLASSES)
BACKGROUND_CAPTIONS = tuple(f"on {name}" for name in BACKGROUNDS)
COUNT_CAPTIONS = ("one thing", "two things", "three things", "two different things")
