"""`fromage bench`, as far as its smallest model goes."""

import pytest

from fromage_server.cli import main


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Targets are for another shape, so none can be missed."""
    assert main(["bench", "--shape", "demo", "--rounds", "1", "--only", "turn"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("demo, float32, ")
    assert "| second turn, 1,000 tokens and 2 images of history: TTFT, against cold |" in told
