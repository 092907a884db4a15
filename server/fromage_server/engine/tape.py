"""Passes over single tokens on a CPU, written down once per batch size and then read off.

A decode step of a small model spends milliseconds in Python, between a layer's modules and in
transformers' wrappers around them. What a pass does with its tensors is always the same for one
batch size: torch's operations are written down while it runs once, and afterwards called one after
the other. They are the same operations, so all numbers are the same.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fromage_server.engine.attention import Layout, Paged, Span
from fromage_server.engine.head import Head
from fromage_server.engine.kv_cache import PagedCache
from fromage_server.engine.opaque import BEHIND, recording
from fromage_server.engine.shorter import described, direct, without_views
from fromage_weights.grounded import ForwardOutput, GroundedModel
from fromage_weights.language import output_head

log = logging.getLogger(__name__)
_PATIENCE = 10.0  # seconds of a start
_BY_VALUE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_PRODUCTS = {
    "aten.mm.default", "aten.addmm.default", "aten.linear.default", "fromage.few_rows.default",
    "fromage.panels.default", "mkldnn._linear_pointwise.default",
}  # fmt: skip
_DRESSES = {
    "aten.view.default", "aten._unsafe_view.default", "aten.alias.default", "aten._to_copy.default",
}  # fmt: skip
Pass = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Headless:
    """A ForwardOutput before its logits, which the head computes from ``last``."""

    last: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, output: ForwardOutput) -> Headless:
        assert output.last is not None
        return cls(output.last, output.hidden)


class Tapes:
    """Of ``model``. What was not recorded runs through the model's own modules.

    Once passes were recorded they end before the model's head, the others, too, and ``head`` goes
    on from there; where a model does something to its logits (softcaps, scales), they go to their
    end, and there is none."""

    def __init__(self, model: GroundedModel) -> None:
        self._model = model
        self._passes: dict[int, Pass] = {}
        self.head: Head | None = None

    @property
    def sizes(self) -> list[int]:
        return list(self._passes)

    def record(self, paged: Paged, most: int, blocks: int) -> None:
        """For batches of one up to ``most`` tokens, or as far as a start may take; what is computed
        meanwhile is stored in the first ``blocks``, which must be nobody's yet."""
        if not is_plain(self._model):
            return
        until = time.monotonic() + _PATIENCE
        for size in range(1, most + 1):
            spans = [Span(i, i + 1, 0, (i % blocks,)) for i in range(size)]
            with paged.step(Layout.of(spans, self._model.device)) as cache, recording():
                try:
                    self._record(size, cache)
                except (Unrecordable, RuntimeError) as error:
                    log.info("decode steps run through the model's own modules: %s", error)
                    return
            if time.monotonic() > until:
                return

    def _record(self, size: int, cache: PagedCache) -> None:
        ids = torch.zeros(size, dtype=torch.long, device=self._model.device)
        inputs = (self._model.embed_ids(ids)[None], ids[None])
        with written(inputs) as tape:
            output = self._forward(*inputs, cache)
        results, last = (output.logits, output.hidden), output.last
        ends_before_head = last is not None and tape.is_product(output.logits, last)
        if not self._passes and ends_before_head:
            self.head = Head(output_head(self._model.lm))
        if self.head is not None and last is not None:
            results = (last, output.hidden)  # the head, of which nothing comes, is left out
        self._passes[size] = tape.read_off(results)

    def run(
        self, embedded: Tensor, positions: Tensor, cache: PagedCache
    ) -> ForwardOutput | Headless:
        """(N, D) embedded tokens of N sequences at (N,) positions, with results for all."""
        take = self._passes.get(len(embedded))
        if take is None:
            wanted = self.head is None
            return self.ended(self._forward(embedded[None], positions[None], cache, logits=wanted))
        results, hidden = take(embedded[None], positions[None])
        return ForwardOutput(results, hidden) if self.head is None else Headless(results, hidden)

    def ended(self, output: ForwardOutput) -> ForwardOutput | Headless:
        """A pass through the model's modules, which has no logits where there is a ``head``."""
        return output if self.head is None else Headless.of(output)

    def _forward(
        self, embedded: Tensor, positions: Tensor, cache: PagedCache, *, logits: bool = True
    ) -> ForwardOutput:
        return self._model.forward(
            embedded, position_ids=positions, past_key_values=cache, logits=logits
        )


class Unrecordable(Exception):
    """What is done depends on numbers, or changes what will be read again."""


@contextmanager
def written(inputs: tuple[Tensor, Tensor]) -> Iterator[Recorder]:
    """What torch computes from ``inputs`` within. Raises Unrecordable."""
    recorder = Recorder(inputs)
    # In inference mode torch reads a number without asking anybody.
    with torch.inference_mode(False), torch.no_grad(), recorder:
        yield recorder


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes operations on what comes from the inputs into a graph, whose arguments are the inputs
    and after them all other tensors that are needed: looked up as attributes of a module, these
    would cost a microsecond each."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._arguments: list[fx.Node] = []
        self._nodes = {id(one): self._argument(one) for one in inputs}
        self._constants: dict[int, tuple[fx.Node, Tensor]] = {}
        self._alive: list[Any] = list(inputs)  # an id is somebody else's once its tensor is gone

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._alive += (args, kwargs, out)
        known = [self._is_known(one) for one in torch.utils._pytree.tree_leaves((args, kwargs))]
        if any(known):
            self._write(func, args, kwargs, out)
        return out

    def is_product(self, result: Tensor, source: Tensor) -> bool:
        """Whether ``result`` is one matrix product of ``source``, as other numbers at most."""
        if not (self._is_known(result) and self._is_known(source)):
            return False
        product, goal = (_undressed(self._nodes[id(one)]) for one in (result, source))
        variable = [node for node in product.all_input_nodes if self.constant(node) is None]
        name = str(product.meta.get("operation"))
        return name in _PRODUCTS and [_undressed(node) for node in variable] == [goal]

    def constant(self, node: Any) -> Tensor | None:
        """What stands behind a node that does not depend on the inputs; None for others."""
        found = (value for argument, value in self._constants.values() if argument is node)
        return next(found, None)

    def read_off(
        self, outputs: tuple[Tensor, Tensor], rewrite: Callable[[Recorder], None] | None = None
    ) -> Pass:
        """The same again for other inputs of these shapes, in the way that ``rewrite`` makes of
        it. What does not depend on them is not computed again."""
        self.graph.output(tree_map(self.node, outputs))
        without_views(self.graph)
        if rewrite is not None:
            rewrite(self)
            self.graph.eliminate_dead_code()
        for key, (node, _) in list(self._constants.items()):
            if not node.users:
                self.graph.erase_node(node)
                del self._constants[key]
        module: Any = fx.GraphModule({}, self.graph)
        forward, constants = module.forward, tuple(value for _, value in self._constants.values())
        return lambda *inputs: forward(*inputs, *constants)

    def _write(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if _BY_VALUE & set(func.tags):
            raise Unrecordable(f"{func} looks at numbers")
        for one, argument in zip(args, func._schema.arguments, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and not self._is_known(one):
                raise Unrecordable(f"{func} changes what the next pass reads")
        target = BEHIND.get(func) or direct(func, args, kwargs)
        node = self.graph.call_function(
            target, tree_map(self.node, args), tree_map(self.node, kwargs)
        )
        node.meta["operation"] = func
        if isinstance(out, Tensor):
            self._nodes[id(out)] = described(node, out)
        elif isinstance(out, tuple | list):
            for i, one in enumerate(out):
                part = self.graph.call_function(operator.getitem, (node, i))
                self._nodes[id(one)] = described(part, one) if isinstance(one, Tensor) else part

    def _is_known(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._nodes

    def node(self, value: Any) -> Any:
        """What stands for a value in the graph: numbers for themselves."""
        if not isinstance(value, Tensor):
            return value
        if id(value) in self._nodes:
            return self._nodes[id(value)]
        if id(value) not in self._constants:
            self._constants[id(value)] = self._argument(value), value
        return self._constants[id(value)][0]

    def _argument(self, value: Tensor) -> fx.Node:
        before = self._arguments[-1] if self._arguments else self.graph._root
        with self.graph.inserting_after(before):
            node = described(self.graph.placeholder(f"input_{len(self._arguments)}"), value)
        self._arguments.append(node)
        return node


def _undressed(node: fx.Node) -> fx.Node:
    """What a tensor was before it became other numbers, or was divided in another way."""
    while str(node.meta.get("operation")) in _DRESSES:
        node = node.all_input_nodes[0]
    return node


def is_plain(model: GroundedModel) -> bool:
    """Quantized and divided weights are tensors with a life of their own."""
    tensors = (*model.lm.parameters(), *model.lm.buffers())
    return all(type(one) in (Tensor, torch.nn.Parameter) for one in tensors)
