"""Which of all images is a whole dialogue about? VisDial, T→I (paper, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.evaluation.dialogues import Dialogue, messages, whole_text
from fromage_weights.evaluation.metrics import Result, rank_of, recalls
from fromage_weights.evaluation.queries import caption_queries, query_embeddings
from fromage_weights.evaluation.responder import Responder
from fromage_weights.grounded import TextSegment

if TYPE_CHECKING:
    from fromage_weights.evaluation.pictures import Features
    from fromage_weights.grounded import Segment
    from fromage_weights.loading import LoadedBundle

# Koh et al. 2023, Table 2, FROMAGe over OPT-6.7B.
PAPER_IMAGES = {"R@1": 20.8, "R@5": 44.9, "R@10": 56.0}


class ImageSearch:
    """Finds the image of a whole dialogue by the state at [RET].

    The default ranks all images for each dialogue by cosine. The reference's script ranks all
    *dialogues* for each image instead, and leaves the image side without normalisation (which
    changes nothing then): `reference_compat`. With `chat` the dialogue stands in the bundle's chat
    template, and [RET] ends its last answer.
    """

    def __init__(
        self, loaded: LoadedBundle, *, reference_compat: bool = False, chat: bool = False
    ) -> None:
        if chat and reference_compat:
            raise ValueError("the reference's script knows no chat")
        self._model, self._compat = loaded.model, reference_compat
        self._responder = Responder(loaded) if chat else None

    def queries(self, dialogues: Sequence[Dialogue]) -> Tensor:
        """(N, shared_dim), unit norm."""
        if self._responder is not None:
            prompts = [self._chat_prompt(self._responder, dialogue) for dialogue in dialogues]
            return query_embeddings(self._model, prompts)
        return caption_queries(self._model, [whole_text(dialogue) for dialogue in dialogues])

    def _chat_prompt(self, responder: Responder, dialogue: Dialogue) -> list[Segment]:
        ret = self._model.tokenizer.ret_token
        *before, last = messages(dialogue)
        *front, reply = responder.segments([*before, replace(last, text=last.text + ret)])
        assert isinstance(reply, TextSegment)
        end = reply.token_ids.index(self._model.ret_token_id) + 1
        return [*front, TextSegment(reply.token_ids[:end])]

    def images(self, dialogues: Sequence[Dialogue], features: Features[int]) -> Tensor:
        """(N, shared_dim)."""
        rows = torch.stack([features.searched[dialogue.image] for dialogue in dialogues])
        mappers = self._model.mappers
        if not self._compat:
            return mappers.image_embeddings(rows).cpu()
        with torch.no_grad():
            mapped: Tensor = mappers.visual_fc(rows.to(mappers.device))
        return mapped.cpu()

    def result(self, dialogues: Sequence[Dialogue], features: Features[int]) -> Result:
        scores = self.images(dialogues, features) @ self.queries(dialogues).T
        if not self._compat:
            scores = scores.T
        ranks = [rank_of(row, i) for i, row in enumerate(scores)]
        return Result("dialogue to image", recalls(ranks), len(ranks), PAPER_IMAGES)
