"""A model divided between two processes says what the whole one says."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_server.engine.attention import Span
from fromage_server.engine.ranks import Pass, pack, unpack
from fromage_weights.bundle import FrozenModel, save_bundle
from fromage_weights.errors import ParallelUnavailable
from fromage_weights.fingerprint import fingerprint
from fromage_weights.sharding import Division
from tests.server.engine.test_equals_generate import expected_of
from tests.server.engine.tiny import grounded
from tests.server.engine.together import (
    CASES,
    FAMILIES,
    TIED,
    WORLD,
    requests,
    run_engine,
)

Results = dict[str, Any]


def write_bundle(path: Path, family: str, hash: str | None = None) -> None:
    model = grounded(family, TIED)
    model.lm.save_pretrained(path / "lm")
    model.tokenizer.hf.save_pretrained(path / "lm")
    save_bundle(
        path,
        model.mappers,
        name=family,
        lm=FrozenModel(id="./lm", hash=hash or fingerprint(model.lm)),
        vision=FrozenModel(id="none", hash="0" * 64),
    )


@dataclass(frozen=True)
class Pair:
    leader: Results
    follower: Results
    status: list[int]


def run_pair(folder: Path, *device: str, **env: str) -> Pair:
    for family in FAMILIES:
        write_bundle(folder / family, family)
    write_bundle(folder / "wrong", "llama", hash="f" * 64)
    command = [sys.executable, "-m", "tests.server.engine.together", str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), *device], env={**os.environ, "OMP_NUM_THREADS": "1", **env}
        )
        for rank in range(WORLD)
    ]
    try:
        status = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    leader, follower = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("results", "follower")
    )
    return Pair(leader, follower, status)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two processes on the CPU, over gloo; the kernel for GPUs is interpreted there: a minute."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_pair(folder, CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Results]:
    return {
        (family, scenario): run_engine(grounded(family, TIED), scenario, requests(family))
        for family, scenario in CASES
    }


def check(found: Results, whole: Results, family: str) -> None:
    expected = expected_of(family, TIED)
    assert found["ids"][: len(expected)] == expected  # transformers' own loop
    assert found["ids"] == whole["ids"]
    assert any(queries for queries in whole["queries"])
    for ours, theirs in zip(found["queries"], whole["queries"], strict=True):
        assert ours == [pytest.approx(query, abs=1e-4) for query in theirs]
    assert found["logprobs"] == pytest.approx(whole["logprobs"], abs=1e-3)
    for ours, theirs in zip(found["score queries"], whole["score queries"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scenario"), CASES)
def test_two_ranks_say_what_one_says(
    pair: Pair, alone: dict[tuple[str, str], Results], family: str, scenario: str
) -> None:
    check(pair.leader[family][scenario], alone[family, scenario], family)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < WORLD, reason="needs two GPUs")
def test_two_gpus(alone: dict[tuple[str, str], Results], tmp_path: Path) -> None:
    """Over NCCL, with the kernels of GPUs."""
    pair = run_pair(tmp_path, "cuda")
    assert pair.status == [0, 0]
    for family, scenario in CASES:
        check(pair.leader[family][scenario], alone[family, scenario], family)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_rank_holds_its_own_part(
    pair: Pair, alone: dict[tuple[str, str], Results], family: str
) -> None:
    whole = alone[family, "few blocks"]["position bytes"]
    assert pair.leader[family]["few blocks"]["position bytes"] * WORLD == whole
    assert pair.leader[family]["few blocks"]["preempted"] > 0
    lm = grounded(family, TIED).lm
    division = Division.of(lm, WORLD)
    assert pair.leader[family]["parameters"] == division.parameters(lm)
    assert division.parameters(lm) < sum(p.numel() for p in lm.parameters())


@pytest.mark.slow
def test_the_wrong_model_is_refused_by_all(pair: Pair) -> None:
    hash = fingerprint(grounded("llama", TIED).lm)
    for told in (pair.leader, pair.follower):
        assert f"has hash {hash}, the bundle expects {'f' * 64}" in told["refused"]


@pytest.mark.slow
def test_without_its_leader_a_follower_ends(pair: Pair) -> None:
    assert pair.follower["lost"] == "the leading process is gone"


@pytest.mark.slow
def test_without_a_follower_the_engine_ends(pair: Pair) -> None:
    """It was killed in the middle of a reply."""
    assert pair.status == [0, -signal.SIGKILL]
    killed = pair.leader["killed"]
    assert 0 < killed["tokens"] < 100
    assert "the engine has failed: RanksLost" in killed["error"]
    assert killed["later"] == killed["error"]


@pytest.mark.parametrize(
    ("family", "world", "numbers"),
    [
        ("opt", 3, "4 key-value heads, which 3 processes cannot share evenly; .* be 1, 2, 4$"),
        ("llama", 4, "2 key-value heads, which 4 processes cannot share evenly; .* be 1, 2$"),
        ("gpt2", 2, "GPT2LMHeadModel cannot be divided among 2 processes: .* no plan"),
    ],
)
def test_what_cannot_be_divided_is_refused(family: str, world: int, numbers: str) -> None:
    with pytest.raises(ParallelUnavailable, match=numbers):
        Division.of(grounded(family, TIED).lm, world)


def test_a_pass_arrives_as_it_was_sent() -> None:
    spans = (Span(0, 3, 17, (4, 9)), Span(3, 4, 0, (2,)), Span(4, 9, 40, (1, 3, 5)))
    step = Pass(spans, (2, 3, 8), torch.zeros(12, 1))
    assert unpack(pack(step)) == (12, spans, (2, 3, 8))
    assert step.positions == [17, 18, 19, 0, 40, 41, 42, 43, 44, 0, 0, 0]
