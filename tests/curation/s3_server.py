"""A real S3 server (SeaweedFS) that a test may kill and start again, and a proxy in which answers may be spoilt."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from components.serving.ports import free_ports

PROGRAM = Path(__file__).parents[2] / ".seaweedfs/bin/weed"
# The owner may do everything, the reader only read the bucket "open".
IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": "owner", "secretKey": "owner-secret"}],
            "actions": ["Admin", "Read", "Write", "List"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
            "actions": ["Read:open", "List:open"],
        },
    ]
}
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "owner",
    "AWS_SECRET_ACCESS_KEY": "owner-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Server:
    """SeaweedFS on free ports of the loopback, with its data in `folder`; the same ports and data when started again."""

    def __init__(self, folder: Path):
        self.folder = folder
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        ports = free_ports(2 * len(names))
        self.ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], ports, strict=True))
        self.port = self.ports["s3.port"]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        assert PROGRAM.exists(), f"{PROGRAM} is missing: `make test-s3` installs it"
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "identities.json").write_text(json.dumps(IDENTITIES))
        command = [
            str(PROGRAM), "server", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-s3.config={self.folder}/identities.json", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=1000",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether objects can be written: the gateway answers before the volumes behind it do."""
        try:
            client = self.client(retries={"total_max_attempts": 1}, read_timeout=5)
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")  # this server makes the bucket itself
            return True
        except (BotoCoreError, ClientError):
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        for port in self.ports.values():  # it talks to itself through sockets that it cannot remove now
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def client(self, **config):
        """A client of the owner."""
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", aws_access_key_id="owner", region_name="us-east-1",
            aws_secret_access_key="owner-secret", config=Config(**config),
        )  # fmt: skip


class Proxy:
    """Passes TCP to `port` of this machine. `answers` gets every piece of an answer and how many bytes came before it in
    all; it returns what to pass on, or None to cut the connection."""

    def __init__(self, port: int):
        self.target = port
        self.passed = 0
        self.answers: Callable[[bytes, int], bytes | None] = lambda data, before: data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pass, args=(client, server, lambda data: data), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self._answer), daemon=True).start()

    def _answer(self, data: bytes) -> bytes | None:
        with self._lock:
            before = self.passed
            self.passed += len(data)
            return self.answers(data, before)  # one at a time, so that a test may count

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes | None]) -> None:
        with contextlib.suppress(OSError):  # one side is gone: so is the other
            while (data := source.recv(1 << 16)) and (data := change(data)):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
