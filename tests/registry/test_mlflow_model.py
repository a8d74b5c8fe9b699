"""A version of VideoReward is an MLflow model: what MLflow's users load and see, and what ours still do with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.files.links import way_of
from components.pipeline.logged_models import logged_id
from components.pipeline.stage import Stage, folder_digest
from components.registry.lineage import trace
from components.registry.versions import aliases, connect, fetch, find
from components.reward.bench import reward_bench
from components.reward.score import RewardModel
from tests.registry.world import random_model, register

MODEL = "reelign-smoke-video-reward"
# What a user writes, in the folder of the store or with its server.
SCRIPT = """
import json, sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/reelign-smoke-video-reward@challenger")
clip = open(sys.argv[2], "rb").read()
rows = [{"path": sys.argv[2], "video": None}, {"path": None, "video": clip}, {"path": None, "video": clip[:50]}]
found = model.predict(pd.DataFrame(rows).assign(prompt="a red circle"))
import components
print(json.dumps({"found": json.loads(found.to_json(orient="records")), "code": components.__file__}))
"""


def predicted(python: str, here: Path, uri: str) -> dict:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    command = [python, "-c", SCRIPT, uri, "data/source/videos/0.mp4"]
    done = subprocess.run(command, cwd=here, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def registered(here, monkeypatch):
    """A version, measured by reward_bench; a client."""
    monkeypatch.setattr("components.files.links.LARGE", 1)  # share every file
    register(random_model(here / "random"), {"validation/accuracy_without_ties/VQ": 0.75})
    Stage("reward_bench").run(reward_bench)
    yield connect()
    shutil.rmtree(here / "random")


def test_it_is_loaded_by_mlflow_and_shows_its_signature_metrics_and_data(registered, here):
    client = registered
    record = find(client, MODEL, "challenger")
    told = predicted(sys.executable, here, f"sqlite:///{here}/mlflow.db")
    (local,) = RewardModel.load("models/video_reward").score([("data/source/videos/0.mp4", "a red circle")])
    for row in told["found"][:2]:
        assert {name: row[name] for name in local.normalised} == pytest.approx(local.normalised, abs=1e-5)
        assert row["Overall"] == pytest.approx(local.overall, abs=1e-5) and row["reward_model"] == local.model_version
    assert told["found"][2]["status"] == "failed" and told["found"][2]["Overall"] is None
    assert Path(told["code"]).is_relative_to(here / "mlartifacts"), "the model brings its code"

    logged = client.get_logged_model(logged_id(record))
    assert str(logged.status) == "READY" and logged.source_run_id == record.run_id
    figures = {(one.key, one.dataset_name, one.dataset_digest) for one in logged.metrics}
    pairs = folder_digest("data/pairs")
    assert ("validation/accuracy_without_ties/VQ", "pairs", pairs) in figures
    assert ("test/accuracy_without_ties/VQ", "pairs", pairs) in figures
    for run_id, context in ((record.run_id, "training"), (logged.metrics[-1].run_id, "evaluation")):
        inputs = client.get_run(run_id).inputs.dataset_inputs
        assert {(one.dataset.name, one.tags[0].value) for one in inputs} == {("pairs", context), ("clips", context)}
        found = next(one.dataset for one in inputs if one.dataset.name == "pairs")
        assert found.digest == pairs and json.loads(found.profile) == {"test": 240, "train": 120, "validation": 60}
    own = client.get_run(record.run_id)
    assert [one.model_id for one in own.outputs.model_outputs] == [logged_id(record)]
    assert own.data.metrics["validation/accuracy_without_ties/VQ"] == 0.75

    def shown(info):
        return {Path(one.path).name for one in client.list_logged_model_artifacts(logged_id(record), info)}

    assert {"MLmodel", "requirements.txt", "input_example.json", "artifacts", "code"} <= shown(None)
    assert shown("artifacts/video_reward") >= {"head.safetensors", "model.safetensors", "video_reward.json"}


def test_ours_goes_on_with_new_and_old_versions(registered, here):
    client = registered
    new = find(client, MODEL, "challenger")

    def body(stage: Stage) -> None:  # as versions were registered before: files of the run alone
        shutil.copytree(here / "random", stage.output("models/video_reward"))
        (stage.output("models/video_reward") / "training.csv").write_text("step\n")
        stage.register("video_reward", Path("models/video_reward"), {"pairs_digest": "none"})

    Stage("reward").run(body)
    old = find(client, MODEL, "challenger")
    assert int(old.version) == int(new.version) + 1 and logged_id(new) and logged_id(old) is None
    for record in (new, old):
        version = fetch(record)
        assert version.digest == record.tags["model.digest"] and (version.folder / "head.safetensors").exists()
        assert trace(client, f"{MODEL}/{record.version}")["digest"] == version.digest
    assert fetch(new).digest == folder_digest(here / "random")
    assert aliases(client, MODEL)["challenger"] == str(old.version)


def test_large_files_are_there_once(registered, here):
    record = find(registered, MODEL, "challenger")
    place = registered.get_logged_model(logged_id(record)).artifact_location
    kept = here / place / "artifacts/video_reward/model.safetensors"
    if way_of(here) == "hard link":
        assert kept.samefile("models/video_reward/model.safetensors")
        assert kept.samefile(fetch(record).folder / "model.safetensors")
    else:
        assert kept.exists()
    assert not [file for file in here.rglob("*.partial") if "mlartifacts" in str(file)]
