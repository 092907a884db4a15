"""The trained layers: shapes, norms, and files that are damaged."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fromage_weights.errors import DamagedFile
from fromage_weights.mappers import FILE_NAME, Mappers


def _mappers(*, tied: bool = True) -> Mappers:
    torch.manual_seed(0)
    return Mappers(6, 10, 12, 3, 4, (-1, 0), tied)


def test_shapes_and_norms() -> None:
    mappers = _mappers()
    features, hidden = torch.randn(5, 6), torch.randn(5, 2, 12).bfloat16()
    assert mappers.soft_tokens(features).shape == (5, 3, 10)
    for embeddings in (mappers.image_embeddings(features), mappers.query_embeddings(hidden)):
        assert embeddings.shape == (5, 4)
        assert embeddings.dtype == torch.float32
        assert_close(embeddings.norm(dim=-1), torch.ones(5))


def test_layers_are_summed_before_the_norm() -> None:
    mappers = _mappers()
    hidden = torch.randn(2, 2, 12)
    first, second = mappers.text_hidden_fcs
    summed = first(hidden[:, 0]) + second(hidden[:, 1])
    expected = summed / summed.norm(dim=-1, keepdim=True)
    assert_close(mappers.query_embeddings(hidden), expected)


def test_similarity_is_the_scaled_cosine() -> None:
    mappers = _mappers()
    with torch.no_grad():
        mappers.logit_scale.fill_(math.log(20))
    unit = torch.eye(4)
    assert_close(mappers.similarity(unit[:2], unit), 20 * unit[:2])


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_brings_back_every_tensor(tmp_path: Path, tied: bool) -> None:
    written, read = _mappers(tied=tied), Mappers(6, 10, 12, 3, 4, (-1, 0), tied)
    written.save(tmp_path / FILE_NAME)
    (tmp_path / "other").touch()
    assert (tmp_path / FILE_NAME).stat().st_mode == (tmp_path / "other").stat().st_mode
    read.load(tmp_path / FILE_NAME)
    assert written.state_dict().keys() == read.state_dict().keys()
    assert ("ret_head" in written.state_dict()) is not tied
    for name, value in written.state_dict().items():
        assert torch.equal(value, read.state_dict()[name]), name


def test_a_bfloat16_file_is_read_as_float32(tmp_path: Path) -> None:
    mappers = _mappers()
    mappers.save(tmp_path / FILE_NAME, torch.bfloat16)
    assert load_file(tmp_path / FILE_NAME)["visual_fc.weight"].dtype == torch.bfloat16
    mappers.load(tmp_path / FILE_NAME)
    assert mappers.visual_fc.weight.dtype == torch.float32


def _without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in _mappers().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        (_without("visual_fc.bias"), r"missing: visual_fc\.bias"),
        (_without("") | {"surplus": torch.ones(1)}, "unexpected tensors: surplus"),
        (
            _without("") | {"visual_fc.bias": torch.ones(5)},
            r"visual_fc\.bias has shape \(5,\), expected \(4,\)",
        ),
    ],
)
def test_wrong_tensors_are_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], problem: str
) -> None:
    file = tmp_path / FILE_NAME
    save_file(tensors, file)
    with pytest.raises(DamagedFile, match=problem) as caught:
        _mappers().load(file)
    assert caught.value.file == file


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "gone"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / FILE_NAME
    _mappers().save(file)
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[12] ^= 0xFF
    file.write_bytes(content[: {"truncated": -7, "empty": 0}.get(damage, len(content))])
    if damage == "gone":
        file.unlink()
    with pytest.raises(DamagedFile, match=r"mappers\.safetensors"):
        _mappers().load(file)
