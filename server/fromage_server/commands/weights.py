"""``fromage weights``: bring a model in, look at one, publish and fetch one."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    weights = subparsers.add_parser(
        "weights", help="import a FROMAGe checkpoint; show, push or pull a bundle"
    )
    verbs = weights.add_subparsers(dest="verb", required=True, metavar="VERB")
    _register_import(verbs)
    _register_show(verbs)
    _register_push(verbs)
    _register_pull(verbs)


def _register_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "import",
        help="turn an official checkpoint into a bundle",
        description="Read model_args.json and pretrained_ckpt.pth.tar and write a bundle.",
    )
    parser.add_argument(
        "src", metavar="SRC", help="a directory, or a hub repository such as jykoh/fromage"
    )
    parser.add_argument("out", metavar="OUT", help="directory to write the bundle to")
    parser.add_argument(
        "--lm",
        metavar="PATH|HUB_ID",
        help="the language model, where model_args.json's name does not lead to it; "
        "PATH may also be a directory that holds it under that name",
    )
    parser.add_argument(
        "--vision",
        metavar="NAME/PRETRAINED|PATH",
        help="the vision tower: an open_clip model and its weights, an open_clip or CLIP vision "
        "directory, or a directory that holds it under model_args.json's name",
    )
    parser.set_defaults(run=run_import)


def _register_show(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("show", help="print what a bundle holds")
    parser.add_argument("bundle", metavar="BUNDLE", help="demo, a directory or a hub id")
    parser.set_defaults(run=run_show)


def _register_push(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "push",
        help="upload a bundle to the Hugging Face hub",
        description="Uploads bundle.json, the mappers, a model card, and models that lie inside "
        "the bundle. `hf auth login` or HF_TOKEN gives the right to.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="demo or a directory")
    parser.add_argument("repository", metavar="HUB_ID", help="such as me/my-fromage")
    parser.add_argument("--private", action="store_true", help="if the repository is new")
    parser.add_argument(
        "--card",
        type=Path,
        metavar="FILE",
        help="the model card (default: README.md of the bundle, else one is made)",
    )
    parser.add_argument(
        "--with-models",
        action="store_true",
        help="upload frozen models that lie in directories of this machine, too",
    )
    parser.set_defaults(run=run_push)


def _register_pull(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("pull", help="download a bundle from the Hugging Face hub")
    parser.add_argument("repository", metavar="HUB_ID", help="such as me/my-fromage")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write the bundle to")
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit")
    parser.set_defaults(run=run_pull)


def run_push(args: argparse.Namespace) -> int:
    from fromage_weights.loading import bundle_directory
    from fromage_weights.publishing import push

    bundle = bundle_directory(args.bundle)
    print(
        push(
            bundle,
            args.repository,
            private=args.private,
            card=args.card,
            with_models=args.with_models,
        )
    )
    return 0


def run_pull(args: argparse.Namespace) -> int:
    from fromage_weights.publishing import pull

    bundle = pull(args.repository, args.out, revision=args.revision)
    print(f"bundle written to {bundle.path}")
    return _show(bundle.path)


def run_import(args: argparse.Namespace) -> int:
    from fromage_weights.importer import import_checkpoint

    bundle = import_checkpoint(args.src, args.out, lm=args.lm, vision=args.vision)
    print(f"bundle written to {bundle.path}")
    return _show(bundle.path)


def run_show(args: argparse.Namespace) -> int:
    from fromage_weights.loading import bundle_directory

    return _show(bundle_directory(args.bundle))


def _show(path: object) -> int:
    from fromage_weights.bundle import Bundle

    bundle = Bundle.load(str(path))
    config = bundle.config
    count = sum(value.numel() for value in bundle.mappers.parameters())
    rows = {
        "name": config.name,
        "hash": bundle.hash,
        "language model": f"{config.lm.id} ({config.lm.hash[:12]})",
        "vision encoder": f"{config.vision.id} ({config.vision.hash[:12]})",
        "mappers": f"{count:,} parameters, {'tied' if config.tied_head else 'untied'} head",
        "soft tokens per image": config.n_visual_tokens,
        "shared space": f"{config.shared_dim} dimensions",
        "LM layers read at [RET]": ", ".join(map(str, config.text_emb_layers)),
        "[RET] token": config.ret_token,
        "tokenizer rules": config.tokenizer_rules,
        "prompt images": config.prompt_image,
        "stop strings": ", ".join(map(repr, config.stop)) or "none",
    }
    for label, value in rows.items():
        print(f"{label:<24} {value}")
    return 0
