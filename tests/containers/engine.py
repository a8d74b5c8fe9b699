"""A Docker engine of the tests' own, the base image it starts from, and the images that `make images` builds in it.

Its data lie in .images/engine, so that a second run finds base image and layers; all else of it goes away with it.
"""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".images"
BASE = "python:3.11-slim-bookworm"  # as the Dockerfiles name it
PACKAGES = ("docker.io", "debootstrap", "busybox-static")


def git_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def why_not() -> str | None:
    """Why no engine can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root: it starts a Docker engine"
    if not shutil.which("dockerd") and not shutil.which("apt-get"):
        return "no dockerd, and no apt-get to install it with"
    return None


def install() -> None:
    """The engine and what images are made of, by apt-get where they are missing; no service is started."""
    if all(shutil.which(program) for program in ("dockerd", "debootstrap", "busybox")):
        return
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], check=True, env=environment)
        subprocess.run(
            ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *PACKAGES],
            check=True, env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        if ours:
            policy.unlink()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a page that links all files of a folder, for builds, which see none of this machine's files."""
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class Engine:
    """dockerd on a socket of its own, without a network of its own: containers share the machine's."""

    def __init__(self):
        self.data = FOLDER / "engine"
        self.run = Path(tempfile.mkdtemp(prefix="reelign-engine-"))
        self.host = f"unix://{self.run}/docker.sock"
        # The engine's own client: a newer one elsewhere may lack the builder.
        self.client = shutil.which("docker", path=f"/usr/bin{os.pathsep}{os.environ['PATH']}")
        self.environment = os.environ | {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.run / "config")}

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", f"--data-root={self.data}", f"--exec-root={self.run}/exec", f"--pidfile={self.run}/pid"]
        command += [f"--host={self.host}", "--iptables=false", "--bridge=none", "--storage-driver=overlay2"]
        with open(self.run / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.run([self.client, "version"], env=self.environment, capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.run / "log").read_text()[-2000:]
                self.process.kill()
                self.process.wait()
                shutil.rmtree(self.run)
                raise RuntimeError(f"dockerd did not start (another on {self.data}?): {said}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End every container and the engine; nothing of it stays mounted, and of earlier commits' images only layers."""
        for container in self("ps", "--all", "--quiet").split():
            self("rm", "--force", "--volumes", container)
        self("volume", "prune", "--force")
        self("image", "prune", "--force")
        self("builder", "prune", "--force", "--keep-storage=6GB")
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "--lazy", mount])
        shutil.rmtree(self.run, ignore_errors=True)

    def mounts(self) -> list[str]:
        """What is mounted below its folders."""
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [point for point in points if point.startswith((f"{self.data}/", f"{self.run}/"))]

    def __call__(self, *arguments: str, code: int = 0, **kwargs) -> str:
        """`docker ARGUMENTS...`; what it printed."""
        done = subprocess.run(
            [self.client, *arguments],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs,
        )  # fmt: skip
        assert done.returncode == code, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def has(self, image: str) -> bool:
        return bool(self("images", "--quiet", image).strip())

    def make_base(self) -> None:
        """What the Dockerfiles start from, made of Debian's packages where no registry is at hand."""
        if self.has(BASE):
            return
        with tempfile.TemporaryDirectory(prefix="reelign-base-") as folder:
            include = "--include=python3,python3-venv,ca-certificates"
            command = ["debootstrap", "--variant=minbase", include, "bookworm", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            shutil.rmtree(f"{folder}/var/cache/apt/archives", ignore_errors=True)
            with subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE) as tar:
                self("import", "-", BASE, stdin=tar.stdout)

    def make_busybox(self, name: str) -> None:
        """A small image of /bin/busybox, for containers that have only to fail."""
        with tempfile.TemporaryDirectory(prefix="reelign-busybox-") as folder:
            bin_folder = Path(folder, "bin")
            bin_folder.mkdir()
            Path(folder, "tmp").mkdir(mode=0o777)
            shutil.copy("/bin/busybox", bin_folder)
            for applet in subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
                if applet != "busybox":
                    (bin_folder / applet).symlink_to("busybox")
            with subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE) as tar:
                self("import", "--change", "ENV PATH=/bin", "-", name, stdin=tar.stdout)

    def make_images(self, *names: str) -> None:
        """`make images` with what this machine has for certificates and packages, passed as secrets of the build."""
        wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
        settings = self.run / "uv.toml"
        secrets = {"ca": os.environ.get("SSL_CERT_FILE"), "uv": settings, "pip": os.environ.get("PIP_CONFIG_FILE")}
        with served(Path(wheels)) if wheels else nullcontext() as links:
            lines = [f'find-links = ["{links}"]\n'] if links else []
            if index := os.environ.get("UV_DEFAULT_INDEX"):
                lines.append(f'index-url = "{index}"\n')
            settings.write_text("".join(lines))
            build = ["--network=host", *(f"--secret=id={key},src={file}" for key, file in secrets.items() if file)]
            variables = {"IMAGES": " ".join(names), "BUILD": " ".join(build), "DOCKER": self.client}
            variables["TORCH"] = "" if links else "cpu"
            command = ["make", "images", *(f"{key}={value}" for key, value in variables.items())]
            before = self("images", "--quiet", "--filter=label=org.opencontainers.image.revision").split()
            subprocess.run(command, cwd=REPOSITORY, env=self.environment, check=True)
            head = git_commit()
            for image in set(before):
                tags = json.loads(self("inspect", "--format={{json .RepoTags}}", image))
                if old := [tag for tag in tags if not tag.endswith(head)]:
                    self("rmi", *old)
