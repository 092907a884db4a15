"""Text to token ids and back, with the [RET] token and the reference's white-space rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fromage_weights.errors import ModelUnavailable, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenizerRules = Literal["plain", "opt-4.33"]
IMAGE_TOKEN = "<|image|>"  # noqa: S105
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class FromageTokenizer:
    """A Hugging Face tokenizer plus [RET].

    With ``rules="opt-4.33"`` it behaves as the reference's slow tokenizer did (transformers up to
    4.33): ``<|image|>`` and then ``[RET]`` are added, white space directly beside ``[RET]``,
    ``<|image|>`` and ``<pad>`` is dropped (beside ``</s>`` it is kept), and decoding cleans up
    spaces in front of punctuation. With ``"plain"`` only [RET] is added and text stays as it is.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ret_token: str = "[RET]",  # noqa: S107
        rules: TokenizerRules = "plain",
    ) -> None:
        from transformers import AddedToken

        self.hf = tokenizer
        self.rules = rules
        self.ret_token = ret_token
        added = [IMAGE_TOKEN, ret_token] if rules == "opt-4.33" else [ret_token]
        tokenizer.add_tokens(
            [AddedToken(token, normalized=False, special=token == IMAGE_TOKEN) for token in added]
        )
        self.ret_token_id = self._id(ret_token)
        self.image_token_id = self._id(IMAGE_TOKEN) if rules == "opt-4.33" else None
        front = tokenizer("a").input_ids[0]
        self.bos_token_id: int | None = front if front == tokenizer.bos_token_id else None
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self._special_ids = {*tokenizer.all_special_ids, self.image_token_id}
        self._strippers = {ret_token, IMAGE_TOKEN, tokenizer.pad_token}
        self._splitter = self._make_splitter()

    def __len__(self) -> int:
        return len(self.hf)

    def _id(self, token: str) -> int:
        found = self.hf.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found

    def _make_splitter(self) -> re.Pattern[str]:
        tokens = {str(token) for token in self.hf.get_added_vocab()}
        tokens |= {str(token) for token in self.hf.all_special_tokens}
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode_prompt(self, parts: Sequence[str | None]) -> list[tuple[int, ...] | None]:
        """Ids per text item; None (an image) stays None.

        Every item is tokenised on its own, so borders between items matter. The begin token, where
        the tokenizer has one, stands in front of the first text item only: an image that comes
        first comes before it.
        """
        encoded: list[tuple[int, ...] | None] = []
        pending = (self.bos_token_id,) if self.bos_token_id is not None else ()
        for part in parts:
            if part is None:
                encoded.append(None)
            else:
                encoded.append((*pending, *self.encode(part)))
                pending = ()
        return encoded

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids without begin or end tokens."""
        if self.rules == "plain":
            return tuple(self.hf(text, add_special_tokens=False).input_ids)
        ids: list[int] = []
        pieces = self._splitter.split(text)  # text, token, text, token, …, text
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self._id(piece))
                continue
            if i > 0 and pieces[i - 1] in self._strippers:
                piece = piece.lstrip()
            if i + 1 < len(pieces) and pieces[i + 1] in self._strippers:
                piece = piece.rstrip()
            ids.extend(self.hf(piece, add_special_tokens=False).input_ids)
        return tuple(ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ``ids``; ``skip_special`` leaves out begin, end, padding and image tokens, but
        not [RET]."""
        if self.rules == "plain":
            return str(
                self.hf.decode(
                    list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
                )
            )
        return _clean_up(" ".join(self._runs(ids, skip_special)))

    def _runs(self, ids: Sequence[int], skip_special: bool) -> list[str]:
        """Texts between added tokens, and those tokens; the slow tokenizer joins them by spaces."""
        runs: list[str] = []
        current: list[int] = []
        added = {self.ret_token_id, self.image_token_id}
        for token in ids:
            if skip_special and token in self._special_ids:
                continue
            if token not in added:
                current.append(token)
                continue
            if current:
                runs.append(self._plain_text(current))
                current = []
            runs.append(self.ret_token if token == self.ret_token_id else IMAGE_TOKEN)
        if current:
            runs.append(self._plain_text(current))
        return runs

    def _plain_text(self, ids: list[int]) -> str:
        return str(
            self.hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def _clean_up(text: str) -> str:
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def truncate_caption(caption: str) -> str:
    """The reference's cut of a generated text: newlines stripped at both ends, then up to and
    including the first newline left, or else the first period."""
    caption = caption.strip("\n")
    for mark in ("\n", "."):
        head, found, _ = caption.partition(mark)
        if found:
            return head + found
    return caption


def load_tokenizer(
    source: str,
    *,
    ret_token: str = "[RET]",  # noqa: S107
    rules: TokenizerRules = "plain",
) -> FromageTokenizer:
    """From a directory or a hub id."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"tokenizer of {source}: {one_line(error)}") from error
    if not tokenizer("a").input_ids:  # what transformers makes of a directory without one
        raise ModelUnavailable(f"tokenizer of {source}: its files are missing, or it reads no 'a'")
    return FromageTokenizer(tokenizer, ret_token=ret_token, rules=rules)
