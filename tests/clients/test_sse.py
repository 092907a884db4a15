from itertools import pairwise

import pytest

from fromage_client.sse import Frame, SSEParser

TEXT = 'event: text.delta\nid: 7\ndata: {\ndata: "é\u2028\x85\x0b"}\n\n: keep-alive\n\ndata:end\n\n'
FRAMES = [Frame("text.delta", '{\n"é\u2028\x85\x0b"}', "7"), Frame("message", "end", "7")]


def parse(*chunks: bytes) -> list[Frame]:
    parser = SSEParser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_wherever_the_bytes_are_cut_the_frames_are_the_same(newline: str) -> None:
    data = TEXT.replace("\n", newline).encode()
    for cut in range(len(data) + 1):
        assert parse(data[:cut], data[cut:]) == FRAMES, cut
    assert parse(*(data[at : at + 1] for at in range(len(data)))) == FRAMES


def test_a_frame_comes_out_with_its_last_byte() -> None:
    parser = SSEParser()
    assert list(parser.feed(b"data: x\r\n\r")) == [Frame("message", "x", "")]
    assert list(parser.feed(b"\n: comment\r\n")) == []


def test_a_byte_order_mark_is_skipped_once() -> None:
    assert parse("\ufeffdata: a\n\n\ufeffdata: b\n\n".encode()) == [Frame("message", "a", "")]


def test_one_space_after_the_colon_is_the_fields() -> None:
    frames = parse(b"data:  two\n\ndata:none\n\ndata\n\n")
    assert [frame.data for frame in frames] == [" two", "none", ""]


def test_a_name_without_data_is_forgotten() -> None:
    assert parse(b"event: image\n\ndata: x\n\n") == [Frame("message", "x", "")]


def test_an_unfinished_frame_is_not_dispatched() -> None:
    assert parse(b"data: x\n\ndata: y\n") == [Frame("message", "x", "")]


def test_bytes_that_are_not_utf8_do_not_end_the_stream() -> None:
    assert [frame.data for frame in parse(b"data: a\xff\n\ndata: b\n\n")] == ["a\ufffd", "b"]


def test_a_long_frame_in_many_pieces() -> None:
    data = b"data: " + b"x" * 60_000 + b"\n\n"
    cuts = [*range(0, len(data), 1000), len(data)]
    [frame] = parse(*(data[a:b] for a, b in pairwise(cuts)))
    assert len(frame.data) == 60_000
