"""Servers that take a password in their address: files by HTTP, as DVC's remote, and MLflow."""

import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.serving.ports import free_ports

USER = "me"


@contextmanager
def files(folder: Path, password: str) -> Iterator[str]:
    """The address of a server that keeps what is posted to it in a folder."""
    needed = "Basic " + b64encode(f"{USER}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self, with_body: bool = True) -> None:
            file = self.file()
            if file is None or not file.is_file():
                return self.answer(401 if file is None else 404)
            self.answer(200, file.read_bytes(), with_body)

        def do_HEAD(self) -> None:
            self.do_GET(with_body=False)

        def do_POST(self) -> None:
            content, file = self.body(), self.file()
            if file is None:
                return self.answer(401)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            self.answer(200)

        def body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def file(self) -> Path | None:
            """None without the password."""
            path = unquote(urlsplit(self.path).path).lstrip("/")
            return folder / path if self.headers.get("Authorization") == needed else None

        def answer(self, code: int, content: bytes = b"", with_body: bool = True) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{USER}:{password}@127.0.0.1:{server.server_port}/dvc"
    finally:
        server.shutdown()


@contextmanager
def mlflow(folder: Path, password: str, program: Path, log: Path) -> Iterator[str]:
    """The address of an MLflow server on the embedded store of a folder. It lets everybody in: the password is in the
    address alone."""
    port = free_ports(1)[0]
    command = [program, "server", "--host", "127.0.0.1", "--port", port, "--workers", 1]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "mlartifacts"]
    with open(log, "w") as stream:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=stream, stderr=stream, start_new_session=True,  # it has processes of its own
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://{USER}:{password}@127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
