"""``--push hf`` against a server that answers those calls of the hub's that huggingface_hub makes for small files.

It is no hub: it takes every file inside the commit, where the hub wants large ones in a storage of its own beforehand.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tasks.errors import InputError, SaemillError
from tasks.progress import silent
from tasks.publish.hub_push import PushedRepo
from tasks.publish.pushing import push
from tests.publish.conftest import Build, tree

REPO, TOKEN = "org/tiny-saes", "hf_secret_of_tests"


@dataclass
class Hub:
    """One repository."""

    exists: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    """By name, how many commits there were."""
    tagged: str = ""
    """The revision that was tagged last."""
    lose_the_answer_to: str = ""
    """The next call of such a path is done and answered with 504."""
    refuse: int = 0

    def files(self) -> dict[str, bytes]:
        return {name: data for commit in self.commits for name, data in commit.items()}

    def call(self, method: str, path: str, data: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            status, self.exists = (409 if self.exists else 200), True
            return status, {"url": f"https://huggingface.co/{REPO}", "name": REPO}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith(f"/api/models/{REPO}/refs"):
            tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": "0" * 40} for name in self.tags]
            return 200, {"branches": [], "converts": [], "tags": tags}
        if "/preupload/" in path:
            return 200, {"files": [self._mode(each["path"]) for each in json.loads(data)["files"]]}
        if "/commit/" in path:
            lines = [json.loads(line) for line in data.splitlines()]
            added = [line["value"] for line in lines if line["key"] == "file"]
            self.commits.append({each["path"]: base64.b64decode(each["content"]) for each in added})
            return 200, {"commitUrl": f"https://huggingface.co/{REPO}/commit/{'1' * 40}", "commitOid": "1" * 40}
        if "/tag/" in path:
            self.tags[json.loads(data)["tag"]] = len(self.commits)
            self.tagged = path.rpartition("/")[2]
            return 200, {}
        return 200, {"id": REPO, "sha": "1" * 40}

    def _mode(self, path: str) -> dict[str, Any]:
        """With the id that git gives a file's content, where there is one."""
        data = self.files().get(path)
        oid = None if data is None else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = found.call(self.command, self.path, data)
            if found.refuse or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, answer = found.refuse or 401, {"error": "You may not"}
            if found.lose_the_answer_to and re.search(found.lose_the_answer_to, self.path):
                found.lose_the_answer_to, status = "", 504
            told = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def do_POST(self) -> None:
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def send(folder: str, where: str = f"hf:{REPO}") -> PushedRepo:
    found = push(folder, where, silent)
    assert isinstance(found, PushedRepo)
    return found


def test_the_hub_gets_the_folder_in_one_commit_with_a_tag(make: Build, hub: Hub) -> None:
    uri = Path(make(["hf"]).uri)
    (uri / "hub/.tmp-0123").write_text("what a killed build left behind")
    first = send(str(uri))
    assert len(hub.commits) == 1
    (uri / "hub/.tmp-0123").unlink()
    assert hub.files() == tree(uri / "hub")
    assert hub.tags == {first.tag: 1}
    assert hub.tagged == "1" * 40, "the commit, whatever came after it"
    again = send(str(uri))
    assert (first.earlier, again.earlier, again.tag) == (False, True, first.tag)
    assert len(hub.commits) == 1


@pytest.mark.parametrize("call", ["/commit/", "/tag/"])
def test_a_push_whose_answer_is_lost_is_finished_by_the_same_command(call: str, make: Build, hub: Hub) -> None:
    uri = make(["hf"]).uri
    hub.lose_the_answer_to = call
    with pytest.raises(SaemillError, match=r"does not answer .* The same command goes on") as told:
        send(uri)
    assert TOKEN not in str(told.value)
    found = send(uri)
    assert len(hub.commits) == 1
    assert hub.tags == {found.tag: 1}


def test_what_the_hub_refuses_is_told(make: Build, hub: Hub) -> None:
    uri = make(["hf"]).uri
    hub.refuse = 403
    with pytest.raises(InputError, match="The hub refuses to take org/tiny-saes") as refused:
        send(uri)
    assert TOKEN not in str(refused.value)
    with pytest.raises(InputError, match="names no repository"):
        send(uri, "hf:tiny-saes")


def test_a_folder_without_one_for_the_hub_is_refused(make: Build, hub: Hub) -> None:
    with pytest.raises(InputError, match="build it with --to hf"):
        send(make(["neuronpedia"]).uri)
    assert not hub.exists
