"""The recorded rankings of the reference code, over its own index files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fromage_index.collection import Collection
from fromage_index.import_reference import import_reference
from tests.index.pictures import PROVENANCE

UNREADABLE = {"img_008.png", "img_111.png", "img_156.png"}


@pytest.fixture(scope="module", params=["variant_a", "variant_b"])
def recorded(
    request: pytest.FixtureRequest, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Collection, dict[str, np.ndarray], list[dict[str, Any]]]:
    directory = reference / request.param
    out = tmp_path_factory.mktemp(request.param) / "collection"
    import_reference(
        [directory / "model_dir"],
        out,
        dim=32,
        provenance=PROVENANCE,
        images_root=reference / "images",
    )
    outputs = json.loads((directory / "outputs.json").read_text())
    return Collection.open(out), load_file(directory / "arrays.safetensors"), outputs


def test_every_score(recorded: Any) -> None:
    collection, arrays, outputs = recorded
    scale = float(np.linalg.norm(arrays["emb_matrix"][0]))
    compared = 0
    for case in outputs:
        if f"{case['id']}/ret_emb" not in arrays:
            continue
        expected = arrays[f"{case['id']}/ret_scores"]
        ranked = collection.search(arrays[f"{case['id']}/ret_emb"], collection.size)
        for hits, scores in zip(ranked, expected, strict=True):
            found = np.empty(collection.size)
            found[[hit.row for hit in hits]] = [hit.score * scale for hit in hits]
            np.testing.assert_allclose(found, scores, atol=2e-4)
            compared += 1
    assert compared >= 20


def test_every_top_20(recorded: Any) -> None:
    """Images tried for an earlier [RET] are downweighted by the reference, excluded here; none of
    them is in a recorded top 20."""
    collection, arrays, outputs = recorded
    keys = [collection.image(name).key for name in collection.ids]
    compared = 0
    for case in outputs:
        tried: set[str] = set()
        for number, ret in enumerate(case.get("rets") or []):
            query = arrays[f"{case['id']}/ret_emb"][number : number + 1]
            hits = collection.search(query, 20, exclude=tried)[0]
            assert [hit.row for hit in hits] == ret["top20_indices"]
            assert [keys[hit.row] for hit in hits] == ret["top20_paths"]
            tried.update(collection.ids[keys.index(path)] for path in ret["tried"])
            compared += 1
    assert compared >= 20


def test_the_same_files_open(recorded: Any) -> None:
    collection, _, _ = recorded
    names = collection.ids
    assert len(names) == 200
    broken = {collection.image(name).key for name in names if not collection.readable(name)}
    assert broken == UNREADABLE
