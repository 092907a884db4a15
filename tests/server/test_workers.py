"""What computes beside the engine."""

import subprocess
import sys

from fromage_server.searches import Searching
from fromage_server.workers import Workers

_RUN = """
import asyncio, faiss, threading, torch
from fromage_server.workers import Workers

def searching():
    yield from ()
    return torch.get_num_threads(), faiss.omp_get_max_threads()

async def counts():
    workers = Workers()
    return await workers.prepare(torch.get_num_threads), *await workers.search(searching())

usual = []
beside = asyncio.run(counts())
late = threading.Thread(target=lambda: usual.append(torch.get_num_threads()))
late.start()
late.join()
print(beside, usual[0], torch.get_num_threads(), faiss.omp_get_max_threads())
"""


def test_workers_take_one_core_and_leave_the_others_theirs() -> None:
    """In a process of its own: what a thread begins with depends on those before it."""
    told = subprocess.run(
        [sys.executable, "-c", _RUN],
        env={"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told == "(1, 1, 1) 2 2 2\n"


def test_searching_ends_with_the_workers() -> None:
    def searching() -> Searching[None]:
        yield from ()

    workers = Workers()
    workers.searches.submit(searching()).result(60)
    workers.stop()
    assert workers.searches.submit(searching()).cancelled()
