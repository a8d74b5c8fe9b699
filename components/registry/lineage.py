"""Where a model, a score, a table or a report came from: `reelign lineage ID`.

Each run of a stage names what it read and what it made by digest (components/pipeline/tracking.py). A digest
leads to the run that made it, then to the runs that made its inputs. The trace ends at inputs that no run made: files
that are checked in.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import BadInput
from components.evaluation.lineage import locked_outputs
from components.files.tables import read_table
from components.pipeline.mlflow_store import all_pages
from components.pipeline.stage import folder_digest
from components.registry.versions import aliases, find, registered_name, versions_with

DIGEST, RUN_OR_MD5 = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Run:
    """A finished run of a stage; `inputs` and `outputs` are digests by path, empty where none were kept."""

    run_id: str
    stage: str
    tags: dict[str, str]
    params: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "run": self.run_id,
            "commit": self.tags.get("git.commit", "none"),
            "dag_run": self.tags.get("airflow.run_id"),
            "params_digest": self.tags.get("params.digest"),
            "inputs": self.inputs,
            "outputs": self.outputs,
        }


@dataclass(frozen=True)
class Runs:
    """Finished runs, newest first, and which of them made each digest last."""

    newest: list[Run]
    made: dict[str, Run]

    @classmethod
    def load(cls, client: Any) -> "Runs":
        named = all_pages(client.search_experiments, filter_string="name LIKE 'reelign-%'")
        experiments = [found.experiment_id for found in named]
        runs: list[Run] = []
        finished, newest = "attributes.status = 'FINISHED'", ["start_time DESC"]
        for run in all_pages(client.search_runs, experiments, finished, order_by=newest) if experiments else ():
            tags = run.data.tags
            if "dvc.stage" in tags:
                files = [json.loads(tags.get(f"data.{kind}", "{}")) for kind in ("inputs", "outputs")]
                runs.append(Run(run.info.run_id, tags["dvc.stage"], tags, run.data.params, *files))
        made: dict[str, Run] = {}
        for run in runs:
            for digest in run.outputs.values():
                made.setdefault(digest, run)
        return cls(runs, made)

    def maker(self, digest: str) -> Run | None:
        return self.made.get(digest)

    def by_id(self, run_id: str) -> Run | None:
        return next((run for run in self.newest if run.run_id == run_id), None)

    def behind(self, run: Run) -> tuple[list[Run], dict[str, str]]:
        """The runs that led to a run, itself first, each once; and inputs that none of them made, digest by path."""
        chain, checked_in, todo = [run], {}, dict(run.inputs)
        while todo:
            path, digest = todo.popitem()
            maker = self.maker(digest)
            if maker is None:
                checked_in[path] = digest
            elif maker not in chain:
                chain.append(maker)
                todo |= maker.inputs
        order = {one.run_id: place for place, one in enumerate(self.newest)}
        return [run, *sorted(chain[1:], key=lambda one: order[one.run_id])], dict(sorted(checked_in.items()))


def trace(client: Any, given: str) -> dict[str, Any]:
    """All that is on record about what `given` names.

    given: MODEL/VERSION or MODEL/ALIAS (@ will do too; MODEL as `promote --model` takes it), the digest of a model or
        of any file or folder a stage made, a path, a table of scores (its models are traced where no stage made the table),
        an MLflow run, or an md5 of dvc.lock, as the report shows them. BadInput where none of these is on record.
    """
    runs = Runs.load(client)
    what, digest, run = start(client, runs, given)
    versions = versions_with(client, digest) if digest else []
    chain, checked_in = runs.behind(run)
    return {
        "id": given,
        "what": what,
        "digest": digest,
        "versions": [named(client, version) for version in versions],
        "commit": run.tags.get("git.commit", "none"),
        "dag_run": run.tags.get("airflow.run_id"),
        "params": run.params,
        "figures": {
            key.removesuffix(".figures"): json.loads(value)
            for version in versions[:1]
            for key, value in version.tags.items()
            if key.endswith(".figures")
        },
        "runs": [one.as_json() for one in chain],
        "checked_in": checked_in,
        "recorded": bool(run.inputs or run.outputs),
    }


def start(client: Any, runs: Runs, given: str) -> tuple[str, str | None, Run]:
    """What `given` names, in words, its digest, and the run that made it."""
    if Path(given).exists():
        return from_path(runs, Path(given), given)
    model, _, which = given.replace("@", "/").rpartition("/")
    if "/" in model or "." in which:  # neither is in the name of a model or of an alias
        raise BadInput(given, "no such file")
    if model:
        version = find(client, registered_name(client, model), which)
        run = runs.by_id(version.run_id)
        if run is None:
            raise BadInput(given, f"its run {version.run_id} is not on record as finished")
        made = run.outputs.get(next((p for p in run.outputs if p.startswith("models/")), ""), None)
        return named(client, version), version.tags.get("model.digest", made), run
    if DIGEST.fullmatch(given):
        return from_digest(client, runs, given, f"digest {given}")
    if RUN_OR_MD5.fullmatch(given):
        if run := runs.by_id(given):
            return f"run of stage {run.stage}", None, run
        for out in locked_outputs(Path("dvc.lock")):
            if given.removesuffix(".dir") == out["md5"].removesuffix(".dir") and Path(out["path"]).exists():
                return from_path(runs, Path(out["path"]), given)
    raise BadInput(given, "no version, digest, run, output of dvc.lock or file of this name is on record")


def from_path(runs: Runs, path: Path, given: str) -> tuple[str, str | None, Run]:
    digest = folder_digest(path)
    if run := runs.maker(digest):
        return str(path), digest, run
    if path.suffix == ".parquet":
        rows = read_table(path)
        if models := sorted({row["reward_model"] for row in rows if row.get("reward_model")}):
            if len(models) > 1:
                raise BadInput(path, f"scores of several models: ask for one of {', '.join(models)}")
            if run := runs.maker(models[0]):
                return f"model of the scores in {path}", models[0], run
    raise BadInput(given, f"digest {digest}: no finished stage is on record that made it")


def from_digest(client: Any, runs: Runs, digest: str, what: str) -> tuple[str, str | None, Run]:
    if run := runs.maker(digest):
        path = next(path for path, made in run.outputs.items() if made == digest)
        return f"{path}, {what}", digest, run
    for version in versions_with(client, digest):
        if run := runs.by_id(version.run_id):
            return named(client, version), digest, run
    raise BadInput(digest, "no model or output of this digest is on record")


def named(client: Any, version: Any) -> str:
    own = sorted(alias for alias, number in aliases(client, version.name).items() if number == str(version.version))
    return f"{version.name}/{version.version}{' (' + ', '.join(own) + ')' if own else ''}"


def as_lines(found: dict[str, Any]) -> list[str]:
    """For a terminal: what it is, then each run on the way back."""
    first = found["runs"][0]
    lines = [found["what"]]
    if found["digest"]:
        lines.append(f"digest  {found['digest']}")
    if found["versions"]:
        lines.append(f"version {', '.join(found['versions'])}")
    lines += [f"commit  {found['commit']}", f"stage   {first['stage']}, run {first['run']}"]
    lines.append(f"DAG run {found['dag_run'] or 'none: made outside Airflow'}")
    lines.append(f"params  digest {first['params_digest'] or 'not recorded'}")
    lines += [f"        {key}: {value}" for key, value in sorted(found["params"].items())]
    for stage, figures in found["figures"].items():
        lines.append(f"figures of {stage}")
        lines += [f"        {key}: {value:.4f}" for key, value in sorted(figures.items())]
    if not found["recorded"]:
        return [*lines, "inputs  not recorded: the run is older than such records"]
    lines.append("made from")
    for run in found["runs"]:
        dag = f", DAG run {run['dag_run']}" if run["dag_run"] else ""
        lines.append(f"  {run['stage']}: run {run['run']}, commit {run['commit'][:10]}{dag}")
        lines += [f"    {path} {digest}" for path, digest in run["inputs"].items()]
    lines.append("made by no run on record: checked in, or restored from DVC's cache")
    return lines + [f"  {path} {digest}" for path, digest in found["checked_in"].items()]
