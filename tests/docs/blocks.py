"""The shell blocks of a page: indented code, and fences that say `sh`.

A comment above a block, which no rendered page shows, says why it isn't executed by the tests:

    <!-- needs: gpu -->      or hub, docker, packages (that pip would download),
                             data (files published elsewhere)
    <!-- slow: trains for hours -->
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = (
    ROOT / "README.md",
    ROOT / "clients/python/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
NEEDS = ("gpu", "hub", "docker", "packages", "data")
_MARK = re.compile(r"^\s*<!-- (needs|slow): (.+?) -->$")
_FENCE = re.compile(r"^(\s*)```(\w*)")
_ITEM = re.compile(r"^\s*([-*]|\d+\.) ")


class BadMark(Exception):
    pass


@dataclass(frozen=True)
class Block:
    """`unmet`: why it isn't executed; empty where it is."""

    page: Path
    line: int
    text: str
    unmet: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """One for each that a shell would take, comments and continued lines put aside."""
        found: list[str] = []
        pending = ""
        for line in self.text.splitlines():
            if line.endswith("\\"):
                pending += line[:-1]
                continue
            pending += line + "\n"
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quotation that goes on
                continue
            if words:
                found.append(pending.strip())
            pending = ""
        assert not pending, f"{self.place}: unfinished: {pending!r}"
        return found


def shell_blocks(page: Path) -> list[Block]:
    return list(blocks_of(page, page.read_text(encoding="utf-8").splitlines()))


def blocks_of(page: Path, lines: list[str]) -> Iterator[Block]:
    unmet = ""
    number = 0
    while number < len(lines):
        line = lines[number]
        start = number
        if fence := _FENCE.match(line):
            indent, language = fence.groups()
            number = lines.index(indent + "```", start + 1) + 1
            code = [text.removeprefix(indent) for text in lines[start + 1 : number - 1]]
            shell = language in ("sh", "bash", "shell")
        elif line.startswith("    ") and not _in_list(lines, number):
            while number < len(lines) and (not lines[number] or lines[number].startswith("    ")):
                number += 1
            code = [text[4:] for text in lines[start:number]]
            shell = True
        else:
            number += 1
            if mark := _MARK.match(line):
                unmet = _read_mark(mark, f"{page.name}:{number}")
            elif line and unmet:
                raise BadMark(f"{page.name}:{number}: a mark stands above no block")
            continue
        if shell:
            yield Block(page, start + 1, "\n".join(code), unmet)
        elif unmet:
            raise BadMark(f"{page.name}:{start}: a mark stands above no shell block")
        unmet = ""


def _in_list(lines: list[str], number: int) -> bool:
    """Whether an indented line goes on with an item above it rather than being code."""
    if lines[number - 1]:
        return True
    above = (line for line in reversed(lines[:number]) if line and not line.startswith("  "))
    return _ITEM.match(next(above, "")) is not None


def _read_mark(mark: re.Match[str], place: str) -> str:
    kind, what = mark.groups()
    if kind == "slow":
        return f"slow: {what}"
    if what not in NEEDS:
        raise BadMark(f"{place}: needs {what!r}, which is none of {', '.join(NEEDS)}")
    return f"needs {what}"
