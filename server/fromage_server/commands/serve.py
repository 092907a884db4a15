"""`fromage serve`: the HTTP server."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Final

from fromage_server.settings import CONFIG_KEY, Settings, load_settings

# Flags that are given several times, under the name of one of what they collect.
_REPEATED: Final = {
    "collections": ("--collection", "NAME=DIR"),
    "images": ("--images", "NAME=FOLDER"),
}
_SHUTDOWN_S: Final = 30


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
            parser.add_argument(flag, dest=name, help=f"{field.description}{default}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop; 1 where the model or a collection cannot be loaded."""
    flags = {name: getattr(args, name) for name in (*Settings.model_fields, CONFIG_KEY)}
    settings = load_settings(flags, os.environ)
    import uvicorn

    from fromage_server.app import create_app

    failed: list[str] = []

    def on_failure(message: str) -> None:
        failed.append(message)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, on_failure),
        host=settings.host,
        port=settings.port,
        log_config=_log_config(),
        timeout_graceful_shutdown=_SHUTDOWN_S,
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.run()
    for message in failed:
        print(f"fromage: {message}", file=sys.stderr)
    return 1 if failed else 0


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
