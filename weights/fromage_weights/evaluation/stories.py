"""Contextual image retrieval over Visual Storytelling (paper, section 4.1 and Table 1): which
picture ends a story of five captions and four pictures?

Three inputs are compared: the last caption alone, all captions, all captions with the pictures
between them. Candidates are all readable pictures of the file; where the story's own pictures were
shown, they are not searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fromage_weights.errors import EvaluationDataInvalid
from fromage_weights.evaluation.metrics import Result, rank_of, recalls
from fromage_weights.evaluation.pictures import (
    Features,
    ImageFolder,
    expecting,
    present,
    read_json,
)
from fromage_weights.evaluation.queries import query_embeddings
from fromage_weights.evaluation.responder import Message, Responder
from fromage_weights.grounded import ImageSegment, Segment, TextSegment

if TYPE_CHECKING:
    from fromage_weights.loading import LoadedBundle

Setting = Literal["1 caption", "5 captions", "5 captions, 4 images"]
SETTINGS: tuple[Setting, ...] = ("1 caption", "5 captions", "5 captions, 4 images")
# Koh et al. 2023, Table 1, FROMAGe over OPT-6.7B.
PAPER: dict[Setting, dict[str, float]] = {
    "1 caption": {"R@1": 11.3, "R@5": 24.6, "R@10": 32.1},
    "5 captions": {"R@1": 10.8, "R@5": 23.8, "R@10": 31.7},
    "5 captions, 4 images": {"R@1": 18.2, "R@5": 42.7, "R@10": 51.8},
}


@dataclass(frozen=True)
class Story:
    """`images[i]` belongs to `captions[i]`; the last one is looked for."""

    id: str
    captions: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class StoryFile:
    """`urls` by image id, in the file's order; None where an image has none."""

    stories: list[Story]
    urls: dict[str, str | None]

    @classmethod
    def read(cls, file: Path) -> StoryFile:
        """A story-in-sequence file of VIST ("annotations" and "images"). Raises
        EvaluationDataInvalid."""
        data = read_json(file)
        with expecting(file, "a story-in-sequence file of VIST"):
            urls = {str(i["id"]): i.get("url_o") or i.get("url_m") for i in data["images"]}
            stories = _stories(annotation[0] for annotation in data["annotations"])
        if not stories:
            raise EvaluationDataInvalid(f"{file}: no stories")
        return cls(stories, urls)


def _stories(frames: Iterable[dict[str, Any]]) -> list[Story]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for frame in frames:
        grouped.setdefault(str(frame["story_id"]), []).append(frame)
    made = []
    for story, mine in grouped.items():
        mine.sort(key=lambda frame: int(frame["worker_arranged_photo_order"]))
        captions = tuple(_text(frame["text"]) for frame in mine)
        made.append(Story(story, captions, tuple(str(f["photo_flickr_id"]) for f in mine)))
    return made


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is {value!r}")
    return value


def story_features(
    loaded: LoadedBundle,
    file: StoryFile,
    folder: ImageFolder,
    *,
    reference_compat: bool = False,
    progress: bool = False,
) -> Features[str]:
    """Of the stories' images that are in `folder` and readable."""
    used = {image for story in file.stories for image in story.images}
    files = present((i, folder.named(i, url)) for i, url in file.urls.items() if i in used)
    return Features.of(loaded, files, reference_compat=reference_compat, progress=progress)


class StoryRetrieval:
    """One bundle and one file's pictures.

    The candidates are those of `features`, in that order. With `reference_compat` every caption
    starts with its own begin token, as in the reference's script; otherwise only the first one
    does. With `chat` each caption is a message in the bundle's chat template, with the picture
    before it, and the model's own replies stand between them: the way a chat model is asked. A
    reply without [RET] then finds nothing. A story's own pictures are left out of the search where
    they were shown, as in the paper; with `always_exclude` in every setting, so that only the input
    differs.
    """

    def __init__(
        self,
        loaded: LoadedBundle,
        features: Features[str],
        *,
        reference_compat: bool = False,
        chat: bool = False,
        always_exclude: bool = False,
    ) -> None:
        if chat and reference_compat:
            raise ValueError("the reference's script knows no chat")
        self._always_exclude = always_exclude
        self._loaded, self._model, self._features = loaded, loaded.model, features
        self._compat, self._chat = reference_compat, chat
        self.candidates = list(features.searched)
        self._places = {image: place for place, image in enumerate(self.candidates)}

    @cached_property
    def _matrix(self) -> Tensor:
        rows = torch.stack([self._features.searched[image] for image in self.candidates])
        return self._model.mappers.image_embeddings(rows).cpu()

    def answerable(self, stories: Sequence[Story]) -> list[Story]:
        """Those all of whose pictures can be had."""
        return [s for s in stories if all(image in self._places for image in s.images)]

    def segments(self, story: Story, setting: Setting) -> list[Segment]:
        """The input without a chat template; [RET] follows the last caption at once."""
        tokenizer = self._model.tokenizer
        captions = story.captions[-1:] if setting == "1 caption" else story.captions
        texts = [*captions[:-1], captions[-1] + tokenizer.ret_token]
        begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        made: list[Segment] = []
        for i, text in enumerate(texts):
            spaced = i > 0 and not self._compat
            ids = tokenizer.encode(" " + text if spaced else text)
            made.append(TextSegment((*begin, *ids) if i == 0 or self._compat else ids))
            if setting == "5 captions, 4 images" and i + 1 < len(texts):
                made.append(ImageSegment(self._features.shown[story.images[i]]))
        return made

    def queries(self, stories: Sequence[Story], setting: Setting) -> list[Tensor | None]:
        """(shared_dim,) of each story; None where a chat's last reply has no [RET]."""
        if self._chat:
            return self._chat_queries(stories, setting)
        prompts = [self.segments(story, setting) for story in stories]
        return [*query_embeddings(self._model, prompts, batch=16)]

    def _chat_queries(self, stories: Sequence[Story], setting: Setting) -> list[Tensor | None]:
        talks = Responder(self._loaded).talks([self._told(story, setting) for story in stories])
        return [replies[-1].query for replies in talks]

    def _told(self, story: Story, setting: Setting) -> list[Message]:
        """The user's messages: each caption, where pictures are shown with the one before it."""
        if setting == "1 caption":
            return [Message("user", story.captions[-1])]
        pictures: list[Tensor | None] = [None] * len(story.captions)
        if setting == "5 captions, 4 images":
            pictures[1:] = [self._features.shown[image] for image in story.images[:-1]]
        return [
            Message("user", caption, picture)
            for caption, picture in zip(story.captions, pictures, strict=True)
        ]

    def scores(self, story: Story, setting: Setting, query: Tensor) -> Tensor:
        """(N,) over the candidates: cosines times the temperature; -inf for pictures of the story
        that are not searched."""
        scores = float(self._model.mappers.logit_scale.exp()) * (self._matrix @ query)
        if self._always_exclude or setting == "5 captions, 4 images":
            scores[[self._places[image] for image in story.images[:-1]]] = float("-inf")
        return scores

    def ranks(self, stories: Sequence[Story], setting: Setting) -> list[int]:
        """Where each story's last picture came, 1 the best; behind all where nothing was asked."""
        ranks = []
        for story, query in zip(stories, self.queries(stories, setting), strict=True):
            goal = self._places[story.images[-1]]
            if query is None:
                ranks.append(len(self.candidates) + 1)
            else:
                ranks.append(rank_of(self.scores(story, setting, query), goal))
        return ranks

    def result(self, stories: Sequence[Story], setting: Setting) -> Result:
        ranks = self.ranks(stories, setting)
        return Result(setting, recalls(ranks), len(ranks), PAPER[setting])
