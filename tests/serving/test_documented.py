"""The requests that pages show for curl, sent to a real server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from components.reward.score import RewardModel
from tests.documented import blocks

PAGES = ("README.md", "docs/how-to/serve.md")


def request_of(page: str) -> str:
    (found,) = (body for _, body in blocks(Path(page).read_text(), "sh") if "curl" in body)
    return found


def test_all_pages_show_the_same_request():
    assert request_of(PAGES[0]) == request_of(PAGES[1])


@pytest.mark.serving
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("prompt", ["a red circle", "ein grüner Kreis: 50% links"])
def test_curl_gets_the_local_score(server, videos, model_folder, tmp_path, prompt):
    shutil.copyfile(videos[0], tmp_path / "clip.mp4")
    (local,) = RewardModel.load(model_folder).score([(videos[0], prompt)])
    script = request_of("README.md").replace("127.0.0.1:8000", server.http).replace('"a red circle"', f'"{prompt}"')
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    outputs = {output["name"]: output["data"] for output in json.loads(done.stdout)["outputs"]}
    assert outputs["overall"] == pytest.approx([local.overall], abs=1e-5)
    names = bytes(outputs["dimensions"]).decode().split(",")
    assert dict(zip(names, outputs["normalised"], strict=True)) == pytest.approx(local.normalised, abs=1e-5)
