"""Each script of examples/, on tiny models."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from components.config.params import load_params
from components.generator.families.wan_small import save_generator
from components.guidance.latent_reward import LatentReward, first_blocks, save_latent_reward
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel
from components.video.decode import read_frames
from components.video.encode import write_video
from tests.generator.small import tiny_generator
from tests.reward.tiny import saved_model


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8)
    return path


def test_every_example_is_listed_and_tested():
    listed = Path("examples/README.md").read_text()
    tested = Path(__file__).read_text()
    for path in Path("examples").glob("*.py"):
        assert f"`{path}`" in listed and f'example("{path.stem}")' in tested


def test_score_clip(tmp_path, clip, capsys):
    model = saved_model(tmp_path / "video_reward")
    (score,) = RewardModel.load(model).score([(clip, "a red circle")])
    example("score_clip").main(str(model), "a red circle", str(clip), str(tmp_path / "gone.mp4"))
    first, second = capsys.readouterr().out.splitlines()
    assert f"Overall {score.overall:+.3f}" in first and score.model_version in first
    assert "no score: " in second and "no such file" in second.lower()


def test_train_on_folder(tmp_path, monkeypatch, clip):
    """As far as stage source, of the user's folder; all the stages: `make demo PROFILE=examples`."""
    module = example("train_on_folder")
    for name in ("components", "infra"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    shutil.copyfile("dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(clip, tmp_path / f"clips/{name}.mp4")
    (tmp_path / "clips/labels.csv").write_text("path_A,path_B,prompt,VQ,MQ,TA\na.mp4,b.mp4,a red circle,A,same,B\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], check=True)
    module.main("clips", "labels.csv", "source")
    assert load_params().profile == "examples" and load_params().source.folder == "clips"
    assert "a.mp4,b.mp4,a red circle" in Path("data/source/annotations.csv").read_text()
    assert Path("data/source/videos/a.mp4").exists()


def test_guide_wan(tmp_path, monkeypatch):
    save_generator(tiny_generator(), tmp_path / "generator")
    transformer = tiny_generator().model
    torch.manual_seed(5)
    reward = LatentReward(transformer.family, first_blocks(transformer, 1), ["VQ", "TA"])
    torch.nn.init.normal_(reward.head)
    save_latent_reward(reward, tmp_path / "reward", {"generator": folder_digest(tmp_path / "generator")})
    module = example("guide_wan")
    monkeypatch.setattr(module, "SIZE", {"height": 16, "width": 16, "num_frames": 5})
    module.main(str(tmp_path / "generator"), str(tmp_path / "reward"), "a red circle", str(tmp_path / "guided.mp4"))
    assert read_frames(tmp_path / "guided.mp4").shape == (5, 16, 16, 3)


def test_read_lineage(tmp_path, monkeypatch, capsys):
    from components.pipeline.mlflow_store import mlflow_client

    module = example("read_lineage")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    report, source = tmp_path / "report.html", tmp_path / "source.csv"
    report.write_text("a report")
    source.write_text("a source")
    client = mlflow_client()
    tags = {
        "dvc.stage": "evaluate",
        "git.commit": "0123abc",
        "data.inputs": json.dumps({"source.csv": folder_digest(source)}),
        "data.outputs": json.dumps({"report.html": folder_digest(report)}),
    }
    run = client.create_run(
        client.create_experiment("reelign-shapes", artifact_location=str(tmp_path / "mlartifacts")), tags=tags
    )
    client.set_terminated(run.info.run_id)
    module.main(str(report))
    lines = capsys.readouterr().out.splitlines()
    assert "commit 0123abc" in lines[0] and "evaluate made report.html from source.csv" in lines[1]
    assert lines[2] == "checked in: source.csv"
