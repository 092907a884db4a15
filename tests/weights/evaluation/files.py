"""Evaluation files in VIST's and VisDial's own forms, over the training tests' pictures."""

import json
from pathlib import Path
from typing import Any

from tests.weights.training.world import caption, encoded


def write_images(folder: Path, names: dict[str, int]) -> Path:
    """`names` are file names; each shows the picture of its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in names.items():
        (folder / name).write_bytes(encoded(number))
    return folder


def write_vist(folder: Path, stories: int, *, length: int = 5) -> Path:
    """Story s shows the pictures s, s + 1, …; image files are named by id, but every third is found
    by its URL only."""
    annotations: list[list[dict[str, Any]]] = []
    for story in range(stories):
        for place in reversed(range(length)):
            number = story + place
            annotations.append(
                [
                    {
                        "story_id": f"s{story}",
                        "photo_flickr_id": f"p{number}",
                        "worker_arranged_photo_order": place,
                        "text": caption(number),
                    }
                ]
            )
    count = stories + length - 1
    urls = [{"id": f"p{i}", "url_o": f"https://photos.example/{i}_o.png"} for i in range(count)] + [
        {"id": "unused", "url_o": "https://photos.example/none.png"}
    ]
    names = {(f"{i}_o.png" if i % 3 == 0 else f"p{i}.png"): i for i in range(count)}
    write_images(folder / "photos", names)
    file = folder / "val.story-in-sequence.json"
    file.write_text(json.dumps({"annotations": annotations, "images": urls}))
    return file


def write_visdial(folder: Path, dialogues: int, *, options: int = 6) -> tuple[Path, Path]:
    """Two rounds each, and dense annotations of the second (they count from 1)."""
    questions = ["what is it", "which colour"]
    answers = [caption(i) for i in range(12)]
    data = []
    dense = []
    for i in range(dialogues):
        rounds = [
            {
                "question": q,
                "answer": (i + q) % 12,
                "answer_options": [(i + q + k) % 12 for k in range(options)],
                "gt_index": 0,
            }
            for q in range(2)
        ]
        data.append({"image_id": 100 + i, "dialog": rounds, "caption": ""})
        relevance = [1.0, 0.5, *[0.0] * (options - 2)]
        dense.append({"image_id": 100 + i, "round_id": 2, "gt_relevance": relevance})
    names = {f"VisualDialog_val2018_{100 + i:012d}.png": i for i in range(dialogues)}
    write_images(folder / "pictures", names)
    file, relevant = folder / "visdial_1.0_val.json", folder / "dense.json"
    told = {"questions": questions, "answers": answers, "dialogs": data}
    file.write_text(json.dumps({"data": told, "version": "1.0", "split": "val"}))
    relevant.write_text(json.dumps(dense))
    return file, relevant
