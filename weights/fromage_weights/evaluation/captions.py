"""Captioning, and retrieval both ways, on images with captions.

CIDEr and BLEU-4 of greedy captions are pycocoevalcap's; captions are compared as lower-case words.
The captioning prompt is the one of training: the image, then the begin token (paper, section 3.1);
in a bundle whose chat template frames images, the framed image.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from fromage_weights.errors import EvaluationDataInvalid, EvaluationUnavailable
from fromage_weights.evaluation.decoding import greedy
from fromage_weights.evaluation.metrics import Result, rank_of, recalls
from fromage_weights.evaluation.queries import caption_queries, check_length
from fromage_weights.grounded import ImageSegment, Segment, TextSegment
from fromage_weights.images import open_for_crop
from fromage_weights.scoring import layout, token_log_likelihoods
from fromage_weights.training.sources import CaptionSource

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle

_log = logging.getLogger(__name__)
_BATCH = 32
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class CaptionedImages:
    """`features` (M, vision_dim) of the readable images, N `captions`, which image each of these
    belongs to, and how many pairs were left out. Pairs with the same image, byte by byte, are
    captions of one."""

    features: Tensor
    captions: list[str]
    images: list[int]
    left_out: int

    @classmethod
    def read(
        cls, loaded: LoadedBundle, source: CaptionSource, limit: int | None = None
    ) -> CaptionedImages:
        """Centre-cropped, as in training. Pairs that are left out are logged by name."""
        assert loaded.vision is not None
        rows: list[Tensor] = []
        captions: list[str] = []
        images: list[int] = []
        waiting: list[Tensor] = []
        places: dict[bytes, int] = {}
        count = len(source) if limit is None else min(limit, len(source))
        for index in tqdm(range(count), desc="images", unit=" images"):
            caption = source.caption(index).strip()
            try:
                if not caption:
                    raise ValueError("its caption is empty")
                data = source.image(index)
                digest = hashlib.sha256(data).digest()
                if digest not in places:
                    pixels = loaded.vision.preprocess(open_for_crop(data), "crop")
                    waiting.append(pixels)
                    places[digest] = len(places)
            except (OSError, ValueError) as error:
                _log.warning("left out: %s (%s)", source.key(index), error)
                continue
            captions.append(caption)
            images.append(places[digest])
            if len(waiting) == _BATCH:
                rows.append(loaded.vision.encode(torch.stack(waiting)))
                waiting = []
        if waiting:
            rows.append(loaded.vision.encode(torch.stack(waiting)))
        if not rows:
            raise EvaluationDataInvalid("no image with a caption could be read")
        return cls(torch.cat(rows), captions, images, count - len(captions))

    def captions_of(self) -> list[list[int]]:
        """For each image, which captions are its own."""
        found: list[list[int]] = [[] for _ in self.features]
        for caption, image in enumerate(self.images):
            found[image].append(caption)
        return found


class Captioning:
    def __init__(self, loaded: LoadedBundle, *, max_tokens: int = 32) -> None:
        self._model, self._max_tokens = loaded.model, max_tokens
        opening, closing = loaded.bundle.config.chat_template.image_frame
        # A word is one token with the space before it.
        self._space = " " if closing.endswith(" ") else ""
        self._frame = opening, closing.removesuffix(" ")
        self._ends = (*loaded.bundle.config.stop, "\n")
        ends = [self._model.tokenizer.encode(text) for text in self._ends]
        self._stop = {ids[-1] for ids in ends if len(ids) == 1}
        self._stop |= {self._model.ret_token_id, *self._model.eos_token_ids}

    def _prompt(self, features: Tensor) -> list[Segment]:
        opening, closing = self._frame
        before, behind = self._model.tokenizer.encode_prompt([opening or None, closing])
        front = [TextSegment(before)] if before else []
        return [*front, ImageSegment(features), TextSegment(behind or ())]

    def captions(self, features: Tensor) -> list[str]:
        """One greedy caption for each row of (N, vision_dim)."""
        model = self._model
        found: list[str] = []
        for start in range(0, len(features), _BATCH):
            prompts = [model.embed(self._prompt(row)) for row in features[start : start + _BATCH]]
            for ids in greedy(model.lm, prompts, stop=self._stop, max_tokens=self._max_tokens):
                text = model.tokenizer.decode([i for i in ids if i not in self._stop])
                for end in self._ends:  # those of several tokens
                    text = text.partition(end)[0]
                found.append(text.strip())
        return found

    @torch.inference_mode()
    def perplexity(self, features: Tensor, captions: Sequence[str]) -> float:
        """exp of the mean next-token loss of the captions' tokens, each after its image."""
        model = self._model
        total, count = 0.0, 0
        for row, caption in zip(features, captions, strict=True):
            ids = model.tokenizer.encode(self._space + caption)
            segments = [*self._prompt(row), TextSegment(ids)]
            whole = layout(
                [s.token_ids if isinstance(s, TextSegment) else None for s in segments],
                model.n_visual_tokens,
            )
            check_length(model, len(whole))
            logits = model.forward(model.embed(segments)[None]).logits
            told = token_log_likelihoods(logits[0], whole, len(whole) - len(ids))
            total, count = total - float(told.sum()), count + len(told)
        return math.exp(total / max(1, count))

    def result(self, data: CaptionedImages) -> Result:
        check_scorers()
        made = self.captions(data.features)
        figures = {"perplexity": self.perplexity(data.features[data.images], data.captions)}
        right = [[data.captions[i] for i in own] for own in data.captions_of()]
        return Result("image to caption", figures | scores(made, right), len(made))


def check_scorers() -> None:
    """Raises EvaluationUnavailable where pycocoevalcap is not installed."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise EvaluationUnavailable(
            "captions are scored with pycocoevalcap; install fromage-server[eval]"
        )


def scores(made: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4 and CIDEr, times a hundred, against all captions that each image has."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    found = {i: [_words(text)] for i, text in enumerate(made)}
    wanted = {i: [_words(text) for text in texts] for i, texts in enumerate(right)}
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its counts
        bleu, _ = Bleu(4).compute_score(wanted, found)
        cider, _ = Cider().compute_score(wanted, found)
    return {"BLEU-4": 100 * float(bleu[3]), "CIDEr": 100 * float(cider)}


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def retrieval(loaded: LoadedBundle, data: CaptionedImages) -> list[Result]:
    """Caption to image by [RET] after the caption, and image to caption, over all of `data`. Of an
    image's captions the one that comes first counts (Karpathy and Fei-Fei, CVPR 2015, section
    4.1)."""
    model = loaded.model
    queries = caption_queries(model, data.captions)
    images = model.mappers.image_embeddings(data.features).detach().cpu()
    cosines = queries @ images.T
    to_image = [rank_of(row, image) for row, image in zip(cosines, data.images, strict=True)]
    to_caption = [
        _best_rank(row, own) for row, own in zip(cosines.T, data.captions_of(), strict=True)
    ]
    return [
        Result("caption to image", recalls(to_image), len(to_image)),
        Result("image to caption", recalls(to_caption), len(to_caption)),
    ]


def _best_rank(scores: Tensor, own: Sequence[int]) -> int:
    """Where the first of `own` comes among all but the others of `own`."""
    best = own[int(scores[list(own)].argmax())]
    left = scores.clone()
    left[[i for i in own if i != best]] = -math.inf
    return rank_of(left, best)
