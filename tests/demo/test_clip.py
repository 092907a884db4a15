"""The tower written out is open_clip's own, forwards and backwards, and so is a step's loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_weights.cpu import training_dtype
from fromage_weights.demo import tower_text
from fromage_weights.demo.clip import caption_embeddings, embeddings, image_embeddings
from fromage_weights.demo.contrastive import scenes_loss, views_of
from fromage_weights.demo.shapes import compiled
from fromage_weights.demo.tower import step_loss
from fromage_weights.demo.tower_model import IMAGE_SIZE, build_tower
from fromage_weights.demo.world import Scene


@pytest.fixture
def tower() -> Any:
    torch.manual_seed(0)
    tower = build_tower()
    with torch.no_grad():
        for param in tower.parameters():
            param.add_(0.02 * torch.randn_like(param))  # biases, norms and the query, too
    return tower


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ids() -> Tensor:
    return tower_text.tokenize(["a dog", "two cats on blue", "a dog and a cat on red", "on white"])


def _gradients(tower: nn.Module, embedded: Tensor) -> dict[str, Tensor]:
    """Of a sum in which every output has a weight of its own."""
    weights = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(2))
    tower.zero_grad()
    (embedded.float() * weights).sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


def _assert_same(tower: Any, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    wanted, made = _gradients(tower, expected), _gradients(tower, found)
    assert wanted.keys() == made.keys()
    for name in wanted:
        distance = (made[name] - wanted[name]).norm() / wanted[name].norm()
        assert distance < 1e-3, name


def test_pictures_are_embedded_as_by_the_library(tower: Any, pixels: Tensor) -> None:
    found = image_embeddings(tower, pixels, torch.float32)
    _assert_same(tower, found, tower.encode_image(pixels))


def test_captions_are_embedded_as_by_the_library(tower: Any, ids: Tensor) -> None:
    words, last = tower.token_embedding(ids), ids.argmax(-1)
    found = caption_embeddings(tower, words, last, torch.float32)
    _assert_same(tower, found, tower.encode_text(ids))


def test_a_steps_loss_is_that_of_its_captions_alone(tower: Any, pixels: Tensor) -> None:
    """Whatever rows fill the batch up, and as many in every step."""
    scenes = [
        Scene(("dog", "cat"), 1, "red"),
        Scene(("owl",), 2, "blue"),
        Scene(("pig",), 1, "red"),
    ]
    shapes = set()

    def embed(tower: Any, pixels: Tensor, words: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        shapes.add(words.shape)
        image = image_embeddings(tower, pixels, torch.float32)
        return image, caption_embeddings(tower, words, last, torch.float32)

    for coin in range(4):
        views = views_of(scenes, coin=coin)
        ids = tower_text.tokenize([caption for _, texts, _ in views for caption in texts])
        image, text = tower.encode_image(pixels), tower.encode_text(ids)
        expected = scenes_loss(image, text, tower.logit_scale.exp(), views)
        found = step_loss(tower, embed, pixels, views)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        views = views_of(scenes[:1] * 3, coin=coin)  # fewer captions
        step_loss(tower, embed, pixels, views)
    assert len(shapes) == 1


@pytest.mark.slow
def test_compiled_it_is_the_same(tower: Any, pixels: Tensor, ids: Tensor) -> None:
    for side in (tower.visual, tower):
        side.transformer.resblocks = side.transformer.resblocks[:1]  # each costs seconds
    fused = compiled(embeddings)
    assert fused is not embeddings
    plain, fast = (
        function(tower, pixels, tower.token_embedding(ids), ids.argmax(-1), training_dtype())
        for function in (embeddings, fused)
    )
    for expected, found in zip(plain, fast, strict=True):
        spread = float(expected.detach().std())
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2 * spread)
    wanted, made = (_gradients(tower, torch.cat(both)) for both in (plain, fast))
    for name in wanted:
        if wanted[name].norm() > 1e-2:
            distance = (made[name] - wanted[name]).norm() / wanted[name].norm()
            assert distance < 0.05, name
