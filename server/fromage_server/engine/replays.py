"""Steps on a GPU that are recorded, whole, when the server starts, and later replayed."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import accumulate

from torch import Tensor

from fromage_server.engine.attention import Paged, Span
from fromage_server.engine.decode_graphs import DecodeGraphs, DecodeRow
from fromage_server.engine.embedding import Embedder, is_newest, newest_of
from fromage_server.engine.job import Reads
from fromage_server.engine.landing import Landing
from fromage_server.engine.last_layer import LastLayer
from fromage_server.engine.prompt_graphs import PromptGraphs, Room
from fromage_server.engine.ranks import DecodePass, Follower, Leader
from fromage_server.engine.recorded import RecordedOutput, Recordings
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.shapes import DecodeShapes
from fromage_server.engine.step_output import StepOutput, scores_of
from fromage_weights.grounded import GroundedModel


class Replays:
    """Steps of single tokens, and where no other ``ranks`` make them, too, those with pieces of
    prompts; block ``spare`` is nobody's."""

    def __init__(
        self,
        model: GroundedModel,
        paged: Paged,
        last_layer: LastLayer,
        embedder: Embedder,
        shapes: DecodeShapes,
        *,
        spare: int,
        ranks: Leader | Follower | None = None,
    ) -> None:
        self._embedder = embedder
        recordings = Recordings(model.device, shapes.rows)
        record = model.device.type == "cuda"
        self._singles = DecodeGraphs(
            model, paged, recordings,
            streams=shapes.rows, pages=shapes.pages, spare=spare, record=record, ranks=ranks,
        )  # fmt: skip
        self._prompts: PromptGraphs | None = None
        if ranks is None and shapes.tokens:
            room = Room(shapes.tokens, shapes.rows, shapes.pages)
            self._prompts = PromptGraphs(
                model, paged, last_layer, recordings, room, spare=spare, record=record
            )

    def warm_up(self) -> None:
        """Record all of them, the largest first: the others then find room in its memory."""
        self._singles.settle()
        if self._prompts is not None:
            self._prompts.warm_up()
        self._singles.warm_up()

    def follow(self, step: DecodePass) -> None:
        self._singles.compute(step)

    def run(self, chunks: Seq[Chunk], before: Tensor | None) -> list[StepOutput] | None:
        """In the order of ``chunks``; None for a step that is not like any recorded one. What a
        recorded pass brings is gone with the next one."""
        reads = [chunk.job.reads(chunk.start, chunk.stop) for chunk in chunks]
        if all(map(is_newest, chunks)):
            return _outputs(chunks, reads, self._singles.run([_row(c) for c in chunks], before))
        kept = [kept_of(read) for read in reads]
        spans = spans_of(chunks)
        if self._prompts is None or max(map(len, kept)) > 1 or not self._prompts.takes(spans):
            return None
        rows = [
            span.start + (positions[0] - span.past if positions else 0)
            for span, positions in zip(spans, kept, strict=True)
        ]
        parts = self._embedder.parts(chunks, before)
        return _outputs(chunks, reads, self._prompts.run(spans, rows, parts))


def _row(chunk: Chunk) -> DecodeRow:
    return DecodeRow(*newest_of(chunk), position=chunk.start, blocks=chunk.job.blocks)


def _outputs(chunks: Seq[Chunk], reads: Seq[Reads], output: RecordedOutput) -> list[StepOutput]:
    """Of a pass with one row for each chunk."""
    # All of them: to pick some, the host would have to wait for the device.
    landing = Landing(*([output.queries] if any(read.queries for read in reads) else ()))
    outputs = [
        StepOutput(chunk, read, output.logits[row : row + len(read.logits)], landing, row)
        for row, (chunk, read) in enumerate(zip(chunks, reads, strict=True))
    ]
    for one in outputs:
        one.scores = scores_of(one)
    return outputs


def kept_of(reads: Reads) -> list[int]:
    """Positions that a pass brings results for: those of the logits, then the other ones."""
    return [*reads.logits, *(p for p in reads.queries if p not in reads.logits)]


def spans_of(chunks: Seq[Chunk]) -> tuple[Span, ...]:
    """Their tokens, packed one behind the other."""
    starts = accumulate((chunk.count for chunk in chunks), initial=0)
    return tuple(
        Span(start, start + chunk.count, chunk.start, tuple(chunk.job.blocks))
        for start, chunk in zip(starts, chunks, strict=False)
    )
