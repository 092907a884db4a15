"""One variant of the recorded reference, and the bundle imported from it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from fromage_weights.grounded import ImageSegment, Segment, TextSegment
from fromage_weights.loading import LoadedBundle
from fromage_weights.vision import VisionEncoder

# The recording's own tolerances, for float32.
LOGITS = 2e-4
EMBEDDINGS = 1e-5
SCORES = 2e-4
LIKELIHOODS = 1e-4
SUMMED_LOSSES = 1e-3


def check_close(found: Tensor, expected: Tensor, tolerance: float, where: str = "") -> None:
    """No number differs by more than ``tolerance``."""
    assert_close(found, expected, rtol=0.0, atol=tolerance, msg=lambda text: f"{where}: {text}")


@dataclass(frozen=True)
class Case:
    prompt: list[dict[str, str]]
    num_words: int
    ret_scale_factor: float
    output: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.output["id"])


@dataclass(frozen=True)
class Recording:
    root: Path
    variant: str
    loaded: LoadedBundle

    @property
    def path(self) -> Path:
        return self.root / self.variant

    @property
    def images(self) -> Path:
        return self.root / "images"

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        return load_file(self.path / "arrays.safetensors")

    @cached_property
    def cases(self) -> list[Case]:
        prompts, outputs = self.json("prompts"), self.json("outputs")
        return [
            Case(p["prompt"], p["num_words"], p["ret_scale_factor"], o)
            for p, o in zip(prompts, outputs, strict=True)
        ]

    def json(self, name: str) -> Any:
        return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))

    @property
    def vision(self) -> VisionEncoder:
        assert self.loaded.vision is not None
        return self.loaded.vision

    def features(self, file: str, mode: Any = "squash") -> Tensor:
        """(Dv,) of one image."""
        with Image.open(self.images / file) as image:
            return self.vision.encode(self.vision.preprocess(image, mode)[None])[0]

    def segments(self, prompt: list[dict[str, str]]) -> list[Segment]:
        encoded = self.loaded.model.tokenizer.encode_prompt([part.get("text") for part in prompt])
        return [
            ImageSegment(self.features(part["image"])) if ids is None else TextSegment(ids)
            for part, ids in zip(prompt, encoded, strict=True)
        ]


def layout_of(segments: list[Segment], n_visual_tokens: int) -> list[int]:
    """The recording's ``input_layout``."""
    ids: list[int] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            ids.extend(segment.token_ids)
        else:
            ids.extend([-1] * n_visual_tokens)
    return ids


def greedy(recording: Recording, case: Case) -> tuple[list[int], Tensor, Tensor]:
    """The reference's generation: ids, logits per step after [RET] scaling (n, V), and the query
    embedding at every position of the last pass (T, E)."""
    model = recording.loaded.model
    embeds = model.embed(recording.segments(case.prompt))[None]
    ids: list[int] = []
    steps: list[Tensor] = []
    while True:
        output = model.forward(embeds)
        queries = model.mappers.query_embeddings(output.hidden[0])
        logits = output.logits[0, -1].clone()
        if case.num_words == 0:
            return ids, logits[None], queries
        logits[model.ret_token_id] *= case.ret_scale_factor
        steps.append(logits)
        ids.append(int(logits.argmax()))
        if len(ids) == case.num_words:
            return ids, torch.stack(steps), queries
        embeds = torch.cat([embeds, model.embed_ids(torch.tensor([ids[-1:]]))], dim=1)
