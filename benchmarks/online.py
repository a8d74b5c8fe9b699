"""Alignment methods at equal numbers of drawn clips, by the gold judge, each at its own best sampling.

    make demo                                      first: models, candidates and scores are the demo's
    python benchmarks/online.py run                hours on one core; a restart resumes
    python benchmarks/online.py show               the tables

Every method trains on as many drawn clips as the demo has candidates (PRFL on their prompts and chosen clips). A seed is
params.seed of the training. Solver and guidance are chosen for each method, base too, by gold Overall on validation prompts.
Test prompts then give two win rates: both sampled as the demo samples, and each at its own best. Each cell is kept, by the
digest of all that it depends on.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from cells import draw_clips, gold, key_of, link, prompts_of, run_in, write_params

from components.config.params import SamplingParams, load_params
from components.contracts import BASE_GENERATOR, DIMENSIONS
from components.evaluation.win_rates import win_rate
from components.generator.sampler import Job
from components.generator.spec import SamplerSpec
from components.methods import METHODS, ONLINE
from components.online.run import align
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import Stage, folder_digest, seed_of
from components.video.decode import read_frames

WORK = Path(".reelign/online")
OF_DEMO = (
    *("data/source", "data/candidates", "data/candidate_scores.parquet", "data/alignment_pairs.parquet", "data/samples"),
    *("models/base_generator", "models/video_reward", "models/latent_reward"),
)
OF_HERE = ("components", "infra", "pretrained", "judges", "dvc.yaml")
ROUNDS = {"online.prompts": 50, "online.per_prompt": 7}  # ten rounds draw 3,500 clips, as many as the demo's candidates
FOUR = {"online.prompts": 125, "online.per_prompt": 7}  # four rounds draw as many
LARGE = {"online.prompts": 250, "online.per_prompt": 7}  # two do


def averaged(method: str, **training: float) -> dict[str, Any]:
    """Changes of an online method's training: an average of weights within a round, and a rate that rises and falls."""
    training = {"schedule": "cosine", "warmup_steps": 5, "ema_decay": 0.9, **training}
    return {f"online.{method}.training.{key}": value for key, value in training.items()}


# name: (stage, changes of params.yaml by dotted key); base has no stage.
RUNS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "base": (None, {}),
    "SFT": ("align@sft", {}),
    "Flow-RWR": ("align@rwr", {}),
    "Flow-DPO": ("align@dpo", {}),
    "DPO in rounds": ("online@dpo", FOUR | {"online.rounds": {"dpo": 4}, "online.dpo.training.steps": 30}),
    "DPO in large rounds": ("online@dpo", LARGE | {"online.rounds": {"dpo": 2}} | averaged("dpo", steps=100)),
    "NFT": ("online@nft", ROUNDS | {"online.rounds": {"nft": 10}}),
    "NFT in large rounds": (
        "online@nft",
        FOUR
        | {"online.rounds": {"nft": 4}, "online.nft.beta": 0.3, "online.nft.scale": 1.5}
        | averaged("nft", steps=50, learning_rate=5e-4),
    ),
    "GRPO": ("online@grpo", ROUNDS | {"online.rounds": {"grpo": 10}}),
    "NFT on candidates": (
        "online@nft",
        {"online.rounds": {"nft": 1}, "online.first_on_candidates": True, "online.nft.training.steps": 100},
    ),
    "PRFL": ("online@prfl", {"online.rounds": {"prfl": 1}}),
}
GUIDANCE = (2.0, 3.0, 4.0, 5.0)
SOLVERS = ("euler", "unipc")
PLAIN = (SOLVERS[0], GUIDANCE[0])  # as the demo samples
WAYS = [(SOLVERS[0], scale) for scale in GUIDANCE] + [(SOLVERS[1], scale) for scale in GUIDANCE[:2]]
TEST = 120  # prompts
ALL = ",".join(RUNS)

app = typer.Typer(help=__doc__, add_completion=False)
Demo = Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")]
Names = Annotated[str, typer.Option(help="Methods, of the table in this file.")]
Seeds = Annotated[str, typer.Option(help="Of training.")]
Clips = Annotated[int, typer.Option(help="Validation prompts, a clip each.")]
PerPrompt = Annotated[int, typer.Option(help="Clips of each test prompt.")]
Tune = Annotated[bool, typer.Option(help="Solver and guidance for each method, on validation prompts.")]


@app.command()
def run(
    demo: Demo = Path(), names: Names = ALL, seeds: Seeds = "17", clips: Clips = 101, per_prompt: PerPrompt = 2,
    tune: Tune = True,
) -> None:  # fmt: skip
    """Train, sample and judge whatever is not in its cell yet."""
    for seed in map(int, seeds.split(",")):
        for name in names.split(","):
            lora = trained(demo, name, seed)
            cells(demo, lora, clips, per_prompt, tune)
            print(f"seed {seed}, {name}: done", flush=True)


@app.command()
def show(
    demo: Demo = Path(), names: Names = ALL, seeds: Seeds = "17", clips: Clips = 101, per_prompt: PerPrompt = 2,
    tune: Tune = True,
) -> None:  # fmt: skip
    """Print the tables; what is not in its cell yet is run first."""
    for seed in map(int, seeds.split(",")):
        base = cells(demo, None, clips, per_prompt, tune)
        for name in names.split(","):
            lora = trained(demo, name, seed)
            own = cells(demo, lora, clips, per_prompt, tune)
            print(f"seed {seed}, {name}")
            rows = [("as the demo samples", PLAIN, PLAIN)]
            if tune:
                print("    gold Overall on validation prompts, and less base's, by guidance")
                for at in (("validation", SOLVERS[0], scale) for scale in GUIDANCE):
                    print(f"      {at[2]:g}: {own[at].Overall.mean():.3f}  {change(own[at], base[at], 'Overall')}")
                ours, theirs = (best(demo, one, clips) for one in (lora, None))
                rows.append((f"own best, {ours[0]} at {ours[1]:g}, base {theirs[0]} at {theirs[1]:g}", ours, theirs))
            for words, ours, theirs in rows:
                print(f"    {words}: {compared(own['test', *ours], base['test', *theirs])}", flush=True)


def compared(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """Gold win rates of clips against others of the same prompts and noise, with 95% intervals over prompts."""
    prompts = mine.prompt.to_numpy()
    wins = {d: win_rate(mine[d].to_numpy(), other[d].to_numpy(), prompts) for d in DIMENSIONS}
    text = ", ".join(f"{name} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in wins.items())
    changes = f"mean gold Overall {change(mine, other, 'Overall')}, dynamic degree {change(mine, other, 'dynamic')}"
    return f"{text}; {changes}; right {mine.right.mean():.3f}, base {other.right.mean():.3f}"


def change(mine: pd.DataFrame, other: pd.DataFrame, column: str) -> str:
    """Difference of means from clips of the same prompts and noise, with a 95% interval over prompts."""
    by_prompt = (mine[column] - other[column]).groupby(mine.prompt).mean()
    width = 1.96 * by_prompt.sem()
    return f"{by_prompt.mean():+.3f} [{by_prompt.mean() - width:+.3f}, {by_prompt.mean() + width:+.3f}]"


@app.command(hidden=True)
def train(method: str) -> None:
    """Train an online method in this folder, without its evaluation."""
    Stage(f"online@{method}").run(lambda stage: align(method, stage) and None)


def cells(demo: Path, lora: Path | None, clips: int, per_prompt: int, tune: bool) -> dict[tuple, pd.DataFrame]:
    """Verdicts by (split, solver, guidance)."""
    found = {}
    if tune:
        found = {("validation", *how): judged(demo, lora, "validation", clips, 1, *how) for how in WAYS}
    for how in {PLAIN, best(demo, lora, clips)} if tune else {PLAIN}:
        found["test", *how] = judged(demo, lora, "test", TEST, per_prompt, *how)
    return found


def best(demo: Path, lora: Path | None, clips: int) -> tuple[str, float]:
    """Solver and guidance with the highest gold Overall on validation prompts."""
    return max(WAYS, key=lambda how: judged(demo, lora, "validation", clips, 1, *how).Overall.mean())


def trained(demo: Path, name: str, seed: int) -> Path | None:
    """The LoRA of a method, trained unless its cell is there; None for base."""
    stage, changes = RUNS[name]
    if stage is None:
        return None
    kind, _, method = stage.partition("@")
    place = METHODS[method].lora if kind == "align" else ONLINE[method].lora
    program = METHODS[method].training.program if kind == "align" else "components.online.run"
    if kind == "align" and seed == load_params().seed and (demo / place).exists():
        return demo / place  # the demo's own
    changes = {"seed": seed, **changes}
    inputs = [folder_digest(demo / name) for name in OF_DEMO if name.startswith("models/") or name.endswith(".parquet")]
    params = load_params().align.model_dump(), load_params().online.model_dump()
    cell = WORK / "trained" / f"{kind}-{method}-{key_of(changes, inputs, params, sources_digest((program,)))}"
    if not (cell / place).exists():
        link(cell, Path(), OF_HERE)
        link(cell, demo, OF_DEMO)
        write_params(cell, changes)
        run_in(cell, [str(Path(__file__).resolve()), "train", method] if kind == "online" else ["-m", program])
    return cell / place


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


def verdicts(demo: Path, lora: Path | None, prompts: list[str], per_prompt: int, sampling: SamplingParams) -> pd.DataFrame:
    """Gold scores of drawn clips. Noise depends on prompt and number alone."""
    jobs = [
        Job(f"{i}-{k}", prompt, seed_of(0, "benchmark", prompt, k))
        for i, prompt in enumerate(prompts)
        for k in range(per_prompt)
    ]
    load = SamplerSpec(str(demo / BASE_GENERATOR), None if lora is None else str(lora))
    with tempfile.TemporaryDirectory() as folder:
        draw_clips(load, jobs, sampling, Path(folder))
        clips = [(job, read_frames(Path(folder) / f"{job.clip}.mp4")) for job in jobs]
    return pd.DataFrame([{"prompt": job.prompt, "clip": job.clip, **gold(clip, job.prompt)} for job, clip in clips])


if __name__ == "__main__":
    app()
