"""Text that comes out piece by piece, and stop strings in it."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fromage_server.engine.detokenizer import Detokenizer, settled_length
from fromage_server.engine.stop import StopFinder
from fromage_weights.tokenizer import FromageTokenizer
from tests.server.engine.tiny import EOS, byte_tokenizer

TEXTS = (
    "Plain words, one after the other.",
    "snowman ☃, elephant 🐘 and a flag 🏳️‍🌈!",
    "It 's what they 've said , is n't it ? I 'm sure they 're ' quoted ' .",
    " leading and trailing  ",
    "a  n't   ' ' s",
    "",
)


def clean_up_tokenizer() -> FromageTokenizer:
    """Bytes again, with the official checkpoints' rules: spaces before punctuation go."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    hf = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token=EOS, pad_token="<pad>"
    )
    return FromageTokenizer(hf, rules="opt-4.33")


def pieces(tokenizer: FromageTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("clean", [False, True])
def test_the_pieces_are_the_whole(text: str, clean: bool) -> None:
    tokenizer = clean_up_tokenizer() if clean else byte_tokenizer()
    ids = list(tokenizer.hf(text, add_special_tokens=False).input_ids)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("clean", [False, True])
def test_long_replies_of_any_bytes(clean: bool) -> None:
    """Random bytes of the awkward kind, far past the window that is decoded again each time."""
    tokenizer = clean_up_tokenizer() if clean else byte_tokenizer()
    source = random.Random(1)
    for _ in range(20):
        text = "".join(source.choice("a nn't's .,?!é象🐘'") for _ in range(300))
        ids = list(tokenizer.hf(text, add_special_tokens=False).input_ids)
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_window_does_not_grow() -> None:
    widths: list[int] = []
    tokenizer = byte_tokenizer()

    def decode(ids: list[int]) -> str:
        widths.append(len(ids))
        return tokenizer.decode(ids)

    detokenizer = Detokenizer(decode)
    for token in tokenizer.encode("many words " * 100):
        detokenizer.push(token)
    assert max(widths) <= 64


def test_a_character_waits_for_its_last_byte() -> None:
    tokenizer = byte_tokenizer()
    ids = list(tokenizer.encode("a🐘b"))
    assert pieces(tokenizer, ids) == ["a", "", "", "", "🐘", "b", ""]


def test_half_a_character_at_the_end_is_given_out() -> None:
    tokenizer = byte_tokenizer()
    assert pieces(tokenizer, list(tokenizer.encode("a🐘"))[:-1]) == ["a", "", "", "", "\ufffd"]


def test_a_space_waits_for_what_the_clean_up_makes_of_it() -> None:
    tokenizer = clean_up_tokenizer()
    ids = list(tokenizer.hf("a , b", add_special_tokens=False).input_ids)
    assert pieces(tokenizer, ids) == ["a", "", ",", "", " b", ""]


def test_special_tokens_have_no_text() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.eos_token_id is not None
    ids = [*tokenizer.encode("a"), tokenizer.eos_token_id, *tokenizer.encode("b")]
    assert pieces(tokenizer, ids) == ["a", "", "b", ""]


def fed(stops: tuple[str, ...], *texts: str) -> tuple[list[str], bool]:
    finder = StopFinder(stops)
    shown = []
    for text in texts:
        shown.append(finder.feed(text))
        if finder.found:
            return shown, True
    return [*shown, finder.flush()], False


@pytest.mark.parametrize(
    ("stops", "texts", "expected"),
    [
        (("\n",), ("ab", "c\nd"), (["ab", "c"], True)),
        (("END",), ("xE", "N", "D!"), (["x", "", ""], True)),
        (("END",), ("xE", "N", "o"), (["x", "", "ENo", ""], False)),
        (("END",), ("xE", "EN", "D"), (["x", "E", ""], True)),
        (("END",), ("xEN",), (["x", "EN"], False)),
        (("aab",), ("aa", "ab"), (["", "a"], True)),
        (("later", "b"), ("abc later",), (["a"], True)),
        (("one", "once"), ("on", "ce"), (["", ""], True)),
        ((), ("any", "thing"), (["any", "thing", ""], False)),
    ],
)
def test_stop_strings_across_pieces(
    stops: tuple[str, ...], texts: tuple[str, ...], expected: tuple[list[str], bool]
) -> None:
    assert fed(stops, *texts) == expected


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("", ""),
        ("a dog", "a dog"),
        ("a dog ", "a dog"),
        ("is n", "is"),
        ("is n'", "is"),
        ("is n't", "is n't"),
        ("they 'v", "they"),
        ("they 've", "they 've"),
        ("they'v", "they'v"),
        ("so ' ' n", "so"),
        ("in", "in"),
        ("a\ufffd\ufffd", "a"),
    ],
)
def test_what_later_tokens_may_change_is_held_back(text: str, settled: str) -> None:
    assert text[: settled_length(text)] == settled


def test_a_long_unsettled_text_costs_its_length() -> None:
    """Every " n'" can be read in two ways: 2**20000 readings, were they all tried."""
    assert settled_length(" n'" * 20_000 + "x") == 60_001
    assert settled_length(" n'" * 20_000) == 0
