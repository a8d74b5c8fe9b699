"""A checkout in a folder whose brighter clip is the better one, with the stages that make and measure a small VideoReward:
versions of unlike quality are made by training it for more or fewer steps."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml

from components.files.tables import write_table
from components.pipeline.stage import Stage
from components.reward.bench import reward_bench
from components.reward.export_mlflow import package_mlflow
from components.reward.train import reward
from components.schemas import PAIRS_SCHEMA
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.reward.test_train import PARAMS
from tests.reward.tiny import tiny_card, tiny_model

CLIPS = 40
NAMES = ("VQ", "MQ", "TA", "Overall")
STAGES = {
    "reward": {
        "cmd": "python -m components.reward.train",
        "deps": ["base", "data/pairs", "data/source/videos"],
        "params": ["seed", "reward"],
        "outs": ["models/video_reward"],
    },
    "reward_bench": {
        "cmd": "python -m components.reward.bench",
        "deps": ["models/video_reward", "data/pairs", "data/source/videos"],
        "params": ["reward_bench"],
        "metrics": ["metrics/reward_bench.json"],
        "plots": ["plots/reward_bench.csv"],
    },
    "relabel": {
        "cmd": "python -m components.alignment.relabel",
        "deps": ["models/video_reward"],
        "outs": ["data/candidate_scores.parquet", "data/alignment_pairs.parquet"],
    },
    "align@dpo": {"cmd": "none", "deps": ["data/alignment_pairs.parquet"], "outs": ["models/aligned/dpo"]},
}


def make_checkout(folder: Path) -> Path:
    with contextlib.chdir(folder):
        # `align` as one of a group, as in the pipeline.
        stages = {name: entry for name, entry in STAGES.items() if name != "align@dpo"}
        stages["align"] = {"foreach": {"dpo": {}}, "do": STAGES["align@dpo"]}
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        write_params(steps=1)
        make_videos()
        for split, count in (("train", 120), ("validation", 60), ("test", 240)):
            make_pairs(split, count)
        model = tiny_model()
        model.backbone.network.save_pretrained("base")
        model.prompts.tokenizer.save_pretrained("base")
    return folder


def write_params(steps: int, seed: int = 17, **promotion) -> None:
    values = yaml.safe_load((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
    # Slow to learn, so that steps tell.
    training = PARAMS.training.model_copy(update={"steps": steps, "learning_rate": 0.001})
    slow = {"training": training, "vision_learning_rate": 0.001, "head_learning_rate": 0.002}
    values |= {"seed": seed, "reward": PARAMS.model_copy(update=slow).model_dump()}
    values["promotion"] |= promotion
    Path("params.yaml").write_text(yaml.safe_dump(values))


def levels() -> np.ndarray:
    """How bright each clip is."""
    return np.random.default_rng(0).permutation(np.linspace(20, 235, CLIPS)).round().astype(int)


def make_videos() -> None:
    rng = np.random.default_rng(1)
    for number, level in enumerate(levels()):
        frames = np.clip(level + rng.normal(0, 10, (4, 16, 16, 3)), 0, 255).astype(np.uint8)
        write_video(f"data/source/videos/{number}.mp4", frames, fps=8)


def make_pairs(split: str, count: int, prompts: int = 30, name: str = "prompt") -> None:
    """Pairs of a split: in every dimension the brighter clip is better, for people who see it more and less surely."""
    rng, level = np.random.default_rng(sum(map(ord, split))), levels()
    rows = []
    for place in range(count):
        a, b = rng.choice(CLIPS, 2, replace=False)
        gap = int(level[a]) - int(level[b])
        votes = {"VQ": gap, "MQ": gap + rng.normal(0, 20), "TA": gap + rng.normal(0, 10)}
        labels = {key: 0 if abs(vote) < 15 else int(np.sign(vote)) for key, vote in votes.items()}
        rows.append(
            {
                "pair_id": f"{split}{place}",
                "prompt": f"{split} {name} {place % prompts}",
                "path_A": f"{a}.mp4",
                "path_B": f"{b}.mp4",
                "model_A": None,
                "model_B": None,
                **labels,
                "Overall": labels["VQ"],
                **{f"MOS_{side}_{key}": None for side in "AB" for key in NAMES},
                "decided_by": "given",
                "annotators": ["given"],
                "rows": [2 + len(rows)],
            }
        )
    write_table(f"data/pairs/{split}.parquet", rows, PAIRS_SCHEMA)


def train(steps: int, seed: int = 17) -> None:
    """Train, register and measure a version, by the real stages."""
    write_params(steps, seed)
    Stage("reward").run(reward)
    Stage("reward_bench").run(reward_bench)


def register(model: Path, figures: dict[str, float] | None = None) -> None:
    """Register a model folder as the stage reward would have, had it trained it and found these figures."""

    def body(stage: Stage) -> None:
        shutil.copytree(model, stage.output("models/video_reward"))
        stage.log(figures or {}, 1)
        stage.register("video_reward", Path("models/video_reward"), {"pairs_digest": "none"}, package_mlflow)

    Stage("reward").run(body)


def random_model(folder: Path, scale: float = 1.0) -> Path:
    """A VideoReward that has learnt nothing; `scale` of its head makes another of it."""
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    model.save(folder, tiny_card(model))
    return folder


@contextlib.contextmanager
def environment(**values: str):
    """Environment variables for as long as it lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
