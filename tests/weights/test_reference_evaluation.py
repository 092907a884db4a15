"""What the official evaluation scripts compute, by the commands' own classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fromage_weights.evaluation.dialogue_search import ImageSearch
from fromage_weights.evaluation.dialogues import (
    AnswerRanking,
    answers_result,
    contexts,
    dialogue_features,
    read_dialogues,
    whole_text,
)
from fromage_weights.evaluation.pictures import ImageFolder
from fromage_weights.evaluation.stories import Setting, StoryFile, StoryRetrieval, story_features
from fromage_weights.grounded import TextSegment
from tests.weights.recording import EMBEDDINGS, SCORES, SUMMED_LOSSES, Recording, check_close

STORY: Setting = "5 captions, 4 images"


@pytest.fixture(scope="module")
def evaluation(reference: Path, recording: Recording) -> dict[str, Any]:
    """Recorded inputs and outputs; only the full recording has them."""
    assert (reference / recording.variant).is_dir()
    recorded: dict[str, Any] = recording.json("eval")
    return recorded | {"arrays": load_file(recording.path / "eval.safetensors")}


@pytest.fixture(scope="module")
def folder(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Without the recording's other pictures, whose numbers are the same."""
    root = tmp_path_factory.mktemp("images")
    for file in recording.images.glob("img_*.png"):
        (root / file.name).symlink_to(file)
    return ImageFolder(root)


def _accuracies(printed: list[str]) -> dict[str, float]:
    """The scripts' lines "k=1, acc=0.25" and the like, in percent."""
    found = {}
    for line in printed:
        if "acc=" in line:
            k, value = line.split("k=")[-1].split(", acc=")
            found[f"R@{k}"] = 100 * float(value)
    return found


def test_story_retrieval(
    recording: Recording, evaluation: dict[str, Any], folder: ImageFolder, tmp_path: Path
) -> None:
    """VIST: captions and images in turn, the last caption ends in [RET]."""
    vist, arrays = evaluation["vist"], evaluation["arrays"]
    (tmp_path / "sis.json").write_text(json.dumps(vist["input"]))
    file = StoryFile.read(tmp_path / "sis.json")
    features = story_features(recording.loaded, file, folder, reference_compat=True)
    retrieval = StoryRetrieval(recording.loaded, features, reference_compat=True)
    assert retrieval.candidates == vist["candidate_image_ids"]
    stories = retrieval.answerable(file.stories)
    assert [story.id for story in stories] == list(vist["stories"])
    queries = retrieval.queries(stories, STORY)
    for story, query in zip(stories, queries, strict=True):
        recorded = vist["stories"][story.id]
        ids = [
            list(s.token_ids)
            for s in retrieval.segments(story, STORY)
            if isinstance(s, TextSegment)
        ]
        assert ids == recorded["input_ids_per_caption"]
        assert query is not None
        check_close(query, arrays[f"vist/{story.id}/ret_emb"], EMBEDDINGS)
        scores = retrieval.scores(story, STORY, query)
        expected = arrays[f"vist/{story.id}/scores"]
        shown = scores.isinf()
        assert torch.equal(shown, expected < -1000), "pictures of the story are not searched"
        check_close(scores[~shown], expected[~shown], SCORES)
        best = [retrieval.candidates[i] for i in scores.topk(10).indices.tolist()]
        assert best == recorded["top10"]
    assert retrieval.result(stories, STORY).figures == pytest.approx(
        _accuracies(vist["printed"]), abs=1e-3
    )


def test_a_story_is_one_text_by_default(
    recording: Recording, evaluation: dict[str, Any], folder: ImageFolder, tmp_path: Path
) -> None:
    (tmp_path / "sis.json").write_text(json.dumps(evaluation["vist"]["input"]))
    file = StoryFile.read(tmp_path / "sis.json")
    features = story_features(recording.loaded, file, folder)
    retrieval = StoryRetrieval(recording.loaded, features)
    (story, *_) = retrieval.answerable(file.stories)
    tokenizer = recording.loaded.model.tokenizer
    texts = [
        s.token_ids for s in retrieval.segments(story, "5 captions") if hasattr(s, "token_ids")
    ]
    begins = [ids.count(tokenizer.bos_token_id or -1) for ids in texts]
    assert begins == [1, 0, 0, 0, 0]
    assert len(retrieval.segments(story, "1 caption")) == 1
    assert len(retrieval.segments(story, STORY)) == 9


def test_answers(
    recording: Recording, evaluation: dict[str, Any], folder: ImageFolder, tmp_path: Path
) -> None:
    """VisDial: an image, the dialogue so far, and a hundred answers, both kinds of loss."""
    recorded, arrays = evaluation["visdial_answers"], evaluation["arrays"]
    (tmp_path / "visdial.json").write_text(json.dumps(recorded["input"]))
    (tmp_path / "dense.json").write_text(json.dumps(recorded["dense_annotations"]))
    dialogues = read_dialogues(tmp_path / "visdial.json", tmp_path / "dense.json")
    features = dialogue_features(recording.loaded, dialogues, folder, reference_compat=True)
    told = [text for dialogue in dialogues for text in contexts(dialogue)]
    assert told == [context["text"] for context in recorded["contexts"]]
    rows = [(d.image, turn) for d in dialogues for turn in d.rounds]
    kinds = {"losses": True, "losses_shifted_not_reference": False}
    losses: dict[str, list[Tensor]] = {name: [] for name in kinds}
    for name, compat in kinds.items():
        ranking = AnswerRanking(recording.loaded, reference_compat=compat)
        for row, (image, turn) in enumerate(rows):
            found = ranking.losses(features.shown[image], told[row], turn.options)
            check_close(found, arrays[f"visdial_answers/{name}"][row], SUMMED_LOSSES)
            losses[name].append(found)
    figures = answers_result(dialogues, losses["losses"]).figures
    printed = {
        line.split(": ")[0]: 100 * float(line.split(": ")[1])
        for line in recorded["printed"]
        if ": " in line
    }
    wanted = printed | _accuracies(recorded["printed"])
    for name in ("NDCG", "MRR", "R@1", "R@5", "R@10"):
        assert figures[name] == pytest.approx(wanted[name], abs=2e-3), name


def test_dialogue_to_image(
    recording: Recording, evaluation: dict[str, Any], folder: ImageFolder, tmp_path: Path
) -> None:
    """VisDial retrieval leaves the image side unnormalised and ranks dialogues for images."""
    recorded, arrays = evaluation["visdial_t2i"], evaluation["arrays"]
    data = evaluation["visdial_answers"]["input"]["data"] | {"dialogs": recorded["dialogs"]}
    (tmp_path / "visdial.json").write_text(json.dumps({"data": data}))
    dialogues = read_dialogues(tmp_path / "visdial.json")
    model = recording.loaded.model
    texts = [whole_text(dialogue) + model.tokenizer.ret_token for dialogue in dialogues]
    encoded = [model.tokenizer.encode_prompt([text])[0] for text in texts]
    assert encoded == [tuple(context["ids"]) for context in recorded["contexts"]]
    features = dialogue_features(recording.loaded, dialogues, folder, reference_compat=True)
    search = ImageSearch(recording.loaded, reference_compat=True)
    images, queries = search.images(dialogues, features), search.queries(dialogues)
    check_close(images, arrays["visdial_t2i/visual_embs"], EMBEDDINGS)
    check_close(queries, arrays["visdial_t2i/text_embs"], EMBEDDINGS)
    check_close(images @ queries.T, arrays["visdial_t2i/scores"], SCORES)
    found = search.result(dialogues, features).figures
    assert found == pytest.approx(_accuracies(recorded["printed"]), abs=1e-3)
