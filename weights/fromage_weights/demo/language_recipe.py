"""How the demo's language model is trained: shape and schedule."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LanguageRecipe:
    """Shape and schedule. Steps: `steps` of short blocks, then `long_steps` of long ones.

    `matrix_rate` is Muon's, for the layers' matrices, in AdamW's unit (the root mean square of an
    update); `learning_rate` is AdamW's, for the rest. `first_chunk`: where in the stream of texts
    it begins. `kept`: the share that a model which went on keeps of the weights it began with.
    """

    hidden: int = 320
    layers: int = 5
    heads: int = 5
    context: int = 1024
    steps: int = 5500
    batch: int = 16
    length: int = 256
    long_steps: int = 100
    long_batch: int = 4
    learning_rate: float = 2e-3
    matrix_rate: float = 4e-3
    warmup: int = 150
    decay: float = 0.45
    noise: float = 0.33
    noise_steps: int = 1500
    first_chunk: int = 0
    kept: float = 0.0
    seed: int = 0

    @property
    def total(self) -> int:
        return self.steps + self.long_steps

    def noise_at(self, step: int) -> float:
        """Starts at a third and is full after `noise_steps`."""
        return self.noise * min(1.0, 1 / 3 + 2 / 3 * step / self.noise_steps)

    def pace(self, step: int) -> float:
        """The part of the learning rates at `step`: warm up, stay, then fall linearly over the
        last `decay` of all steps."""
        falling = (self.total - step) / (self.decay * self.total)
        return min(1.0, (step + 1) / self.warmup, falling)


# Of a model that has learnt already: no lessons, all the noise at once, other texts, and rates that
# fall from the beginning. In the end it is the mean of what it was and what it became, which
# understands new wordings better than either (Wortsman et al., CVPR 2022, section 3).
CONTINUED = LanguageRecipe(
    steps=1500,
    learning_rate=1e-3,
    matrix_rate=2.5e-3,
    warmup=60,
    decay=1.0,
    noise_steps=1,
    first_chunk=60,
    kept=0.5,
    seed=1,
)
# Once more, with others again.
AGAIN = replace(CONTINUED, seed=2)
