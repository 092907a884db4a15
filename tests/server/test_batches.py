"""One thread for work that gathers."""

import threading
import weakref

import pytest

from fromage_server.batches import Batches


class Slow:
    """Notes its batches; the first is not done before it is told to be."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.threads: set[str] = set()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def work(self, jobs: list[int]) -> None:
        self.seen.append(jobs)
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.go_on.wait(60)


def test_what_gathers_meanwhile_is_the_next_batch() -> None:
    slow = Slow()
    batches = Batches[int]("batches", slow.work, lambda jobs: sum(jobs) < 6)
    assert batches.put(1)
    assert slow.begun.wait(60)
    for job in (1, 2, 3, 4, 9, 5):
        assert batches.put(job)
    closing = threading.Thread(target=batches.close)
    closing.start()
    slow.go_on.set()
    closing.join()
    assert slow.seen == [[1], [1, 2, 3], [4, 9], [5]]
    assert slow.threads == {"batches"}
    assert batches.closed
    assert not batches.put(7)
    batches.close()
    assert slow.seen[-1] == [5]


def test_nothing_is_started_for_nothing() -> None:
    begun: list[str] = []
    done = threading.Event()
    batches = Batches[int](
        "batches",
        lambda jobs: done.set(),
        lambda jobs: True,
        begin=lambda: begun.append(threading.current_thread().name),
    )
    assert "batches" not in {thread.name for thread in threading.enumerate()}
    assert batches.put(1)
    assert done.wait(60)
    batches.close()
    assert begun == ["batches"]
    Batches[int]("idle", lambda jobs: None, lambda jobs: True).close()


def test_a_thread_that_failed_is_followed_by_another() -> None:
    done: list[list[int]] = []
    failed = threading.Event()
    seen = threading.Event()

    def work(jobs: list[int]) -> None:
        if jobs == [0]:
            raise ZeroDivisionError
        done.append(jobs)
        seen.set()

    before, threading.excepthook = threading.excepthook, lambda _: failed.set()
    try:
        batches = Batches[int]("failing", work, lambda jobs: True)
        batches.put(0)
        assert failed.wait(60)
        for thread in threading.enumerate():
            if thread.name == "failing":
                thread.join()
        batches.put(1)
        assert seen.wait(60)
        batches.close()
    finally:
        threading.excepthook = before
    assert done == [[1]]


def test_what_is_done_is_not_kept() -> None:
    class Job:
        pass

    done = threading.Event()
    batches = Batches[Job]("batches", lambda jobs: done.set(), lambda jobs: True)
    job = Job()
    left = threading.Event()
    weakref.finalize(job, left.set)
    assert batches.put(job)
    assert done.wait(60)
    del job
    assert left.wait(60)
    batches.close()


def test_the_end_waits_no_longer_than_it_is_told() -> None:
    slow = Slow()
    batches = Batches[int]("batches", slow.work, lambda jobs: True)
    assert batches.put(1)
    assert slow.begun.wait(60)
    batches.close(0.01)
    assert not batches.put(2)
    slow.go_on.set()
    batches.close()
    assert slow.seen == [[1]]


def test_several_at_once_are_one_batch() -> None:
    seen: list[list[int]] = []
    batches = Batches[int]("batches", seen.append, lambda jobs: len(jobs) < 3)
    assert batches.put(1, 2, 3, 4)
    batches.close()
    assert seen == [[1, 2, 3], [4]]


def test_a_thread_that_could_not_be_prepared_works_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def begin() -> None:
        raise ImportError("a broken library")

    seen: list[list[int]] = []
    batches = Batches[int]("searching", seen.append, lambda jobs: True, begin)
    assert batches.put(1)
    batches.close()
    assert seen == [[1]]
    assert "searching: could not be prepared" in caplog.text


def test_what_waited_while_it_failed_is_done() -> None:
    failing, done = threading.Event(), threading.Event()

    def work(jobs: list[int]) -> None:
        if jobs == [0]:
            assert failing.wait(60)
            raise RuntimeError("on purpose")
        done.set()

    before, threading.excepthook = threading.excepthook, lambda told: None
    try:
        batches = Batches[int]("failing", work, lambda jobs: False)
        batches.put(0)
        batches.put(1)
        failing.set()
        assert done.wait(60), "without another put"
        batches.close()
    finally:
        threading.excepthook = before
