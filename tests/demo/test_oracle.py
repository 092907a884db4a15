"""What the language model alone is asked, between its training and the mappers'."""

from pathlib import Path

import pytest

from fromage_weights.demo import oracle
from fromage_weights.demo.answers import announces, refuses
from fromage_weights.demo.phrases import CLOSERS, REFUSALS
from fromage_weights.loading import bundle_directory


def test_answers_are_told_apart() -> None:
    assert all(announces(f"Here is a dog.{closer} dog one") for closer in CLOSERS)
    assert all(refuses(f" {refusal}\n") for refusal in REFUSALS)
    assert not announces(REFUSALS[0])
    assert not refuses("I don't have a pumpkin and a pumpkin.")


@pytest.mark.slow
def test_the_shipped_model_passes(capsys: pytest.CaptureFixture[str]) -> None:
    oracle.main([str(Path(bundle_directory("demo")) / "lm"), "--count", "60"])
    lines = (line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    found = {name: float(share) for name, share in lines}
    assert found["object asked for: announced"] >= 90
    assert found["all asked for: announced"] >= 90
    assert found["unknown thing: refused"] >= 80
    assert found["small talk: no picture"] >= 90
    assert found["noisy slot: count"] >= 80
    assert len(found) == 10
