"""What was read of a chat is not read again, and the replies are as if it were."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fromage_weights.evaluation.decoding import Written, greedy_to_ret
from fromage_weights.evaluation.memory import GrowingLayer, Memory
from fromage_weights.grounded import GroundedModel
from tests.weights.tiny import FAMILIES, grounded


class Passes:
    """Notes how many rows the model is given in each pass."""

    def __init__(self, model: GroundedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widths: list[int] = []
        forward = model.forward

        def noting(embeds: torch.Tensor, *args: Any, **more: Any) -> Any:
            self.widths.append(embeds.shape[1])
            return forward(embeds, *args, **more)

        monkeypatch.setattr(model, "forward", noting)


def two_turns(
    model: GroundedModel, *, remembered: bool
) -> tuple[Written, list[torch.Tensor], Written]:
    """Four chats; the third one's past is changed between the turns, the fourth is a new one."""
    torch.manual_seed(3)
    width = model.mappers.embed_dim
    first = [torch.randn(n, width) for n in (9, 4, 12, 7)]
    written = greedy_to_ret(model, first, stop=(), max_tokens=6, remember=remembered)
    second = []
    for prompt, ids, more in zip(first, written.ids, (5, 2, 4, 3), strict=True):
        said = model.embed_ids(torch.tensor(ids))
        second.append(torch.cat([prompt, said, torch.randn(more, width)]))
    second[2][8] += 1
    memories = [*written.memories[:3], None]
    again = greedy_to_ret(model, second, stop=(), max_tokens=6, memories=memories)
    return written, second, again


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_the_second_turn_goes_on_from_the_first(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = grounded(family)
    _, _, free = two_turns(model, remembered=False)
    model.config = replace(model.config, ret_token_id=free.ids[0][2])  # stands for [RET]
    passes = Passes(model, monkeypatch)
    nothing, prompts, wanted = two_turns(model, remembered=False)
    assert nothing.memories == [None] * 4
    assert 0 in wanted.states
    passes.widths.clear()
    some, _, found = two_turns(model, remembered=True)
    assert found.ids == wanted.ids
    assert [*found.states] == [*wanted.states]
    for number, states in found.states.items():
        assert torch.allclose(states, wanted.states[number], atol=1e-4)
    read = [width for width in passes.widths if width > 1]
    if isinstance(some.memories[0], Memory):
        # The third chat is read again from its eighth row on, the fourth from its start.
        assert read == [12, max(len(prompts[2]) - 8, len(prompts[3]))]
    else:
        assert family in ("gemma2", "gemma3", "mistral")  # layers that forget what is far behind
        assert read == [12, max(map(len, prompts))]


def test_layers_grow_in_place() -> None:
    states = torch.randn(3, 2, 200, 4)
    layer = GrowingLayer(states[:, :, :5], states[:, :, :5])
    buffers = set()
    for at in range(5, 200):
        keys, values = layer.update(*(states[:, :, at : at + 1],) * 2)
        buffers.add(keys.data_ptr())
        assert torch.equal(keys, states[:, :, : at + 1])
        assert torch.equal(values, keys)
    assert len(buffers) < 5
    layer.batch_select_indices(torch.tensor([2, 0]))
    keys, _ = layer.update(*(torch.zeros(2, 2, 1, 4),) * 2)
    assert torch.equal(keys[:, :, :-1], states[[2, 0]])
    assert layer.get_seq_length() == 201
