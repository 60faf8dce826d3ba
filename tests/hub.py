"""A Hugging Face hub on loopback that serves models from a folder, and writes them: ROOT/USER/NAME/FILE."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.running import Handler, Server, running

COMMIT = "a" * 40


class Hub(Server):
    """Every model has one commit, which is `main` and `v1`. `requests` has the paths that were asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(_Handler)
        self.root = root
        self.requests: list[str] = []
        self.closed_to: set[str] = set()  # models that are gated
        self.is_down = False
        self.is_read_only = False  # requests that write are refused
        self.made: dict[str, bool] = {}  # repositories that were made, and whether they are private
        self.commits: list[list[str]] = []  # the files of each commit


class _Handler(Handler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        server, content = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if server.is_down:
            self._refuse(503, "")
        elif parts[2:] and parts[-2:-1] == ["paths-info"]:
            wanted = json.loads(content)["paths"]
            self._send([entry for entry in self._tree("/".join(parts[2:4])) if entry["path"] in wanted])
        elif server.is_read_only:
            self._refuse(403, "")
        elif parts == ["api", "repos", "create"]:
            said = json.loads(content)
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            server.made[name] = said.get("visibility") == "private" or bool(said.get("private"))
            (server.root / name).mkdir(parents=True)
            self._send({"url": f"{server.url}/{name}", "name": name})
        elif parts == ["api", "validate-yaml"]:
            self._send({"errors": [], "warnings": []})
        elif "preupload" in parts:
            files = [one["path"] for one in json.loads(content)["files"]]
            self._send(
                {
                    "files": [
                        {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in files
                    ]
                }
            )
        elif "commit" in parts:
            lines = [json.loads(line) for line in content.splitlines()]
            added = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            for path, text in added.items():
                (server.root / "/".join(parts[2:4]) / path).write_bytes(base64.b64decode(text))
            server.commits.append(list(added))
            self._send({"commitUrl": f"{server.url}/{'/'.join(parts[2:4])}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._refuse(404, "EntryNotFound")

    def _tree(self, name: str) -> list[dict[str, Any]]:
        """What the hub says of each file of a model."""
        found = []
        for path in sorted((self.server.root / name).iterdir()):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lfs = {"oid": digest, "sha256": digest, "size": path.stat().st_size, "pointerSize": 134}
            found.append(
                {"type": "file", "path": path.name, "oid": digest[:40], "size": path.stat().st_size, "lfs": lfs}
            )
        return found

    def _api(self, parts: list[str]) -> None:
        """Questions about a model: whether it is there, and its files."""
        name = "/".join(parts[:2])
        if not (self.server.root / name).is_dir():
            self._refuse(404, "RepoNotFound")
        elif parts[2:3] == ["tree"]:
            self._send(self._tree(name))
        else:
            self._send({"_id": "1", "id": name, "sha": COMMIT, "private": False, "siblings": [], "tags": []})

    def _send(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        server.requests.append(self.path)
        asked = unquote(self.path.partition("?")[0]).strip("/").split("/")
        if asked[:2] == ["api", "models"] and not server.is_down:
            self._api(asked[2:])
            return
        user, name, _, revision, *rest = [*self.path.strip("/").split("/"), "", "", "", ""]
        file = server.root / user / name / "/".join(filter(None, rest))
        if server.is_down:
            self._refuse(503, "")
        elif not (server.root / user / name).is_dir():
            self._refuse(404, "RepoNotFound")
        elif f"{user}/{name}" in server.closed_to:
            self._refuse(403, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif not file.is_file():
            self._refuse(404, "EntryNotFound")
        else:
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            content = self.send_range(content)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving_hub(root: Path) -> Iterator[Hub]:
    """A hub of the models in a folder, for the length of a with block."""
    with running(Hub(root)) as server:
        yield server
