"""FROMAGe's two losses (paper, sections 3.1 to 3.3) over cached vision features.

Captioning: soft tokens, then the caption; next-token loss on the caption; half the time two
examples in a row. Retrieval: next-token loss on `caption [RET]`, and symmetric InfoNCE between the
state at [RET] and the image. The frozen models' weights get no gradient, and where nothing trained
stands in front of a position, no graph is kept either: the words of the retrieval pass run without
one, and only [RET] itself, the last token, is differentiated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_weights.errors import TrainingInvalid, UnsupportedModel
from fromage_weights.language import input_embedding, output_head, weight_of
from fromage_weights.training.head_loss import frozen_head_cross_entropy
from fromage_weights.training.parallel import Alone, Ranks
from fromage_weights.training.ret_states import ids_on, reader

if TYPE_CHECKING:
    from fromage_weights.grounded import GroundedModel


@dataclass(frozen=True)
class Example:
    """One pair. ``words`` are the ids that captioning writes after the image; ``before`` stands in
    front of the image, ``prompt`` between it and them, and neither is learnt. ``query`` ends in
    [RET]."""

    features: Tensor
    words: tuple[int, ...]
    query: tuple[int, ...]
    prompt: tuple[int, ...] = ()
    before: tuple[int, ...] = ()


@dataclass(frozen=True)
class Losses:
    """Means over the batch of all ranks; ``total`` is differentiable and holds this rank's share,
    so that gradients summed over the ranks are those of the whole batch."""

    total: Tensor
    caption: float
    retrieval: float
    text_to_image: float
    image_to_text: float
    recall: float
    """R@1 within the batch, text to image."""
    tokens: int


@dataclass(frozen=True)
class Weights:
    caption: float = 1.0
    retrieval: float = 1.0


class Objective:
    """The losses of a batch through one grounded model, whose mappers are the only leaves."""

    def __init__(
        self, model: GroundedModel, *, ranks: Ranks | None = None, weights: Weights | None = None
    ) -> None:
        self._model, self._mappers = model, model.mappers
        self._ranks, self._weights = ranks or Alone(), weights or Weights()
        self._lm: Any = model.lm
        head = output_head(model.lm)
        self._head = weight_of(head).detach()
        bias = getattr(head, "bias", None)
        self._bias = None if bias is None else bias.detach()
        self._softcap = getattr(model.lm.config.get_text_config(), "final_logit_softcapping", None)
        self._check_head()
        self._read = reader(model)

    def losses(self, batch: Sequence[Example], *, concatenate: bool) -> Losses:
        """Both passes. ``concatenate``: captioning reads examples 2i and 2i + 1 in a row."""
        if not any(example.words for example in batch):
            raise TrainingInvalid("a batch without words: the tokenizer knows none of its captions")
        features = torch.stack([example.features for example in batch]).to(self._model.device)
        caption, caption_tokens = self._caption(batch, features, concatenate)
        words, word_tokens, states = self._retrieval(batch)
        counts = self._ranks.total(torch.tensor([caption_tokens, word_tokens, len(batch)]))
        caption, words = caption / counts[0], words / counts[1]
        to_image, to_text, recall = self._contrast(states, features)
        weights = self._weights
        match = (to_image + to_text) / 2
        # The contrast is whole on every rank, with this rank's rows differentiable.
        shown = self._ranks.total(torch.stack([caption.detach(), words.detach()]).cpu())
        return Losses(
            total=weights.caption * caption + weights.retrieval * (words + match),
            caption=float(shown[0]),
            retrieval=float(shown[1]),
            text_to_image=float(to_image.detach()),
            image_to_text=float(to_text.detach()),
            recall=recall,
            tokens=int(counts[0] + counts[1]),
        )

    def alone(self) -> Objective:
        """The same losses over this rank's batch only."""
        found = copy.copy(self)  # what was found out about the model is known
        found._ranks = Alone()
        return found

    @torch.no_grad()
    def embeddings(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """(B, E) of the texts and of the images, unit norm, on the CPU."""
        features = torch.stack([example.features for example in batch]).to(self._model.device)
        texts = self._mappers.query_embeddings(self._retrieval(batch)[2])
        return texts.cpu(), self._mappers.image_embeddings(features).cpu()

    @property
    def _ret_row(self) -> Tensor:
        """(H,): the [RET] row of the head."""
        mappers = self._mappers
        return (mappers.ret_embedding if mappers.ret_head is None else mappers.ret_head)[0]

    def _cross_entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        return frozen_head_cross_entropy(
            states,
            self._head,
            self._ret_row,
            self._model.ret_token_id,
            targets,
            bias=self._bias,
            softcap=self._softcap,
        )

    def _caption(
        self, batch: Sequence[Example], features: Tensor, concatenate: bool
    ) -> tuple[Tensor, int]:
        """Summed loss and number of its tokens.

        The reference pads every caption to its longest and masks; here a row ends with its last
        learnt word's predecessor, which is the same sum.
        """
        soft = self._mappers.soft_tokens(features).to(self._model.dtype)
        ids = [ids_on((*e.prompt, *e.words), soft.device) for e in batch]
        rows, targets = [], []
        for i, (example, own) in enumerate(zip(batch, ids, strict=True)):
            before = self._model.embed_ids(ids_on(example.before, soft.device))
            rows.append(torch.cat([before, soft[i], self._model.embed_ids(own)]))
            given = len(before) + soft.shape[1] + len(example.prompt)
            unlearnt = torch.full((given,), -100, device=soft.device)
            targets.append(torch.cat([unlearnt, own[len(example.prompt) :]]))
        if concatenate:
            last = len(rows) - len(rows) % 2
            rows = [torch.cat(rows[i : i + 2]) for i in range(0, last, 2)] + rows[last:]
            targets = [torch.cat(targets[i : i + 2]) for i in range(0, last, 2)] + targets[last:]
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :-1]
        wanted = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
        wanted = wanted[:, 1:]
        learnt = wanted != -100
        hidden = self._lm.base_model(inputs_embeds=embeds, use_cache=False)[0]
        return self._cross_entropy(hidden[learnt], wanted[learnt]), int(learnt.sum())

    def _retrieval(self, batch: Sequence[Example]) -> tuple[Tensor, int, Tensor]:
        """Summed next-token loss, its number of tokens, and (B, L, H) the states at [RET]."""
        device = self._model.device
        words = [ids_on(e.query[:-1], device) for e in batch]
        hidden, states = self._read(words)
        ret = ids_on((self._model.ret_token_id,), device)
        following = torch.cat([row for own in words for row in (own[1:], ret[: len(own)])])
        before = torch.cat([hidden[i, : len(own)] for i, own in enumerate(words)])
        return self._cross_entropy(before, following), len(following), states

    def _contrast(self, states: Tensor, features: Tensor) -> tuple[Tensor, Tensor, float]:
        """InfoNCE both ways over the images and texts of all ranks, and R@1."""
        texts = self._ranks.gather(self._mappers.query_embeddings(states))
        # Scaled before gathering: each rank differentiates its own share of the scale.
        images = self._mappers.logit_scale.exp() * self._mappers.image_embeddings(features)
        scores = self._ranks.gather(images) @ texts.T
        own = torch.arange(len(scores), device=scores.device)
        recall = float((scores.detach().argmax(dim=0) == own).float().mean())
        return (
            functional.cross_entropy(scores.T, own),
            functional.cross_entropy(scores, own),
            recall,
        )

    @torch.no_grad()
    def _check_head(self) -> None:
        """The loss computes the head itself; a family that does more to its logits is refused."""
        ids = torch.tensor([[1, 2]], device=self._model.device)
        embeds = self._model.embed_ids(ids)
        expected = self._lm(inputs_embeds=embeds, use_cache=False).logits[0].float()
        hidden = self._lm.base_model(inputs_embeds=embeds, use_cache=False)[0][0]
        found = hidden @ self._head.T if self._bias is None else hidden @ self._head.T + self._bias
        found = found.float()
        if self._softcap is not None:
            found = self._softcap * torch.tanh(found / self._softcap)
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
            raise UnsupportedModel(
                f"{type(self._model.lm).__name__} does more to its logits than a linear head and "
                "a soft cap; training does not know how"
            )


@torch.no_grad()
def mean_length(model: GroundedModel) -> Tensor:
    """(): the mean norm of the input embedding's rows but [RET]'s. They are frozen: so is it."""
    table = weight_of(input_embedding(model.lm))
    norms = table.float().norm(dim=1)
    mean: Tensor = (norms.sum() - norms[model.ret_token_id]) / (len(norms) - 1)
    return mean


@torch.no_grad()
def renormalise_ret(model: GroundedModel, length: Tensor) -> None:
    """Scale the [RET] input row to ``length``, the mean of all other rows', as after every step of
    the reference."""
    row = model.mappers.ret_embedding
    row.mul_(length / row.norm())
