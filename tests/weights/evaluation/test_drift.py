"""What differs between two models, against plain computations."""

import copy
from collections.abc import Hashable
from dataclasses import replace
from itertools import takewhile

import pytest
import torch

from fromage_weights.evaluation.drift import Base, DriftMeter, Probe
from fromage_weights.evaluation.responder import Message, Responder
from fromage_weights.grounded import GroundedModel
from fromage_weights.loading import LoadedBundle, load_grounded_model
from tests.weights.tiny_bundle import VISION_DIM, write_bundle

TEXTS = ["a dog", "two cats", "a red house by the sea", "what is it", "hello there"] * 2
TOKENS = 9


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    path = tmp_path_factory.mktemp("bundle")
    write_bundle(path, context=128)
    return load_grounded_model(path, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def other(loaded: LoadedBundle) -> LoadedBundle:
    """With somewhat different weights."""
    lm = copy.deepcopy(loaded.model.lm)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=generator))
    mappers = copy.deepcopy(loaded.model.mappers)
    return replace(loaded, model=GroundedModel(lm, mappers, loaded.model.tokenizer))


@pytest.fixture(scope="module")
def probe() -> Probe:
    features = torch.randn(len(TEXTS), VISION_DIM, generator=torch.Generator().manual_seed(5))
    chats = [
        [Message("user", text, row if i % 3 == 0 else None)]
        for i, (text, row) in enumerate(zip(TEXTS, features, strict=True))
    ]
    right: list[set[Hashable] | None] = [{i, i + 1} if i % 2 else None for i in range(len(TEXTS))]
    return Probe(chats, TEXTS, right)


def search(queries: torch.Tensor) -> list[list[Hashable]]:
    pictures = torch.randn(30, queries.shape[1], generator=torch.Generator().manual_seed(6))
    best: list[list[Hashable]] = (queries @ pictures.T).topk(7).indices.tolist()
    return best


def logs_of(loaded: LoadedBundle, chat: list[Message], reply: list[int]) -> torch.Tensor:
    model = loaded.model
    prompt = model.embed(Responder(loaded).segments(chat))
    whole = torch.cat([prompt, model.embed_ids(torch.tensor(reply))])
    with torch.inference_mode():
        logits = model.forward(whole[None]).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def test_nothing_differs_from_itself(loaded: LoadedBundle, probe: Probe) -> None:
    meter = DriftMeter(probe, search, max_tokens=TOKENS)
    drift = meter.compare(loaded, meter.base(loaded))
    assert (drift.same_token, drift.same_reply, drift.same_first) == (100, 100, 100)
    assert drift.common == drift.length > 3
    assert drift.shared_five == 100
    assert drift.divergence == pytest.approx(0, abs=1e-6)
    assert drift.cosine == pytest.approx(1)


def test_every_figure_by_hand(loaded: LoadedBundle, other: LoadedBundle, probe: Probe) -> None:
    meter = DriftMeter(probe, search, max_tokens=TOKENS)
    base = meter.base(loaded)
    found = meter.compare(other, base)
    same, divergences, common, equal = [], [], [], 0
    own = meter.base(other).replies
    for chat, reply, mine in zip(probe.chats, base.replies, own, strict=True):
        p, q = logs_of(loaded, [*chat], reply), logs_of(other, [*chat], reply)
        assert p.argmax(-1).tolist() == reply, "the base's replies are its own"
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
        divergences += (p.exp() * (p - q)).sum(-1).tolist()  # all 97 tokens: fewer than are kept
        pairs = zip(reply, mine, strict=False)
        common.append(len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))))
        equal += reply == mine
    assert 50 < found.same_token < 100
    assert found.same_token == pytest.approx(100 * sum(same) / len(same))
    assert found.divergence == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
    assert found.common == pytest.approx(sum(common) / len(common))
    assert found.same_reply == pytest.approx(10 * equal)
    check_retrieval(meter, other, base)


def check_retrieval(meter: DriftMeter, other: LoadedBundle, base: Base) -> None:
    found, queries = meter.compare(other, base), meter.base(other).queries
    assert 0.5 < found.cosine < 1
    assert found.cosine == pytest.approx(float((queries * base.queries).sum(1).mean()))
    before, after = search(base.queries), search(queries)
    first = [a[0] == b[0] for a, b in zip(before, after, strict=True)]
    assert found.same_first == pytest.approx(10 * sum(first))
    five = [len({*a[:5]} & {*b[:5]}) / 5 for a, b in zip(before, after, strict=True)]
    assert found.shared_five == pytest.approx(10 * sum(five))
    hits = [{i, i + 1} & {*after[i][:5]} for i in range(1, len(after), 2)]
    assert found.recall_5 == pytest.approx(20 * sum(map(bool, hits)))


def test_without_pictures(loaded: LoadedBundle, probe: Probe) -> None:
    meter = DriftMeter(probe, max_tokens=2)
    drift = meter.compare(loaded, meter.base(loaded))
    assert (drift.same_first, drift.shared_five, drift.recall_1) == (None, None, None)
    assert drift.length <= 2
