"""A small Hugging Face Hub on localhost: repos with commits, branches and tags, LFS, a list of models.

The real `huggingface_hub` client talks to it: through `HF_ENDPOINT` in a process of its own (`hub.environment(home)`),
or in this one (`hub.serve_here(monkeypatch, home)`). It can be told to fail (`hub.fail`), and remembers what it was
asked (`hub.log`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_FakeTokenOfTheTests0123456789"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet")


@dataclass
class Repo:
    """Commits {sha: {path: content}} in order; the names of branches and tags."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), branch, sorted(files))).encode()).hexdigest()
        self.commits[sha], self.refs[branch] = files, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """What the branch main holds."""
        return self.commits[self.refs["main"]]


class FakeHub:
    """The server; a context manager.

    Attributes:
        repos: {(kind, id): Repo}, kind one of model, dataset, space.
        log: (method, path) of every request.
        fail: asked with (method, path) before a request is answered: an HTTP status, 0 to drop the connection, or None.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], int | None] = lambda method, path: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def add(self, name: str, folder: Path, kind: str = "model") -> str:
        """Put a folder's files into a repo, without the client; returns the commit."""
        repo = self.repos.setdefault((kind, name), Repo())
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return repo.commit(files, "added")

    def downloads(self, name: str, file: str) -> int:
        """How often a file's content was fetched."""
        pattern = re.compile(rf"/{re.escape(name)}/resolve/[^/]+/{re.escape(file)}")
        return sum(method == "GET" and bool(pattern.fullmatch(path)) for method, path in self.log)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a process that takes this for the Hub."""
        kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
        return {
            **kept, "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_SAFETENSORS_CONVERSION": "1", **more,
        }  # fmt: skip

    def serve_here(self, monkeypatch, home: Path) -> None:
        """Let the client in this process take this for the Hub."""
        from huggingface_hub import constants, hf_api

        for name, value in {
            "ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(home / "token"),
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        from transformers.utils import hub as transformers_hub

        monkeypatch.setattr(transformers_hub, "_hf_api", None)  # these two keep the address they were made with
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do(self) -> None:
        url = urlsplit(self.path)
        path, body = unquote(url.path), self._body()
        self.hub.log.append((self.command, path))
        status = self.hub.fail(self.command, path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
        elif status:
            self._refuse(status, "ToldToFail")
        elif self.command in ("POST", "PUT") and not path.startswith("/lfs/") and not self._is_known():
            self._refuse(401, "Unauthorized")
        else:
            self._answer(path, parse_qs(url.query), body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def _answer(self, path: str, query: dict, body: bytes) -> None:
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/models":
            self._list(query)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path.startswith("/lfs/"):
            self.hub.lfs[path.split("/")[-1]] = body
            self._send(200)
        elif match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?", path):
            kind, name, rest = match.groups()
            repo = self._visible(kind, name)
            self._of_repo(repo, name, rest or "revision/main", body) if repo else self._refuse(404, "RepoNotFound")
        elif match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = match.groups()
            repo = self._visible(kind or "model", name)
            self._file(repo, revision, file) if repo else self._refuse(404, "RepoNotFound")
        else:
            self._refuse(404, "RepoNotFound")

    def _of_repo(self, repo: Repo, name: str, rest: str, body: bytes) -> None:
        what, _, tail = rest.partition("/")
        if what == "preupload":
            modes = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(LFS_SUFFIXES) else "regular",
                 "shouldIgnore": False} for each in json.loads(body)["files"]
            ]  # fmt: skip
            self._json({"files": modes})
        elif what == "commit":
            self._commit(repo, name, tail, body)
        elif what in ("branch", "tag"):
            asked = json.loads(body or b"{}")
            exists = tail in repo.refs
            repo.refs.setdefault(tail, repo.at(asked.get("startingPoint") or "main"))
            self._refuse(409, "Conflict") if exists else self._json({})
        elif what == "revision":
            sha = repo.at(tail)
            self._json(self._info(name, repo, sha)) if sha else self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            revision, _, under = tail.partition("/")
            files = repo.commits[repo.at(revision)]
            inside = [p for p in files if p.startswith(f"{under}/" if under else "")]
            self._json([_entry(p, files[p]) for p in inside])
        elif what == "paths-info":
            files = repo.commits[repo.at(tail)]
            self._json([_entry(p, files[p]) for p in json.loads(body)["paths"] if p in files])
        else:
            self._refuse(404, "EntryNotFound")

    def _commit(self, repo: Repo, name: str, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        head = repo.at(branch)
        if header.get("parentCommit", head) != head:
            self._refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files, header["summary"], branch)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _create(self, asked: dict) -> None:
        name, kind = f"{asked.get('organization') or 'tester'}/{asked['name']}", asked.get("type") or "model"
        exists = (kind, name) in self.hub.repos
        if not exists:
            visibility = asked.get("private") or asked.get("visibility") == "private"
            repo = Repo(private=bool(visibility), settings=asked)
            repo.commit({".gitattributes": b""}, "initial commit")
            self.hub.repos[kind, name] = repo
        self._json({"url": f"{self.hub.url}/{name}", "id": name, "name": name}, 409 if exists else 200)

    def _list(self, query: dict) -> None:
        wanted = set(query.get("filter", []))
        found = [
            self._info(name, repo, repo.refs["main"])
            for (kind, name), repo in self.hub.repos.items()
            if kind == "model" and (not repo.private or self._is_known())
        ]
        self._json([info for info in found if wanted <= set(info["tags"])])

    def _info(self, name: str, repo: Repo, sha: str) -> dict:
        card = {}
        if text := repo.commits[sha].get("README.md", b"").decode():
            card = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        return {
            "_id": name, "id": name, "modelId": name, "sha": sha, "private": repo.private, "downloads": 3, "likes": 1,
            "tags": card.get("tags", []), "cardData": card, "siblings": siblings, "pipeline_tag": None,
        }  # fmt: skip

    def _file(self, repo: Repo, revision: str, file: str) -> None:
        sha = repo.at(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound")
        elif file not in repo.commits[sha]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        else:
            content = repo.commits[sha][file]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    def _visible(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        return None if repo is None or (repo.private and not self._is_known()) else repo

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, content, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, name: str, headers: dict | None = None) -> None:
        body = json.dumps({"error": name}).encode()
        self._send(status, body, {"X-Error-Code": name, "X-Error-Message": name, **(headers or {})})

    def _send(self, status: int, body: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
