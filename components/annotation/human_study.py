"""A human study: people compare clips of two methods blind, in Label Studio; their answers count as one more judge.

FOLDER has the layout of components/annotation/tasks.py, so that `reelign annotate` serves, pushes and pulls it. Beside the
key is study.json, its owner's alone to read as the key is: the two methods, digests of their samples, and the pairs.

A study is sampled once, before any answers, and never extended: stopping when the figures look good would invalidate it.
The seed of the prompts may be public; the seed of sides and names is secret (settings.json).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from components.annotation.clips import Clip
from components.annotation.importing import import_studio
from components.annotation.statistics import alpha_interval, votes_of
from components.annotation.tasks import choose_settings, export_pairs, read_key
from components.config.types import Section
from components.contracts import DIMENSIONS, SAMPLE_SCORES, SAMPLES
from components.errors import BadInput
from components.evaluation.paired import read_samples
from components.evaluation.summary import interval, table
from components.evaluation.win_rates import mean_interval, win_rate
from components.files.atomic import atomic_write, whole_folder
from components.files.locks import sole_writer
from components.pipeline.stage import folder_digest
from components.preferences.schema import REVIEWER, Annotation, group_by_pair, pair_of
from components.statistics.accuracy import correct
from components.statistics.intervals import short

JUDGES = {"gold": "gold judge", "reward": "VideoReward"}
LEAD = "gold_minus_reward"
RESAMPLES = 2000  # the default of win_rate
SEED = 0  # of the bootstraps: the same answers give the same figures


class StudyPair(Section):
    """Two clips of a prompt and seed, in the order of Study.methods; paths below SAMPLES, digests of the files."""

    prompt_id: str
    prompt: str
    seed: int
    clips: tuple[str, str]
    digests: tuple[str, str]


class Study(Section):
    """The content of study.json. Win rates are those of the first method over the second. `samples` has the digest of each
    method's folder; `identical` counts sampled pairs that are not shown because their two files are the same."""

    methods: tuple[str, str]
    samples: dict[str, str]
    seed: int
    prompts: int
    identical: int
    pairs: list[StudyPair]


@dataclass(frozen=True)
class Answered:
    """A pair and its annotations, one view per annotator, all with the sides shown on the screen."""

    pair: StudyPair
    views: list[Annotation]

    def lead(self, dimension: str) -> float:
        """Mean answer: 1 where all prefer the first method's clip, -1 the second's, 0 where answers balance."""
        labels: list[Any] = [view.labels[dimension] for view in self.views]
        return (1 if self.views[0].path_A == self.pair.clips[0] else -1) * sum(labels) / len(labels)


def export_study(
    methods: tuple[str, str], folder: Path, prompts: int | None = None, seed: int = 0, base_url: str | None = None
) -> Study:
    """Make FOLDER, complete or not at all: blind tasks of all pairs of `prompts` prompts (None: all), sampled by `seed`.

    BadInput as of read_samples and export_pairs, for an existing folder, for more prompts than were sampled, and for
    methods whose clips do not differ.
    """
    if methods[0] == methods[1]:
        raise BadInput("METHOD_B", f"is {methods[0]} too; a study compares two methods")
    if folder.exists():
        raise BadInput(folder, "exists already; a study is drawn once, another one needs another folder")
    drawn = draw_pairs(methods, prompts, seed)
    pairs = [pair for pair in drawn if pair.digests[0] != pair.digests[1]]
    if not pairs:
        raise BadInput(SAMPLES, f"the clips of {' and '.join(methods)} do not differ for the prompts drawn")
    study = Study(
        methods=methods,
        samples={method: folder_digest(SAMPLES / method) for method in methods},
        seed=seed,
        prompts=len({pair.prompt_id for pair in drawn}),
        identical=len(drawn) - len(pairs),
        pairs=pairs,
    )
    shown = []
    for pair in pairs:
        first, second = (Clip(None, path, pair.prompt, method) for path, method in zip(pair.clips, methods, strict=True))
        shown.append((first, second))
    with sole_writer(folder), whole_folder(folder) as partial:
        settings = choose_settings(partial, overall=True, base_url=base_url)
        export_pairs(SAMPLES, shown, SAMPLES, partial, settings)
        atomic_write(partial / "study.json", study.model_dump_json(indent=1) + "\n", private=True)
    return study


def draw_pairs(methods: tuple[str, str], prompts: int | None, seed: int) -> list[StudyPair]:
    """All pairs of the sampled prompts, in the order of prompts and seeds. A sample of 20 prompts is part of one of 40."""
    samples = read_samples({method: SAMPLES / method for method in methods}).table
    clips: Iterable[Any] = samples.itertuples()
    for clip in clips:
        if not Path(clip.video).is_file():
            key = f"{clip.prompt_id}, seed {clip.seed}"
            raise BadInput(SAMPLES / clip.method / "samples.parquet", f"no such video: {clip.video}", key=key)
    there = sorted(set(samples["prompt_id"]))
    if prompts is not None and prompts > len(there):
        raise BadInput("--prompts", f"{prompts} is more than the {len(there)} that were sampled")
    chosen = list(np.random.default_rng(seed).permutation(there)[:prompts])
    sides = [samples.loc[(samples["method"] == method) & samples["prompt_id"].isin(chosen)] for method in methods]

    def path_of(clip: Any) -> str:
        return Path(clip.video).relative_to(SAMPLES).as_posix()

    return [
        StudyPair(
            prompt_id=first.prompt_id,
            prompt=first.prompt,
            seed=first.seed,
            clips=(path_of(first), path_of(second)),
            digests=(folder_digest(first.video), folder_digest(second.video)),
        )
        for first, second in zip(*(side.itertuples() for side in sides), strict=True)
    ]


def read_study(folder: Path) -> Study:
    """The study of FOLDER. BadInput where it has none, where its tasks are not the study's, and where a method's current
    samples are not those that were shown: the figures would describe other clips."""
    file = folder / "study.json"
    if not file.exists():
        raise BadInput(file, "missing; `reelign study export` makes it")
    try:
        study = Study.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(file, first["msg"], key=".".join(map(str, first["loc"])) or None) from error
    if {task.pair for task in read_key(folder)} != {pair_of(pair.prompt, *pair.clips) for pair in study.pairs}:
        raise BadInput(folder / "key.csv", f"its tasks are not the pairs of {file}")
    for method, digest in study.samples.items():
        samples = SAMPLES / method
        if samples.exists() and folder_digest(samples) != digest:
            why = f"not the samples that {file} was made of (digest {digest}), so people judged other clips"
            raise BadInput(samples, f"{why}; bring those back with `dvc checkout` to read it")
    return study


def read_answers(
    study: Study, labels: Path, folder: Path, reviewers: Sequence[str] = ()
) -> tuple[list[Answered], Counter[str]]:
    """Answered pairs, in the study's order, and counts of what was left out. A reviewer's answers do not count, as they
    cover disputes only. BadInput as of import_studio, and where no pair has an answer.
    """
    found = import_studio(labels, folder, reviewers)
    views = [view for view in found.annotations if view.annotator != REVIEWER]
    found.left_out["answers of the reviewer"] = len(found.annotations) - len(views)
    by_pair = {views[0].pair: views for views in group_by_pair(labels, views)[0]}
    named = [(pair, pair_of(pair.prompt, *pair.clips)) for pair in study.pairs]
    answered = [Answered(pair, by_pair[name]) for pair, name in named if name in by_pair]
    if not answered:
        raise BadInput(labels, "no pair of the study has an answer")
    return answered, found.left_out


def judge_scores(
    study: Study, answered: Sequence[Answered], file: Path = SAMPLE_SCORES
) -> tuple[dict[str, np.ndarray], str | None]:
    """Scores [2, N, D] by judge of the shown clips, in the order of the methods and of DIMENSIONS; or none, with the reason.

    A table with a single other clip is not used at all.
    """
    if not file.exists():
        return {}, f"{file} does not exist; stage evaluate makes it"
    scores = pd.read_parquet(file).set_index(["method", "prompt_id", "seed"])
    if "clip_digest" not in scores:
        return {}, f"{file} has no column clip_digest; stage evaluate makes it anew"
    sides = []
    for place, method in enumerate(study.methods):
        rows = scores.reindex([(method, one.pair.prompt_id, one.pair.seed) for one in answered])
        strange = (rows["clip_digest"] != [one.pair.digests[place] for one in answered]).to_numpy()
        if strange.any():
            pair = answered[int(strange.argmax())].pair
            return {}, f"{file} scores other clips than those shown: {method}, {pair.prompt_id}, seed {pair.seed}"
        sides.append(rows)
    columns = {judge: [f"{judge}_{dimension}" for dimension in DIMENSIONS] for judge in JUDGES}
    known = {judge: names for judge, names in columns.items() if set(names) <= set(scores)}
    return {judge: np.stack([rows[names].to_numpy(float) for rows in sides]) for judge, names in known.items()}, None


def verdicts(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """People's points of the first method's clip in each answered pair, by dimension: what judge human:FILE reads."""
    return [
        {
            "prompt": one.pair.prompt,
            "digests": list(one.pair.digests),
            "points": {name: (1 + one.lead(name)) / 2 for name in DIMENSIONS},
        }
        for one in answered
    ]


def study_metrics(
    study: Study, answered: Sequence[Answered], scores: dict[str, np.ndarray], tie_width: Mapping[str, float]
) -> dict[str, Any]:
    """Figures of people's answers and their agreement with judges. Estimates have 95% intervals over prompts; null without
    a suitable pair, no interval with fewer than MIN_PROMPTS prompts.

    win_rate: of the first method over the second by people (a pair's points are the mean over its annotators) and by each
    judge on the same pairs. krippendorff_alpha: ordinal, by the sides of the screen, of pairs with two answers or more.
    decided: number of pairs with a mean answer other than 0. agreement: share of these where a judge prefers the same clip,
    with a judge's tie counted as wrong; and gold's share minus VideoReward's, paired.
    """
    prompts = np.array([one.pair.prompt_id for one in answered])
    said = np.array([[one.lead(dimension) for dimension in DIMENSIONS] for one in answered])  # [N, D]
    decided = said != 0
    rates = {"people": {name: estimate((1 + said[:, at]) / 2, prompts) for at, name in enumerate(DIMENSIONS)}}
    right = {}
    for judge, (first, second) in scores.items():
        width = tie_width.get(judge, 0.0)
        rates[judge] = {
            name: win_rate(first[:, at], second[:, at], prompts, width, RESAMPLES, np.random.default_rng(SEED)).as_json()
            for at, name in enumerate(DIMENSIONS)
        }
        right[judge] = correct(np.sign(said), first - second).astype(float)
    if right.keys() == JUDGES.keys():
        right[LEAD] = right["gold"] - right["reward"]
    several = [one.views for one in answered if len(one.views) > 1]
    alphas = {name: alpha_interval(*votes_of(several, name), "ordinal", np.random.default_rng(SEED)) for name in DIMENSIONS}
    return {
        "methods": list(study.methods),
        "samples": study.samples,
        "pairs": {"shown": len(study.pairs), "answered": len(answered), "identical": study.identical},
        "prompts": len(set(prompts)),
        "annotators": len({view.annotator for one in answered for view in one.views}),
        "answers": sum(len(one.views) for one in answered),
        "win_rate": rates,
        "decided": {name: int(decided[:, at].sum()) for at, name in enumerate(DIMENSIONS)},
        "krippendorff_alpha": {name: found and found.as_json() for name, found in alphas.items()},
        "agreement": {
            name: {d: estimate(hits[decided[:, at], at], prompts[decided[:, at]]) for at, d in enumerate(DIMENSIONS)}
            for name, hits in right.items()
        },
    }


def estimate(values: np.ndarray, prompts: np.ndarray) -> dict:
    """Interval.as_json of the mean of values [N]; null without values."""
    if not len(values):
        return {"value": None, "ci95": None, "n": 0}
    return mean_interval(values, prompts, RESAMPLES, np.random.default_rng(SEED)).as_json()


def as_lines(found: dict[str, Any]) -> list[str]:
    """Figures as a table."""
    names = JUDGES | {"people": "people", LEAD: "gold judge less VideoReward, points"}
    rows = [[f"wins by {names[by]}", *map(interval, rates.values())] for by, rates in found["win_rate"].items()]
    rows.append(["pairs that people decided", *map(str, found["decided"].values())])
    for by, shares in found["agreement"].items():
        if by == LEAD:
            rows.append([names[by], *(plain(share, 100, "+.0f") for share in shares.values())])
        else:
            rows.append([f"{names[by]} agrees with people", *map(interval, shares.values())])
    rows.append(
        ["Krippendorff's alpha of people", *(plain(alpha, 1, ".2f") for alpha in found["krippendorff_alpha"].values())]
    )
    first, second = found["methods"]
    pairs = found["pairs"]
    head = f"{first} over {second}: {pairs['answered']} of {pairs['shown']} pairs answered"
    counts = ", ".join(f"{name} {found[name]}" for name in ("prompts", "annotators", "answers"))
    return [f"{head}; {counts}", *table(["", *DIMENSIONS], rows)]


def plain(found: dict | None, times: float, form: str) -> str:
    """An estimate that is not a share, as text: -3 (-11 to +4)."""
    if found is None or found["value"] is None:
        return "-"
    value = format(times * found["value"], form)
    if found["ci95"] is None:
        return f"{value} {short(found['prompts'])}"
    low, high = (format(times * end, form) for end in found["ci95"])
    return f"{value} ({low} to {high})"
