"""A Hugging Face hub on the loopback interface, as far as the published client talks to one."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`requests` are the paths that were asked for, in order."""

    files: Mapping[str, bytes]
    model: str = "org/model"
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)
    gated: bool = False
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def fetched(self) -> set[str]:
        marker = f"/resolve/{COMMIT}/"
        return {path.partition(marker)[2] for path in self.requests if marker in path}


@contextmanager
def fake_hub(hub: FakeHub) -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.requests.append(path)
            if path.startswith("/api/models/"):
                self._model(path.removeprefix("/api/models/"))
            else:
                self._file(path)

        do_HEAD = do_GET

        def _model(self, path: str) -> None:
            name, _, revision = path.partition("/revision/")
            if name != hub.model:
                self._refuse(404, "RepoNotFound")
            elif (revision or "main") not in hub.revisions:
                self._refuse(404, "RevisionNotFound")
            else:
                siblings = [{"rfilename": file} for file in hub.files]
                info = {"id": hub.model, "sha": COMMIT, "siblings": siblings}
                self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def _file(self, path: str) -> None:
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            if hub.gated:
                self._refuse(403, "GatedRepo")
            elif name not in hub.files:
                self._refuse(404, "EntryNotFound")
            else:
                content = hub.files[name]
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Answer
