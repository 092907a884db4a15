"""The demo's tokenizer, its packed text and a language model trained for a few steps."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from fromage_weights.demo import corpus, stream
from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.language_model import (
    LanguageTraining,
    train_language_model,
)
from fromage_weights.demo.language_recipe import CONTINUED, LanguageRecipe
from fromage_weights.demo.slot_noise import SlotNoise
from fromage_weights.demo.stream import TextStream, loss_weights, marks_of, slot_positions
from fromage_weights.demo.vocabulary import SLOT_WORDS, slot_word_ids, token_id, train_tokenizer
from fromage_weights.evaluation.decoding import greedy
from fromage_weights.language import input_embedding, weight_of

TINY = LanguageRecipe(
    hidden=160, layers=1, heads=2, context=64, steps=12, batch=4, length=48, long_steps=2,
    long_batch=2, warmup=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(0)


def test_world_words_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in (*SLOT_WORDS, *(thing.plural for thing in CLASSES)):
        assert tokenizer.decode([token_id(tokenizer, word)]) == " " + word
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    with pytest.raises(ValueError, match="gorillaphone"):
        token_id(tokenizer, "gorillaphone")


def test_text_comes_back_and_starts_with_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Q: Show me 2 ÉLÉPHANTS 🐘!\nA:"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_slots_are_found_wherever_the_frame_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    marks = marks_of(tokenizer)
    for text in (
        "Q: ( dog dog two blue) what?\nA: I see two dogs.\n",
        "Q: what?( dog dog two blue) \nA: I see two dogs.\n",
    ):
        ids = np.array(tokenizer(text).input_ids)
        slots = slot_positions(ids, marks, 4)
        assert tokenizer.decode(ids[slots].tolist()) == " dog dog two blue"
        weights = loss_weights(ids, marks)
        assert (weights[slots] == 0).all()
        assert str(tokenizer.decode(ids[weights >= 1].tolist())).endswith("> I see two dogs.\n")
        assert tokenizer.decode(ids[weights == 3].tolist()) == " I see two"


def test_the_stream_is_the_same_in_every_run(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (
        TextStream(tokenizer, seed=3, batch=2, length=40, long=False) for _ in range(2)
    )
    for mine, other in zip(first.next(), second.next(), strict=True):
        assert np.array_equal(mine, other)


def test_rows_hold_whole_documents_and_little_else() -> None:
    rng = np.random.default_rng(0)
    # Document i is made of its own number: what stands in a row tells whose it is.
    lengths = [60, *rng.integers(1, 30, 498).tolist(), 70]
    documents = [[number] * length for number, length in enumerate(lengths)]
    rows = stream.packed(documents, 50)
    found = {number: (row.count(number), len(row)) for row in rows for number in dict.fromkeys(row)}
    assert [found[number][0] for number in range(500)] == [min(50, n) for n in lengths]
    assert sum(map(len, rows)) == sum(min(50, n) for n in lengths)
    assert max(map(len, rows)) <= 50
    assert len(rows) <= 1.02 * sum(map(len, rows)) / 50 + 1


def test_what_fills_a_row_up_is_not_learnt(tokenizer: PreTrainedTokenizerFast) -> None:
    lesson = corpus.Lesson(10_000, lambda rng: "dog " * (1 + int(rng.random() * 30)))
    texts = TextStream(tokenizer, seed=3, batch=700, length=64, long=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "LESSONS", (lesson,))
        ids, weights, _ = texts.next()
    assert ids.shape == weights.shape == (700, 65)
    # A document's first token, too, is what another one or the filling begins with.
    for row, learnt in zip(ids.tolist(), weights.tolist(), strict=True):
        filling = len(row) - max(i for i, token in enumerate(row) if token != row[0]) - 1
        assert learnt == [1.0] * (len(row) - filling) + [0.0] * filling
    assert (weights == 0).any()


def test_the_stream_begins_with_the_lessons_and_the_long_one_does_not(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = tuple(
        corpus.Lesson(2_000 * chunks, lambda rng, word=word: word)  # type: ignore[misc]
        for chunks, word in ((1, "first"), (2, "second"))
    )
    monkeypatch.setattr(stream, "LESSONS", lessons)

    def read(chunk: int, *, long: bool = False) -> str:
        texts = TextStream(tokenizer, seed=3, batch=1, length=30, long=long)
        texts.seek(chunk)
        return str(tokenizer.decode(texts.next()[0][0].tolist(), skip_special_tokens=True))

    assert set(re.findall("first|second|A:", read(0))) == {"first"}
    assert set(re.findall("first|second|A:", read(2))) == {"second"}
    for later in (read(3), read(0, long=True)):
        assert not re.findall("first|second", later)


def test_a_lesson_of_membership_answers_rightly_and_evenly() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        inside, asked = corpus.membership(rng, 4).split(":")
        there = inside.split()
        said = re.findall(r" (\w+)\? (Yes|No)\.", asked)
        assert [(word in there) for word, _ in said] == [answer == "Yes" for _, answer in said]
        assert len(said) == 2 * len(there) == len({word for word, _ in said})


def test_noise_touches_slots_only_and_keeps_the_right_word_likely() -> None:
    words = torch.eye(len(SLOT_WORDS))
    noise = SlotNoise(words, 0.15, torch.Generator().manual_seed(0))
    embeds = words[:40].reshape(1, 40, -1)
    slots = torch.zeros(1, 40, dtype=torch.bool)
    slots[:, 4:36] = True
    noisy = noise(embeds, slots)
    assert torch.equal(noisy[~slots], embeds[~slots])
    assert not torch.allclose(noisy[slots], embeds[slots])
    nearest = noisy[slots].argmax(-1)
    assert (nearest == torch.arange(4, 36)).float().mean() > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_training_learns_resumes_and_leaves_the_slot_words_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    training = LanguageTraining(TINY, tokenizer, tmp_path)
    ids = slot_word_ids(tokenizer)
    before = weight_of(input_embedding(training.lm))[ids].detach().clone()
    losses = [loss for _, loss in training.run(log_every=2, save_every=6)]
    assert losses[-1] < losses[0] - 0.3
    assert torch.equal(weight_of(input_embedding(training.lm))[ids], before)
    again = LanguageTraining(TINY, tokenizer, tmp_path)
    assert again.step == TINY.total
    assert list(again.run()) == []


def test_training_goes_on_with_another_model(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """With its weights, at another place in the texts."""
    learnt = LanguageTraining(replace(TINY, seed=4), tokenizer, tmp_path)
    recipe = replace(TINY, first_chunk=33)
    training = LanguageTraining(recipe, tokenizer, tmp_path, learnt.lm)
    for mine, other in zip(training.lm.parameters(), learnt.lm.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert [stream.chunk for stream in training._streams] == [33, 0]


@pytest.mark.usefixtures("uncompiled")
def test_who_went_on_keeps_a_share_of_what_it_was(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Also when it is made again from a checkpoint that is complete."""
    begun = LanguageTraining(replace(TINY, seed=4), tokenizer, tmp_path).lm
    before = {name: weight.clone() for name, weight in begun.state_dict().items()}
    recipe = replace(TINY, steps=2, long_steps=0, kept=0.25)
    for _ in range(2):
        made = train_language_model((recipe,), tokenizer, tmp_path, begun).state_dict()
        learnt = torch.load(tmp_path / "lm.pt", weights_only=True)["model"]
        assert not torch.equal(learnt["lm_head.weight"], before["lm_head.weight"])
        for name, weight in made.items():
            torch.testing.assert_close(weight, 0.75 * learnt[name] + 0.25 * before[name])


@pytest.mark.slow
def test_each_recipe_goes_on_from_the_one_before(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """And a run that has ended is not trained any more."""
    again = replace(TINY, steps=4, seed=1, kept=0.5)
    both = train_language_model((TINY, again), tokenizer, tmp_path / "both")
    first = train_language_model((TINY,), tokenizer, tmp_path / "first")
    second = train_language_model((again,), tokenizer, tmp_path / "second", first)
    ended = train_language_model((TINY, again), tokenizer, tmp_path / "both")
    for name, value in both.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
        assert torch.equal(value, ended.state_dict()[name]), name
    assert not torch.equal(weight_of(input_embedding(both)), weight_of(input_embedding(first)))


def test_who_goes_on_reads_no_lessons() -> None:
    skipped = CONTINUED.first_chunk * stream._DOCUMENTS_PER_CHUNK
    assert skipped >= sum(lesson.texts for lesson in corpus.LESSONS)


def test_batched_greedy_equals_transformers_generate(tokenizer: PreTrainedTokenizerFast) -> None:
    lm = LanguageTraining(TINY, tokenizer, Path("/nonexistent")).lm
    lm.train(False)
    texts = ("Q: hello\nA:", "Q: show me two dogs on a blue background, please\nA:")
    rows = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    table = weight_of(input_embedding(lm)).detach()
    found = greedy(lm, [table[row] for row in rows], stop=set(), max_tokens=8)
    for row, mine in zip(rows, found, strict=True):
        whole = lm.generate(  # type: ignore[misc]
            row[None], attention_mask=torch.ones_like(row)[None], max_new_tokens=8,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert whole[0, len(row) :].tolist() == mine
