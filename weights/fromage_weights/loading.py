"""From a bundle's name to a model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fromage_weights.bundle import CONFIG_NAME, Bundle
from fromage_weights.devices import choose_device, choose_dtype, full_float32_precision
from fromage_weights.errors import BundleMismatch, BundleNotFound, UnsupportedModel, one_line
from fromage_weights.fingerprint import fingerprint
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import (
    convert_parameters,
    is_path,
    load_language_model,
    reading_dtype,
)
from fromage_weights.mappers import FILE_NAME
from fromage_weights.quantization import Quantization, load_quantized_model, original_digests
from fromage_weights.sharding import Division, check_device
from fromage_weights.sizes import language_model_outline
from fromage_weights.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from fromage_weights.image_embedder import ImageEmbedder
    from fromage_weights.vision import VisionEncoder

DEMO = "demo"


@dataclass(frozen=True)
class LoadedBundle:
    model: GroundedModel
    vision: VisionEncoder | None
    bundle: Bundle


def load_grounded_model(
    bundle: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantization = "none",
    vision: bool = True,
    world: int = 1,
) -> LoadedBundle:
    """Load mappers, language model and (unless ``vision`` is False) the vision encoder.

    ``bundle`` is "demo", a directory or a hub id. Every part is checked against the bundle's
    hashes: BundleMismatch, DamagedFile and the other errors of this package say what is wrong.
    With a ``world`` above 1 all ranks of the process group call this together, and each gets its
    part of the language model, which is not quantized then.
    """
    full_float32_precision()
    place = choose_device(device)
    loaded = Bundle.load(bundle_directory(bundle))
    loaded.mappers.requires_grad_(False)
    return LoadedBundle(
        model=_load_language(loaded, place, choose_dtype(dtype, place), quantize, world),
        vision=_load_vision(loaded, place) if vision else None,
        bundle=loaded,
    )


def load_image_embedder(bundle: Bundle, *, device: str = "auto") -> ImageEmbedder:
    """What indexing needs of a bundle, without its language model. Raises as above."""
    from fromage_weights.image_embedder import ImageEmbedder

    full_float32_precision()
    vision = _load_vision(bundle, choose_device(device))
    return ImageEmbedder(vision, bundle.mappers.requires_grad_(False))


def bundle_directory(bundle: str | Path) -> Path:
    """The directory of a bundle's name; a hub repository is downloaded into the hub's cache."""
    if str(bundle) == DEMO:
        return Path(__file__).parent / "demo" / "bundle"
    path = Path(bundle).expanduser()
    if path.is_dir():
        return path
    if is_path(str(bundle)):
        raise BundleNotFound(f"bundle {str(bundle)!r}: no such directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = snapshot_download(
            str(bundle), allow_patterns=[CONFIG_NAME, FILE_NAME, "lm/*", "vision/*"]
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        expected = f"expected {DEMO!r}, a directory or a hub id ({one_line(error)})"
        raise BundleNotFound(f"bundle {str(bundle)!r}: {expected}") from error
    return Path(found)


def _load_language(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, quantize: Quantization, world: int
) -> GroundedModel:
    config = bundle.config
    source = bundle.frozen_source(config.lm)
    division = _division(source, device, world) if world > 1 else None
    if quantize == "none":
        options = division.loading_options() if division else {}
        lm = load_language_model(source, reading_dtype(dtype), **options)
        found = fingerprint(lm)
    else:
        lm = load_quantized_model(source, quantize, dtype, device)
        found = fingerprint(lm, original_digests(lm))
    if reading_dtype(dtype) != dtype:
        convert_parameters(lm, dtype)
    if found != config.lm.hash:
        raise BundleMismatch("language model", source, config.lm.hash, found)
    bundle.check_files(config.lm)
    tokenizer = load_tokenizer(source, ret_token=config.ret_token, rules=config.tokenizer_rules)
    if division is not None:
        division.settle(lm)
    elif quantize == "none":
        torch.nn.Module.to(lm, device)
    return GroundedModel(lm, bundle.mappers, tokenizer)


def _division(source: str, device: torch.device, world: int) -> Division:
    check_device(device)
    return Division.of(language_model_outline(source), world)


def _load_vision(bundle: Bundle, device: torch.device) -> VisionEncoder:
    from fromage_weights.vision import VisionEncoder

    config = bundle.config
    source = bundle.frozen_source(config.vision)
    encoder = VisionEncoder.load(source)
    if encoder.fingerprint != config.vision.hash:
        raise BundleMismatch("vision encoder", source, config.vision.hash, encoder.fingerprint)
    bundle.check_files(config.vision)
    if encoder.dim != config.vision_dim:
        raise UnsupportedModel(
            f"{source}: features of {encoder.dim} numbers, the bundle expects {config.vision_dim}"
        )
    return encoder.to(device)
