"""Lineage of the report: digests in dvc.lock of everything that the evaluation depends on.

Commit and MLflow runs are not in the page, as they differ from run to run and the same inputs give the same page.
`reelign lineage report/index.html` finds them by the page's digest.
"""

from pathlib import Path

import yaml

from components.pipeline.graph import upstream


def upstream_outputs(lock: Path, stage: str) -> list[dict[str, str]]:
    """locked_outputs of the stages that `stage` depends on, sorted by stage."""
    if not (locked := locked_outputs(lock)):
        return []
    rests_on = set(upstream(stage))
    return sorted((out for out in locked if out["stage"] in rests_on), key=lambda out: out["stage"])


def locked_outputs(lock: Path) -> list[dict[str, str]]:
    """Every output that dvc.lock pins, in its order: {"stage", "path", "md5"}."""
    if not lock.exists():
        return []
    stages = yaml.safe_load(lock.read_text()).get("stages", {})
    return [
        {"stage": stage, "path": out["path"], "md5": out["md5"]}
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
    ]
