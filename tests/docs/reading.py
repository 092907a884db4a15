"""What a command of a page is made of, for those that are not executed."""

import argparse
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from fromage_server import cli
from tests.conftest import ROOT

_COMPOSE_WITH_VALUE = ("-f", "--file")


class Misread(Exception):
    """A command that isn't one: its text says what is wrong."""


def read(command: str) -> None:
    """Raises Misread for what the program would refuse, as far as that can be told unexecuted."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = Path(words[0]).name
    if program not in _READERS:
        raise Misread(f"{program!r} is a program that the tests of the pages can't read")
    _READERS[program](words[1:])


def read_fromage(arguments: list[str]) -> None:
    try:
        cli.build_parser().parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        raise Misread(f"fromage {shlex.join(arguments)}: exit {error}") from None


def _read_make(arguments: list[str]) -> None:
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Misread(done.stderr)


def _read_docker(arguments: list[str]) -> None:
    """`docker compose [-f FILE]... up|build|run|exec|ps ...`: files, service and `fromage` line."""
    if arguments[:1] != ["compose"]:
        raise Misread(f"docker {arguments[:1]}")
    rest, files = arguments[1:], []
    while rest and rest[0] in _COMPOSE_WITH_VALUE:
        files.append(rest[1])
        rest = rest[2:]
    services = set().union(*(compose(ROOT / name) for name in files or ["docker-compose.yml"]))
    verb, *rest = rest
    rest = [word for word in rest if word not in ("--rm", "-d", "--wait")]
    match verb, rest:
        case (("up" | "build" | "ps" | "down"), []):
            return
        case "run", [service, *line] if service in services:
            read_fromage(line)
        case "exec", [service, "fromage", *line] if service in services:
            read_fromage(line)
        case _:
            raise Misread(f"docker compose {verb} {shlex.join(rest)}")


class _ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with compose's own tags, `!reset` and `!override`."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return None


_ComposeLoader.add_multi_constructor("!", _plain)


def compose(file: Path) -> set[str]:
    """The services of a compose file."""
    if not file.is_file():
        raise Misread(f"there is no {file.name}")
    loaded = yaml.load(file.read_text(encoding="utf-8"), _ComposeLoader)
    return set(loaded["services"])


def _read_torchrun(arguments: list[str]) -> None:
    match arguments:
        case ["--nproc-per-node", number, "--no-python", "fromage", *line] if number.isdigit():
            read_fromage(line)
        case ["--nproc-per-node", number, "-m", "fromage_server", *line] if number.isdigit():
            read_fromage(line)
        case _:
            raise Misread(f"torchrun {shlex.join(arguments)}")


def _read_pip(arguments: list[str]) -> None:
    """`pip install` of this project, with extras that it has, or of packages."""
    verb, *names = [word for word in arguments if word not in ("-q", "-e")]
    if verb != "install" or not names:
        raise Misread(f"pip {shlex.join(arguments)}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in names:
        own = re.fullmatch(r"(?:fromage-server|\.)\[([\w,-]+)\]", name)
        if own and (unknown := set(own[1].split(",")) - set(project["optional-dependencies"])):
            raise Misread(f"there is no extra {', '.join(sorted(unknown))}")
        if name.startswith("./") and not (ROOT / name / "pyproject.toml").is_file():
            raise Misread(f"{name} is no project")


def _read_python(arguments: list[str]) -> None:
    if arguments[:1] != ["-m"] or importlib.util.find_spec(arguments[1]) is None:
        raise Misread(f"python {shlex.join(arguments)}")


def _read_cp(arguments: list[str]) -> None:
    if not (ROOT / arguments[0]).is_file():
        raise Misread(f"there is no {arguments[0]}")


def _read_llm(arguments: list[str]) -> None:
    """`llm` is run by the tests of OpenAI's clients, in an environment of its own."""
    if arguments[:2] != ["-m", "fromage"]:
        raise Misread(f"llm {shlex.join(arguments)}")


_READERS: dict[str, Callable[[list[str]], None]] = {
    "cp": _read_cp,
    "docker": _read_docker,
    "fromage": read_fromage,
    "llm": _read_llm,
    "make": _read_make,
    "pip": _read_pip,
    "python": _read_python,
    "torchrun": _read_torchrun,
}
