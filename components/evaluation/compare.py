"""Comparison of generators on the same prompts and seeds: clips are judged, scored, and compared with base's.

Every comparison is paired (components/evaluation/paired.py). A clip that cannot be read or scored is an error that names it:
a comparison over the remaining clips would be biased.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.config.params import EvaluateParams
from components.contracts import DIMENSIONS, VIDEO_REWARD
from components.errors import BadInput
from components.evaluation.agreement import judges_agreement
from components.evaluation.drift_signals import measure
from components.evaluation.hacking import Clips, HeldOut, hacking_alarm
from components.evaluation.judging import (
    GOLD,
    REWARD,
    Panel,
    clip_key,
    context_of,
    judged,
    judged_with,
    ordered,
    sample_file,
    tie_width,
)
from components.evaluation.paired import missing_words, read_samples
from components.evaluation.win_rates import mean_difference, mean_interval, points
from components.judges.judges import load_judges
from components.methods import BASE
from components.pipeline.stage import Stage, folder_digest
from components.statistics.intervals import as_scalars
from components.statistics.significance import correct_family, sign_flip_p
from components.video.limits import Limits


def compare(stage: Stage, folders: dict[str, Path], params: EvaluateParams) -> tuple[pd.DataFrame, dict]:
    """Judge and score the samples of all generators (name: folder, base first). Returns the clips with their scores, and the
    content of metrics/alignment.json for `params.methods`."""
    from components.reward.score import RewardModel, score_table

    judges = ordered(load_judges(params.judges, context_of(stage)), params.decides)  # before hours of scoring
    samples = read_samples(folders, params.strict)
    if words := missing_words(samples.as_json()):
        stage.say(words)
    clips, descriptors = measure_clips(stage, samples.table)
    clips, panel = judged(clips, judges, params.methods)
    model = RewardModel.load(VIDEO_REWARD, limits=Limits.of(stage.params.limits))
    scores = score_table(stage, model, samples.table.loc[:, ["video", "prompt"]].rename(columns={"video": "path"}))
    clips = with_reward(clips, scores)
    metrics = alignment_metrics(clips, descriptors, params, panel, stage.seed("bootstrap"))
    metrics |= {"samples": samples.as_json(), "drawn_with": samples.drawn_with, "judged_with": judged_with(panel)}
    metrics |= {"reward_model": folder_digest(VIDEO_REWARD), "profile": stage.params.profile}
    metrics |= {"sampling": stage.params.sampling.model_dump()}  # the same for all methods
    return clips, metrics | {"prompt_set": stage.params.sample.named_set()}


def measure_clips(stage: Stage, samples: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Decode every clip once for the signals of the hacking alarm. A clip beyond the limits of params is BadInput.

    Returns:
        samples with added columns clip_digest (of the file), frames, dynamic_degree, brightness and saturation; and the
        clips' descriptors [N, D].
    """
    from components.video.container import VideoError
    from components.video.decode import read_frames

    rows, descriptors, limits = [], [], Limits.of(stage.params.limits)
    for place in stage.progress(list(samples.index), "measure"):
        video = samples.loc[place, "video"]
        try:
            frames = read_frames(video, limits=limits)
        except VideoError as error:
            why = f"{video}: {error.why}"
            raise BadInput(sample_file(samples, place), why, key=clip_key(samples, place)) from error
        signals = measure(frames)
        rows.append(
            {
                "clip_digest": folder_digest(video),  # identifies the clip that the scores belong to
                "frames": len(frames),
                "dynamic_degree": signals.motion,
                "brightness": signals.brightness,
                "saturation": signals.saturation,
            }
        )
        descriptors.append(signals.descriptor)
    return pd.concat([samples, pd.DataFrame(rows, index=samples.index)], axis=1), np.stack(descriptors)


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


def alignment_metrics(clips: pd.DataFrame, descriptors: np.ndarray, params: EvaluateParams, panel: Panel, seed: int) -> dict:
    """The content of metrics/alignment.json from scored clips.

    Every comparison uses the same resamples of prompts, so that figures differ by their data alone. Each win rate has `p`
    for the null hypothesis of one half, and `p_holm`. The family of win rates against base is all methods and dimensions by
    one judge; that of win rates between methods is all pairs of methods, Overall, by one judge. A judge has no entry where
    it has no verdict.
    """
    rated = Rated(clips, descriptors, params, panel, seed)
    methods = {method: rated.against_base(method) for method in params.methods}
    between = {
        f"{method}/{other}": {judge: {"Overall": cell} for judge, cell in rated.overall(method, other).items()}
        for other, method in itertools.combinations(params.methods, 2)
    }
    for judge in rated.judges:
        found = [entry["win_rate"].get(judge, {}) for entry in methods.values()]
        correct_family([cell for cells in found for cell in cells.values()])
        correct_family([entry[judge]["Overall"] for entry in between.values() if judge in entry])
    seeds: Any = rated.clips(BASE).groupby("prompt_id").size()
    return {
        "prompts": len(seeds),
        "seeds_per_prompt": int(seeds.iloc[0]) if seeds.nunique() == 1 else None,  # None where samples are missing
        **panel.as_json(),
        "base": rated.means(BASE),
        "methods": methods,
        "between": between,
        "agreement": rated.agreement(),
    }


@dataclass(frozen=True)
class Rated:
    """Scored clips of base and of all methods (`table`, with its descriptors [N, D]), and their comparisons, each with new
    resamples of one seed."""

    table: pd.DataFrame
    descriptors: np.ndarray
    params: EvaluateParams
    panel: Panel
    seed: int

    @property
    def judges(self) -> list[str]:
        """Held-out judges, the one that decides first, then the reward model."""
        return [*self.panel.facts, REWARD]

    @property
    def scored(self) -> list[str]:
        """Judges that score single clips."""
        return [judge for judge in self.judges if judge == REWARD or judge in self.panel.pointwise]

    def dimensions(self, judge: str) -> tuple[str, ...]:
        return DIMENSIONS if judge == REWARD else self.panel.facts[judge].dimensions

    def clips(self, method: str) -> pd.DataFrame:
        return self.table.loc[self.table["method"] == method]

    def prompts(self) -> np.ndarray:
        return self.clips(BASE)["prompt_id"].to_numpy()

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def scores(self, method: str, judge: str, dimension: str) -> np.ndarray:
        return self.clips(method)[f"{judge}_{dimension}"].to_numpy()

    def points(self, method: str, other: str, judge: str, dimension: str) -> np.ndarray | None:
        """Points of the method's clips against the other's, NaN where there is no verdict; None where there is none."""
        if judge in self.scored:
            both = self.scores(method, judge, dimension), self.scores(other, judge, dimension)
            return points(*both, tie_width(self.params, self.panel, judge))
        if other == BASE:
            found = self.scores(method, judge, dimension).astype(float)
        elif (judge, method, other) in self.panel.between:
            found = self.panel.between[judge, method, other][dimension].to_numpy(float)
        else:
            return None
        return found if np.isfinite(found).any() else None

    def win_rate(self, method: str, other: str, judge: str, dimension: str) -> dict | None:
        """None where the judge has no verdict on the two."""
        found = self.points(method, other, judge, dimension)
        if found is None:
            return None
        known = np.isfinite(found)
        given, prompts = found[known], self.prompts()[known]
        rate = mean_interval(given, prompts, self.params.resamples, self.rng())
        return rate.as_json() | {"p": sign_flip_p(given, prompts)}

    def win_rates(self, method: str) -> dict[str, dict[str, dict]]:
        """Win rates against base by judge and dimension, without judges that have no verdict."""
        rates = {j: {d: self.win_rate(method, BASE, j, d) for d in self.dimensions(j)} for j in self.judges}
        known = {j: {d: cell for d, cell in cells.items() if cell} for j, cells in rates.items()}
        return {judge: cells for judge, cells in known.items() if cells}

    def overall(self, method: str, other: str) -> dict[str, dict]:
        """Overall win rates of one method against another, by judge."""
        rates = {judge: self.win_rate(method, other, judge, "Overall") for judge in self.judges}
        return {judge: cell for judge, cell in rates.items() if cell}

    def difference(self, method: str, judge: str, dimension: str) -> dict:
        both = self.scores(method, judge, dimension), self.scores(BASE, judge, dimension)
        return mean_difference(*both, self.prompts(), self.params.resamples, self.rng()).as_json()

    def means(self, method: str) -> dict:
        group = self.clips(method)
        means = {j: {d: float(group.loc[:, f"{j}_{d}"].mean()) for d in self.dimensions(j)} for j in self.scored}
        found: dict[str, Any] = {"mean": means}
        if GOLD in self.judges:
            found["prompt_right"] = float(group.loc[:, "prompt_right"].mean())
        return found

    def against_base(self, method: str) -> dict:
        """The entry of a method: win rates, mean differences, means and the hacking alarm."""
        ours, theirs, held_out = self.signals(method), self.signals(BASE), self.held_out(method)
        alarm = hacking_alarm(ours, theirs, held_out, self.params.hacking, self.params.resamples, self.rng())
        return {
            "win_rate": self.win_rates(method),
            "mean_difference": {j: {d: self.difference(method, j, d) for d in self.dimensions(j)} for j in self.scored},
            **self.means(method),
            "hacking": alarm.as_json(),
        }

    def signals(self, method: str) -> Clips:
        """Measures of a method's clips for the hacking alarm."""
        group, gold = self.clips(method), GOLD in self.judges
        return Clips(
            prompts=group["prompt_id"].to_numpy(),
            reward=group["reward_Overall"].to_numpy(),
            frames=group["frames"].to_numpy(),
            dynamic_degree=group["dynamic_degree"].to_numpy(),
            speed_error=group["speed_error"].to_numpy() if gold else None,
            brightness=group["brightness"].to_numpy(),
            saturation=group["saturation"].to_numpy(),
            descriptors=self.descriptors[group.index],
        )

    def held_out(self, method: str) -> list[HeldOut]:
        """What each held-out judge finds of a method against base, the one that decides first."""
        found = []
        for key, facts in self.panel.facts.items():
            given = self.points(method, BASE, key, "Overall")
            if given is None:
                continue
            base = self.scores(BASE, key, "Overall") if key in self.panel.pointwise else None
            change = given - 0.5 if base is None else self.scores(method, key, "Overall") - base
            trusted = key == self.panel.decides or key in self.panel.agreeing
            found.append(HeldOut(key, facts.title, change, given, base, trusted))
        return found

    def agreement(self) -> dict[str, dict]:
        """How far judges agree on the methods' clips against base's (components/evaluation/agreement.py)."""
        prompts, given = [], {judge: [] for judge in self.judges}
        for method in self.params.methods:
            prompts.append(self.prompts())
            for judge, columns in given.items():
                found = self.points(method, BASE, judge, "Overall")
                columns.append(np.full(len(prompts[-1]), np.nan) if found is None else found)
        columns = {judge: np.stack(found) for judge, found in given.items()}
        return judges_agreement(columns, np.stack(prompts), self.params.resamples, self.seed)


def headline(metrics: dict) -> dict[str, dict[str, float]]:
    """The metrics that DVC shows, by method: Overall win rate against base with its bounds, that of each dimension, and 1
    where the hacking alarm is raised. By the judge that decides where there is one, else by VideoReward."""
    shown = {}
    for method, entry in metrics["methods"].items():
        rates = entry["win_rate"].get(metrics["decides"], entry["win_rate"][REWARD])
        dimensions = {name: as_scalars(cell)["value"] for name, cell in rates.items() if name != "Overall"}
        shown[method] = as_scalars(rates["Overall"]) | dimensions | {"alarm": int(entry["hacking"]["alarm"])}
    return shown
