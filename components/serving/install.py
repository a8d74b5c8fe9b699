"""Put Triton Inference Server into a folder: `python -m components.serving.install`. No system package, no root, no
container, no GPU.

The PyPI package nvidia-pytriton carries a whole stand-alone `tritonserver` with the Python backend. Only that is used,
so nothing it depends on is installed and no environment is touched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from components.errors import BadInput
from components.files.atomic import put_in_place

ROOT = Path(__file__).parents[2]
TRITON = ROOT / ".triton"
LOCK = ROOT / "docker/locks/triton.txt"
SERVER = Path("pytriton/tritonserver")  # within the folder


def install_triton(folder: Path = TRITON) -> Path:
    """Install into `folder` unless it is there already; returns the folder of the server itself.

    BadInput where uv is missing; subprocess.CalledProcessError where it cannot download.
    """
    if (folder / SERVER).exists():
        return folder / SERVER
    uv = shutil.which("uv", path=f"{ROOT / '.uv/bin'}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise BadInput(ROOT / ".uv/bin/uv", "missing; `make setup` makes it")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--requirements", LOCK]
    try:
        subprocess.run([*command, "--python", sys.executable, "--target", partial], check=True)
        # The backend starts the one stub that lies beside it; it must be of the models' own Python.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = partial / SERVER / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, partial / SERVER / "backends/python")
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / SERVER


if __name__ == "__main__":
    print(install_triton())
