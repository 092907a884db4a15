"""The other processes of a server whose language model is divided."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fromage_server.errors import StartupError
from fromage_server.ranks import Place
from fromage_server.settings import Settings

log = logging.getLogger(__name__)
_LEAVING_S: Final = 10
_LAST_WORDS_S: Final = 5  # mostly the leader fails for the same reason, and says it better


class Followers:
    """Started with the leader and ended with it; none where torchrun has started all ranks, which
    then looks after them.

    ``place`` is the leader's. Followers are told to stop by the engine (``engine.ranks``); what
    still runs at the end is killed. One that is lost while the model is loaded ends this process.
    """

    def __init__(self, settings: Settings, place: Place) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._lost: str | None = None
        self._on_loss: Callable[[str], None] = self._give_up
        self._loaded = threading.Event()  # or has failed to
        self._processes: list[subprocess.Popen[str]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.place = place

    def __enter__(self) -> Self:
        if self.place.is_alone or self.place.torchrun:
            return self
        self._folder = tempfile.TemporaryDirectory(prefix="fromage-ranks-")
        self.place = replace(self.place, store=Path(self._folder.name) / "store")
        if sys.platform == "linux":  # all on this machine: nothing listens to the network
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        for rank in range(1, self.place.world):
            self._start(rank)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loaded.set()
        for process in self._processes:
            try:
                process.wait(_LEAVING_S)
            except subprocess.TimeoutExpired:
                log.warning("process %s does not stop: killed", process.pid)
        self._kill()
        if self._folder is not None:
            self._folder.cleanup()

    def abandon(self, kind: object, error: object, trace: object) -> None:
        """As the end of a context: where something failed, nobody waits for them."""
        if kind is not None:
            self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """``on_loss`` is called once, in another thread, when one has ended that was needed."""
        for rank, process in enumerate(self._processes, 1):
            log.info("rank %s is process %s", rank, process.pid)
        self._loaded.set()
        with self._lock:
            self._on_loss = on_loss
            lost = self._lost
        if lost is not None:
            on_loss(lost)

    def check(self) -> None:
        """Raises StartupError where one has ended already."""
        if self._lost is not None:
            raise StartupError(self._lost)

    def _start(self, rank: int) -> None:
        place = {"rank": rank, "world": self.place.world, "local_rank": rank}
        process = subprocess.Popen(
            [sys.executable, "-m", "fromage_server.follower"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what a terminal interrupts is the leader
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:  # who has ended is waited for below
            told = {
                "settings": self._settings.model_dump(mode="json"),
                "place": {**place, "store": str(self.place.store)},
                "parent": os.getpid(),
            }
            json.dump(told, pipe)
        self._processes.append(process)
        threading.Thread(target=self._wait, args=(rank, process), daemon=True).start()

    def _wait(self, rank: int, process: subprocess.Popen[str]) -> None:
        status = process.wait()
        if status == 0:  # it was told to stop
            return
        with self._lock:
            if self._lost is not None:
                return
            self._lost = f"rank {rank}, process {process.pid}, ended with {status}"
            on_loss = self._on_loss
        on_loss(self._lost)
        self._kill()  # no one can go on without the others

    def _give_up(self, reason: str) -> None:
        """The thread that loads may wait, where nothing interrupts it, for what will not come."""
        if not self._loaded.wait(_LAST_WORDS_S):
            print(f"fromage: {reason}", file=sys.stderr, flush=True)
            self._kill()
            os._exit(1)
