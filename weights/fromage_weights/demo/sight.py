"""Questions about an uploaded picture and their answers, as text over a `Scene`."""

import numpy as np

from fromage_weights.demo import phrases
from fromage_weights.demo.dialogue import Turn, typed
from fromage_weights.demo.grammar import COUNT_WORDS, NAMES, pick, plural, with_article
from fromage_weights.demo.splits import Split
from fromage_weights.demo.wordings import question_form, training_wording
from fromage_weights.demo.world import Scene


def _things(scene: Scene) -> str:
    if scene.count > 1:
        return f"{COUNT_WORDS[scene.count - 1]} {plural(scene.objects[0])}"
    return " and ".join(with_article(name) for name in scene.objects)


def _full(scene: Scene) -> str:
    return f"{_things(scene)} on a {scene.background} background"


def _asked(kind: str, rng: np.random.Generator, split: Split) -> str:
    if split == "train":
        return question_form(kind, rng)
    return pick(rng, phrases.kept_wordings(kind, split))


def what(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """Object, count and background, all in one sentence."""
    verb = "These are" if scene.count > 1 else "This is"
    answer = pick(rng, (f"{verb} {_full(scene)}.", f"I see {_full(scene)}."))
    return Turn(typed(_asked("WHAT", rng, split), rng, endings=False), answer)


def how_many(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    if scene.is_pair:
        answer = f"There are two: {_things(scene)}."
    elif scene.count == 1:
        answer = f"There is one {scene.objects[0]}."
    else:
        answer = f"There are {COUNT_WORDS[scene.count - 1]} {plural(scene.objects[0])}."
    question = _asked("HOW_MANY", rng, split)
    if split == "train" and not scene.is_pair and rng.random() < 0.2:
        question = f"how many {plural(scene.objects[0])} are there?"
    return Turn(typed(question, rng, endings=False), answer)


def which_colour(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    question = _asked("WHICH_COLOUR", rng, split)
    return Turn(typed(question, rng, endings=False), f"The background is {scene.background}.")


def existence_question(name: str, rng: np.random.Generator, split: Split) -> str:
    return _asked("IS_THERE", rng, split).format(o=with_article(name))


def is_there(
    scene: Scene, rng: np.random.Generator, split: Split, *, present: bool | None = None
) -> Turn:
    """A yes/no question about one thing, balanced unless `present` says which."""
    yes = rng.random() < 0.5 if present is None else present
    choices = scene.objects if yes else tuple(n for n in NAMES if n not in scene.objects)
    question = existence_question(pick(rng, choices), rng, split)
    answer = f"{'Yes' if yes else 'No'}, I see {_things(scene)}."
    return Turn(typed(question, rng, endings=False), answer)


def side(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """Which of a pair is left or right; of a single scene, what there is."""
    left = rng.random() < 0.5
    if split == "train":
        form = training_wording("SIDE", rng)
    else:
        form = pick(rng, phrases.kept_wordings("SIDE", split))
    question = form.format(s="left" if left else "right")
    name = scene.objects[0] if left else scene.objects[-1]
    thing = with_article(name)
    answer = f"{thing[0].upper()}{thing[1:]} is on the {'left' if left else 'right'}."
    return Turn(typed(question, rng, endings=False), answer)


def look(scene: Scene, rng: np.random.Generator, split: Split) -> Turn:
    """Any question about the picture."""
    draw = rng.random()
    if draw < 0.34:
        return what(scene, rng, split)
    if draw < 0.46:
        return how_many(scene, rng, split)
    if draw < 0.56:
        return which_colour(scene, rng, split)
    if draw < 0.94 or not scene.is_pair:
        return is_there(scene, rng, split)
    return side(scene, rng, split)
