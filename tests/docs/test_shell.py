"""Every shell block of README and docs does what it says, or is at least read."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import PAGES, BadMark, blocks_of, shell_blocks
from tests.docs.desk import Desk, demo_server, warm_process
from tests.docs.reading import Misread, read

BLOCKS = [block for page in PAGES for block in shell_blocks(page)]
NOWHERE = ROOT / "docs" / "nowhere.md"
EXECUTED = [page for page in PAGES if any(b.page == page and not b.unmet for b in BLOCKS)]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Started by the README's first command."""
    first = next(block for block in BLOCKS if block.page == ROOT / "README.md")
    with demo_server(tmp_path_factory.mktemp("demo"), first.commands()[0]) as url:
        yield url


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with warm_process() as address:
        yield address


@pytest.fixture
def desk(demo: str, socket: str, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, demo, socket)
    yield desk
    desk.close()


# Followed by `make test-slow`: the demo has to be started, and some commands take half a minute.
@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=_name)
def test_a_page_can_be_followed(page: Path, desk: Desk) -> None:
    for block in shell_blocks(page):
        if not block.unmet:
            for command in block.commands():
                print(f"{block.place}: {command}\n{desk.run(command)}")


def test_what_is_not_executed_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    unmet = [block for block in BLOCKS if block.unmet]
    misread = []
    for block in unmet:
        for command in block.commands():
            try:
                read(command)
            except Misread as error:
                misread.append(f"{block.place}: {command}: {error}")
    with capsys.disabled():
        print(f"\n{len(BLOCKS) - len(unmet)} shell blocks are executed, {len(unmet)} only read:")
        for block in unmet:
            print(f"  {block.place} ({block.unmet})", *block.commands(), sep="\n      ")
    assert misread == []


@pytest.mark.parametrize(
    "wrong",
    [
        "fromage serve --bundel demo",
        "fromage index bild x",
        "make tset",
        "docker compose up sever",
        "docker compose -f compose.yml up",
        "docker compose run --rm server index biuld",
        "torchrun --nproc-per-node two -m fromage_server serve",
        'pip install "fromage-server[quantise]"',
        "pip install ./clients/pyhton",
        "python -m fromage_klient",
        "cp .env.sample .env",
        "rm -rf /",
    ],
)
def test_reading_finds_what_is_wrong(wrong: str) -> None:
    with pytest.raises(Misread):
        read(wrong)


def test_blocks_are_found_and_split() -> None:
    text = """
    one --flag \\
      value   # said of it
    two '{"a":
      1}'

<!-- needs: gpu -->

    three

- an item

    its second paragraph

```json
{"no": "shell"}
```

1.  In a list

    <!-- slow: hours -->

    ```sh
    four
    ```
"""
    blocks = list(blocks_of(NOWHERE, text.splitlines()))
    assert [(block.unmet, block.commands()) for block in blocks] == [
        ("", ["one --flag   value   # said of it", "two '{\"a\":\n  1}'"]),
        ("needs gpu", ["three"]),
        ("slow: hours", ["four"]),
    ]
    assert [block.line for block in blocks] == [2, 9, 23]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- needs: gpu -->\n\nno block",
        "<!-- needs: patience -->\n\n    block",
        "<!-- slow: why -->\n\n```json\n1\n```",
    ],
)
def test_a_mark_that_marks_nothing_is_an_error(text: str) -> None:
    with pytest.raises(BadMark):
        list(blocks_of(NOWHERE, text.splitlines()))


def test_marks_are_few() -> None:
    """Most blocks are executed on pages for beginners."""
    begin = [block for block in BLOCKS if block.page.name in ("quickstart.md", "collections.md")]
    assert Counter(block.unmet for block in begin).keys() == {""}
