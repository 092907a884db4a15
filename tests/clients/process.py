"""The terminal chat as its own process: on pipes, or on a terminal of its own."""

import os
import re
import select
import subprocess
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

COMMAND = [sys.executable, "-m", "fromage_client"]
_TERMINAL = ("TERM", "TMUX", "COLORTERM", "KITTY_", "LC_", "LANG")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with no word about the terminal that runs the tests."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_TERMINAL)}
    return {**inherited, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **changes}


def piped(
    url: str, lines: bytes | str, *flags: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs the chat on `lines` to its end."""
    data = lines.encode() if isinstance(lines, str) else lines
    done = subprocess.run(
        [*COMMAND, "--url", url, *flags],
        input=data,
        capture_output=True,
        env=environment(**env),
        timeout=30,
        check=False,
    )
    texts = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


@contextmanager
def open_pipes(url: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A running chat, its input and its output."""
    with subprocess.Popen(
        [*COMMAND, "--url", url],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process, process.stdin, process.stdout


class Terminal:
    """A running chat and the terminal it believes to be on."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.shown = ""
        self._master = master
        self._decode = getincrementaldecoder("utf-8")().decode

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt(self, pattern: str) -> str:
        """Ctrl-C, again where it was lost: Python's input() misses one that comes just before it
        goes to sleep."""
        for _ in range(9):
            self.type("\x03")
            try:
                return self.expect(pattern, 1)
            except AssertionError:
                continue
        return self.expect(pattern, 1)

    def expect(self, pattern: str, timeout: float = 20) -> str:
        """Reads until the output since the last match holds `pattern`; the text up to there."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.shown, re.DOTALL)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                raise AssertionError(f"{pattern!r} is not in {self.shown!r}")
            self.shown += self._decode(os.read(self._master, 65536))
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text


@contextmanager
def terminal(url: str, *flags: str, **env: str) -> Iterator[Terminal]:
    """The chat in a session of its own, whose controlling terminal is the one it opens first."""
    master, slave = os.openpty()
    attach = f'exec "$0" "$@" <>{os.ttyname(slave)} >&0 2>&0'
    command = ["sh", "-c", attach, *COMMAND, "--url", url, *flags]
    with subprocess.Popen(command, env=environment(**env), start_new_session=True) as process:
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(slave)
            os.close(master)
