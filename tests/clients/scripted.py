"""A real HTTP server that answers with bytes fixed in advance, and notes what it was asked."""

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EVENT_STREAM = {"content-type": "text/event-stream"}


@dataclass(frozen=True)
class Answer:
    """`chunks` go out one by one, `pause` seconds apart. With `stay` the connection is then held
    until the client leaves; with `cut` it is dropped inside the body; with `reset` it is reset
    before the first byte."""

    chunks: tuple[bytes, ...] = (b"{}",)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    stay: bool = False
    cut: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedServer(ThreadingHTTPServer):
    """`script[path]` holds the answers to come; the last one repeats."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: dict[str, list[Answer]] = {"/readyz": [Answer()]}
        self.asked: list[Asked] = []
        self.begun = threading.Event()
        """Set when a request has come."""
        self.left = threading.Event()
        """Set when a client hung up before it had the whole answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked_for(self, path: str) -> list[Asked]:
        return [request for request in self.asked if request.path.partition("?")[0] == path]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, headers, body))
        self.server.begun.set()
        answers = self.server.script.get(self.path.partition("?")[0], [Answer(status=404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.reset:
            self._reset()
        else:
            try:
                self._send(answer)
            except (BrokenPipeError, ConnectionResetError):
                self.server.left.set()

    def _reset(self) -> None:
        """Closing a socket that may not linger sends RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("connection", "close")
        for name, value in {**answer.headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in answer.chunks:
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
            time.sleep(answer.pause)
        if answer.stay and select.select([self.connection], [], [], 30)[0]:
            self.server.left.set()
        elif not answer.cut:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def frame(event: str, **data: Any) -> bytes:
    """One event as the server writes it."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cached_tokens": 0}
USAGE |= {"images_in": 0, "images_out": 1, "dropped_turns": 0}
TIMINGS = {"queue_ms": 0.5, "ttft_ms": 20.0, "total_ms": 120.0}
END = {"finish_reason": "stop", "usage": USAGE, "timings": TIMINGS}


def image(id: str = "a1", **changes: Any) -> dict[str, Any]:
    """An image of a collection, as replies hold it."""
    base = {"id": id, "collection": "demo", "key": f"{id}.png", "score": 0.5}
    base |= {"url": f"/v1/images/demo/{id}", "width": 64, "height": 64}
    return {**base, "metadata": {"caption": "an elephant"}, **changes}


def image_part(**changes: Any) -> dict[str, Any]:
    return {"type": "image", "ret_index": 0, "image": image(**changes), "alternatives": []}


START_FRAME = frame("message.start", id="r1", model="demo")
END_FRAME = frame("message.end", **END)


def answer(body: Any, **options: Any) -> Answer:
    return Answer((json.dumps(body).encode(),), **options)


def error(status: int, type_: str, message: str = "no", code: str = "c", **headers: str) -> Answer:
    body = {"type": type_, "code": code, "message": message, "param": "p"}
    return answer({"error": body}, status=status, headers=headers)


def stream(*frames: bytes, **options: Any) -> Answer:
    return Answer(frames, headers=EVENT_STREAM, **options)


def reply_stream(*texts: str, **options: Any) -> Answer:
    """A whole reply of text, one delta for each of `texts`."""
    deltas = (frame("text.delta", index=0, text=text) for text in texts)
    return stream(START_FRAME, *deltas, END_FRAME, **options)
