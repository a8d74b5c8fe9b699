"""`reelign gateway` as a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.running import heed_interrupts, until


@contextmanager
def gateway_process(grpc: str, log: Path, *options: str) -> Iterator[str]:
    """Its address. It ends by a signal, with exit status 130."""
    command = [sys.executable, "-m", "components.cli.main", "gateway", "--triton", f"grpc://{grpc}", "--port", "0"]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, *options], stdout=stream, stderr=stream, preexec_fn=heed_interrupts)
        try:
            said = log.read_text
            until(lambda: process.poll() is not None or "in front of" in said(), "the gateway's address")
            yield re.search(r"http://[\d.:]+", said())[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130, said()
        finally:
            process.kill()
            process.wait()
