"""Tokenizers of other families, and texts beyond the recorded ones."""

import pytest

from fromage_weights.errors import ModelUnavailable
from fromage_weights.tokenizer import load_tokenizer, truncate_caption
from tests.weights.recording import Recording
from tests.weights.tiny import tokenizer


def test_plain_rules_keep_white_space() -> None:
    tiny = tokenizer()
    ret = tiny.ret_token_id
    space = tiny.encode(" ")[0]
    assert tiny.encode("a [RET] b") == (*tiny.encode("a"), space, ret, space, *tiny.encode("b"))
    assert tiny.encode("[RET][RET]") == (ret, ret)
    assert tiny.image_token_id is None


def test_ret_survives_decoding_and_ends_do_not() -> None:
    tiny = tokenizer()
    ids = (0, *tiny.encode("ab"), tiny.ret_token_id, 1)
    assert tiny.decode(ids).replace(" ", "") == "ab[RET]"
    assert "</s>" in tiny.decode(ids, skip_special=False)


def test_a_tokenizer_without_a_begin_token_adds_none() -> None:
    tiny = tokenizer()
    assert tiny.bos_token_id is None
    assert tiny.encode_prompt([None, "a", "b"]) == [None, tiny.encode("a"), tiny.encode("b")]


def test_begin_token_in_front_of_the_first_text_only(recording: Recording) -> None:
    opt = recording.loaded.model.tokenizer
    bos = opt.bos_token_id
    assert bos is not None
    encoded = opt.encode_prompt([None, "a cat", None, "", " runs"])
    assert encoded == [None, (bos, *opt.encode("a cat")), None, (), opt.encode(" runs")]
    assert opt.encode_prompt([]) == []
    assert opt.encode_prompt(["", "a"]) == [(bos,), opt.encode("a")]


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("a \n\t[RET]\u3000b", "a[RET]b"),
        ("a <pad> b", "a<pad>b"),
        ("[RET] <|image|> [RET]", "[RET]<|image|>[RET]"),
        ("a </s> [RET]", "a </s>[RET]"),
    ],
)
def test_white_space_beside_special_tokens(recording: Recording, text: str, same_as: str) -> None:
    opt = recording.loaded.model.tokenizer
    assert opt.encode(text) == opt.encode(same_as)
    assert opt.encode("a </s> b") != opt.encode("a</s>b")


def test_decoding_cleans_up_and_keeps_special_tokens_when_asked(recording: Recording) -> None:
    opt = recording.loaded.model.tokenizer
    assert opt.decode(opt.encode("it is , I think . do n't")) == "it is, I think. don't"
    ids = opt.encode("a<|image|>b</s>")
    assert opt.decode(ids) == "ab"
    assert opt.decode(ids, skip_special=False) == "a <|image|> b</s>"


@pytest.mark.parametrize(
    ("caption", "cut"),
    [("\n\na. b\nc\n", "a. b\n"), ("a. b. c", "a."), ("a", "a"), ("", ""), ("\n", "")],
)
def test_truncated_captions(caption: str, cut: str) -> None:
    assert truncate_caption(caption) == cut


def test_a_missing_tokenizer_is_named(tmp_path: object) -> None:
    with pytest.raises(ModelUnavailable, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))
