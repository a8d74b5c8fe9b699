"""A reward model as MLflow's users take it: loaded by mlflow alone, in a fresh process elsewhere, with the local scores."""

import base64
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from starlette.testclient import TestClient
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.reward.export_mlflow import export_mlflow
from components.reward.score import RewardModel
from components.video.encode import write_video
from tests.reward.tiny import saved_model

PROMPT = "a red circle"
# What a user writes; FOLDER is the model's.
SCRIPT = """
import json, sys, mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
clip = open("clip.mp4", "rb").read()
rows = [{"path": "clip.mp4", "video": None}, {"path": None, "video": clip}, {"path": None, "video": clip[:50]},
        {"path": "none.mp4", "video": None}, {"path": None, "video": None}, {"path": "clip.mp4", "video": clip}]
frame = pd.DataFrame(rows, index=list("abcdef")).assign(prompt="a red circle")
found = model.predict(frame)
import components
print(json.dumps({"found": json.loads(found.to_json()), "columns": list(found.columns), "code": components.__file__}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    saved_model(folder / "model")
    found = CliRunner().invoke(
        app,
        ["export-reward", str(folder / "model"), str(folder / "out"), "--layout", "mlflow", "--json"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0 and all(Path(file).exists() for file in json.loads(found.stdout)["files"])
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    write_video(folder / "clip.mp4", frames, 8)
    return folder


def predicted(python: Path | str, folder: Path) -> dict:
    """What SCRIPT prints, in a process that has no way to this checkout by PYTHONPATH."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", SCRIPT, "out"]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(told: dict, folder: Path) -> None:
    (local,) = RewardModel.load(folder / "model").score([(folder / "clip.mp4", PROMPT)])
    found = told["found"]
    assert Path(told["code"]).is_relative_to(folder / "out/code")
    for row in "ab":
        assert {name: found[name][row] for name in local.normalised} == pytest.approx(local.normalised, abs=1e-5)
        assert found["Overall"][row] == pytest.approx(local.overall, abs=1e-5) and found["status"][row] == "ok"
        assert (found["reward_model"][row], found["frame_plan"][row]) == (local.model_version, local.frame_plan)
    for row in "cdef":
        numbers = [name for name in told["columns"] if name == "Overall" or name.removeprefix("raw_") in local.raw]
        assert (
            len(numbers) == 7 and [found[name][row] for name in numbers] == [None] * 7 and found["status"][row] == "failed"
        )
        assert found["reason"][row] and "/proc/self/fd" not in found["reason"][row]
    assert found["reason"]["e"] == found["reason"]["f"] == "a row has a path or the bytes of a video, one of them"


def test_a_fresh_process_elsewhere_gets_the_local_scores(exported):
    told = predicted(sys.executable, exported)
    check(told, exported)
    outputs = json.loads(yaml.safe_load((exported / "out/MLmodel").read_text())["signature"]["outputs"])
    assert [column["name"] for column in outputs] == told["columns"]


def test_mlflows_server_takes_files_in_base64(exported):
    import mlflow
    from mlflow.pyfunc.scoring_server import init

    clip = base64.b64encode((exported / "clip.mp4").read_bytes()).decode()
    body = {"dataframe_split": {"columns": ["video", "prompt"], "data": [[clip, PROMPT], ["AAAA", PROMPT]]}}
    with TestClient(init(mlflow.pyfunc.load_model(str(exported / "out")))) as client:
        good, bad = client.post("/invocations", json=body).json()["predictions"]
    (local,) = RewardModel.load(exported / "model").score([(exported / "clip.mp4", PROMPT)])
    assert good["Overall"] == pytest.approx(local.overall, abs=1e-5)
    assert bad["status"] == "failed" and math.isnan(bad["Overall"])  # MLflow writes NaN, and no null


def test_what_is_no_reward_model_and_what_is_there(exported, tmp_path):
    with pytest.raises(BadInput, match="out: there already"):
        export_mlflow(exported / "model", exported / "out")
    with pytest.raises(BadInput, match=r"video_reward\.json: missing"):
        export_mlflow(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    example = pd.read_json((exported / "out/input_example.json").open(), orient="split")
    assert list(example.columns) == ["path", "prompt"]
