"""Single turns of the demo's chat: what is typed, what is answered, which picture belongs to it."""

import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from fromage_weights.demo import phrases
from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.grammar import (
    COLOURS,
    COUNT_WORDS,
    NAMES,
    Wish,
    describe,
    ground,
    is_are,
    pick,
    plural,
    slot,
    state,
    with_article,
)
from fromage_weights.demo.near_talk import near_talk_form
from fromage_weights.demo.nouns import pseudo_word, talked_of, unknown_words
from fromage_weights.demo.small_talk import small_talk
from fromage_weights.demo.small_talk_forms import small_talk_form
from fromage_weights.demo.splits import EVALUATION_SPLITS, Split
from fromage_weights.demo.wordings import (
    bare_form,
    change_form,
    is_kept,
    training_form,
    training_wording,
)
from fromage_weights.demo.world import Scene

GROUP_WORDS = {
    "animal": "animal",
    "bird": "bird",
    "insect": "insect",
    "plant": "plant",
    "fruit": "fruit",
    "vegetable": "vegetable",
    "vehicle": "vehicle",
    "toy": "toy",
    "music": "instrument",
    "tool": "tool",
}
_COMPOSED = 0.5
# Capitals are other tokens. They are seldom typed, and have to be learnt all the same.
_LOUD: dict[Split, float] = {"train": 0.16, "validation": 0.005, "test": 0.005}
# Of unknown things in training, those not asked for together with a known one. A strange word and a
# known thing in one request mostly mean that the thing is meant.
_APART = 0.89
# So many words of a prompt make it recognisable in a longer sentence.
_TELLING = 3


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `wish` is what the answer's picture has to show, None for an
    answer without one; `upload` the scene behind the slot in `question`."""

    question: str
    answer: str
    wish: Wish | None = None
    upload: Scene | None = None


def typed(text: str, rng: np.random.Generator, *, endings: bool = True, loud: float = 0.005) -> str:
    """As people type: sometimes a capital, a greeting before it, a please or a mark after it, and
    with a chance of ``loud`` capitals only."""
    if endings and rng.random() < 0.4:
        text = pick(rng, phrases.OPENINGS) + text
    if endings and text[-1].isalnum():
        text += pick(rng, phrases.ENDINGS)
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    return text.upper() if rng.random() < loud else text


def shown(wish: Wish, rng: np.random.Generator) -> str:
    """An answer that names what is shown and ends in a closer; [RET] follows it."""
    text = pick(rng, phrases.SHOWN).format(v=is_are(wish), x=state(wish, rng))
    return text + pick(rng, phrases.CLOSERS)


def request_form(rng: np.random.Generator, split: Split, *, near_talk: float = 0.1) -> str:
    """With {x} in it; with a chance of ``near_talk`` one that begins as small talk does."""
    if split == "train":
        return near_talk_form(rng) if rng.random() < near_talk else training_form(rng)
    return pick(rng, phrases.kept_wordings("REQUESTS", split))


def _change(kind: str, rng: np.random.Generator, split: Split) -> str:
    if split == "train":
        return change_form(kind, rng)
    return pick(rng, phrases.kept_wordings(kind, split))


def request(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    """Asks for `wish`, in a wording of `split`."""
    form = request_form(rng, split)
    if wish.count == 1 and not wish.is_pair and rng.random() < 0.1:
        text = wish.objects[0] + ground(wish.background, rng)
        form = bare_form(rng) if split == "train" and rng.random() < 0.5 else form
    else:
        text = describe(wish, rng, digits=True)
    return Turn(typed(form.format(x=text), rng, loud=_LOUD[split]), shown(wish, rng), wish)


def group_request(rng: np.random.Generator) -> Turn:
    """Asks for a kind ("an animal") or for anything at all."""
    if rng.random() < 0.3:
        name = pick(rng, NAMES)
        asked = pick(
            rng, ("surprise me", "show me something", "show me anything", "show me a thing")
        )
    else:
        group = pick(rng, tuple(GROUP_WORDS))
        name = pick(rng, tuple(thing.name for thing in CLASSES if thing.group == group))
        asked = training_form(rng).format(x=with_article(GROUP_WORDS[group]))
    wish = Wish((name,))
    return Turn(typed(asked, rng), shown(wish, rng), wish)


def unknown_request(rng: np.random.Generator, split: Split) -> Turn:
    """Asks for something the collection doesn't have; the answer says so."""
    word = pseudo_word(rng) if rng.random() < 0.25 else pick(rng, unknown_words(split))
    if split == "train" and rng.random() < 0.1:
        word = pick(rng, talked_of())
    draw = rng.random()
    # Bare nouns ("any chance of plaster?") are the ones taken for small talk.
    if split == "train" and rng.random() < 0.15:
        thing = word
    elif draw < 0.5:
        thing = with_article(word)
    elif draw < 0.6:
        thing = word
    elif draw < (_APART if split == "train" else 0.78):
        thing = pick(rng, ("some", "two", "three", "two", "three", "2", "3")) + f" {word}s"
    else:
        both = [with_article(word), with_article(pick(rng, NAMES))]
        thing = " and ".join(both if rng.random() < 0.5 else both[::-1])
    colour = pick(rng, COLOURS) if rng.random() < 0.25 else None
    bare = thing == word and split == "train" and rng.random() < 0.5
    form = bare_form(rng) if bare else request_form(rng, split, near_talk=0.25)
    asked = form.format(x=thing + ground(colour, rng))
    return Turn(typed(asked, rng, loud=_LOUD[split]), pick(rng, phrases.REFUSALS))


def odd_background_request(rng: np.random.Generator, split: Split) -> Turn:
    """A known thing on a background that no scene has."""
    wish = Wish((pick(rng, NAMES),), pick_count(rng))
    colour = pick(rng, phrases.ODD_COLOURS[split])
    asked = describe(wish, rng) + ground(colour, rng)
    form = request_form(rng, split)
    return Turn(typed(form.format(x=asked), rng), pick(rng, phrases.NO_COLOUR))


def chatter(rng: np.random.Generator, split: Split) -> Turn:
    intents = small_talk()
    # Ten times as many ways to ask for knowledge as for a joke: by size, and a little evened out.
    names = tuple(intents)
    sizes = np.array([len(intents[name][split]) for name in names]) ** 0.5
    name = names[int(rng.choice(len(names), p=sizes / sizes.sum()))]
    if split == "train" and rng.random() < _COMPOSED:
        asked = small_talk_form(name, rng)
    else:
        asked = pick(rng, tuple(intents[name][split]))
    text = typed(asked, rng, endings=False)
    if text[-1].isalnum() and rng.random() < 0.3:
        text += pick(rng, ("!", ".", "?", " please"))
    return Turn(text, pick(rng, tuple(intents[name]["answers"])))


@cache
def _kept_small_talk() -> tuple[frozenset[str], tuple[str, ...]]:
    """Prompts kept for evaluation: all of them, and those that are long enough to be looked for
    inside other sentences."""
    kept = {
        _bare(prompt)
        for intent in small_talk().values()
        for part in EVALUATION_SPLITS
        for prompt in intent[part]
    }
    return frozenset(kept), tuple(f" {p} " for p in sorted(kept) if len(p.split()) >= _TELLING)


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).removesuffix(" please").strip()


def _is_kept_small_talk(question: str) -> bool:
    whole, inside = _kept_small_talk()
    bare = _bare(question)
    return bare in whole or any(prompt in f" {bare} " for prompt in inside)


def belongs_to_evaluation(turn: Turn) -> bool:
    """Whether training may not say this: its combination or its wording is held out."""
    if turn.wish is not None and turn.wish.held_out:
        return True
    return is_kept(turn.question) or _is_kept_small_talk(turn.question)


def pick_count(rng: np.random.Generator) -> int:
    return 1 + int(rng.random() * 3)


def recount(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    count = int(rng.choice([n for n in (1, 2, 3) if n != wish.count]))
    word = str(count) if rng.random() < 0.15 else COUNT_WORDS[count - 1]
    asked = _change("RECOUNT", rng, split).format(n=word)
    return _edited(replace(wish, count=count), asked, rng)


def reground(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    colour = pick(rng, tuple(c for c in COLOURS if c != wish.background))
    asked = _change("REGROUND", rng, split).format(c=colour)
    return _edited(replace(wish, background=colour), asked, rng)


def exchange(wish: Wish, rng: np.random.Generator, split: Split, name: str | None = None) -> Turn:
    """The same with another thing, `name` or any; a pair becomes that one thing."""
    if name is None:
        name = pick(rng, tuple(n for n in NAMES if n not in wish.objects))
    some = wish.count if not wish.is_pair else 1
    thing = with_article(name) if some == 1 else plural(name)
    asked = _change("REPLACE", rng, split).format(o=thing)
    return _edited(replace(wish, objects=(name,), count=some), asked, rng)


def addition(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    """A second, different thing beside the first."""
    name = pick(rng, tuple(n for n in NAMES if n not in wish.objects))
    asked = _change("ADD", rng, split).format(o=with_article(name))
    return _edited(Wish((wish.objects[0], name), 1, wish.background), asked, rng)


def repeat(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    if split == "train":
        return _edited(wish, training_wording("AGAIN", rng), rng)
    return _edited(wish, pick(rng, phrases.kept_wordings("AGAIN", split)), rng)


def _edited(wish: Wish, asked: str, rng: np.random.Generator) -> Turn:
    return Turn(typed(asked, rng), shown(wish, rng), wish)


def refine(wish: Wish, rng: np.random.Generator, split: Split) -> Turn:
    """One of the changes that make sense for `wish`."""
    draw = rng.random()
    if draw < 0.38:
        return reground(wish, rng, split)
    if draw < 0.72 and not wish.is_pair:
        return recount(wish, rng, split)
    if draw < 0.82:
        return exchange(wish, rng, split)
    if draw < 0.90 and wish.count == 1 and not wish.is_pair:
        return addition(wish, rng, split)
    return repeat(wish, rng, split)


def with_upload(turn: Turn, scene: Scene, rng: np.random.Generator) -> Turn:
    """The same turn with an upload in it, mostly before the words. Spaces are where the bundle's
    image frame, "({image}) ", has them."""
    first = rng.random() < 0.9
    framed = slot(scene, rng) + " "
    question = framed + turn.question if first else turn.question + framed
    return replace(turn, question=question, upload=scene)
