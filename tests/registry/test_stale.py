"""Tables and generators that another reward model than the champion labelled are named with the stages they reach."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from components.files.text import read_json
from components.pipeline.mlflow_store import mlflow_client
from components.pipeline.stage import folder_digest
from components.registry.stale import RECORD, as_lines, mark_stale, stale_stages, stale_tables
from tests.registry.world import environment

OLD, NEW = "0" * 16, "1" * 16


def label(file: str, model: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"reward_model": [model, model]}).to_parquet(file)


def test_the_graph_says_what_stale_labels_reach(in_repository):
    stale = stale_stages([{"path": "data/alignment_pairs.parquet", "labelled_by": OLD}])
    assert stale[0] == "relabel"
    assert {"align@dpo", "latent_reward", "sample@dpo", "sample@nrg", "evaluate"} <= set(stale)
    assert not {"reward", "candidates", "sample@base", "package"} & set(stale)
    assert stale_stages([]) == []


def test_labels_of_another_model_are_marked_until_they_are_made_anew(tmp_path, in_repository, monkeypatch):
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text(Path(name).read_text())
    monkeypatch.chdir(tmp_path)
    label("data/alignment_pairs.parquet", OLD)
    label("data/candidate_scores.parquet", NEW)
    Path("models/video_reward").mkdir(parents=True)
    Path("models/video_reward/weights").write_text("w")
    champion = SimpleNamespace(name="reelign-shapes-video-reward", version=2, tags={"profile": "shapes"})
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        client = mlflow_client()
        model = "reelign-shapes-aligned-dpo"
        client.create_registered_model(model)
        for labelled_by in (OLD, NEW):
            client.create_model_version(model, source=str(tmp_path), tags={"reward_model": labelled_by})
        client.create_registered_model("reelign-smoke-aligned-dpo")  # of another reward model, and not stale by this one
        client.create_model_version("reelign-smoke-aligned-dpo", source=str(tmp_path), tags={"reward_model": OLD})
        record = mark_stale(client, champion, NEW)
        assert record == read_json(RECORD)
        assert record["tables"] == [{"path": "data/alignment_pairs.parquet", "labelled_by": OLD}]
        assert record["generators"] == [f"{model}/1"] and "relabel" in record["stages"]
        assert record["work_tree_digest"] == folder_digest("models/video_reward")
        assert client.get_model_version(model, "1").tags["stale"] == f"labelled by {OLD}, not {NEW}"
        assert "stale" not in client.get_model_version(model, "2").tags
        lines = as_lines(record)
        assert f"stale: data/alignment_pairs.parquet, labelled by {OLD}" in lines and "is not the champion" in lines[-1]
        assert mark_stale(client, champion, NEW) == record

        label("data/alignment_pairs.parquet", NEW)
        assert stale_tables(NEW) == [] and mark_stale(client, champion, OLD)["generators"] == [f"{model}/2"]
        assert "stale" not in client.get_model_version(model, "1").tags
