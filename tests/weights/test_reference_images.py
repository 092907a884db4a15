"""Recorded vision features and index embeddings."""

from pathlib import Path

import pytest
import torch
from PIL import Image, UnidentifiedImageError

from fromage_weights.vision import VisionEncoder
from tests.weights.recording import EMBEDDINGS, SCORES, Recording, check_close


def _files(recording: Recording) -> list[str]:
    return [name.split("/")[1] for name in recording.arrays if name.endswith("/pixel_values")]


@pytest.fixture(params=["hub", "open_clip"])
def encoder(request: pytest.FixtureRequest, recording: Recording) -> VisionEncoder:
    """The same tower from a Hugging Face directory and from an open_clip one."""
    if request.param == "hub":
        return recording.vision
    folder = recording.path / "open_clip"
    if not folder.is_dir():
        pytest.skip("the open_clip copy of the tower is only in the full reference recording")
    return VisionEncoder.load(f"local-dir:{folder}")


def test_prompt_images(recording: Recording, encoder: VisionEncoder) -> None:
    mappers = recording.loaded.model.mappers
    files = _files(recording)
    assert files
    for file in files:
        expected = {
            name: recording.arrays[f"image/{file}/{name}"]
            for name in ("pixel_values", "pooler_output", "visual_embs", "retrieval_emb")
        }
        with Image.open(recording.images / file) as image:
            pixels = encoder.preprocess(image, "squash")
        assert torch.equal(pixels, expected["pixel_values"])
        features = encoder.encode(pixels[None])
        check_close(features[0], expected["pooler_output"], EMBEDDINGS)
        check_close(mappers.soft_tokens(features)[0], expected["visual_embs"], EMBEDDINGS)
        retrieval = expected["retrieval_emb"] / expected["retrieval_emb"].norm()
        check_close(mappers.image_embeddings(features)[0], retrieval, EMBEDDINGS)


def test_index_images_are_cropped_with_the_margin_rounded_down(
    recording: Recording, encoder: VisionEncoder
) -> None:
    mappers = recording.loaded.model.mappers
    scale = mappers.logit_scale.exp()
    matrix = recording.arrays["emb_matrix"]
    margins = set()
    for row, expected in enumerate(matrix):
        image = _open(recording.images / f"img_{row:03d}.png")
        if image is None:
            continue
        pixels = encoder.preprocess(image, "crop")
        check_close(
            scale * mappers.image_embeddings(encoder.encode(pixels[None]))[0], expected, SCORES
        )
        short, long = sorted(image.size)
        margins.add((int(encoder.image_size * long / short) - encoder.image_size) % 4)
    assert margins == {0, 1, 2, 3}  # 3 is where rounding half to even would differ


def _open(path: Path) -> Image.Image | None:
    try:
        return Image.open(path).convert("RGB")
    except (FileNotFoundError, UnidentifiedImageError):
        return None


def test_both_sources_of_a_tower_have_one_fingerprint(reference: Path) -> None:
    towers = [
        reference / "variant_a" / "hub" / "openai" / "clip-vit-tiny-a",
        reference / "variant_a" / "open_clip",
        reference / "variant_b" / "open_clip",
    ]
    same, also, other = (VisionEncoder.load(str(path)).fingerprint for path in towers)
    assert same == also != other
