"""How the demo's world is put into words: noun phrases, captions, requests, the slot of an upload.

A `Wish` is what a text says about a picture. The slot is four words that stand where an upload's
four soft tokens will stand: first object, second object, count, background.
"""

from dataclasses import dataclass

import numpy as np

from fromage_weights.demo.classes import CLASS_BY_NAME, CLASSES
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.world import BACKGROUNDS, Scene

NAMES = tuple(thing.name for thing in CLASSES)
COLOURS = tuple(BACKGROUNDS)
COUNT_WORDS = ("one", "two", "three")
PAIR_WORD = "pair"
SLOT_LENGTH = 4
_CALLED_PAIR = 0.12
_AN = ("a", "e", "i", "o", "umbrella")


@dataclass(frozen=True)
class Wish:
    """What is said about a picture; `count` and `background` are None where nothing is said.

    `objects` is one name, or two from left to right (then `count` is 1).
    """

    objects: tuple[str, ...]
    count: int | None = 1
    background: str | None = None

    @property
    def is_pair(self) -> bool:
        return len(self.objects) == 2

    @property
    def held_out(self) -> bool:
        """Whether training may not mention it: it singles out a held-out combination."""
        if self.is_pair:
            return is_held_out(Scene(self.objects, 1, self.background or COLOURS[0]))
        if self.count is None or self.background is None:
            return False
        return is_held_out(Scene(self.objects, self.count, self.background))

    def admits(self, scene: Scene) -> bool:
        """Whether `scene` has all that is said (a pair in either order)."""
        return (
            set(self.objects) == set(scene.objects)
            and self.count in (None, scene.count)
            and self.background in (None, scene.background)
        )


def wish_of(scene: Scene) -> Wish:
    return Wish(scene.objects, scene.count, scene.background)


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.random() * len(options))]


def with_article(name: str) -> str:
    return ("an " if name.startswith(_AN) else "a ") + name


def plural(name: str) -> str:
    return CLASS_BY_NAME[name].plural


def _counted(name: str, count: int | None, rng: np.random.Generator, digits: bool) -> str:
    if count is None:
        return pick(rng, ("some ", "")) + plural(name)
    if count == 1:
        return ("one " + name) if rng.random() < 0.15 else with_article(name)
    word = str(count) if digits and rng.random() < 0.2 else COUNT_WORDS[count - 1]
    return f"{word} {plural(name)}"


_PAIRS = (
    "{a} and {b}",
    "{a} and {b}",
    "{a} and {b}",
    "{a} next to {b}",
    "{a} beside {b}",
    "{a} with {b}",
    "{a} to the left of {b}",
    "{b} to the right of {a}",
)
_GROUNDS = (
    " on {c}",
    " on {c}",
    " on {c}",
    " on a {c} background",
    " on a {c} background",
    " with a {c} background",
    " against a {c} background",
    " in front of a {c} background",
)


def things(wish: Wish, rng: np.random.Generator, *, digits: bool = False) -> str:
    """The noun phrase without the background."""
    if wish.is_pair:
        left, right = (with_article(name) for name in wish.objects)
        return pick(rng, _PAIRS).format(a=left, b=right)
    return _counted(wish.objects[0], wish.count, rng, digits)


def ground(colour: str | None, rng: np.random.Generator) -> str:
    return "" if colour is None else pick(rng, _GROUNDS).format(c=colour)


def describe(wish: Wish, rng: np.random.Generator, *, digits: bool = False) -> str:
    """A noun phrase for the wish in one of many wordings: "two dogs on a blue background"."""
    return things(wish, rng, digits=digits) + ground(wish.background, rng)


def state(wish: Wish, rng: np.random.Generator) -> str:
    """The noun phrase as answers use it: fewer wordings, pairs left to right."""
    if wish.is_pair:
        left, right = (with_article(name) for name in wish.objects)
        text = f"{left} and {right}"
    elif wish.count is None:
        text = "some " + plural(wish.objects[0])
    elif wish.count == 1:
        text = with_article(wish.objects[0])
    else:
        text = f"{COUNT_WORDS[wish.count - 1]} {plural(wish.objects[0])}"
    if wish.background is None:
        return text
    form = " on {c}" if rng.random() < 0.5 else " on a {c} background"
    return text + form.format(c=wish.background)


def is_are(wish: Wish) -> str:
    return "is" if wish.is_pair or wish.count == 1 else "are"


def tags(wish: Wish, rng: np.random.Generator) -> str:
    """The wish's words in random order, two objects side by side: " two blue dog"."""
    groups = [" " + " ".join(wish.objects)]
    if wish.count is not None and not wish.is_pair:
        groups.append(" " + COUNT_WORDS[wish.count - 1])
    if wish.background is not None:
        groups.append(" " + wish.background)
    order = rng.permutation(len(groups))
    return "".join(groups[i] for i in order)


def slot_words(scene: Scene) -> tuple[str, str, str, str]:
    """The four words in an upload's slot."""
    first, last = scene.objects[0], scene.objects[-1]
    count = PAIR_WORD if scene.is_pair else COUNT_WORDS[scene.count - 1]
    return first, last, count, scene.background


def slot(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The slot as text. With `rng`, two of a thing are now and then called a pair: an image's count
    may be read so, and its two equal names still say what it is."""
    first, last, count, colour = slot_words(scene)
    if rng is not None and scene.count == 2 and rng.random() < _CALLED_PAIR:
        count = PAIR_WORD
    return f"( {first} {last} {count} {colour})"


def random_wish(rng: np.random.Generator, *, pairs: float = 0.25, say_all: float = 0.3) -> Wish:
    """A wish that training may use; each attribute is left out often enough to be learnt so."""
    while True:
        names = rng.choice(len(NAMES), size=2, replace=False)
        colour = COLOURS[int(rng.random() * len(COLOURS))]
        full = rng.random() < say_all
        background = colour if full or rng.random() < 0.3 else None
        if rng.random() < pairs:
            wish = Wish((NAMES[names[0]], NAMES[names[1]]), 1, background)
        else:
            draw = rng.random()
            count = 1 + int(rng.random() * 3) if full or draw < 0.4 else (1 if draw < 0.8 else None)
            wish = Wish((NAMES[names[0]],), count, background)
        if not wish.held_out:
            return wish
