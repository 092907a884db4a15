"""What the demo's models may and may not read while they learn."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from fromage_weights.demo import corpus, dialogue, nouns, phrases, sight
from fromage_weights.demo.dialogue import Turn
from fromage_weights.demo.grammar import COLOURS, NAMES, Wish, describe, slot, tags
from fromage_weights.demo.near_talk import near_talk_form
from fromage_weights.demo.samples import random_draft
from fromage_weights.demo.small_talk import small_talk
from fromage_weights.demo.small_talk_forms import small_talk_form
from fromage_weights.demo.splits import Split, is_held_out
from fromage_weights.demo.world import Scene, single_scenes

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.mark.parametrize("kind", phrases.KINDS)
def test_wordings_of_the_three_parts_are_disjoint(kind: str) -> None:
    parts = {split: set(phrases.kept_wordings(kind, split)) for split in SPLITS}
    assert all(parts.values())
    # One of those for training may be written down twice: it is then drawn more often.
    assert len(set().union(*parts.values())) == sum(map(len, parts.values()))


def test_backgrounds_that_no_scene_has_are_disjoint() -> None:
    parts = [set(phrases.ODD_COLOURS[split]) for split in SPLITS]
    assert len(set().union(*parts, COLOURS)) == sum(map(len, parts)) + len(COLOURS)


@pytest.mark.parametrize("kind", phrases.KINDS)
def test_all_reported_wordings_are_in_the_code(kind: str) -> None:
    """What is reported on was fixed first; the lists that have grown since are not part of it."""
    assert phrases.more_wordings(kind, "test") == ()


def test_small_talk_and_unknown_words_are_disjoint() -> None:
    for intent in small_talk().values():
        parts = [set(intent[part]) for part in ("train", "validation", "test")]
        assert all(parts)
        assert len(set().union(*parts)) == sum(map(len, parts))
        # A full stop or a question mark: "!" belongs to answers with a picture.
        assert all(answer[-1] in ".?" for answer in intent["answers"])
    words = [set(nouns.unknown_words(part)) for part in ("train", "validation", "test")]
    assert all(words)
    assert len(set().union(*words, NAMES)) == sum(map(len, words)) + len(NAMES)


def test_requests_that_begin_as_small_talk_does() -> None:
    rng = np.random.default_rng(6)
    drawn = {near_talk_form(rng) for _ in range(20_000)}
    prompts = [p.lower() for intent in small_talk().values() for p in intent["train"]]
    assert "do you have {x}" in drawn
    assert len(drawn) > 100
    for form in drawn:
        begin = " ".join(form.partition("{x}")[0].split()[:2])
        assert any(prompt.startswith(begin) for prompt in prompts), form
        assert form not in phrases.kept_wordings("REQUESTS", "validation")


def test_what_is_made_up_is_no_word_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["dog", "dogs", nouns.unknown_words("validation")[0], nouns.unknown_words("test")[0]]
    drawn = iter([*there, f"{there[2]}s", "blorb"])
    monkeypatch.setattr(nouns, "_made_up", lambda rng: next(drawn))
    assert nouns.pseudo_word(np.random.default_rng(0)) == "blorb"


def test_closers_end_in_an_exclamation_mark() -> None:
    assert all(closer.endswith("!") for closer in phrases.CLOSERS)
    assert not any(text.endswith("!") for text in (*phrases.REFUSALS, *phrases.NO_COLOUR))


def test_training_texts_never_mention_a_held_out_combination() -> None:
    rng = np.random.default_rng(5)
    for _ in range(4000):
        for turn in corpus.turns(rng, 2):
            assert turn.wish is None or not turn.wish.held_out
            assert turn.upload is None or not is_held_out(turn.upload)
    for _ in range(4000):
        draft = random_draft(rng, corpus.training_scene)
        assert not any(wish.held_out for wish in draft.wishes)
        assert not any(is_held_out(scene) for scene in draft.uploads)


@pytest.fixture(scope="module")
def training_texts() -> list[str]:
    """What the LM and the mappers read, in lower case."""
    rng = np.random.default_rng(6)
    texts = [corpus.document(rng) for _ in range(6000)]
    texts += [lesson.make(rng) for lesson in corpus.LESSONS for _ in range(500)]
    texts += [random_draft(rng, corpus.training_scene).text for _ in range(3000)]
    return [text.lower() for text in texts]


def _turns(texts: list[str]) -> list[str]:
    return [q for text in texts for q in re.findall(r"q: (.*?)(?: a:|\n|$)", text)]


def _asked(texts: list[str]) -> list[str]:
    """Questions: those of turns, and those that stand inside lists of checks."""
    checks = (q for text in texts for q in re.split(r"(?: yes| no)\. ?|: ", text))
    return [*_turns(texts), *checks]


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).removesuffix(" please").strip()


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("kind", phrases.KINDS)
def test_training_texts_never_use_an_evaluation_wording(
    training_texts: list[str], kind: str, part: Split
) -> None:
    slots = {"{n}": "(?:one|two|three|[123])", "{c}": f"(?:{'|'.join(COLOURS)})"}
    slots |= {"{s}": "(?:left|right)", "{o}": r"[^?.!]+?", "{x}": r"[^?.!]+?"}
    asked = _asked(training_texts)
    for form in phrases.kept_wordings(kind, part):
        pattern = re.escape(form.rstrip("?")).replace(r"\{", "{").replace(r"\}", "}")
        for slot_name, words in slots.items():
            pattern = pattern.replace(slot_name, words)
        literal = max(re.split(r"\{.\}", form.rstrip("?")), key=len)
        whole = re.compile(rf"\b{pattern}\b")
        assert not [q for q in asked if literal in q and whole.search(q)], form


@pytest.mark.parametrize("part", ["validation", "test"])
def test_training_texts_hold_no_evaluation_small_talk(
    training_texts: list[str], part: Split
) -> None:
    questions = {_bare(question) for question in _turns(training_texts)}
    for intent in small_talk().values():
        for prompt in intent[part]:
            bare = _bare(prompt)
            if len(bare.split()) < 3:
                assert bare not in questions
            else:
                assert not [q for q in questions if f" {bare} " in f" {q} "], prompt


@pytest.mark.parametrize("part", ["validation", "test"])
def test_backgrounds_kept_for_evaluation_are_never_asked_for(
    training_texts: list[str], part: Split
) -> None:
    grounds = "|".join(phrases.ODD_COLOURS[part])
    asked = re.compile(rf"\b(?:{grounds}) background|\bon (?:a )?(?:{grounds})\b")
    assert not [text for text in training_texts if asked.search(text)]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_wordings_are_recognised(part: Split) -> None:
    rng = np.random.default_rng(7)
    scene = Scene(("dog",), 2, "blue")
    makers: tuple[Callable[[], Turn], ...] = (
        lambda: dialogue.request(Wish(("dog",)), rng, part),
        lambda: dialogue.recount(Wish(("dog",)), rng, part),
        lambda: dialogue.reground(Wish(("dog",)), rng, part),
        lambda: dialogue.chatter(rng, part),
        lambda: sight.what(scene, rng, part),
        lambda: sight.how_many(scene, rng, part),
        lambda: sight.which_colour(scene, rng, part),
        lambda: sight.is_there(scene, rng, part),
    )
    for make in makers:
        assert all(dialogue.belongs_to_evaluation(make()) for _ in range(60))


def test_made_up_small_talk_never_asks_for_a_thing_outright() -> None:
    rng = np.random.default_rng(8)
    asked = [small_talk_form(name, rng) for name in small_talk() for _ in range(400)]
    assert all(text and text == text.strip() and "<" not in text for text in asked)
    assert not any(re.search(r"[{}|]", text) for text in asked)
    assert not {text for text in asked if text in NAMES}


def test_every_held_out_single_is_recognised_as_such() -> None:
    held = [scene for scene in single_scenes() if is_held_out(scene)]
    assert 0.05 < len(held) / len(list(single_scenes())) < 0.15
    assert all(Wish(s.objects, s.count, s.background).held_out for s in held)
    assert not any(Wish(s.objects, s.count).held_out for s in held)


def test_a_wish_admits_what_has_all_that_is_said() -> None:
    scene = Scene(("dog",), 2, "blue")
    assert Wish(("dog",), None, "blue").admits(scene)
    assert not Wish(("dog",), 1, "blue").admits(scene)
    assert not Wish(("cat",), None, None).admits(scene)
    assert Wish(("cat", "dog"), 1).admits(Scene(("dog", "cat"), 1, "red"))


def test_slot_and_tags_hold_the_scenes_words() -> None:
    assert slot(Scene(("dog",), 2, "blue")) == "( dog dog two blue)"
    assert slot(Scene(("dog", "cat"), 1, "red")) == "( dog cat pair red)"
    said = tags(Wish(("dog",), 3, "pink"), np.random.default_rng(0))
    assert sorted(said.split()) == ["dog", "pink", "three"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(("elephant",)), {"elephant"}),
        (Wish(("dog",), None), {"dogs"}),
        (Wish(("mouse" if "mouse" in NAMES else "bus" if "bus" in NAMES else "fox",), 2), set()),
        (Wish(("dog", "cat"), 1, "red"), {"dog", "cat", "red"}),
    ],
)
def test_descriptions_say_everything(wish: Wish, words: set[str]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert words <= set(describe(wish, rng).split())
