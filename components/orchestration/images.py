"""The image that a stage runs in: `make images` tags images by commit, and a stage uses the one of its commit."""

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def image_of(image: str, commit: str) -> str:
    """The image of params.yaml if it has a tag or a digest; else with the commit as its tag."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:{commit}"


def own_commit() -> str:
    """The commit of this code: of its image (docker/), or of the checkout."""
    if commit := os.environ.get("REELIGN_COMMIT_OF_IMAGE"):
        return commit
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()
