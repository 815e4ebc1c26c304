"""Servers on loopback that stand for W&B and MLflow: one that works and remembers, and many that do not."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4


class Uploads:
    """What a server was sent.

    Attributes:
        history: Rows that were logged, in order.
        files: Contents by name.
        runs: Variables of the requests that made or changed a run.
        names: Of the runs.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.runs: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.names: set[str] = set()


class WandbServer(ThreadingHTTPServer):
    """Speaks as much of W&B's protocol (version 0.31) as a run needs.

    Args:
        breaks: What is wrong with it: None, or "401", "500", "garbage", "malformed", "silent".
        after: Requests that it answers rightly before that.
    """

    daemon_threads = True

    def __init__(self, breaks: str | None = None, after: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), WandbHandler)
        self.uploads = Uploads()
        self.breaks = breaks
        self.after = after

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class WandbHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def body(self) -> bytes:
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def is_broken(self) -> bool:
        """Answer wrongly, if that is what this server does by now."""
        server = self.server
        server.uploads.requests.append(self.path)
        if server.breaks is None or len(server.uploads.requests) <= server.after:
            return False
        if server.breaks == "silent":
            time.sleep(600)
        elif server.breaks == "garbage":
            self.wfile.write(b"\x00\xff not http at all\r\n" * 10)
            self.close_connection = True
        elif server.breaks == "malformed":
            self.answer({"data": {"upsertBucket": 7, "viewer": [], "createRunFiles": "no"}})
        else:
            self.answer({"error": "no"}, int(server.breaks))
        return True

    def answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if not self.is_broken():
            self.answer({})

    def do_PUT(self) -> None:
        content = self.body()
        if not self.is_broken():
            self.server.uploads.files[self.path.removeprefix("/upload/")] = content
            self.answer({})

    def do_POST(self) -> None:
        content = self.body()
        if self.is_broken():
            return
        if self.path == "/graphql":
            request = json.loads(content)
            self.answer({"data": self.graphql(request["query"], request.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            self.file_stream(json.loads(content))
            self.answer({"limits": {}})
        else:
            self.answer({})

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            self.server.uploads.runs.append(variables)
            is_new = variables.get("name") not in self.server.uploads.names
            self.server.uploads.names.add(variables.get("name"))
            name = variables.get("name") or "run"
            project = {"name": variables.get("project") or "project", "entity": {"name": "me"}}
            bucket = {"id": "abc", "name": name, "displayName": variables.get("displayName") or name}
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": is_new}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "abc", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "model" in query and "bucket" in query:  # is there such a run already?
            is_known = variables.get("name") in self.server.uploads.names
            project = {"id": "p", "name": variables.get("project"), "entity": {"id": "me", "name": "me"}}
            return {"model": project | {"bucket": self.resumed(variables["name"]) if is_known else None}}
        return {}

    def resumed(self, name: str) -> dict[str, Any]:
        """What a run that goes on is told of itself."""
        uploads = self.server.uploads
        counts = {"logLineCount": 0, "historyLineCount": len(uploads.history), "eventsLineCount": 0}
        tail = {"historyTail": json.dumps([json.dumps(row) for row in uploads.history[-1:]]), "eventsTail": "[]"}
        texts = {"summaryMetrics": json.dumps(uploads.summary), "config": "{}", "wandbConfig": '{"t": 1}'}
        return {"id": "abc", "name": name, "displayName": name, "tags": [], "notes": None, **counts, **tail, **texts}

    def file_stream(self, content: dict[str, Any]) -> None:
        files = content.get("files") or {}
        history = files.get("wandb-history.jsonl", {})
        rows = [json.loads(line) for line in history.get("content", ())]
        start = history.get("offset", 0)  # what is sent again takes the place of what was
        self.server.uploads.history[start : start + len(rows)] = rows
        for line in files.get("wandb-summary.json", {}).get("content", ()):
            self.server.uploads.summary = json.loads(line)


@contextlib.contextmanager
def serving(breaks: str | None = None, after: int = 0) -> Iterator[WandbServer]:
    """A server that runs until the end of the block."""
    server = WandbServer(breaks, after)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refusing() -> str:
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
