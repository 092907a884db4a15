"""``fromage eval``: the paper's protocols over a user's files, and the demo's figures."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_server import drift
from fromage_server.arguments import add_split, positive

if TYPE_CHECKING:
    from fromage_weights.evaluation.metrics import Result
    from fromage_weights.loading import LoadedBundle


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("eval", help="measure a model")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="WHAT")
    _register_demo(verbs)
    _register_vist(verbs)
    _register_visdial(verbs)
    _register_captions(verbs)
    _register_drift(verbs)


def _register_demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = verbs.add_parser(
        "demo",
        help="the demo model on held-out scenes and wordings",
        description="Chats with the demo bundle about scenes that no training stage has seen, in "
        "wordings kept from training (plain captions are in its sentences), over a pool of 5,000 "
        "pictures; prints every figure with its 95 % interval and its target.",
    )
    demo.add_argument(
        "--bundle", default="demo", metavar="BUNDLE", help="demo or a directory (default: demo)"
    )
    add_split(demo)
    _add_running(demo)
    demo.set_defaults(run=run_demo)


def _register_vist(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    vist = verbs.add_parser(
        "vist",
        help="contextual image retrieval over Visual Storytelling (the paper's Table 1)",
        description="Looks for the last picture of each story: by its caption, by all captions, "
        "by all captions and the pictures before it. Prints R@1, R@5 and R@10 beside the paper's.",
    )
    vist.add_argument("stories", type=Path, metavar="FILE", help="*.story-in-sequence.json")
    _add_common(vist, images="a folder with the pictures, named by their ids or as in their URLs")
    vist.add_argument(
        "--chat",
        action="store_true",
        help="captions as messages of a chat, with the model's replies between them",
    )
    vist.set_defaults(run=run_vist, parser=vist)


def _register_visdial(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    visdial = verbs.add_parser(
        "visdial",
        help="visual dialogue over VisDial 1.0 (the paper's Table 2)",
        description="Ranks a hundred answers for each question about an image (NDCG, MRR, R@k), "
        "and all images for each dialogue (R@k). Prints both beside the paper's.",
    )
    visdial.add_argument("dialogues", type=Path, metavar="FILE", help="visdial_1.0_val.json")
    visdial.add_argument("--dense", type=Path, metavar="FILE", help="dense annotations, for NDCG")
    _add_common(visdial, images="a folder with the images, their names ending in the image id")
    visdial.add_argument(
        "--only", choices=("answers", "images"), help="one of the two directions (default: both)"
    )
    visdial.add_argument("--chat", action="store_true", help="in the bundle's chat template")
    visdial.set_defaults(run=run_visdial, parser=visdial)


def _register_captions(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    captions = verbs.add_parser(
        "captions",
        help="captioning and retrieval on images with captions",
        description="Captions each image (BLEU-4, CIDEr, perplexity of the caption given), and "
        "finds image by caption and caption by image among all (R@k).",
    )
    captions.add_argument(
        "data", type=Path, metavar="DATA", help="as for `fromage train`: .tsv, .tar, saved dataset"
    )
    _add_common(captions, images="the folder that paths of a .tsv are relative to", compat=False)
    captions.set_defaults(run=run_captions)


def _register_drift(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "drift",
        help="what int8, int4 or another dtype changes in a model's answers",
        description="Lets a language model answer as it is, and then quantized: how many tokens "
        "and pictures stay the same. Prints a table.",
    )
    drift.add_arguments(parser)
    _add_running(parser, quantize=False)
    parser.set_defaults(run=drift.run, parser=parser)


def _add_common(parser: argparse.ArgumentParser, *, images: str, compat: bool = True) -> None:
    parser.add_argument("--images", type=Path, required=compat, metavar="DIR", help=images)
    parser.add_argument("--bundle", required=True, metavar="BUNDLE", help="what to measure")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N")
    if compat:
        parser.add_argument(
            "--reference-compat",
            action="store_true",
            help="compute as the original code does, where it departs from the definition",
        )
    _add_running(parser)


def _add_running(parser: argparse.ArgumentParser, *, quantize: bool = True) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the language model (default: auto)",
    )
    if quantize:
        parser.add_argument(
            "--quantize",
            choices=("none", "int8", "int4"),
            default="none",
            help="the language model's weights (default: none)",
        )
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="also write the result as JSON"
    )


def _writable(text: str) -> Path:
    """Checked before the work, not after it."""
    file = Path(text).absolute()
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such directory")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: not a file that can be written")
    return Path(text)


def run_demo(args: argparse.Namespace) -> int:
    from fromage_weights.cpu import keep_freed_blocks
    from fromage_weights.demo.evaluate import OTHER_HAND, Evaluation
    from fromage_weights.demo.measures import table

    print("Drawing the pool and loading the model …", flush=True)
    loaded = _load(args)
    if loaded.model.device.type == "cpu":
        keep_freed_blocks()
    rows = Evaluation(loaded, split=args.split).rows()
    print(table(rows))
    if all(row.name != OTHER_HAND for row in rows):
        print(f"{OTHER_HAND}: not measured, the font Noto Color Emoji is not installed")
    _write_json(args, loaded, [row.as_dict() for row in rows])
    return 0


def run_vist(args: argparse.Namespace) -> int:
    from fromage_weights.evaluation.pictures import ImageFolder
    from fromage_weights.evaluation.stories import (
        SETTINGS,
        StoryFile,
        StoryRetrieval,
        story_features,
    )

    _check_chat(args)
    file, folder = StoryFile.read(args.stories), ImageFolder(args.images)
    loaded = _load(args)
    features = story_features(
        loaded, file, folder, reference_compat=args.reference_compat, progress=True
    )
    retrieval = StoryRetrieval(
        loaded, features, reference_compat=args.reference_compat, chat=args.chat
    )
    stories = retrieval.answerable(file.stories)
    _say_left_out(len(file.stories) - len(stories), "stories", "a picture is missing")
    _need(stories, args.stories)
    stories = stories[: args.limit]
    searched = len(features.searched)
    print(f"{len(stories):,} stories, {searched:,} pictures to find them among", flush=True)
    return _report(args, loaded, [retrieval.result(stories, setting) for setting in SETTINGS])


def run_visdial(args: argparse.Namespace) -> int:
    from fromage_weights.errors import EvaluationDataInvalid
    from fromage_weights.evaluation.dialogue_search import ImageSearch
    from fromage_weights.evaluation.dialogues import (
        AnswerRanking,
        dialogue_features,
        read_dialogues,
    )
    from fromage_weights.evaluation.pictures import ImageFolder

    _check_chat(args)
    compat, chat = args.reference_compat, args.chat
    found = read_dialogues(args.dialogues, args.dense, reference_compat=compat)
    folder = ImageFolder(args.images)
    if args.only != "images" and not all(turn.options for d in found for turn in d.rounds):
        raise EvaluationDataInvalid(
            f"{args.dialogues}: no answers to choose from; --only images works without"
        )
    loaded = _load(args)
    features = dialogue_features(
        loaded, found[: args.limit], folder, reference_compat=compat, progress=True
    )
    dialogues = [d for d in found[: args.limit] if d.image in features.shown]
    _say_left_out(len(found[: args.limit]) - len(dialogues), "dialogues", "the image is missing")
    _need(dialogues, args.dialogues)
    results = []
    if args.only != "images":
        ranking = AnswerRanking(loaded, reference_compat=compat, chat=chat)
        results.append(ranking.result(dialogues, features, progress=True))
    if args.only != "answers":
        search = ImageSearch(loaded, reference_compat=compat, chat=chat)
        results.append(search.result(dialogues, features))
    return _report(args, loaded, results)


def run_captions(args: argparse.Namespace) -> int:
    from fromage_weights.evaluation.captions import (
        CaptionedImages,
        Captioning,
        check_scorers,
        retrieval,
    )
    from fromage_weights.training.sources import open_source

    check_scorers()
    source = open_source(args.data, args.images)
    loaded = _load(args)
    data = CaptionedImages.read(loaded, source, args.limit)
    _say_left_out(data.left_out, "pairs", "no caption, or an image that cannot be read")
    return _report(args, loaded, [Captioning(loaded).result(data), *retrieval(loaded, data)])


def _check_chat(args: argparse.Namespace) -> None:
    if args.chat and args.reference_compat:
        args.parser.error("--chat: the original code knows none, leave out --reference-compat")


def _load(args: argparse.Namespace) -> LoadedBundle:
    from fromage_weights.loading import load_grounded_model

    return load_grounded_model(
        args.bundle, device=args.device, dtype=args.dtype, quantize=args.quantize
    )


def _need(found: Sequence[object], file: Path) -> None:
    from fromage_weights.errors import EvaluationDataInvalid

    if not found:
        raise EvaluationDataInvalid(f"{file}: none of its images are in the folder given")


def _say_left_out(count: int, what: str, why: str) -> None:
    if count:
        print(f"{count:,} {what} left out: {why}", flush=True)


def _report(args: argparse.Namespace, loaded: LoadedBundle, results: list[Result]) -> int:
    from fromage_weights.evaluation.metrics import table

    print(table(results))
    _write_json(args, loaded, [result.as_dict() for result in results])
    return 0


def _write_json(args: argparse.Namespace, loaded: LoadedBundle, rows: list[dict[str, Any]]) -> None:
    """The figures, and what they are figures of."""
    if args.json is None:
        return
    names = ("split", "limit", "chat", "reference_compat")
    found = {
        "what": args.verb,
        "bundle": loaded.bundle.config.name,
        "hash": loaded.bundle.hash,
        "language_model": loaded.bundle.config.lm.hash,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "quantize": args.quantize,
        "options": {name: getattr(args, name) for name in names if hasattr(args, name)},
        "results": rows,
    }
    args.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
