"""The tower's contrastive loss: pictures against captions of their whole and of their parts."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fromage_weights.demo import tower_text
from fromage_weights.demo.classes import CLASS_INDEX
from fromage_weights.demo.world import BACKGROUNDS, Scene

SPREAD_SCALE = 10.0
SPREAD_WEIGHT = 0.2
_NEVER = -1e30  # infinity times a target of zero would be no number

# Of the parts' views, and of the whole's: how much each counts. How many captions each part has.
WEIGHTS = (1.5, 1.0, 1.0, 0.25, 2.0, 0.5)
PART_SIZES = tuple(
    len(captions)
    for captions in (
        tower_text.OBJECT_CAPTIONS,
        tower_text.LEFT_CAPTIONS,
        tower_text.RIGHT_CAPTIONS,
        tower_text.BACKGROUND_CAPTIONS,
        tower_text.COUNT_CAPTIONS,
    )
)

View: TypeAlias = tuple[float, tuple[str, ...], Tensor]


def match_matrix(columns: list[list[int]], width: int) -> Tensor:
    """(B, width) with a 1 where picture b matches caption t."""
    match = torch.zeros(len(columns), width)
    rows = [row for row, matching in enumerate(columns) for _ in matching]
    match[rows, [column for matching in columns for column in matching]] = 1
    return match


def part_views(scenes: list[Scene], *, plural: bool) -> list[View]:
    """Weight, captions and match of each part: objects, left, right, background, count."""
    objects = [[CLASS_INDEX[name] for name in scene.objects] for scene in scenes]
    colours = list(BACKGROUNDS)
    views = [
        (tower_text.PLURAL_CAPTIONS if plural else tower_text.OBJECT_CAPTIONS, objects),
        (tower_text.LEFT_CAPTIONS, [o[:1] if len(o) == 2 else [] for o in objects]),
        (tower_text.RIGHT_CAPTIONS, [o[1:] for o in objects]),
        (tower_text.BACKGROUND_CAPTIONS, [[colours.index(s.background)] for s in scenes]),
        (tower_text.COUNT_CAPTIONS, [[3 if s.is_pair else s.count - 1] for s in scenes]),
    ]
    return [
        (weight, captions, match_matrix(rows, len(captions)))
        for weight, (captions, rows) in zip(WEIGHTS[:-1], views, strict=True)
    ]


def full_view(scenes: list[Scene], *, background: bool) -> View:
    """The captions of the whole pictures in this batch, and the pairs' swapped captions."""
    own = [tower_text.full_caption(scene, background=background) for scene in scenes]
    swapped = [
        tower_text.full_caption(Scene(s.objects[::-1], 1, s.background), background=background)
        for s in scenes
        if s.is_pair
    ]
    captions = {caption: i for i, caption in enumerate(dict.fromkeys((*own, *swapped)))}
    return WEIGHTS[-1], tuple(captions), match_matrix([[captions[c]] for c in own], len(captions))


def contrastive_loss(logits: Tensor, match: Tensor, told: Tensor | None = None) -> Tensor:
    """InfoNCE both ways over (B, T); each row's and column's positives share the target.

    Rows and columns without a positive only serve as negatives; columns that are not `told` (T,)
    do not even that.
    """
    if told is not None:
        logits = logits.masked_fill(~told, _NEVER)
    loss = logits.new_zeros(())
    for scores, target in ((logits, match), (logits.T, match.T)):
        mass = target.sum(1, keepdim=True)
        per_row = -(F.log_softmax(scores, dim=1) * target / mass.clamp(min=1)).sum(1)
        loss = loss + per_row.sum() / (mass > 0).sum().clamp(min=1)
    return loss / 2


def spread_loss(text: Tensor) -> Tensor:
    """How alike the captions (T, E; unit norm) of one part are: 0 at right angles.

    Untrained, "a dog" and "a cat" point the same way and neither side has anything to learn
    from; pushed apart (the uniformity of Wang & Isola, 2020), they also end nearly orthogonal.
    """
    alike = SPREAD_SCALE * text @ text.T
    itself = torch.eye(len(text), dtype=torch.bool, device=text.device)
    alike = alike.masked_fill(itself, -torch.inf)
    return (alike.logsumexp(dim=1) - math.log(len(text) - 1)).mean()


def views_of(scenes: list[Scene], *, coin: int) -> list[View]:
    """Of the parts, then of the whole; `coin` (0 to 3) picks plural names and captions without
    background."""
    return [*part_views(scenes, plural=coin % 2 == 1), full_view(scenes, background=coin < 3)]


def scenes_loss(image: Tensor, text: Tensor, scale: Tensor, views: list[View]) -> Tensor:
    """The step's loss. `image` (B, E) and `text` (T, E), the captions of all views in their order,
    of any length; `scale`: the inverse temperature."""
    matches = [match.to(image.device) for _, _, match in views]
    return views_loss(image, text, scale, [weight for weight, _, _ in views], matches)


def views_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    weights: Sequence[float],
    matches: Sequence[Tensor],
    told: Tensor | None = None,
) -> Tensor:
    """The same of each view's weight and match; of the last, captions may stand there that are not
    `told`."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = scale * image @ text.T
    sizes = [match.shape[1] for match in matches]
    given = [None] * (len(sizes) - 1) + [told]
    losses = [
        weight * contrastive_loss(scores, match, of)
        for scores, weight, match, of in zip(
            torch.split(logits, sizes, dim=1), weights, matches, given, strict=True
        )
    ]
    spread = [SPREAD_WEIGHT * spread_loss(part) for part in torch.split(text, sizes)[:-1]]
    return torch.stack([*losses, *spread]).sum()
