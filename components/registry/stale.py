"""What was labelled by another reward model than the champion.

Tables of scores and pairs carry the model version that labelled them, and so do registered generators. When a reward model
is promoted, those of any other are stale. registry/stale.json lists their tables with the stages that make and use them.
Generators' versions of its profile get the tag `stale`. Nothing is deleted; relabelling ends it.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.contracts import ALIGNMENT_PAIRS, CANDIDATE_SCORES, VIDEO_REWARD
from components.pipeline.graph import edges, stage_definition, stage_names
from components.pipeline.mlflow_store import all_pages
from components.pipeline.stage import folder_digest, write_json
from components.pipeline.tracking import profile_of

RECORD = Path("registry/stale.json")
TABLES = (str(CANDIDATE_SCORES), str(ALIGNMENT_PAIRS), "data/rounds/*/pairs.parquet", "data/online/*/scores.parquet")
GENERATORS = "name LIKE 'reelign-%-aligned-%'"


def stale_tables(champion: str) -> list[dict[str, str]]:
    """Tables here whose labels are of another model than the one with digest `champion`."""
    found = []
    for file in sorted(file for pattern in TABLES for file in Path().glob(pattern)):
        models = set(pq.read_table(file, columns=["reward_model"])["reward_model"].to_pylist())
        if others := sorted(models - {champion}):
            found.append({"path": str(file), "labelled_by": ", ".join(others)})
    return found


def stale_stages(tables: list[dict[str, str]]) -> list[str]:
    """The stages that made these tables, and all that comes after them, in the order of the graph."""
    names = stage_names()
    stale = {
        name
        for name in names
        for out in stage_definition(name)["outs"]
        if any(Path(table["path"]).is_relative_to(out) for table in tables)
    }
    order = edges()
    while more := {after for before, after in order if before in stale} - stale:
        stale |= more
    return [name for name in names if name in stale]


def mark_stale(client: Any, champion: Any, digest: str) -> dict[str, Any]:
    """Write the record and the tags for the champion (MLflow's record of the version) with this digest, and return the
    record. Doing it again changes nothing."""
    tables = stale_tables(digest)
    here = folder_digest(VIDEO_REWARD) if Path(VIDEO_REWARD).exists() else None
    versions = []
    for version in all_pages(client.search_model_versions, GENERATORS):
        if profile_of(version) != profile_of(champion):
            continue
        labelled_by = version.tags.get("reward_model", digest)
        if labelled_by != digest:
            versions.append(f"{version.name}/{version.version}")
            client.set_model_version_tag(version.name, version.version, "stale", f"labelled by {labelled_by}, not {digest}")
        elif "stale" in version.tags:
            client.delete_model_version_tag(version.name, version.version, "stale")
    record = {
        "champion": f"{champion.name}/{champion.version}",
        "champion_digest": digest,
        "work_tree_digest": here,
        "tables": tables,
        "stages": stale_stages(tables),
        "generators": sorted(versions),
    }
    write_json(RECORD, record)
    return record


def as_lines(record: dict[str, Any]) -> list[str]:
    """The record for a terminal."""
    lines = [f"stale: {table['path']}, labelled by {table['labelled_by']}" for table in record["tables"]]
    lines += [f"stale: {name}, aligned by another reward model" for name in record["generators"]]
    if record["stages"]:
        lines.append(f"stale stages: {' '.join(record['stages'])}")
        if record["work_tree_digest"] == record["champion_digest"]:
            lines.append("`dvc repro` labels anew with the champion")
        else:
            lines.append(f"{VIDEO_REWARD} is not the champion, which `dvc repro` would have to label with")
    return lines
