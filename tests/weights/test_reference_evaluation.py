"""What the official evaluation scripts compute, from the model's own parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fromage_weights.grounded import ImageSegment, Segment, TextSegment
from fromage_weights.scoring import layout, token_log_likelihoods
from tests.weights.recording import EMBEDDINGS, SCORES, SUMMED_LOSSES, Recording, check_close


@pytest.fixture(scope="module")
def evaluation(reference: Path, recording: Recording) -> dict[str, Any]:
    """Recorded inputs and outputs; only the full recording has them."""
    assert (reference / recording.variant).is_dir()
    recorded: dict[str, Any] = recording.json("eval")
    return recorded | {"arrays": load_file(recording.path / "eval.safetensors")}


def _query(recording: Recording, segments: list[Segment]) -> Tensor:
    model = recording.loaded.model
    hidden = model.forward(model.embed(segments)[None], logits_to_keep=1).hidden
    return model.mappers.query_embeddings(hidden[0])[0]


@torch.inference_mode()
def test_story_retrieval(recording: Recording, evaluation: dict[str, Any]) -> None:
    """VIST: captions and images in turn, the last caption ends in [RET]."""
    vist, arrays = evaluation["vist"], evaluation["arrays"]
    mappers = recording.loaded.model.mappers
    urls = {i["id"]: i.get("url_o") or i.get("url_m") for i in vist["input"]["images"]}
    candidates = vist["candidate_image_ids"]
    features = {image: recording.features(urls[image]) for image in candidates}
    matrix = mappers.image_embeddings(torch.stack([features[c] for c in candidates]))
    check_close(mappers.logit_scale.exp() * matrix, arrays["vist/emb_matrix"][:, 0], SCORES)
    assert vist["stories"]
    for story, recorded in vist["stories"].items():
        shown = _shown_images(vist["input"]["annotations"], story)[:-1]
        segments: list[Segment] = []
        for i, ids in enumerate(recorded["input_ids_per_caption"]):
            segments.append(TextSegment(tuple(ids)))
            if i < len(shown):
                segments.append(ImageSegment(features[shown[i]]))
        query = _query(recording, segments)
        check_close(query, arrays[f"vist/{story}/ret_emb"], EMBEDDINGS)
        scores = mappers.similarity(query[None], matrix)[0]
        for image in shown:
            scores[candidates.index(image)] -= 10000
        seen = scores < -1000  # float32 has only three digits left there
        check_close(scores[~seen], arrays[f"vist/{story}/scores"][~seen], SCORES)
        check_close(scores[seen], arrays[f"vist/{story}/scores"][seen], 1e-2)
        best = [candidates[i] for i in scores.topk(10).indices.tolist()]
        assert best == recorded["top10"]


def _shown_images(annotations: list[list[dict[str, Any]]], story: str) -> list[str]:
    frames = [a[0] for a in annotations if a[0]["story_id"] == story]
    frames.sort(key=lambda frame: frame["worker_arranged_photo_order"])
    return [frame["photo_flickr_id"] for frame in frames]


@torch.inference_mode()
def test_answer_likelihoods(recording: Recording, evaluation: dict[str, Any]) -> None:
    """VisDial: an image, the dialogue so far, and a hundred answers."""
    dialogs = evaluation["visdial_answers"]
    data = dialogs["input"]["data"]
    names = ("losses", "losses_shifted_not_reference")
    arrays = [evaluation["arrays"][f"visdial_answers/{name}"] for name in names]
    rounds = [(d["image_id"], turn) for d in data["dialogs"] for turn in d["dialog"]]
    for row, (image, turn) in enumerate(rounds):
        answers = [data["answers"][i] for i in turn["answer_options"]]
        gt = int(turn["gt_index"])
        found = _losses(recording, image, dialogs["contexts"][row], answers)
        for losses, expected in zip(found, arrays, strict=True):
            check_close(losses, expected[row], SUMMED_LOSSES)
        better = int((found[0] < found[0][gt]).sum())
        assert better == int((arrays[0][row] < arrays[0][row, gt]).sum())


def _losses(
    recording: Recording, image: int, context: dict[str, Any], answers: list[str]
) -> tuple[Tensor, Tensor]:
    """Unshifted and shifted, each summed over an answer's tokens, its begin token included."""
    model = recording.loaded.model
    encoded = [model.tokenizer.encode_prompt([answer])[0] for answer in answers]
    begin = tuple(context["ids"])
    assert model.tokenizer.encode_prompt([context["text"]]) == [begin]
    front = layout([None, begin], model.n_visual_tokens)
    head = model.embed([ImageSegment(_dialogue_image(recording, image)), TextSegment(begin)])
    tails = [model.embed([TextSegment(ids)]) for ids in encoded if ids is not None]
    batch = pad_sequence([torch.cat([head, tail]) for tail in tails], batch_first=True)
    logits = model.forward(batch).logits

    def summed(shifted: bool) -> Tensor:
        losses = [
            -token_log_likelihoods(
                row[: len(front) + len(ids)], [*front, *ids], len(front), shifted=shifted
            ).sum()
            for row, ids in zip(logits, encoded, strict=True)
            if ids is not None
        ]
        return torch.stack(losses)

    return summed(False), summed(True)


def _dialogue_image(recording: Recording, image: int) -> Tensor:
    return recording.features(f"img_{image:03d}.png")


@torch.inference_mode()
def test_dialogue_to_image(recording: Recording, evaluation: dict[str, Any]) -> None:
    """VisDial retrieval leaves the image side unnormalised."""
    recorded, arrays = evaluation["visdial_t2i"], evaluation["arrays"]
    model = recording.loaded.model
    features = torch.stack(
        [_dialogue_image(recording, dialog["image_id"]) for dialog in recorded["dialogs"]]
    )
    images = model.mappers.visual_fc(features)
    encoded = [model.tokenizer.encode_prompt([c["text"]])[0] for c in recorded["contexts"]]
    assert encoded == [tuple(context["ids"]) for context in recorded["contexts"]]
    texts = torch.stack([_query(recording, [TextSegment(ids)]) for ids in encoded if ids])
    check_close(images, arrays["visdial_t2i/visual_embs"], EMBEDDINGS)
    check_close(texts, arrays["visdial_t2i/text_embs"], EMBEDDINGS)
    check_close(images @ texts.T, arrays["visdial_t2i/scores"], SCORES)
