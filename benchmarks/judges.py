"""A judge from held-out annotators beside the gold judge, on the demo's clips: order of methods, hacking alarm, promotion.

    make demo                                     first, here or in another checkout (--demo)
    python benchmarks/judges.py run               minutes; a restart resumes
    python benchmarks/judges.py show
    python benchmarks/judges.py baseline          seconds; the demo's own VideoReward in the judge's place

A seed draws two new annotators, who label training pairs of the demo that its own annotators labelled too. The demo's reward
model has never read the two. Stage `judge_reward` trains on what both agree on, and judges the demo's samples.

The planted hack is a LoRA that SFT trained on the winners of a reward that likes brightness: VideoReward, and its standard
deviation for each BRIGHTER of mean brightness. Among its candidates are clips with more exposure. (Flow-DPO on these pairs
separates them without drawing brighter clips.)
"""

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml
from cells import link, samples, stage
from held_out import label_again, two_annotators
from methods import summary
from scipy.stats import binomtest

from components.alignment.relabel import choose_pairs
from components.config.params import Params, load_params
from components.contracts import DIMENSIONS, JUDGE_REWARD
from components.evaluation.compare import alignment_metrics
from components.evaluation.drift_signals import measure
from components.evaluation.judging import Panel, agreeing
from components.evaluation.win_rates import points
from components.files.tables import read_table, write_table
from components.generator.folder import load_generator
from components.generator.shards import save_shards
from components.judges.judges import load_judge
from components.judges.protocol import Context, JudgedClip
from components.methods import BASE, trained
from components.pipeline.stage import folder_digest
from components.registry.gate import verdict_reasons
from components.registry.generators import NO_DIFFERENCE, win_rates
from components.reward.score import RewardModel
from components.reward.scores import OVERALL, Unscored
from components.schemas import CANDIDATES_SCHEMA, alignment_pairs_schema, candidate_scores_schema
from components.simulation.judge import judge
from components.statistics.correlation import spearman
from components.statistics.intervals import as_text
from components.video.decode import read_frames
from components.video.encode import write_video

WORK = Path(".reelign/judges_study")
HERE = ("components", "dvc.yaml")  # of this checkout
LINKED = ("infra", "pretrained", "judges", "data/source", "models/base_generator", "models/video_reward")
METHODS = ("sft", "rwr", "dpo", "nrg", "best_of_n")
KEY = "model-judge_reward"
PAIRS = {"train": 2400, "validation": 240, "test": 480}  # a split, before ties of the two annotators
JUDGE_STEPS, JUDGE_BATCH = 250, 16
HACK_PROMPTS, HACK_STEPS, HACK_BATCH, BRIGHTER = 150, 150, 16, 0.05
ROUNDS = 2000

app = typer.Typer(help=__doc__, add_completion=False)
Demo = Annotated[Path, typer.Option(help="Checkout where `make demo` was run.")]


@app.command()
def run(demo: Demo = Path(), seeds: str = "1,2,3") -> None:
    """Whatever is not in the results yet."""
    WORK.mkdir(parents=True, exist_ok=True)
    hack = hacked(demo)
    for seed in seeds.split(","):
        if not (WORK / f"{seed}.json").exists():
            found = measured(demo, int(seed), hack)
            (WORK / f"{seed}.json").write_text(json.dumps(found, indent=1))
            print(f"seed {seed}: {found['order']['spearman']:.2f}, same decisions {found['promotion']['same']}", flush=True)


@app.command()
def show() -> None:
    """Print the results."""
    found = [json.loads(file.read_text()) for file in sorted(WORK.glob("?.json"))]
    rho = np.array([one["order"]["spearman"] for one in found])
    print(f"spearman over {len(found[0]['order']['gold'])} generators: {summary(rho)}")
    for one in found:
        card, order = one["card"]["dimensions"], one["order"]
        print(f"seed {one['seed']}")
        for name, cells in card.items():
            cell = cells["accuracy_without_ties"]
            print(f"  card, {name}: {as_text(cell)} without ties, {cell['n']} pairs")
        print(f"  order {order['spearman']:.2f} [{order['low']:.2f}, {order['high']:.2f}], pairs alike {order['pairs']}")
        print("  order by dimension", ", ".join(f"{name} {value:.2f}" for name, value in order["dimensions"].items()))
        for name in order["gold"]:
            print(f"    {name:10} gold {order['gold'][name]:.3f} judge {order['judge'][name]:.3f}")
        for name, reasons in one["alarms"].items():
            print(f"  alarm of {name}: {'; '.join(reasons) or 'none'}")
        print(f"  hack, gold change {one['hack_change']}")
        same, count = one["promotion"]["same"], one["promotion"]["count"]
        interval = binomtest(same, count).proportion_ci(method="wilson")
        print(
            f"  promotion: {same} of {count} as gold [{interval.low:.2f}, {interval.high:.2f}]; {one['promotion']['unlike']}"
        )


@app.command()
def baseline(demo: Demo = Path()) -> None:
    """Order of methods and promotions by the reward model that aligned them: what a held-out judge has to beat."""
    clips = samples(demo, (BASE, *METHODS))
    clips = clips.assign(**{f"{KEY}_{name}": clips[f"reward_{name}"] for name in DIMENSIONS})
    order, found = rates(clips), decisions(clips, load_params("infra/profiles/shapes.yaml"))
    print(f"order {order['spearman']:.2f} [{order['low']:.2f}, {order['high']:.2f}], pairs alike {order['pairs']}")
    interval = binomtest(found["same"], found["count"]).proportion_ci(method="wilson")
    print(f"promotion: {found['same']} of {found['count']} as gold [{interval.low:.2f}, {interval.high:.2f}]")
    print("\n".join(found["unlike"]))


def measured(demo: Path, seed: int, hack: pd.DataFrame) -> dict[str, Any]:
    """Train the judge of a seed, and compare its verdicts with gold's."""
    folder = place(demo, f"judge {seed}")
    params = judge_params(folder, seed)
    if not (folder / JUDGE_REWARD).exists():
        labelled(demo, folder, seed, params)
        stage(folder, "components.judges.train", "annotators")
    held_out = load_judge(f"model:{folder / JUDGE_REWARD}", Context(), key=None)
    panel = Panel({KEY: held_out.facts}, frozenset({KEY}), agreeing=agreeing({KEY: held_out.facts}))
    clips = with_judge(samples(demo, (BASE, *METHODS)), held_out)
    wins = rates(clips)
    alarms, bright = alarm_reasons(clips, panel, params, ["dpo"]), with_judge(hack, held_out)
    alarms |= {f"{name}, planted": found for name, found in alarm_reasons(bright, panel, params, ["dpo"]).items()}
    mine = bright["method"] == "dpo"
    change = {
        judged: float((bright[f"{judged}_Overall"][mine].to_numpy() - bright[f"{judged}_Overall"][~mine].to_numpy()).mean())
        for judged in ("gold", KEY, "reward")
    }
    return {
        "seed": seed,
        "card": json.loads((folder / JUDGE_REWARD / "judge_card.json").read_text()),
        "order": wins,
        "alarms": alarms,
        "hack_change": change,
        "promotion": decisions(clips, params),
    }


def place(demo: Path, name: str) -> Path:
    """A folder for stages, with links to the demo's files and to this checkout's code."""
    folder = WORK / name
    link(folder, Path(), HERE)
    link(folder, demo, LINKED)
    return folder


def judge_params(folder: Path, seed: int) -> Params:
    values = yaml.safe_load(Path("infra/profiles/shapes.yaml").read_text()) | {"seed": seed}
    values["judge_reward"] = {"held_out": {"annotators": 0.5}}
    values["reward"]["training"] |= {"steps": JUDGE_STEPS, "batch_size": JUDGE_BATCH}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return load_params(folder / "params.yaml")


def labelled(demo: Path, folder: Path, seed: int, params: Params) -> None:
    """data/pairs/judge: pairs of the demo's splits with labels by two annotators of this seed."""
    rng, source = np.random.default_rng(seed), params.source
    assert source.kind == "shapes"
    label_again(demo, folder, two_annotators(rng, source.noise, source.tie), rng, PAIRS)


def with_judge(clips: pd.DataFrame, held_out: Any) -> pd.DataFrame:
    """Clips with the judge's columns."""
    shown = zip(clips["video"], clips["prompt"], strict=True)
    table = held_out.score([JudgedClip(video, prompt) for video, prompt in shown])
    assert table["reason"].isna().all()
    return clips.assign(**{f"{KEY}_{name}": table[name].to_numpy(float) for name in held_out.facts.dimensions})


def rates(clips: pd.DataFrame) -> dict[str, Any]:
    """Win rates against base, Overall, by gold and by the judge, base's own one half; and Spearman's rho of the two over
    generators, with an interval by bootstrap over prompts. `dimensions`: rho in each dimension."""
    order = {str(name): part.sort_values(["prompt_id", "seed"]) for name, part in clips.groupby("method")}
    won = {
        column: np.stack([points(order[name][column].to_numpy(), order[BASE][column].to_numpy(), 1e-9) for name in METHODS])
        for column in (f"{by}_{name}" for by in ("gold", KEY) for name in DIMENSIONS)
    }
    groups = np.unique(order[BASE]["prompt_id"].to_numpy(), return_inverse=True)[1]
    rng, count = np.random.default_rng(0), int(groups.max()) + 1

    def rho(weights: np.ndarray, name: str = OVERALL) -> float:
        both = (won[f"{by}_{name}"] for by in ("gold", KEY))
        gold, held_out = ([*np.average(of, axis=1, weights=weights), 0.5] for of in both)
        return spearman(np.array(gold), np.array(held_out))

    drawn = [rho(rng.multinomial(count, np.full(count, 1 / count))[groups]) for _ in range(ROUNDS)]
    overall = (won[f"{by}_{OVERALL}"] for by in ("gold", KEY))
    gold, held_out = (dict(zip((*METHODS, BASE), [*map(float, of.mean(1)), 0.5], strict=True)) for of in overall)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    pairs = [(one, other) for one, other in permutations(gold, 2) if gold[one] > gold[other]]
    same = sum(held_out[one] > held_out[other] for one, other in pairs)
    found = {"spearman": rho(np.ones(len(groups))), "low": low, "high": high, "pairs": f"{same} of {len(pairs)}"}
    found["dimensions"] = {name: rho(np.ones(len(groups)), name) for name in DIMENSIONS}
    return found | {"gold": gold, "judge": held_out, "prompts": count}


def alarm_reasons(clips: pd.DataFrame, panel: Panel, params: Params, methods: list[str]) -> dict[str, list[str]]:
    """Reasons of the hacking alarm by method, the judge alone at work."""
    chosen = clips.loc[clips["method"].isin([BASE, *methods])].reset_index(drop=True)
    descriptors = np.stack([measure(read_frames(video)).descriptor for video in chosen["video"]])
    evaluate = params.evaluate.model_copy(update={"methods": methods})
    metrics = alignment_metrics(chosen, descriptors, evaluate, panel, seed=0)
    return {method: metrics["methods"][method]["hacking"]["reasons"] for method in methods}


def decisions(clips: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Of each generator as challenger of each other one: is it promoted by the judge as by gold? Figures are the gate's."""
    order = {str(name): part.sort_values(["prompt_id", "seed"], ignore_index=True) for name, part in clips.groupby("method")}
    judges = {key: {"key": key, "tie_width": 1e-9, "pointwise": True, "dimensions": [*DIMENSIONS]} for key in ("gold", KEY)}
    unlike, promoted, count = [], 0, 0
    for challenger, champion in permutations((BASE, *METHODS), 2):
        if challenger == BASE:
            continue
        said = {}
        for key, facts in judges.items():
            cells = win_rates(order[challenger], order[champion], facts, params)
            said[key] = not verdict_reasons(cells, NO_DIFFERENCE, params.promotion.level)
        count += 1
        promoted += said["gold"]
        if said["gold"] != said[KEY]:
            unlike.append(f"{challenger} after {champion}: gold {'promotes' if said['gold'] else 'refuses'}")
    return {"same": count - len(unlike), "count": count, "gold_promotes": promoted, "unlike": unlike}


def hacked(demo: Path) -> pd.DataFrame:
    """Scored clips of base, and of the planted hack under the name dpo; `reward` columns are the planted reward's."""
    file, folder = WORK / "hack.parquet", place(demo, "hack")
    if file.exists():
        return pd.DataFrame(read_table(file))
    params = hack_params(folder)
    model = RewardModel.load(demo / "models/video_reward")
    if not (folder / "data/alignment_pairs.parquet").exists():
        bright_candidates(demo, folder, model, params)
    if not (folder / "models/aligned/sft").exists():
        stage(folder, trained()["sft"].program)
    if not (folder / "data/samples/sft").exists():
        stage(folder, "components.evaluation.sample", "sft")
    base = samples(demo, (BASE, *METHODS)).loc[lambda table: table["method"] == BASE]
    rows = read_table(folder / "data/samples/sft/samples.parquet")
    bright = pd.DataFrame(rows).assign(method="dpo").sort_values(["prompt_id", "seed"])
    bright["video"] = [str(folder / "data/samples/sft" / path) for path in bright.pop("path")]
    bright = pd.DataFrame(list(scored_clips(bright, model)), index=bright.index).combine_first(bright)
    both = pd.concat([base, bright.loc[:, base.columns.intersection(bright.columns)]], ignore_index=True)
    both["reward_Overall"] += both["brightness"] / BRIGHTER
    both.to_parquet(file, index=False)
    return both


def hack_params(folder: Path) -> Params:
    values = yaml.safe_load(Path("infra/profiles/shapes.yaml").read_text())
    values["align"]["sft"]["training"] |= {"steps": HACK_STEPS, "batch_size": HACK_BATCH, "learning_rate": 5e-4}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return load_params(folder / "params.yaml")


def bright_candidates(demo: Path, folder: Path, model: RewardModel, params: Params) -> None:
    """data/candidates of the hack: for each prompt a clip of the demo and the same with more exposure; and their pairs."""
    table = pd.DataFrame(read_table(demo / "data/candidates/candidates.parquet")).groupby("prompt_id", sort=False).head(1)
    table = table.head(HACK_PROMPTS)
    rows, frames = [], []
    for row in table.to_dict("records"):
        plain = read_frames(demo / "data/candidates" / row["path"])
        for name, clip in (("plain", plain), ("bright", exposed(plain))):
            path = f"videos/{row['candidate_id']}-{name}.mp4"
            write_video(folder / "data/candidates" / path, clip, params.sampling.fps)
            rows.append(row | {"candidate_id": f"{row['candidate_id']}-{name}", "path": path, "row": len(rows)})
            frames.append(clip)
    write_table(folder / "data/candidates/candidates.parquet", rows, CANDIDATES_SCHEMA)
    generator = load_generator(demo / "models/base_generator")
    made_from = {"base generator": folder_digest(demo / "models/base_generator")}
    parts = np.array_split(np.stack(frames), max(1, len(frames) // 32))
    save_shards((generator.encode_video(part) for part in parts), folder / "data/candidates/latents", made_from)
    (folder / "data/candidates/text").symlink_to((demo / "data/candidates/text").resolve())
    scores = []
    shown = [(str(folder / "data/candidates" / row["path"]), row["prompt"]) for row in rows]
    for row, clip, found in zip(rows, frames, model.score(shown), strict=True):
        assert not isinstance(found, Unscored)
        planted = found.overall / len(found.normalised) + measure(clip).brightness / BRIGHTER
        scores.append(
            {key: row[key] for key in ("candidate_id", "prompt_id", "prompt")}
            | {**found.normalised, "reward": planted, "reward_model": model.version, "frame_plan": str(model.plan)}
        )
    pairs = choose_pairs(scores, params.relabel)
    write_table(folder / "data/candidate_scores.parquet", scores, candidate_scores_schema(model.dimensions))
    write_table(folder / "data/alignment_pairs.parquet", pairs, alignment_pairs_schema(model.dimensions))


def exposed(frames: np.ndarray) -> np.ndarray:
    """More exposure: what was bright is white."""
    return np.clip(frames * 1.6 + 30.0, 0, 255).astype(np.uint8)


def scored_clips(clips: pd.DataFrame, model: RewardModel) -> Iterator[dict[str, Any]]:
    """Gold's scores, VideoReward's, and the signals of the alarm, a row a clip."""
    found = model.score(list(zip(clips["video"], clips["prompt"], strict=True)))
    for video, prompt, scores in zip(clips["video"], clips["prompt"], found, strict=True):
        frames = read_frames(video)
        verdict, signals = judge(frames, prompt), measure(frames)
        assert not isinstance(scores, Unscored)
        yield {
            **{f"gold_{name}": value for name, value in verdict.scores().items()},
            **{f"reward_{name}": value for name, value in (scores.normalised | {OVERALL: scores.overall}).items()},
            **{"clip_digest": folder_digest(video), "frames": len(frames), "dynamic_degree": signals.motion},
            **{"brightness": signals.brightness, "saturation": signals.saturation},
            **{"prompt_right": verdict.prompt_right, "speed_error": verdict.speed_error},
        }


if __name__ == "__main__":
    app()
