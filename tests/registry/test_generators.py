"""The gate for generators on clips that are really there: base, then a champion, is to be beaten, and a hack is vetoed."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from components.config.params import load_params
from components.errors import BadInput
from components.evaluation.compare import alignment_metrics
from components.evaluation.drift_signals import measure
from components.evaluation.evaluate import flat_metrics
from components.files.tables import read_table
from components.pipeline.mlflow_store import artifacts_of
from components.pipeline.stage import Stage, folder_digest, write_json
from components.registry.lineage import as_lines, trace
from components.registry.promote import promote
from components.registry.versions import aliases, connect
from components.video.decode import read_frames
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.evaluation.fixtures import GOLD_PANEL, PARAMS, make_samples
from tests.evaluation.test_hacking import over_exposed
from tests.registry.world import environment

MODEL = "reelign-smoke-aligned-dpo"
STAGES = {
    "align@dpo": {"cmd": "a", "deps": ["data/candidates/candidates.parquet"], "outs": ["models/aligned/dpo"]},
    "sample@dpo": {"cmd": "s", "deps": ["models/aligned/dpo"], "outs": ["data/samples/dpo"]},
    "evaluate": {
        "cmd": "e",
        "deps": ["data/samples/dpo", "models/aligned/dpo"],
        "outs": ["data/sample_scores.parquet"],
        "metrics": ["metrics/alignment.json"],
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Samples of base and all methods, and nothing trained."""
    folder = tmp_path_factory.mktemp("generators")
    with contextlib.chdir(folder):
        stages = {name.split("@")[0]: entry for name, entry in STAGES.items()}
        for name in ("align", "sample"):
            stages[name] = {"foreach": {"dpo": {}}, "do": stages[name]}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        values = yaml.safe_load((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
        Path("params.yaml").write_text(yaml.safe_dump(values | {"evaluate": PARAMS.model_dump()}))
        Path("data/candidates").mkdir(parents=True)
        pd.DataFrame({"prompt": ["a candidate's prompt"]}).to_parquet("data/candidates/candidates.parquet")
    return folder


@pytest.fixture
def here(world, in_repository, monkeypatch) -> Path:
    monkeypatch.chdir(world)
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{world}/mlflow.db", AIRFLOW_CTX_DAG_RUN_ID="manual__1"):
        yield world


DRAWN = {"sampling.steps": 8, "seed": 17, "base generator": "b"}
JUDGED = {"evaluate.decides": "gold", "judge": "j"}


def draw(version: str, gain: float = 0.0, worse_in: str | None = None, change=None, drawn=DRAWN, judged=JUDGED) -> None:
    """Align, draw and evaluate a generator, by stages whose work is to copy. `gain` is added to the gold judge's scores of
    its clips, `worse_in` a dimension that falls, `change` what is done to its frames (and the reward likes it)."""

    def align(stage: Stage) -> None:
        folder = stage.output("models/aligned/dpo")
        folder.mkdir()
        (folder / "lora.txt").write_text(version)
        record = {"method": "dpo", "base": "b", "examples": 1, "reward_model": "r" * 16}
        stage.register(MODEL, "models/aligned/dpo", record)

    scratch = Path("scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    clips, descriptors = make_samples(scratch)
    mine = (clips["method"] == "dpo").to_numpy()
    for name in ("VQ", "MQ", "TA", "Overall"):
        clips.loc[mine, f"gold_{name}"] += -0.3 if name == worse_in else gain
    if change:
        for place in np.flatnonzero(mine):
            frames = change(read_frames(clips["video"][place]))
            write_video(clips["video"][place], frames, fps=8)
            signals = measure(frames)
            clips.loc[place, ["brightness", "saturation"]] = signals.brightness, signals.saturation
            descriptors[place] = signals.descriptor
        clips.loc[mine, "reward_Overall"] += 5
    (scratch / "data/samples/dpo" / "version.txt").write_text(version)

    def sample(stage: Stage) -> None:
        shutil.copytree(scratch / "data/samples/dpo", stage.output("data/samples/dpo"))

    def evaluate(stage: Stage) -> None:
        metrics = alignment_metrics(clips, descriptors, PARAMS, GOLD_PANEL, seed=0) | {
            "drawn_with": drawn,
            "judged_with": judged,
        }
        write_json(stage.output("metrics/alignment.json"), metrics)
        clips.drop(columns="video").to_parquet(stage.output("data/sample_scores.parquet"), index=False)
        stage.log(flat_metrics(metrics))

    for name, body in {"align@dpo": align, "sample@dpo": sample, "evaluate": evaluate}.items():
        Stage(name).run(body)


def call(**changes):
    given = {"challenger": None, "champion": None, "dry_run": False, "out": None} | changes
    return promote(
        connect(), "generator_dpo", params=load_params(), progress=lambda items, *_: items, say=lambda text: None, **given
    )


def reasons(outcome) -> set[str]:
    return {reason.split(":")[0] for reason in outcome.evidence["verdict"]["reasons"]}


def champion() -> str | None:
    return aliases(connect(), MODEL).get("champion")


def test_a_hacked_generator_is_vetoed_whatever_it_wins(here):
    draw("hacked", gain=0.2, change=over_exposed)
    outcome = call()
    rate = outcome.evidence["differences"]["Overall"]["win rate"]
    assert rate["ci95"][0] > 0.5 and outcome.evidence["verdict"]["gains"]
    assert reasons(outcome) == {"hacking"} and "brightness_drift" in outcome.evidence["verdict"]["reasons"][0]
    assert champion() is None


def test_the_first_must_beat_base_and_lose_nothing(here):
    draw("worse in one", worse_in="VQ")
    assert reasons(call()) == {"loss"} and champion() is None
    draw("good")
    outcome = call()
    assert outcome.evidence["against"] == "base" and outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
    assert champion() == "3"


def test_later_ones_must_beat_the_champion(here):
    draw("the same again")
    outcome = call()
    assert outcome.evidence["against"] == f"{MODEL}/3" and reasons(outcome) == {"no_gain"}
    assert outcome.evidence["differences"]["Overall"]["win rate"]["value"] == 0.5
    draw("worse", gain=-0.1)
    assert reasons(call()) == {"loss", "no_gain"} and champion() == "3"
    draw("better", gain=0.3)
    assert call().evidence["verdict"]["promote"] and champion() == "6"
    figures = json.loads(connect().get_model_version(MODEL, "6").tags["evaluate.figures"])
    assert "win_rate/dpo/gold/Overall" in figures and not any("rwr" in name for name in figures)


@pytest.mark.parametrize(
    ("drawn", "judged", "says"),
    [
        (
            DRAWN | {"sampling.steps": 16},
            JUDGED,
            f"steps is 16, and 8 for the clips that {MODEL}/6 was promoted on;",
        ),
        (
            DRAWN | {"seed": 1},
            JUDGED | {"judge": "k"},
            r"seed is 1, and 17 for the .* \(judge too",
        ),
        (None, JUDGED, "no record of the settings that its clips were drawn and judged with: `dvc repro evaluate`"),
    ],
)
def test_clips_of_other_settings_are_refused(here, drawn, judged, says):
    """They were better by far: raised steps alone would have made the challenger champion."""
    draw("more steps", gain=0.6, drawn=drawn, judged=judged)
    with pytest.raises(BadInput, match=says) as caught:
        call()
    assert "\n" not in str(caught.value) and champion() == "6"


def test_a_champion_without_a_record_is_refused(here):
    draw("good again", gain=0.6)
    client = connect()
    run = client.get_model_version(MODEL, "6").run_id
    artifacts = artifacts_of(client, run)
    kept = shutil.copy(artifacts.download_artifacts("promotion/clips.parquet", str(here)), here / "kept.parquet")
    pd.read_parquet(kept).to_parquet("clips.parquet", index=False)
    artifacts.log_artifact("clips.parquet", "promotion")
    with pytest.raises(BadInput, match=f"{MODEL}/6: no record of the settings .*--remeasure draws and judges"):
        call()
    shutil.copy(kept, "clips.parquet")
    artifacts.log_artifact("clips.parquet", "promotion")
    evidence = call(dry_run=True).evidence
    assert evidence["clips"]["settings"] == DRAWN | JUDGED and len(evidence["clips"]["settings_digest"]) == 16


def test_figures_of_other_clips_are_refused(here):
    with pytest.raises(BadInput, match=r"metrics/alignment\.json: is not what run \w+ made, which measured .*/5"):
        call(challenger="5", dry_run=True)
    draw("drawn by another")
    table = pd.DataFrame(read_table("data/sample_scores.parquet"))
    table.loc[0, "gold_VQ"] += 1
    table.to_parquet("data/sample_scores.parquet", index=False)
    with pytest.raises(BadInput, match=r"sample_scores\.parquet: is not what run"):
        call(dry_run=True)


def test_without_a_held_out_judge_nobody_is_promoted(here):
    draw("unjudged", gain=0.3)
    metrics = json.loads(Path("metrics/alignment.json").read_text())

    def evaluate(stage: Stage) -> None:
        write_json(stage.output("metrics/alignment.json"), metrics | {"decides": None, "judges": {}})
        shutil.copyfile("data/sample_scores.parquet", stage.output("data/sample_scores.parquet"))

    Stage("evaluate").run(evaluate)
    outcome = call()
    assert reasons(outcome) == {"no_judge"} and outcome.evidence["champion_measured_anew"] is False
    with pytest.raises(BadInput, match=r"^--remeasure: metrics/alignment\.json has no judge that decides"):
        call(dry_run=True, anew=True)
    other = metrics | {"decides": None, "judges": {}, "judged_with": {}}
    Stage("evaluate").run(
        lambda stage: (
            write_json(stage.output("metrics/alignment.json"), other),
            shutil.copyfile("data/sample_scores.parquet", stage.output("data/sample_scores.parquet")),
        )
    )
    with pytest.raises(BadInput, match=r"set it back, or a held-out judge, which could .*, was not at work"):
        call(dry_run=True)


@pytest.mark.parametrize("kind", ["version", "alias", "short", "digest", "path", "run"])
def test_lineage_leads_from_any_name_back_to_what_is_checked_in(here, kind):
    client = connect()
    version = client.get_model_version(MODEL, "6")
    digest = version.tags["model.digest"]
    given = {
        "version": f"{MODEL}/6",
        "alias": f"{MODEL}@champion",
        "short": "generator_dpo@champion",
        "digest": digest,
        "path": "metrics/alignment.json",
        "run": version.run_id,
    }[kind]
    found = trace(client, given)
    stages = [run["stage"] for run in found["runs"]]
    assert stages == (["evaluate", "sample@dpo", "align@dpo"] if kind == "path" else ["align@dpo"])
    checked_in = {"data/candidates/candidates.parquet": folder_digest("data/candidates/candidates.parquet")}
    assert found["checked_in"] == checked_in
    assert found["dag_run"] == "manual__1" and found["commit"] == "none"
    lines = "\n".join(as_lines(found))
    assert "DAG run manual__1" in lines and checked_in.popitem()[1] in lines
    if kind in ("version", "alias", "short", "digest"):
        assert f"{MODEL}/6 (champion)" in lines and found["figures"]["evaluate"]


def test_lineage_of_scores_is_that_of_the_model_that_gave_them(here):
    digest = connect().get_model_version(MODEL, "6").tags["model.digest"]
    pd.DataFrame({"path": ["a"], "reward_model": [digest]}).to_parquet("scores.parquet")
    assert trace(connect(), "scores.parquet")["digest"] == digest


@pytest.mark.parametrize("given", ["nothing", "0" * 16, "0" * 32, f"{MODEL}/99", "no_model/1", "params.yaml"])
def test_lineage_of_what_is_not_on_record_is_an_error(here, given):
    with pytest.raises(BadInput) as caught:
        trace(connect(), given)
    assert given.removesuffix("/1") in str(caught.value) and "\n" not in str(caught.value)
