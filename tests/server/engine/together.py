"""What two processes run for ``test_parallel``: ``python -m tests.server.engine.together FOLDER
RANK [cuda]``. Rank 0 writes what it has seen to ``results.json``, rank 1 to ``follower.json``."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fromage_server.engine import (
    Engine,
    EngineConfig,
    EngineStopped,
    GenerationRequest,
    ScoringRequest,
)
from fromage_server.engine import ranks as engine_ranks
from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.attention_pages import PagesBackend
from fromage_server.engine.errors import RanksLost
from fromage_server.engine.following import follow
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.ranks import DecodePass, Follower, Leader, Pass
from fromage_server.ranks import Place, together
from fromage_weights.errors import BundleMismatch
from fromage_weights.grounded import GroundedModel
from fromage_weights.loading import load_grounded_model
from tests.server.engine.driving import Heard, answers, reply, wait_until
from tests.server.engine.test_equals_generate import requests_of
from tests.server.engine.tiny import grounded, image, text

WORLD = 2
# OPT with and without projections, grouped heads, fused ones, and normalised ones with a window.
FAMILIES = ("opt", "opt-350m", "llama", "gpt-neox", "gemma3")
SHORT_HEAD = "llama"  # metadata of this one takes two messages
TIED = False
RECORDED = "recorded"
FULLY = ("opt", "llama")  # with these all scenarios, with the others the hardest
BLOCKS = 6

Request = GenerationRequest | ScoringRequest


def requests(family: str) -> list[Request]:
    """The first ones are those of ``requests_of``."""
    model = grounded(family, TIED)
    prompt = (text(model, "a prompt with an image "), image(2), text(model, " and two [RET]s"))
    return [
        *requests_of(family, TIED),
        reply("rets", prompt, 6, prompt_ret_positions=(5, 30)),
        ScoringRequest("score", prompt, (7, 20), 3),
    ]


SCENARIOS: dict[str, Callable[[Any], EngineConfig]] = {
    "mixed": lambda block: EngineConfig(max_batch=5, prefill_tokens=30),
    "few blocks": lambda block: EngineConfig(kv_cache_bytes=BLOCKS * block, prefill_tokens=7),
    "deterministic": lambda block: EngineConfig(max_batch=6, deterministic=True),
    RECORDED: lambda block: EngineConfig(max_batch=6),
}
CASES = [
    (family, scenario)
    for family in FAMILIES
    for scenario in SCENARIOS
    if (family in FULLY and scenario != RECORDED)
    or scenario == "few blocks"
    or family == SHORT_HEAD  # its kernel is interpreted: slow
]


def options(scenario: str, device: torch.device) -> dict[str, Any]:
    """What ranks on a CPU need to go through the recorded passes of a GPU."""
    if scenario != RECORDED or device.type == "cuda":
        return {}
    return {"backend": PagesBackend(use_varlen=False)}


def run_engine(
    model: GroundedModel, scenario: str, wanted: list[Request], leader: Leader | None = None
) -> dict[str, Any]:
    block = BLOCK_SIZE * KVShape.of(model.lm, model.dtype, model.device.type).position_bytes
    divided = {} if leader is None else {"leader": leader, **options(scenario, model.device)}
    recorded = True if "backend" in divided else None
    engine = Engine(model, SCENARIOS[scenario](block), graphs=recorded, ahead=recorded, **divided)
    if scenario == RECORDED:
        engine.warm_up()
    heard = answers(engine, wanted, steps_between=1)
    engine.check_idle()
    stats = engine.stats()
    engine.stop()
    return {
        "ids": [h.ids for h in heard],
        "queries": [[ret.query.tolist() for ret in h.rets] for h in heard],
        "logprobs": heard[-1].score.logprobs,
        "score queries": heard[-1].score.queries.tolist(),
        "preempted": stats.counts.preempted,
        "position bytes": stats.cache_bytes // (stats.blocks + 1) // BLOCK_SIZE,
    }


def load(bundle: Path, device: torch.device) -> GroundedModel:
    return load_grounded_model(
        bundle, device=str(device), dtype="float32", vision=False, world=WORLD
    ).model


def refused(bundle: Path, device: torch.device) -> str:
    try:
        load(bundle, device)
    except BundleMismatch as error:
        return str(error)
    return "not at all"


def lead(folder: Path, device: torch.device) -> dict[str, Any]:
    results: dict[str, Any] = {"refused": refused(folder / "wrong", device)}
    for family in FAMILIES:
        model = _beginning(family, folder, device)
        results[family] = {
            scenario: run_engine(model, scenario, requests(family), Leader(device))
            for name, scenario in CASES
            if name == family
        }
        results[family]["parameters"] = sum(p.numel() for p in model.lm.parameters())
    return results


def follow_on(folder: Path, device: torch.device) -> dict[str, Any]:
    results = {"refused": refused(folder / "wrong", device)}
    for family in FAMILIES:
        model = _beginning(family, folder, device)
        for name, scenario in CASES:
            if name == family:
                follow(model, _follower(model), **options(scenario, device))
    model = load(folder / FAMILIES[0], device)
    try:
        follow(model, _follower(model))
    except RanksLost as error:
        results["lost"] = str(error)
    return results


def leave(folder: Path, device: torch.device) -> None:
    """The leader is gone in the middle, as its death would have it."""
    Engine(load(folder / FAMILIES[0], device), leader=Leader(device))


def lose(folder: Path, device: torch.device) -> dict[str, Any]:
    """A follower dies while a reply runs."""
    model = load(folder / "llama", device)
    engine = Engine(model, leader=Leader(device))
    engine.start()
    heard = Heard()
    engine.submit(reply("long", (text(model, "x"),), 100, ignore_eos=True), heard)
    wait_until(lambda: heard.ended)
    try:
        engine.submit(reply("later", (text(model, "x"),)), Heard())
    except EngineStopped as error:
        return {"tokens": len(heard.ids), "error": heard.error, "later": str(error)}
    return {}


class Doomed(Follower):
    passes = 0

    def next_pass(self) -> Pass | DecodePass | None:
        self.passes += 1
        if self.passes == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().next_pass()


def _beginning(family: str, folder: Path, device: torch.device) -> GroundedModel:
    engine_ranks._HEAD = 16 if family == SHORT_HEAD else 1024  # type: ignore[misc]
    return load(folder / family, device)


def _follower(model: GroundedModel, kind: type[Follower] = Follower) -> Follower:
    return kind(model.device, model.dtype, model.mappers.embed_dim)


def main(folder: Path, rank: int, device: torch.device) -> None:
    def place(meeting: str) -> Place:
        return Place(rank, WORLD, rank, store=folder / meeting)

    name = "results.json" if rank == 0 else "follower.json"
    with together(place("first"), device, lambda: None):
        results = lead(folder, device) if rank == 0 else follow_on(folder, device)
        if rank == 0:
            leave(folder, device)
    (folder / name).write_text(json.dumps(results))
    if device.type == "cuda":  # NCCL waits for the dead until its patience ends
        return
    with together(place("second"), device, lambda: None):
        if rank == 0:
            results["killed"] = lose(folder, device)
        else:
            model = load(folder / "llama", device)
            follow(model, _follower(model, Doomed))
    (folder / name).write_text(json.dumps(results))


if __name__ == "__main__":
    rank = int(sys.argv[2])
    on_gpu = sys.argv[3:] == ["cuda"]
    main(Path(sys.argv[1]), rank, torch.device("cuda", rank) if on_gpu else torch.device("cpu"))
