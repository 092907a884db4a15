"""How large the KV storage may be."""

import os
from pathlib import Path

import torch

from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.errors import InvalidRequest
from fromage_server.engine.kv_cache import KVShape

_PLENTY = 1 << 62
# Of the memory that is free once the model is loaded.
STORAGE_SHARE = {"cpu": 0.3, "cuda": 0.9}
# What a second layout of the weights may take (`packing`).
SPARE_SHARE = 0.25


def storage_blocks(
    shape: KVShape, device_type: str, free: int, streams: int, context: int, limit: int | None
) -> int:
    """Blocks for ``streams`` whole contexts, within ``limit`` bytes (None: within a share of the
    ``free`` ones). InvalidRequest where not even one block fits."""
    block = BLOCK_SIZE * shape.position_bytes
    room = limit if limit is not None else int(STORAGE_SHARE[device_type] * free)
    if room < block:
        raise InvalidRequest("kv_cache_bytes", room, f"{block} (one block of {BLOCK_SIZE} tokens)")
    if limit is not None:  # used up: what no stream needs keeps earlier prompts
        return room // block
    return min(streams * -(-context // BLOCK_SIZE), room // block)


def spare_bytes(device: torch.device) -> int:
    """What is not missed where it makes the model faster."""
    return int(SPARE_SHARE * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(Path("/proc/meminfo")), _left_to_container(Path("/sys/fs/cgroup")))


def _available(meminfo: Path) -> int:
    """What can be had without swapping; files that are merely cached give way."""
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []  # elsewhere than on Linux
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_to_container(group: Path) -> int:
    """What its limit leaves (cgroup v2), cached files not counted; plenty where there is none."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return _PLENTY
    if limit == "max":
        return _PLENTY
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
