"""A hub of this machine: the few endpoints of the Hugging Face hub that a commit of small files and
a download need, over real HTTP."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """`files` by repository; every commit replaces what it names."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.refuses: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sha(self, repository: str) -> str:
        told = repr(sorted(self.files[repository].items()))
        return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, found: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(found).encode(), Content_Type="application/json", **headers)

    def _missing(self) -> None:
        self._json({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refuses is not None:
            self._json({"error": "You cannot write here"}, self.server.refuses)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.files.setdefault(name, {})
            self.server.private[name] = asked.get("visibility") == "private" or bool(
                asked.get("private")
            )
            self._json({"url": f"{self.server.url}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path.split("?")[0]):
            held = self.server.files[match[1]]
            for line in filter(None, body.splitlines()):
                told = json.loads(line)
                if told["key"] == "file":
                    held[told["value"]["path"]] = base64.b64decode(told["value"]["content"])
            sha = self.server.sha(match[1])
            url = f"{self.server.url}/{match[1]}/commit/{sha}"
            self._json({"success": True, "commitOid": sha, "commitUrl": url})
        else:
            self._missing()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            held = self.server.files.get(match[1])
            if held is None:
                return self._missing()
            found = {"id": match[1], "sha": self.server.sha(match[1]), "private": False}
            siblings = [{"rfilename": name} for name in held]
            return self._json({**found, "siblings": siblings, "tags": [], "downloads": 0})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            held = self.server.files[match[1]]
            return self._json(
                [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(data),
                        "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                    }
                    for name, data in held.items()
                ]
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.server.files.get(match[1], {}).get(match[2])
            if data is None:
                return self._missing()
            etag = hashlib.sha256(data).hexdigest()
            commit = self.server.sha(match[1])
            return self._send(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)
        return self._missing()
