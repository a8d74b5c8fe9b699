"""Dockerfiles, read: what a build must not depend on or leave behind. hadolint and checkov look too (`make lint-docker`)."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from components.serving.access import options

FILES = sorted(Path("docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_images_are_pinned_and_nobody_is_root(file):
    text = file.read_text()
    assert len(FILES) == 3
    starts = re.findall(r"^FROM (\S+)", text, re.M)
    argument = starts[0].strip("${}")
    assert set(starts) == {f"${{{argument}}}"}  # all stages from one image, so that Python is the same in all
    assert re.search(rf"^ARG {argument}=\S+:\S*\d\S*$", text, re.M)
    assert "-r /locks/" in text and "latest" not in text
    assert re.findall(r"^USER (\d+):\d+$", text, re.M)[-1] != "0"
    assert 'org.opencontainers.image.revision="${COMMIT}"' in text and "HEALTHCHECK" in text
    # What a user's machine has of its own comes as a secret: an argument would stay in the image's history.
    last = text[text.rindex("\nFROM ") :]
    assert not re.search(r"^ARG (?!COMMIT$)", last, re.M) and "--mount=type=cache" not in last


@pytest.mark.parametrize("lock", sorted(Path("docker/locks").glob("*.txt")), ids=lambda lock: lock.stem)
def test_locks_pin_by_hash(lock):
    packages = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^ *#.*\n", "", lock.read_text(), flags=re.M))
    for package in packages:
        assert re.match(r"[\w.\[\],-]+==\S+", package) and "--hash=sha256:" in package, package[:80]


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", Path(f"docker/locks/{name}.txt").read_text(), re.M))


def test_the_lock_of_torch_fits_the_one_of_all_else():
    """It is installed beside that one; the images and the Makefile name the same torch."""
    torch, others = pins("torch"), pins("ml")
    assert [name for name in torch.keys() & others.keys() if torch[name] != others[name]] == []
    assert "torch" not in others and "nvidia-cublas" in torch
    cpu = pins("torch-cpu")
    assert cpu == {"torch": f"{torch['torch']}+cpu"}
    assert others.keys() >= {name for name in torch if not re.match("cuda|nvidia|torch|triton", name)}, (
        "what the CPU build needs"
    )
    for file in (Path("Makefile"), Path("docker/pipeline.Dockerfile"), Path("docker/triton.Dockerfile")):
        assert set(re.findall(r"\btorch==([\d.]+)", file.read_text())) == {torch["torch"]}, file


@pytest.mark.parametrize(
    ("environment", "installed"),
    [
        ({}, "-r docker/locks/torch.txt"),
        ({"UV_TORCH_BACKEND": "cpu"}, "-r docker/locks/torch-cpu.txt"),
        ({"UV_TORCH_BACKEND": "cu126"}, "torch==2.13.0"),
        ({"UV_TORCH_BACKEND": "cpu", "UV_FIND_LINKS": "/wheels"}, "torch==2.13.0"),
    ],
)
def test_the_environment_takes_the_lock_of_its_torch(tmp_path, environment, installed):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    bare = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_FIND_LINKS": ""} | environment
    read = "include Makefile\n$(info $(TORCH_ml))\n"
    command = ["make", "--dry-run", "--file=-", "summary"]
    told = subprocess.run(command, input=read, env=bare, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[0] == installed


@pytest.mark.parametrize(
    ("torch", "installed"), [("cpu", "-r /locks/torch-cpu.txt"), ("cu130", "torch==2.13.0"), ("", "torch==2.13.0")]
)
@pytest.mark.parametrize("file", ["pipeline", "triton"])
def test_images_take_the_lock_of_their_torch(file, torch, installed):
    """The shell of the instruction that installs torch, with uv as a program that prints its arguments."""
    text = Path(f"docker/{file}.Dockerfile").read_text()
    script = (
        re.search(r"if \[ \"\$\{TORCH\}\".*?\"\$@\"", text, re.S)[0].replace("\\\n", " ").replace("/opt/uv/bin/uv", "echo")
    )
    told = subprocess.run(
        ["sh", "-c", script], env=os.environ | {"TORCH": torch}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split(" -r /locks/ml.txt ")[1] == f"{installed}\n"
    assert ("--torch-backend" in told.stdout) == bool(torch)


def test_images_that_are_not_ours_are_named_by_digest():
    """In compose file and chart; the bases of our own images are arguments, which take a digest too."""
    images = re.findall(r"^ +image: (\S+)", Path("infra/compose.yaml").read_text(), re.M)
    for image in yaml.safe_load(Path("infra/helm/reelign/values.yaml").read_text())["images"].values():
        images.append(f"{image['repository']}:{image['tag']}@{image['digest']}")
    foreign = {}
    for image in images:
        if not re.search("(^|/)reelign-", image):
            name, digest = re.fullmatch(r"(\S+:v?[\d.]+[\w.-]*)@(sha256:[0-9a-f]{64})", image).groups()
            foreign.setdefault(name, set()).add(digest)
    assert len(foreign) == 4 and all(len(digests) == 1 for digests in foreign.values())


def test_tritons_image_starts_with_a_key_and_only_with_one(tmp_path):
    """Its command, with a server that prints its arguments."""
    text = Path("docker/triton.Dockerfile").read_text()
    command = json.loads(text[text.rindex("\nCMD ") + 5 :].replace("\\\n", ""))
    (tmp_path / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tritonserver").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    without = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert without.returncode != 0 and "REELIGN_TRITON_KEY" in without.stderr and not without.stdout
    key = "0123456789abcdef"
    given = subprocess.run(command, env=environment | {"REELIGN_TRITON_KEY": key}, capture_output=True, text=True)
    assert {*options(key), "--model-repository=/models", "--load-model=video_reward"} <= {*given.stdout.splitlines()}
