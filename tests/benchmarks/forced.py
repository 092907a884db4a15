"""A [RET] where random weights say none: as the token after the ``min_word_tokens`` words that a
request asks for in front of it.

python -m tests.benchmarks.forced serve ...: `fromage serve`, with it
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager

from torch import Tensor

from fromage_server.cli import main
from fromage_server.engine import engine as engine_module
from fromage_server.engine.sampling import Samples, SamplingRow
from fromage_server.engine.sequence import Sequence
from fromage_server.engine.step_output import StepOutput


@contextmanager
def rets_forced() -> Iterator[None]:
    """In all of this process's engines."""
    plain = vars(engine_module)["samples_of"]

    def forced(
        outputs: Seq[StepOutput],
        rows: Seq[SamplingRow],
        ret_token_id: int,
        before: Tensor | None,
    ) -> Samples:
        found: Samples = plain(outputs, rows, ret_token_id, before)
        due = [row for row, output in enumerate(outputs) if _is_due(output)]
        if not due:
            return found
        tokens = found.tokens.clone()
        for row in due:
            tokens[row] = ret_token_id
        return Samples(None, tokens, rows)

    vars(engine_module)["samples_of"] = forced
    try:
        yield
    finally:
        vars(engine_module)["samples_of"] = plain


def _is_due(output: StepOutput) -> bool:
    job = output.chunk.job
    if not isinstance(job, Sequence) or not job.params.max_num_rets:
        return False
    return job.completion_tokens + job.pending == job.params.min_word_tokens > 0


if __name__ == "__main__":
    with rets_forced():
        raise SystemExit(main())
