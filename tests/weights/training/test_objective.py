"""The training losses against the recorded reference and against the obvious computation."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fromage_weights.training.cache import CacheInfo, FeatureCache
from fromage_weights.training.objective import Example, Losses, Objective
from fromage_weights.training.recipe import TrainingRecipe
from fromage_weights.training.trainer import Trainer
from tests.weights.recording import Recording

NAMES = {
    "logit_scale": "model.logit_scale",
    "text_hidden_fcs.0.weight": "model.text_hidden_fcs.0.0.weight",
    "text_hidden_fcs.0.bias": "model.text_hidden_fcs.0.0.bias",
    "visual_embeddings.weight": "model.visual_embeddings.weight",
    "visual_embeddings.bias": "model.visual_embeddings.bias",
    "visual_fc.weight": "model.visual_fc.weight",
    "visual_fc.bias": "model.visual_fc.bias",
    "ret_embedding": "ret_row",
}


class RecordedRun:
    """The reference's three steps on six pairs."""

    def __init__(self, recording: Recording, reference: Path) -> None:
        folder = reference / recording.variant
        if not (folder / "train.safetensors").is_file():
            pytest.skip("the recorded training run is only in the full reference recording")
        self.told = json.loads((folder / "train.json").read_text())
        self.tensors = load_file(folder / "train.safetensors")
        self.model = recording.loaded.model
        self.before = {k: v.clone() for k, v in self.model.mappers.state_dict().items()}
        self.model.mappers.requires_grad_(True)
        vision = recording.loaded.vision
        assert vision is not None
        images = [Image.open(reference / "images" / c["image"]) for c in self.told["captions"]]
        features = vision.encode(torch.stack([vision.preprocess(i, "crop") for i in images]))
        self.batch = [
            example(self.model.ret_token_id, feature, tokens[:length].tolist())
            for feature, tokens, length in zip(
                features,
                self.tensors["batch/tokens"],
                self.tensors["batch/caption_len"],
                strict=True,
            )
        ]

    def restore(self) -> None:
        self.model.mappers.load_state_dict(self.before)
        self.model.mappers.requires_grad_(False)
        self.model.mappers.zero_grad()

    def named(self) -> dict[str, Tensor]:
        found = dict(self.model.mappers.named_parameters())
        return {name: found[name] for name in NAMES}


def example(ret: int, features: Tensor, query: list[int]) -> Example:
    assert query[-1] == ret
    return Example(features, tuple(query[:-1]), tuple(query))


@pytest.fixture
def run(recording: Recording, reference_any: Path):  # type: ignore[no-untyped-def]
    made = RecordedRun(recording, reference_any)
    yield made
    made.restore()


def check_losses(found: Losses, expected: dict[str, float]) -> None:
    assert found.caption == pytest.approx(expected["caption_ce"], abs=1e-4)
    assert found.retrieval == pytest.approx(expected["retrieval_ce"], abs=1e-4)
    assert found.text_to_image == pytest.approx(expected["contrastive_text_to_image"], abs=1e-4)
    assert found.image_to_text == pytest.approx(expected["contrastive_image_to_text"], abs=1e-4)
    assert float(found.total.detach()) == pytest.approx(expected["total"], abs=2e-4)


def test_losses_and_gradients_are_the_references(run: RecordedRun) -> None:
    found = Objective(run.model).losses(run.batch, concatenate=False)
    check_losses(found, run.told["steps"][0])
    assert found.recall * 100 == pytest.approx(run.told["contrastive_acc_text"][0], abs=1e-3)
    found.total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in run.named().items():
        assert parameter.grad is not None
        expected = run.tensors[f"grad/{NAMES[name]}"]
        torch.testing.assert_close(
            parameter.grad.reshape(expected.shape), expected, rtol=1e-3, atol=1e-5
        )


def test_concatenated_captions_give_the_references_loss(run: RecordedRun) -> None:
    found = Objective(run.model).losses(run.batch, concatenate=True)
    expected = run.told["caption_ce_concat_captions_true"]
    assert found.caption == pytest.approx(expected, abs=1e-4)


class Recorded(Trainer):
    """`fromage train`'s own steps, over the recorded batch again and again."""

    def __init__(self, run: RecordedRun, cache: Path, recipe: TrainingRecipe) -> None:
        info = CacheInfo(
            "recorded",
            "recorded",
            len(run.batch[0].features),
            len(run.batch),
            "float32",
            8192,
            "recorded",
        )
        (cache / "cache.json").write_text(json.dumps(asdict(info)))
        np.save(cache / "shard-00000.npy", torch.stack([e.features for e in run.batch]).numpy())
        row = {"caption": "-"}
        rows = [row | {"index": i, "key": str(i), "image": str(i)} for i in range(len(run.batch))]
        (cache / "shard-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._recorded = run.batch
        super().__init__(run.model, FeatureCache(cache), recipe)

    def batch(self, step: int) -> list[Example]:
        return self._recorded


@pytest.mark.parametrize("kind", ["after", "warmup_after"])
def test_three_steps_leave_the_references_tensors(
    run: RecordedRun, kind: str, tmp_path: Path
) -> None:
    told = run.told if kind == "after" else run.told["warmup_variant"]
    usual = TrainingRecipe()
    warmup = 0 if kind == "after" else usual.warmup
    recipe = replace(usual, steps=3, batch=len(run.batch), warmup=warmup, concatenate=0.0)
    trainer = Recorded(run, tmp_path, recipe)
    rates = [3e-4] * 3 if kind == "after" else told["lrs"]
    found = trainer.run()
    for rate, expected in zip(rates, told["steps"], strict=True):
        made = next(found)
        check_losses(made.losses, expected)
        assert made.norm == pytest.approx(expected["total_grad_norm_before_clip"], rel=1e-3)
        assert made.rate == pytest.approx(rate)
    for name, parameter in run.named().items():
        expected_tensor = run.tensors[f"{kind}/{NAMES[name]}"]
        torch.testing.assert_close(
            parameter.detach().reshape(expected_tensor.shape), expected_tensor, rtol=0, atol=5e-5
        )
    check_losses(Objective(run.model).losses(run.batch, concatenate=False), told["losses_after"])
