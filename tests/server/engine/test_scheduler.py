"""Who runs when."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3NextConfig

from fromage_server.engine import Engine, EngineConfig, ScoringRequest
from fromage_server.engine.blocks import BlockPool
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.pace import Pace
from fromage_server.engine.sampling import Sampled
from fromage_server.engine.scheduler import Scheduler
from fromage_server.engine.scoring import ScoringJob
from fromage_server.engine.sequence import Sequence, Vocabulary
from fromage_weights.errors import UnsupportedModel
from fromage_weights.grounded import GroundedModel, TextSegment
from fromage_weights.mappers import Mappers
from tests.server.engine.driving import Heard, reply
from tests.server.engine.tiny import byte_tokenizer

VOCABULARY = Vocabulary(ret_token_id=257, eos_token_ids=(256,), decode=lambda ids: "")


def sequence(name: str, prompt_tokens: int = 1, max_tokens: int = 5) -> Sequence:
    request = reply(name, (TextSegment((ord(name[0]),) * prompt_tokens),), max_tokens)
    return Sequence(request, prompt_tokens, Heard(), VOCABULARY)


def scheduler(max_batch: int, blocks: int = 1000, prefill_tokens: int = 100) -> Scheduler:
    return Scheduler(max_batch, 9, BlockPool(blocks, size=4), Pace(prefill_tokens))


def paced(alone: float, token: float) -> Pace:
    """As measured where a step of streams takes ``alone`` seconds, and each prompt token more."""
    pace = Pace(1000)
    pace.measured(alone, decoding=1, prefilled=0)
    pace.measured(alone + 100 * token, decoding=1, prefilled=100)
    return pace


def streaming(count: int, pace: Pace, *, slots: int = 20, piece: int | None = None) -> Scheduler:
    """With ``count`` streams whose prompts are done."""
    tested = Scheduler(slots, 9, BlockPool(2000, size=4), pace, piece)
    for i in range(count):
        tested.add(sequence(f"s{i}", 1))
    step(tested)
    return tested


def step(scheduler: Scheduler, *, generate: bool = True) -> list[tuple[str, int, int]]:
    """Schedule, and do as if it had been computed: (job, start, stop) of every chunk."""
    chunks = scheduler.schedule().chunks
    for chunk in chunks:
        ended, job = chunk.is_last, chunk.job
        scheduler.remember(chunk)
        if ended and generate and isinstance(job, Sequence) and job.needs_slot:
            job.sampled(0)
            job.accept(Sampled(2, None))
    return [(chunk.job.id, chunk.start, chunk.stop) for chunk in chunks]


def scoring(name: str, tokens: int, score_from: int) -> ScoringJob:
    request = ScoringRequest(name, (TextSegment((7,) * tokens),), (), score_from)
    return ScoringJob(request, tokens, Heard(), 1)


def test_logits_of_scored_texts_have_room_in_a_step() -> None:
    """Of all such texts together; what stands before them takes none."""
    tested = scheduler(4, prefill_tokens=1000)
    tested.add(scoring("a", 700, 400))
    tested.add(scoring("b", 100, 0))
    tested.add(sequence("c", 30))
    assert step(tested) == [("a", 0, 655), ("c", 0, 30)], "399 to 654 are read"
    assert step(tested) == [("c", 30, 31), ("a", 655, 700), ("b", 0, 100)]


def test_first_come_first_served_into_free_slots() -> None:
    tested = scheduler(max_batch=2)
    jobs = {name: sequence(name) for name in "abcd"}
    for job in jobs.values():
        tested.add(job)
    assert step(tested) == [("a", 0, 1), ("b", 0, 1)]
    assert step(tested) == [("a", 1, 2), ("b", 1, 2)]
    tested.remove(jobs["a"])
    assert step(tested) == [("b", 2, 3), ("c", 0, 1)]
    assert step(tested) == [("b", 3, 4), ("c", 1, 2)]
    assert (tested.running, tested.waiting) == (2, 1)


def test_a_step_takes_only_so_many_prompt_tokens() -> None:
    """A long prompt comes in pieces, and what runs goes on meanwhile."""
    tested = scheduler(max_batch=9, prefill_tokens=10)
    for name, length in (("a", 4), ("b", 13), ("c", 3)):
        tested.add(sequence(name, length))
    assert step(tested) == [("a", 0, 4), ("b", 0, 6)]
    assert step(tested) == [("a", 4, 5), ("b", 6, 13), ("c", 0, 3)]
    assert step(tested) == [("a", 5, 6), ("b", 13, 14), ("c", 3, 4)]


def test_what_generates_nothing_waits_for_no_slot() -> None:
    tested = scheduler(max_batch=1)
    tested.add(sequence("a"))
    tested.add(sequence("b"))
    tested.add(sequence("c", max_tokens=0))
    tested.add(ScoringJob(ScoringRequest("d", (TextSegment((1,)),)), 1, Heard(), 1))
    tested.add(sequence("e"))
    assert [name for name, _, _ in step(tested)] == ["a", "c", "d"]
    assert [job.id for job in tested.drain()] == ["a", "c", "d", "b", "e"]
    assert tested.is_idle


def test_nobody_overtakes_a_prompt_that_waits_for_blocks() -> None:
    tested = scheduler(max_batch=9, blocks=6)
    jobs = {name: sequence(name, length) for name, length in (("a", 16), ("b", 12), ("c", 1))}
    for job in jobs.values():
        tested.add(job)
    assert step(tested) == [("a", 0, 16)]
    assert step(tested) == [("a", 16, 17)]
    tested.remove(jobs["a"])
    assert step(tested) == [("b", 0, 12), ("c", 0, 1)]


def test_many_prompts_may_hold_up_few_streams() -> None:
    pace = paced(1.0, 0.01)
    assert pace.prefill_tokens(4, 2) == pace.prefill_tokens(4, 1) == 200  # three times a step
    assert pace.prefill_tokens(4, 3) == 1000
    assert pace.prefill_tokens(1, 1) == 200  # one prompt alone may not, however few they are
    assert pace.prefill_tokens(1, 2) == 1000
    assert pace.prefill_tokens(0, 0) == pace.prefill_tokens(0, 8) == 1000
    tested = streaming(1, pace, slots=4)
    for name in "abcd":  # three of them find a slot
        tested.add(sequence(name, 300))
    assert step(tested) == [("s0", 1, 2), ("a", 0, 300), ("b", 0, 300), ("c", 0, 300)]
    tested.add(sequence("late", 300))
    assert step(tested)[1:] == [(name, 300, 301) for name in "abc"]  # no slot for another one


def test_a_prompt_hurries_whose_blocks_are_mostly_another_ones() -> None:
    pace = paced(alone=0.01, token=0.001)  # 20 tokens are room, 300 a pause
    tested = Scheduler(9, 9, BlockPool(120, size=4), pace)
    tested.add(sequence("a", 400))
    assert step(tested) == [("a", 0, 400)]
    tested.add(sequence("ab", 430))
    assert step(tested) == [("a", 400, 401), ("ab", 400, 430)]


def test_short_prompts_come_one_after_another() -> None:
    """Each as a whole where one pause is enough for it, and in pauses where two are."""
    pace = paced(0.02, 0.001)
    assert (pace.pause_tokens, pace.prefill_tokens(9, 2)) == (300, 40)
    tested = streaming(8, pace)
    tested.add(sequence("a", 120))
    tested.add(sequence("b", 150))
    tested.add(sequence("c", 20))
    assert step(tested)[8:] == [("a", 0, 120)]
    assert step(tested)[9:] == [("b", 0, 150)]
    tested.add(sequence("d", 590))
    assert step(tested)[10:] == [("c", 0, 20), ("d", 0, 20)]  # so few stall nobody
    assert step(tested)[11:] == [("d", 20, 320)]
    assert step(tested)[11:] == [("d", 320, 590)]


def test_a_long_prompt_is_cut_until_others_wait() -> None:
    tested = streaming(8, paced(0.02, 0.001))
    tested.add(sequence("a", 700))
    assert step(tested)[8:] == [("a", 0, 40)]
    assert step(tested)[8:] == [("a", 40, 80)]
    tested.add(sequence("b", 50))
    assert step(tested)[8:] == [("a", 80, 380)]
    assert step(tested)[8:] == [("a", 380, 680)]
    assert step(tested)[8:] == [("a", 680, 700), ("b", 0, 20)]
    assert step(tested)[9:] == [("b", 20, 50)]


def test_what_will_be_no_stream_does_not_hurry() -> None:
    tested = streaming(8, paced(0.02, 0.001))
    request = ScoringRequest("x", (TextSegment((1,) * 380),))
    tested.add(ScoringJob(request, 380, Heard(), 1))
    tested.add(sequence("a", 250))
    for start in (0, 40):
        assert step(tested)[8:] == [("x", start, start + 40)]
    # What is left of it is within one pause, and a stream waits.
    assert step(tested)[8:] == [("x", 80, 380)]
    assert step(tested)[8:] == [("a", 0, 250)]


def test_what_will_be_no_stream_makes_no_other_hurry() -> None:
    tested = streaming(8, paced(0.02, 0.001))
    tested.add(sequence("a", 700))
    tested.add(ScoringJob(ScoringRequest("x", (TextSegment((1,) * 9),)), 9, Heard(), 1))
    assert step(tested)[8:] == [("a", 0, 40)]


def test_a_prompt_that_finds_no_blocks_makes_none_hurry() -> None:
    """Those that run keep one block each to spare, that of this step's newcomer among them."""
    tested = Scheduler(20, 9, BlockPool(203, size=4), paced(0.02, 0.001))
    tested.add(sequence("s"))
    step(tested)
    tested.add(sequence("a", 800))
    tested.add(sequence("b", 1))
    assert step(tested)[1:] == [("a", 0, 40)]
    assert tested.waiting == 1


def test_fixed_pieces_leave_no_room_for_short_prompts() -> None:
    tested = streaming(8, paced(0.02, 0.001), piece=32)
    for name in "abc":
        tested.add(sequence(name, 290))
    assert step(tested)[8:] == [("a", 0, 32), ("b", 0, 32)]


def test_what_is_known_of_a_prompt_makes_it_no_longer() -> None:
    tested = streaming(0, paced(0.02, 0.001))
    before = sequence("a", 400)
    tested.add(before)
    step(tested)
    tested.remove(before)
    for name in "xyz":
        tested.add(sequence(name, 1))
    step(tested)
    tested.add(sequence("a", 800))  # 400 of them are known, two pauses are enough for the others
    assert step(tested)[3:] == [("a", 400, 700)]
    assert step(tested)[3:] == [("a", 700, 800)]


def test_a_prompt_whose_states_are_lost_is_long_again() -> None:
    """One that begins a second time, and finds less than the first time."""
    tested = streaming(8, paced(0.02, 0.001))
    again = sequence("a", 720)
    again.cached_tokens = 400
    tested.add(again)
    for start in range(0, 720, 40):
        assert step(tested)[8:] == [("a", start, start + 40)]


def test_what_will_be_no_stream_holds_up_none() -> None:
    tested = streaming(1, paced(1.0, 0.01), slots=3)
    for name in "abcd":
        request = ScoringRequest(name, (TextSegment((1,) * 300),))
        tested.add(ScoringJob(request, 300, Heard(), 1))
    assert step(tested) == [("s0", 1, 2), ("a", 0, 200)]
    # They take no slot, either: two more prompts find one.
    tested.add(sequence("e", 300))
    tested.add(sequence("f", 300))
    assert sum(stop - start for _, start, stop in step(tested)) == 1 + 1000


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    pool = BlockPool(5, size=4)
    tested = Scheduler(9, 9, pool, Pace(100))
    old, young = sequence("old", 7, max_tokens=9), sequence("young", 7, max_tokens=9)
    tested.add(old)
    tested.add(young)
    assert step(tested) == [("old", 0, 7), ("young", 0, 7)]
    assert step(tested) == [("old", 7, 8), ("young", 7, 8)]
    tested.add(sequence("late", 1))
    plan = tested.schedule()  # both need a third block, and there is one
    assert [job.id for job in plan.preempted] == ["young"]
    assert [chunk.job.id for chunk in plan.chunks] == ["old"]
    assert (young.blocks, young.computed) == ([], 0)
    tested.remember(plan.chunks[0])
    tested.remove(old)
    # Its full blocks are still known.
    assert step(tested) == [("young", 8, 9), ("late", 0, 1)]


def test_a_model_without_a_kv_cache_in_every_layer_is_refused() -> None:
    tokenizer = byte_tokenizer()
    config = Qwen3NextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=2,
        num_experts_per_tok=1,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        bos_token_id=None,
        eos_token_id=256,
    )
    lm = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model = GroundedModel(lm, Mappers(4, 32, 32, 1, 4, tied=False), tokenizer)
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        Engine(model, EngineConfig())


def test_attention_sinks_are_refused() -> None:
    config = GptOssConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        vocab_size=20,
    )
    lm = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedModel, match="GptOssForCausalLM has attention sinks"):
        KVShape.of(lm, torch.float32, "cpu")


def test_a_short_prompt_alone_does_not_tell_what_a_token_costs() -> None:
    """Most of its step is what every step costs: 10 ms here, and 1 ms a token. Beside streams that
    is known."""
    pace = Pace(1000)
    pace.measured(0.01, decoding=1, prefilled=0)
    pace.measured(0.11, decoding=0, prefilled=100)
    for _ in range(50):
        pace.measured(0.012, decoding=0, prefilled=2)
        pace.measured(0.012, decoding=3, prefilled=2)
    assert pace.pause_tokens == pytest.approx(300, abs=1)
    for _ in range(50):
        pace.measured(0.04, decoding=3, prefilled=20)
    assert pace.pause_tokens == pytest.approx(200, abs=1)
    pace.measured(0.1, decoding=0, prefilled=100)
    assert pace.pause_tokens > 210
