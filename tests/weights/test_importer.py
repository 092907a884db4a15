"""Official checkpoints become bundles; checkpoints that do not fit are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_weights.bundle import Bundle
from fromage_weights.checkpoint import ARGS_NAME, WEIGHTS_NAME, read_checkpoint
from fromage_weights.errors import CheckpointInvalid, ModelUnavailable, UnsupportedModel
from fromage_weights.grounded import GroundedModel
from fromage_weights.importer import import_checkpoint, resolve
from fromage_weights.language import input_embedding, weight_of
from fromage_weights.loading import load_grounded_model
from tests.weights.recording import Recording


@pytest.fixture
def source(recording: Recording, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    for name in (ARGS_NAME, WEIGHTS_NAME):
        shutil.copyfile(recording.path / "model_dir" / name, path / name)
    return path


def _edit_state(source: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = source / WEIGHTS_NAME
    loaded = torch.load(file, weights_only=True)
    edit(loaded["state_dict"])
    torch.save(loaded, file)


def _embedding(model: GroundedModel) -> torch.Tensor:
    return weight_of(input_embedding(model.lm)).detach().clone()


def _import(recording: Recording, source: Path) -> Bundle:
    hub = str(recording.path / "hub")
    return import_checkpoint(source, source.parent / "out", lm=hub, vision=hub)


def test_settings_of_an_imported_bundle(recording: Recording) -> None:
    config, args = recording.loaded.bundle.config, recording.json("model_dir/model_args")
    assert config.n_visual_tokens == args["n_visual_tokens"]
    assert config.shared_dim == args["shared_emb_dim"]
    assert config.text_emb_layers == (-1,)
    assert config.lm.id == str((recording.path / "hub" / args["opt_version"]).resolve())
    assert config.vision.id == str((recording.path / "hub" / args["visual_encoder"]).resolve())
    assert config.tokenizer_rules == "opt-4.33"
    assert config.prompt_image == "squash"
    assert config.stop == ("\n",)
    template = config.chat_template
    assert (template.user, template.assistant) == ("Q: {content}\nA:", " {content}\n")
    assert template.image_position == "before"


def test_models_may_be_named_one_by_one(recording: Recording, source: Path) -> None:
    args = recording.json("model_dir/model_args")
    hub = recording.path / "hub"
    lm, vision = hub / args["opt_version"], hub / args["visual_encoder"]
    bundle = import_checkpoint(source, source.parent / "out", lm=str(lm), vision=str(vision))
    again = recording.loaded.bundle.config.model_dump() | {"name": "checkpoint"}
    assert bundle.config.model_dump() == again


def test_the_full_matrix_is_used_for_the_ret_row_alone(recording: Recording, source: Path) -> None:
    """Where the file holds the matrix but not the row by itself, the row is taken from it."""
    key = "ret_input_embeddings.weight"
    row = read_checkpoint(str(source)).mappers.ret_embedding.detach()
    lm = _embedding(recording.loaded.model)
    _edit_state(source, lambda s: s.update({"model.input_embeddings.weight": lm}) or s.pop(key))
    bundle = _import(recording, source)
    assert torch.equal(bundle.mappers.ret_embedding.detach(), row)


def test_a_matrix_of_another_language_model_is_refused(recording: Recording, source: Path) -> None:
    matrix = _embedding(recording.loaded.model)
    matrix[5] += 1
    _edit_state(source, lambda state: state.update({"model.input_embeddings.weight": matrix}))
    with pytest.raises(CheckpointInvalid, match=r"in 1 of \d+ frozen rows"):
        _import(recording, source)


def test_a_prefix_of_distributed_training_is_dropped(recording: Recording, source: Path) -> None:
    def rename(state: dict[str, torch.Tensor]) -> None:
        for name in list(state):
            state[f"module.{name}"] = state.pop(name)

    _edit_state(source, rename)
    found, expected = _import(recording, source), recording.loaded.bundle
    assert found.config.mappers_sha256 == expected.config.mappers_sha256


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda s: s.pop("model.visual_fc.bias"), r"missing: model\.visual_fc\.bias"),
        (lambda s: s.update({"model.visual_fc.bias": torch.ones(3)}), r"visual_fc\.bias"),
        (lambda s: s.clear(), "tensors are missing"),
    ],
    ids=["missing", "misshapen", "empty"],
)
def test_wrong_tensors_are_named(
    source: Path, edit: Callable[[dict[str, torch.Tensor]], object], problem: str
) -> None:
    _edit_state(source, edit)
    with pytest.raises(CheckpointInvalid, match=problem) as caught:
        read_checkpoint(str(source))
    assert caught.value.file.name == WEIGHTS_NAME


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_unreadable_checkpoints(source: Path, content: bytes | None) -> None:
    file = source / WEIGHTS_NAME
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(CheckpointInvalid, match=r"pretrained_ckpt\.pth\.tar: not readable"):
        read_checkpoint(str(source))


def test_a_checkpoint_with_code_is_not_run(source: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (f"open({str(source / 'ran')!r}, 'w')",))

    torch.save({"state_dict": {"x": Trap()}}, source / WEIGHTS_NAME)
    with pytest.raises(CheckpointInvalid, match="not readable as plain tensors"):
        read_checkpoint(str(source))
    assert not (source / "ran").exists()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("{", "not the arguments"),
        ('{"opt_version": "x"}', "key 'visual_encoder' is missing"),
    ],
)
def test_wrong_arguments_are_named(source: Path, args: str, problem: str) -> None:
    (source / ARGS_NAME).write_text(args)
    with pytest.raises(CheckpointInvalid, match=problem):
        read_checkpoint(str(source))


def test_a_missing_file_is_named(source: Path) -> None:
    (source / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointInvalid, match=r"pretrained_ckpt\.pth\.tar: the file is missing"):
        read_checkpoint(str(source))


def test_another_number_of_soft_tokens_does_not_fit(source: Path) -> None:
    file = source / ARGS_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_visual_tokens": 7}))
    with pytest.raises(CheckpointInvalid, match=r"does not fit model_args\.json: .*visual_embedd"):
        read_checkpoint(str(source))


def test_a_language_model_of_another_width_is_refused(
    recording: Recording, source: Path, tmp_path: Path
) -> None:
    from tests.weights.tiny import language_model

    language_model("gpt2", tied=True).save_pretrained(tmp_path / "gpt2")
    hub = str(recording.path / "hub")
    with pytest.raises(UnsupportedModel, match=r"embeddings of 32 numbers"):
        import_checkpoint(source, tmp_path / "out", lm=str(tmp_path / "gpt2"), vision=hub)


def test_where_models_are_looked_for(tmp_path: Path) -> None:
    assert resolve("facebook/opt-6.7b", None) == "facebook/opt-6.7b"
    assert resolve("facebook/opt-6.7b", "facebook/opt-2.7b") == "facebook/opt-2.7b"
    assert resolve("facebook/opt-6.7b", str(tmp_path)) == str(tmp_path)
    (tmp_path / "facebook" / "opt-6.7b").mkdir(parents=True)
    expected = str(tmp_path / "facebook" / "opt-6.7b")
    assert resolve("facebook/opt-6.7b", str(tmp_path)) == expected
    with pytest.raises(ModelUnavailable, match="no such directory"):
        resolve("facebook/opt-6.7b", str(tmp_path / "nowhere"))


def test_the_bundle_loads_again(recording: Recording, source: Path) -> None:
    bundle = _import(recording, source)
    loaded = load_grounded_model(bundle.path, device="cpu")
    assert loaded.model.ret_token_id == recording.loaded.model.ret_token_id
    row = _embedding(loaded.model)[loaded.model.ret_token_id]
    assert torch.equal(row, bundle.mappers.ret_embedding[0])
