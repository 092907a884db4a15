"""`reference_compat`: what the reference's `generate_for_images_and_texts` makes of its tokens.

The paper's code raises where this raises `reference_error`; shared rules are those of the released
implementation (Koh et al. 2023, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fromage_server.errors import ApiError
from fromage_server.prompt import Prompt
from fromage_server.schema.requests import GenerateRequest, ScoreRequest
from fromage_server.searches import Query

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer

# What the reference has no notion of, with the value that leaves it out.
_FOREIGN: Final[Mapping[str, Any]] = {
    "stop": [],
    "top_k": 0,
    "min_word_tokens": 0,
    "min_score": None,
    "filter": None,
    "exclude_shown": False,
}


@dataclass(frozen=True)
class Passage:
    """A piece of the reply: its text, and the query of the [RET] that ends it, if one does."""

    text: str
    query: Query | None


def check_options(body: GenerateRequest) -> None:
    """Raises ApiError for an option that the reference would not have followed."""
    for name, neutral in _FOREIGN.items():
        if getattr(body, name) != neutral:
            raise ApiError(
                "invalid_value",
                f"{name}: the reference has no such option; leave it out with reference_compat",
                param=name,
            )


def check_prompt(body: GenerateRequest | ScoreRequest, prompt: Prompt) -> None:
    if body.reference_compat and not prompt.has_text_item:
        raise ApiError(
            "reference_error",
            "the reference fails on a prompt without any text: torch.cat() of an empty list",
            param="prompt",
        )


def cut_at_newline(ids: Sequence[int], newline_id: int) -> tuple[int, ...]:
    """Up to the first newline token. One at the very front cuts nothing, and hides later ones."""
    first = next((i for i, id in enumerate(ids) if id == newline_id), 0)
    return tuple(ids[:first] if first > 0 else ids)


def passages(
    ids: Sequence[int],
    queries: Mapping[int, Query],
    tokenizer: FromageTokenizer,
    max_num_rets: int,
) -> Iterator[Passage]:
    """``queries`` by the index of their [RET] in ``ids``. Every text is cut and keeps " [RET]";
    what follows the last [RET] used is dropped. Raises ApiError where a query doesn't exist."""
    from fromage_weights.tokenizer import truncate_caption

    rets = [i for i, id in enumerate(ids) if id == tokenizer.ret_token_id][:max_num_rets]
    if not rets:
        yield Passage(truncate_caption(tokenizer.decode(ids)), None)
        return
    for ret in rets:
        if ret not in queries:
            raise ApiError(
                "reference_error",
                f"the reference fails when [RET] is the last token generated: index {ret} is out "
                f"of bounds for dimension 1 with size {len(ids) - 1}",
                param="max_tokens",
            )
    begin = 0
    for ret in rets:
        text = truncate_caption(tokenizer.decode(ids[begin:ret]))
        yield Passage(f"{text} {tokenizer.ret_token}", queries[ret])
        begin = ret + 1


def uncut_passages(
    ids: Sequence[int],
    queries: Mapping[int, Query],
    tokenizer: FromageTokenizer,
) -> Iterator[Passage]:
    """The default's counterpart: no cuts, no "[RET]" in texts, later text kept."""
    begin = 0
    for ret, query in sorted(queries.items()):
        yield Passage(_words(ids[begin:ret], tokenizer), query)
        begin = ret + 1
    if rest := _words(ids[begin:], tokenizer):
        yield Passage(rest, None)


def _words(ids: Sequence[int], tokenizer: FromageTokenizer) -> str:
    return tokenizer.decode([id for id in ids if id != tokenizer.ret_token_id])
