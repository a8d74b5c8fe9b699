"""The gate for generators: does the challenger draw better clips than the champion by a judge that nothing was trained on?

The figures are those of the stage evaluate, and this file makes sure that they are of this very version. Champion and
challenger drew the same prompts from the same seeds with the same settings, and one judge saw both; where there is no
champion, base is beaten instead. A hacking alarm is a veto, whatever the win rates are.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import BadInput
from components.evaluation.settings import Settings, difference, digest_of
from components.evaluation.significance import correct_family, sign_flip_p
from components.evaluation.win_rates import DIMENSIONS, points, win_rate
from components.files import whole_file
from components.mlflow_store import artifacts_of
from components.params import Params
from components.registry.gate import Progress, verdict_reasons
from components.registry.lineage import Runs
from components.registry.versions import FILES, Version, learnt_from, refuse_seen
from components.stage import folder_digest
from components.tables import read_table
from components.text_files import read_json

METRICS, SCORES = Path("metrics/alignment.json"), Path("data/sample_scores.parquet")
CLIPS = "promotion/clips.parquet"  # artifact of a champion's run: its scored clips, for later challengers
KEY = ["prompt_id", "seed"]
NO_DIFFERENCE = 0.5
SETTINGS = b"settings"  # of the file's metadata
ANEW = "--remeasure draws and judges the champion's clips anew"


def compare_generators(
    client: Any, challenger: Version, champion: Version | None, params: Params, progress: Progress, anew: bool
) -> tuple[dict[str, Any], list[str], pd.DataFrame]:
    """Evidence about an aligned generator, the reasons against it, and its scored clips. anew: the champion's clips are
    drawn and judged once more, with the challenger's settings. BadInput for that where no held-out judge was at work."""
    method = challenger.tags["method"]
    metrics = read_json(METRICS)
    if method not in metrics["methods"]:
        raise BadInput(METRICS, f"has nothing of {challenger}: methods are {', '.join(metrics['methods'])}", key=method)
    judged = metrics["judge"] != "none"
    if anew and not judged:
        raise BadInput("--remeasure", f"{METRICS} has no gold judge (evaluate.judge is none): nothing judges clips anew")
    of_this_version(client, challenger, method)
    table = pd.DataFrame(read_table(SCORES)).sort_values(KEY, ignore_index=True)
    refuse_seen(SCORES, table["prompt"], challenger, learnt_from(client, challenger))
    clips = {name: table[table["method"] == name].reset_index(drop=True) for name in (method, "base")}
    other, rows, settings, measured_anew = "base", clips["base"], settings_of(metrics), False
    if champion:
        other = str(champion)
        need_settings(challenger, settings, "`dvc repro evaluate` draws them anew")
        if anew:
            from components.registry.remeasure import remeasure  # brings diffusers

            rows = remeasure(champion, clips[method], settings, params, progress)
            measured_anew = True
        else:
            way = ANEW if judged else "a gold judge, which could draw and judge them anew, was not at work"
            rows, theirs = champions_clips(client, champion)
            need_settings(champion, theirs, f"it was promoted before there were any; {way}")
            if differs := difference(settings, theirs, f"the clips that {champion} was promoted on"):
                raise BadInput(str(challenger), f"{differs}; set it back, or {way}")
        if not rows[[*KEY, "prompt"]].equals(clips[method][[*KEY, "prompt"]]):
            raise BadInput(SCORES, f"these are not the prompts and seeds that {champion} was promoted on")

    evidence = {
        "clips": {
            "file": str(SCORES),
            "digest": folder_digest(SCORES),
            "metrics_digest": folder_digest(METRICS),
            "count": len(clips[method]),
            "prompts": int(clips[method]["prompt_id"].nunique()),
            "settings": settings,
            "settings_digest": settings and digest_of(settings),
        },
        "against": other,
        "champion_measured_anew": measured_anew,
        "judge": metrics["judge"],
        "figures": {str(challenger): metrics["methods"][method]},
        "differences": None,
    }
    reasons = [f"hacking: {reason}" for reason in metrics["methods"][method]["hacking"]["reasons"]]
    if not judged:
        return evidence, [*reasons, "no_judge: no judge but the reward model it was trained to please"], clips[method]
    evidence["differences"] = win_rates(clips[method], rows, params)
    reasons += verdict_reasons(evidence["differences"], NO_DIFFERENCE, params.promotion.level)
    return evidence, reasons, clips[method]


def win_rates(ours: pd.DataFrame, theirs: pd.DataFrame, params: Params) -> dict[str, dict[str, dict]]:
    """Win rates by the held-out judge, {dimension: {"win rate": cell}}, as components/registry/gate.py has them."""
    width, cells = params.evaluate.tie_width.gold, {}
    prompts = ours["prompt_id"].to_numpy()
    for dimension in DIMENSIONS:
        both = [side[f"gold_{dimension}"].to_numpy(float) for side in (ours, theirs)]
        found = win_rate(*both, prompts, width, params.promotion.resamples, np.random.default_rng(0))
        cells[dimension] = {"win rate": found.as_json() | {"p": sign_flip_p(points(*both, width), prompts)}}
    correct_family([cell for kinds in cells.values() for cell in kinds.values()])
    return cells


def of_this_version(client: Any, version: Version, method: str) -> None:
    """BadInput where the metrics that lie here were not made from clips that this version drew."""
    run_id = version.tags.get("evaluate.run")
    if run_id is None:
        raise BadInput(str(version), "no stage evaluate has measured it (`dvc repro evaluate`)")
    tags = client.get_run(run_id).data.tags
    made, read = (json.loads(tags[f"data.{kind}"]) for kind in ("outputs", "inputs"))
    for file in (METRICS, SCORES):
        if folder_digest(file) != made[str(file)]:
            raise BadInput(file, f"is not what run {run_id} made, which measured {version} (`dvc repro evaluate`)")
    samples = f"data/samples/{method}"
    drawn = Runs.load(client).maker(read[samples])
    if drawn is None or drawn.inputs.get(f"models/aligned/{method}") != version.digest:
        raise BadInput(samples, f"no record that {version} drew the clips measured in run {run_id}")


def settings_of(metrics: dict[str, Any]) -> Settings | None:
    """How the clips of metrics/alignment.json were drawn and judged; None where that is not on record."""
    drawn = metrics.get("drawn_with")
    return drawn and {**drawn, **metrics["judged_with"]}


def need_settings(version: Version, settings: Settings | None, way: str) -> None:
    """BadInput where it is not on record how a version's clips were drawn and judged."""
    if settings is None:
        raise BadInput(str(version), f"no record of the settings that its clips were drawn and judged with: {way}")


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
