"""Cells with trained models: VideoReward, latent reward model, LoRA of each method, held-out judge.

All trainings of this study are smaller than the demo's, for a night on two cores; those that are compared are equally small.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cells import gold, link, run_in, stage, write_params
from benchmarks.claims.world import Model, World, scored_rows
from benchmarks.held_out import label_again, two_annotators
from components.config.params import load_params
from components.contracts import (
    ALIGNED,
    ALIGNMENT_PAIRS,
    BASE_GENERATOR,
    DIMENSIONS,
    JUDGE_REWARD,
    LATENT_REWARD,
    PAIRS,
    VIDEO_REWARD,
)
from components.files.tables import read_table, write_table
from components.methods import METHODS
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel
from components.schemas import PAIRS_SCHEMA
from components.video.decode import read_frames

HERE = ("components", "benchmarks", "infra", "pretrained", "judges", "dvc.yaml")
CANDIDATE_FILES = ("data/candidates", "data/candidate_scores.parquet", "models/base_generator")
SHARED = (".reelign/cache",)  # decoded frames, and tables of reference errors, each with its own digests
REWARD_SIZE = {"reward.training.steps": 150, "reward.training.batch_size": 16}
LATENT_SIZE = {"latent_reward.training.steps": 150, "latent_reward.labelled_pairs": False}
ALIGN_SIZE = {"batch_size": 32, "learning_rate": 3.0e-4, "warmup_steps": 10, "schedule": "constant", "ema_decay": None}
STEPS, LONG = 80, 160  # of alignment: all comparisons, and how far the longest runs go
SNAPSHOTS = [20, 40, 80, 160]
ALIGN_PAIRS = 1000  # of the demo's
JUDGE_PAIRS = {"train": 1200, "validation": 240, "test": 480}


def folder_for(world: World, folder: Path, names: tuple[str, ...], changes: Mapping[str, Any]) -> None:
    """Links to this checkout's code and to the demo's files `names`, a shared cache, and params."""
    link(folder, Path(), HERE)
    link(folder, world.demo, names)
    for name in SHARED:
        (world.work / name).mkdir(parents=True, exist_ok=True)
    link(folder, world.work, SHARED)
    write_params(folder, dict(changes))


def reward(world: World, seed: int, loss: str = "btt", part: float = 1.0, single: bool = False) -> Path:
    """A VideoReward on a random `part` of the demo's training pairs; `single`: one reward token after the prompt."""
    changes: dict[str, Any] = {"seed": seed, "reward.loss": loss, **REWARD_SIZE}
    if single:
        changes |= {"reward.readout": "single_special", "reward.template": "components/reward/templates/single/short.txt"}
    program = "components.reward.train"

    def make(folder: Path) -> None:
        folder_for(world, folder, ("data/source",), changes)
        for split in ("train", "validation", "test"):
            rows = read_table(world.demo / PAIRS / f"{split}.parquet", PAIRS_SCHEMA)
            if split == "train":
                chosen = np.random.default_rng(seed).permutation(len(rows))[: round(part * len(rows))]
                rows = [rows[place] for place in sorted(chosen)]
            write_table(folder / PAIRS / f"{split}.parquet", rows, PAIRS_SCHEMA)
        stage(folder, program, store=world.work / "mlflow.db")

    cell = world.cell("video_reward", depends(world, changes | {"part": part}, (PAIRS,), ("reward",), program), make)
    return cell / VIDEO_REWARD


def test_pairs(world: World, model: Path) -> pd.DataFrame:
    """The demo's test pairs with labels, and a model's difference of normalised scores (A less B) by dimension: once by the
    pair's prompt, once by the prompt of another pair (columns swapped_...)."""

    def make(folder: Path) -> None:
        rows = pd.DataFrame(read_table(world.demo / PAIRS / "test.parquet", PAIRS_SCHEMA))
        prompts = sorted(set(rows.prompt))
        other = dict(zip(prompts, np.roll(prompts, len(prompts) // 2).tolist(), strict=True))
        found = rows[["pair_id", "prompt", *DIMENSIONS]].copy()
        for prefix, asked in (("", rows.prompt), ("swapped_", rows.prompt.map(other))):
            sides = [
                scored_rows(model, [(str(world.demo / "data/source/videos" / path), prompt)
                                    for path, prompt in zip(rows[f"path_{side}"], asked, strict=True)])
                for side in "AB"
            ]  # fmt: skip
            for name in DIMENSIONS:
                found[f"{prefix}difference_{name}"] = (sides[0][name] - sides[1][name]).to_numpy()
        thresholds = RewardModel.load(model).card.tie_thresholds
        found.assign(**{f"threshold_{name}": thresholds[name] for name in DIMENSIONS}).to_parquet(folder / "pairs.parquet")

    inputs = [folder_digest(model), folder_digest(world.demo / PAIRS / "test.parquet"), source_digest(world.demo)]
    cell = world.cell("test_pairs", {"inputs": inputs, "code": sources_digest(("components.reward.score",))}, make)
    return pd.read_parquet(cell / "pairs.parquet")


@cache
def source_digest(demo: Path) -> str:
    return folder_digest(demo / "data/source")


def latent(world: World, seed: int, noise_aware: bool = True) -> Path:
    """A latent reward model trained on all noise levels, or on clean latents alone."""
    changes = {"seed": seed, "latent_reward.max_noise": 1.0 if noise_aware else 0.0, **LATENT_SIZE}
    program = "components.guidance.train"

    def make(folder: Path) -> None:
        folder_for(world, folder, (*CANDIDATE_FILES, "data/pairs", "data/source"), changes)
        stage(folder, program, store=world.work / "mlflow.db")

    inputs = (Path("data/candidate_scores.parquet"), Path(BASE_GENERATOR))
    return world.cell("latent_reward", depends(world, changes, inputs, ("latent_reward",), program), make) / LATENT_REWARD


def aligned(
    world: World,
    seed: int,
    method: str = "dpo",
    *,
    step: int = STEPS,
    schedule: str = "constant",
    beta: float | None = None,
    rate: float | None = None,
    full: bool = False,
    labels: str = "reward",
    labelled_by: Path | None = None,
    long: bool = False,
) -> Model:
    """The base generator after `step` steps of a method on ALIGN_PAIRS of the demo's pairs.

    full: all weights train. labels: the demo's reward's, drawn at random, or "faster" (the faster clip by the gold judge is
    chosen: a control, no method). labelled_by: another VideoReward chooses in the same pairs. long: of a run of LONG steps.
    """
    training = load_params().align.dpo.training.model_dump() | ALIGN_SIZE | {"steps": LONG if long else STEPS}
    training |= {"log_every": 20, "validate_every": 20, "checkpoint_seconds": 3600}
    training |= {} if rate is None else {"learning_rate": rate}
    changes = {"seed": seed, f"align.{method}.training": training}
    changes |= {"align.dpo.schedule": schedule, "align.dpo.validation": 0.0} if method == "dpo" else {}
    changes |= {} if beta is None else {"align.dpo.beta": beta}
    kept = [at for at in SNAPSHOTS if at <= training["steps"]]
    settings = {"weights": "full" if full else "lora", "snapshots": kept}
    program = "benchmarks.claims.align" if method == "dpo" else METHODS[method].training.program

    def make(folder: Path) -> None:
        folder_for(world, folder, CANDIDATE_FILES, changes)
        chosen_pairs(world, seed, labels, labelled_by).to_parquet(folder / ALIGNMENT_PAIRS, index=False)
        (folder / "settings.json").write_text(json.dumps(settings))
        command = ["-m", program, *(["settings.json"] if method == "dpo" else [])]
        run_in(folder, command, world.work / "mlflow.db")

    own = {"changes": changes, "settings": settings, "pairs": ALIGN_PAIRS, "labels": labels}
    own["labelled_by"] = None if labelled_by is None else folder_digest(labelled_by)
    inputs = (ALIGNMENT_PAIRS, Path("data/candidate_scores.parquet"), Path(BASE_GENERATOR))
    cell = world.cell("aligned", depends(world, own, inputs, ("align",), program), make) / ALIGNED / method
    if method != "dpo":
        return Model(world.demo / BASE_GENERATOR, cell)
    return whole_generator(world, cell / str(step)) if full else Model(world.demo / BASE_GENERATOR, cell / str(step))


def whole_generator(world: World, weights: Path) -> Model:
    """A generator's folder with a trained transformer, the rest of it links to base's."""

    def make(folder: Path) -> None:
        base = world.demo / BASE_GENERATOR
        link(folder / "whole", weights, ("transformer",))
        link(folder / "whole", base, (file.name for file in base.iterdir()))

    cell = world.cell("generator", {"weights": folder_digest(weights), "base": world.base.digests()}, make)
    return Model(cell / "whole")


def chosen_pairs(world: World, seed: int, labels: str, labelled_by: Path | None) -> pd.DataFrame:
    """ALIGN_PAIRS of the demo's alignment pairs, always the same, with the side that these labels choose."""
    pairs = pd.DataFrame(read_table(world.demo / ALIGNMENT_PAIRS))
    order = np.random.default_rng(0).permutation(len(pairs))[:ALIGN_PAIRS]
    pairs = pairs.iloc[sorted(order)].reset_index(drop=True)
    if labels == "random":
        return swapped(pairs, np.random.default_rng([seed, 1]).random(len(pairs)) < 0.5)
    if labels == "faster":
        speed = candidate_speed(world, pairs)
        return swapped(pairs, pairs.chosen.map(speed).to_numpy() < pairs.rejected.map(speed).to_numpy())
    if labelled_by is not None:
        score = candidate_scores(world, pairs, labelled_by)
        found = swapped(pairs, pairs.chosen.map(score).to_numpy() < pairs.rejected.map(score).to_numpy())
        return found.assign(reward_model=RewardModel.load(labelled_by).version)
    return pairs


def swapped(pairs: pd.DataFrame, where: np.ndarray) -> pd.DataFrame:
    """Pairs with chosen and rejected exchanged in these rows, scores too; the margin is that of the other order."""
    found = pairs.copy()
    for name in [column for column in pairs if str(column).startswith("chosen")]:
        other = str(name).replace("chosen", "rejected", 1)
        found.loc[where, name], found.loc[where, other] = pairs.loc[where, other], pairs.loc[where, name]
    found.loc[where, "margin"] = -pairs.loc[where, "margin"]
    return found


def candidate_paths(world: World, pairs: pd.DataFrame) -> pd.DataFrame:
    """The candidates of these pairs: columns candidate_id, prompt, path (of the file)."""
    table = pd.DataFrame(read_table(world.demo / "data/candidates/candidates.parquet"))
    table = table[table.candidate_id.isin({*pairs.chosen, *pairs.rejected})]
    return table.assign(path=[str(world.demo / "data/candidates" / path) for path in table.path])


def candidate_speed(world: World, pairs: pd.DataFrame) -> dict[str, float]:
    """Gold speed of each candidate of these pairs, px a frame."""
    table = candidate_paths(world, pairs)
    found = [gold(read_frames(row.path), row.prompt)["dynamic"] for row in table.itertuples()]
    return dict(zip(table.candidate_id, found, strict=True))


def candidate_scores(world: World, pairs: pd.DataFrame, model: Path) -> dict[str, float]:
    """Overall of each candidate of these pairs by another VideoReward."""
    table = candidate_paths(world, pairs)
    found = scored_rows(model, list(zip(table.path, table.prompt, strict=True)))
    return dict(zip(table.candidate_id, found.Overall, strict=True))


def judge_model(world: World, seed: int, factor: float, lapse: float) -> Path:
    """A held-out judge, trained on labels of two new annotators with `factor` times the usual noise; with its card."""
    changes = {"seed": seed, "judge_reward.held_out": {"annotators": 0.5}, **REWARD_SIZE}
    program = "components.judges.train"

    def make(folder: Path) -> None:
        folder_for(world, folder, ("data/source",), changes)
        rng, source = np.random.default_rng(seed), load_params().source
        assert source.kind == "shapes"
        label_again(world.demo, folder, two_annotators(rng, source.noise, source.tie, factor, lapse), rng, JUDGE_PAIRS)
        run_in(folder, ["-m", program, "annotators"], world.work / "mlflow.db")

    own = changes | {"factor": factor, "lapse": lapse, "pairs": JUDGE_PAIRS}
    return world.cell("judge", depends(world, own, (PAIRS,), ("reward",), program), make) / JUDGE_REWARD


def depends(
    world: World, changes: Mapping[str, Any], inputs: tuple[Path, ...], sections: tuple[str, ...], program: str
) -> dict[str, Any]:
    """What a training depends on: its changes, params of these sections, the demo's inputs, and the code."""
    params = load_params()
    return {
        "changes": dict(changes),
        "params": {name: getattr(params, name).model_dump() for name in sections},
        "inputs": {str(path): folder_digest(world.demo / path) for path in inputs},
        "pretrained": folder_digest("pretrained/vlm") if "reward" in sections else None,
        "code": sources_digest((program, "benchmarks.held_out")),
    }
