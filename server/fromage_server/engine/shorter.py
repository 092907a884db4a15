"""A recorded pass with fewer calls, and cheaper ones, for the same numbers.

Of a step of a small model every fifth millisecond goes to torch's bookkeeping around an operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

_aten: Any = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default, _aten.alias.default)
_PLACES: tuple[Any, ...] = (torch._C._VariableFunctions, torch.Tensor, torch._C._nn)


def described(node: fx.Node, value: Tensor) -> fx.Node:
    """``node`` with what those who rewrite a recording need to know of its tensor."""
    node.meta["shape"], node.meta["dtype"] = tuple(value.shape), value.dtype
    return node


def without_views(graph: fx.Graph) -> None:
    """Leave out what only says again how a tensor is divided: views that change nothing, views of
    views, and the same one twice. Nodes that hold a tensor are ``described``."""
    known: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
    for node in graph.nodes:
        if node.target not in _VIEWS:
            continue
        shape, source = node.meta["shape"], node.args[0]
        while source.target is torch.Tensor.view:
            source = source.args[0]
        if source.meta["shape"] == shape:
            node.replace_all_uses_with(source)
            continue
        node.target, node.args = torch.Tensor.view, (source, list(shape))
        first = known.setdefault((source, shape), node)
        if first is not node:
            node.replace_all_uses_with(first)
    graph.eliminate_dead_code()


def direct(operation: Any, args: Any, kwargs: Any) -> Callable[..., Any]:
    """What Python itself calls for ``operation`` on such arguments: it takes a third of the time of
    a call by the operation's name, which first looks its schema up. ``operation`` where there is
    nothing of the kind, or where a graph has to see what it is: views, changes of arguments."""
    _, _, name = operation._schema.name.partition("::")
    for place in () if operation in _VIEWS or operation._schema.is_mutable else _PLACES:
        found = getattr(place, name, None)
        if callable(found) and _asks_for(found, operation, args, kwargs):
            return found  # type: ignore[no-any-return]
    return operation  # type: ignore[no-any-return]


def _asks_for(call: Callable[..., Any], operation: Any, args: Any, kwargs: Any) -> bool:
    """Whether that operation, and nothing before it, is what torch is asked for."""
    try:
        with _Asked():  # type: ignore[no-untyped-call]
            call(*args, **kwargs)
    except _First as asked:
        return asked.operation is operation
    except (TypeError, RuntimeError):  # it takes other arguments
        pass
    return False


class _First(Exception):
    def __init__(self, operation: Any) -> None:
        super().__init__(str(operation))
        self.operation = operation


class _Asked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes nothing: raises the first operation that is asked for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise _First(func)
