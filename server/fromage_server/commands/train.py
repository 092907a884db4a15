"""``fromage train``: mappers for a frozen language model and a frozen vision tower."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromage_server.arguments import above_zero, at_least, chance, number, positive


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train mappers for a language model and a vision tower",
        description="Computes the images' features once, then trains the mappers on them, and "
        "writes a bundle. A run that broke off goes on when the same command is given again. "
        "Several GPUs: torchrun --nproc-per-node N --no-python fromage train ...",
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .tsv file (columns caption and image), a .tar or a folder of .tar shards "
        "(img2dataset, webdataset), or a directory that datasets.save_to_disk wrote",
    )
    _add_what(parser)
    _add_how(parser)
    _add_running(parser)
    parser.set_defaults(run=run_train, parser=parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what")
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's place")
    group.add_argument("--lm", metavar="PATH|HUB_ID", help="the frozen language model")
    group.add_argument(
        "--vision", metavar="NAME/PRETRAINED|PATH", help="the frozen open_clip tower"
    )
    group.add_argument("--bundle", metavar="BUNDLE", help="go on with this bundle's mappers")
    group.add_argument("--images", type=Path, metavar="DIR", help="where a .tsv's paths begin")
    group.add_argument("--name", help="the bundle's name (default: that of its directory)")
    group.add_argument(
        "--visual-tokens", type=positive, metavar="N", help="soft tokens per image (1)"
    )
    group.add_argument("--shared-dim", type=positive, metavar="N", help="the retrieval space (256)")
    group.add_argument(
        "--text-emb-layers",
        type=int,
        nargs="+",
        metavar="N",
        help="layers whose states at [RET] are mapped and summed (-1: the last)",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N pairs")


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how (the defaults are the paper's)")
    group.add_argument("--steps", type=positive, default=20_000, metavar="N", help="steps (20000)")
    group.add_argument(
        "--batch",
        type=positive,
        default=180,
        metavar="N",
        help="pairs a step, all ranks together (180)",
    )
    group.add_argument(
        "--learning-rate", type=above_zero, default=3e-4, metavar="X", help="AdamW's (3e-4)"
    )
    group.add_argument("--weight-decay", type=number, default=0.0, metavar="X", help="(0)")
    group.add_argument(
        "--clip", type=above_zero, default=1.0, metavar="X", help="gradient norm (1)"
    )
    group.add_argument("--warmup", type=at_least(0), default=100, metavar="N", help="steps (100)")
    group.add_argument(
        "--schedule", choices=("constant", "cosine"), default="constant", help="(constant)"
    )
    group.add_argument(
        "--concatenate",
        type=chance,
        default=0.5,
        metavar="P",
        help="chance that captioning reads two examples in a row (0.5)",
    )
    group.add_argument(
        "--max-length", type=at_least(3), default=24, metavar="N", help="tokens of a caption (24)"
    )
    group.add_argument(
        "--caption-weight", type=number, default=1.0, metavar="X", help="captioning loss (1)"
    )
    group.add_argument(
        "--retrieval-weight", type=number, default=1.0, metavar="X", help="retrieval losses (1)"
    )
    group.add_argument(
        "--max-scale", type=above_zero, metavar="X", help="limit of the inverse temperature (none)"
    )
    group.add_argument(
        "--dialogue",
        type=chance,
        default=0.0,
        metavar="P",
        help="chance that a pair is dressed as a turn of a chat (0); for bundles that chat",
    )
    group.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="(0)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="where features are kept (OUT/features)"
    )
    group.add_argument(
        "--feature-dtype", choices=("float16", "float32"), default="float16", help="(float16)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="the LM's (auto)"
    )
    group.add_argument(
        "--workers", type=positive, default=4, metavar="N", help="threads that decode images (4)"
    )
    group.add_argument(
        "--validation",
        type=at_least(0),
        default=0,
        metavar="N",
        help="pairs held out to report R@1/5/10 on (0; a fifth of all at most)",
    )
    group.add_argument(
        "--validate-every", type=positive, default=500, metavar="N", help="steps (500)"
    )
    group.add_argument("--save-every", type=positive, default=500, metavar="N", help="steps (500)")
    group.add_argument(
        "--tensorboard", action="store_true", help="scalars and retrieved images in OUT/tensorboard"
    )


def run_train(args: argparse.Namespace) -> int:
    from fromage_weights.training.recipe import TrainingRecipe
    from fromage_weights.training.run import train
    from fromage_weights.training.setup import Setup
    from fromage_weights.training.sources import Limited, open_source

    shape = ("visual_tokens", "shared_dim", "text_emb_layers")
    if args.bundle is not None and (given := [n for n in shape if getattr(args, n) is not None]):
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        args.parser.error(f"{names}: those of --bundle's mappers stay as they are")
    source = open_source(args.data, args.images)
    if args.limit is not None:
        source = Limited(source, args.limit)
    recipe = TrainingRecipe(
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        clip=args.clip,
        warmup=args.warmup,
        schedule=args.schedule,
        concatenate=args.concatenate,
        max_length=args.max_length,
        caption_weight=args.caption_weight,
        retrieval_weight=args.retrieval_weight,
        max_scale=args.max_scale,
        dialogue=args.dialogue,
        seed=args.seed,
    )
    bundle = train(
        Setup(
            out=args.out,
            lm=args.lm,
            vision=args.vision,
            start=args.bundle,
            name=args.name,
            cache=args.cache,
            n_visual_tokens=args.visual_tokens or 1,
            shared_dim=args.shared_dim or 256,
            text_emb_layers=tuple(args.text_emb_layers or (-1,)),
            device=args.device,
            dtype=args.dtype,
            feature_dtype=args.feature_dtype,
            workers=args.workers,
            validation=args.validation,
            validate_every=args.validate_every,
            save_every=args.save_every,
            tensorboard=args.tensorboard,
            recipe=recipe,
        ),
        source,
    )
    if bundle is not None:
        print(f"bundle written to {bundle.path}")
    return 0
