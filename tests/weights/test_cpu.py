import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from fromage_weights import cpu
from fromage_weights.demo.hardware import Hardware

BFLOAT16 = """
from fromage_weights.cpu import avoid_hidden_amx
avoid_hidden_amx()
import torch
a = torch.full((64, 64), 0.5, dtype=torch.bfloat16)
with torch.autocast("cpu", torch.bfloat16):
    b = torch.ones(8, 125) @ torch.ones(125, 32)
assert (a @ a)[0, 0] == 16 and b[0, 0] == 125
"""


def test_bfloat16_works_on_this_machine() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    subprocess.run([sys.executable, "-c", BFLOAT16], check=True, env=environment)


@pytest.mark.parametrize(
    ("announced", "works", "before", "after"),
    [
        (True, False, None, "AVX512_CORE_FP16"),
        (True, True, None, None),
        (False, False, None, None),
        (True, False, "AVX2", "AVX2"),
    ],
)
def test_amx_is_avoided_only_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
    announced: bool,
    works: bool,
    before: str | None,
    after: str | None,
) -> None:
    monkeypatch.setattr(cpu, "_announces_amx", lambda: announced)
    monkeypatch.setattr(cpu, "_amx_works", lambda: works)
    # Set first, so that what the code sets is taken back, too.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before or "")
    if before is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    cpu.avoid_hidden_amx()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == after


def test_a_trial_that_dies_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu._amx_works.cache_clear()
    monkeypatch.setattr(cpu, "_TRIAL", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert not cpu._amx_works()
    cpu._amx_works.cache_clear()


@pytest.fixture
def asked_again() -> Iterator[None]:
    cpu.training_dtype.cache_clear()
    yield
    cpu.training_dtype.cache_clear()


@pytest.mark.parametrize(
    ("machine", "instructions", "library", "expected"),
    [
        ("x86_64", True, True, torch.bfloat16),
        ("x86_64", False, True, torch.float32),  # it would widen every number first
        ("AMD64", False, False, torch.float32),
        ("aarch64", False, True, torch.bfloat16),
        ("aarch64", False, False, torch.float32),
    ],
)
def test_a_training_multiplies_in_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch,
    asked_again: None,
    machine: str,
    instructions: bool,
    library: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    told = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, told, lambda: library, raising=False)
    assert cpu.training_dtype() == expected
    a = torch.ones(2, 2)
    with Hardware.cpu().autocast():
        assert (a @ a).dtype == expected


FAULTS = """
import resource, threading
import numpy as np
from fromage_weights.cpu import keep_freed_blocks, keep_freed_memory
{first}

def steps():
    for _ in range(8):
        {step}

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def elsewhere():
    thread = threading.Thread(target=steps)  # as the backward pass
    thread.start()
    thread.join()

def both():
    steps()
    elsewhere()

both()  # until there are blocks that fit
print(faults(both))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_was_freed_is_used_again() -> None:
    step = "np.full(2**23 + 2**21, 1.0, np.float32)"  # 40 MiB, above any threshold of glibc's own
    assert _pages(step, "assert keep_freed_memory()") < _pages(step, "") / 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_server_keeps_blocks_and_gives_large_ones_back() -> None:
    """Several blocks at a time, as a prompt's layers have: what lies on top goes back else."""
    step = "[np.full(2**21, 1.0, np.float32) for _ in range(8)]"
    assert _pages(step, "assert keep_freed_blocks()") < _pages(step, "") / 2
    large = "np.full(2**23 + 2**21, 1.0, np.float32)"
    # Where the heap's end has room for one, it is kept there: in one of two threads.
    assert _pages(large, "assert keep_freed_blocks()") > _pages(large, "") / 4


def _pages(step: str, first: str) -> int:
    run = [sys.executable, "-c", FAULTS.replace("{step}", step).replace("{first}", first)]
    # numpy's large arrays would ask for huge pages, of which there are few to count.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)
