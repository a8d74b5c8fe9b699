"""Alignment methods at equal numbers of drawn clips, by the gold judge, each at its own best sampling.

    make demo                                      first: models, candidates and scores are the demo's
    python benchmarks/online.py run                hours on one core; a restart resumes
    python benchmarks/online.py show               the tables

Every method trains on as many drawn clips as the demo has candidates (PRFL on their prompts and chosen clips). A seed is
params.seed of the training. Solver and guidance are chosen for each method, base too, by gold Overall on validation prompts.
Test prompts then give two win rates: both sampled as the demo samples, and each at its own best. Each cell is kept, by the
digest of all that it depends on.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml

from components.config.params import SamplingParams, load_params
from components.contracts import BASE_GENERATOR, DIMENSIONS, SOURCE_PROMPTS
from components.evaluation.win_rates import win_rate
from components.generator.folder import load_generator
from components.generator.sampler import Job, solve
from components.methods import METHODS, ONLINE
from components.online.run import align
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import Stage, folder_digest, seed_of
from components.preferences.schema import read_prompts
from components.preferences.split import split_prompts
from components.simulation.judge import judge
from components.video.decode import read_frames
from components.video.encode import write_video

WORK = Path(".reelign/online")
OF_DEMO = (
    *("data/source", "data/candidates", "data/candidate_scores.parquet", "data/alignment_pairs.parquet", "data/samples"),
    *("models/base_generator", "models/video_reward", "models/latent_reward"),
)
OF_HERE = ("components", "infra", "pretrained", "judges", "dvc.yaml")
ROUNDS = {"online.prompts": 50, "online.per_prompt": 7}  # ten rounds draw 3,500 clips, as many as the demo's candidates
FOUR = {"online.prompts": 125, "online.per_prompt": 7}  # four rounds draw as many
# name: (stage, changes of params.yaml by dotted key); base has no stage.
RUNS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "base": (None, {}),
    "SFT": ("align@sft", {}),
    "Flow-RWR": ("align@rwr", {}),
    "Flow-DPO": ("align@dpo", {}),
    "DPO in rounds": ("online@dpo", FOUR | {"online.rounds": {"dpo": 4}, "online.dpo.training.steps": 30}),
    "NFT": ("online@nft", ROUNDS | {"online.rounds": {"nft": 10}}),
    "GRPO": ("online@grpo", ROUNDS | {"online.rounds": {"grpo": 10}}),
    "PRFL": ("online@prfl", {"online.rounds": {"prfl": 1}}),
}
GUIDANCE = (2.0, 3.0, 4.0, 5.0)
SOLVERS = ("euler", "unipc")
ALL = ",".join(RUNS)
BATCH = 32

app = typer.Typer(help=__doc__, add_completion=False)
Demo = Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")]
Names = Annotated[str, typer.Option(help="Methods, of the table in this file.")]
Seeds = Annotated[str, typer.Option(help="Of training.")]


@app.command()
def run(demo: Demo = Path(), names: Names = ALL, seeds: Seeds = "17", clips: int = 101, per_prompt: int = 2) -> None:
    """Train, sample and judge whatever is not in its cell yet. clips: validation prompts, a clip each; per_prompt: clips of
    each of 120 test prompts."""
    for seed in map(int, seeds.split(",")):
        for name in names.split(","):
            lora = trained(demo, name, seed)
            for solver in SOLVERS:
                for scale in GUIDANCE if solver == SOLVERS[0] else GUIDANCE[:2]:
                    judged(demo, lora, "validation", clips, 1, solver, scale)
            for solver, scale in {(SOLVERS[0], GUIDANCE[0]), best(demo, lora, clips)}:
                judged(demo, lora, "test", 120, per_prompt, solver, scale)
            print(f"seed {seed}, {name}: best on validation prompts {best(demo, lora, clips)}", flush=True)


@app.command()
def show(demo: Demo = Path(), names: Names = ALL, seeds: Seeds = "17", clips: int = 101, per_prompt: int = 2) -> None:
    """Print the tables of cells that are there."""
    plain = (SOLVERS[0], GUIDANCE[0])
    for seed in map(int, seeds.split(",")):
        base = cells(demo, None, clips, per_prompt)
        for name in names.split(","):
            lora = trained(demo, name, seed)
            own = cells(demo, lora, clips, per_prompt)
            curve = "  ".join(f"{scale:g}: {own['validation', SOLVERS[0], scale].Overall.mean():.3f}" for scale in GUIDANCE)
            tuned, base_tuned = best(demo, lora, clips), best(demo, None, clips)
            rows = [("as the demo samples", plain, plain), ("each at its best", tuned, base_tuned)]
            print(f"seed {seed} {name:14} best {tuned}; gold Overall on validation prompts over guidance {curve}")
            for words, ours, theirs in rows:
                mine, other = own["test", *ours], base["test", *theirs]
                prompts = mine.prompt.to_numpy()
                wins = {d: win_rate(mine[d].to_numpy(), other[d].to_numpy(), prompts) for d in DIMENSIONS}
                text = "  ".join(
                    f"{d} {w.value:.3f} [{w.low:.3f}, {w.high:.3f}]" for d, w in wins.items() if w.low is not None
                )
                print(f"    {words:20} {text}  right {mine.right.mean():.3f}  dynamic degree {mine.dynamic.mean():.3f}"
                      f" (base {other.dynamic.mean():.3f})")  # fmt: skip


@app.command(hidden=True)
def train(method: str) -> None:
    """Train an online method in this folder, without its evaluation."""
    Stage(f"online@{method}").run(lambda stage: align(method, stage) and None)


def cells(demo: Path, lora: Path | None, clips: int, per_prompt: int) -> dict[tuple, pd.DataFrame]:
    """Verdicts by (split, solver, guidance)."""
    plan = [
        ("validation", solver, scale) for solver in SOLVERS for scale in (GUIDANCE if solver == "euler" else GUIDANCE[:2])
    ]
    found = {(split, *how): judged(demo, lora, split, clips, 1, *how) for split, *how in plan}
    for how in {(SOLVERS[0], GUIDANCE[0]), best(demo, lora, clips)}:
        found["test", *how] = judged(demo, lora, "test", 120, per_prompt, *how)
    return found


def best(demo: Path, lora: Path | None, clips: int) -> tuple[str, float]:
    """Solver and guidance with the highest gold Overall on validation prompts."""
    ways = [(solver, scale) for solver in SOLVERS for scale in (GUIDANCE if solver == SOLVERS[0] else GUIDANCE[:2])]
    return max(ways, key=lambda how: judged(demo, lora, "validation", clips, 1, *how).Overall.mean())


def trained(demo: Path, name: str, seed: int, more: dict[str, Any] | None = None) -> Path | None:
    """The LoRA of a method, trained unless its cell is there; None for base."""
    stage, changes = RUNS[name]
    if stage is None:
        return None
    kind, _, method = stage.partition("@")
    place = METHODS[method].lora if kind == "align" else ONLINE[method].lora
    program = METHODS[method].training.program if kind == "align" else "components.online.run"
    changes = {"seed": seed, **changes, **(more or {})}
    inputs = [folder_digest(demo / name) for name in OF_DEMO if name.startswith("models/") or name.endswith(".parquet")]
    params = load_params().align.model_dump(), load_params().online.model_dump()
    cell = WORK / "trained" / f"{kind}-{method}-{key_of(changes, inputs, params, sources_digest((program,)))}"
    if not (cell / place).exists():
        workspace(cell, demo, changes)
        command = [sys.executable, "-m", program]
        if kind == "online":
            command = [sys.executable, str(Path(__file__).resolve()), "train", method]
        store = f"sqlite:///{(cell / 'mlflow.db').resolve()}"  # runs of a benchmark have a separate store
        environment = os.environ | {"MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(Path().resolve())}
        with open(cell / "log.txt", "a") as log:
            subprocess.run(command, cwd=cell, env=environment, check=True, stderr=log)
    return cell / place


def workspace(folder: Path, demo: Path, changes: dict[str, Any]) -> None:
    """A folder for a stage with separate params, and links to the files of the demo and the code of this checkout."""
    for name, root in [*((name, Path()) for name in OF_HERE), *((name, demo) for name in OF_DEMO)]:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to((root / name).resolve())
    params = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        section[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def judged(
    demo: Path, lora: Path | None, split: str, count: int, per_prompt: int, solver: str, scale: float
) -> pd.DataFrame:
    """Gold scores of `per_prompt` clips of `count` prompts of a split: prompt, clip, scores, right, dynamic, speed_error."""
    changes = {"solver": solver, "guidance_scale": scale}
    sampling = load_params().sampling.model_copy(update=changes)
    code = sources_digest(("components.generator.sampler", "components.simulation.judge"))
    model = [
        folder_digest(demo / BASE_GENERATOR),
        None if lora is None else folder_digest(lora / "pytorch_lora_weights.safetensors"),
    ]
    cell = WORK / "judged" / f"{key_of(model, split, count, per_prompt, sampling.model_dump(), code)}.parquet"
    if not cell.exists():
        cell.parent.mkdir(parents=True, exist_ok=True)
        table = verdicts(demo, lora, prompts_of(demo, split, count), per_prompt, sampling)
        table.to_parquet(cell.with_suffix(".partial"), index=False)
        cell.with_suffix(".partial").rename(cell)
    return pd.read_parquet(cell)


def prompts_of(demo: Path, split: str, count: int) -> list[str]:
    """`count` prompts of a split, in an order that no method's seed changes."""
    params = load_params()
    prompts = read_prompts(demo / SOURCE_PROMPTS)
    sides = split_prompts(prompts, params.split)
    pool = [prompt for prompt in prompts if sides[prompt] == split]
    order = np.random.default_rng(seed_of(params.seed, "benchmark", split)).permutation(len(pool))[:count]
    return [pool[i] for i in sorted(order)]


def verdicts(demo: Path, lora: Path | None, prompts: list[str], per_prompt: int, sampling: SamplingParams) -> pd.DataFrame:
    """The clips go through MP4, as those of the stages do. Noise depends on prompt and number alone."""
    generator = load_generator(demo / BASE_GENERATOR, lora)
    jobs = [
        Job(f"{i}-{k}", prompt, seed_of(0, "benchmark", prompt, k))
        for i, prompt in enumerate(prompts)
        for k in range(per_prompt)
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            clips = generator.decode(solve(generator, batch, sampling), sampling.decoding)
            for job, clip in zip(batch, clips, strict=True):
                write_video(Path(folder) / "clip.mp4", clip, sampling.fps)
                found = judge(read_frames(Path(folder) / "clip.mp4"), job.prompt)
                more = {"right": found.prompt_right, "dynamic": found.dynamic_degree, "speed_error": found.speed_error}
                rows.append({"prompt": job.prompt, "clip": job.clip, **found.scores(), **more})
    return pd.DataFrame(rows)


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


if __name__ == "__main__":
    app()
