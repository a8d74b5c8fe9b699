"""Comparison of generators on the same prompts and seeds: clips are judged, scored, and compared with base's.

Every comparison is paired (components/evaluation/paired.py). A clip that cannot be read or scored is an error that names it:
a comparison over the remaining clips would be biased.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.evaluation.hacking import Clips, hacking_alarm
from components.evaluation.paired import missing_words, read_samples
from components.evaluation.settings import judged_with
from components.evaluation.signals import measure
from components.evaluation.significance import correct_family, sign_flip_p
from components.evaluation.win_rates import DIMENSIONS, mean_difference, points, win_rate
from components.intervals import as_scalars
from components.params import EvaluateParams
from components.stage import Stage, folder_digest

SAMPLES = Path("data/samples")
REWARD_MODEL = Path("models/video_reward")


def compare(stage: Stage, folders: dict[str, Path], params: EvaluateParams) -> tuple[pd.DataFrame, dict]:
    """Judge and score the samples of all generators (name: folder, base first). Returns the clips with their scores, and the
    content of metrics/alignment.json for `params.methods`."""
    from components.reward.score import RewardModel, score_table

    samples = read_samples(folders, params.strict)
    if words := missing_words(samples.as_json()):
        stage.say(words)
    clips, looks = measure_clips(stage, samples.table, params.judge)
    model = RewardModel.load(REWARD_MODEL)
    scores = score_table(stage, model, samples.table[["video", "prompt"]].rename(columns={"video": "path"}))
    clips = with_reward(clips, scores)
    metrics = alignment_metrics(clips, looks, params, stage.seed("bootstrap")) | {"samples": samples.as_json()}
    metrics |= {"reward_model": folder_digest(REWARD_MODEL), "profile": stage.params.profile}
    metrics |= {"sampling": stage.params.sampling.model_dump()}  # the same for all methods
    metrics |= {"drawn_with": samples.drawn_with, "judged_with": judged_with(params.judge)}
    return clips, metrics | {"prompt_set": stage.params.sample.named_set()}


def measure_clips(stage: Stage, samples: pd.DataFrame, judge_name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Decode every clip once: signals of the hacking alarm, and the gold judge's verdict where there is a gold judge.

    Returns:
        samples with added columns clip_digest (of the file), frames, dynamic_degree, brightness, saturation, and with a
        gold judge gold_<dimension>, prompt_right and speed_error; and the clips' looks [N, D].
    """
    from components.simulation.judge import judge
    from components.video.container import VideoError
    from components.video.decode import read_frames

    rows, looks = [], []
    for clip in stage.progress(list(samples.itertuples()), "judge"):
        table = Path(clip.video).parents[1] / "samples.parquet"
        key = f"{clip.prompt_id}, seed {clip.seed}"
        try:
            frames = read_frames(clip.video)
        except VideoError as error:
            raise BadInput(table, f"{clip.video}: {error.why}", key=key) from error
        signals = measure(frames)
        row = {
            "clip_digest": folder_digest(clip.video),  # identifies the clip that the scores belong to
            "frames": len(frames),
            "dynamic_degree": signals.motion,
            "brightness": signals.brightness,
            "saturation": signals.saturation,
        }
        if judge_name == "gold":
            try:
                verdict = judge(frames, clip.prompt)
            except ValueError as error:
                why = f"the gold judge cannot judge it (evaluate.judge none uses VideoReward alone): {error}"
                raise BadInput(table, why, key=key) from error
            row |= {f"gold_{dimension}": getattr(verdict, dimension) for dimension in DIMENSIONS}
            # The fitted track measures motion despite noise and flicker, which optical flow counts as motion.
            row |= {name: getattr(verdict, name) for name in ("prompt_right", "dynamic_degree", "speed_error")}
        rows.append(row)
        looks.append(signals.look)
    return pd.concat([samples, pd.DataFrame(rows)], axis=1), np.stack(looks)


def with_reward(clips: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Add reward_<dimension> (normalised scores) to clips, joined by the order of rows.

    Raises:
        BadInput: a clip has no score or a non-finite one; the model lacks one of DIMENSIONS.
    """
    from components.reward.score import need_scores

    failed = (scores["status"] != "ok").to_numpy()
    if failed.any():
        raise BadInput(clips[failed].iloc[0]["video"], f"VideoReward has no score: {scores[failed].iloc[0]['reason']}")
    need_scores(scores, DIMENSIONS)
    for dimension in DIMENSIONS:
        values = scores[dimension].to_numpy(dtype=np.float64)
        bad = ~np.isfinite(values)
        if bad.any():
            clip = clips[bad].iloc[0]
            raise BadInput(clip["video"], f"VideoReward's score is {values[bad][0]}", key=dimension)
        clips = clips.assign(**{f"reward_{dimension}": values})
    return clips


def alignment_metrics(clips: pd.DataFrame, looks: np.ndarray, params: EvaluateParams, seed: int) -> dict:
    """The content of metrics/alignment.json (design section 4) from scored clips.

    Every comparison uses the same resamples of prompts, so that figures differ by their data alone. Each win rate has `p`
    for the null hypothesis of one half, and `p_holm`. The family of win rates against base is all methods and dimensions by
    one judge; that of win rates between methods is all pairs of methods, Overall, by one judge.
    """
    judges = ["gold", "reward"] if params.judge == "gold" else ["reward"]
    groups = {method: clips[clips["method"] == method] for method in ["base", *params.methods]}
    sides = {method: _sides(group, looks[group.index], judges) for method, group in groups.items()}
    base, prompts = groups["base"], groups["base"]["prompt_id"].to_numpy()

    def means(group: pd.DataFrame) -> dict:
        found = {"mean": {j: {d: float(group[f"{j}_{d}"].mean()) for d in DIMENSIONS} for j in judges}}
        if "gold" in judges:
            found["prompt_right"] = float(group["prompt_right"].mean())
        return found

    def scores(method: str, other: str, judge: str, dimension: str) -> tuple[np.ndarray, np.ndarray]:
        return tuple(groups[name][f"{judge}_{dimension}"].to_numpy() for name in (method, other))

    def rate(method: str, other: str, judge: str, dimension: str) -> dict:
        both, width = scores(method, other, judge, dimension), getattr(params.tie_width, judge)
        found = win_rate(*both, prompts, width, params.resamples, np.random.default_rng(seed))
        return found.as_json() | {"p": sign_flip_p(points(*both, width), prompts)}

    def difference(method: str, judge: str, dimension: str) -> dict:
        both = scores(method, "base", judge, dimension)
        return mean_difference(*both, prompts, params.resamples, np.random.default_rng(seed)).as_json()

    methods = {}
    for method in params.methods:
        alarm = hacking_alarm(sides[method], sides["base"], params.hacking, params.resamples, np.random.default_rng(seed))
        methods[method] = {
            "win_rate": {j: {d: rate(method, "base", j, d) for d in DIMENSIONS} for j in judges},
            "mean_difference": {j: {d: difference(method, j, d) for d in DIMENSIONS} for j in judges},
            **means(groups[method]),
            "hacking": alarm.as_json(),
        }
    between = {
        f"{method}/{other}": {j: {"Overall": rate(method, other, j, "Overall")} for j in judges}
        for other, method in itertools.combinations(params.methods, 2)
    }
    for judge in judges:
        correct_family([cell for entry in methods.values() for cell in entry["win_rate"][judge].values()])
        correct_family([entry[judge]["Overall"] for entry in between.values()])
    seeds = base.groupby("prompt_id").size()
    return {
        "prompts": len(seeds),
        "seeds_per_prompt": int(seeds.iloc[0]) if seeds.nunique() == 1 else None,  # None where samples are missing
        "judge": params.judge,
        "base": means(base),
        "methods": methods,
        "between": between,
    }


def headline(metrics: dict) -> dict[str, dict[str, float]]:
    """The metrics that DVC shows, by method: Overall win rate against base with its bounds, that of each dimension, and 1
    where the hacking alarm is raised. By the gold judge where there is one, else by VideoReward."""
    shown = {}
    for method, entry in metrics["methods"].items():
        rates = entry["win_rate"]["gold" if "gold" in entry["win_rate"] else "reward"]
        dimensions = {name: as_scalars(rates[name])["value"] for name in DIMENSIONS if name != "Overall"}
        shown[method] = as_scalars(rates["Overall"]) | dimensions | {"alarm": int(entry["hacking"]["alarm"])}
    return shown


def _sides(group: pd.DataFrame, looks: np.ndarray, judges: list[str]) -> Clips:
    return Clips(
        prompts=group["prompt_id"].to_numpy(),
        reward=group["reward_Overall"].to_numpy(),
        held_out=group["gold_Overall"].to_numpy() if "gold" in judges else None,
        frames=group["frames"].to_numpy(),
        dynamic_degree=group["dynamic_degree"].to_numpy(),
        speed_error=group["speed_error"].to_numpy() if "gold" in judges else None,
        brightness=group["brightness"].to_numpy(),
        saturation=group["saturation"].to_numpy(),
        looks=looks,
    )
