from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fromage_index.collection import Collection
from fromage_index.writer import CollectionWriter
from tests.index.editing import make_empty
from tests.index.pictures import PROVENANCE

MakeCollection = Callable[..., Collection]


@pytest.fixture
def make_collection(tmp_path: Path) -> MakeCollection:
    """Vectors (N, E) to an open collection of URL rows, in segments of a few rows."""

    def make(
        vectors: NDArray[np.float32],
        metadata: Sequence[dict[str, Any]] | None = None,
        *,
        segment_rows: int = 7,
        out: Path | None = None,
    ) -> Collection:
        out = out or tmp_path / "collection"
        with CollectionWriter(
            out,
            dim=vectors.shape[1],
            provenance=PROVENANCE,
            source="a test",
            segment_rows=segment_rows,
        ) as writer:
            for row, vector in enumerate(vectors):
                url = f"https://example.org/{row}.png"
                writer.add(url, vector, url=url, metadata=metadata[row] if metadata else None)
            writer.commit()
        return Collection.open(out)

    return make


@pytest.fixture
def empty(tmp_path: Path) -> Collection:
    """To be filled; see editing.py."""
    return make_empty(tmp_path / "mine")
