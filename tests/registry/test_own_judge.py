"""A retraining without a gold judge ends with a generator promoted: VideoReward, a judge from pairs of its own with its
card, samples, evaluation and gate are the real ones, of a tiny size. People here prefer bright clips. A second retraining
trains the judge again, which judges the champion's clips anew."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from components.alignment.lora import add_lora, save_lora
from components.config.params import load_params
from components.contracts import BASE_GENERATOR, JUDGE_REWARD, SAMPLES, VIDEO_REWARD
from components.evaluation import sample
from components.evaluation.compare import compare
from components.generator import spec
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.judges.train import judge_reward
from components.pipeline.stage import Stage, folder_digest, write_json
from components.registry.promote import as_lines, promote
from components.registry.versions import aliases, connect
from components.reward.train import reward
from components.video.decode import read_frames
from tests.conftest import REPOSITORY
from tests.generator.small import tiny_generator
from tests.registry import world
from tests.reward.test_train import PARAMS

NAME, MODEL = f"model:{JUDGE_REWARD}", "reelign-smoke-aligned-dpo"
PROMPTS = [(f"p{n}", f"a {colour} circle moving {way} {n}") for n in range(12) for colour, way in [("red", "up")]]
STAGES = {
    "reward": {"cmd": "r", "deps": ["base", "data/pairs"], "outs": [VIDEO_REWARD]},
    "judge_reward": {"cmd": "j", "deps": ["base", "data/pairs"], "outs": [JUDGE_REWARD]},
    "align": {"cmd": "a", "deps": [VIDEO_REWARD, "data/candidates/candidates.parquet"], "outs": ["models/aligned/dpo"]},
    "sample": {"cmd": "s", "deps": [BASE_GENERATOR, "models/aligned/dpo"], "outs": ["data/samples/${key}"]},
    "evaluate": {
        "cmd": "e",
        "deps": ["data/samples/base", "data/samples/dpo", "models/aligned/dpo", VIDEO_REWARD, JUDGE_REWARD],
        "outs": ["data/sample_scores.parquet"],
        "metrics": ["metrics/alignment.json"],
    },
}
WORSE = 0.2  # strength of a LoRA that makes the tiny generator's clips darker
KEYS = {"judge_reward": ["prompts"], "align": ["dpo"], "sample": ["base", "dpo"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkout with people's pairs in two parts and a base generator; nothing is trained."""
    folder = tmp_path_factory.mktemp("own")
    with contextlib.chdir(folder):
        stages = {
            name: {"foreach": {key: {} for key in KEYS[name]}, "do": entry} if name in KEYS else entry
            for name, entry in STAGES.items()
        }
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        world.make_videos()
        Path("data/pairs/judge").mkdir(parents=True)
        for split, count in (("train", 90), ("validation", 40), ("test", 120)):
            world.make_pairs(split, count)
            world.make_pairs(f"judge/{split}", count)
        model = world.tiny_model()
        model.backbone.network.save_pretrained("base")
        model.prompts.tokenizer.save_pretrained("base")
        save_generator(tiny_generator(), Path("better"))
        write_params(steps=40)
        write_lora(Path("better"), Path("worse"), WORSE)
        save_generator(load_generator("better", "worse"), Path(BASE_GENERATOR))
        Path("data/candidates").mkdir()
        pd.DataFrame({"prompt": ["a candidate's prompt"]}).to_parquet("data/candidates/candidates.parquet")
    return folder


def write_params(steps: int) -> None:
    values = yaml.safe_load((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
    training = PARAMS.training.model_copy(update={"steps": steps})
    values |= {
        "reward": PARAMS.model_copy(update={"training": training}).model_dump(),
        "judge_reward": {"held_out": {"prompts": 0.5}},
    }
    values["evaluate"] |= {"judges": [NAME], "decides": NAME, "judge_files": JUDGE_REWARD, "methods": ["dpo"]}
    shifts = dict.fromkeys(("frame_count_shift", "dynamic_degree_drop", "brightness_shift", "saturation_shift"), 1.0)
    values["evaluate"] |= {"tie_width": {"reward": 1e-9}, "hacking": shifts | {"diversity_drop": 1.0}}
    values["sampling"] |= {"height": 16, "width": 16, "frames": 5, "steps": 2}
    values["sample"] |= {"seeds_per_prompt": 2}
    Path("params.yaml").write_text(yaml.safe_dump(values))


def write_lora(base: Path, folder: Path, strength: float) -> None:
    """A LoRA of random direction, the same for all: the opposite strength undoes it."""
    transformer = load_generator(base).model
    add_lora(transformer, load_params().align.lora, seed=1)
    for name, weight in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
            weight.data.mul_(strength)
    save_lora(transformer, folder)


def retrain(steps: int, undone: float) -> None:
    """All stages in turn, with `steps` of both VideoRewards. The LoRA takes back a share of what makes base worse, in place
    of the training that finds it."""
    write_params(steps)
    Stage("reward").run(reward)
    Stage("judge_reward@prompts").run(judge_reward)

    def align(stage: Stage) -> None:
        folder = stage.output("models/aligned/dpo")
        write_lora(Path(BASE_GENERATOR), folder, -undone * WORSE)
        record = {"method": "dpo", "base": folder_digest(BASE_GENERATOR), "reward_model": folder_digest(VIDEO_REWARD)}
        write_json(folder / "alignment.json", record)
        stage.register(MODEL, "models/aligned/dpo", record)

    def evaluate(stage: Stage) -> None:
        clips, metrics = compare(stage, {name: SAMPLES / name for name in KEYS["sample"]}, stage.params.evaluate)
        write_json(stage.output("metrics/alignment.json"), metrics)
        clips.drop(columns="video").to_parquet(stage.output("data/sample_scores.parquet"), index=False)

    Stage("align@dpo").run(align)
    spec.generator_once.cache_clear()  # a stage is a process of its own
    for method in KEYS["sample"]:
        Stage(f"sample@{method}").run(lambda stage, m=method: sample.sample(m, stage))
    Stage("evaluate").run(evaluate)


def call():
    return promote(
        connect(), "generator_dpo", challenger=None, champion=None, params=load_params(), dry_run=False, out=None,
        progress=lambda items, *_: items, say=lambda text: None,
    )  # fmt: skip


def light(method: str) -> list[float]:
    return [read_frames(file).mean() for file in sorted((SAMPLES / method / "videos").glob("*.mp4"))]


def test_a_generator_is_promoted_by_a_judge_from_peoples_pairs(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sample, "evaluation_prompts", lambda stage: PROMPTS)
    monkeypatch.setattr(sample, "evaluation_images", lambda stage: {})
    with world.environment(MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db"):
        retrain(steps=40, undone=0.5)
        assert np.mean(light("base")) < np.mean(light("dpo"))
        first = json.loads(Path("metrics/alignment.json").read_text())["judges"]["model-judge_reward"]["identity"]
        outcome = call()
        assert outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
        assert outcome.evidence["judge_card"]["judge"] == NAME and outcome.evidence["against"] == "base"
        assert aliases(connect(), MODEL)["champion"] == "1"

        retrain(steps=32, undone=1.0)
        again = json.loads(Path("metrics/alignment.json").read_text())["judges"]["model-judge_reward"]["identity"]
        assert first != again
        outcome = call()
        assert outcome.evidence["champion_measured_anew"] and outcome.evidence["against"] == f"{MODEL}/1"
        assert f"  clips of {MODEL}/1 were drawn and judged anew" in as_lines(outcome.evidence, dry_run=False)
        assert outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
        assert aliases(connect(), MODEL)["champion"] == "2"
