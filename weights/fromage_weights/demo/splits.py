"""Which scenes no training step may see: about one in ten, fixed by a hash, not by a list.

A single scene is held out by its (object, count, background); a pair by its two names in
either order, so that a held-out pair is unseen on every background and both ways round.
Half of the held-out scenes are for choosing (validation), half for reporting (test).
"""

import hashlib
from functools import cache
from typing import Literal

from fromage_weights.demo.world import Scene

Split = Literal["train", "validation", "test"]
EVALUATION_SPLITS: tuple[Split, ...] = ("validation", "test")
HELD_OUT_IN = 10
_SALT = "fromage-demo-1"


@cache
def _split_of(key: tuple[str, ...]) -> Split:
    digest = hashlib.sha256("/".join((_SALT, *key)).encode()).digest()
    if int.from_bytes(digest[:8], "big") % HELD_OUT_IN:
        return "train"
    return "validation" if digest[8] < 128 else "test"


def split_of(scene: Scene) -> Split:
    """The split that `scene` belongs to, the same in every process and version."""
    if scene.is_pair:
        return _split_of(("pair", *sorted(scene.objects)))
    return _split_of(("single", scene.objects[0], str(scene.count), scene.background))


def is_held_out(scene: Scene) -> bool:
    """Whether `scene` belongs to the evaluation's combinations (validation or test)."""
    return split_of(scene) != "train"
