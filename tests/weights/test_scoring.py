"""Likelihoods of text among images."""

import pytest
import torch
from torch.testing import assert_close

from fromage_weights.scoring import IMAGE, layout, token_log_likelihoods


def _log_probs(logits: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """(position, token) of each score."""
    return torch.stack([logits[p].log_softmax(-1)[token] for p, token in pairs])


@pytest.mark.parametrize(
    ("ids", "start", "shifted", "pairs"),
    [
        ([4, 5, 6], 0, True, [(0, 5), (1, 6)]),
        ([IMAGE, IMAGE, 2, 5], 0, True, [(1, 2), (2, 5)]),
        ([4, IMAGE, 6, 3], 0, True, [(1, 6), (2, 3)]),
        ([4, 5, 6, 7], 2, True, [(1, 6), (2, 7)]),
        ([4, IMAGE, 6], 0, False, [(0, 4), (2, 6)]),
        ([4, 5, 6, 7], 2, False, [(2, 6), (3, 7)]),
        ([4], 0, True, []),
    ],
)
def test_which_logits_score_which_token(
    ids: list[int], start: int, shifted: bool, pairs: list[tuple[int, int]]
) -> None:
    logits = torch.randn(len(ids), 9, generator=torch.Generator().manual_seed(1))
    found = token_log_likelihoods(logits, ids, start, shifted=shifted)
    expected = _log_probs(logits, pairs) if pairs else torch.empty(0)
    assert_close(found, expected)


def test_layout_marks_soft_tokens() -> None:
    assert layout([(2, 7), None, (8,)], 3) == [2, 7, IMAGE, IMAGE, IMAGE, 8]
