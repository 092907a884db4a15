"""The training losses of every family against the plain computation through the whole model."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from fromage_weights.grounded import GroundedModel
from fromage_weights.language import input_embedding, output_head, weight_of
from fromage_weights.training.objective import Example, Objective, mean_length, renormalise_ret
from tests.weights.tiny import FAMILIES, VISION_DIM, VOCABULARY, grounded, with_mappers

CASES = [(family, tied) for family in FAMILIES for tied in (True, False)]


def examples(model: GroundedModel) -> list[Example]:
    """Captions of different lengths, one with a prompt between image and words."""
    torch.manual_seed(3)
    ret = model.ret_token_id
    texts = [(0, 5, 6, 7), (0, 9), (0, 11, 5, 12, 13, 14), (0, 20, 21)]
    made = [Example(torch.randn(VISION_DIM), ids, (*ids, ret)) for ids in texts]
    made[3] = Example(made[3].features, (22, 23), (0, 20, 21, ret), prompt=(30, 31, 32))
    return made


class Plain:
    """One sequence at a time, the whole model, gradients to everything."""

    def __init__(self, model: GroundedModel) -> None:
        self.model, self.mappers, self.lm = model, model.mappers, model.lm
        names = {id(p): name for name, p in model.lm.named_parameters()}
        embedding, head = weight_of(input_embedding(model.lm)), weight_of(output_head(model.lm))
        is_ret = torch.zeros(len(embedding), 1, dtype=torch.bool)
        is_ret[model.ret_token_id] = True
        mappers = model.mappers
        self.weights = {
            names[id(embedding)]: torch.where(is_ret, mappers.ret_embedding, embedding.detach())
        }
        if mappers.ret_head is not None:
            self.weights[names[id(head)]] = torch.where(is_ret, mappers.ret_head, head.detach())

    def embedded(self, ids: tuple[int, ...]) -> Tensor:
        embedding = input_embedding(self.lm)
        name = next(n for n, m in self.lm.named_modules() if m is embedding)
        found: Tensor = functional_call(
            embedding, {"weight": self.weights[f"{name}.weight"]}, (torch.tensor(ids),)
        )
        return found

    def run(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D) -> logits (T, V), the head's inputs (T, H)."""
        caught: list[Tensor] = []
        hook = output_head(self.lm).register_forward_pre_hook(
            lambda _, args: caught.append(args[0])
        )
        output: Any = functional_call(self.lm, self.weights, (), {"inputs_embeds": rows[None]})
        hook.remove()
        return output.logits[0].float(), caught[0][0]

    def losses(self, batch: list[Example], *, concatenate: bool) -> tuple[Tensor, ...]:
        soft = self.mappers.soft_tokens(torch.stack([e.features for e in batch]))
        rows, labels = [], []
        for own, example in zip(soft, batch, strict=True):
            rows.append(torch.cat([own, self.embedded((*example.prompt, *example.words))]))
            silent = len(own) + len(example.prompt)
            labels.append(torch.tensor([-100] * silent + list(example.words)))
        if concatenate:
            rows = [torch.cat(rows[i : i + 2]) for i in range(0, len(rows), 2)]
            labels = [torch.cat(labels[i : i + 2]) for i in range(0, len(labels), 2)]
        caption = torch.cat([self.run(row)[0][:-1] for row in rows])
        targets = torch.cat([label[1:] for label in labels])
        words: list[Tensor] = []
        following: list[int] = []
        states: list[Tensor] = []
        for example in batch:
            logits, hidden = self.run(self.embedded(example.query))
            words.append(logits[:-1])
            following += example.query[1:]
            states.append(hidden[-1])
        texts = self.mappers.query_embeddings(torch.stack(states)[:, None])
        images = self.mappers.image_embeddings(torch.stack([e.features for e in batch]))
        scores = self.mappers.logit_scale.exp() * images @ texts.T
        own_row = torch.arange(len(batch))
        return (
            functional.cross_entropy(caption, targets),
            functional.cross_entropy(torch.cat(words), torch.tensor(following)),
            functional.cross_entropy(scores.T, own_row),
            functional.cross_entropy(scores, own_row),
        )


def gradients(model: GroundedModel) -> dict[str, Tensor]:
    found = {
        name: parameter.grad.clone()
        for name, parameter in model.mappers.named_parameters()
        if parameter.grad is not None
    }
    model.mappers.zero_grad()
    return found


@pytest.mark.parametrize("concatenate", [False, True])
@pytest.mark.parametrize(("family", "tied"), CASES)
def test_losses_and_gradients(family: str, tied: bool, concatenate: bool) -> None:
    compare(grounded(family, tied=tied), concatenate)


# ALiBi by places in the cache; a recurrent state; a convolution over what came before; no cache.
PADDING_MATTERS: dict[str, dict[str, Any]] = {
    "MptConfig": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "MambaConfig": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Lfm2Config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
    },
    "OpenAIGPTConfig": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip


@pytest.mark.parametrize("config", PADDING_MATTERS)
def test_families_whose_caches_cannot_leave_padding_out(config: str) -> None:
    torch.manual_seed(7)
    settings = {"vocab_size": VOCABULARY, **PADDING_MATTERS[config]}
    lm: Any = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        getattr(transformers, config)(**settings)
    )
    with torch.no_grad():
        for weight in lm.parameters():
            if weight.dim() > 1:
                weight.mul_(3.0)
    compare(with_mappers(lm), concatenate=True)


def compare(model: GroundedModel, concatenate: bool) -> None:
    model.mappers.requires_grad_(True)
    batch = examples(model)
    caption, words, to_image, to_text = Plain(model).losses(batch, concatenate=concatenate)
    (caption + words + (to_image + to_text) / 2).backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    found = Objective(model).losses(batch, concatenate=concatenate)
    for got, wanted in (
        (found.caption, caption),
        (found.retrieval, words),
        (found.text_to_image, to_image),
        (found.image_to_text, to_text),
    ):
        assert got == pytest.approx(float(wanted.detach()), abs=1e-4)
    found.total.backward()  # type: ignore[no-untyped-call]
    computed = gradients(model)
    assert set(computed) == set(expected) == {n for n, _ in model.mappers.named_parameters()}
    for name, gradient in expected.items():
        torch.testing.assert_close(computed[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert all(weight.grad is None for weight in model.lm.parameters())


def test_the_ret_row_gets_the_mean_norm_of_the_others() -> None:
    model = grounded("gpt2", tied=True)
    with torch.no_grad():
        model.mappers.ret_embedding.mul_(17.0)
    renormalise_ret(model, mean_length(model))
    table = weight_of(input_embedding(model.lm))
    others = torch.cat([table[: model.ret_token_id], table[model.ret_token_id + 1 :]])
    assert float(model.mappers.ret_embedding.detach().norm()) == pytest.approx(
        float(others.detach().norm(dim=1).mean()), rel=1e-5
    )
