"""What must be said where the demo's model meets pictures of another world."""

from typing import Final

DEMO: Final = "demo"
_WARNING: Final = (
    "the demo model knows only its own small world of drawn scenes, so what it shows of your own "
    "pictures is arbitrary. For photographs get the published model, `fromage weights import "
    "jykoh/fromage fromage-bundle`, and use it as --bundle fromage-bundle"
)


def warning_for(bundle: str) -> str | None:
    """For who indexes pictures with this bundle; None where nothing is wrong with that."""
    return _WARNING if bundle == DEMO else None
