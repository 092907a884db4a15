"""Which recorded passes with prompts were made, where a test imports this."""

from fromage_server.engine.prompt_graphs import PromptGraphs
from fromage_server.engine.recorded import RecordedOutput

passes: list[int] = []  # how many tokens each had, the padding among them
_pass = PromptGraphs._pass


def _noted(self: PromptGraphs, size: int) -> RecordedOutput:
    passes.append(size)
    return _pass(self, size)


PromptGraphs._pass = _noted  # type: ignore[method-assign]
