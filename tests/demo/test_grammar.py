"""What the demo's models may and may not read while they learn."""

import numpy as np
import pytest

from fromage_weights.demo import corpus, dialogue, phrases
from fromage_weights.demo.grammar import NAMES, Wish, describe, slot, tags
from fromage_weights.demo.samples import random_draft
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.world import Scene, single_scenes

HALVED = (
    phrases.REQUESTS,
    phrases.AGAIN,
    phrases.RECOUNT,
    phrases.REGROUND,
    phrases.REPLACE,
    phrases.ADD,
    phrases.WHAT,
    phrases.HOW_MANY,
    phrases.WHICH_COLOUR,
    phrases.IS_THERE,
    phrases.SIDE,
    phrases.ODD_COLOURS,
)


@pytest.mark.parametrize("halves", HALVED)
def test_training_and_evaluation_wordings_are_disjoint(halves: dict[str, tuple[str, ...]]) -> None:
    assert not set(halves["train"]) & set(halves["eval"])
    assert halves["eval"]


def test_small_talk_and_unknown_words_are_disjoint() -> None:
    for intent in dialogue.small_talk().values():
        assert not set(intent["train"]) & set(intent["eval"])
        # A full stop or a question mark: "!" belongs to answers with a picture.
        assert all(answer[-1] in ".?" for answer in intent["answers"])
    train, unseen = dialogue.unknown_words("train"), dialogue.unknown_words("eval")
    assert not set(train) & set(unseen)
    assert not (set(train) | set(unseen)) & set(NAMES)


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


def test_training_texts_never_use_an_evaluation_wording() -> None:
    rng = np.random.default_rng(6)
    text = "\n".join(corpus.document(rng) for _ in range(3000)).lower()
    for form in phrases.REQUESTS["eval"]:
        assert form.split("{x}")[0].strip() not in text


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
