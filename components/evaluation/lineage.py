"""Where the report's numbers come from: commit, digests in dvc.lock, model versions, MLflow runs."""

from pathlib import Path

import yaml

from components.mlflow_store import embedded_store, mlflow_client
from components.tracking import git_commit


def lineage(profile: str, root: Path = Path(".")) -> dict:
    """What is on record about the pipeline in `root`.

    Returns:
        {"commit": str, "outputs": [{"stage", "path", "md5"}] as dvc.lock has them, "runs": [{"stage", "run", "commit"}]
        the newest finished MLflow run of each stage before this one}. A list is empty where there is no record.
    """
    return {"commit": git_commit(), "outputs": locked_outputs(root / "dvc.lock"), "runs": newest_runs(profile)}


def locked_outputs(lock: Path) -> list[dict[str, str]]:
    """Every output that dvc.lock pins, in its order."""
    if not lock.exists():
        return []
    stages = yaml.safe_load(lock.read_text()).get("stages", {})
    return [
        {"stage": stage, "path": out["path"], "md5": out["md5"]}
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
    ]


def newest_runs(profile: str) -> list[dict[str, str]]:
    """The newest finished run of each stage in the profile's experiment, by name of stage."""
    store = embedded_store()
    if store and not store.exists():
        return []
    client = mlflow_client()
    experiment = client.get_experiment_by_name(f"reelign-{profile}")
    if experiment is None:
        return []
    newest: dict[str, dict[str, str]] = {}
    for run in client.search_runs(
        [experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1000, order_by=["start_time DESC"]
    ):
        stage = run.data.tags.get("dvc.stage")
        if stage not in (None, "evaluate") and stage not in newest:  # evaluate itself is still running
            newest[stage] = {"stage": stage, "run": run.info.run_id, "commit": run.data.tags.get("git.commit", "none")}
    return [newest[stage] for stage in sorted(newest)]
