"""SFT, Flow-RWR and Flow-DPO compared over several seeds, and Flow-DPO over beta, by the gold judge alone.

    make demo                                  first: candidates, their scores and pairs are the demo's
    python benchmarks/methods.py run           half an hour; a restart resumes
    python benchmarks/methods.py show          the table, and benchmarks/beta_sweep.svg

A seed is that of the whole run (params.seed): of the LoRA, of batches and noise in training, of the choice of test prompts
and of their noise. The pipeline's stages run in one folder per seed with links to the demo's files.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from cells import gold, link, stage, write_params
from scipy import stats

from components.config.params import load_params
from components.contracts import DIMENSIONS
from components.evaluation.win_rates import mean_difference, win_rate
from components.methods import trained
from components.video.decode import read_frames

WORK = Path(".reelign/methods")
RESULTS = WORK / "results.jsonl"
LINKED = (
    "components",
    "infra",
    "pretrained",
    "data/source",
    "data/pairs",
    "data/candidates",
    "data/candidate_scores.parquet",
    "data/alignment_pairs.parquet",
    "models/base_generator",
    "dvc.yaml",
)
BETAS = (125.0, 500.0, 2000.0, 8000.0, 32000.0)
# name: (method, changes of params.yaml by dotted key)
METHODS = {
    "SFT": ("sft", {}),
    "Flow-RWR": ("rwr", {}),
    "Flow-DPO": ("dpo", {}),
    "Flow-DPO, beta (1-t)^2": ("dpo", {"align.dpo.schedule": "squared"}),
}
SWEEP = {f"beta {beta:g}": ("dpo", {"align.dpo.beta": beta}) for beta in BETAS}
# SFT and RWR with Flow-DPO's steps, batch, learning rate and averaging.
SAME = {
    f"{name}, as Flow-DPO": (method, {f"align.{method}.training": "align.dpo.training"})
    for name, method in (("SFT", "sft"), ("Flow-RWR", "rwr"))
}

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def run(
    seeds: Annotated[str, typer.Option(help="Of the comparison.")] = "17,18,19",
    sweep_seeds: Annotated[str, typer.Option(help="Of the sweep over beta.")] = "17",
) -> None:
    """Train, sample and judge whatever is not in the results yet."""
    WORK.mkdir(parents=True, exist_ok=True)
    plan = [(int(seed), name, *METHODS[name]) for seed in seeds.split(",") for name in METHODS]
    plan += [(int(seed), name, *what) for seed in sweep_seeds.split(",") for name, what in (SWEEP | SAME).items()]
    done = {(row["seed"], row["name"]) for row in results()}
    for seed, name, method, changes in plan:
        if (seed, name) not in done:
            row = {"seed": seed, "name": name, **measure(seed, method, changes)}
            with open(RESULTS, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"seed {seed}, {name}: Overall {row['win']['Overall'][0]:.3f}", flush=True)


@app.command()
def show() -> None:
    """Print the results; draw the sweep."""
    table = pd.DataFrame(results())
    for name, rows in table.groupby("name", sort=False):
        for kind in ("win", "difference"):
            cells = []
            for dimension in rows[kind].iloc[0]:
                each = np.array([row[dimension][0] for row in rows[kind]])
                cells.append(f"{dimension} {summary(each)}")
            print(f"{name:24} {kind:10} " + "  ".join(cells))
        for row in rows.itertuples():
            value, low, high = row.win["Overall"]
            worst = [d for d, (_, _, upper) in row.difference.items() if upper < 0 and d != "speed_error"]
            print(f"  seed {row.seed}: Overall {value:.3f} [{low:.3f}, {high:.3f}], right {row.right:.3f} (base"
                  f" {row.base_right:.3f}); significantly below base: {', '.join(worst) or 'nothing'}")  # fmt: skip
    draw_sweep(table[table.name.str.startswith("beta ")])


def summary(values: np.ndarray) -> str:
    """Mean over seeds with the 95% t interval of that mean."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.3f} ±{half:.3f}"


def draw_sweep(rows: pd.DataFrame) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "beta"  # the same file from the same figures
    from matplotlib import pyplot

    if rows.empty:
        return
    figure, axes = pyplot.subplots(figsize=(7, 4))
    rows = rows.assign(beta=rows.name.str.removeprefix("beta ").astype(float)).sort_values("beta")
    for dimension in DIMENSIONS:
        value, low, high = np.array([row[dimension] for row in rows.win]).T
        axes.errorbar(rows.beta, value, [value - low, high - value], label=dimension, capsize=2, marker="o", markersize=3)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="beta (constant, mean of squares)", ylabel="gold win rate against base, 95% intervals")
    axes.legend(frameon=False)
    figure.savefig("benchmarks/beta_sweep.svg", metadata={"Date": None}, bbox_inches="tight")


def results() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measure(seed: int, method: str, changes: dict) -> dict:
    """Gold win rates and mean differences of a method against base, (value, low, high) per dimension."""
    folder = workspace(WORK / str(seed))
    alike = load_params().align.dpo.training.model_dump()
    changes = {key: alike if value == "align.dpo.training" else value for key, value in changes.items()}
    write_params(folder, {"seed": seed, **changes})
    if not (folder / "data/samples/base").exists():
        stage(folder, "components.evaluation.sample", "base")
    stage(folder, trained()[method].program)
    stage(folder, "components.evaluation.sample", method)
    base, tuned = (verdicts(folder / "data/samples" / name) for name in ("base", method))
    prompts = base.prompt_id.to_numpy()
    both = {d: (tuned[d].to_numpy(), base[d].to_numpy()) for d in (*DIMENSIONS, "dynamic", "speed_error")}
    wins = {d: win_rate(*both[d], prompts) for d in DIMENSIONS}
    differences = {d: mean_difference(*values, prompts) for d, values in both.items()}
    return {
        "win": {d: (found.value, found.low, found.high) for d, found in wins.items()},
        "difference": {d: (found.value, found.low, found.high) for d, found in differences.items()},
        "right": float(tuned.right.mean()),
        "base_right": float(base.right.mean()),
        "clips": len(base),
    }


def workspace(folder: Path, more: tuple[str, ...] = ()) -> Path:
    """A folder for stages with separate params, with links to common files and to `more`."""
    link(folder, Path(), (*LINKED, *more))
    return folder


def verdicts(folder: Path) -> pd.DataFrame:
    """The gold judge's scores of a method's clips, in the order of prompt and seed."""
    table = pd.read_parquet(folder / "samples.parquet").sort_values(["prompt_id", "seed"], ignore_index=True)
    rows = [gold(read_frames(folder / clip.path), clip.prompt) for clip in table.itertuples()]
    return pd.concat([table, pd.DataFrame(rows)], axis=1)


if __name__ == "__main__":
    app()
