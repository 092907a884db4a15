"""Requests put together from parts: thousands of wordings, so that whether a thing is known is
decided by the thing and not by how it is asked for."""

import numpy as np

from fromage_weights.demo.grammar import pick
from fromage_weights.demo.phrases import REQUESTS

_LEADS = (
    "",
    "",
    "",
    "",
    "so ",
    "well, ",
    "hmm, ",
    "listen, ",
    "quick, ",
    "my friend, ",
    "now then, ",
)
_ASKING = ("can", "could", "would", "will", "won't", "can't")
_WHO = ("you", "you", "you", "we", "i", "someone")
_VERBS = (
    "show", "find", "fetch", "bring", "present", "open", "load", "retrieve", "locate", "pick",
    "choose", "send", "grab", "dig out", "put up", "pass", "deliver", "give", "get", "print",
    "post", "share", "pull out", "call up", "look up", "hand over", "see", "view", "have", "check",
    "scan for", "browse for", "turn up", "throw in", "play", "try", "spot", "watch", "list",
)  # fmt: skip
_WHOM = ("", "", " me", " me", " us", " my son", " my daughter", " everybody")
_FORMS = (
    "", "", "", "a picture of ", "a photo of ", "an image of ", "pictures of ", "images with ",
    "a drawing with ", "a shot of ", "something with ", "photos of ", "any image with ",
    "one with ",
)  # fmt: skip
_TAILS = (
    "", "", "", "", " for me", " for us", " right now", " today", " if possible", " if you can",
    " on the screen", " from your collection", " again", " somewhere", " at once", " too",
)  # fmt: skip
_WISHES = (
    "i feel like {x}", "i am after {x}", "i wish for {x}", "i could use {x}", "i fancy {x}",
    "i am keen on {x}", "i would enjoy {x}", "i am hoping for {x}", "i am dying to see {x}",
    "i was thinking of {x}", "i require {x}", "i came for {x}", "i miss {x}", "we need {x}",
    "my daughter wants {x}", "everybody loves {x}", "what about {x}", "where is {x}",
    "who has {x}", "have you got {x}", "do you know {x}", "is there {x} in your collection",
    "do you own {x}", "does your collection have {x}", "maybe {x}",
    "then {x}", "next, {x}", "{x}, that is what i want", "{x} would be lovely",
    "{x}, if you have it",
    "a nice {x}", "my favourite is {x}", "go for {x}", "let me look at {x}", "let us look at {x}",
    "time to see {x}", "surprise me with {x}", "make me happy with {x}", "i'd rather see {x}",
    "i would love {x}", "i'm in the mood for {x}", "is it possible to see {x}",
    "what i want is {x}", "all i need is {x}", "one more wish: {x}", "the next picture: {x}",
    "please, {x}", "are you able to show {x}", "do we have {x}",
)  # fmt: skip
_KEPT = tuple(form.split("{x}")[0].strip() for form in REQUESTS["eval"])


def _made(rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.35:
        core = pick(rng, _WISHES)
    elif draw < 0.7:
        who = f"{pick(rng, _ASKING)} {pick(rng, _WHO)} "
        core = who + pick(rng, _VERBS) + pick(rng, _WHOM) + " " + pick(rng, _FORMS) + "{x}"
    else:
        core = pick(rng, _VERBS) + pick(rng, _WHOM) + " " + pick(rng, _FORMS) + "{x}"
    return pick(rng, _LEADS) + core + pick(rng, _TAILS)


def training_form(rng: np.random.Generator) -> str:
    """A request with {x} in it; never a wording kept for evaluation."""
    if rng.random() < 0.4:
        return pick(rng, REQUESTS["train"])
    while True:
        form = _made(rng)
        if not any(kept in form for kept in _KEPT):
            return form
