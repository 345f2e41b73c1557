"""A stand-in for the service that wandb logs to, on loopback: what its client needs to open a run and end it.

It keeps what arrives: history rows, config, uploaded files. The client that talks to it is the real one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import serving


@dataclass(slots=True)
class Service:
    """What the client sent."""

    url: str = ""
    keys: set[str] = field(default_factory=set)
    """Values of the header `Authorization`."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Variables of every `upsertBucket`."""
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    everything: bytes = b""


@contextmanager
def wandb_service() -> Iterator[Service]:
    """A service that takes whatever comes."""
    service = Service()

    class Handler(_Handler):
        kept = service

    with serving(Handler) as service.url:
        yield service


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: Service

    def log_message(self, *_args: object) -> None:
        """Nothing on stderr."""

    def do_PUT(self) -> None:
        self.kept.files[self.path.removeprefix("/upload/")] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        self.kept.keys.add(self.headers.get("Authorization", ""))
        body = json.loads(self._body())
        if self.path == "/graphql":
            self._answer({"data": self._graphql(body["query"], body.get("variables") or {})})
            return
        # The stream of a run: lines of files, at the end its exit code.
        lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.kept.history += map(json.loads, lines)
        if body.get("complete"):
            self.kept.exit_code = body["exitcode"]
        self._answer({})

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            self.kept.runs.append(given)
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "r", "name": given["name"], "displayName": "r", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [
                {"name": n, "uploadUrl": f"{self.kept.url}/upload/{n}"} for n in given["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": []}}
        return {}

    def _body(self) -> bytes:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        plain = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        self.kept.everything += plain
        return plain

    def _answer(self, tree: dict[str, Any]) -> None:
        text = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
