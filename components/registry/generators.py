"""The gate for generators: does the challenger draw better clips than the champion by a judge that nothing was trained on?

The figures are those of the stage evaluate, and this file makes sure that they are of this very version. Champion and
challenger drew the same prompts from the same seeds; where there is no champion, base is beaten instead. A hacking alarm is
a veto, whatever the win rates are.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.evaluation.significance import correct_family, sign_flip_p
from components.evaluation.win_rates import DIMENSIONS, points, win_rate
from components.mlflow_store import artifacts_of
from components.params import Params
from components.registry.gate import verdict_reasons
from components.registry.lineage import Runs
from components.registry.versions import FILES, Version, learnt_from, refuse_seen
from components.stage import folder_digest
from components.tables import read_table
from components.text_files import read_json

METRICS, SCORES = Path("metrics/alignment.json"), Path("data/sample_scores.parquet")
CLIPS = "promotion/clips.parquet"  # artifact of a champion's run: its scored clips, for later challengers
KEY = ["prompt_id", "seed"]
NO_DIFFERENCE = 0.5


def compare_generators(
    client: Any, challenger: Version, champion: Version | None, params: Params
) -> tuple[dict[str, Any], list[str], pd.DataFrame]:
    """Evidence about an aligned generator, the reasons against it, and its scored clips."""
    method = challenger.tags["method"]
    metrics = read_json(METRICS)
    if method not in metrics["methods"]:
        raise BadInput(METRICS, f"has nothing of {challenger}: methods are {', '.join(metrics['methods'])}", key=method)
    of_this_version(client, challenger, method)
    table = pd.DataFrame(read_table(SCORES)).sort_values(KEY, ignore_index=True)
    refuse_seen(SCORES, table["prompt"], challenger, learnt_from(client, challenger))
    clips = {name: table[table["method"] == name].reset_index(drop=True) for name in (method, "base")}
    other, rows = "base", clips["base"]
    if champion:
        other, rows = str(champion), champions_clips(client, champion)
        if not rows[[*KEY, "prompt"]].equals(clips[method][[*KEY, "prompt"]]):
            raise BadInput(SCORES, f"these are not the prompts and seeds that {champion} was promoted on")

    evidence = {
        "clips": {
            "file": str(SCORES),
            "digest": folder_digest(SCORES),
            "metrics_digest": folder_digest(METRICS),
            "count": len(clips[method]),
            "prompts": int(clips[method]["prompt_id"].nunique()),
        },
        "against": other,
        "judge": metrics["judge"],
        "figures": {str(challenger): metrics["methods"][method]},
        "differences": None,
    }
    reasons = [f"hacking: {reason}" for reason in metrics["methods"][method]["hacking"]["reasons"]]
    if metrics["judge"] == "none":
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


def champions_clips(client: Any, champion: Version) -> pd.DataFrame:
    """The scored clips that a champion was promoted with."""
    artifacts, folder = artifacts_of(client, champion.run_id), CLIPS.split("/")[0]
    if not any(item.path == CLIPS for item in artifacts.list_artifacts(folder)):
        raise BadInput(str(champion), f"is champion without {CLIPS} in its run: `reelign promote` did not make it so")
    place = FILES / "artifacts" / champion.run_id
    place.mkdir(parents=True, exist_ok=True)
    return pd.DataFrame(read_table(artifacts.download_artifacts(CLIPS, str(place))))
