"""The last decoder layer, computed for those tokens of a step that somebody reads.

Of a prompt one position is read, the one that tells the first token. In the last layer all others
are needed for their keys and values alone: what attention makes of them, and the feed-forward part
behind it (nine twelfths of a layer's products in the usual shape), is looked at by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fromage_server.engine.attention import BeyondKeys, Layout, Span
from fromage_server.engine.kv_cache import PagedCache
from fromage_server.engine.landing import upload
from fromage_server.engine.ranks import Pass
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import replaced_forward


class LastLayer:
    """Of a model whose layers look beyond their own token in attention only."""

    def __init__(self, model: GroundedModel, *, whole: bool = False) -> None:
        """``whole``: it is computed for all, so that what is stored of a token does not depend on
        whether it is read. So is the layer of a model whose inner layers are read, too, and of one
        where it isn't plain which of the modules it is."""
        lm: Any = model.lm
        layers = int(lm.config.get_text_config().num_hidden_layers)
        lists = [m for m in lm.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
        found = [stack[-1] for stack in lists if _attends_as(stack[-1], layers - 1)]
        whole = whole or len(found) != 1 or model.reads_inner_layers
        self._layer: Any = None if whole else found[0]

    @contextmanager
    def narrowed(self, cache: PagedCache, step: Pass) -> Iterator[None]:
        """Within it, where that pays, a pass of ``step`` brings its kept rows alone: in the others
        stands what the last layer was given."""
        rows = step.kept or (0,)  # modules may not like to see none
        alone = _alone(step.spans, rows)
        if self._layer is None or alone is None:
            yield
            return
        device = cache.layout.device
        picked, layout = upload(rows, torch.long, device), Layout.of(alone, device)
        with self.narrowed_to(picked, layout, cache, len(step.embedded)):
            yield

    @contextmanager
    def narrowed_to(
        self, rows: Tensor, layout: Layout, cache: PagedCache, tokens: int
    ) -> Iterator[None]:
        """The same for (K,) ``rows`` of any step of so many tokens; ``layout`` has each as its
        sequence's one new token. A row may come several times."""
        if self._layer is None or 2 * len(rows) > tokens:
            yield
            return
        forward = partial(_forward, self._layer.forward, cache, rows, layout)
        with replaced_forward(self._layer, forward):
            yield


def _forward(
    whole: Any,
    cache: PagedCache,
    rows: Tensor,
    layout: Layout,
    hidden: Tensor,
    *args: Any,
    **kw: Any,
) -> Any:
    """A layer's ``whole`` forward, of all rows for their keys and values, then of ``rows``."""
    with cache.storing(), suppress(BeyondKeys):
        whole(hidden, *args, **kw)
    cache.layout = layout
    pick = partial(_picked, rows=rows, count=hidden.shape[1])
    found = whole(*tree_map(pick, (hidden, *args)), **tree_map(pick, kw))
    if isinstance(found, tuple):
        return hidden.index_copy(1, rows, found[0]), *found[1:]
    return hidden.index_copy(1, rows, found)


def _attends_as(layer: nn.Module, number: int) -> bool:
    return any(getattr(module, "layer_idx", None) == number for module in layer.modules())


def _picked(value: Any, rows: Tensor, count: int) -> Any:
    """Those rows of what has one for each of ``count`` packed tokens: positions, rotations."""
    if isinstance(value, Tensor) and value.shape[:2] == (1, count):
        return value[:, rows]
    if isinstance(value, Tensor) and value.shape[:1] == (count,):
        return value[rows]
    return value


def _alone(spans: Seq[Span], rows: Seq[int]) -> list[Span] | None:
    """Each of these rows as a sequence's one new token; None where a sequence has several: what one
    of them stores the others would read."""
    owners = [span for row in rows for span in spans if span.start <= row < span.stop]
    if len({span.start for span in owners}) < len(rows):
        return None
    return [
        Span(i, i + 1, span.past + row - span.start, span.blocks)
        for i, (row, span) in enumerate(zip(rows, owners, strict=True))
    ]
