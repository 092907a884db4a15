"""What a linear map can read from the tower's pooled feature, and how well the tower ranks.

The mappers are linear and the language model is frozen, so accuracy is not enough: the share
of the targets' variance that a ridge regression explains (R²) says whether a linear map can
land *on* a word's embedding or only nearest to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fromage_weights.demo.classes import CLASS_INDEX, CLASSES
from fromage_weights.demo.scenes import render
from fromage_weights.demo.splits import is_held_out
from fromage_weights.demo.sprites import LARGE, SpriteBank
from fromage_weights.demo.tower_model import IMAGE_SIZE, load_tower, to_pixels
from fromage_weights.demo.tower_text import full_caption, tokenize
from fromage_weights.demo.world import BACKGROUNDS, MAX_COUNT, Scene, random_scene
from fromage_weights.vision import PreprocessMode, VisionEncoder

RIDGE = 1e-3
_BATCH = 256


@dataclass(frozen=True)
class Readout:
    """Held-out accuracy and R² of a ridge regression to one-hot targets."""

    accuracy: float
    r2: float


@dataclass(frozen=True)
class TowerReport:
    """`retrieval` is the tower's own text → picture recall: kind → (R@1, R@10)."""

    readouts: dict[str, Readout]
    retrieval: dict[str, tuple[float, float]]
    logit_scale: float

    def lines(self) -> list[str]:
        rows = [
            f"{name:<12} accuracy {read.accuracy:6.1%}   R² {read.r2:.3f}"
            for name, read in self.readouts.items()
        ]
        rows += [
            f"text → {kind:<7} R@1 {one:6.1%}   R@10 {ten:6.1%}"
            for kind, (one, ten) in self.retrieval.items()
        ]
        return [*rows, f"logit scale {self.logit_scale:.1f}"]


def sample_scenes(n: int, rng: np.random.Generator, *, held_out: bool, pairs: float) -> list[Scene]:
    """`n` random scenes of the training combinations, or of those held out."""
    scenes: list[Scene] = []
    while len(scenes) < n:
        scene = random_scene(rng, pairs=pairs)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


def served_pixels(
    encoder: VisionEncoder, scenes: Sequence[Scene], rng: np.random.Generator, mode: PreprocessMode
) -> Tensor:
    """The scenes drawn large, then through the server's own preprocessing: (N, 3, S, S)."""
    images = (Image.fromarray(render(scene, rng, LARGE)) for scene in scenes)
    return torch.stack([encoder.preprocess(image, mode) for image in images])


def encode(encoder: VisionEncoder, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) to pooled features (N, 1024)."""
    return torch.cat([encoder.encode(batch) for batch in torch.split(pixels, _BATCH)])


def ridge_readout(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int
) -> Readout:
    """Fit on (features, labels) of training scenes, judge on held-out ones."""
    features, labels = train
    mean = features.mean(0)
    centred = (features - mean).double()
    targets = F.one_hot(labels, classes).double()
    offset = targets.mean(0)
    gram = centred.T @ centred
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram, centred.T @ (targets - offset))
    predicted = (test[0] - mean).double() @ weights + offset
    wanted = F.one_hot(test[1], classes).double()
    residual = (predicted - wanted).square().sum()
    total = (wanted - offset).square().sum()
    accuracy = (predicted.argmax(1) == test[1]).double().mean()
    return Readout(float(accuracy), float(1 - residual / total))


def _labels(scenes: Sequence[Scene]) -> dict[str, tuple[Tensor, int]]:
    colours = list(BACKGROUNDS)
    labels = {"background": ([colours.index(s.background) for s in scenes], len(colours))}
    if scenes[0].is_pair:
        labels["left"] = ([CLASS_INDEX[s.objects[0]] for s in scenes], len(CLASSES))
        labels["right"] = ([CLASS_INDEX[s.objects[1]] for s in scenes], len(CLASSES))
    else:
        labels["object"] = ([CLASS_INDEX[s.objects[0]] for s in scenes], len(CLASSES))
        labels["count"] = ([s.count - 1 for s in scenes], MAX_COUNT)
    return {name: (torch.tensor(values), classes) for name, (values, classes) in labels.items()}


def read_linearly(
    encoder: VisionEncoder, *, train: int, test: int, rng: np.random.Generator
) -> dict[str, Readout]:
    """Ridge readouts for singles and pairs: fitted on training scenes, held-out ones judged.

    Fitted on composed pictures and judged on served ones, half of them squashed like uploads,
    so a shift between the two would show.
    """
    bank = SpriteBank(IMAGE_SIZE, variants=3, rng=rng)
    readouts: dict[str, Readout] = {}
    for kind, pairs in (("single", 0.0), ("pair", 1.0)):
        seen = sample_scenes(train, rng, held_out=False, pairs=pairs)
        unseen = sample_scenes(test, rng, held_out=True, pairs=pairs)
        half = len(unseen) // 2
        served = (
            served_pixels(encoder, unseen[:half], rng, "crop"),
            served_pixels(encoder, unseen[half:], rng, "squash"),
        )
        seen_features = encode(encoder, to_pixels(bank.draw(seen, rng)))
        unseen_features = encode(encoder, torch.cat(served))
        judged = _labels(unseen)
        for name, (labels, classes) in _labels(seen).items():
            fit, check = (seen_features, labels), (unseen_features, judged[name][0])
            readouts[f"{kind} {name}"] = ridge_readout(fit, check, classes)
    return readouts


def rank_own(
    tower: nn.Module, encoder: VisionEncoder, *, pool: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Text → picture recall of held-out captions in a pool of `pool` pictures.

    A caption's right answers are all pictures of its scene.
    """
    clip: Any = tower
    results: dict[str, tuple[float, float]] = {}
    for kind, pairs in (("single", 0.0), ("pair", 1.0)):
        wanted = sample_scenes(pool // 10, rng, held_out=True, pairs=pairs)
        scenes = [*wanted, *(random_scene(rng) for _ in range(pool - len(wanted)))]
        features = encode(encoder, served_pixels(encoder, scenes, rng, "crop"))
        image = F.normalize(features @ clip.visual.proj, dim=1)
        text = clip.encode_text(tokenize([full_caption(s) for s in wanted]), normalize=True)
        ranked = (text @ image.T).topk(10, dim=1).indices.tolist()
        hits = [[scenes[i] == s for i in row] for s, row in zip(wanted, ranked, strict=True)]
        one, ten = np.mean([h[0] for h in hits]), np.mean([any(h) for h in hits])
        results[kind] = (float(one), float(ten))
    return results


def probe_tower(
    directory: Path, *, train: int = 12_000, test: int = 1_200, pool: int = 2_000, seed: int = 7
) -> TowerReport:
    """Gate a tower directory: readouts, its own retrieval, and its temperature."""
    tower = load_tower(directory)
    encoder = VisionEncoder.load(str(directory))
    rng = np.random.default_rng(seed)
    readouts = read_linearly(encoder, train=train, test=test, rng=rng)
    retrieval = rank_own(tower, encoder, pool=pool, rng=rng)
    scale = float(tower.state_dict()["logit_scale"].exp())
    return TowerReport(readouts, retrieval, scale)
