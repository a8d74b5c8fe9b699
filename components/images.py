"""Which image a stage runs in: `make images` tags them by commit, and a stage wants the one of the commit that it runs."""

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def image_of(image: str, commit: str) -> str:
    """The image as params.yaml names it, if that has a tag or a digest; else that of a commit."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:{commit}"


def own_commit() -> str:
    """The commit of this code: of the image that it lies in (docker/), or of the checkout."""
    if commit := os.environ.get("REELIGN_COMMIT_OF_IMAGE"):
        return commit
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()
