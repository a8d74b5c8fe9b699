"""Folders with a pipeline and an MLflow store of their own."""

from pathlib import Path

import pytest

from tests.registry.world import environment, make_checkout


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A checkout of the world of bright and dark clips, without models."""
    return make_checkout(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(world, in_repository, monkeypatch) -> Path:
    """The checkout as the working directory."""
    monkeypatch.chdir(world)
    # MLflow keeps one engine a URI and process: a relative one would be that of another folder.
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{world}/mlflow.db"):
        yield world
