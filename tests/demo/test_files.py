"""`fromage demo files`: the demo's world in the files of the paper's protocols."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from fromage_server.cli import main
from fromage_weights.demo.answers import words_of
from fromage_weights.demo.files import OPTIONS, DemoFiles
from fromage_weights.demo.wordings import is_kept
from fromage_weights.evaluation.dialogues import Dialogue, read_dialogues
from fromage_weights.evaluation.stories import StoryFile

COUNT = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("files")
    assert main(["demo", "files", str(out), "--split", "validation", "--count", str(COUNT)]) == 0
    return out


def dialogues_of(written: Path) -> list[Dialogue]:
    folder = written / "visdial"
    return read_dialogues(folder / "demo_visdial.json", folder / "demo_visdial_dense.json")


def test_stories_have_five_pictures_that_are_there(written: Path) -> None:
    file = StoryFile.read(written / "vist" / "demo.story-in-sequence.json")
    assert len(file.stories) == COUNT
    for story in file.stories:
        assert len(story.captions) == len(story.images) == 5
        assert is_kept(story.captions[0])
        for image in story.images:
            with Image.open(written / "vist" / "images" / f"{image}.png") as picture:
                assert picture.size == (240, 240)


def test_dialogues_have_a_hundred_answers_of_which_some_are_right(written: Path) -> None:
    dialogues = dialogues_of(written)
    assert len(dialogues) == COUNT
    for dialogue in dialogues:
        assert len(dialogue.rounds) == 5
        for turn in dialogue.rounds:
            assert len(set(turn.options)) == len(turn.options) == OPTIONS
            assert turn.options[turn.right] == turn.answer
            assert turn.relevance is not None
            assert turn.relevance[turn.right] == 1
            assert 0 < sum(value == 0 for value in turn.relevance) < OPTIONS
            assert not turn.question.endswith("?")


def test_relevance_is_the_share_of_facts(tmp_path: Path) -> None:
    made = DemoFiles("validation", 30, seed=3)
    file, dense, _ = made.dialogues(tmp_path)
    seen = set()
    for dialogue in read_dialogues(file, dense):
        for turn in dialogue.rounds:
            assert turn.relevance is not None
            right = words_of(turn.answer)
            for option, value in zip(turn.options, turn.relevance, strict=True):
                words = words_of(option)
                if value == 1 and {"yes", "no"} & right:
                    assert option == turn.answer
                if {"yes", "no"} & right and (right & {"yes", "no"}) != (words & {"yes", "no"}):
                    assert value == 0
                seen.add(value)
    assert {0.0, 0.5, 1.0} < seen


def test_what_is_this_has_two_right_wordings(tmp_path: Path) -> None:
    file, dense, _ = DemoFiles("validation", 12, seed=4).dialogues(tmp_path)
    told = [
        turn
        for dialogue in read_dialogues(file, dense)
        for turn in dialogue.rounds
        if turn.answer.startswith(("This is", "These are", "I see"))
    ]
    assert told
    both = 0
    for turn in told:
        assert turn.relevance is not None
        right = {o for o, v in zip(turn.options, turn.relevance, strict=True) if v == 1}
        # Behind "This is", "These are" and "I see".
        assert len({option.split(" ", 2)[2] for option in right}) == 1
        both += len(right) == 2
    assert both


def test_captions_say_what_the_pictures_show(written: Path) -> None:
    with (written / "captions" / "demo_captions.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == COUNT
    assert all((written / "captions" / row["image"]).is_file() for row in rows)


def test_files_are_the_same_every_time(written: Path, tmp_path: Path) -> None:
    main(["demo", "files", str(tmp_path), "--split", "validation", "--count", str(COUNT)])
    for file in sorted(written.rglob("*.*")):
        assert (tmp_path / file.relative_to(written)).read_bytes() == file.read_bytes()


def test_the_demo_answers_them(written: Path, tmp_path: Path) -> None:
    """The right answer is among the first five of a hundred in most rounds: by chance in one of
    twenty."""
    folder, out = written / "visdial", tmp_path / "found.json"
    dense = ["--dense", str(folder / "demo_visdial_dense.json")]
    files = [str(folder / "demo_visdial.json"), *dense, "--images", str(folder / "images")]
    command = ["eval", "visdial", *files, "--bundle", "demo", "--device", "cpu"]
    assert main([*command, "--chat", "--limit", "3", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["options"]["chat"] is True
    answers, images = found["results"]
    assert answers["count"] == 15
    assert answers["figures"]["R@5"] > 50
    assert images["count"] == 3
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--chat", "--reference-compat"])
