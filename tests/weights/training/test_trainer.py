"""A run: what it changes, that it goes on exactly, and that two processes are one."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from fromage_weights.bundle import ChatTemplate
from fromage_weights.errors import TrainingInvalid
from fromage_weights.grounded import GroundedModel
from fromage_weights.language import input_embedding, load_language_model, weight_of
from fromage_weights.tokenizer import load_tokenizer
from fromage_weights.training import examples
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.cache_builder import build_cache
from fromage_weights.training.checkpoint import CHECKPOINT
from fromage_weights.training.examples import ExampleMaker
from fromage_weights.training.objective import Example, renormalise_ret
from fromage_weights.training.recipe import TrainingRecipe, check_batch
from fromage_weights.training.setup import Setup, new_mappers
from fromage_weights.training.sources import open_source
from fromage_weights.training.trainer import LOG, Trainer
from fromage_weights.training.validation import split, validate
from fromage_weights.vision import VisionEncoder
from tests.weights.training.world import write_world

RECIPE = TrainingRecipe(steps=12, batch=8, warmup=3, max_scale=100.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    made = write_world(folder, 40, broken=(7,))
    encoder = VisionEncoder.load(str(made["vision"]))
    build_cache(folder / "cache", open_source(made["data"]), encoder, shard_pairs=16)
    return {**made, "cache": folder / "cache"}


def model_of(world: dict[str, Path], seed: int = 0) -> GroundedModel:
    lm = load_language_model(str(world["lm"]), torch.float32)
    setup = Setup(Path("unused"), recipe=TrainingRecipe(seed=seed))
    return GroundedModel(lm, new_mappers(lm, 32, setup), load_tokenizer(str(world["lm"])))


def trainer(
    world: dict[str, Path], out: Path | None = None, recipe: TrainingRecipe = RECIPE
) -> Trainer:
    if out is not None:
        out.mkdir(exist_ok=True)
    return Trainer(model_of(world), FeatureCache(world["cache"]), recipe, out=out)


def losses(run: Trainer, **options: int) -> list[float]:
    return [float(step.losses.total.detach()) for step in run.run(**options)]


def test_only_the_mappers_change(world: dict[str, Path]) -> None:
    run = trainer(world)
    lm, mappers = run.model.lm, run.model.mappers
    ret = run.model.ret_token_id
    frozen = {name: value.clone() for name, value in lm.state_dict().items()}
    before = {name: value.clone() for name, value in mappers.state_dict().items()}
    found = losses(run)
    assert {id(p) for p in run.optimized} == {id(p) for p in mappers.parameters()}
    assert not any(p.requires_grad for p in lm.parameters())
    for name, value in lm.state_dict().items():
        rows = [i for i in range(len(value)) if i != ret] if len(value) > ret else slice(None)
        assert torch.equal(value[rows], frozen[name][rows]), name
    assert all(not torch.equal(value, before[name]) for name, value in mappers.state_dict().items())
    row = weight_of(input_embedding(lm))[ret]
    assert torch.equal(row, mappers.ret_embedding[0]), "[RET] is written into the model at the end"
    assert found[-1] < found[0]


def test_a_run_that_goes_on_is_the_run_without_a_break(
    world: dict[str, Path], tmp_path: Path
) -> None:
    whole = losses(trainer(world, tmp_path / "whole"))
    first = trainer(world, tmp_path / "parts")
    steps = first.run(save_every=1000)
    part = [float(next(steps).losses.total.detach()) for _ in range(5)]
    steps.close()  # type: ignore[attr-defined]
    part += losses(trainer(world, tmp_path / "parts"))
    assert part == whole
    logged = [(tmp_path / name / LOG).read_text() for name in ("whole", "parts")]
    assert logged[0] == logged[1]


KILLED = """
import signal, sys, torch
from pathlib import Path
torch.set_num_threads(int(sys.argv[4]))  # as here: sums are shared out among so many
from tests.weights.training.test_trainer import RECIPE, trainer
world = {name: Path(path) for name, path in zip(("lm", "cache"), sys.argv[1:3])}
for step in trainer(world, Path(sys.argv[3])).run(save_every=4):
    print(step.number, flush=True)
    if step.number == 7:
        signal.pause()
"""


def test_kill_9_and_on_again(world: dict[str, Path], tmp_path: Path) -> None:
    """Between two checkpoints: the steps since the last one are taken again, bit for bit."""
    whole = losses(trainer(world))
    out = tmp_path / "out"
    paths = [str(world["lm"]), str(world["cache"]), str(out)]
    arguments = [sys.executable, "-c", KILLED, *paths, str(torch.get_num_threads())]
    with subprocess.Popen(
        arguments, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [int(process.stdout.readline()) for _ in range(7)] == list(range(1, 8))
        process.send_signal(signal.SIGKILL)
    again = trainer(world, out)
    assert again.step == 4
    assert losses(again) == whole[4:]
    logged = [json.loads(line)["step"] for line in (out / LOG).read_text().splitlines()]
    assert logged == list(range(1, 13))


def test_killed_before_the_first_checkpoint(world: dict[str, Path], tmp_path: Path) -> None:
    steps = trainer(world, tmp_path).run(save_every=1000)
    for _ in range(3):
        next(steps)
    kept = (tmp_path / LOG).read_text()
    steps.close()  # type: ignore[attr-defined]
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / LOG).write_text(kept)
    losses(trainer(world, tmp_path))
    logged = [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert logged == list(range(1, 13))


def test_an_interrupt_within_a_step_keeps_no_half_of_it(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = losses(trainer(world))
    run = trainer(world, tmp_path)

    def interrupted(model: GroundedModel, length: torch.Tensor) -> None:
        if run.step == 6:
            raise KeyboardInterrupt
        renormalise_ret(model, length)

    monkeypatch.setattr("fromage_weights.training.trainer.renormalise_ret", interrupted)
    with pytest.raises(KeyboardInterrupt):
        losses(run, save_every=4)
    monkeypatch.undo()
    again = trainer(world, tmp_path)
    assert again.step == 4
    assert losses(again) == whole[4:]


def test_every_pair_is_seen_once_an_epoch(world: dict[str, Path]) -> None:
    run = trainer(world)
    assert run.steps_per_epoch == 4  # 39 pairs, batches of 8
    seen = [tuple(e.words) + tuple(e.features.tolist()) for s in range(4) for e in run.batch(s)]
    assert len(set(seen)) == 32
    assert [e.words for e in run.batch(0)] != [e.words for e in run.batch(4)]


def test_other_settings_are_refused(world: dict[str, Path], tmp_path: Path) -> None:
    losses(trainer(world, tmp_path))
    with pytest.raises(TrainingInvalid, match="batch was 8, now 4"):
        trainer(world, tmp_path, replace(RECIPE, batch=4))
    longer = trainer(world, tmp_path, replace(RECIPE, steps=14))
    assert len(losses(longer)) == 2
    with pytest.raises(TrainingInvalid, match="schedule"):
        trainer(world, tmp_path, replace(RECIPE, schedule="cosine"))


def test_another_model_is_refused(world: dict[str, Path], tmp_path: Path) -> None:
    cache = FeatureCache(world["cache"])

    def made(model: GroundedModel, lm: str = "a1") -> Trainer:
        return Trainer(model, cache, RECIPE, out=tmp_path, origin={"language model": lm})

    losses(made(model_of(world)))
    with pytest.raises(TrainingInvalid, match="language model was a1, now b2"):
        made(model_of(world), "b2")
    lm = load_language_model(str(world["lm"]), torch.float32)
    setup = Setup(Path("unused"), n_visual_tokens=3, text_emb_layers=(-1, -2))
    other = GroundedModel(lm, new_mappers(lm, 32, setup), load_tokenizer(str(world["lm"])))
    with pytest.raises(
        TrainingInvalid, match=r"visual tokens was 1, now 3.*layers was -1, now -1 -2"
    ):
        made(other)
    with pytest.raises(TrainingInvalid, match="pairs was 39, now 30"):
        Trainer(model_of(world), cache, RECIPE, out=tmp_path, rows=np.arange(30))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_damaged_checkpoint_is_named(
    world: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingInvalid, match=rf"{CHECKPOINT}: not a checkpoint .* remove it"):
        trainer(world, tmp_path)


@pytest.mark.parametrize(
    ("batch", "pairs", "ranks", "told"),
    [
        (58, 58, 2, "multiple of 4.*try --batch 56$"),
        (180, 999, 4, "--batch 176 or 184"),
        (60, 58, 2, "try --batch 56"),
        (2, 1, 1, "there are 1"),
    ],
)
def test_what_is_offered_would_do(batch: int, pairs: int, ranks: int, told: str) -> None:
    with pytest.raises(TrainingInvalid, match=told):
        check_batch(batch, pairs, ranks)


def test_captions_that_the_tokenizer_knows_nothing_of(world: dict[str, Path]) -> None:
    """Beside others they are pairs with an image and [RET] alone; all of a batch are refused."""
    objective = trainer(world).objective
    ret = objective._model.ret_token_id
    features = torch.randn(2, 32)
    nothing = Example(features[0], (), (ret,))
    found = objective.losses([nothing, Example(features[1], (3, 4), (3, 4, ret))], concatenate=True)
    assert bool(torch.isfinite(found.total.detach()))
    with pytest.raises(TrainingInvalid, match="tokenizer knows none"):
        objective.losses([nothing, nothing], concatenate=False)


@pytest.mark.parametrize(
    ("batch", "told"), [(50, "there are 39"), (7, "multiple of 2"), (0, "multiple")]
)
def test_batches_that_cannot_be(world: dict[str, Path], batch: int, told: str) -> None:
    with pytest.raises(TrainingInvalid, match=told):
        trainer(world, recipe=replace(RECIPE, batch=batch))


def test_rates() -> None:
    recipe = TrainingRecipe(steps=200, warmup=100)
    assert [recipe.rate(s) for s in (0, 1, 2, 100, 199)] == pytest.approx(
        [0, 3e-6, 6e-6, 3e-4, 3e-4]
    )
    cosine = replace(recipe, schedule="cosine")
    assert [cosine.rate(s) for s in (0, 100, 150, 200)] == pytest.approx(
        [0, 3e-4, 1.5e-4, 0], abs=1e-9
    )


def test_the_temperature_has_its_limit(world: dict[str, Path]) -> None:
    run = trainer(world, recipe=replace(RECIPE, max_scale=14.0))
    losses(run)
    assert float(run.model.mappers.logit_scale.exp()) <= 14.0 + 1e-4


def test_dialogue_gives_turns_that_end_in_ret(world: dict[str, Path]) -> None:
    run = trainer(world, recipe=replace(RECIPE, dialogue=1.0))
    decode = run.model.tokenizer.decode
    batch = run.batch(0)
    assert {decode(e.query)[:2] for e in batch} == {"Q:"}
    assert all(e.query[-1] == run.model.ret_token_id for e in batch)
    assert all(decode(e.prompt).startswith("Q: ") for e in batch), "as the server sends it"
    assert not any(e.before for e in batch)
    assert all(decode(e.words).startswith(" a ") and decode(e.words)[-1] == "\n" for e in batch)
    assert losses(run)[-1] > 0


@pytest.mark.parametrize(
    ("template", "before", "behind"),
    [
        (ChatTemplate(image_position="before"), "", ["Q: what is this?\nA:"]),
        (ChatTemplate(image="({image}) "), "Q: (", [") what is this?\nA:"]),
        (
            ChatTemplate(image="({image}) ", image_position="before"),
            "(",
            [") ", "Q: what is this?\nA:"],
        ),
    ],
)
def test_turns_stand_in_the_bundles_template(
    world: dict[str, Path],
    template: ChatTemplate,
    before: str,
    behind: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examples, "QUESTIONS", ("what is this?",))
    tokenizer = load_tokenizer(str(world["lm"]))
    make = ExampleMaker(tokenizer, max_length=24, dialogue=1.0, template=template)
    made = [make(torch.zeros(3), "a box on red", np.random.default_rng(i)) for i in range(20)]
    encode = tokenizer.encode
    for example in made:
        assert example.before == encode(before)
        assert example.prompt == tuple(i for text in behind for i in encode(text))
        assert example.words == (*encode(" a box on red"), *encode("\n"))
        texts = len(example.before) + len(example.prompt) + len(example.words)
        assert max(texts, len(example.query)) <= make.longest
    assert {tokenizer.decode(example.query) for example in made} >= {
        "Q: show me a box on red\nA: Here it is.[RET]",
        "Q: a box on red\nA:[RET]",
    }
    plain = ExampleMaker(tokenizer, max_length=24, dialogue=0.0, template=template)
    example = plain(torch.zeros(3), "a box on red", np.random.default_rng(0))
    framed = template.image != "{image}"
    assert (example.before, example.prompt) == ((encode("("), encode(")")) if framed else ((), ()))
    assert example.words == encode(" a box on red" if framed else "a box on red")


def test_a_long_caption_is_cut_between_words(world: dict[str, Path]) -> None:
    """And nothing says then that a reply ends there."""
    tokenizer = load_tokenizer(str(world["lm"]))  # a letter is a token
    make = ExampleMaker(tokenizer, max_length=12, dialogue=1.0, template=ChatTemplate())
    cut = [make(torch.zeros(3), "a box on red", np.random.default_rng(i)) for i in range(20)]
    assert {tokenizer.decode(example.words) for example in cut} == {" a box on"}
    assert "Q: a box on\nA:[RET]" in {tokenizer.decode(example.query) for example in cut}
    assert all(len(example.query) <= make.longest for example in cut)
    whole = make(torch.zeros(3), "a box on r", np.random.default_rng(0))
    assert tokenizer.decode(whole.words) == " a box on r\n"


def test_a_caption_is_not_cut_within_a_character(tmp_path: Path) -> None:
    core = Tokenizer(BPE(vocab={c: i for i, c in enumerate(ByteLevel.alphabet())}, merges=[]))
    core.pre_tokenizer, core.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="!").save_pretrained(  # type: ignore[no-untyped-call]
        tmp_path
    )
    tokenizer = load_tokenizer(str(tmp_path))
    make = ExampleMaker(tokenizer, max_length=12, dialogue=1.0, template=ChatTemplate())
    made = make(torch.zeros(3), "红色的盒子", np.random.default_rng(0))  # three bytes each
    assert tokenizer.decode(made.words) == " 红色的"


def test_validation_is_on_other_pairs(world: dict[str, Path]) -> None:
    run = trainer(world)
    learnt, judged = split(np.arange(39), 9, seed=0)
    assert (len(learnt), len(judged), len(set(learnt) | set(judged))) == (30, 9, 39)
    found = validate(run, judged)
    assert found.ranked.shape == (9, 9)
    assert 0 <= found.recall[1] <= found.recall[5] <= found.recall[10] == 1
    whole = run.objective.losses(run.examples(judged), concatenate=False)
    assert found.caption == pytest.approx(whole.caption, rel=1e-4)


def test_an_image_is_held_out_with_all_its_captions(world: dict[str, Path], tmp_path: Path) -> None:
    table = Path(world["data"])
    head, *rows = table.read_text().splitlines()
    others = [f"one more {row}" for row in rows]
    twice = table.with_name("twice.tsv")
    twice.write_text("\n".join([head, *rows, *others]) + "\n")
    encoder = VisionEncoder.load(str(world["vision"]))
    build_cache(tmp_path, open_source(twice), encoder)
    cache = FeatureCache(tmp_path)
    assert cache.images.tolist() == [*range(39)] * 2
    learnt, judged = split(cache.images, 9, seed=0)
    assert (len(learnt), len(judged)) == (68, 10)
    assert not set(cache.images[learnt]) & set(cache.images[judged])
    found = validate(Trainer(model_of(world), cache, RECIPE), judged)
    assert found.ranked.shape == (10, 5), "an image is found once"
    assert found.recall[5] == 1


RANKED = """
import json, os, sys
from pathlib import Path
import torch
from torch import distributed
from fromage_weights.training.cache import FeatureCache
from fromage_weights.training.parallel import ProcessGroup
from fromage_weights.training.trainer import Trainer
from tests.weights.training.test_trainer import RECIPE, model_of
torch.set_num_threads(1)
distributed.init_process_group("gloo")
world = {name: Path(path) for name, path in zip(("lm", "cache"), sys.argv[1:3])}
ranks = ProcessGroup(torch.device("cpu"))
run = Trainer(model_of(world), FeatureCache(world["cache"]), RECIPE, ranks=ranks)
told = []
for step in run.run():
    told.append(step.line())
    if step.number == 1:
        gradients = {n: p.grad.clone() for n, p in run.model.mappers.named_parameters()}
torch.save((told, gradients, run.model.mappers.state_dict()), f"{sys.argv[3]}-{ranks.rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_are_one_at_twice_the_batch(world: dict[str, Path], tmp_path: Path) -> None:
    alone = trainer(world)
    told = []
    for step in alone.run():
        told.append(step.line())
        if step.number == 1:
            found = alone.model.mappers.named_parameters()
            gradients = {n: p.grad.clone() for n, p in found if p.grad is not None}
    arguments = [sys.executable, "-c", RANKED, *map(str, (world["lm"], world["cache"]))]
    port = str(20_000 + os.getpid() % 20_000)
    started = [
        subprocess.Popen(
            [*arguments, str(tmp_path / "rank")],
            cwd=Path(__file__).parents[3],
            env={
                **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for rank in range(2):
        lines, found, state = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
        for mine, theirs in zip(told, lines, strict=True):
            for key, value in mine.items():
                assert theirs[key] == pytest.approx(value, rel=1e-3, abs=1e-4), (key, mine["step"])
        for name, value in alone.model.mappers.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_the_checkpoint_is_replaced_whole(world: dict[str, Path], tmp_path: Path) -> None:
    losses(trainer(world, tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT, LOG]
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 12
    assert set(state["mappers"]) == {n for n, _ in model_of(world).mappers.named_parameters()}
