"""How many threads compute."""

from __future__ import annotations

import os
import threading
from collections.abc import MutableMapping
from pathlib import Path

_THREADS = "OMP_NUM_THREADS"
_one_at_a_time = threading.Lock()


def heed_quota(environ: MutableMapping[str, str], group: Path = Path("/sys/fs/cgroup")) -> None:
    """As many threads as a container may keep busy (cgroup v2), where the user has not said how
    many. Libraries count a machine's processors; threads beyond the quota use up each other's time
    while they wait, and all of them are then halted in the middle of a step.

    Works before the first library that computes is imported."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return
    if quota != "max":
        allowed = max(1, -(-int(quota) // int(period)))
        environ.setdefault(_THREADS, str(min(allowed, len(os.sched_getaffinity(0)))))


def compute_alone() -> None:
    """torch uses one core in this thread. OpenMP keeps helpers for every thread that computes on
    several, and where there are more of them than cores they sleep between operations instead of
    waiting for the next one: the engine's steps then take up to twice as long."""
    import torch

    with _one_at_a_time:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        # Threads to come begin with what was set last; so the last word is a thread's that ends.
        restoring = threading.Thread(target=torch.set_num_threads, args=(usual,))
        restoring.start()
        restoring.join()
