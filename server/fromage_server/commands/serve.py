"""`fromage serve`: the HTTP server."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fromage_server.errors import StartupError
from fromage_server.followers import Followers
from fromage_server.ranks import place_of
from fromage_server.settings import CONFIG_KEY, Settings, load_settings
from fromage_server.startup import Startup

# Flags that are given several times, under the name of one of what they collect.
_REPEATED: Final = {
    "collections": ("--collection", "NAME=DIR"),
    "images": ("--images", "NAME=FOLDER"),
}
# Of the time for stopping; in the rest, what still runs is told so.
_RUNNING_ON: Final = 0.8
# A connection without a request is kept for so many seconds: longer than clients and load balancers
# do (5 to 60). Were it closed first, a request that is just being sent on it would be lost.
_IDLE_CONNECTION_S: Final = 75


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve a model and its collections over HTTP",
        description="Every option can also be a FROMAGE_* variable (FROMAGE_PORT) or a key of a "
        "TOML file (port); flags come first, then variables, then the file.",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with any of these settings")
    for name, field in Settings.model_fields.items():
        default = "" if field.is_required() or name in _REPEATED else _default(field)
        if name in _REPEATED:
            flag, metavar = _REPEATED[name]
            parser.add_argument(
                flag, dest=name, metavar=metavar, action="append", help=field.description
            )
        else:
            flag = "--" + name.replace("_", "-")
            # A switch needs no value, and takes one as a variable does.
            bare: dict[str, Any] = (
                {"nargs": "?", "const": "true", "metavar": "true|false"}
                if field.annotation is bool
                else {}
            )
            parser.add_argument(flag, dest=name, help=f"{field.description}{default}", **bare)
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print what would take how much memory, and what would make it fit; load nothing",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop; 1 where the model or a collection cannot be loaded."""
    flags = {name: getattr(args, name) for name in (*Settings.model_fields, CONFIG_KEY)}
    settings = load_settings(flags, os.environ)
    place = place_of(settings, os.environ)
    if args.plan:
        return _plan(settings)
    if place.rank > 0:
        from fromage_server.follower import follow

        return follow(settings, place)
    with Followers(settings, place) as followers:
        return _serve(settings, followers)


def _serve(settings: Settings, followers: Followers) -> int:
    import uvicorn

    from fromage_server.app import create_app

    failed: list[str] = []

    def on_failure(message: str) -> None:
        failed.append(message)
        server.should_exit = True

    app = create_app(settings, on_failure, followers)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=_log_config(),
        timeout_graceful_shutdown=settings.shutdown_s,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        server_header=False,
    )
    server = _draining(config, app, settings.shutdown_s)
    with _listening(settings.host, settings.port) as listener:
        print(f"The chat page: {_page_url(settings)}", file=sys.stderr, flush=True)
        _run(server, listener, app.state.server.startup)
    for message in failed:
        print(f"fromage: {message}", file=sys.stderr)
    return 1 if failed else 0


def _page_url(settings: Settings) -> str:
    """Where this machine's browser finds it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{'localhost' if host.strip('[0.:]') == '' else host}:{settings.port}/"


class _Told(BaseException):
    """To stop, while still loading."""


def _run(server: Any, listener: socket.socket, startup: Startup) -> None:
    """HTTP in a thread, model and engine in this one, the main one: see ``Engine.run``."""

    def on_signal(number: int, frame: Any) -> None:
        server.handle_exit(number, frame)
        if not startup.settled:
            raise _Told

    startup.reserve()
    http = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="fromage-http")
    http.start()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        startup.run()
    except _Told:
        pass
    while http.is_alive():  # in turns, so that signals are heard
        http.join(0.2)


def _plan(settings: Settings) -> int:
    """1 where it would not fit."""
    from fromage_server.planning import make_plan

    plan = make_plan(settings)
    print(plan.text())
    return 0 if plan.fits else 1


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Raises StartupError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise StartupError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        yield listener


def _draining(config: Any, app: Any, seconds: float) -> Any:
    """A server that, told to stop, lets replies run for a while and then ends them with an error
    that says so, before their connections are cut."""
    import uvicorn

    class Draining(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            loop = asyncio.get_running_loop()
            stop = app.state.server.startup.stop
            loop.call_later(_RUNNING_ON * seconds, loop.run_in_executor, None, stop)
            await super().shutdown(sockets)

    return Draining(config)


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value is None else f" (default: {value})"


def _log_config() -> dict[str, Any]:
    """Uvicorn's own, with this package beside it."""
    import copy

    from uvicorn.config import LOGGING_CONFIG

    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["fromage_server"] = {
        "handlers": ["default"],
        "level": "INFO",
        "propagate": False,
    }
    return config
