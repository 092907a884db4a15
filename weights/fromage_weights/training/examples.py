"""Captions as the ids that the two passes read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fromage_weights.training.objective import Example

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer

# Dressed as the default chat template writes a turn.
REQUESTS = (
    "Q: show me {caption}\nA: Here it is. [RET]",
    "Q: {caption}\nA: [RET]",
    "Q: do you have a picture of {caption}?\nA: Yes, have a look. [RET]",
    "Q: i would like to see {caption}\nA: This is {caption} [RET]",
)
QUESTIONS = (
    "\nQ: what is this?\nA:",
    "\nQ: what do you see?\nA:",
    "\nQ: describe this picture\nA:",
)


class ExampleMaker:
    """From a feature and its caption to an Example; chance comes from the generator given."""

    def __init__(self, tokenizer: FromageTokenizer, *, max_length: int, dialogue: float) -> None:
        self._tokenizer, self._dialogue = tokenizer, dialogue
        self._max_length = max_length

    def __call__(self, features: Tensor, caption: str, rng: np.random.Generator) -> Example:
        if rng.random() < self._dialogue:
            return self._turn(features, caption, rng)
        ret = self._tokenizer.ret_token_id
        words = self._encode(caption + self._tokenizer.ret_token)[:-1][: self._max_length - 1]
        return Example(features, words, (*words, ret))

    def _turn(self, features: Tensor, caption: str, rng: np.random.Generator) -> Example:
        ret = self._tokenizer.ret_token_id
        short = self._short(caption)
        request = REQUESTS[int(rng.integers(len(REQUESTS)))].replace("[RET]", "")
        query = (*self._encode(request.format(caption=short).rstrip()), ret)
        question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        return Example(
            features,
            (*self._tokenizer.encode(f" {short}"), *self._tokenizer.encode("\n")),
            query,
            prompt=self._encode(question),
        )

    def _short(self, caption: str) -> str:
        """At most ``max_length`` - 2 tokens of it."""
        ids = self._tokenizer.encode(caption)
        room = self._max_length - 2
        return caption if len(ids) <= room else self._tokenizer.decode(ids[:room])

    def _encode(self, text: str) -> tuple[int, ...]:
        """With the begin token, where there is one."""
        (ids,) = self._tokenizer.encode_prompt([text])
        assert ids is not None
        return ids
