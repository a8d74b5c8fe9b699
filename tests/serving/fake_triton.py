"""Triton's management as deployments use it, without Triton: what is loaded outlives the caller, in a file.

As the real server (2.51) does: a load reads the repository, or a configuration that comes with the call; a version that
cannot be loaded leaves what was loaded before; loading an ensemble loads what it calls too, by the repository; versions
that a new configuration does not name are unloaded. `check` holds after every change: it finds a front without its version.
"""

import json
import os
import re
from pathlib import Path

from tritonclient.utils import InferenceServerException

from components.serving.repository import FRONTS, MODEL

DAMAGED = "damaged"  # a file of this name in a model folder: it cannot be loaded


class FakeTriton:
    """In place of tritonclient.http.InferenceServerClient; `repository` and `state` are of the class that a test makes."""

    repository: Path
    state: Path
    verified: Path  # a line for each version that was compared

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_server_metadata(self):
        return {"name": "triton", "extensions": []}

    def loaded(self) -> dict:
        """{MODEL: versions, front: the version that it calls}."""
        return json.loads(self.state.read_text())

    def _keep(self, loaded: dict) -> None:
        partial = self.state.with_suffix(".partial")
        partial.write_text(json.dumps(loaded))
        os.replace(partial, self.state)
        self.check()

    def check(self) -> None:
        loaded, verified = self.loaded(), self.verified.read_text().split()
        for front in FRONTS:
            assert loaded[front] in loaded[MODEL], f"{front} calls a version that is not loaded: {loaded}"
            assert str(loaded[front]) in verified, f"{front} calls a version that was never compared: {loaded}"

    def _versions(self, config: str | None) -> list[int]:
        if config is None:
            text = (self.repository / MODEL / "config.pbtxt").read_text()
            versions = [*map(int, re.search(r"versions: \[([\d, ]+)\]", text)[1].split(","))]
        else:
            versions = [*map(int, json.loads(config)["version_policy"]["specific"]["versions"])]
        for version in versions:
            folder = self.repository / MODEL / str(version) / "video_reward"
            if not (folder / "video_reward.json").exists() or (folder / DAMAGED).exists():
                raise InferenceServerException(f"version {version} cannot be loaded")
        return versions

    def load_model(self, name: str, headers=None, config: str | None = None):
        loaded = self.loaded()
        versions = self._versions(config if name == MODEL else None)
        # New ones are there before old ones go; what calls them changes between.
        self._keep(loaded | {MODEL: sorted({*loaded[MODEL], *versions})})
        if name != MODEL:
            text = (self.repository / name / "config.pbtxt").read_text()
            target = int(re.search(r"model_version: (\d+)", text)[1])
            if target not in versions:
                raise InferenceServerException(f"{name} calls version {target}, which is not there")
            loaded = self.loaded() | {name: target}
            self._keep(loaded)
        needed = {self.loaded()[front] for front in FRONTS}
        assert needed <= {*versions}, f"{needed} would be unloaded while clients are sent there"
        self._keep(self.loaded() | {MODEL: versions})

    def get_model_repository_index(self, headers=None):
        loaded = self.loaded()
        entries = [{"name": MODEL, "version": str(version), "state": "READY"} for version in loaded[MODEL]]
        return [*entries, *({"name": front, "version": "1", "state": "READY"} for front in FRONTS)]

    def get_model_config(self, name: str):
        return {"ensemble_scheduling": {"step": [{"model_name": MODEL, "model_version": str(self.loaded()[name])}]}}
