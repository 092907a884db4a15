"""A small world to train on: coloured pictures with captions, in every form a source may have."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from fromage_weights.vision import VisionEncoder

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "gray": (128,) * 3}
SHAPES = ("box", "disc", "bar")


def picture(number: int) -> Image.Image:
    colours = list(COLOURS.values())
    image = Image.new("RGB", (40 + number % 7, 40), colours[number % 4])
    draw = ImageDraw.Draw(image)
    shape, ink = number // 4 % 3, (250, 250, 250 - number % 50)
    if shape == 0:
        draw.rectangle((8, 8, 30, 30), fill=ink)
    elif shape == 1:
        draw.ellipse((8, 8, 30, 30), fill=ink)
    else:
        draw.rectangle((2, 16, 38, 22), fill=ink)
    return image


def caption(number: int) -> str:
    return f"a {SHAPES[number // 4 % 3]} on {list(COLOURS)[number % 4]}"


def encoded(number: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "PNG")
    return out.getvalue()


def write_tsv(folder: Path, pairs: int, *, broken: tuple[int, ...] = ()) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = ["caption\timage"]
    for i in range(pairs):
        data = b"not an image" if i in broken else encoded(i)
        (folder / "images" / f"{i}.png").write_bytes(data)
        lines.append(f"{caption(i)}\timages/{i}.png")
    table = folder / "pairs.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def write_tars(folder: Path, pairs: int, *, shards: int = 2) -> Path:
    """As img2dataset writes them: image, .txt and .json beside each other."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for i in range(shard, pairs, shards):
                told = json.dumps({"caption": caption(i), "key": f"{i:09d}"}).encode()
                for suffix, data in (
                    ("json", told),
                    ("png", encoded(i)),
                    ("txt", caption(i).encode()),
                ):
                    member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def write_language_model(folder: Path) -> Path:
    """A random GPT-2 that knows letters."""
    words = ["<s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz .,?!:'\nABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token="<s>", unk_token="<unk>"
    )
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(words), n_embd=48, n_layer=2, n_head=4, n_positions=256,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tower(folder: Path) -> Path:
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder)
    return folder


def write_world(folder: Path, pairs: int, **options: Any) -> dict[str, Path]:
    return {
        "data": write_tsv(folder / "world", pairs, **options),
        "lm": write_language_model(folder / "lm"),
        "vision": write_tower(folder / "vision"),
    }


def plain_features(encoder: VisionEncoder, numbers: list[int]) -> np.ndarray:
    """What the reference does every step: the tower on the pictures themselves."""
    pixels = torch.stack([encoder.preprocess(picture(i), "crop") for i in numbers])
    return encoder.encode(pixels).numpy()
