"""Recorded tokenizations: white space around special tokens, decoding, caption cuts."""

from fromage_weights.language import input_embedding, weight_of
from fromage_weights.tokenizer import IMAGE_TOKEN, truncate_caption
from tests.weights.recording import Recording


def test_special_ids(recording: Recording) -> None:
    model, golden = recording.loaded.model, recording.json("tokenizer_golden")
    tokenizer = model.tokenizer
    assert tokenizer.bos_token_id == golden["bos"]
    assert model.eos_token_ids == (golden["eos"],)
    assert [IMAGE_TOKEN, tokenizer.image_token_id] == golden["image_cls_token"]
    assert [tokenizer.ret_token, model.ret_token_id] == golden["ret_token"]
    assert tokenizer.encode("\n") == (golden["newline_id"],)
    assert len(tokenizer) == golden["len_tokenizer"]


def test_unused_rows_of_the_embedding_are_removed(recording: Recording) -> None:
    model, golden = recording.loaded.model, recording.json("tokenizer_golden")
    assert golden["lm_vocab_size_on_disk"] > golden["lm_vocab_size_after_resize"]
    assert model.vocab_size == golden["lm_vocab_size_after_resize"]
    assert weight_of(input_embedding(model.lm)).shape[0] == model.vocab_size


def test_every_text(recording: Recording) -> None:
    tokenizer = recording.loaded.model.tokenizer
    for case in recording.json("tokenizer_golden")["cases"]:
        ids = tokenizer.encode_prompt([case["text"]])[0]
        assert ids is not None
        assert list(ids) == case["ids"], case["text"]
        assert tokenizer.decode(ids) == case["decoded_skip_special"], case["text"]
        assert truncate_caption(case["text"]) == case["truncate_caption"], case["text"]
