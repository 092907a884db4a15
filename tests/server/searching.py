"""A search thread that is held up, so that what is submitted meanwhile waits."""

import threading

from fromage_server.searches import Searches, Searching


def hold(searches: Searches) -> threading.Event:
    """The thread is busy from now on, until the event is set."""
    begun, gate = threading.Event(), threading.Event()

    def busy() -> Searching[None]:
        yield from ()
        begun.set()
        gate.wait(60)

    searches.submit(busy())
    assert begun.wait(60)
    return gate
