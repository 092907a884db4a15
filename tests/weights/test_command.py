"""``fromage weights`` as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fromage_server.cli import main
from tests.weights.recording import Recording


def test_import_and_show(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub, out = str(recording.path / "hub"), str(tmp_path / "bundle")
    source = str(recording.path / "model_dir")
    assert main(["weights", "import", source, out, "--lm", hub, "--vision", hub]) == 0
    imported = capsys.readouterr().out
    assert f"bundle written to {out}" in imported
    assert main(["weights", "show", out]) == 0
    shown = capsys.readouterr().out
    assert shown in imported
    config = recording.loaded.bundle.config
    for expected in (config.lm.id, config.vision.id, "opt-4.33", "squash", "tied head"):
        assert expected in shown


def test_a_wrong_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "import", str(tmp_path), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"fromage: {tmp_path / 'model_args.json'}: the file is missing\n"
    assert captured.out == ""


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from fromage_server.cli import main\n"
        "try: main(['weights', 'import', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--vision" in run.stdout
    assert run.stdout.splitlines()[-1] == "False"
