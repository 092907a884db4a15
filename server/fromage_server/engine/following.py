"""What a follower does all day: the leader's passes, over its own part of the model."""

import torch

from fromage_server.engine.memory import free_bytes
from fromage_server.engine.ranks import Follower
from fromage_server.engine.runner import FixedShapes, Runner
from fromage_weights.grounded import GroundedModel


@torch.inference_mode()
def follow(model: GroundedModel, follower: Follower) -> None:
    """Until the leader's engine stops. Raises RanksLost where the leader is gone, and what a pass
    raises: the process must end then, so that the others don't wait for it."""
    follower.least_free(free_bytes(model.device))
    storage = follower.begin()
    fixed = FixedShapes(storage.streams, storage.piece) if storage.streams else None
    runner = Runner(model, storage.blocks, fixed=fixed)
    while (step := follower.next_pass()) is not None:
        runner.compute(step)
