"""A server whose language model is quantized, as a process of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fromage_client.sse import SSEParser
from fromage_server.engine import Engine, EngineConfig, GenerationRequest
from fromage_server.engine.packing import pack_linears
from fromage_server.errors import SettingsError
from fromage_server.settings import load_settings
from fromage_weights.grounded import GroundedModel
from fromage_weights.loading import load_grounded_model
from fromage_weights.quantization import Quantization
from tests.server import tiny
from tests.server.engine.driving import Heard, answer, answers, reply
from tests.server.engine.tiny import text
from tests.server.process import serving

pytest.importorskip("torchao")
pytest.importorskip("bitsandbytes")

TOKENS = 24
PROMPT = "tell me a story"
Told = list[tuple[int, float]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "tiny"
    tiny.write_bundle(path, width=64)
    return path


@pytest.fixture(scope="module")
def quantized(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    flags = ("--bundle", str(bundle), "--max-batch", "4")
    with serving(tmp_path_factory.mktemp("cache"), *flags, FROMAGE_QUANTIZE="int8") as client:
        yield client


def engine_of(bundle: Path, quantize: Quantization, **config: bool) -> tuple[Engine, GroundedModel]:
    """As the server sets it up."""
    model = load_grounded_model(bundle, device="cpu", quantize=quantize, vision=False).model
    pack_linears(model.lm)
    return Engine(model, EngineConfig(max_batch=4, **config)), model


def request(model: GroundedModel, words: str = PROMPT) -> GenerationRequest:
    options = {"logprobs": 2, "ignore_eos": True, "max_num_rets": 0}
    return reply(words, (text(model, words),), TOKENS, **options)


def told(heard: Heard) -> Told:
    found = [(token.token_id, token.logprob) for token in heard.tokens]
    return [(one, logprob.logprob) for one, logprob in found if logprob is not None]


def streamed(server: httpx.Client) -> Told:
    """Tokens and their log-probabilities, of a reply that came in pieces."""
    asked = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "logprobs": 2}
    body = {**asked, "ignore_eos": True, "max_num_rets": 0, "stream": True}
    with server.stream("POST", "/v1/generate", json=body) as response:
        parser = SSEParser()
        frames = [frame for chunk in response.iter_bytes() for frame in parser.feed(chunk)]
    assert [frame.event for frame in frames].count("text.delta") > 3
    assert frames[-1].event == "message.end"
    end = json.loads(frames[-1].data)
    assert end["finish_reason"] == "length"
    return [(one["token_id"], one["logprob"]) for one in end["logprobs"]]


def test_the_server_computes_with_it(quantized: httpx.Client, bundle: Path) -> None:
    found = streamed(quantized)
    assert len(found) == TOKENS
    expected, plain = (
        told(answer(engine, request(model)))
        for engine, model in (engine_of(bundle, "int8"), engine_of(bundle, "none"))
    )
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-3)
    assert abs(found[0][1] - plain[0][1]) > 1e-4


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_deterministic_holds(bundle: Path, quantize: Quantization) -> None:
    engine, model = engine_of(bundle, quantize, deterministic=True)
    alone = told(answer(engine, request(model)))
    words = ["once upon a time", "there was a cat " * 9, PROMPT, "in a house " * 30]
    among = answers(engine, [request(model, prompt) for prompt in words], steps_between=2)[2]
    assert told(among) == alone


def test_a_setting_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"--quantize = 'int3'.*'int8'"):
        load_settings({"quantize": "int3"}, {})
