"""What is run once before the first request: kernels are chosen, compiled and recorded then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fromage_server.engine import Engine
    from fromage_server.features import FeatureEncoder
    from fromage_server.gallery import Gallery


def warm_up(engine: Engine, encoder: FeatureEncoder, gallery: Gallery) -> None:
    """Language model, vision tower and every collection's search."""
    engine.warm_up()
    encoder.warm_up()
    for live in gallery.all:
        collection = live.snapshot
        query = np.zeros((1, collection.dim), dtype=np.float32)
        query[0, 0] = 1.0
        collection.search(query, 1)
