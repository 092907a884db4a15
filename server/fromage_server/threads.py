"""How threads compute that are not the engine's."""

from __future__ import annotations

import threading

_one_at_a_time = threading.Lock()


def compute_alone() -> None:
    """torch uses one core in this thread. OpenMP keeps helpers for every thread that computes on
    several, and where there are more of them than cores they sleep between operations instead of
    waiting for the next one: the engine's steps then take up to twice as long."""
    import torch

    with _one_at_a_time:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        # Threads to come begin with what was set last; so the last word is a thread's that ends.
        restoring = threading.Thread(target=torch.set_num_threads, args=(usual,))
        restoring.start()
        restoring.join()
