"""After a roll-back the alias `champion` is what serves: by the command, on MLflow's own store, without a server."""

import pytest

from components.pipeline.mlflow_store import mlflow_client
from components.registry.champion import ROLLED_BACK, put_back
from components.registry.versions import aliases

MODEL = "reelign-smoke-video-reward"


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow_client()
    for name in (MODEL, "another"):
        client.create_registered_model(name)
        for digest in ("good", "bad"):
            client.create_model_version(name, str(tmp_path), tags={"model.digest": digest})
    return client


def test_the_champion_goes_back_once(client):
    client.set_registered_model_alias(MODEL, "champion", "2")
    client.set_registered_model_alias("another", "champion", "1")
    assert put_back(client, "bad", "good") == [f"{MODEL}/1 is champion again, after 2 was rolled back"]
    assert aliases(client, MODEL) == {"champion": "1"} and aliases(client, "another") == {"champion": "1"}
    assert client.get_model_version(MODEL, "2").tags[ROLLED_BACK] == "good"
    assert put_back(client, "bad", "good") == []


def test_where_it_cannot_go_it_is_said(client):
    client.set_registered_model_alias(MODEL, "champion", "2")
    [line] = put_back(client, "bad", "none")
    assert line.startswith("warning") and aliases(client, MODEL) == {"champion": "2"}
