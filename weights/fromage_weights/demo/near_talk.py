"""Requests that begin as small talk does: "do you have {x}" beside "do you have a nickname?".

Only the thing tells them apart, and a thing that is not known tells little; asked for in these
wordings it was the last to be taken for small talk.
"""

import re
from functools import cache

import numpy as np

from fromage_weights.demo import phrases
from fromage_weights.demo.grammar import pick
from fromage_weights.demo.small_talk import small_talk

_TELLING = 2  # so many words in front of the thing
_MOST = 6  # in all: more of them tell what is wanted
_PLAIN = re.compile(r"pict|photo|imag|shot|draw|see|show|look|display|view|watch")


@cache
def _forms() -> tuple[str, ...]:
    prompts = [
        prompt.lower().split() for intent in small_talk().values() for prompt in intent["train"]
    ]
    begins = {tuple(words[:count]) for words in prompts for count in range(1, _TELLING + 1)}
    wordings = (*phrases.REQUESTS["train"], *phrases.more_wordings("REQUESTS", "train"))
    fronts = {form: form.partition("{x}")[0].split()[:_TELLING] for form in wordings}
    return tuple(
        form
        for form, front in fronts.items()
        if front and tuple(front) in begins and len(form.split()) <= _MOST
        if not _PLAIN.search(form)
    )


def near_talk_form(rng: np.random.Generator) -> str:
    """A training request with {x} in it whose first words begin small talk, too."""
    return pick(rng, _forms())
