"""bundle.json is validated, and the mappers' file is the one it describes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fromage_weights.bundle import CONFIG_NAME, Bundle, ChatTemplate, FrozenModel
from fromage_weights.errors import BundleInvalid, BundleNotFound, DamagedFile
from fromage_weights.mappers import FILE_NAME
from tests.weights.tiny_bundle import write_bundle


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def copied(saved: Bundle, tmp_path: Path) -> Path:
    for name in (CONFIG_NAME, FILE_NAME):
        (tmp_path / name).write_bytes((saved.path / name).read_bytes())
    return tmp_path


def _edit(path: Path, **changes: Any) -> None:
    file = path / CONFIG_NAME
    settings = json.loads(file.read_text()) | changes
    kept = {name: value for name, value in settings.items() if value is not None}
    file.write_text(json.dumps(kept))


def test_what_is_written_is_read(saved: Bundle) -> None:
    read = Bundle.load(saved.path)
    assert read.config == saved.config
    assert read.hash == saved.hash
    assert read.frozen_source(read.config.lm) == str(saved.path / "lm")
    for name, value in saved.mappers.state_dict().items():
        assert value.equal(read.mappers.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"format_version": 2, "new_key": 1},
            "a bundle of format 2, this program reads 1: it takes a newer",
        ),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"shared_dim": None}, "shared_dim: Field required"),
        ({"n_visual_tokens": 0}, "n_visual_tokens: Input should be greater than or equal to 1"),
        ({"prompt_image": "stretch"}, "prompt_image: Input should be 'squash' or 'crop'"),
        ({"lm": {"id": "./lm", "hash": "abc"}}, r"lm\.hash: String should match"),
        ({"stop": [""]}, r"stop\.0: String should have at least 1 character"),
        ({"chat_template": {"user": "Q: A:"}}, r"chat_template\.user: .*\{content\} exactly once"),
        ({"text_emb_layers": []}, "text_emb_layers: Tuple should have at least 1 item"),
    ],
)
def test_wrong_settings_are_named(copied: Path, changes: dict[str, Any], problem: str) -> None:
    _edit(copied, **changes)
    with pytest.raises(BundleInvalid, match=problem) as caught:
        Bundle.load(copied)
    assert caught.value.file == copied / CONFIG_NAME


def test_json_that_is_none(copied: Path) -> None:
    (copied / CONFIG_NAME).write_text("{")
    with pytest.raises(BundleInvalid, match=r"bundle\.json: the file: Invalid JSON"):
        Bundle.load(copied)


def test_a_directory_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match=r"bundle\.json is missing"):
        Bundle.load(tmp_path)


def test_one_flipped_bit_in_a_tensor(copied: Path) -> None:
    file = copied / FILE_NAME
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"mappers\.safetensors: SHA-256 is \w+, bundle\.json ex"):
        Bundle.load(copied)


def test_dimensions_must_fit_the_tensors(copied: Path) -> None:
    _edit(copied, shared_dim=9)
    with pytest.raises(DamagedFile, match=r"expected \(9, \d+\)|expected \(9,\)"):
        Bundle.load(copied)


def test_the_hash_tells_retrieval_spaces_apart(saved: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path, tied=True)
    assert other.hash != saved.hash


def test_the_default_template_is_plain() -> None:
    template = ChatTemplate()
    assert template.user.format(content="hi") + template.assistant.format(content="yes") == (
        "Q: hi\nA: yes\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"id": "./../elsewhere"},
        {"id": "./lm/../../elsewhere"},
        {"id": "./lm", "files": {"../x": "0" * 64}},
        {"id": "./lm", "files": {"/etc/passwd": "0" * 64}},
    ],
)
def test_nothing_of_a_bundle_lies_outside_it(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="out of"):
        FrozenModel.model_validate({"hash": "0" * 64} | change)
