"""A stand-in for Label Studio's HTTP API, as far as `reelign annotate push` and `collect` use it: one project, whose tasks
people label while it is looked at. The real server is in tests/annotation/test_label_studio.py."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "f" * 40
PEOPLE = (1, 2, 3)
QUESTIONS = ("VQ", "MQ", "TA")


class Studio:
    """`patience` looks pass before the third person has labelled anything."""

    def __init__(self, patience: int):
        self.project: dict[str, Any] | None = None
        self.tasks: list[dict[str, Any]] = []
        self.looks, self.patience = 0, patience

    def ask(self, method: str, path: str, body: Any) -> Any:
        if path == "/api/projects/":
            if method == "POST":
                self.project = {"id": 1, **body}
                return self.project
            return {"results": [self.project] if self.project else [], "next": None}
        if path.startswith("/api/storages/localfiles"):
            return [] if method == "GET" else body
        if path == "/api/users/":
            return [{"id": person, "email": f"{person}@example.org"} for person in PEOPLE]
        if path.endswith("/import"):
            self.tasks += [{"id": 1 + len(self.tasks) + at, **task} for at, task in enumerate(body)]
            return {"task_count": len(body)}
        if path.endswith("/export"):
            self.looks += 1
            done = PEOPLE if self.looks > self.patience else PEOPLE[:2]
            return [{**task, "annotations": [answer(task["id"], person) for person in done]} for task in self.tasks]
        return self.project


def answer(task: int, person: int) -> dict[str, Any]:
    said = [{"from_name": one, "type": "choices", "value": {"choices": ["A"]}} for one in QUESTIONS]
    return {"id": 10 * task + person, "completed_by": person, "was_cancelled": False, "result": said}


@contextmanager
def serving(studio: Studio) -> Iterator[str]:
    """The address of a server; it lets in who has the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            known = self.headers.get("Authorization") == f"Token {TOKEN}"
            found = studio.ask(self.command, urlsplit(self.path).path, body) if known else {"detail": "Invalid token."}
            data = json.dumps(found).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
