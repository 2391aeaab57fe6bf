"""A small Hugging Face hub on the loopback address: what `huggingface_hub` asks when it lists, loads and uploads.

    with HubServer() as hub:
        hub.add("datasets", "owner/name", "main", {"data/a.parquet": b"..."})  # or "models"
        ...                                           # point HF_ENDPOINT at hub.endpoint, and HF_HOME at a folder
        hub.uploads["owner/name"]["config.json"]      # bytes that a client committed
        hub.requests                                  # "GET /api/..." in order

A revision that was never added answers RevisionNotFound, a repository RepoNotFound. `cut` promises a file's whole
size and sends a part of it; `gated` lists a repository's files and refuses to send them; `down` answers 503.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """Repositories in memory, by kind (`datasets` or `models`), name and revision."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.cut: set[str] = set()
        self.gated: set[str] = set()
        self.down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, kind: str, repo: str, revision: str, files: dict[str, bytes]) -> None:
        """Adds files to a revision, made where it is new."""
        self.repos.setdefault((kind, repo), {}).setdefault(revision, {}).update(files)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The variables of a process that knows this hub only and caches below `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {**kept, **ours, "no_proxy": "127.0.0.1", "HF_TOKEN": "hf_test", **more}

    def python(self, code: str, home: Path, **more: str) -> subprocess.CompletedProcess:
        """Runs Python code in a process of its own, with the variables above."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment(home, **more),
            capture_output=True,
            text=True,
            timeout=120,
        )


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = urlsplit(self.path).path
        if self.hub.down:
            self._answer(503, {"error": "down"})
        elif path == "/api/whoami-v2":
            self._answer(200, {"type": "user", "name": "tester", "auth": {"accessToken": {"role": "write"}}})
        elif match := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            kind, repo, what, revision = match.groups()
            self._describe(kind, repo, what, unquote(revision or "main"))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, repo, revision, name = match.groups()
            self._send_file("datasets" if kind else "models", repo, unquote(revision), unquote(name))
        else:
            self._answer(404, {"error": f"no {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.hub.down:
            self._answer(503, {"error": "down"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path):
            kind, repo, what, revision = match.groups()
            if self._revision(kind, repo, unquote(revision)) is not None:
                (self._preupload if what == "preupload" else self._commit)(kind, repo, unquote(revision), body)
        else:
            self._answer(404, {"error": f"no {path}"})

    def _describe(self, kind: str, repo: str, what: str | None, revision: str) -> None:
        files = self._revision(kind, repo, revision)
        if files is None:
            return
        entries = [
            {"type": "file", "path": name, "rfilename": name, "size": len(content), "oid": _digest(content)}
            for name, content in files.items()
        ]
        if what == "tree":
            self._answer(200, entries)
        else:
            self._answer(200, {"_id": "0", "id": repo, "sha": _commit_of(files), "siblings": entries, "tags": []})

    def _send_file(self, kind: str, repo: str, revision: str, name: str) -> None:
        files = self._revision(kind, repo, revision)
        if files is None:
            return
        if repo in self.hub.gated:
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif name not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _commit_of(files)}
            self._answer(404, {"error": "Entry not found"}, headers)
        else:
            content = files[name]
            start = int(re.sub(r"\D.*", "", self.headers.get("Range", "bytes=0-").removeprefix("bytes=")))
            headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": _commit_of(files), "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206 if start else 200, content[start:], headers, cut=name in self.hub.cut)

    def _create(self, asked: dict) -> None:
        repo = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        kind = f"{asked.get('type') or 'model'}s"
        exists = (kind, repo) in self.hub.repos
        self.hub.repos.setdefault((kind, repo), {"main": {}})
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{repo}"
        self._answer(409 if exists else 200, {"url": url, **({"error": "exists"} if exists else {})})

    def _preupload(self, kind: str, repo: str, revision: str, body: bytes) -> None:
        asked = [file["path"] for file in json.loads(body)["files"]]
        modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in asked]
        self._answer(200, {"files": modes})

    def _commit(self, kind: str, repo: str, revision: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.uploads.setdefault(repo, {})[line["value"]["path"]] = content
                self.hub.add(kind, repo, revision, {line["value"]["path"]: content})
        oid = _commit_of(self.hub.repos[kind, repo][revision])
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"})

    def _revision(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        """A revision's files, by name or commit; answers with the hub's error where there is none."""
        revisions = self.hub.repos.get((kind, repo))
        if revisions is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        by_commit = {_commit_of(files): files for files in revisions.values()}
        files = revisions.get(revision, by_commit.get(revision))
        if files is None:
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return files

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


def _commit_of(files: dict[str, bytes]) -> str:
    return _digest(b"".join(f"{name} {_digest(files[name])}".encode() for name in sorted(files)))
