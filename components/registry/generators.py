"""The gate for generators: does the challenger draw better clips than the champion by a judge that nothing was trained on?

The figures are those of the stage evaluate, or of stages online@METHOD and round@K, which measure their own generators.
This file makes sure that they are of this very version. Champion and challenger drew the same prompts from the same seeds
with the same settings, and one judge scored both. Without a champion the challenger is compared with base. A hacking alarm
is a veto, whatever the win rates are.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.config.params import Params
from components.contracts import ALIGNMENT_METRICS, SAMPLE_SCORES, SAMPLES
from components.errors import BadInput
from components.evaluation.settings import Settings, difference, digest_of
from components.evaluation.win_rates import mean_interval, points
from components.files.atomic import whole_file
from components.files.tables import read_table
from components.files.text import read_json
from components.methods import METHODS
from components.pipeline.mlflow_store import artifacts_of
from components.pipeline.stage import folder_digest
from components.registry.gate import Progress, verdict_reasons
from components.registry.judge_cards import judge_reasons
from components.registry.lineage import Runs
from components.registry.versions import FILES, Version, learnt_from, refuse_seen
from components.statistics.significance import correct_family, sign_flip_p

CLIPS = "promotion/clips.parquet"  # artifact of a champion's run: its scored clips, for later challengers
KEY = ["prompt_id", "seed"]
NO_DIFFERENCE = 0.5
# Stages that measure their own generators: before their methods' names, the stage and the folder of their clips.
THEMSELVES = {"online-": ("online", "data/online"), "round-": ("round", "data/rounds")}
SETTINGS = b"settings"  # of the file's metadata
IDENTITY = "judge"  # of judged_with: changes where a judge is trained again
ANEW = "--remeasure draws and judges the champion's clips anew"


@dataclass(frozen=True)
class Measured:
    """Where a method's figures, scored clips and their files lie, and the stage that made them. drawn: for a stage that
    measures its own generator, scores of the clips that it learnt from; not there for one that drew none."""

    metrics: Path
    scores: Path
    samples: Path
    stage: str
    drawn: Path | None = None

    @classmethod
    def of(cls, method: str) -> "Measured":
        for before, (stage, place) in THEMSELVES.items():
            if method.startswith(before):
                name = method.removeprefix(before)
                folder, metrics = Path(place) / name, Path(f"metrics/{method}.json")
                scores, drawn = (folder / file for file in (SAMPLE_SCORES.name, "scores.parquet"))
                return cls(metrics, scores, folder / "samples", f"{stage}@{name}", drawn)
        return cls(ALIGNMENT_METRICS, SAMPLE_SCORES, SAMPLES / method, "evaluate")

    @property
    def again(self) -> str:
        return f"`dvc repro {self.stage}`"


def compare_generators(
    client: Any, challenger: Version, champion: Version | None, params: Params, progress: Progress, anew: bool
) -> tuple[dict[str, Any], list[str], pd.DataFrame]:
    """Evidence about an aligned generator, the reasons against it, and its scored clips. anew: the champion's clips are
    drawn and judged once more, with the challenger's settings, also where the kept ones do not do (kept_clips). BadInput for
    `anew` where no held-out judge was at work."""
    method = challenger.tags["method"]
    place = Measured.of(method)
    metrics = read_json(place.metrics, "methods", "decides", "judges")
    if method not in metrics["methods"]:
        why = f"has nothing of {challenger}: methods are {', '.join(metrics['methods'])}"
        raise BadInput(place.metrics, why, key=method)
    key = metrics["decides"]
    if anew and key is None:
        why = f"{place.metrics} has no judge that decides (evaluate.decides is null): nothing judges clips anew"
        raise BadInput("--remeasure", why)
    if key and metrics["judges"][key]["identity"] == challenger.tags.get("reward_model"):
        why = f"{metrics['judges'][key]['name']} is the reward model whose labels aligned it: it cannot decide"
        raise BadInput(str(challenger), why)
    of_this_version(client, challenger, method, place)
    table = pd.DataFrame(read_table(place.scores)).sort_values(KEY, ignore_index=True)
    seen = learnt_from(client, challenger)
    if place.drawn and place.drawn.exists():
        seen += sorted(pd.read_parquet(place.drawn, columns=["prompt"])["prompt"].unique())
    refuse_seen(place.scores, table["prompt"], challenger, seen)
    clips = {name: table.loc[table["method"] == name].reset_index(drop=True) for name in (method, "base")}
    ours = clips[method]
    other, rows, settings, measured_anew = "base", clips["base"], settings_of(metrics), False
    if champion:
        other = str(champion)
        settings = need_settings(challenger, settings, f"{place.again} draws them anew")
        judge = metrics["judges"][key] if key else None
        rows = None if anew else kept_clips(client, challenger, champion, settings, judge)
        if rows is None:
            from components.registry.remeasure import remeasure  # brings diffusers

            rows, ours = remeasure(champion, clips[method], place.samples, settings, params, progress)
            measured_anew = True
        if not rows[[*KEY, "prompt"]].equals(clips[method][[*KEY, "prompt"]]):
            raise BadInput(place.scores, f"these are not the prompts and seeds that {champion} was promoted on")

    evidence = {
        "clips": {
            "file": str(place.scores),
            "digest": folder_digest(place.scores),
            "metrics_digest": folder_digest(place.metrics),
            "count": len(clips[method]),
            "prompts": int(clips[method]["prompt_id"].nunique()),
            "settings": settings,
            "settings_digest": settings and digest_of(settings),
        },
        "against": other,
        "champion_measured_anew": measured_anew,
        "decides": key,
        "judges": metrics["judges"],
        "judge_card": None,
        "figures": {str(challenger): metrics["methods"][method]},
        "differences": None,
        "other_judges": {},
    }
    reasons = [f"hacking: {reason}" for reason in metrics["methods"][method]["hacking"]["reasons"]]
    if key is None:
        return evidence, [*reasons, "no_judge: no judge but the reward model it was trained to please"], clips[method]
    judge = metrics["judges"][key]
    against, evidence["judge_card"] = judge_reasons(judge, params.promotion.judge)
    by_judge = {
        name: win_rates(ours, rows, one, params)
        for name, one in metrics["judges"].items()
        if name == key or champion is None or measured_anew  # a champion's kept clips may be by another version of it
    }
    evidence["differences"] = by_judge.pop(key)
    evidence["other_judges"] = {name: cells for name, cells in by_judge.items() if cells}
    if not evidence["differences"]:
        return evidence, [*reasons, *against, f"no_verdict: {judge['name']} has none on these clips"], clips[method]
    reasons += against + verdict_reasons(evidence["differences"], NO_DIFFERENCE, params.promotion.level)
    return evidence, reasons, clips[method]


def kept_clips(
    client: Any, challenger: Version, champion: Version, settings: Settings, judge: dict[str, Any] | None
) -> pd.DataFrame | None:
    """The scored clips that the champion was promoted with; None where they were drawn as the challenger's, `settings`, and
    `judge`, which decides, has no verdict on them but can judge such clips anew: it was trained again since, or compares.
    BadInput for clips of other settings or by a judge of another name, which a person has changed."""
    way = ANEW if judge else "a held-out judge, which could draw and judge them anew, was not at work"
    rows, theirs = champions_clips(client, champion)
    theirs = need_settings(champion, theirs, f"it was promoted before there were any; {way}")
    again = judge is not None and not judge["on_record"]
    retrained = again and difference({**settings, IDENTITY: None}, {**theirs, IDENTITY: None}, "") is None
    differs = difference(settings, theirs, f"the clips that {champion} was promoted on")
    if differs and not retrained:
        raise BadInput(str(challenger), f"{differs}; set it back, or {way}")
    if judge is None or (judge["pointwise"] and not differs):
        return rows
    if not again:
        raise BadInput(str(challenger), f"{judge['key']} compares clips, of which the champion's are not kept: {ANEW}")
    return None


def win_rates(ours: pd.DataFrame, theirs: pd.DataFrame, judge: dict[str, Any], params: Params) -> dict[str, dict[str, dict]]:
    """Win rates by a held-out judge, {dimension: {"win rate": cell}}, as components/registry/gate.py has them; empty where
    it has no verdict on the two. A judge of pairs has its points on our side, against theirs."""
    width, cells = params.evaluate.tie_width.get(judge["key"], judge["tie_width"] or 0.0), {}
    for dimension in judge["dimensions"]:
        column = f"{judge['key']}_{dimension}"
        if column not in ours or (judge["pointwise"] and column not in theirs):
            continue
        own = ours[column].to_numpy(float)
        found = points(own, theirs[column].to_numpy(float), width) if judge["pointwise"] else own
        if not (known := np.isfinite(found)).any():
            continue
        found, prompts = found[known], ours["prompt_id"].to_numpy()[known]
        rate = mean_interval(found, prompts, params.promotion.resamples, np.random.default_rng(0))
        cells[dimension] = {"win rate": rate.as_json() | {"p": sign_flip_p(found, prompts)}}
    correct_family([cell for kinds in cells.values() for cell in kinds.values()])
    return cells


def of_this_version(client: Any, version: Version, method: str, place: Measured) -> None:
    """BadInput where the metrics that lie here were not made from clips that this version drew."""
    itself = place.drawn is not None
    run_id = version.run_id if itself else version.tags.get("evaluate.run")
    if run_id is None:
        raise BadInput(str(version), f"no stage evaluate has measured it ({place.again})")
    tags = client.get_run(run_id).data.tags
    made, read = (json.loads(tags[f"data.{kind}"]) for kind in ("outputs", "inputs"))
    for file in (place.metrics, place.scores.parent if itself else place.scores):
        if folder_digest(file) != made[str(file)]:
            raise BadInput(file, f"is not what run {run_id} made, which measured {version} ({place.again})")
    if itself:  # one run trained, drew and measured
        return
    samples = str(SAMPLES / method)
    drawn = Runs.load(client).maker(read[samples])
    lora = METHODS[method].lora
    if drawn is None or lora is None or drawn.inputs.get(lora) != version.digest:
        raise BadInput(samples, f"no record that {version} drew the clips measured in run {run_id}")


def settings_of(metrics: dict[str, Any]) -> Settings | None:
    """How the clips of a metrics file were drawn and judged; None where that is not on record."""
    drawn = metrics.get("drawn_with")
    return drawn and {**drawn, **metrics["judged_with"]}


def need_settings(version: Version, settings: Settings | None, way: str) -> Settings:
    """The settings; BadInput where it is not on record how a version's clips were drawn and judged."""
    if settings is None:
        raise BadInput(str(version), f"no record of the settings that its clips were drawn and judged with: {way}")
    return settings


def write_clips(table: pd.DataFrame, settings: Settings | None, file: Path) -> None:
    """Scored clips with how they were drawn and judged, in one file: neither is without the other."""
    rows = pa.Table.from_pandas(table, preserve_index=False)
    kept = {**(rows.schema.metadata or {}), SETTINGS: json.dumps(settings).encode()}
    with whole_file(file) as partial:
        pq.write_table(rows.replace_schema_metadata(kept), partial)


def champions_clips(client: Any, champion: Version) -> tuple[pd.DataFrame, Settings | None]:
    """The scored clips that a champion was promoted with, and how they were drawn and judged, where that is on record."""
    artifacts, folder = artifacts_of(client, champion.run_id), CLIPS.split("/")[0]
    if not any(item.path == CLIPS for item in artifacts.list_artifacts(folder)):
        raise BadInput(str(champion), f"is champion without {CLIPS} in its run: `reelign promote` did not make it so")
    place = FILES / "artifacts" / champion.run_id
    place.mkdir(parents=True, exist_ok=True)
    file = artifacts.download_artifacts(CLIPS, str(place))
    settings = json.loads((pq.read_schema(file).metadata or {}).get(SETTINGS, b"null"))
    return pd.DataFrame(read_table(file)), settings
