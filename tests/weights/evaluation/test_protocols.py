"""The protocols over files in their own forms, against plain computations."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tokenizers.normalizers import Prepend

from fromage_weights.errors import EvaluationDataInvalid, UnsupportedModel
from fromage_weights.evaluation.captions import CaptionedImages, Captioning, retrieval, scores
from fromage_weights.evaluation.dialogue_search import ImageSearch
from fromage_weights.evaluation.dialogues import (
    AnswerRanking,
    contexts,
    dialogue_features,
    read_dialogues,
)
from fromage_weights.evaluation.metrics import (
    Result,
    mean_reciprocal_rank,
    ndcg,
    rank_of,
    recalls,
    table,
)
from fromage_weights.evaluation.pictures import ImageFolder
from fromage_weights.evaluation.queries import query_embeddings
from fromage_weights.evaluation.responder import Message, Reply, Responder
from fromage_weights.evaluation.stories import SETTINGS, StoryFile, StoryRetrieval, story_features
from fromage_weights.grounded import ImageSegment, Segment, TextSegment
from fromage_weights.images import open_image
from fromage_weights.loading import LoadedBundle, load_grounded_model
from fromage_weights.training.sources import open_source
from tests.weights.evaluation.files import write_images, write_visdial, write_vist
from tests.weights.tiny_bundle import write_bundle
from tests.weights.training.world import write_tsv


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    path = tmp_path_factory.mktemp("bundle")
    write_bundle(path, context=512)
    return load_grounded_model(path, device="cpu", dtype="float32")


def test_ranks_recalls_and_reciprocal_ranks() -> None:
    scored = torch.tensor([0.1, 0.9, 0.5, 0.5])
    assert [rank_of(scored, i) for i in range(4)] == [4, 1, 3, 3], "equal scores count against"
    assert rank_of(torch.tensor([1.0, -math.inf]), 1) == 2
    assert rank_of(torch.full((5,), math.nan), 2) == 5, "no number is no success"
    assert recalls([1, 2, 6, 11]) == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0}
    assert mean_reciprocal_rank([1, 2, 4]) == pytest.approx(100 * 1.75 / 3)


def test_ndcg_reads_as_many_as_are_relevant() -> None:
    relevance = torch.tensor([0.0, 1.0, 0.5, 0.0])
    best = 1.0 + 0.5 / math.log2(3)
    assert ndcg(torch.tensor([0.0, 9.0, 5.0, 1.0]), relevance) == pytest.approx(100)
    swapped = 0.5 + 1.0 / math.log2(3)
    assert ndcg(torch.tensor([0.0, 5.0, 9.0, 1.0]), relevance) == pytest.approx(
        100 * swapped / best
    )
    assert ndcg(torch.tensor([9.0, 0.0, 5.0, 8.0]), relevance) == pytest.approx(0)
    assert math.isnan(ndcg(torch.ones(2), torch.zeros(2)))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert ndcg(torch.ones(4), relevance[order]) == 0, "of equal scores the worst comes first"


def test_a_table_shows_the_papers_figures_below() -> None:
    told = table(
        [Result("a", {"R@1": 12.34}, 7, {"R@1": 18.2, "R@5": 42.7}), Result("b", {"R@5": 1}, 9)]
    )
    head, found, paper, other = told.splitlines()
    assert head.split() == ["R@1", "R@5", "n"]
    assert found.split() == ["a", "12.3", "7"]
    assert paper.split()[-2:] == ["18.2", "42.7"]
    assert other.split() == ["b", "1.0", "9"]


def test_stories_are_read_in_their_order(tmp_path: Path, loaded: LoadedBundle) -> None:
    file = StoryFile.read(write_vist(tmp_path, 6))
    assert [story.id for story in file.stories] == [f"s{i}" for i in range(6)]
    assert file.stories[2].images == ("p2", "p3", "p4", "p5", "p6")
    (tmp_path / "photos" / "p4.png").write_bytes(b"no image")
    folder = ImageFolder(tmp_path / "photos")
    features = story_features(loaded, file, folder)
    assert set(features.searched) == {f"p{i}" for i in range(10)} - {"p4"}, (
        "not those no story shows"
    )
    kept = StoryRetrieval(loaded, features).answerable(file.stories)
    assert [story.id for story in kept] == ["s5"], "all others show p4"


def test_story_ranks_equal_the_plain_computation(tmp_path: Path, loaded: LoadedBundle) -> None:
    file = StoryFile.read(write_vist(tmp_path, 9))
    features = story_features(loaded, file, ImageFolder(tmp_path / "photos"))
    retrieval = StoryRetrieval(loaded, features)
    model, mappers = loaded.model, loaded.model.mappers
    matrix = mappers.image_embeddings(torch.stack(list(features.searched.values()))).detach()
    for setting in SETTINGS:
        found = retrieval.ranks(file.stories, setting)
        for story, rank in zip(file.stories, found, strict=True):
            embedded = model.embed(retrieval.segments(story, setting))
            hidden = model.forward(embedded[None], logits_to_keep=1).hidden[:, -1]
            cosines = (matrix @ mappers.query_embeddings(hidden)[0].detach()).tolist()
            by_name = dict(zip(features.searched, cosines, strict=True))
            if setting == SETTINGS[-1]:
                for image in story.images[:-1]:
                    by_name.pop(image)
            best = sorted(by_name, key=by_name.__getitem__, reverse=True)
            assert best.index(story.images[-1]) + 1 == rank


class Script:
    """Stands for the model's replies: notes what is said, answers with a query or without."""

    told: ClassVar[list[list[Message]]] = []

    def __init__(self, loaded: LoadedBundle) -> None:
        self._dim = loaded.model.mappers.shared_dim

    def talks(self, asked: Sequence[Sequence[Message]]) -> list[list[Reply]]:
        Script.told = [list(messages) for messages in asked]
        # The second chat never gets a picture.
        return [
            [Reply("", None if i == 1 else query) for query in torch.eye(self._dim)[: len(told)]]
            for i, told in enumerate(asked)
        ]


def test_stories_in_a_chat(
    tmp_path: Path, loaded: LoadedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StoryFile.read(write_vist(tmp_path, 3))
    features = story_features(loaded, file, ImageFolder(tmp_path / "photos"))
    monkeypatch.setattr("fromage_weights.evaluation.stories.Responder", Script)
    chat = StoryRetrieval(loaded, features, chat=True)
    story = file.stories[0]
    found = chat.queries(file.stories, "5 captions, 4 images")
    dim = loaded.model.mappers.shared_dim
    assert found[1] is None
    for query in (found[0], found[2]):
        assert query is not None
        assert torch.equal(query, torch.eye(dim)[4])
    told = Script.told[0]
    assert [m.role for m in told] == ["user"] * 5
    assert [m.text for m in told] == list(story.captions)
    assert told[0].features is None
    for i in range(1, 5):
        shown = told[i].features
        assert shown is not None
        assert torch.equal(shown, features.shown[story.images[i - 1]])
    chat.queries(file.stories, "5 captions")
    assert [m.text for m in Script.told[0]] == list(story.captions)
    assert all(message.features is None for message in Script.told[0])
    assert chat.ranks(file.stories, "1 caption")[1] == len(features.searched) + 1
    assert [[m.text for m in messages] for messages in Script.told] == [
        [s.captions[-1]] for s in file.stories
    ]
    with pytest.raises(ValueError, match="no chat"):
        StoryRetrieval(loaded, features, chat=True, reference_compat=True)


def test_the_same_candidates_for_every_input(tmp_path: Path, loaded: LoadedBundle) -> None:
    file = StoryFile.read(write_vist(tmp_path, 2))
    features = story_features(loaded, file, ImageFolder(tmp_path / "photos"))
    query = torch.ones(loaded.model.mappers.shared_dim)
    plain = StoryRetrieval(loaded, features)
    fair = StoryRetrieval(loaded, features, always_exclude=True)
    story = file.stories[0]
    assert not plain.scores(story, "5 captions", query).isinf().any()
    assert [i for i, v in enumerate(fair.scores(story, "1 caption", query)) if v.isinf()] == [
        fair.candidates.index(image) for image in sorted(story.images[:-1])
    ]


def test_images_are_prepared_as_the_server_does_or_as_the_reference(
    tmp_path: Path, loaded: LoadedBundle
) -> None:
    """The pictures are not square: cropped or squashed is not the same."""
    file = StoryFile.read(write_vist(tmp_path, 2))
    folder, vision = ImageFolder(tmp_path / "photos"), loaded.vision
    assert vision is not None
    image = open_image((tmp_path / "photos" / "p1.png").read_bytes())
    assert image.width != image.height
    crop, squash = (
        vision.encode(vision.preprocess(image, mode)[None])[0] for mode in ("crop", "squash")
    )
    for prompt_image, compat, shown, searched in (
        ("crop", False, crop, crop),
        ("squash", False, squash, crop),
        ("crop", True, squash, squash),
    ):
        config = loaded.bundle.config.model_copy(update={"prompt_image": prompt_image})
        asked = replace(loaded, bundle=replace(loaded.bundle, config=config))
        found = story_features(asked, file, folder, reference_compat=compat)
        assert list(found.shown) == list(found.searched)
        assert torch.allclose(found.shown["p1"], shown, atol=1e-5)
        assert torch.allclose(found.searched["p1"], searched, atol=1e-5)
    assert not torch.allclose(crop, squash, atol=1e-3)


def losses_one_by_one(
    loaded: LoadedBundle, features: torch.Tensor, context: str, answer: str, *, shifted: bool
) -> float:
    model = loaded.model
    front, ids = (model.tokenizer.encode_prompt([text])[0] for text in (context, answer))
    assert front is not None
    assert ids is not None
    embedded = model.embed([ImageSegment(features), TextSegment(front), TextSegment(ids)])
    told = model.forward(embedded[None]).logits[0].log_softmax(-1)
    first = len(embedded) - len(ids) - shifted
    return -sum(float(told[first + i, token]) for i, token in enumerate(ids))


@torch.inference_mode()
def test_answers_are_scored_as_one_by_one(tmp_path: Path, loaded: LoadedBundle) -> None:
    file, dense = write_visdial(tmp_path, 3)
    dialogues = read_dialogues(file, dense)
    features = dialogue_features(loaded, dialogues, ImageFolder(tmp_path / "pictures"))
    assert set(features.shown) == {100, 101, 102}
    for compat in (False, True):
        ranking = AnswerRanking(loaded, reference_compat=compat)
        for dialogue in dialogues:
            context = contexts(dialogue)[1]
            options = dialogue.rounds[1].options
            row = features.shown[dialogue.image]
            found = ranking.losses(row, context, options)
            wanted = [
                losses_one_by_one(loaded, row, context, answer, shifted=not compat)
                for answer in options
            ]
            assert found.tolist() == pytest.approx(wanted, abs=1e-4)
        result = ranking.result(dialogues, features)
        assert result.count == 6
        assert set(result.figures) == {"NDCG", "MRR", "R@1", "R@5", "R@10"}


def test_without_dense_annotations_there_is_no_ndcg(tmp_path: Path, loaded: LoadedBundle) -> None:
    dialogues = read_dialogues(write_visdial(tmp_path, 2)[0])
    features = dialogue_features(loaded, dialogues, ImageFolder(tmp_path / "pictures"))
    assert "NDCG" not in AnswerRanking(loaded).result(dialogues, features).figures


def test_dialogue_to_image_ranks_images(tmp_path: Path, loaded: LoadedBundle) -> None:
    dialogues = read_dialogues(write_visdial(tmp_path, 8)[0])
    features = dialogue_features(loaded, dialogues, ImageFolder(tmp_path / "pictures"))
    search = ImageSearch(loaded)
    images, queries = search.images(dialogues, features), search.queries(dialogues)
    assert torch.allclose(images.norm(dim=1), torch.ones(8), atol=1e-5)
    ranks = [
        1 + sum(float(q @ i) >= float(q @ images[n]) for j, i in enumerate(images) if j != n)
        for n, q in enumerate(queries)
    ]
    assert search.result(dialogues, features).figures == recalls(ranks)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expecting"),
        ('{"data": {"questions": [], "answers": []}}', "not a VisDial 1.0 file"),
        ('{"data": {"questions": [], "answers": [], "dialogs": []}}', "no dialogues"),
        ('{"data": {"questions": [], "answers": [], "dialogs": [{"image_id": "x"}]}}', "invalid"),
        ('{"annotations": [], "images": []}', "no stories"),
        ('{"annotations": [[]], "images": []}', "not a story-in-sequence file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_text(text)
    read = read_dialogues if "data" in text or text == "{" else StoryFile.read
    with pytest.raises(EvaluationDataInvalid, match=told):
        read(tmp_path / "x.json")


def test_a_number_that_two_files_end_in_is_refused(tmp_path: Path) -> None:
    folder = ImageFolder(write_images(tmp_path / "i", {"a_7.png": 1, "b_007.png": 2, "c_8.png": 3}))
    assert folder.numbered(8) is not None
    assert folder.numbered(9) is None
    with pytest.raises(EvaluationDataInvalid, match="image 7 could be"):
        folder.numbered(7)
    with pytest.raises(EvaluationDataInvalid, match="no such folder"):
        ImageFolder(tmp_path / "none")


def test_captions_and_retrieval(tmp_path: Path, loaded: LoadedBundle) -> None:
    source = open_source(write_tsv(tmp_path / "w", 14, broken=(3,)))
    data = CaptionedImages.read(loaded, source)
    assert (len(data.captions), data.left_out) == (13, 1)
    assert len(CaptionedImages.read(loaded, source, limit=5).captions) == 4
    captioning = Captioning(loaded, max_tokens=6)
    result = captioning.result(data)
    assert set(result.figures) == {"perplexity", "BLEU-4", "CIDEr"}
    lookups = retrieval(loaded, data)
    assert [r.name for r in lookups] == ["caption to image", "image to caption"]
    # One by one: the mean loss of every word after its image.
    model, total, count = loaded.model, 0.0, 0
    for row, caption in zip(data.features, data.captions, strict=True):
        ids = model.tokenizer.encode_prompt([caption])[0]
        assert ids is not None
        with torch.inference_mode():
            told = model.forward(model.embed([ImageSegment(row), TextSegment(ids)])[None]).logits
        words = range(int(model.tokenizer.bos_token_id is not None), len(ids))
        start = model.n_visual_tokens - 1
        total -= sum(float(told[0, start + i].log_softmax(-1)[ids[i]]) for i in words)
        count += len(words)
    assert result.figures["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_several_captions_of_one_image(tmp_path: Path, loaded: LoadedBundle) -> None:
    table = write_tsv(tmp_path / "w", 4)
    head, *rows = table.read_text().splitlines()
    others = [f"one more {row}" for row in rows]
    table.write_text("\n".join([head, *rows, *others, *rows]) + "\n")
    data = CaptionedImages.read(loaded, open_source(table))
    assert (len(data.features), data.images) == (4, [0, 1, 2, 3] * 3)
    assert data.captions_of() == [[i, i + 4, i + 8] for i in range(4)]
    assert Captioning(loaded, max_tokens=3).result(data).count == 4
    # Every caption asks for its image exactly: other captions of it, or copies, are no failure.
    mappers = loaded.model.mappers
    images = mappers.image_embeddings(data.features).detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fromage_weights.evaluation.captions.caption_queries",
            lambda model, captions: images[data.images],
        )
        to_image, to_caption = retrieval(loaded, data)
    assert (to_image.count, to_image.figures["R@1"]) == (12, 100)
    assert (to_caption.count, to_caption.figures["R@1"]) == (4, 100)


def test_captions_end_at_a_stop_string_of_several_tokens(
    tmp_path: Path, loaded: LoadedBundle
) -> None:
    data = CaptionedImages.read(loaded, open_source(write_tsv(tmp_path / "w", 2)))
    (whole, _) = Captioning(loaded, max_tokens=8).captions(data.features)
    end = whole[2:7]
    assert len(loaded.model.tokenizer.encode(end)) > 1
    config = loaded.bundle.config.model_copy(update={"stop": (end,)})
    stopping = replace(loaded, bundle=replace(loaded.bundle, config=config))
    (cut, _) = Captioning(stopping, max_tokens=8).captions(data.features)
    assert cut == whole[:2].strip()


def test_the_caption_follows_the_framed_image(tmp_path: Path, loaded: LoadedBundle) -> None:
    data = CaptionedImages.read(loaded, open_source(write_tsv(tmp_path / "w", 2)))
    template = loaded.bundle.config.chat_template.model_copy(update={"image": "<{image}> "})
    config = loaded.bundle.config.model_copy(update={"chat_template": template})
    framed = Captioning(replace(loaded, bundle=replace(loaded.bundle, config=config)))
    model, total, count = loaded.model, 0.0, 0
    front, behind = model.tokenizer.encode_prompt(["<", ">"])
    for row, caption in zip(data.features, data.captions, strict=True):
        ids = model.tokenizer.encode(" " + caption)
        prompt: list[Segment] = [
            TextSegment(front or ()),
            ImageSegment(row),
            TextSegment(behind or ()),
        ]
        with torch.inference_mode():
            told = model.forward(model.embed([*prompt, TextSegment(ids)])[None]).logits[0]
        start = len(told) - len(ids) - 1
        total -= sum(float(told[start + i].log_softmax(-1)[t]) for i, t in enumerate(ids))
        count += len(ids)
    found = framed.perplexity(data.features, data.captions)
    assert found == pytest.approx(math.exp(total / count), rel=1e-4)


@torch.inference_mode()
def test_a_chat_stands_in_the_bundles_template(tmp_path: Path, loaded: LoadedBundle) -> None:
    dialogues = read_dialogues(write_visdial(tmp_path, 2)[0])
    features = dialogue_features(loaded, dialogues, ImageFolder(tmp_path / "pictures"))
    model, dialogue = loaded.model, dialogues[0]
    row = features.shown[dialogue.image]
    asked = [f"Q: {turn.question}?\nA:" for turn in dialogue.rounds]
    parts = ["Q: ", None, asked[0][3:], f" {dialogue.rounds[0].answer}\n", asked[1]]
    head: list[Segment] = [
        ImageSegment(row) if ids is None else TextSegment(ids)
        for ids in model.tokenizer.encode_prompt(parts)
    ]
    second = [*AnswerRanking(loaded, chat=True).rounds(dialogue, row)][1]
    for option, found in zip(dialogue.rounds[1].options, second.tolist(), strict=True):
        ids = model.tokenizer.encode(f" {option}\n")
        told = model.forward(model.embed([*head, TextSegment(ids)])[None]).logits[0]
        start = len(told) - len(ids) - 1
        lost = -sum(float(told[start + i].log_softmax(-1)[t]) for i, t in enumerate(ids))
        assert found == pytest.approx(lost, abs=1e-4)
    whole = [*asked, *(f" {turn.answer}" for turn in dialogue.rounds)]
    text = [whole[0], whole[2] + "\n", whole[1], whole[3] + model.tokenizer.ret_token]
    segments = [TextSegment(ids or ()) for ids in model.tokenizer.encode_prompt(text)]
    wanted = query_embeddings(model, [segments])
    assert torch.allclose(ImageSearch(loaded, chat=True).queries(dialogues)[:1], wanted, atol=1e-5)
    template = loaded.bundle.config.chat_template.model_copy(update={"image_position": "before"})
    config = loaded.bundle.config.model_copy(update={"chat_template": template})
    before = Responder(replace(loaded, bundle=replace(loaded.bundle, config=config)))
    image, question = before.segments([Message("user", "what is it?", row)])
    assert isinstance(image, ImageSegment), "images come first, as the server puts them"
    assert isinstance(question, TextSegment)
    assert question.token_ids == model.tokenizer.encode_prompt([None, "Q: what is it?\nA:"])[1]
    for search in (AnswerRanking, ImageSearch):
        with pytest.raises(ValueError, match="knows no chat"):
            search(loaded, chat=True, reference_compat=True)


def test_a_stop_string_that_is_encoded_with_a_space_in_front(tmp_path: Path) -> None:
    """As tokenizers of Llama's kind do; a reply has none there."""
    write_bundle(tmp_path, context=512)
    loaded = load_grounded_model(tmp_path, device="cpu", dtype="float32")
    tokenizer = loaded.model.tokenizer
    (newline,) = tokenizer.encode("\n")
    tokenizer.hf.backend_tokenizer.normalizer = Prepend(" ")
    assert len(tokenizer.encode("\n")) == 2
    assert newline in Responder(loaded).ends
    config = loaded.bundle.config.model_copy(update={"stop": ("ab",)})
    with pytest.raises(UnsupportedModel, match="'ab' is 3 tokens"):
        Responder(replace(loaded, bundle=replace(loaded.bundle, config=config)))


def test_caption_scores() -> None:
    told = ["a box on red", "a disc on a green ground", "two bars and a box on blue"]
    right = [[text] for text in told]
    perfect = scores(["A box on red.", *told[1:]], right)
    assert perfect["BLEU-4"] == pytest.approx(100, abs=0.01)
    worse = scores(["a box on red", "a disc on a gray ground", "nothing"], right)
    assert worse["BLEU-4"] < 80
    assert worse["CIDEr"] < perfect["CIDEr"]
    either = [["something else entirely here", text] for text in told]
    assert scores(told, either)["BLEU-4"] == pytest.approx(100, abs=0.01)


def test_rounds_come_with_their_relevance(tmp_path: Path) -> None:
    """Dense annotations count rounds from 1; the reference's script takes that for an index."""
    file, dense = write_visdial(tmp_path, 2)
    told = json.loads(dense.read_text())
    told[0]["relevance"] = told[0].pop("gt_relevance")  # as files of the training split say
    dense.write_text(json.dumps(told))
    wanted = (1.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    found = [[turn.relevance for turn in d.rounds] for d in read_dialogues(file, dense)]
    assert found == [[None, wanted], [None, wanted]]
    compat = read_dialogues(file, dense, reference_compat=True)
    assert [[turn.relevance for turn in d.rounds] for d in compat] == [[None, None], [wanted, None]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_id": 999}, "none of its annotations"),
        ({"gt_relevance": [1.0]}, "1 numbers for 6 options"),
        ({"gt_relevance": "x"}, "not dense annotations"),
        ({"round_id": 9}, "not dense annotations"),
    ],
)
def test_dense_annotations_of_something_else_are_refused(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    file, dense = write_visdial(tmp_path, 1)
    dense.write_text(json.dumps([json.loads(dense.read_text())[0] | change]))
    with pytest.raises(EvaluationDataInvalid, match=told):
        read_dialogues(file, dense)


def test_a_right_answer_that_is_no_option_is_refused(tmp_path: Path) -> None:
    file, _ = write_visdial(tmp_path, 1)
    file.write_text(file.read_text().replace('"gt_index": 0', '"gt_index": 6'))
    with pytest.raises(EvaluationDataInvalid, match="gt_index 6 of 6 options"):
        read_dialogues(file)


def test_inputs_beyond_the_context_are_refused(loaded: LoadedBundle) -> None:
    ranking = AnswerRanking(loaded)
    features = torch.zeros(loaded.model.mappers.vision_dim)
    with pytest.raises(EvaluationDataInvalid, match="the language model reads"):
        ranking.losses(features, "a " * loaded.model.max_context, ["b"])
    with pytest.raises(EvaluationDataInvalid, match="the language model reads"):
        query_embeddings(loaded.model, [[TextSegment((1,) * (loaded.model.max_context + 1))]])
