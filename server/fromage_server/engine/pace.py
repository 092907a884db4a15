"""How many prompt tokens a step may take along without stalling the streams."""

_MEMORY = 0.2  # weight of the newest measurement
_PAUSE = 0.3  # seconds; once, it looks as if a reply thought of its next word
_LEAST = 16
_TELLING = 64  # tokens; of fewer, without streams, most is what every step costs


class Pace:
    """A step that also prefills may last ``stall`` times as long as one that only decodes, as far
    as the steps before it tell. It takes ``most`` tokens where there are no streams or nothing has
    been measured yet, and where
    several prompts wait for their first token, more than half as many as there are streams:
    sparing those would cost the others more. Else, where a short pause or two are enough for a
    prompt, or others wait behind it, it is cut into pauses: its first token comes sooner, and a gap
    in the streams is no longer than one."""

    def __init__(self, most: int, stall: float = 3.0) -> None:
        self.most, self._stall = most, stall
        self._decode: float | None = None  # seconds of a step that only decodes
        self._token: float | None = None  # seconds per prompt token on top of that

    @property
    def pause_tokens(self) -> int:
        """So many can be computed in one pause."""
        return min(self.most, int(_PAUSE / self._token)) if self._token else 0

    def prefill_tokens(self, decoding: int, prompts: int = 1, hurried: int = 0) -> int:
        """Of a step with so many streams, while so many prompts are to be computed. So many
        tokens are ``hurried``, no more than ``pause_tokens``."""
        if not decoding or self._decode is None or self._token is None:
            return self.most
        if prompts > max(1, decoding / 2):
            return self.most
        room = (self._stall - 1) * self._decode / self._token
        return min(self.most, max(_LEAST, int(room), hurried))

    def measured(self, seconds: float, decoding: int, prefilled: int) -> None:
        """A step took so long."""
        if not prefilled:
            self._decode = _blend(self._decode, seconds)
        elif decoding and self._decode is not None:
            self._token = _blend(self._token, max(seconds - self._decode, 1e-6) / prefilled)
        elif not decoding and (prefilled >= _TELLING or self._token is None):
            # It may have been shorter than any that only decodes.
            extra = max(seconds - (self._decode or 0.0), seconds / 2)
            self._token = _blend(self._token, extra / prefilled)


def _blend(before: float | None, now: float) -> float:
    return now if before is None else (1 - _MEMORY) * before + _MEMORY * now
