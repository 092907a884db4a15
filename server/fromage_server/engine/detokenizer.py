"""Token ids to text, a token at a time: what is given out is never taken back."""

from collections.abc import Callable

# Ids of context that a window keeps when it moves on: more than any clean-up pattern spans.
_CONTEXT = 16


class Detokenizer:
    """Decodes a sliding window of ids, so that a long reply costs the same per token."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0  # characters of the window's text that were given out

    def push(self, token_id: int) -> str:
        """The text that is final now."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        return self._give(text, settled_length(text))

    def flush(self) -> str:
        """The rest, unfinished characters included; the next token starts a new text."""
        text = self._decode(self._ids) if self._ids else ""
        new = text[self._shown :]
        self._ids, self._shown = [], 0
        return new

    def _give(self, text: str, settled: int) -> str:
        new = text[self._shown : settled]
        self._shown = max(self._shown, settled)
        if len(self._ids) >= 4 * _CONTEXT:
            self._move_on(text)
        return new

    def _move_on(self, text: str) -> None:
        """Forget early ids, where the shorter window provably ends in the same text."""
        kept = self._ids[-_CONTEXT:]
        tail = self._decode(kept)
        waiting = len(text) - self._shown
        if len(tail) > waiting and text.endswith(tail[1:]):
            self._ids, self._shown = kept, len(tail) - waiting


def settled_length(text: str) -> int:
    """How many characters of ``text`` no later token can change.

    Clean-up joins " ." " ,", " n't", " 've" and the like to the word before, and " ' " to both
    sides unless punctuation follows: trailing spaces, apostrophes and beginnings of such endings
    may still change. U+FFFD stands for a character cut in two.
    """
    end = len(text)
    while end:
        if text[end - 1] in " '\ufffd":
            end -= 1
        elif text.endswith(" n", 0, end):
            end -= 2
        elif text.endswith((" 'v", " 'r"), 0, end):
            end -= 3
        else:
            break
    return end
