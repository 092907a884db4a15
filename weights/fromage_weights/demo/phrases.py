"""Wordings, each list in a training, a validation and a test part that share nothing.

`{x}` is a noun phrase, `{o}` "a dog", `{n}` a count word, `{c}` a colour. These are the plainest;
`more_wordings.json` has hundreds of each kind for training, and some for validation.
"""

import json
from functools import cache
from importlib.resources import files

from fromage_weights.demo.question_phrases import QUESTIONS
from fromage_weights.demo.splits import Split

REQUESTS: dict[Split, tuple[str, ...]] = {
    "train": (
        "show me {x}",
        "show me {x}",
        "show me {x}",
        "can you show me {x}",
        "could you show me {x}",
        "please show me {x}",
        "i want to see {x}",
        "i would like to see {x}",
        "let me see {x}",
        "do you have {x}",
        "do you have a picture of {x}",
        "find me {x}",
        "find {x}",
        "give me {x}",
        "a picture of {x}",
        "picture of {x}",
        "an image of {x}",
        "show {x}",
        "{x}",
        "{x} please",
        "i need {x}",
        "get me {x}",
        "is there a picture of {x}",
        "look for {x}",
        "search for {x}",
        "how about {x}",
        "show us {x}",
        "display {x}",
        "i'd love to see {x}",
        "can i see {x}",
        "may i see {x}",
        "got any pictures of {x}",
        "bring up {x}",
        "what does {x} look like",
        "i want {x}",
        "now show me {x}",
        "a photo of {x} would be nice",
    ),
    "validation": (
        "could i get a look at {x}",
        "i am looking for {x}",
        "would you show me {x}",
        "pull up {x}",
        "any chance of seeing {x}",
        "i'd like a photo of {x}",
        "please find a picture with {x}",
        "could you find {x} for me",
        "are there any images of {x}",
        "can you display {x}",
        "let's see {x}",
        "it would be great to see {x}",
    ),
    "test": (
        "can we look at {x}",
        "i am searching for {x}",
        "i'd be happy to see {x}",
        "would you find {x}",
        "put {x} in front of me",
        "is a picture of {x} available",
        "please let me have {x}",
        "which picture has {x}",
        "how does {x} look",
        "you must have {x} somewhere",
        "show a photograph of {x}",
        "i'd appreciate {x}",
    ),
}
AGAIN: dict[Split, tuple[str, ...]] = {
    "train": ("another one", "show me another one", "again", "one more", "more like this", "next"),
    "validation": ("show me a different one", "give me another"),
    "test": (
        "another picture of that",
        "once again please",
        "a second one",
    ),
}
RECOUNT: dict[Split, tuple[str, ...]] = {
    "train": (
        "make it {n}",
        "make that {n}",
        "{n} of them",
        "now {n}",
        "i want {n} of them",
        "show me {n} of them",
        "can you make it {n}",
        "no, {n}",
        "{n} please",
    ),
    "validation": ("i meant {n} of them", "could it be {n}", "let it be {n}"),
    "test": (
        "now make them {n}",
        "there should be {n}",
        "i need {n} of those",
        "rather {n}",
    ),
}
REGROUND: dict[Split, tuple[str, ...]] = {
    "train": (
        "on {c}",
        "now on {c}",
        "put it on {c}",
        "on a {c} background",
        "with a {c} background",
        "make the background {c}",
        "change the background to {c}",
        "i want it on {c}",
        "can you put it on {c}",
        "in front of a {c} background",
        "the same on {c}",
    ),
    "validation": (
        "set the background to {c}",
        "i'd prefer it on {c}",
        "please use a {c} background",
    ),
    "test": (
        "this time on {c}",
        "move it to a {c} background",
        "could the background be {c}",
        "paint the background {c}",
    ),
}
REPLACE: dict[Split, tuple[str, ...]] = {
    "train": (
        "now with {o} instead",
        "{o} instead",
        "replace it with {o}",
        "swap it for {o}",
        "the same with {o}",
        "make it {o}",
    ),
    "validation": ("turn it into {o}", "change it to {o}"),
    "test": (
        "{o} in its place",
        "exchange it for {o}",
        "rather {o}",
    ),
}
ADD: dict[Split, tuple[str, ...]] = {
    "train": ("add {o}", "and {o} next to it", "put {o} next to it", "with {o} beside it"),
    "validation": ("place {o} beside it", "also add {o}"),
    "test": (
        "together with {o}",
        "give it {o} as company",
        "let {o} stand next to it",
    ),
}
OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "hi, ",
    "hello, ",
    "hey, ",
    "please, ",
    "ok, ",
    "thanks, ",
    "great, ",
    "now ",
    "and ",
)
ENDINGS = ("", "", "", "", "", "?", ".", "!", " please", ", please", " now", ", thanks", " for me")
SHOWN = (
    "Here {v} {x}.",
    "Here {v} {x}.",
    "Here {v} {x}.",
    "Sure, here {v} {x}.",
    "Of course, here {v} {x}.",
    "I found {x}.",
    "I have {x}.",
    "This is what I found: {x}.",
)
# Several, so that no single token stands against [RET]; other answers end in a full stop.
CLOSERS = (
    " Enjoy!",
    " Here you go!",
    " Take a look!",
    " Have a look!",
    " I hope you like it!",
    " As you wished!",
    " Just for you!",
    " Look at this!",
)
REFUSALS = (
    "Sorry, I don't have that in my collection.",
    "I don't have that, sorry.",
    "I don't have a picture of that. I know animals, food, plants, vehicles and everyday things.",
    "Sorry, I don't have that. Try a dog, a guitar or a rocket.",
)
ODD_COLOURS: dict[Split, tuple[str, ...]] = {
    "train": ("black", "orange", "brown", "turquoise", "golden", "beige", "violet", "cyan"),
    "validation": ("silver", "magenta", "teal"),
    "test": (
        "bronze",
        "indigo",
        "maroon",
    ),
}
NO_COLOUR = (
    "Sorry, I don't have that background. I have white, gray, red, yellow, green, blue, purple "
    "and pink.",
)


KINDS = {
    "REQUESTS": REQUESTS,
    "AGAIN": AGAIN,
    "RECOUNT": RECOUNT,
    "REGROUND": REGROUND,
    "REPLACE": REPLACE,
    "ADD": ADD,
    **QUESTIONS,
}


@cache
def _more() -> dict[str, dict[str, list[str]]]:
    text = files(__package__).joinpath("more_wordings.json").read_text("utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


@cache
def more_wordings(kind: str, split: Split) -> tuple[str, ...]:
    """Those of `more_wordings.json`: for the kinds above, and BARE, whose {x} has no article."""
    return tuple(_more()[kind].get(split, ()))


@cache
def kept_wordings(kind: str, split: Split) -> tuple[str, ...]:
    """All wordings of `kind` that an evaluation on `split` uses."""
    return (*KINDS[kind][split], *more_wordings(kind, split))
