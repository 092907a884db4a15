"""A process killed in the middle of a change: what it acknowledged is there, and nothing is torn.

The process kills itself with SIGKILL at its n-th step towards the disk, for every n. One process
forks one after another, so that the libraries are loaded once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fromage_index.collection import Collection
from fromage_index.compact import compact, everything
from fromage_index.editor import Addition, Amendment, Done, Removal, create_collection, edit
from fromage_index.store import verify
from tests.index.pictures import PROVENANCE, encode, plain, unit_rows

DIM = 4
POINTS = 32
SCRIPT = "import sys; from tests.index.test_kill_edits import main; main(sys.argv[1])"


def test_killed_at_every_step_towards_the_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "mine")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    # Compactions among them; and of every kind of step some.
    assert report["killed"] >= POINTS - 5
    assert {"fsync", "rename", "replace", "unlink"} <= set(report["steps"])
    assert report["acknowledged"] > POINTS
    assert report["left"] == []


def main(directory: str) -> None:
    """Kills child after child, checking in between; prints what it saw."""
    out = Path(directory)
    create_collection(out, dim=DIM, provenance=PROVENANCE, source="a test")
    state: dict[str, int] = {}  # key -> the last acknowledged step that concerned it, -1: removed
    steps: set[str] = set()
    killed = acknowledged = 0
    for point in range(POINTS):
        lines = _in_child(lambda say, n=point: _change(out, n, say))  # type: ignore[misc]
        attempted: tuple[str, int] | None = None
        for what, key, step in lines:
            if what == "try":
                attempted = (key, step)
            elif what == "ack":
                state[key], attempted = step, None
                acknowledged += 1
            else:
                killed += 1
                steps.add(key)
        _check(out, state, attempted)
    compact(Collection.open(out), everything(Collection.open(out).store) or slice(0, 0))
    known = {entry.name for entry in verify(out).files()} | {"manifest.json", ".lock"}
    left = sorted(file.name for file in out.iterdir() if file.name not in known)
    print(
        json.dumps(
            {
                "killed": killed,
                "acknowledged": acknowledged,
                "steps": sorted(steps),
                "left": left,
            }
        )
    )


def _in_child(work: Callable[[Callable[..., None]], None]) -> list[list[Any]]:
    """What the child said before it ended, however it did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)

        def say(*words: Any) -> None:
            os.write(writing, json.dumps(words).encode() + b"\n")

        work(say)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = [json.loads(line) for line in said]
    assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
    return lines


def _change(out: Path, point: int, say: Callable[..., None]) -> None:
    """Some changes and a compaction, until the `point`-th step towards the disk."""
    chance = random.Random(point)
    _die_at(point, say)
    collection = Collection.open(out)
    for step in (2 * point, 2 * point + 1):
        say("try", f"{step}", step)
        file = encode(plain((step, 9, 7)))
        vector = unit_rows(1, DIM, step)[0]
        added = Addition(file, vector, (24, 16), f"{step}", {"step": step})
        collection, (outcome,) = edit(collection, [added])
        assert isinstance(outcome, Done)
        say("ack", f"{step}", step)
    id = chance.choice(collection.ids)
    key, step = collection.image(id).key, chance.choice([-1, point])
    say("try", key, step)
    collection, _ = edit(collection, [Removal(id) if step < 0 else Amendment(id, {"step": step})])
    say("ack", key, step)
    run = everything(collection.store)
    if run is not None:
        compact(collection, run)


def _die_at(point: int, say: Callable[..., None]) -> None:
    """From now on, the `point`-th of the calls that change the disk is the last."""
    left = point

    def armed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                say("die", name, point)
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*args, **kwargs)

        return step

    for name in ("fsync", "rename", "replace", "unlink", "mkdir"):
        setattr(os, name, armed(name, getattr(os, name)))


def _check(out: Path, state: dict[str, int], attempted: tuple[str, int] | None) -> None:
    """All that was acknowledged, and of what was not, all or nothing."""
    verify(out)
    collection = Collection.open(out)
    found = {}
    for id in collection.ids:
        record = collection.image(id)
        found[record.key] = record.metadata["step"]
        assert collection.readable(id)
    expected = {key: step for key, step in state.items() if step >= 0}
    if attempted is not None and found != expected:
        key, step = attempted
        state[key] = step  # it was made, and not acknowledged any more
        expected = {key: step for key, step in state.items() if step >= 0}
    assert found == expected
    hits = collection.search(unit_rows(1, DIM), 1000)[0]
    assert {collection.image(hit.id).key for hit in hits} == set(expected)
