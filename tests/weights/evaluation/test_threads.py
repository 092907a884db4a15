"""Batches beside one another: the same as one after another."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fromage_weights.evaluation.threads import side_by_side
from fromage_weights.grounded import GroundedModel
from tests.weights.tiny import grounded


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_parts_are_worked_on_at_once_and_given_in_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(part: int) -> tuple[int, int]:
        together.wait()  # ends only if two are at it
        return part * part, torch.get_num_threads()

    found = list(side_by_side(work, range(4)))
    assert [(part, square) for part, (square, _) in found] == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert {threads for _, (_, threads) in found} == {1}
    assert torch.get_num_threads() == 2
    alone = list(side_by_side(lambda _: torch.get_num_threads(), range(3), at_once=1))
    assert [threads for _, threads in alone] == [2, 2, 2]


@pytest.mark.usefixtures("two_threads")
def test_threads_are_given_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda part: 1 // part, range(4)))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("layers", [(-1,), (1, -1)], ids=str)
def test_passes_of_two_threads_read_their_own_states(layers: tuple[int, ...]) -> None:
    model: GroundedModel = grounded("llama", text_emb_layers=layers)
    prompts = list(torch.randn(64, 1, 9, model.mappers.embed_dim))

    @torch.inference_mode()
    def read(prompt: torch.Tensor) -> torch.Tensor:
        return model.forward(prompt, logits_to_keep=1).hidden

    for prompt, hidden in side_by_side(read, prompts):
        assert torch.allclose(hidden, read(prompt), atol=1e-5)
