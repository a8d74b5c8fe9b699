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

import numpy as np
import pandas as pd
import typer
from cells import draw_clips, gold, key_of, link, prompts_of, run_in, write_params
from own_labels import accuracy, reward_of_own_clips

from components.config.params import SamplingParams, load_params
from components.contracts import BASE_GENERATOR, DIMENSIONS, VIDEO_REWARD
from components.evaluation.win_rates import win_rate
from components.files.locks import sole_writer
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
RELABELLED = ("data/candidate_scores.parquet", "data/alignment_pairs.parquet")  # anew, where the reward is another
OF_HERE = ("components", "infra", "pretrained", "judges", "dvc.yaml")
ROUNDS = {"online.prompts": 50, "online.per_prompt": 7}  # ten rounds draw 3,500 clips, as many as the demo's candidates
FOUR = {"online.prompts": 125, "online.per_prompt": 7}  # four rounds draw as many
LARGE = {"online.prompts": 250, "online.per_prompt": 7}  # two do


def averaged(method: str, **training: float) -> dict[str, Any]:
    """Changes of an online method's training: an average of weights within a round, and a rate that rises and falls."""
    training = {"schedule": "cosine", "warmup_steps": 5, "ema_decay": 0.9, **training}
    return {f"online.{method}.training.{key}": value for key, value in training.items()}


LARGE_NFT = (
    FOUR
    | {"online.rounds": {"nft": 4}, "online.nft.beta": 0.3, "online.nft.scale": 1.5}
    | averaged("nft", steps=50, learning_rate=5e-4)
)
OWN_LABELS = " by own labels"  # end of the name of a run whose reward also learnt from labels on the base generator's clips

# name: (stage, changes of params.yaml by dotted key); base has no stage.
RUNS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "base": (None, {}),
    "SFT": ("align@sft", {}),
    "Flow-RWR": ("align@rwr", {}),
    "Flow-DPO": ("align@dpo", {}),
    "DPO in rounds": ("online@dpo", FOUR | {"online.rounds": {"dpo": 4}, "online.dpo.training.steps": 30}),
    "DPO in large rounds": ("online@dpo", LARGE | {"online.rounds": {"dpo": 2}} | averaged("dpo", steps=100)),
    "NFT": ("online@nft", ROUNDS | {"online.rounds": {"nft": 10}}),
    "NFT in large rounds": ("online@nft", LARGE_NFT),
    "NFT at guidance 3": ("online@nft", LARGE_NFT | {"sampling.guidance_scale": 3.0}),
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
WAYS = [(SOLVERS[0], scale) for scale in (2.0, 2.5, 3.0, 4.0, 5.0)] + [(SOLVERS[1], scale) for scale in (2.0, 2.5, 3.0)]
TEST = 120  # prompts
ALL = ",".join(RUNS)

app = typer.Typer(help=__doc__, add_completion=False)
Demo = Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")]
Names = Annotated[
    str, typer.Option(help=f"Methods, of the table in this file; with '{OWN_LABELS}' after it, by that reward.")
]
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
    """Print the tables and draw benchmarks/online_guidance.svg; what is not in its cell yet is run first."""
    curves: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
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
                    found = change(own[at], base[at], "Overall")
                    print(f"      {at[2]:g}: {own[at].Overall.mean():.3f}  {words_of(found)}")
                    curves.setdefault((name, seed), []).append(found)
                ours, theirs = (best(demo, one, clips) for one in (lora, None))
                rows.append((f"own best, {ours[0]} at {ours[1]:g}, base {theirs[0]} at {theirs[1]:g}", ours, theirs))
            for words, ours, theirs in rows:
                print(f"    {words}: {compared(own['test', *ours], base['test', *theirs])}", flush=True)
    if tune:
        draw({key: points for key, points in curves.items() if key[0] != "base"})


def compared(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """Gold win rates of clips against others of the same prompts and noise, with 95% intervals over prompts."""
    prompts = mine.prompt.to_numpy()
    wins = {d: win_rate(mine[d].to_numpy(), other[d].to_numpy(), prompts) for d in DIMENSIONS}
    text = ", ".join(f"{name} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in wins.items())
    overall, motion = (words_of(change(mine, other, column)) for column in ("Overall", "dynamic"))
    changes = f"mean gold Overall {overall}, dynamic degree {motion}"
    return f"{text}; {changes}; right {mine.right.mean():.3f}, base {other.right.mean():.3f}"


def change(mine: pd.DataFrame, other: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Difference of means from clips of the same prompts and noise, and its 95% interval over prompts."""
    by_prompt = (mine[column] - other[column]).groupby(mine.prompt).mean()
    width = 1.96 * by_prompt.sem()
    return by_prompt.mean(), by_prompt.mean() - width, by_prompt.mean() + width


def words_of(found: tuple[float, float, float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def draw(curves: dict[tuple[str, int], list[tuple[float, float, float]]]) -> None:
    """benchmarks/online_guidance.svg: the gain over base by guidance, a line for each method and seed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "online"  # the same file from the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    names = list(dict.fromkeys(name for name, _ in curves))
    for place, ((name, seed), points) in enumerate(curves.items()):
        value, low, high = np.array(points).T
        at = np.array(GUIDANCE) + 0.03 * (place - len(curves) / 2)
        label = name if seed == min(other for one, other in curves if one == name) else None
        colour = f"C{names.index(name)}"
        axes.errorbar(at, value, [value - low, high - value], label=label, color=colour, capsize=2, marker="o", markersize=3)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="guidance", ylabel="mean gold Overall less base's, 95% intervals", xticks=GUIDANCE)
    axes.legend(frameon=False)
    figure.savefig("benchmarks/online_guidance.svg", metadata={"Date": None}, bbox_inches="tight")


@app.command()
def labels(demo: Demo = Path(), seeds: Seeds = "17") -> None:
    """Accuracy of the demo's VideoReward, and of those that also learn from its candidates, within prompts held back."""
    print(f"demo: {accuracy(demo, WORK, demo)}", flush=True)
    for seed in map(int, seeds.split(",")):
        print(f"seed {seed}{OWN_LABELS}: {accuracy(demo, WORK, reward_of_own_clips(demo, WORK, seed))}", flush=True)


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
    plain = name.removesuffix(OWN_LABELS)
    stage, changes = RUNS[plain]
    if stage is None:
        return None
    kind, _, method = stage.partition("@")
    place = METHODS[method].lora if kind == "align" else ONLINE[method].lora
    program = METHODS[method].training.program if kind == "align" else "components.online.run"
    if kind == "align" and name == plain and seed == load_params().seed and (demo / place).exists():
        return demo / place  # the demo's own
    changes = {"seed": seed, **changes}
    reward = demo if name == plain else reward_of_own_clips(demo, WORK, seed)
    roots = {file: reward if file == VIDEO_REWARD else demo for file in OF_DEMO}
    inputs = [
        folder_digest(roots[file] / file) for file in OF_DEMO if file.startswith("models/") or file.endswith(".parquet")
    ]
    params = load_params().align.model_dump(), load_params().online.model_dump()
    cell = WORK / "trained" / f"{kind}-{method}-{key_of(changes, inputs, params, sources_digest((program,)))}"
    with sole_writer(cell.with_name(f"{cell.name}.making"), waits=lambda holder: None):
        if not (cell / place).exists():
            link(cell, Path(), OF_HERE)
            for file in OF_DEMO if name == plain else (file for file in OF_DEMO if file not in RELABELLED):
                link(cell, roots[file], (file,))
            write_params(cell, changes)
            if name != plain:
                run_in(cell, ["-m", "components.alignment.relabel"])
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
