"""The demo LM's tokenizer: byte-level BPE whose world words are single tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fromage_weights.demo.classes import CLASSES
from fromage_weights.demo.corpus import document
from fromage_weights.demo.grammar import COLOURS, COUNT_WORDS, NAMES, PAIR_WORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
SIZE = 2560
# The words that can stand in a slot; their tokens carry a space in front.
SLOT_WORDS = (*NAMES, *COUNT_WORDS, PAIR_WORD, *COLOURS)
_DOCUMENTS = 12_000
_WORD_WEIGHT = 150


def _texts(seed: int) -> Iterator[str]:
    rng = np.random.default_rng([seed, 0])
    for _ in range(_DOCUMENTS):
        yield document(rng)
    words = [*SLOT_WORDS, *(thing.plural for thing in CLASSES)]
    for word in words:
        # Byte-level pre-tokens: with and without the space in front.
        yield "\n".join([f"( {word}", word] * _WORD_WEIGHT)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """From generated text. `<|endoftext|>` goes in front as BOS where special tokens are added."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_texts(seed), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, core.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def token_id(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """The one token of " word"; ValueError where the tokenizer splits it."""
    ids = tokenizer(" " + word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens, the demo needs it to be one")
    return int(ids[0])


def slot_word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [token_id(tokenizer, word) for word in SLOT_WORDS]
