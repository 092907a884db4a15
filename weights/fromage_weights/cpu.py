"""What a CPU says it can do and cannot.

Some virtual machines announce AMX but hide its tile sizes (CPUID leaf 0x1D reads zero). There
oneDNN fails in bfloat16 ("could not create a primitive"), and MKL ends the process with an illegal
instruction. Told to keep to AVX-512, they compute in bfloat16 without it.

glibc hands every large block back to the system when it is freed, and the kernel clears each page
when it is next asked for: a training step, whose tensors have the same sizes every time, spends up
to a quarter of its time on that, and so does reading a prompt.

Processors without instructions for bfloat16 take many times as long over a product in it as in
float32.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AMX = "AVX512_CORE_FP16"
# mallopt's parameters, of glibc's malloc.h, and what they are set to.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_TRAINING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**28}
# A server's other large blocks (collections) come and go: from 32 MiB on, the most that glibc takes
# here, each is a mapping of its own and goes back.
_SERVING = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**30, _TOP_PAD: 2**26}
_TRIAL = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); a @ a"


def avoid_hidden_amx() -> None:
    """Keep torch from AMX where a trial of it fails, in this process and those it starts.

    Works only before the process's first matrix product: the limit is read once. The trial runs in
    a process of its own, for it may end it, and only where AMX is announced. A limit that the
    user has set is left as it is.
    """
    if _LIMIT not in os.environ and _announces_amx() and not _amx_works():
        _log.warning("this machine announces AMX but cannot use it: going without")
        os.environ[_LIMIT] = _WITHOUT_AMX


@cache
def training_dtype() -> torch.dtype:
    """What a training's matrix products are done in on this CPU: bfloat16 where it has instructions
    for them, else float32. A limit of oneDNN's that the user has set is not looked at."""
    import torch

    if platform.machine().lower() in ("x86_64", "amd64"):
        # torch's library also takes bfloat16 where it has to widen every number first.
        fast = torch.cpu._is_avx512_bf16_supported()
    else:
        there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        fast = there and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed for the next step of a training. False where it is not
    glibc's, which others do not need."""
    return _mallopt(_TRAINING)


def keep_freed_blocks() -> bool:
    """The same for a server's steps: blocks below 32 MiB, and a GiB of them unused at most."""
    return _mallopt(_SERVING)


def _mallopt(settings: Mapping[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    taken = [bool(mallopt(option, value)) for option, value in settings.items()]
    return all(taken)


@cache
def _announces_amx() -> bool:
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text("ascii")
    except OSError:  # not Linux
        return False


@cache
def _amx_works() -> bool:
    command = [sys.executable, "-c", _TRIAL]
    trial = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own
    return trial.returncode == 0
