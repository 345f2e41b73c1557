"""A hub on loopback: the few calls that `huggingface_hub` makes to create a repository and commit a folder.

Files arrive as on the real one: small ones inside the commit, those that the server wants as large files by a
`PUT` of their own, and the commit then names their digest. Without a token it answers 401.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import serving

TOKEN = "hf_of_nobody"


@dataclass
class Hub:
    """What the stand-in was told."""

    address: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    """Whether it is private, by name."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Of the last commit, by path."""
    messages: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by digest."""
    unknown: list[str] = field(default_factory=list)
    """Calls that it has no answer to."""


@contextmanager
def a_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            data = self._body()
            hub.stored[sha256(data).hexdigest()] = data
            self._answer({})

        def do_POST(self) -> None:
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer({"error": "Invalid credentials in Authorization header"}, 401)
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repos.setdefault(name, asked.get("visibility") == "private")
                self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
            elif self.path.endswith("/preupload/main"):
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = [
                    {"path": n, "uploadMode": "lfs" if n.endswith(".safetensors") else "regular"}
                    | {"shouldIgnore": False}
                    for n in names
                ]
                self._answer({"files": modes})
            elif self.path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.address}/store/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                self._answer({"transfer": "basic", "objects": objects})
            elif self.path.endswith("/commit/main"):
                self._commit([json.loads(line) for line in body.splitlines()])
            else:
                hub.unknown.append(f"POST {self.path}")
                self._answer({"error": "not here"}, 404)

        def do_GET(self) -> None:
            hub.unknown.append(f"GET {self.path}")
            self._answer({"error": "not here"}, 404)

        def _commit(self, lines: list[dict[str, Any]]) -> None:
            hub.files = {}
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.stored[value["oid"]]
            name = "/".join(self.path.split("/")[3:5])
            answer = {"success": True, "commitOid": "0" * 40}
            self._answer(answer | {"commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}"})

    with serving(Handler) as hub.address:
        yield hub
