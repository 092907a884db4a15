"""A recorded pass over one token, rewritten for a GPU.

Products of the same numbers become one, where their weights lie side by side; biases, ReLU and the
sums around a layer become part of the product before them, and a scale of the queries one of their
scores; norms and products take the kernels of ``gemv``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from fromage_server.engine.tape import Recorder

Node: TypeAlias = Any
"""An ``fx.Node``, whose arguments may be anything."""
_PRODUCTS = ("aten.addmm.default", "aten.mm.default")
_VIEWS = ("aten.view.default", "aten._unsafe_view.default", "aten.alias.default")


@dataclass(frozen=True)
class Product:
    """``node`` of a recording: (1, K) times ``weight`` (N, K), plus ``bias`` (N,)."""

    node: Node
    weight: Tensor
    bias: Tensor | None

    @property
    def source(self) -> Node:
        """As it is by now: what went before may have been rewritten."""
        return self.node.args[-2]


def products_of(tape: Recorder) -> list[Product]:
    """Those with a weight, of one row."""
    from fromage_server.engine import gemv

    found = []
    for node in tape.graph.nodes:
        if _name(node) not in _PRODUCTS:
            continue
        *biases, source, factor = node.args
        weight = tape.constant(factor)
        bias = tape.constant(biases[0]) if biases else None
        if weight is None or node.kwargs or tape.constant(source) is not None:
            continue
        has_bias = bias is not None and bias.ndim == 1
        one_row = node.meta["shape"][0] == 1 and has_bias == bool(biases)
        if one_row and gemv.takes(weight.T):
            found.append(Product(node, weight.T, bias))
    return found


def siblings(tape: Recorder, products: Iterable[Product]) -> list[list[Product]]:
    """Products of the same numbers, two or more, in their order, that all have a bias or none."""
    found: dict[tuple[Node, bool, torch.dtype], list[Product]] = {}
    for one in products:
        key = (_bare(one.source), one.bias is not None, one.weight.dtype)
        found.setdefault(key, []).append(one)
    return [together for together in found.values() if len(together) > 1]


def rewritten(tape: Recorder) -> None:
    """The recording, with the kernels of ``gemv``."""
    products = products_of(tape)
    for together in siblings(tape, products):
        if are_side_by_side([one.weight for one in together]):
            products = [one for one in products if one not in together]
            _merge(tape, together)
    for one in products:
        _take_along(tape, one)
    for node in tape.graph.nodes:
        if _name(node) == "aten.native_layer_norm.default":
            _take_norm(tape, node)
        elif _name(node) == "aten.rsqrt.default":
            _take_rms_norm(tape, node)
        elif _name(node) == "fromage.attend.default":
            _take_scale(node)


def _merge(tape: Recorder, together: list[Product]) -> None:
    from fromage_server.engine import gemv

    first = together[0]
    weight, bias = _whole([one.weight for one in together]), first.bias
    if bias is not None:
        biases = [one.bias for one in together if one.bias is not None]
        bias = _whole(biases) if are_side_by_side(biases) else torch.cat(biases)
    arguments = (first.source, *(tape.node(one) for one in (weight, bias)))
    with tape.graph.inserting_before(first.node):
        merged = tape.graph.call_function(gemv.product, arguments)
    merged.meta["shape"] = (1, len(weight))
    start = 0
    for one in together:
        with tape.graph.inserting_before(one.node):
            part = tape.graph.call_function(torch.narrow, (merged, 1, start, len(one.weight)))
        part.meta["shape"] = (1, len(one.weight))
        one.node.replace_all_uses_with(part)
        start += len(one.weight)


def are_side_by_side(tensors: list[Tensor]) -> bool:
    """In one block, one behind the other."""
    ends = [one.data_ptr() + one.nbytes for one in tensors]
    starts = [one.data_ptr() for one in tensors]
    same = {one.untyped_storage().data_ptr() for one in tensors}
    return len(same) == 1 and starts[1:] == ends[:-1]


def _whole(parts: list[Tensor]) -> Tensor:
    """Of parts that are side by side."""
    size = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return parts[0].as_strided(size, parts[0].stride())


def _take_along(tape: Recorder, one: Product) -> None:
    """A product, with the ReLU behind it or the sum that it is a part of."""
    from fromage_server.engine import gemv

    last, added, relu = one.node, None, False
    follower = _only_user(last)
    if _name(follower) == "aten.relu.default":
        last, relu = follower, True
    elif _name(follower) == "aten.add.Tensor" and not follower.kwargs:
        others = [arg for arg in follower.args if _bare(arg) is not one.node]
        if len(others) == 1 and _numbers(others[0]) == len(one.weight):
            last, added = follower, others[0]
    arguments = (one.source, *(tape.node(of) for of in (one.weight, one.bias)), added)
    with tape.graph.inserting_before(last):
        made = tape.graph.call_function(gemv.product, arguments, {"relu": relu})
        made.meta["shape"] = (1, len(one.weight))
        shaped = tape.graph.call_function(torch.Tensor.view, (made, list(last.meta["shape"])))
    shaped.meta["shape"] = last.meta["shape"]
    last.replace_all_uses_with(shaped)


def _take_norm(tape: Recorder, node: Node) -> None:
    from fromage_server.engine import gemv

    source, shape, weight, bias, eps = node.args
    scale, shift = tape.constant(weight), tape.constant(bias)
    parts = list(node.users)
    alone = [part for part in parts if part.args[1] == 0 or part.users]
    one_row = _numbers(source) == shape[-1] and len(shape) == 1
    if not one_row or scale is None or shift is None or any(part.args[1] for part in alone):
        return
    for part in alone:
        with tape.graph.inserting_before(part):
            made = tape.graph.call_function(gemv.layer_norm, (source, weight, bias, eps))
        made.meta["shape"] = part.meta["shape"]
        part.replace_all_uses_with(made)


def _take_rms_norm(tape: Recorder, root: Node) -> None:
    """x / sqrt(mean(x^2) + eps) * weight, whatever the steps are rounded to."""
    from fromage_server.engine import gemv

    source, eps = _mean_square(root.args[0])
    scaled = _only_user(root)
    if source is None or _name(scaled) != "aten.mul.Tensor" or source not in scaled.args:
        return
    last = _only_user(scaled)
    rounded = _name(last) == "aten._to_copy.default"
    last = _only_user(last) if rounded else last
    factors = [tape.constant(arg) for arg in last.args] if _name(last) == "aten.mul.Tensor" else []
    weights = [one for one in factors if one is not None and one.ndim == 1]
    if len(weights) != 1 or len(weights[0]) != _numbers(source):
        return
    follower = _only_user(last)
    last = follower if _name(follower) == "aten._to_copy.default" else last
    if _name(source) == "aten._to_copy.default":  # the kernel reads any numbers
        source = source.args[0]
    arguments = (source, tape.node(weights[0]), eps, last.meta["dtype"])
    with tape.graph.inserting_before(last):
        made = tape.graph.call_function(gemv.rms_norm, arguments, {"rounded": rounded})
        shaped = tape.graph.call_function(torch.Tensor.view, (made, list(last.meta["shape"])))
    for one in (made, shaped):
        one.meta.update(shape=last.meta["shape"], dtype=last.meta["dtype"])
    last.replace_all_uses_with(shaped)


def _mean_square(node: Node) -> tuple[Node | None, float]:
    """x and eps of mean(x^2) + eps, of one row's numbers."""
    if _name(node) != "aten.add.Tensor" or not isinstance(node.args[1], float):
        return None, 0.0
    mean, eps = node.args
    if _name(mean) != "aten.mean.dim" or list(mean.args[1]) != [-1]:
        return None, 0.0
    square = mean.args[0]
    if _name(square) != "aten.pow.Tensor_Scalar" or square.args[1] != 2:
        return None, 0.0
    source = square.args[0]
    return (source if _numbers(source) == _numbers_last(source) else None), eps


def _numbers_last(node: Node) -> int:
    return int(node.meta["shape"][-1])


def _take_scale(node: Node) -> None:
    """Queries that are multiplied by a number attend with scores that are."""
    query, *rest = node.args
    inner = query
    while _name(inner) in (*_VIEWS, "aten.transpose.int") and len(inner.users) == 1:
        inner = inner.args[0]
    if _name(inner) != "aten.mul.Tensor" or len(inner.users) != 1:
        return
    source, factor = inner.args
    if isinstance(factor, int | float) and isinstance(source, fx.Node):
        inner.replace_all_uses_with(source)
        node.args = (query, *rest[:3], rest[3] * factor, *rest[4:])


def _name(node: Node) -> str:
    return str(node.meta.get("operation")) if isinstance(node, fx.Node) else ""


def _numbers(node: Node) -> int:
    """How many a tensor has; 0 for what is none."""
    shape = node.meta.get("shape") if isinstance(node, fx.Node) else None
    return 0 if shape is None else torch.Size(shape).numel()


def _bare(node: Node) -> Node:
    """What a tensor was before it was divided in another way."""
    while _name(node) in _VIEWS:
        node = node.args[0]
    return node


def _only_user(node: Node) -> Node:
    """What takes a tensor, under whatever shape, and nobody else does; or None."""
    while len(node.users) == 1:
        (user,) = node.users
        if _name(user) not in _VIEWS:
            return user
        node = user
    return None
