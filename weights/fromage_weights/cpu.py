"""What a CPU says it can do and cannot.

Some virtual machines announce AMX but hide its tile sizes (CPUID leaf 0x1D reads zero). There
oneDNN fails in bfloat16 ("could not create a primitive"), and MKL ends the process with an illegal
instruction. Told to keep to AVX-512, they compute in bfloat16 without it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

_log = logging.getLogger(__name__)
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AMX = "AVX512_CORE_FP16"
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
