"""Cells of the study: drawn clips, their scores, and trained models, each kept by the digest of all it depends on.

The demo's tree is read alone. A cell is a folder .reelign/claims/<kind>/<digest> with what it depends on in cell.json.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cells import draw_clips, gold, kept, key_of, prompts_of
from components.config.params import SamplingParams, load_params
from components.contracts import BASE_GENERATOR, DIMENSIONS, LATENT_REWARD, VIDEO_REWARD
from components.evaluation import win_rates
from components.generator.sampler import Job, Loader
from components.generator.spec import SamplerSpec
from components.guidance.flow_nrg import NrgSpec
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import folder_digest, seed_of, write_json
from components.reward.score import RewardModel
from components.reward.scores import Unscored
from components.video.decode import read_frames

WORK = Path(".reelign/claims")
TEST, VALIDATION = 200, 101  # prompts, a clip each for every seed
DRAWING = ("components.generator.sampler", "components.guidance.flow_nrg", "components.video.encode")
JUDGING = ("components.simulation.judge", "components.video.decode")
SCORING = ("components.reward.score",)
CELL = "cell.json"


@dataclass(frozen=True)
class Model:
    """What draws clips: a generator with an optional LoRA, or guided by `weights` and a latent reward model."""

    generator: Path
    lora: Path | None = None
    latent: Path | None = None
    weights: tuple[tuple[str, float], ...] = ()

    def loader(self) -> Loader:
        """The loader that `draw_clips` takes."""
        plain = SamplerSpec(str(self.generator), None if self.lora is None else str(self.lora))
        if self.latent is None:
            return plain
        return NrgSpec(plain, load_params().nrg.model_copy(update={"weights": dict(self.weights)}), str(self.latent))

    def digests(self) -> list[Any]:
        """Everything that its clips depend on, without the code."""
        nrg = load_params().nrg.model_dump() if self.latent else None
        files = [None if file is None else folder_digest(file) for file in (self.generator, self.lora_file, self.latent)]
        return [*files, self.weights, nrg]

    @property
    def lora_file(self) -> Path | None:
        return None if self.lora is None else self.lora / "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class World:
    """A finished demo, and where the cells lie."""

    demo: Path
    work: Path = WORK

    @property
    def base(self) -> Model:
        return Model(self.demo / BASE_GENERATOR)

    @property
    def reward_model(self) -> Path:
        """The demo's own VideoReward."""
        return self.demo / VIDEO_REWARD

    @property
    def latent_reward(self) -> Path:
        return self.demo / LATENT_REWARD

    def cell(self, kind: str, depends: Any, make: Callable[[Path], None]) -> Path:
        """The cell of a kind for what it depends on; `make` fills it where it is missing."""

        def timed(folder: Path) -> None:
            began = time.perf_counter()
            make(folder)
            write_json(folder / CELL, {"depends": json.loads(json.dumps(depends, default=str)),
                                       "seconds": round(time.perf_counter() - began, 1)})  # fmt: skip
            print(f"{kind}: {time.perf_counter() - began:.0f} s", flush=True)

        return kept(self.work / kind / key_of(kind, depends), timed)

    def clips(self, model: Model, seed: int, split: str = "test", solver: str = "euler", scale: float = 2.0) -> Path:
        """A folder with a clip for each prompt of a split and clips.parquet (clip, prompt). The noise depends on seed and
        prompt alone."""
        prompts = prompts_of(self.demo, split, TEST if split == "test" else VALIDATION)
        sampling = load_params().sampling.model_copy(update={"solver": solver, "guidance_scale": scale})
        jobs = [Job(f"{place:03d}", prompt, seed_of(seed, "claims", prompt)) for place, prompt in enumerate(prompts)]

        def make(folder: Path) -> None:
            draw_clips(model.loader(), jobs, sampling, folder)
            pd.DataFrame([{"clip": job.clip, "prompt": job.prompt} for job in jobs]).to_parquet(folder / "clips.parquet")

        depends = {"model": model.digests(), "seed": seed, "prompts": prompts, "sampling": without_batch(sampling)}
        return self.cell("clips", depends | {"code": sources_digest(DRAWING)}, make)

    def gold(self, clips: Path) -> pd.DataFrame:
        """The gold judge's verdicts, a row a prompt: DIMENSIONS, right, dynamic, speed_error."""

        def make(folder: Path) -> None:
            table = pd.read_parquet(clips / "clips.parquet")
            rows = [
                {"prompt": row.prompt, **gold(read_frames(clips / f"{row.clip}.mp4"), row.prompt)}
                for row in table.itertuples()
            ]
            pd.DataFrame(rows).to_parquet(folder / "scores.parquet")

        return read_scores(self.cell("gold", {"clips": clips.name, "code": sources_digest(JUDGING)}, make))

    def reward(self, clips: Path, model: Path) -> pd.DataFrame:
        """A VideoReward's normalised scores, a row a prompt: DIMENSIONS."""

        def make(folder: Path) -> None:
            table = pd.read_parquet(clips / "clips.parquet")
            shown = [(str(clips / f"{row.clip}.mp4"), row.prompt) for row in table.itertuples()]
            scored_rows(model, shown).assign(prompt=table.prompt).to_parquet(folder / "scores.parquet")

        depends = {"clips": clips.name, "model": folder_digest(model), "code": sources_digest(SCORING)}
        return read_scores(self.cell("reward", depends, make))


def without_batch(sampling: SamplingParams) -> dict[str, Any]:
    return sampling.model_dump(exclude={"batch_size"})


def read_scores(cell: Path) -> pd.DataFrame:
    return pd.read_parquet(cell / "scores.parquet").set_index("prompt")


def scored_rows(model: Path, shown: list[tuple[str, str]]) -> pd.DataFrame:
    """Normalised scores and Overall of (video, prompt), a row each; ValueError for one without a score."""
    loaded = RewardModel.load(model)
    rows = []
    for (video, prompt), found in zip(shown, loaded.score(shown), strict=True):
        if isinstance(found, Unscored):
            raise ValueError(f"{video}, {prompt}: no score: {found.reason}")
        rows.append(found.normalised | {"Overall": found.overall})
    return pd.DataFrame(rows, columns=list(DIMENSIONS))


def points(ours: pd.Series, theirs: pd.Series) -> pd.Series:
    """Points of each prompt less one half: 1/2 for a win, 0 for a tie, -1/2 for a loss."""
    if not ours.index.equals(theirs.index):
        raise ValueError("clips of two models are not of the same prompts")
    return pd.Series(win_rates.points(ours.to_numpy(), theirs.to_numpy()) - 0.5, index=ours.index)
