"""Wordings for training, put together from parts: thousands of requests, so that whether a thing
is known is decided by the thing and not by how it is asked for, and hundreds of ways to change
what is shown and to ask about an upload. None of them is a wording kept for evaluation."""

import re
from collections.abc import Callable
from functools import cache

import numpy as np

from fromage_weights.demo import phrases
from fromage_weights.demo.common_words import COMMON_WORDS
from fromage_weights.demo.grammar import COLOURS, COUNT_WORDS, NAMES, PAIR_WORD, pick, plural
from fromage_weights.demo.nouns import any_noun, unknown_words
from fromage_weights.demo.small_talk import small_talk
from fromage_weights.demo.splits import EVALUATION_SPLITS
from fromage_weights.demo.wording_forms import AROUND, ASIDE, CHANGES, DOING, DONE, QUESTIONS

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
_BARE = ("{x}", "{x}", "{x}", "show me {x}", "{x} please", "picture of {x}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOTS = {"{n}": rf"(?:{'|'.join(COUNT_WORDS)}|[123])", "{c}": rf"(?:{'|'.join(COLOURS)})"}
_SLOTS |= {"{s}": "(?:left|right)", "{o}": r"\S.*", "{x}": r"\S.*"}


@cache
def _kept() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Whatever belongs to the validation or the test part: its longest literal, which is quickly
    looked for, and all of it."""
    found = []
    for kind in phrases.KINDS:
        kept = (phrases.kept_wordings(kind, part) for part in EVALUATION_SPLITS)
        for form in (form.rstrip("?") for forms in kept for form in forms):
            bare = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
            for slot, pattern in _SLOTS.items():
                bare = bare.replace(slot, pattern)
            literal = max(re.split(r"\{.\}", form), key=len)
            found.append((literal, re.compile(rf"\b{bare}\b")))
    return tuple(found)


def is_kept(question: str) -> bool:
    """Whether `question` contains a wording kept for evaluation (small talk: `dialogue`)."""
    text = question.lower()
    return any(literal in text and whole.search(text) for literal, whole in _kept())


def _expanded(form: str, rng: np.random.Generator) -> str:
    while match := _CHOICE.search(form):
        choice = pick(rng, tuple(match[1].split("|")))
        form = form[: match.start()] + choice + form[match.end() :]
    return re.sub(r" +(?=[,?]|$)", "", re.sub(r" {2,}", " ", form)).strip()


def training_wording(kind: str, rng: np.random.Generator) -> str:
    """A wording that is written down, one of the plainest one time in three."""
    plain, more = phrases.KINDS[kind]["train"], phrases.more_wordings(kind, "train")
    return pick(rng, plain if rng.random() < 0.33 else more)


def change_form(kind: str, rng: np.random.Generator) -> str:
    """RECOUNT, REGROUND, REPLACE or ADD, with {n}, {c} or {o} in it."""
    if rng.random() < 0.65:
        return training_wording(kind, rng)
    return _expanded(pick(rng, CHANGES[kind]), rng)


def question_form(kind: str, rng: np.random.Generator) -> str:
    """WHAT, HOW_MANY, WHICH_COLOUR or IS_THERE (with {o} in it)."""
    if rng.random() < 0.65:
        form = training_wording(kind, rng)
        # Marks are often left out.
        return form.rstrip("?") if rng.random() < 0.15 else form
    return _expanded(pick(rng, QUESTIONS[kind]), rng) + ("?" if rng.random() < 0.8 else "")


@cache
def _halves() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands before {x} and what stands behind it in the requests that are written down."""
    halves = [form.partition("{x}") for form in phrases.more_wordings("REQUESTS", "train")]
    return tuple(before for before, _, _ in halves), tuple(after for _, _, after in halves)


def _crossed(rng: np.random.Generator) -> str:
    """One request's beginning and another one's end: either of them says that it is one."""
    before, after = _halves()
    return pick(rng, before) + "{x}" + pick(rng, after)


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


def random_words(rng: np.random.Generator, most: int) -> list[str]:
    return [pick(rng, COMMON_WORDS) for _ in range(int(rng.random() * (most + 1)))]


_FIRST = (
    "how", "what", "which", "where", "who", "why", "when", "must", "is", "are", "can", "could",
    "would", "should", "will", "do", "does", "did", "have", "has", "may", "might", "shall", "i",
    "i'm", "i'd", "i've", "you", "we", "it", "please", "let", "am", "was", "there", "this", "that",
)  # fmt: skip


def _filled(forms: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of `forms`, its choices made and its marks replaced."""
    text = _expanded(pick(rng, forms), rng)
    fillers: dict[str, Callable[[np.random.Generator], str]] = {
        "<noun>": any_noun,
        "<word>": lambda rng: pick(rng, COMMON_WORDS),
        "<verb>": lambda rng: pick(rng, _VERBS),
        "<doing>": lambda rng: pick(rng, DOING),
        "<done>": lambda rng: pick(rng, DONE),
    }
    for mark, filler in fillers.items():
        while mark in text:
            text = text.replace(mark, filler(rng), 1)
    return text


def _after_small_talk(rng: np.random.Generator) -> str:
    """Begins like small talk and goes on as a request."""
    intents = small_talk()
    prompt = pick(rng, tuple(intents[pick(rng, tuple(intents))]["train"])).rstrip("?!.")
    words = prompt.lower().split()[: 1 + int(rng.random() * 4)]
    core = pick(rng, _VERBS) + pick(rng, _WHOM) + " " + pick(rng, _FORMS) + "{x}"
    return " ".join(words) + " " + core + pick(rng, _TAILS)


@cache
def _frame_words() -> tuple[str, ...]:
    """Every word of the training requests that is no thing, number or colour."""
    forms = " ".join((*phrases.REQUESTS["train"], *phrases.more_wordings("REQUESTS", "train")))
    things = {
        name for split in ("train", *EVALUATION_SPLITS) for name in unknown_words(split)
    } | set(NAMES)
    things |= {plural(name) for name in NAMES} | {f"{name}s" for name in things}
    things |= {*COUNT_WORDS, *COLOURS, PAIR_WORD}
    return tuple(sorted(set(re.findall(r"[a-z']*[a-z]", forms)) - things - {"x"}))


def _other_word(rng: np.random.Generator) -> str:
    """What stands around a thing may be a word never seen before, or name another thing: neither
    makes the thing that is asked for unknown."""
    draw = rng.random()
    if draw < 0.4:
        return pick(rng, _frame_words())
    return pick(rng, COMMON_WORDS) if draw < 0.75 else any_noun(rng)


def _strange(rng: np.random.Generator) -> str:
    """A request some of whose words are others, or {x} among words that happen to be there."""
    draw = rng.random()
    if draw < 0.4:
        # Questions, too: a thing in it tells a request from small talk.
        first = [pick(rng, _FIRST)] if draw < 0.24 else []
        return " ".join([*first, *random_words(rng, 4), "{x}", *random_words(rng, 3)])
    words: list[str] = []
    known = training_wording("REQUESTS", rng) if rng.random() < 0.8 else _made(rng)
    for word in known.split():
        draw = rng.random()
        if "{x}" in word or draw > 0.45:
            words.append(word)
        elif draw < 0.3:
            words.append(_other_word(rng))
        elif draw < 0.38:
            words += [word, _other_word(rng)]
    return " ".join(words)


def training_form(rng: np.random.Generator) -> str:
    """A request with {x} in it."""
    draw = rng.random()
    if draw < 0.30:
        return training_wording("REQUESTS", rng)
    if draw < 0.41:
        return _crossed(rng)
    if draw < 0.49:
        return _made(rng)
    if draw < 0.65:
        return _strange(rng)
    if draw < 0.83:
        return _filled(AROUND, rng)
    return _filled(ASIDE, rng) if draw < 0.95 else _after_small_talk(rng)


def bare_form(rng: np.random.Generator) -> str:
    """A request whose {x} is a name without an article."""
    return pick(rng, _BARE if rng.random() < 0.5 else phrases.more_wordings("BARE", "train"))
