"""What a follower does all day: the leader's passes, over its own part of the model."""

import torch

from fromage_server.engine.attention import Backend
from fromage_server.engine.memory import free_bytes
from fromage_server.engine.ranks import Follower
from fromage_server.engine.runner import Runner
from fromage_weights.grounded import GroundedModel


@torch.inference_mode()
def follow(model: GroundedModel, follower: Follower, backend: Backend | None = None) -> None:
    """Until the leader's engine stops. Raises RanksLost where the leader is gone, and what a pass
    raises: the process must end then, so that the others don't wait for it."""
    follower.least_free(free_bytes(model.device))
    runner = Runner.following(model, follower, backend)
    while (step := follower.next_pass()) is not None:
        runner.follow(step)
