"""Nouns for things that the collection doesn't have."""

import json
from functools import cache
from importlib.resources import files

import numpy as np

from fromage_weights.demo.grammar import NAMES, pick, plural
from fromage_weights.demo.splits import EVALUATION_SPLITS, Split

_ONSETS = (*"bcdfghjklmnprstvwz", "br", "cr", "dr", "fl", "gl", "gr", "pl", "pr", "sk", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "oo", "ee", "ai", "ou")
_CODAS = ("", "", "b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x", "ng", "nk", "rt")


@cache
def _lists() -> dict[str, list[str]]:
    text = files(__package__).joinpath("unknown_words.json").read_text("utf-8")
    found: dict[str, list[str]] = json.loads(text)
    return found


@cache
def unknown_words(split: Split) -> tuple[str, ...]:
    """Real things outside the collection."""
    return tuple(_lists()[split])


@cache
def talked_of() -> tuple[str, ...]:
    """What people talk of without wanting to see it; asked for as a picture, it is not there
    either. Training words, none of them kept for evaluation."""
    return tuple(word for word in _lists()["talked_of"] if word not in _words_there_are())


def pseudo_word(rng: np.random.Generator) -> str:
    """Made up; one in ten begins with a known thing, as "carpet" does: only its end tells. Half of
    the others are put together of two words' halves, as unmet words are of met pieces. Never a
    thing that is known, nor a word that is kept for evaluation."""
    while (made := _made_up(rng)) in _words_there_are():
        pass
    return made


def _made_up(rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.1:
        return pick(rng, NAMES) + _syllable(rng)
    if draw < 0.55:
        first, last = pick(rng, unknown_words("train")), pick(rng, unknown_words("train"))
        return first[: (len(first) + 1) // 2] + last[len(last) // 2 :]
    return "".join(_syllable(rng) for _ in range(2 + int(rng.random() < 0.3)))


@cache
def _words_there_are() -> frozenset[str]:
    kept = [word for split in EVALUATION_SPLITS for word in unknown_words(split)]
    return frozenset([*NAMES, *map(plural, NAMES), *kept, *(f"{word}s" for word in kept)])


def _syllable(rng: np.random.Generator) -> str:
    return pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _CODAS)


def any_noun(rng: np.random.Generator) -> str:
    """Of the training words, or made up."""
    return pseudo_word(rng) if rng.random() < 0.3 else pick(rng, unknown_words("train"))
