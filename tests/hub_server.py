"""A hub on this machine: the part of Hugging Face's HTTP API that a download needs, with faults on request.

``resolve`` with ETag, commit and length, large files behind a redirect to another host, the listing of a commit,
and the errors the hub tells apart by ``X-Error-Code``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

TOKEN = "hf_good"
LARGE = (".safetensors", ".bin", ".h5", ".onnx")  # what the hub keeps behind a redirect
CUT, SHORT, DEAD = "cut", "short", "dead"
"""Faults of a download: the connection ends half way; the file is shorter than announced; nothing comes at all."""


@dataclass
class Repo:
    """Commits, newest last, by their hash; each is its files by path."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Mapping[str, bytes], *names: str) -> str:
        """Add a commit, point ``main`` and ``names`` to it, and return its hash."""
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files.items())}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs |= dict.fromkeys(("main", *names), sha)
        return sha

    def commit_folder(self, folder: Path, *names: str, **more: bytes) -> str:
        """Add a commit of what a folder holds."""
        return self.commit({p.name: p.read_bytes() for p in folder.iterdir()} | more, *names)

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


class Hub:
    """Serves its ``repos`` at ``url`` while the ``with`` block runs.

    ``moved`` has new names of old ids, ``faults`` the faults of a file's next downloads, ``status`` an HTTP error that
    every request gets, ``requests`` what was asked so far.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}
        self.faults: dict[str, list[str]] = {}
        self.status = 0
        self.requests: list[Request] = []
        hub = self

        class Handler(_Handler):
            def __init__(self, *args) -> None:
                self.hub = hub
                super().__init__(*args)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def repo(self, name: str) -> Repo:
        """Return the repository of a name, made on first use."""
        return self.repos.setdefault(name, Repo())

    def paths(self) -> list[str]:
        """Return the paths asked for since the last call."""
        seen, self.requests = [request.path for request in self.requests], []
        return seen

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, dict(self.headers.items())))
        if self.hub.status:
            return self._send(self.hub.status)
        if path.startswith("/cdn/"):
            _, _, sha, name = path.split("/", 3)
            return self._blob(next(c[sha][name] for r in self.hub.repos.values() if sha in (c := r.commits)), name)
        kind = "tree" if path.startswith("/api/models/") else "resolve"
        repo_id, _, rest = path.removeprefix("/api/models").removeprefix("/").partition(f"/{kind}/")
        if repo_id in self.hub.moved:
            return self._send(307, Location=self.path.replace(repo_id, self.hub.moved[repo_id], 1))
        repo = self.hub.repos.get(repo_id)
        if repo is None or not rest:
            return self._send(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if repo.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._send(401, X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted")
        revision, _, name = rest.partition("/")
        sha = repo.resolve(revision)
        if sha is None:
            return self._send(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return self._tree(repo.commits[sha]) if kind == "tree" else self._file(repo.commits[sha], sha, name)

    def _tree(self, files: Mapping[str, bytes]) -> None:
        folders = {name.rpartition("/")[0] for name in files if "/" in name}
        listing = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        listing += [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in files.items()
        ]
        self._send(200, json.dumps(listing).encode(), Content_Type="application/json")

    def _file(self, files: Mapping[str, bytes], sha: str, name: str) -> None:
        body = files.get(name)
        if body is None:
            return self._send(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=sha)
        if not name.endswith(LARGE):
            return self._blob(body, name, X_Repo_Commit=sha, ETag=f'"{hashlib.sha1(body).hexdigest()}"')
        return self._send(
            302,
            Location=f"http://localhost:{self.hub.port}/cdn/{sha}/{name}",  # another host, which must not see the token
            X_Repo_Commit=sha,
            X_Linked_ETag=f'"{hashlib.sha256(body).hexdigest()}"',
            X_Linked_Size=str(len(body)),
        )

    def _blob(self, body: bytes, name: str, **headers: str) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        faults = self.hub.faults.get(name, []) if self.command == "GET" else []
        fault = faults.pop(0) if faults else ""
        if fault == SHORT:
            part = part[:-7]
        announced = len(part)
        if fault in (CUT, DEAD):
            part = part[: len(part) // 2] if fault == CUT else b""
            self.close_connection = True
        self._send(206 if asked else 200, part, Content_Length=str(announced), **headers)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
