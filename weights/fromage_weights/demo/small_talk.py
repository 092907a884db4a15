"""The fixed part of the demo's small talk."""

import json
from functools import cache
from importlib.resources import files


@cache
def small_talk() -> dict[str, dict[str, list[str]]]:
    """Intent -> training prompts, evaluation prompts, answers."""
    text = files(__package__).joinpath("small_talk.json").read_text("utf-8")
    intents: dict[str, dict[str, list[str]]] = json.loads(text)
    return intents
