"""A checkout with a tiny generator and prompts, in which rounds of a few clips run; the reward is read off the clips."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.config.params import load_params
from components.contracts import SOURCE_PROMPTS
from components.files.tables import read_table
from components.generator.families.wan_small import save_generator
from components.online import loop
from components.preferences.schema import write_prompts
from components.schemas import CANDIDATES_SCHEMA
from components.video.decode import read_frames
from tests.alignment.test_toy_method import InPlace
from tests.generator.small import tiny_generator

PROMPTS = [f"a {colour} circle moving {way} {n}" for colour in ("red", "blue") for way in ("up", "down") for n in range(4)]


def red_scores(stage, folder: Path) -> tuple[list[dict], list[str]]:
    """Stands for VideoReward: how red a clip is."""
    rows = read_table(folder / "candidates.parquet", CANDIDATES_SCHEMA)
    known = ("candidate_id", "prompt_id", "prompt")
    fixed = {"reward_model": "red", "frame_plan": "all"}
    return [
        {key: row[key] for key in known} | {"VQ": float(np.mean(read_frames(folder / row["path"])[..., 0]) / 255)} | fixed
        for row in rows
    ], ["VQ"]


def with_reward(stage, folder: Path) -> tuple[list[dict], list[str]]:
    rows, dimensions = red_scores(stage, folder)
    return [row | {"reward": row["VQ"]} for row in rows], dimensions


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Makes stages of one checkout that share no state."""
    params = load_params()
    training = {"steps": 2, "batch_size": 4, "accumulation": 1, "log_every": 1, "checkpoint_seconds": 0}
    parts = {
        name: (own := getattr(params.online, name)).model_copy(update={"training": own.training.model_copy(update=training)})
        for name in ("nft", "grpo", "dpo", "prfl")
    }
    lora = params.align.lora.model_copy(update={"rank": 2})
    changes = {
        "align": params.align.model_copy(
            update={"lora": lora, "draws": 1, "dpo": params.align.dpo.model_copy(update={"validation": 0.0})}
        ),
        "online": params.online.model_copy(
            update={"rounds": {"nft": 3}, "prompts": 3, "per_prompt": 2, "first_on_candidates": False, **parts}
        ),
        "relabel": params.relabel.model_copy(update={"min_margin": 0.0}),
        "sampling": params.sampling.model_copy(update={"steps": 4, "frames": 5, "batch_size": 4}),
        "split": params.split.model_copy(update={"validation": 0.1, "test": 0.1}),
    }
    params = params.model_copy(update=changes)
    shutil.copyfile("params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    save_generator(tiny_generator(), tmp_path / "models/base_generator")
    SOURCE_PROMPTS.parent.mkdir(parents=True)
    write_prompts(SOURCE_PROMPTS, PROMPTS)
    monkeypatch.setattr(loop, "score_candidates", with_reward)

    def make(name: str, method: str = "nft", **change) -> InPlace:
        stage = InPlace(tmp_path / name)
        online = params.online.model_copy(update=change)
        stage.params, stage.name = params.model_copy(update={"online": online}), f"online@{method}"
        return stage

    return make
