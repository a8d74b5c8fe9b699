"""Start Label Studio, open-source edition, from an environment of its own: `reelign annotate serve`.

Nothing is sent anywhere: usage figures, error reports and the look for a newer version are off. The only files it may
serve are the videos of FOLDER/media, and those only to people with an account.
"""

import os
import socket
from pathlib import Path

from components.annotation.tasks import VIDEOS
from components.errors import BadInput

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-label-studio"


def command(port: int, address: str = "127.0.0.1", environment: Path = ENVIRONMENT) -> list[str]:
    """The server's command line. BadInput where Label Studio is not installed or the port is taken (it would silently
    take another)."""
    program = environment / "bin/label-studio"
    if not program.exists():
        raise BadInput(program, "missing; `make annotation-server` installs it")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BadInput("--port", f"{port} is taken")
    return [str(program), "start", "--no-browser", "--internal-host", address, "--port", str(port), "--log-level", "ERROR"]


def environment(folder: Path) -> dict[str, str]:
    """The server's environment variables. Its data base, its secret key and uploads lie in FOLDER/label-studio."""
    if not (folder / VIDEOS).is_dir():
        raise BadInput(folder / VIDEOS, "missing; `reelign annotate export` makes it")
    data = folder.resolve() / "label-studio"
    data.mkdir(exist_ok=True)
    data.chmod(0o700)  # accounts and sessions
    settings = {
        "BASE_DATA_DIR": str(data),
        "LOCAL_FILES_SERVING_ENABLED": "true",
        # A storage must lie below this, so that key.csv is out of reach even for those who may add storages.
        "LOCAL_FILES_DOCUMENT_ROOT": str((folder / VIDEOS).resolve().parent),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        # Without an owner by name, the first to sign up is the owner, so that must be possible then.
        "DISABLE_SIGNUP_WITHOUT_LINK": str("LABEL_STUDIO_USERNAME" in os.environ).lower(),
    }
    return os.environ | {f"LABEL_STUDIO_{name}": value for name, value in settings.items()}
