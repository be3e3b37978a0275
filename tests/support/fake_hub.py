"""A hub on this machine: what huggingface_hub asks of one, with the faults that real ones have.

Answers ``/api/models/NAME/revision/REV``, ``/NAME/resolve/REV/FILE`` (HEAD and GET), and sends files in large-file
storage to a second host, as the hub does, which serves ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf")
LARGE_NAMES = ("tokenizer.json",)


@dataclass
class Repository:
    """A repository: files by path. ``gated``: only for `FakeHub.TOKEN`; ``private``: unseen without a token."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    licence: str | None = "apache-2.0"
    base_model: str | None = None

    @property
    def commit(self) -> str:
        """Changes with the contents."""
        whole = hashlib.sha1()
        for path, data in sorted(self.files.items()):
            whole.update(path.encode() + hashlib.sha256(data).digest())
        return whole.hexdigest()

    def large(self, path: str) -> bool:
        """Whether a file is in large-file storage."""
        return path.endswith(LARGE) or path.rpartition("/")[2] in LARGE_NAMES


@dataclass
class Request:
    """A request that came."""

    method: str
    path: str
    range: str | None
    token: str | None
    host: str


@dataclass
class FakeHub:
    """The hub, its storage, and what goes wrong with them.

    Attributes:
        cuts: by file path, after how many bytes each next download of it breaks off; 0: at once.
        statuses: by prefix of a path, answers to give first.
        pause: seconds between blocks of a download. block: their bytes.
        ignores_ranges: whether the storage sends whole files whatever is asked. damage: flips a byte of a file.
        page: answers everything with a web page, as a login page does.
    """

    TOKEN = "hf_right"
    READER = "hf_reader"  # of an account that has accepted no licence
    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    pause: float = 0.0
    block: int = 1 << 16
    ignores_ranges: bool = False
    damage: set[str] = field(default_factory=set)
    page: bool = False
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: dict[str, bytes] | Path, **more: Any) -> Repository:
        """A repository of files, or of all files of a directory."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        self.repositories[name] = Repository(files=dict(files), **more)
        return self.repositories[name]

    def downloads(self, path: str) -> list[Request]:
        """The requests for the contents of a file in large-file storage."""
        return [one for one in self.seen if one.method == "GET" and one.path == f"/storage/{path}"]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host = (self.headers.get("Host") or "").partition(":")[0]
        self.hub.seen.append(Request(self.command, path, self.headers.get("Range"), token, host))
        if self.hub.page:
            return self._send(200, b"<html>Log in to this network</html>", {"Content-Type": "text/html"})
        for prefix, left in self.hub.statuses.items():
            if path.startswith(prefix) and left:
                return self._send(left.pop(0), b"{}", {})
        if token not in (None, self.hub.TOKEN, self.hub.READER):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._listing(found[1], found[2] or "main", token)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], found[2], found[3], token)
        if found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            return self._stored(found[1], found[2])
        return self._refuse(404, "", "Not Found")

    def _repository(self, name: str, revision: str, token: str | None) -> Repository | None:
        """The repository, or None after an answer that says why not."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and token is None):
            # The hub tells nobody without a token whether a repository exists.
            self._refuse(404 if token else 401, "RepoNotFound" if token else "", "Repository not found")
            return None
        if revision not in ("main", found.commit):
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return None
        return found

    def _listing(self, name: str, revision: str, token: str | None) -> None:
        found = self._repository(name, revision, token)
        if found is None:
            return
        siblings = []
        for path, data in found.files.items():
            one: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if found.large(path):
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(one)
        card = {"license": found.licence, "base_model": found.base_model}
        body = {
            "id": name, "modelId": name, "sha": found.commit, "private": found.private,
            "gated": "manual" if found.gated else False, "siblings": siblings, "tags": [],
            "cardData": {key: value for key, value in card.items() if value},
        }  # fmt: skip
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str, token: str | None) -> None:
        found = self._repository(name, revision, token)
        if found is None:
            return
        if found.gated and token != self.hub.TOKEN:
            return self._refuse(401 if token is None else 403, "GatedRepo", f"Access to model {name} is restricted")
        if path not in found.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": found.commit})
        data = found.files[path]
        head = {"X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
        if not found.large(path):
            return self._send(200, data, {**head, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        sha = hashlib.sha256(data).hexdigest()
        where = f"http://localhost:{self.hub.port}/storage/{name}/{path}"
        self._send(302, b"", {**head, "Location": where, "X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data)),
                              "ETag": f'"{sha}"'})  # fmt: skip

    def _stored(self, name: str, path: str) -> None:
        data = self.hub.repositories[name].files[path]
        if path in self.hub.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status, head = 0, 200, {"Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and not self.hub.ignores_ranges:
            start, status = int(asked[1]), 206
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if start >= len(data):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        self._send(status, data[start:], head, cut=self._cut(path))

    def _cut(self, path: str) -> int | None:
        left = self.hub.cuts.get(path)
        return left.pop(0) if left else None

    def _refuse(self, status: int, code: str, message: str, more: dict[str, str] | None = None) -> None:
        head = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(more or {})}
        self._send(status, json.dumps({"error": message}).encode(), head)

    def _send(self, status: int, body: bytes, head: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in head.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for at in range(0, len(body), self.hub.block):
                block = body[at : at + self.hub.block]
                if cut is not None and at + len(block) > cut:
                    self.wfile.write(block[: max(0, cut - at)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(block)
                if self.hub.pause:
                    self.wfile.flush()
                    time.sleep(self.hub.pause)
        except OSError:  # the client has gone
            self.close_connection = True
