"""Pooled features in front of the projection, for every kind of open_clip tower."""

from typing import Any

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from fromage_weights.errors import ModelUnavailable, UnsupportedModel
from fromage_weights.towers import OPENAI_CLIP, canonical_name, load_tower
from fromage_weights.vision import VisionEncoder, remove_projection

_VIT = {"image_size": 32, "patch_size": 16, "width": 24, "layers": 1, "heads": 2, "mlp_ratio": 2.0}
_POOL = {"attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_dim": 20}
VIT_POOLS: dict[str, dict[str, Any]] = {
    "cls": {},
    "avg": {"pool_type": "avg"},
    "norm after pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "attention": {"attentional_pool": True, **_POOL},
    # open_clip's own form of these two works where both widths agree
    "attention parallel": {"attentional_pool": "parallel", **_POOL, "output_dim": 24},
    "attention cascade": {"attentional_pool": "cascade", **_POOL, "output_dim": 24},
    "with tokens": {"output_tokens": True},
}
# head: TimmModel's settings, the projection inside it, the width in front of that
TIMM_HEADS: dict[str, tuple[dict[str, str], str, int]] = {
    "linear": ({"model_name": "test_resnet", "proj": "linear"}, "head.proj", 96),
    "mlp": ({"model_name": "test_resnet", "proj": "mlp"}, "head.mlp", 96),
    "resnet classifier": ({"model_name": "test_resnet", "proj": ""}, "trunk.fc", 96),
    "convnext classifier": ({"model_name": "test_convnext", "proj": ""}, "trunk.head.fc", 64),
    "none": ({"model_name": "test_resnet", "proj": "none"}, "", 96),
    "rotary attention": (
        {"model_name": "test_convnext", "pool": "rot_attn", "proj": ""},
        "head.pool.proj",
        64,
    ),
    "attention then linear": (
        {"model_name": "test_convnext", "pool": "abs_attn", "proj": "linear"},
        "head.proj",
        10,
    ),
    "map": ({"model_name": "test_vit3", "pool": "map", "proj": "linear"}, "head.proj", 96),
    "map without": ({"model_name": "test_vit3", "pool": "map", "proj": "none"}, "", 96),
}


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(3)


def _pixels(size: int) -> Tensor:
    return torch.randn(2, 3, size, size)


def _first(output: Any) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


@torch.inference_mode()
def _check(tower: nn.Module, project: Any, size: int, dim: int) -> None:
    """Projecting the encoder's features must give what the whole tower gave."""
    tower.eval()
    pixels = _pixels(size)
    expected = _first(tower(pixels)).flatten(1)
    encoder = VisionEncoder(tower, {})
    features = encoder.encode(pixels)
    assert encoder.dim == dim == features.shape[1]
    assert features.dtype == torch.float32
    assert_close(project(features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", sorted(VIT_POOLS))
def test_vision_transformer(pool: str) -> None:
    tower = VisionTransformer(**_VIT, **VIT_POOLS[pool])
    projection = tower.proj.detach()
    _check(tower, lambda x: x @ projection, 32, 20 if pool == "attention" else 24)


def test_modified_resnet() -> None:
    tower = ModifiedResNet([1, 1, 1, 1], output_dim=10, heads=4, image_size=64, width=8)
    projection = tower.attnpool.c_proj
    _check(tower, projection, 64, 256)


@pytest.mark.parametrize("head", sorted(TIMM_HEADS))
def test_timm_tower(head: str) -> None:
    settings, projection, dim = TIMM_HEADS[head]
    sizes: dict[str, Any] = {"embed_dim": 10, "image_size": 160}
    tower = TimmModel(**sizes, **settings)
    project = tower.get_submodule(projection) if projection else nn.Identity()
    _check(tower, project, 160, dim)


def test_a_tower_without_a_pool_is_refused() -> None:
    tower = VisionTransformer(**_VIT, pool_type="none")
    with pytest.raises(UnsupportedModel, match="one vector"):
        VisionEncoder(tower, {})


def test_an_unknown_kind_of_tower_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Conv2d"):
        remove_projection(nn.Conv2d(3, 3, 1))


def test_squash_and_crop() -> None:
    encoder = VisionEncoder(VisionTransformer(**_VIT), {})
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (0, 0, 45, 30))
    squashed, cropped = encoder.preprocess(image, "squash"), encoder.preprocess(image, "crop")
    assert squashed.shape == cropped.shape == (3, 32, 32)
    halves = [pixels[0, 16, [0, 31]] for pixels in (squashed, cropped)]
    for left, right in halves:
        assert left > 1.5 > -1.5 > right
    wide = Image.new("RGB", (90, 30), "black")
    wide.paste("white", (0, 0, 25, 30))  # left of what the crop keeps
    assert float(encoder.preprocess(wide, "crop")[0].max()) < 0
    assert float(encoder.preprocess(wide, "squash")[0].max()) > 1.5


def test_openai_names_are_open_clips() -> None:
    listed = set(open_clip.list_pretrained())
    assert canonical_name("openai/clip-vit-large-patch14") == "ViT-L-14-quickgelu/openai"
    for name in OPENAI_CLIP:
        architecture, _, pretrained = canonical_name(name).partition("/")
        assert (architecture, pretrained) in listed
        assert open_clip.get_model_config(architecture)["quick_gelu"]
    assert canonical_name("laion/some-clip") == "laion/some-clip"


def test_a_towers_form_is_what_its_weights_do_not_tell() -> None:
    """Another activation and other colours are another tower, with the same weights."""
    made = []
    for act, mean in ((nn.GELU, 0.5), (QuickGELU, 0.5), (nn.GELU, 0.4), (nn.GELU, 0.5)):
        torch.manual_seed(3)
        tower = VisionTransformer(**_VIT, output_dim=20, act_layer=act)
        made.append(VisionEncoder(tower, {"mean": (mean,) * 3, "std": (0.5,) * 3}))
    assert len({encoder.fingerprint for encoder in made}) == 1
    forms = [encoder.form for encoder in made]
    assert len(set(forms)) == 3
    assert forms[0] == forms[3]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("ViT-L-14/nonsense", "laion2b_s32b_b82k"),
        ("nonsense", "MODEL/PRETRAINED"),
        ("ViT-B-32/openai", "with QuickGELU; name ViT-B-32-quickgelu/openai"),
        ("/no/such/folder", "no such directory"),
        ("local-dir:nowhere", "no such directory"),
    ],
)
def test_unknown_towers(source: str, named: str) -> None:
    with pytest.raises(ModelUnavailable, match=named):
        load_tower(source)
