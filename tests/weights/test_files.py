"""What is written whole is there whole or not at all."""

from pathlib import Path

import pytest

from fromage_weights.files import whole
from tests.demo.breaking import BrokenOff


def test_results_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file, directory = tmp_path / "file", tmp_path / "directory"

    def write(path: Path, name: str) -> None:
        with whole(path) as unfinished:
            unfinished.mkdir()
            (unfinished / name).write_text("all")
            if name == "broken":
                raise BrokenOff

    with pytest.raises(BrokenOff):
        write(file, "broken")
    with pytest.raises(BrokenOff):
        write(directory, "broken")
    assert not file.exists()
    assert not directory.exists()
    directory.mkdir()
    (directory / "old").write_text("from before")
    with whole(file) as unfinished:
        unfinished.write_text("all")
    write(directory, "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["directory", "file", "new"]
    assert file.read_text() == "all"
