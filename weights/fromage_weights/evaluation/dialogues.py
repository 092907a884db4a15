"""Visual dialogue over VisDial 1.0 files (paper, section 4.2 and Table 2).

Answers (IT→T): which of a hundred answers follows the image and the dialogue so far? Each is scored
by its log-likelihood, and the human one's rank gives R@k and MRR, graded relevance gives NDCG.
`dialogue_search` has the other direction, T→I.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fromage_weights.errors import EvaluationDataInvalid
from fromage_weights.evaluation.metrics import (
    Result,
    mean_reciprocal_rank,
    ndcg,
    rank_of,
    recalls,
)
from fromage_weights.evaluation.pictures import (
    Features,
    ImageFolder,
    expecting,
    present,
    read_json,
)
from fromage_weights.evaluation.queries import check_length
from fromage_weights.evaluation.responder import Message, Responder
from fromage_weights.grounded import ImageSegment, TextSegment

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle

# Koh et al. 2023, Table 2, FROMAGe over OPT-6.7B.
PAPER_ANSWERS = {"NDCG": 16.5, "MRR": 22.0, "R@1": 17.6, "R@5": 20.1, "R@10": 25.1}
_OPTIONS = 25


@dataclass(frozen=True)
class Round:
    """`options` are the answers to choose from, `right` the human one's place among them;
    `relevance` (len(options),) where there are dense annotations."""

    question: str
    answer: str
    options: tuple[str, ...] = ()
    right: int = 0
    relevance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dialogue:
    image: int
    rounds: tuple[Round, ...]


def read_dialogues(
    file: Path, dense: Path | None = None, *, reference_compat: bool = False
) -> list[Dialogue]:
    """A visdial_1.0_*.json and, for NDCG, its dense annotations. Raises EvaluationDataInvalid.

    Dense annotations count rounds from 1. The reference's script takes that number for an index
    and so reads the round after it (of the last one, the next dialogue's first):
    `reference_compat`.
    """
    data = read_json(file)
    with expecting(file, "a VisDial 1.0 file"):
        found = [*_dialogues(data["data"])]
    if not found:
        raise EvaluationDataInvalid(f"{file}: no dialogues")
    return found if dense is None else _with_relevance(found, dense, reference_compat)


def _dialogues(data: dict[str, Any]) -> Iterator[Dialogue]:
    questions, answers = data["questions"], data["answers"]
    for dialogue in data["dialogs"]:
        image = int(dialogue["image_id"])
        rounds = []
        for turn in dialogue["dialog"]:
            options = tuple(answers[i] for i in turn.get("answer_options", ()))
            right = int(turn.get("gt_index", 0))
            if options and not 0 <= right < len(options):
                raise ValueError(f"image {image}: gt_index {right} of {len(options)} options")
            rounds.append(
                Round(questions[turn["question"]], answers[turn["answer"]], options, right)
            )
        if not rounds:
            raise ValueError(f"image {image}: a dialogue without a question")
        yield Dialogue(image, tuple(rounds))


def _with_relevance(
    dialogues: list[Dialogue], file: Path, reference_compat: bool
) -> list[Dialogue]:
    places = {dialogue.image: number for number, dialogue in enumerate(dialogues)}
    turns = [[*dialogue.rounds] for dialogue in dialogues]
    flat = [(i, k) for i, rounds in enumerate(turns) for k in range(len(rounds))]
    starts = [0, *accumulate(len(rounds) for rounds in turns)]
    matched = 0
    annotations = read_json(file)
    with expecting(file, "dense annotations of these dialogues"):
        for told in annotations:
            number = places.get(int(told["image_id"]))
            if number is None:
                continue
            # Files of the training split say "relevance".
            values = told["gt_relevance"] if "gt_relevance" in told else told["relevance"]
            relevance = tuple(float(value) for value in values)
            place = int(told["round_id"]) - 1
            if place < 0:
                raise ValueError(f"image {told['image_id']}: round_id {place + 1}; the first is 1")
            if reference_compat:
                after = starts[number] + place + 1
                if after >= len(flat):
                    continue
                number, place = flat[after]
            turn = turns[number][place]
            if len(relevance) != len(turn.options):
                raise ValueError(
                    f"image {told['image_id']}: {len(relevance)} numbers for "
                    f"{len(turn.options)} options"
                )
            turns[number][place] = replace(turn, relevance=relevance)
            matched += 1
    if not matched:
        raise EvaluationDataInvalid(f"{file}: none of its annotations is about these dialogues")
    return [Dialogue(d.image, tuple(rounds)) for d, rounds in zip(dialogues, turns, strict=True)]


def dialogue_features(
    loaded: LoadedBundle,
    dialogues: Sequence[Dialogue],
    folder: ImageFolder,
    *,
    reference_compat: bool = False,
    progress: bool = False,
) -> Features[int]:
    """By image id, of the images that are in `folder` and readable."""
    files = present((d.image, folder.numbered(d.image)) for d in dialogues)
    return Features.of(loaded, files, reference_compat=reference_compat, progress=progress)


def contexts(dialogue: Dialogue) -> list[str]:
    """What stands before each round's answer."""
    told, lines = [], []
    for turn in dialogue.rounds:
        lines.append(f"Q: {turn.question}?")
        told.append("\n".join(lines) + "\nA: ")
        lines.append(f"A: {turn.answer}")
    return told


def whole_text(dialogue: Dialogue) -> str:
    """The dialogue as a query for its image, without [RET]."""
    return " ".join(f"Q: {turn.question}? A: {turn.answer}." for turn in dialogue.rounds)


def messages(dialogue: Dialogue, features: Tensor | None = None) -> list[Message]:
    """The dialogue as a chat; its image's `features` (vision_dim,) before the first question."""
    made = []
    for i, turn in enumerate(dialogue.rounds):
        made.append(Message("user", f"{turn.question}?", None if i else features))
        made.append(Message("assistant", turn.answer))
    return made


class AnswerRanking:
    """Scores answers by the frozen LM; rounds need options to choose from.

    The loss of an answer is summed over its tokens, its begin token included, as the reference's
    script does. That script compares each token with the logits at the token's *own* position,
    which already know it; `reference_compat` computes that, the default the next-token loss. With
    `chat` image, questions and answers stand in the bundle's chat template.
    """

    def __init__(
        self, loaded: LoadedBundle, *, reference_compat: bool = False, chat: bool = False
    ) -> None:
        if chat and reference_compat:
            raise ValueError("the reference's script knows no chat")
        self._model, self._shifted = loaded.model, not reference_compat
        self._responder = Responder(loaded) if chat else None
        self._template = loaded.bundle.config.chat_template

    def rounds(self, dialogue: Dialogue, features: Tensor) -> Iterator[Tensor]:
        """The losses (len(options),) of each round's options."""
        for number, (turn, context) in enumerate(
            zip(dialogue.rounds, contexts(dialogue), strict=True)
        ):
            if self._responder is None:
                yield self.losses(features, context, turn.options)
                continue
            chat = messages(dialogue, features)[: 2 * number + 1]
            head = self._model.embed(self._responder.segments(chat))
            replies = [self._template.assistant.replace("{content}", o) for o in turn.options]
            yield self._losses(head, [self._model.tokenizer.encode(reply) for reply in replies])

    def losses(self, features: Tensor, context: str, answers: Sequence[str]) -> Tensor:
        """(len(answers),) for the image's `features` (vision_dim,) and the text after it."""
        model = self._model
        begin = model.tokenizer.encode_prompt([context])[0]
        assert begin is not None
        head = model.embed([ImageSegment(features), TextSegment(begin)])
        encoded = [model.tokenizer.encode_prompt([answer])[0] or () for answer in answers]
        return self._losses(head, encoded)

    @torch.inference_mode()
    def _losses(self, head: Tensor, encoded: Sequence[tuple[int, ...]]) -> Tensor:
        """(len(encoded),) of the answers' ids after `head` (T, D)."""
        from transformers import DynamicCache

        model = self._model
        check_length(model, len(head) + max(map(len, encoded)))
        cache = DynamicCache(config=model.lm.config)
        front = model.forward(head[None], past_key_values=cache, logits_to_keep=1).logits
        found = torch.empty(len(encoded))
        # Answers of like length share a batch; the context is read once.
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), _OPTIONS):
            part = order[start : start + _OPTIONS]
            # A copy: not every kind of cache can be shortened again.
            tail = deepcopy(cache)
            found[part] = self._summed(front, tail, len(head), [encoded[i] for i in part])
        return found

    def _summed(
        self, front: Tensor, cache: Any, length: int, answers: list[tuple[int, ...]]
    ) -> Tensor:
        """`front` (1, 1, V): the logits at the context's last position."""
        model, count = self._model, len(answers)
        rows = [torch.tensor(ids, dtype=torch.long, device=model.device) for ids in answers]
        ids = pad_sequence(rows, batch_first=True)
        if ids.shape[1] == 0:  # empty answers, and no begin token
            return torch.zeros(count)
        real = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        cache.batch_repeat_interleave(count)
        logits = model.forward(
            model.embed_ids(ids),
            torch.cat([real.new_ones(count, length), real], dim=1),
            torch.arange(length, length + ids.shape[1], device=model.device).expand(count, -1),
            past_key_values=cache,
        ).logits
        if self._shifted:
            logits = torch.cat([front.expand(count, -1, -1), logits[:, :-1]], dim=1)
        chosen = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        return -(chosen * real).sum(1).cpu()

    def result(
        self, dialogues: Sequence[Dialogue], features: Features[int], *, progress: bool = False
    ) -> Result:
        from tqdm import tqdm

        losses = [
            row
            for dialogue in tqdm(dialogues, desc="answers", unit=" dialogues", disable=not progress)
            for row in self.rounds(dialogue, features.shown[dialogue.image])
        ]
        return answers_result(dialogues, losses)


def answers_result(dialogues: Sequence[Dialogue], losses: Sequence[Tensor]) -> Result:
    """From the losses (len(options),) of every round in turn."""
    turns = [turn for dialogue in dialogues for turn in dialogue.rounds]
    ranks = [rank_of(-row, turn.right) for row, turn in zip(losses, turns, strict=True)]
    gains = [
        ndcg(-row, torch.tensor(turn.relevance))
        for row, turn in zip(losses, turns, strict=True)
        if turn.relevance is not None
    ]
    gains = [gain for gain in gains if not math.isnan(gain)]
    figures = {"NDCG": sum(gains) / len(gains)} if gains else {}
    figures |= {"MRR": mean_reciprocal_rank(ranks)} | recalls(ranks)
    return Result("image and dialogue to answer", figures, len(ranks), PAPER_ANSWERS)
