"""What is checked before a request enters the queue, without touching the device."""

from collections.abc import Iterable
from typing import Any

import torch

from fromage_server.engine.errors import InvalidRequest, PromptTooLong
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_weights.grounded import GroundedModel, ImageSegment, Segment


def check_request(
    request: GenerationRequest | ScoringRequest, model: GroundedModel, max_context: int
) -> int:
    """The prompt's length in positions; raises InvalidRequest or PromptTooLong."""
    prompt_tokens = sum(_length(segment, model) for segment in request.segments)
    if prompt_tokens == 0:
        raise InvalidRequest("prompt", "empty", "at least one token or image")
    max_tokens = request.params.max_tokens if isinstance(request, GenerationRequest) else 0
    if prompt_tokens + max_tokens > max_context:
        raise PromptTooLong(prompt_tokens, max_tokens, max_context)
    if isinstance(request, GenerationRequest):
        _check_positions("prompt_ret_positions", request.prompt_ret_positions, prompt_tokens)
    else:
        _check_positions("query_positions", request.query_positions, prompt_tokens)
        if request.score_from is not None:
            _check_positions("score_from", (request.score_from,), prompt_tokens)
    return prompt_tokens


def _length(segment: Segment, model: GroundedModel) -> int:
    if isinstance(segment, ImageSegment):
        _check_features(segment.features, model.mappers.vision_dim)
        return model.n_visual_tokens
    for token in segment.token_ids:
        # An id outside the table would take the whole device down, not just this request.
        if not 0 <= token < model.vocab_size:
            raise InvalidRequest("token_ids", token, f"0 to {model.vocab_size - 1}")
    return len(segment.token_ids)


def _check_features(features: Any, dim: int) -> None:
    shape = tuple(features.shape)
    if shape != (dim,):
        raise InvalidRequest("features", shape, f"a tensor of shape ({dim},)")
    if not bool(torch.isfinite(features).all()):
        raise InvalidRequest("features", "not finite", "finite numbers")


def _check_positions(field: str, positions: Iterable[int], length: int) -> None:
    for position in positions:
        if not 0 <= position < length:
            raise InvalidRequest(field, position, f"0 to {length - 1}")
