"""``fromage eval drift``: what other numbers for the language model change in its answers."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fromage_server.arguments import add_split, positive

if TYPE_CHECKING:
    from collections.abc import Hashable

    from torch import Tensor

    from fromage_index.collection import Collection
    from fromage_weights.evaluation.drift import Drift, Probe, Search
    from fromage_weights.loading import LoadedBundle

# (figure, what the table calls it, how it is written); {length} is the replies' mean.
_ROWS: Final = (
    ("same_token", "the base's replies, token by token: same choice, %", ".1f"),
    ("same_reply", "replies equal to the end, %", ".1f"),
    ("common", "tokens before the first difference, of {length:.1f}", ".1f"),
    ("divergence", "KL divergence a token, nats", ".5f"),
    ("cosine", "cosine of the queries", ".5f"),
    ("same_first", "same first picture, %", ".1f"),
    ("shared_five", "of the first five pictures, the same, %", ".1f"),
    ("recall_1", "right picture first (R@1), %", ".1f"),
    ("recall_5", "right picture in five (R@5), %", ".1f"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", default="demo", metavar="BUNDLE", help="what to measure (default: demo)"
    )
    parser.add_argument(
        "--quantize",
        nargs="+",
        choices=("none", "int8", "int4"),
        default=["int8", "int4"],
        help="what to compare, computing in --dtype; none: that dtype itself (default: int8 int4)",
    )
    parser.add_argument(
        "--against",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="what with: the language model as it is, in these numbers (default: bfloat16)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='a prompt on each line, or .jsonl: {"prompt": TEXT, "image": KEY}, the key of the '
        "picture that is right, where there is one (default: the demo's own)",
    )
    parser.add_argument(
        "--collection", type=Path, metavar="DIR", help="pictures that the prompts are to find"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N prompts")
    parser.add_argument(
        "--max-tokens", type=positive, default=40, metavar="N", help="of a reply (default: 40)"
    )
    add_split(parser)


def run(args: argparse.Namespace) -> int:
    from fromage_weights.evaluation.drift import DriftMeter

    if args.collection and not args.prompts:
        args.parser.error("--collection needs --prompts: the demo's prompts know their own")
    loaded = _load(args, args.against, "none")
    probe, search = _asked(args, loaded)
    meter = DriftMeter(probe, search, max_tokens=args.max_tokens)
    print(f"{len(probe.chats):,} prompts, {len(probe.texts):,} queries …", flush=True)
    base = meter.base(loaded)
    columns = {args.against: meter.compare(loaded, base)}
    identity = {
        "what": "drift",
        "bundle": loaded.bundle.config.name,
        "hash": loaded.bundle.hash,
        "language_model": loaded.bundle.config.lm.hash,
        "against": args.against,
    }
    for quantize in args.quantize:
        del loaded  # one model at a time
        gc.collect()
        loaded = _load(args, args.dtype, quantize)
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        name = dtype if quantize == "none" else f"{quantize}, {dtype}"
        columns[name] = meter.compare(loaded, base)
    print(table(columns))
    if args.json is not None:
        results = [{"name": name, **column.as_dict()} for name, column in columns.items()]
        counts = {"prompts": len(probe.chats), "queries": len(probe.texts)}
        written = {**identity, **counts, "results": results}
        args.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return 0


def table(columns: dict[str, Drift]) -> str:
    """A line a figure, a column a model, the base first."""
    base = next(iter(columns.values()))
    lines = [("", *columns)]
    for key, name, form in _ROWS:
        values = [getattr(column, key) for column in columns.values()]
        if values[0] is not None:
            cells = (format(value, form) for value in values)
            lines.append((name.format(length=base.length), *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{line[0]:{widths[0]}}"
        + "".join(f"{cell:>{w + 2}}" for cell, w in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _load(args: argparse.Namespace, dtype: str, quantize: Any) -> LoadedBundle:
    from fromage_weights.loading import load_grounded_model

    with_pictures = quantize == "none" and dtype == args.against and args.prompts is None
    return load_grounded_model(
        args.bundle, device=args.device, dtype=dtype, quantize=quantize, vision=with_pictures
    )


def _asked(args: argparse.Namespace, loaded: LoadedBundle) -> tuple[Probe, Search | None]:
    if args.prompts is None:
        from fromage_weights.demo.drift import COUNT, demo_probe

        print("Drawing pictures …", flush=True)
        return demo_probe(loaded, args.split, count=min(args.limit or COUNT, COUNT))
    collection = _open(args, loaded) if args.collection else None
    return _read(args.prompts, args.limit, collection), _search(collection)


def _open(args: argparse.Namespace, loaded: LoadedBundle) -> Collection:
    from fromage_index.collection import Collection
    from fromage_weights.errors import EvaluationDataInvalid

    collection = Collection.open(args.collection, device="cpu")
    if collection.provenance.bundle_hash != loaded.bundle.hash:
        raise EvaluationDataInvalid(
            f"{args.collection} was built with another bundle ({collection.provenance.bundle})"
        )
    return collection


def _search(collection: Collection | None) -> Search | None:
    if collection is None:
        return None

    def search(queries: Tensor) -> list[list[Hashable]]:
        found = collection.search(queries.numpy(), 5)
        return [[hit.row for hit in hits] for hits in found]

    return search


def _read(file: Path, limit: int | None, collection: Collection | None) -> Probe:
    """Raises EvaluationDataInvalid with the line."""
    from fromage_weights.errors import EvaluationDataInvalid
    from fromage_weights.evaluation.drift import Probe
    from fromage_weights.evaluation.responder import Message

    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationDataInvalid(f"{file}: {error}") from error
    rows = _rows_by_key(collection)
    texts: list[str] = []
    right: list[set[Hashable] | None] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text, key = _parsed(line, file, number) if file.suffix == ".jsonl" else (line.strip(), None)
        if key is not None and collection is not None and key not in rows:
            raise EvaluationDataInvalid(f"{file}, line {number}: no picture has the key {key!r}")
        texts.append(text)
        right.append(None if key is None else {rows.get(key)})
    if not texts:
        raise EvaluationDataInvalid(f"{file}: no prompts")
    texts, right = texts[:limit], right[:limit]
    return Probe([[Message("user", text)] for text in texts], texts, right)


def _rows_by_key(collection: Collection | None) -> dict[str, int]:
    if collection is None:
        return {}
    return {collection.image(id).key: row for row, id in enumerate(collection.ids)}


def _parsed(line: str, file: Path, number: int) -> tuple[str, str | None]:
    from fromage_weights.errors import EvaluationDataInvalid

    try:
        row = json.loads(line)
        text, key = row.pop("prompt"), row.pop("image", None)
        if row or not isinstance(text, str) or not isinstance(key, str | None):
            raise ValueError(f"{line[:60]!r}")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise EvaluationDataInvalid(
            f'{file}, line {number}: expected {{"prompt": TEXT, "image": KEY}} ({error})'
        ) from error
    return text, key
