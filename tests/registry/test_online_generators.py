"""The gate for generators that one stage trained, drew and measured: online@METHOD, and round@K of iterative DPO."""

import contextlib
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
from components.pipeline.stage import Stage, write_json
from components.registry.promote import promote
from components.registry.versions import aliases, connect
from components.video.decode import read_frames
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.evaluation.fixtures import GOLD_PANEL, PARAMS, make_samples
from tests.evaluation.test_hacking import over_exposed
from tests.registry.test_generators import DRAWN, JUDGED, reasons
from tests.registry.world import environment

METHOD = "online-nft"
MODEL = f"reelign-smoke-aligned-{METHOD}"
STAGES = {"online-nft": ("online@nft", "online/nft"), "round-2": ("round@2", "rounds/2")}  # and folders of data and models


@pytest.fixture
def here(tmp_path, in_repository, monkeypatch) -> Path:
    with contextlib.chdir(tmp_path):
        stages = {}
        for method, (stage, place) in STAGES.items():
            outs = [f"data/{place}", f"models/{place}", f"metrics/{method}.json"]
            name, _, key = stage.partition("@")
            entry = {"cmd": "o", "deps": ["data/candidates/candidates.parquet"], "outs": outs}
            stages[name] = {"foreach": {key: 1}, "do": entry}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        values = yaml.safe_load((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
        Path("params.yaml").write_text(yaml.safe_dump(values | {"evaluate": PARAMS.model_dump()}))
        Path("data/candidates").mkdir(parents=True)
        pd.DataFrame({"prompt": ["a candidate's prompt"]}).to_parquet("data/candidates/candidates.parquet")
    monkeypatch.chdir(tmp_path)
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        yield tmp_path


def learn(
    version: str,
    gain: float = 0.2,
    hacked: bool = False,
    prompts: tuple[str, ...] = ("a round's prompt",),
    method: str = METHOD,
) -> None:
    """A stage whose work is to copy. `gain` is added to the gold judge's scores of its clips, `prompts` are those
    of its rounds; `hacked`: over-exposed clips, which the reward likes."""
    scratch = Path("scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    clips, descriptors = make_samples(scratch)
    clips["method"] = clips["method"].replace({"dpo": method})
    keep = clips["method"].isin(["base", method]).to_numpy()
    clips, descriptors = clips.loc[keep].reset_index(drop=True), descriptors[keep]
    mine = (clips["method"] == method).to_numpy()
    for name in ("VQ", "MQ", "TA", "Overall"):
        clips.loc[mine, f"gold_{name}"] += gain
    if hacked:
        for place in np.flatnonzero(mine):
            frames = over_exposed(read_frames(clips["video"][place]))
            write_video(clips["video"][place], frames, fps=8)
            signals = measure(frames)
            clips.loc[place, ["brightness", "saturation"]] = signals.brightness, signals.saturation
            descriptors[place] = signals.descriptor
        clips.loc[mine, "reward_Overall"] += 5

    name, place = STAGES[method]

    def train(stage: Stage) -> None:
        model, folder = stage.output(f"models/{place}"), stage.output(f"data/{place}")
        model.mkdir(parents=True)
        folder.mkdir(parents=True)
        (model / "lora.txt").write_text(version)
        record = {"method": method, "base": "b", "examples": 1, "reward_model": "r" * 16}
        stage.register(f"reelign-smoke-aligned-{method}", f"models/{place}", record)
        params = PARAMS.model_copy(update={"methods": [method]})
        metrics = alignment_metrics(clips, descriptors, params, GOLD_PANEL, seed=0)
        write_json(stage.output(f"metrics/{method}.json"), metrics | {"drawn_with": DRAWN, "judged_with": JUDGED})
        pd.DataFrame({"prompt": prompts}).to_parquet(folder / "scores.parquet", index=False)
        clips.drop(columns="video").to_parquet(folder / "sample_scores.parquet", index=False)

    Stage(name).run(train)


def call(method: str = METHOD, **changes):
    given = {"challenger": None, "champion": None, "dry_run": False, "out": None} | changes
    return promote(
        connect(), f"generator_{method}", params=load_params(), progress=lambda items, *_: items, say=lambda text: None,
        **given,
    )  # fmt: skip


def test_it_must_beat_base_and_then_the_champion(here):
    learn("worse", gain=-0.2)
    assert "no_gain" in reasons(call()) and "champion" not in aliases(connect(), MODEL)
    learn("better")
    outcome = call()
    assert outcome.evidence["against"] == "base" and outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
    assert outcome.evidence["clips"]["file"] == "data/online/nft/sample_scores.parquet"
    assert aliases(connect(), MODEL)["champion"] == "2"
    learn("the same again")
    outcome = call()
    assert outcome.evidence["against"] == f"{MODEL}/2" and reasons(outcome) == {"no_gain"}


def test_a_round_of_iterative_dpo_passes_it_too(here):
    learn("second round", method="round-2")
    outcome = call("round-2")
    assert outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
    assert outcome.evidence["clips"]["file"] == "data/rounds/2/sample_scores.parquet"


def test_a_hack_is_vetoed_whatever_it_wins(here):
    learn("hacked", hacked=True)
    outcome = call()
    assert outcome.evidence["differences"]["Overall"]["win rate"]["ci95"][0] > 0.5
    assert reasons(outcome) == {"hacking"} and "brightness_drift" in outcome.evidence["verdict"]["reasons"][0]
    assert "champion" not in aliases(connect(), MODEL)


def test_prompts_of_its_rounds_are_no_test(here):
    shown = make_samples(here / "other")[0]["prompt"][0]
    learn("drew a test prompt", prompts=("of a round", shown))
    with pytest.raises(BadInput, match=rf"sample_scores\.parquet, row \d+, key 'prompt': .*{MODEL}/1 learnt from"):
        call()


@pytest.mark.parametrize("file", ["metrics/online-nft.json", "data/online/nft/sample_scores.parquet"])
def test_figures_of_another_version_are_refused(here, file):
    learn("first")
    learn("second", gain=0.3)
    with pytest.raises(BadInput, match=r"is not what run \w+ made, which measured .*/1 \(`dvc repro online@nft`\)"):
        call(challenger="1", dry_run=True)
    Path(file).unlink()
    with pytest.raises((BadInput, FileNotFoundError)) as caught:
        call(dry_run=True)
    assert isinstance(caught.value, BadInput) and "\n" not in str(caught.value)
