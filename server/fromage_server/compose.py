"""From a request's messages or parts to the engine's segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fromage_server import prompt as prompts
from fromage_server.engine.errors import PromptTooLong
from fromage_server.engine_stream import refusal
from fromage_server.errors import ApiError
from fromage_server.features import FeatureEncoder
from fromage_server.media import MAX_IMAGES, MediaReader
from fromage_server.prompt import Item, Picture, Prompt
from fromage_server.schema.options import DEFAULT_MAX_TOKENS
from fromage_server.schema.parts import Part
from fromage_server.schema.requests import ChatRequest, Message
from fromage_server.workers import Preparing

if TYPE_CHECKING:
    from fromage_weights.bundle import BundleConfig
    from fromage_weights.grounded import Segment
    from fromage_weights.tokenizer import FromageTokenizer


class Composer:
    """Tokenises, reads and encodes: call it in a worker thread. Raises ApiError with the field."""

    def __init__(
        self,
        config: BundleConfig,
        tokenizer: FromageTokenizer,
        max_context: int,
        media: MediaReader,
        encoder: FeatureEncoder,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._media = media
        self._encoder = encoder

    def chat(self, body: ChatRequest) -> Prompt:
        """The history by the bundle's template, without its oldest turns where asked for."""
        rendered = [self._render(message, i) for i, message in enumerate(body.messages)]
        kept, dropped = list(range(len(rendered))), 0
        if body.truncation == "oldest_turns":
            kept, dropped = self._truncate(body, rendered)
        prompt = self._encode([item for i in kept for item in rendered[i]])
        return replace(prompt, dropped_turns=dropped, field="messages")

    def raw(self, parts: Sequence[Part]) -> Prompt:
        return self._encode(prompts.render_parts(parts, "prompt"))

    def query(self, parts: Sequence[Part]) -> Prompt:
        """The same, with [RET] at its end."""
        items = prompts.render_parts(parts, "prompt")
        return self._encode(prompts.end_in_ret(items, self._tokenizer.ret_token))

    def max_tokens(self, prompt: Prompt, asked: int | None) -> int:
        """The reply's length: what was asked for, or what fits. Raises ApiError where the context
        is too short for it."""
        room = self._max_context - prompt.tokens
        tokens = asked if asked is not None else max(1, min(DEFAULT_MAX_TOKENS, room))
        if tokens > self._max_context:
            raise ApiError(
                "invalid_value",
                f"max_tokens is {tokens}; this model's context holds {self._max_context}, prompt "
                "and reply together",
                param="max_tokens",
            )
        if tokens > room:
            raise refusal(
                PromptTooLong(prompt.tokens, tokens, self._max_context), param=prompt.field
            )
        return tokens

    def segments(self, prompt: Prompt) -> Preparing[tuple[Segment, ...]]:
        images = yield from self._encoder.encode(self._media.read(prompt.pictures))
        return prompt.segments(images)

    def continuation(self, text: str, *, begin: bool, param: str) -> Segment:
        """Text that goes on after a prompt; ``begin`` puts the begin token in front."""
        from fromage_weights.grounded import TextSegment

        ids = self._tokenizer.encode(text)
        if not ids:
            raise ApiError("invalid_value", f"{param} is empty; send some text", param=param)
        bos = self._tokenizer.bos_token_id
        return TextSegment((bos, *ids) if begin and bos is not None else ids)

    def _render(self, message: Message, index: int) -> list[Item]:
        return prompts.render_message(
            message, index, self._config.chat_template, self._tokenizer.ret_token
        )

    def _encode(self, items: Sequence[Item]) -> Prompt:
        return prompts.encode(items, self._tokenizer.encode_prompt, self._config.n_visual_tokens)

    def _truncate(
        self, body: ChatRequest, rendered: Sequence[Sequence[Item]]
    ) -> tuple[list[int], int]:
        """Which messages stay, and how many turns went."""
        reserve = body.max_tokens or min(DEFAULT_MAX_TOKENS, self._max_context // 4)
        begin_token = int(self._tokenizer.bos_token_id is not None)
        lengths = [sum(map(self._length, items)) for items in rendered]
        roles = [message.role for message in body.messages]
        images = [sum(isinstance(item, Picture) for item in items) for items in rendered]
        limits = ((lengths, self._max_context - reserve - begin_token), (images, MAX_IMAGES))
        found = [prompts.drop_oldest(roles, sizes, limit) for sizes, limit in limits]
        return max(found, key=lambda kept_and_dropped: kept_and_dropped[1])

    def _length(self, item: Item) -> int:
        if isinstance(item, str):
            return len(self._tokenizer.encode(item))
        return self._config.n_visual_tokens
