"""``fromage demo``: make the demo bundle from nothing, and files to measure it by."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromage_server.arguments import add_split, positive


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="make the demo model")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train language model, tower and mappers from nothing",
        description="Runs the stages in order; what is already in the output directory is kept, "
        "so an interrupted run goes on; one with another recipe, or from another bundle, takes "
        "another directory. About three hours on two CPU cores with AMX, three "
        "times as long where they do not multiply bfloat16; minutes on a GPU.",
    )
    train.add_argument(
        "--stage",
        action="append",
        metavar="STAGE",
        help="only this one, may be repeated: language, tower, features, mappers, heads, bundle",
    )
    train.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="where everything goes; the bundle is in DIR/bundle (default: runs/demo)",
    )
    train.add_argument(
        "--from",
        dest="start",
        metavar="BUNDLE",
        help="go on with the language model and the mappers of this bundle, and take its tower, "
        "instead of from nothing (demo: the one that ships; about an hour with AMX)",
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    train.set_defaults(run=run_train, parser=train)
    files = verbs.add_parser(
        "files",
        help="write the demo's world as evaluation files",
        description="Stories, dialogues and captioned pictures of held-out scenes in the files of "
        "VIST, VisDial and `fromage train`, for `fromage eval vist`, `visdial` and `captions`.",
    )
    files.add_argument("out", type=Path, metavar="DIR", help="where they go")
    add_split(files)
    files.add_argument(
        "--count", type=positive, default=200, metavar="N", help="of each kind (default: 200)"
    )
    files.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    files.set_defaults(run=run_files)


def run_train(args: argparse.Namespace) -> int:
    from fromage_weights.demo.pipeline import STAGES, Pipeline
    from fromage_weights.loading import bundle_directory

    stages = tuple(args.stage) if args.stage else STAGES
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        args.parser.error(f"--stage {unknown[0]}: expected one of {', '.join(STAGES)}")
    start = bundle_directory(args.start) if args.start else None
    if start is not None and not (start / "lm" / "config.json").exists():
        args.parser.error(f"--from {args.start}: the bundle has no language model of its own")
    Pipeline(args.out, start=start, device=args.device).run(stages)
    return 0


def run_files(args: argparse.Namespace) -> int:
    from fromage_weights.demo.files import DemoFiles

    made = DemoFiles(args.split, args.count, seed=args.seed)
    stories, photos = made.stories(args.out / "vist")
    dialogues, dense, images = made.dialogues(args.out / "visdial")
    captions, _ = made.captions(args.out / "captions")
    print("Written. They are measured by")
    print(f"  fromage eval vist {stories} --images {photos} --bundle demo --chat")
    print(
        f"  fromage eval visdial {dialogues} --dense {dense} --images {images} --bundle demo --chat"
    )
    print(f"  fromage eval captions {captions} --bundle demo")
    return 0
