"""How many threads compute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fromage_server.threads import heed_quota

PROCESSORS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("told", "threads"),
    [
        ("max 100000", None),
        ("100000 100000", 1),
        ("20000 100000", 1),
        ("110000 100000", min(2, PROCESSORS)),
        ("6400000 100000", min(64, PROCESSORS)),
        ("nonsense", None),
        (None, None),
    ],
)
def test_a_containers_quota(told: str | None, threads: int | None, tmp_path: Path) -> None:
    if told is not None:
        (tmp_path / "cpu.max").write_text(told + "\n")
    environ: dict[str, str] = {}
    heed_quota(environ, tmp_path)
    assert environ.get("OMP_NUM_THREADS") == (None if threads is None else str(threads))


def test_what_the_user_said_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    environ = {"OMP_NUM_THREADS": "7"}
    heed_quota(environ, tmp_path)
    assert environ == {"OMP_NUM_THREADS": "7"}


def test_torch_is_not_there_before_the_quota_is_heeded() -> None:
    """It counts processors when it is imported."""
    seen = (
        "import sys; from fromage_server import cli; cli.build_parser(); "
        "print([name for name in ('torch', 'numpy', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
