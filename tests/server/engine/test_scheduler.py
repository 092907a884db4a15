"""Who runs when."""

import pytest
from transformers import AutoModelForCausalLM, Qwen3NextConfig

from fromage_server.engine import Engine, EngineConfig, ScoringRequest
from fromage_server.engine.scheduler import Plan, Scheduler
from fromage_server.engine.sequence import ScoringJob, Sequence, Vocabulary
from fromage_weights.errors import UnsupportedModel
from fromage_weights.grounded import GroundedModel, TextSegment
from fromage_weights.mappers import Mappers
from tests.server.engine.driving import Heard, reply
from tests.server.engine.tiny import byte_tokenizer

VOCABULARY = Vocabulary(ret_token_id=257, eos_token_ids=(256,), decode=lambda ids: "")


def sequence(name: str, prompt_tokens: int = 1, max_tokens: int = 5) -> Sequence:
    request = reply(name, (TextSegment((1,) * prompt_tokens),), max_tokens)
    return Sequence(request, prompt_tokens, Heard(), VOCABULARY)


def names(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    return [j.id for j in plan.prefill], [j.id for j in plan.score], [j.id for j in plan.decode]


def test_first_come_first_served_into_free_slots() -> None:
    scheduler = Scheduler(max_batch=2, max_queue=9, prefill_tokens=100)
    jobs = {name: sequence(name) for name in "abcd"}
    for job in jobs.values():
        scheduler.add(job)
    assert names(scheduler.schedule()) == (["a", "b"], [], [])
    assert names(scheduler.schedule()) == ([], [], ["a", "b"])
    scheduler.remove(jobs["a"])
    assert names(scheduler.schedule()) == (["c"], [], ["b"])
    assert names(scheduler.schedule()) == ([], [], ["b", "c"])
    assert (scheduler.running, scheduler.waiting) == (2, 1)


def test_a_step_starts_only_so_many_prompt_tokens() -> None:
    scheduler = Scheduler(max_batch=9, max_queue=9, prefill_tokens=10)
    for name, length in (("a", 4), ("b", 4), ("c", 50), ("d", 60), ("e", 1)):
        scheduler.add(sequence(name, length))
    started = [names(scheduler.schedule())[0] for _ in range(4)]
    assert started == [["a", "b", "c"], ["d"], ["e"], []]


def test_what_generates_nothing_waits_for_no_slot() -> None:
    scheduler = Scheduler(max_batch=1, max_queue=9, prefill_tokens=100)
    scheduler.add(sequence("a"))
    scheduler.add(sequence("b"))
    scheduler.add(sequence("c", max_tokens=0))
    scheduler.add(ScoringJob(ScoringRequest("d", (TextSegment((1,)),)), 1, Heard()))
    scheduler.add(sequence("e"))
    assert names(scheduler.schedule()) == (["a", "c"], ["d"], [])
    assert scheduler.running == 1
    assert [job.id for job in scheduler.drain()] == ["a", "c", "d", "b", "e"]
    assert scheduler.is_idle


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
