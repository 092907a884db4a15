"""The soft tokens once more, on nothing but pictures to describe and questions about them.

In the joint stage a text has one picture among a hundred words, or none. These texts are short,
and [RET] and the shared space, which they have no part in, stay as they are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fromage_weights.demo import dialogue, sight
from fromage_weights.demo.corpus import allowed
from fromage_weights.demo.grammar import describe, slot, wish_of
from fromage_weights.demo.mapping import MapperTraining, MappingRecipe
from fromage_weights.demo.samples import Draft, chat_draft

if TYPE_CHECKING:
    from pathlib import Path

    from fromage_weights.demo.corpus import SceneSource
    from fromage_weights.demo.features import FeatureBank
    from fromage_weights.demo.hardware import Hardware
    from fromage_weights.demo.world import Scene
    from fromage_weights.grounded import GroundedModel


# How often a scene is taken that was drawn: of two things, and of so many of one.
_PAIRS, _COUNTS = 0.35, {1: 0.7, 2: 1.0, 3: 0.8}

DESCRIBING = MappingRecipe(steps=1500, batch=96, learning_rate=3e-4, warmup=30, seed=7)


class DescribingTraining(MapperTraining):
    """Of `visual_embeddings` alone."""

    def _learnt(self) -> list[dict[str, Any]]:
        mappers = self.model.mappers.requires_grad_(False)
        layer = mappers.visual_embeddings.requires_grad_(True)
        return [{"params": list(layer.parameters()), "factor": 1.0}]

    def _draft(self, rng: np.random.Generator) -> Draft:
        return described(rng, self.bank.any_scene)


def described(rng: np.random.Generator, scenes: SceneSource) -> Draft:
    """A picture and its caption, or a question about each of one or two."""
    if rng.random() < 0.3:
        scene = _balanced(rng, scenes)
        return Draft(f"{slot(scene)} {describe(wish_of(scene), rng)}", (scene,), ())
    turns = []
    for _ in range(1 + int(rng.random() * 2)):
        scene = _balanced(rng, scenes)
        look = allowed(lambda scene=scene: sight.look(scene, rng, "train"))  # type: ignore[misc]
        turns.append(dialogue.with_upload(look, scene, rng))
    return chat_draft(turns)


def _balanced(rng: np.random.Generator, scenes: SceneSource) -> Scene:
    """Two of one thing more often than two things: what is hard to tell apart is decided by how
    often either is met, and twos are what is missed most."""
    while True:
        scene = scenes(rng)
        if rng.random() < (_PAIRS if scene.is_pair else _COUNTS[scene.count]):
            return scene


def train_describing(
    model: GroundedModel,
    bank: FeatureBank,
    recipe: MappingRecipe,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train, or go on from ``checkpoint``, printing the progress."""
    training = DescribingTraining(model, bank, recipe, hardware, checkpoint)
    start, first = time.monotonic(), training.step
    for step, numbers in training.run():
        pace = (time.monotonic() - start) / (step - first)
        print(
            f"describing {step}/{recipe.steps} text {numbers['text']:.4f} {pace:.3f} s/step",
            flush=True,
        )
    model.mappers.requires_grad_(False)
