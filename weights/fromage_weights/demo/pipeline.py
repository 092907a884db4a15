"""Everything that makes the demo bundle, stage by stage, seeded. Each stage leaves a result, which
is there whole or not at all, and is skipped when it is.

    language   OUT/lm        the LM, from text alone; then frozen
    tower      OUT/vision    the vision tower, contrastively; then frozen
    features   OUT/features.safetensors   drawn training scenes through the tower
    mappers    OUT/mappers-joint.safetensors   all mappers through the frozen pair
    heads      OUT/mappers.safetensors   the two retrieval heads once more
    bundle     OUT/bundle    what ships

A run that broke off goes on where it was: the language model, the tower and the mappers' steps
through the LM from checkpoints (OUT/*-training), to the numbers of a run without a break.
Features, the slots that the mappers start from, and heads take minutes and are made in one go: what
broke off begins again. OUT/run.json says what a run is made by; another recipe, or another bundle
to go on from, is refused there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fromage_weights.cpu import avoid_hidden_amx, keep_freed_memory
from fromage_weights.demo.describing import DESCRIBING, train_describing
from fromage_weights.demo.hardware import Hardware
from fromage_weights.demo.heads import HeadsRecipe, train_heads
from fromage_weights.demo.language_model import train_language_model
from fromage_weights.demo.language_recipe import AGAIN, CONTINUED, LanguageRecipe
from fromage_weights.demo.mapping import MappingRecipe, train_mappers
from fromage_weights.demo.results import claim, identity
from fromage_weights.demo.tower import TowerRecipe, train_tower
from fromage_weights.demo.world import Scene
from fromage_weights.devices import choose_device
from fromage_weights.errors import UnsupportedModel
from fromage_weights.files import whole

if TYPE_CHECKING:
    import torch

    from fromage_weights.demo.features import FeatureBank
    from fromage_weights.grounded import GroundedModel

STAGES = ("language", "tower", "features", "mappers", "heads", "bundle")
SOFT_TOKENS = 4
SHARED_DIM = 256


@dataclass(frozen=True)
class Recipe:
    """What the whole run depends on; the defaults are what
    `fromage demo train` runs."""

    language: tuple[LanguageRecipe, ...] = (LanguageRecipe(), CONTINUED, AGAIN)
    mappers: MappingRecipe = field(default_factory=MappingRecipe)
    describing: MappingRecipe = DESCRIBING
    heads: HeadsRecipe = field(default_factory=HeadsRecipe)
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    pictures: int = 120_000
    pairs: float = 0.45
    seed: int = 0


# What `fromage demo train --from` runs. The slot words' embeddings never change: the mappers know
# most of it already.
GOING_ON = Recipe(
    language=(CONTINUED,),
    mappers=MappingRecipe(steps=400, learning_rate=5e-4),
    describing=replace(DESCRIBING, steps=2000),
)


class Pipeline:
    """The stages over one directory. With `start`, a bundle's directory, its language model and
    mappers go on learning, and its tower is taken as it is."""

    def __init__(
        self,
        out: Path,
        recipe: Recipe | None = None,
        *,
        start: Path | None = None,
        device: str = "cpu",
    ) -> None:
        """`device`: as for ``choose_device``."""
        self.out, self._start = out, start
        self._device = choose_device(device)
        self.recipe = recipe or (GOING_ON if start else Recipe())
        self.lm, self.vision = out / "lm", out / "vision"
        self._features = out / "features.safetensors"
        self._joint = out / "mappers-joint.safetensors"
        self._final = out / "mappers.safetensors"
        self.bundle = out / "bundle"

    def run(self, stages: tuple[str, ...] = STAGES) -> None:
        """TrainingInvalid where the directory holds a run by another recipe."""
        import torch

        claim(self.out, {"from": identity(self._start), "recipe": asdict(self.recipe)})
        avoid_hidden_amx()  # every stage trains in bfloat16 where the CPU has it
        keep_freed_memory()
        self._hardware = Hardware.of(self._device)
        if self._hardware.workers:
            torch.set_num_threads(1)  # the cores are theirs
        # Of a directory, what is written last: earlier versions did not write them whole.
        steps: dict[str, tuple[Path, Callable[[], None]]] = {
            "language": (self.lm / "tokenizer_config.json", self._language),
            "tower": (self.vision / "open_clip_config.json", self._tower),
            "features": (self._features, self._draw),
            "mappers": (self._joint, self._map),
            "heads": (self._final, self._head),
            "bundle": (self.bundle / "bundle.json", self._assemble),
        }
        for stage in stages:
            result, make = steps[stage]
            if result.exists():
                print(f"{stage}: {result} is there", flush=True)
            else:
                print(f"{stage}: makes {result}", flush=True)
                make()

    def _language(self) -> None:
        import torch
        from transformers import PreTrainedTokenizerFast

        from fromage_weights.demo.oracle import gate
        from fromage_weights.demo.vocabulary import train_tokenizer
        from fromage_weights.language import load_language_model

        training = self.out / "lm-training"
        start = None
        if self._start is not None:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(self._start / "lm")
            start = load_language_model(str(self._start / "lm"), torch.float32)
        else:
            # Kept beside the checkpoint: one trained again might give other ids.
            kept = training / "tokenizer"
            if not (kept / "tokenizer_config.json").exists():  # what is written last
                with whole(kept) as directory:
                    train_tokenizer(self.recipe.seed).save_pretrained(directory)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(kept)
        recipes, hardware = self.recipe.language, self._hardware
        lm = train_language_model(recipes, tokenizer, training, start, hardware)
        with whole(self.lm) as directory:
            export_language_model(lm, tokenizer, directory)
        print("language: of validation queries right, in percent", flush=True)
        written = load_language_model(str(self.lm), torch.float32)
        torch.nn.Module.to(written, self._device)
        print("\n".join(gate(written, tokenizer)), flush=True)

    def _tower(self) -> None:
        training = self.out / "tower-training"
        if self._start is not None:
            training = self._start / "vision"
        else:
            train_tower(training, recipe=self.recipe.tower, hardware=self._hardware)
        with whole(self.vision) as directory:
            directory.mkdir()
            for name in ("open_clip_model.safetensors", "open_clip_config.json"):
                shutil.copyfile(training / name, directory / name)

    def _draw(self) -> None:
        from safetensors.torch import save_file

        from fromage_weights.demo.features import make_features
        from fromage_weights.vision import VisionEncoder

        scenes = training_scenes(self.recipe.pictures, self.recipe.pairs, self.recipe.seed)
        encoder = VisionEncoder.load(str(self.vision))
        seed = self.recipe.seed
        bank = make_features(encoder, scenes, seed=seed, hardware=self._hardware)
        told = json.dumps([asdict(scene) for scene in scenes])
        with whole(self._features) as file:
            save_file({"features": bank.features}, file, metadata={"scenes": told})

    def _map(self) -> None:
        bank = self.feature_bank()
        model = self._new_model(bank.features.shape[1])
        if self._start is not None:
            model.mappers.load(self._start / "mappers.safetensors")
        training = self.out / "mappers-training"
        train_mappers(
            model,
            bank,
            self.recipe.mappers,
            begun=self._start is not None,
            hardware=self._hardware,
            checkpoint=training / "joint.pt",
        )
        checkpoint = training / "describing.pt"
        train_describing(model, bank, self.recipe.describing, self._hardware, checkpoint)
        with whole(self._joint) as file:
            model.mappers.save(file)
        # Mappers made again may be for another language model or other features.
        shutil.rmtree(training, ignore_errors=True)

    def _head(self) -> None:
        bank = self.feature_bank()
        model = self._new_model(bank.features.shape[1])
        model.mappers.load(self._joint)
        model.write_ret_row()
        train_heads(model, bank, self.recipe.heads, self._hardware)
        with whole(self._final) as file:
            model.mappers.save(file)

    def _assemble(self) -> None:
        with whole(self.bundle) as directory:
            assemble(self.lm, self.vision, self._final, directory)

    def feature_bank(self) -> FeatureBank:
        from safetensors import safe_open

        from fromage_weights.demo.features import FeatureBank

        with safe_open(self._features, framework="pt") as file:
            told = json.loads(file.metadata()["scenes"])
            features = file.get_tensor("features")
        scenes = [Scene(tuple(s["objects"]), s["count"], s["background"]) for s in told]
        return FeatureBank(scenes, features)

    def _new_model(self, vision_dim: int) -> GroundedModel:
        return new_model(self.lm, vision_dim, self.recipe.seed, self._device)


def new_model(
    lm_directory: Path, vision_dim: int, seed: int, device: torch.device | str = "cpu"
) -> GroundedModel:
    """The frozen LM with untrained mappers, on `device`."""
    import torch

    from fromage_weights.grounded import GroundedModel
    from fromage_weights.language import load_language_model
    from fromage_weights.mappers import Mappers
    from fromage_weights.tokenizer import load_tokenizer

    lm = load_language_model(str(lm_directory), torch.float32)
    torch.nn.Module.to(lm, device)
    torch.manual_seed(seed)
    width = int(lm.config.hidden_size)
    mappers = Mappers(vision_dim, width, width, SOFT_TOKENS, SHARED_DIM, tied=False)
    return GroundedModel(lm, mappers, load_tokenizer(str(lm_directory)))


def training_scenes(count: int, pairs: float, seed: int) -> list[Scene]:
    """Scenes that training may see, drawn at random."""
    from fromage_weights.demo.corpus import training_scene

    rng = np.random.default_rng([seed, 3])
    return [training_scene(rng, pairs=pairs) for _ in range(count)]


def export_language_model(lm: object, tokenizer: object, directory: Path) -> None:
    """Write the LM in bfloat16 with its tokenizer."""
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    if not isinstance(lm, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UnsupportedModel("expected a transformers model and its tokenizer")
    torch.nn.Module.to(lm, torch.bfloat16)
    lm.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def assemble(lm: Path, vision: Path, mappers: Path, out: Path) -> None:
    """Put the parts together as a bundle at `out`."""
    import torch

    from fromage_weights.bundle import ChatTemplate, FrozenModel, save_bundle
    from fromage_weights.demo.corpus import ASSISTANT, USER
    from fromage_weights.fingerprint import fingerprint
    from fromage_weights.language import load_language_model
    from fromage_weights.mappers import Mappers, read_tensors
    from fromage_weights.vision import VisionEncoder

    for source, name in ((lm, "lm"), (vision, "vision")):
        if source.resolve() != (out / name).resolve():
            shutil.copytree(source, out / name, dirs_exist_ok=True)
    model = load_language_model(str(lm), torch.float32)
    encoder = VisionEncoder.load(str(vision))
    width = int(model.config.hidden_size)
    trained = Mappers(encoder.dim, width, width, SOFT_TOKENS, SHARED_DIM, tied=False)
    trained.load_state_dict({k: v.float() for k, v in read_tensors(mappers).items()})
    save_bundle(
        out,
        trained,
        name="demo",
        lm=FrozenModel(id="./lm", hash=fingerprint(model)),
        vision=FrozenModel(id="./vision", hash=encoder.fingerprint),
        chat_template=ChatTemplate(user=USER, assistant=ASSISTANT, image="({image}) "),
        stop=("\n",),
        stop_after_ret=True,
        prompt_image="squash",
    )
