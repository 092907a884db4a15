"""A process that holds a part of the language model and computes along with the leader's."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from fromage_server.errors import StartupError
from fromage_server.ranks import Place, device_of, together
from fromage_server.settings import Settings


def follow(settings: Settings, place: Place, parent: int | None = None) -> int:
    """Until the leader stops: exit status 0, or 1 where that was not how it ended. ``parent``: the
    leader's process, where that has started this one."""
    from fromage_server.engine.errors import RanksLost
    from fromage_weights.errors import WeightsError

    try:
        _follow(settings, place, parent)
    except (RanksLost, StartupError, WeightsError) as error:
        print(f"fromage: rank {place.rank}: {error}", file=sys.stderr)
        return 1
    return 0


def _follow(settings: Settings, place: Place, parent: int | None) -> None:
    from transformers.utils import logging as transformers_logging

    from fromage_server.engine.following import follow as follow_engine
    from fromage_server.engine.ranks import Follower
    from fromage_weights.loading import load_grounded_model

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def check() -> None:
        if parent is not None and os.getppid() != parent:
            raise StartupError("the leading process is gone")

    device = device_of(settings.device, place)
    with together(place, device, check):
        model = load_grounded_model(
            settings.bundle,
            device=str(device),
            dtype=settings.dtype,
            vision=False,
            world=place.world,
        ).model
        # The leader gives running replies time to end, and says when to stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        follow_engine(model, Follower(device, model.dtype, model.mappers.embed_dim))


def main() -> int:
    """What ``followers.Followers`` starts, and tells the rest on stdin."""
    told = json.load(sys.stdin)
    place = Place(**{**told["place"], "store": Path(told["place"]["store"])})
    return follow(Settings.model_validate(told["settings"]), place, told["parent"])


if __name__ == "__main__":
    sys.exit(main())
