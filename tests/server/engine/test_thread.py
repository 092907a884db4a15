"""The engine in its own thread."""

import threading

import pytest
import torch

from fromage_server.engine import (
    Engine,
    EngineConfig,
    EngineStopped,
    Event,
    TokenEvent,
)
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import Heard, reply, running, wait_until
from tests.server.engine.tiny import generate, image, text


def test_stop_ends_what_is_unfinished(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(max_batch=1))
    engine.start()
    assert engine.alive
    heard = [Heard(), Heard()]
    for i, listener in enumerate(heard):
        engine.submit(reply(str(i), (text(model, "a"),), 150, ignore_eos=True), listener)
    wait_until(lambda: bool(heard[0].tokens))
    engine.stop()
    assert not engine.alive
    assert [h.error for h in heard] == ["the engine was stopped"] * 2
    with pytest.raises(EngineStopped):
        engine.submit(reply("late", (text(model, "a"),)), Heard())
    engine.stop()


def test_requests_from_many_threads(model: GroundedModel) -> None:
    """Every reply equals the one alone; every fifth is cancelled at its second token."""
    prompts = [(text(model, "word " * (i % 5 + 1)), image(i % 3)) for i in range(20)]
    with torch.inference_mode():
        expected = {(i % 5, i % 3): generate(model, p, 15) for i, p in enumerate(prompts[:15])}
    heard = [Heard() for _ in prompts]
    with running(Engine(model, EngineConfig(max_batch=6))) as engine:

        def use(i: int) -> None:
            def listen(event: Event) -> None:
                heard[i](event)
                if i % 5 == 0 and isinstance(event, TokenEvent) and len(heard[i].ids) == 2:
                    engine.cancel(str(i))

            engine.submit(reply(str(i), prompts[i], 15), listen)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: all(h.ended for h in heard))
        stats = engine.stats()
    for i, h in enumerate(heard):
        wanted = expected[i % 5, i % 3]
        assert h.ids == (wanted[:2] if i % 5 == 0 else wanted)
        assert (h.finish.reason == "cancelled") == (i % 5 == 0)
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.counts.finished + stats.counts.cancelled == 20
