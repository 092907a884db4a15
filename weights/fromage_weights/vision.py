"""The frozen vision encoder: any open_clip tower, read before its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fromage_weights.errors import UnsupportedModel
from fromage_weights.fingerprint import digest_of_rows, fingerprint
from fromage_weights.towers import load_tower

if TYPE_CHECKING:
    from PIL.Image import Image

PreprocessMode = Literal["squash", "crop"]
# The reference resizes every prompt image to this, whatever size the tower takes.
_SQUASHED = (224, 224)


class VisionEncoder:
    """Pixels in, pooled features out; always float32, so that one collection's embeddings agree
    whatever the language model runs in.

    The tower's projection into CLIP's own space is removed: FROMAGe's mappers read the feature in
    front of it (paper, section 3.1; ``pooler_output`` in Hugging Face's CLIP).
    """

    def __init__(self, tower: nn.Module, preprocessing: dict[str, Any]) -> None:
        self.tower = remove_projection(tower).eval().requires_grad_(False)
        self.image_size = _square_size(tower)
        self.fingerprint = fingerprint(self.tower)
        preprocessing = preprocessing | {"size": self.image_size}
        self._transform = _make_transform(preprocessing)
        # What weights don't tell: activations, and how a picture comes to the tower.
        self.form = digest_of_rows([repr(self.tower), sorted(preprocessing.items())])
        pixels = torch.zeros(1, 3, self.image_size, self.image_size)
        self.dim = int(self.encode(pixels).shape[1])

    @classmethod
    def load(cls, source: str) -> VisionEncoder:
        return cls(*load_tower(source))

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    def to(self, device: torch.device) -> VisionEncoder:
        self.tower.to(device)
        return self

    def preprocess(self, image: Image, mode: PreprocessMode = "crop") -> Tensor:
        """RGB image -> (3, S, S) float32.

        "crop" is the tower's own transform; "squash" first resizes to 224x224 without keeping the
        aspect ratio, as the reference does with images of a prompt.
        """
        from PIL.Image import Resampling

        image = image.convert("RGB")
        if mode == "squash":
            image = image.resize(_SQUASHED, Resampling.BICUBIC)
        pixels: Tensor = self._transform(image)
        return pixels

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim) float32 on the CPU."""
        output = self.tower(pixels.to(self.device, torch.float32))
        features: Tensor = output[0] if isinstance(output, tuple) else output
        if features.ndim == 3 and features.shape[1] == 1:  # an attention pool with one query
            features = features[:, 0]
        if features.ndim != 2:
            raise UnsupportedModel(
                f"{type(self.tower).__name__} gives features of shape {tuple(features.shape[1:])} "
                "per image, expected one vector (a pooled tower)"
            )
        return features.float().cpu().clone()


def remove_projection(tower: nn.Module) -> nn.Module:
    """Make the tower return its pooled feature. Changes it in place."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(tower, VisionTransformer):
        tower.register_parameter("proj", None)
    elif isinstance(tower, ModifiedResNet):
        _remove_resnet_projection(tower)
    elif isinstance(tower, TimmModel):
        _remove_timm_projection(tower)
    else:
        raise UnsupportedModel(
            f"vision tower {type(tower).__name__}: expected open_clip's VisionTransformer, "
            "ModifiedResNet or TimmModel"
        )
    assert isinstance(tower, nn.Module)
    return tower


def _remove_resnet_projection(tower: Any) -> None:
    """The attention pool hands ``c_proj`` to a fused function, which cannot leave it out."""
    width = tower.attnpool.c_proj.in_features
    identity = nn.Linear(width, width)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(width))
        identity.bias.zero_()
    tower.attnpool.c_proj = identity


def _remove_timm_projection(tower: Any) -> None:
    parts = dict(tower.head.named_children())
    if "proj" in parts or "mlp" in parts:  # projection after the pool, the head's or the trunk's
        tower.head = parts.get("pool", nn.Identity())
    elif "pool" in parts:  # an attention pool that ends in the projection
        parts["pool"].proj = nn.Identity()
    elif tower.trunk.num_classes > 0:  # the trunk's classifier is the projection
        tower.trunk.reset_classifier(0)


def _square_size(tower: Any) -> int:
    size = tower.image_size
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if sides[0] != sides[1]:
        raise UnsupportedModel(f"the tower takes {sides[0]}x{sides[1]} images, expected a square")
    return int(sides[0])


def _make_transform(preprocessing: dict[str, Any]) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import CenterCrop

    transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    transform.transforms = [
        _centre_crop(step.size[0]) if isinstance(step, CenterCrop) else step
        for step in transform.transforms
    ]
    return transform


def _centre_crop(side: int) -> Any:
    """Rounds the margin down, as Hugging Face's CLIP processor does; torchvision rounds half to
    even, which shifts some crops by one pixel against the reference's embeddings."""

    def crop(image: Image) -> Image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    return crop
