"""A program with its own children, whose last lines are kept: what its end is reported by."""

import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import psutil


class Launched:
    """A running program. Its standard error is passed on."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]):
        self.process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, stderr=subprocess.PIPE)
        self.lines: deque[str] = deque(maxlen=200)
        self.reader = threading.Thread(target=self._pass_on, daemon=True)
        self.reader.start()

    def code(self) -> int | None:
        """Exit code as in shells, once the program has ended and all its lines are read."""
        code = self.process.poll()
        if code is None:
            return None
        self.reader.join(2)  # a child that lives on may hold the pipe
        return code if code >= 0 else 128 - code

    def last_line(self) -> str:
        """The last error line, else the last line."""
        code = self.code() or 0
        if code > 128:
            return f"process of the stage ended by signal {code - 128}"
        lines = [line for line in self.lines if line.strip()]
        return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")

    def end(self) -> None:
        """Kill the program with its children, where they still run."""
        if self.process.poll() is not None:
            return
        parent = psutil.Process(self.process.pid)
        for process in [*parent.children(recursive=True), parent]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(60)

    def _pass_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
