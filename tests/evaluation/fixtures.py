"""A small finished pipeline on disk, made of arrays and real mp4 files, so that the report can be built and looked at.

python -m tests.evaluation.fixtures FOLDER      writes FOLDER/report/index.html
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from components.config.params import EvaluateParams, HackingParams
from components.evaluation.drift_signals import measure
from components.evaluation.judging import Panel
from components.judges.judges import load_judge
from components.judges.protocol import Context
from components.pipeline.stage import MEASURED, folder_digest
from components.simulation.world import Scene, prompt_of
from components.video.encode import write_video

METHODS = ["sft", "rwr", "dpo", "nrg"]
PARAMS = EvaluateParams(
    judges=["gold"],
    decides="gold",
    judge_files="judges",
    methods=METHODS,
    strict=True,
    resamples=200,
    tie_width={"gold": 1e-9, "reward": 1e-9},
    hacking=HackingParams(
        frame_count_shift=0.05, dynamic_degree_drop=0.3, brightness_shift=0.1, saturation_shift=0.5, diversity_drop=0.4
    ),
    report_prompts=12,
)
GOLD_PANEL = Panel({"gold": load_judge("gold", Context()).facts}, frozenset({"gold"}), agreeing=frozenset({"gold"}))
NO_PANEL = Panel({}, frozenset())
GAIN = {"base": 0.0, "sft": 0.02, "rwr": 0.06, "dpo": 0.16, "nrg": 0.1}
COLOURS = {"red": (220, 50, 40), "green": (50, 170, 70), "blue": (60, 80, 220), "yellow": (230, 210, 60)}


def clip(rng: np.random.Generator, colour: str, noise: float) -> np.ndarray:
    """[9, 32, 32, 3] uint8: a square that moves to the right."""
    frames = np.full((9, 32, 32, 3), 110.0)
    top, left = rng.integers(2, 20), rng.integers(1, 8)
    for index, frame in enumerate(frames):
        x = int(left + index * 1.5)
        frame[top : top + 9, x : x + 9] = COLOURS[colour]
    return np.clip(frames + rng.normal(0, noise, frames.shape), 0, 255).astype(np.uint8)


def make_samples(root: Path, prompts: int = 16, seeds: int = 2) -> tuple[pd.DataFrame, np.ndarray]:
    """Write data/samples of base and all methods; the scored clips as evaluate.py makes them, and their descriptors."""
    rng = np.random.default_rng(0)
    rows, descriptors = [], []
    for method in ["base", *METHODS]:
        folder, table = root / "data/samples" / method, []
        for number in range(prompts):
            colour = list(COLOURS)[number % 4]
            speed, background = (None, "slowly", "quickly")[number // 4 % 3], ("grey", "black", "white")[number // 12]
            prompt = prompt_of(Scene(colour, "square", "right", speed, background))
            for seed in range(seeds):
                frames = clip(np.random.default_rng([number, seed]), colour, 30 * (1 - 5 * GAIN[method]))
                path = f"videos/{number:03d}_{seed}.mp4"
                write_video(folder / path, frames, fps=8)
                table.append({"prompt_id": f"{number:03d}", "prompt": prompt, "seed": seed, "path": path})
                signals = measure(frames)
                gold = np.clip(0.6 + GAIN[method] + rng.normal(0, 0.1, 3), 0, 1)
                reward = 5 * GAIN[method] + rng.normal(0, 0.6, 3)
                rows.append(
                    {
                        **{key: table[-1][key] for key in ("prompt_id", "prompt", "seed")},
                        "video": str(folder / path),
                        "clip_digest": folder_digest(folder / path),
                        "method": method,
                        "frames": len(frames),
                        "dynamic_degree": signals.motion,
                        "brightness": signals.brightness,
                        "saturation": signals.saturation,
                        **dict(zip(("gold_VQ", "gold_MQ", "gold_TA", "gold_Overall"), [*gold, gold.mean()], strict=True)),
                        **dict(
                            zip(
                                ("reward_VQ", "reward_MQ", "reward_TA", "reward_Overall"),
                                [*reward, reward.sum()],
                                strict=True,
                            )
                        ),
                        "prompt_right": bool(gold[2] > 0.6),
                        "speed_error": abs(signals.motion - 1.5),
                    }
                )
                descriptors.append(signals.descriptor)
        pd.DataFrame(table).to_parquet(folder / "samples.parquet")
    return pd.DataFrame(rows), np.stack(descriptors)


def make_other_stages(root: Path) -> None:
    """Duels, metrics and training logs of the stages before evaluate."""
    rng = np.random.default_rng(1)
    pairs = []
    for number in range(8):
        for side, noise in (("w", 2), ("l", 40)):
            write_video(
                root / "data/example_pairs" / f"{number:02d}{side}.mp4", clip(rng, list(COLOURS)[number % 4], noise), fps=8
            )
        score = float(rng.normal(1, 0.5))
        pairs.append(
            {
                "prompt": f"a {list(COLOURS)[number % 4]} square moving right",
                "chosen_path": f"{number:02d}w.mp4",
                "rejected_path": f"{number:02d}l.mp4",
                "chosen_reward": score,
                "rejected_reward": score - 0.1 * number - 0.05,
                "margin": 0.1 * number + 0.05,
            }
        )
    pd.DataFrame(pairs).to_parquet(root / "data/example_pairs/example_pairs.parquet")
    share = {"value": 0.846, "ci95": [0.81, 0.88], "n": 320}
    tied = {"value": 0.702, "ci95": [0.66, 0.74], "n": 400, "tie_threshold": 0.3, "threshold_from": "validation"}
    dimensions = ("VQ", "MQ", "TA", "Overall")
    write(
        root / "metrics/reward_bench.json",
        {
            "model_version": "0123456789abcdef",
            "pairs": 400,
            "prompts": 120,
            "dimensions": {d: {"accuracy_without_ties": share, "accuracy_with_ties": tied} for d in dimensions},
        },
    )
    write(
        root / "metrics/pairs.json",
        {
            "pairs": 2000,
            "prompts": 500,
            "dimensions": {d: {"labelled": 2000, "tie_share": 0.31, "A_share": 0.502} for d in dimensions},
            "krippendorff_alpha": {d: {"ordinal": 0.64, "nominal": 0.5} for d in dimensions},
        },
    )
    human = {d: {"agreement": 0.874, "alpha": 0.61, "tie_share": 0.22} for d in dimensions}
    zoo = {"render-clean": dict.fromkeys(dimensions, 0.98), "wan": dict.fromkeys(dimensions, 0.701)}
    counts = {"kind": "shapes", "videos": 4000, "prompts": 500, "pairs": 2000}
    write(root / "metrics/source.json", counts | {"realism": human, "gold_means": zoo})
    rates = {"0:0:1": (0.61, 0.58, 0.66, 0.64), "0.5:0.5:0": (0.66, 0.63, 0.52, 0.62), "best of 2": (0.57, 0.58, 0.54, 0.57)}
    given = {
        name: {
            by: {d: {"value": v, "ci95": [v - 0.05, v + 0.06], "n": 120} for d, v in zip(dimensions, values, strict=True)}
            for by in ("gold", "reward")
        }
        for name, values in rates.items()
    }
    given["guidance 3.5"] = given["best of 2"]
    judges = GOLD_PANEL.as_json() | {"clips": 120, "prompts": 120}
    tradeoff = {
        **judges,
        "clips": 120,
        "prompts": 120,
        "settings": {name: {"win_rate": entry} for name, entry in given.items()},
    }
    write(root / "metrics/tradeoff.json", tradeoff)
    pd.DataFrame({"setting": ["plain", *given]}).to_parquet(root / "data/tradeoff.parquet")
    seconds = {"plain": 0.1, "0:0:1": 0.125, "0.5:0.5:0": 0.13, "best of 2": 0.22, "guidance 3.5": 0.1}
    write(root / MEASURED / "tradeoff.json", {f"seconds_per_clip/{name}": value for name, value in seconds.items()})
    for folder in ("video_reward", "aligned/sft", "aligned/dpo", "latent_reward"):
        steps = np.arange(10, 410, 10)
        log = pd.DataFrame({"step": steps, "loss": 0.7 * np.exp(-steps / 200) + rng.normal(0, 0.01, len(steps))})
        log["implicit_accuracy"] = 0.9 - 0.4 * np.exp(-steps / 100)
        log["validation/accuracy"] = np.where(steps % 100 == 0, 0.8 - 0.2 * np.exp(-steps / 100), np.nan)
        (root / "models" / folder).mkdir(parents=True)
        log.to_csv(root / "models" / folder / "training.csv", index=False)


def write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def metrics_of(root: Path, clips: pd.DataFrame, descriptors: np.ndarray) -> dict:
    """metrics/alignment.json of make_samples(root), but for what it says of the model and the profile."""
    from components.evaluation.compare import alignment_metrics
    from components.evaluation.paired import read_samples

    samples = read_samples({name: root / "data/samples" / name for name in ["base", *METHODS]})
    found = alignment_metrics(clips, descriptors, PARAMS, GOLD_PANEL, seed=0)
    sampling = {"steps": 8, "shift": 3.0, "guidance_scale": 2.0}
    return found | {"samples": samples.as_json(), "prompt_set": None, "sampling": sampling}


def make_report(root: Path) -> tuple[Path, dict]:
    """The whole fixture and its report."""
    from components.evaluation.report import write_report

    clips, descriptors = make_samples(root)
    make_other_stages(root)
    metrics = metrics_of(root, clips, descriptors)
    out = root / "report/index.html"
    out.parent.mkdir(parents=True)
    outputs = [{"stage": "reward", "path": "models/video_reward", "md5": "d41d8cd98f00b204e9800998ecf8427e.dir"}]
    write_report(out, metrics, clips, PARAMS, "fixture", outputs, [("VideoReward", "0123456789abcdef")], root)
    return out, metrics


if __name__ == "__main__":
    print(make_report(Path(sys.argv[1]))[0])
