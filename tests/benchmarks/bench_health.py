"""How fast /healthz answers while replies stream: python -m tests.benchmarks.bench_health

Prints, for an idle server and for one with 8 streams running, the p50 and p99 of GET /healthz in
milliseconds, and their ratio. Talks to a running server (--url).
"""

import argparse
import statistics
import threading
import time

import httpx

STREAMS, PROBES = 8, 200
LONG_REPLY = {
    "prompt": [{"type": "text", "text": "Once upon a time"}],
    "max_tokens": 400,
    "ignore_eos": True,
    "stream": True,
}


def probe(client: httpx.Client, count: int) -> list[float]:
    """Milliseconds of `count` requests, one after another."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        client.get("/healthz").raise_for_status()
        times.append(1000 * (time.perf_counter() - start))
    return times


def stream_until(url: str, stop: threading.Event, deltas: list[int]) -> None:
    """Keep one reply streaming, and count its text deltas."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            with client.stream("POST", "/v1/generate", json=LONG_REPLY) as reply:
                reply.raise_for_status()
                for line in reply.iter_lines():
                    deltas[0] += line.startswith("event: text.delta")
                    if stop.is_set():
                        break


def report(label: str, times: list[float]) -> float:
    median = statistics.median(times)
    p99 = sorted(times)[int(0.99 * len(times))]
    print(f"{label:24s} p50 {median:7.2f} ms   p99 {p99:7.2f} ms")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    url = parser.parse_args().url
    with httpx.Client(base_url=url, timeout=60) as client:
        probe(client, 20)
        idle = report("idle", probe(client, PROBES))
        stop, deltas = threading.Event(), [0]
        threads = [
            threading.Thread(target=stream_until, args=(url, stop, deltas)) for _ in range(STREAMS)
        ]
        for thread in threads:
            thread.start()
        while deltas[0] < STREAMS:
            time.sleep(0.01)
        before = deltas[0]
        busy = report(f"{STREAMS} streams running", probe(client, PROBES))
        print(
            f"deltas streamed meanwhile: {deltas[0] - before}; p50 busy / idle: {busy / idle:.1f}"
        )
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
