"""The things the demo's world is made of: one plain, single-word name per OpenMoji glyph."""

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class ObjectClass:
    """One kind of thing. `codepoint` is the OpenMoji file stem, for instance ``1F415``."""

    name: str
    plural: str
    codepoint: str
    group: str


def _read_classes() -> tuple[ObjectClass, ...]:
    text = files(__package__).joinpath("classes.csv").read_text("utf-8")
    return tuple(ObjectClass(**row) for row in csv.DictReader(text.splitlines()))


CLASSES = _read_classes()
CLASS_BY_NAME = {thing.name: thing for thing in CLASSES}
CLASS_INDEX = {thing.name: i for i, thing in enumerate(CLASSES)}
