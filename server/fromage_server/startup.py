"""Loading in the background, while the server already answers /healthz."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fromage_index.errors import IndexFailure
from fromage_server.errors import ApiError, ServiceError
from fromage_weights.errors import WeightsError

if TYPE_CHECKING:
    from fromage_server.service import Service

log = logging.getLogger(__name__)


class Report(Protocol):
    """Says what is being done, for /readyz; and in the log, unless ``quiet``."""

    def __call__(self, phase: str, *, quiet: bool = False) -> None: ...


@dataclass(frozen=True)
class Loaded:
    """``run`` steps the engine in the calling thread until ``stop``."""

    service: Service
    run: Callable[[], None]
    stop: Callable[[], None]


class Startup:
    """Runs ``load`` once, and then the engine, in a thread of its own or in the caller's.
    ``load`` gets a function that says what it is doing; ``on_failure`` is called in that thread
    with one line for the user."""

    def __init__(self, load: Callable[[Report], Loaded], on_failure: Callable[[str], None]) -> None:
        self._load = load
        self._on_failure = on_failure
        self._phase = "starting"
        self._loaded: Loaded | None = None
        self._stopped = False
        self._settled = threading.Event()
        self._here = False
        # A daemon: what it loads or builds need not be finished for the process to end.
        self._thread = threading.Thread(target=self._run, name="fromage-startup", daemon=True)

    @property
    def settled(self) -> bool:
        """Whether everything is loaded, or has failed to."""
        return self._settled.is_set()

    def start(self) -> None:
        if not self._here:
            self._thread.start()

    def reserve(self) -> None:
        """``start`` does nothing: ``run`` will be called."""
        self._here = True

    def run(self) -> None:
        """Load, and then step the engine until ``stop``, in the calling thread."""
        self._run()

    def join(self) -> None:
        """Waits until everything is loaded, or has failed to."""
        self._settled.wait()

    def stop(self) -> None:
        self._stopped = True
        if self._loaded is not None:
            self._loaded.stop()

    def service(self) -> Service:
        """Raises ApiError until everything is loaded, and when the engine has died."""
        if self._loaded is None:
            raise ApiError("not_ready", f"not ready yet: {self._phase}", retry_after=2)
        if not self._loaded.service.alive:
            raise ApiError("engine_dead", "the engine has stopped; the server must be restarted")
        return self._loaded.service

    @property
    def engine_died(self) -> bool:
        loaded = self._loaded
        return loaded is not None and not loaded.service.alive

    def _report(self, phase: str, *, quiet: bool = False) -> None:
        self._phase = phase
        if not quiet:
            log.info("%s", phase)

    def _run(self) -> None:
        try:
            loaded = self._load(self._report)
        except (ServiceError, WeightsError, IndexFailure) as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("loading failed")
            self._fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            self._loaded = loaded
            self._report("ready")
            self._settled.set()
            if self._stopped:
                loaded.stop()
            else:
                loaded.run()

    def _fail(self, message: str) -> None:
        self._phase = f"failed: {message}"
        self._settled.set()
        self._on_failure(message)
