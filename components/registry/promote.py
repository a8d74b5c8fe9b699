"""`reelign promote`: weigh the challenger, write the evidence, and move the alias `champion` where it won.

The order of writing makes every moment safe. The evidence is stored first. Then one tag of the registered model,
`promotion.pending`, records what is about to happen. From there on the promotion is decided, and `finish` does the rest.
Each of its steps may run twice with the same result: the alias moves in one write, the rest follows, the tag goes last.
Where a process or a server dies before the tag, nothing has moved; after it, the next call finishes.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.config.params import Params
from components.contracts import CHALLENGER, CHAMPION
from components.errors import BadInput
from components.files.locks import sole_writer
from components.pipeline.mlflow_store import ARTIFACTS, artifacts_of, embedded_store
from components.pipeline.stage import write_json
from components.pipeline.tracking import FACTS, git_commit
from components.registry import gate, generators
from components.registry.stale import mark_stale
from components.registry.versions import (
    FILES,
    Version,
    aliases,
    fetch,
    find,
    refuse_other_profile,
    registered_name,
)
from components.statistics.intervals import as_text, counted

PENDING = "promotion.pending"
FOLDER = Path("registry")


@dataclass(frozen=True)
class Outcome:
    """`evidence` is None where there was no challenger, or it is champion already. `stale` is mark_stale's record after a
    promotion."""

    evidence: dict[str, Any] | None
    file: Path | None
    stale: dict[str, Any] | None


def weigh(
    client: Any, challenger: Version, champion: Version | None, params: Params, progress: gate.Progress, anew: bool
) -> tuple[dict[str, Any], Any]:
    """The evidence with its verdict, and the table it rests on."""
    if (challenger.folder / FACTS).exists():
        kind, null = "reward model", 0.0
        if anew:
            raise BadInput("--remeasure", f"{challenger} is a reward model: both are scored alike anyway")
        found, reasons, table = gate.compare_rewards(client, challenger, champion, params.promotion, progress)
    elif "method" in challenger.tags:
        kind, null = "generator", generators.NO_DIFFERENCE
        found, reasons, table = generators.compare_generators(client, challenger, champion, params, progress, anew)
    else:
        raise BadInput(str(challenger), f"is neither a VideoReward ({FACTS}) nor an aligned generator (tag method)")
    won = gate.gains(found["differences"], null, params.promotion.level) if found["differences"] else []
    evidence = {
        "model": challenger.model,
        "kind": kind,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "challenger": challenger.as_json(),
        "champion": champion and champion.as_json(),
        **found,
        "thresholds": params.promotion.model_dump(),
        "verdict": {"promote": not reasons, "reasons": reasons, "gains": won},
    }
    return evidence, table


def promote(
    client: Any,
    name: str,
    challenger: str | None,
    champion: str | None,
    params: Params,
    dry_run: bool,
    out: Path | None,
    progress: gate.Progress,
    say: Callable[[str], None],
    anew: bool = False,
) -> Outcome:
    """Weigh a challenger of the registered model `name` against its champion, and move the alias where it won.

    challenger, champion: number or alias; without them, the aliases of these names. A dry run writes no more than `out`.
    anew: a champion generator's clips are drawn and judged once more. One promotion is at work at a time on a store that
    is a file, or from a work tree; another waits. BadInput where the champion was moved meanwhile from elsewhere.
    """
    store = embedded_store()
    lock = store.with_name(ARTIFACTS) / "promotion" if store else FILES / "promotion"
    with sole_writer(lock, waits=lambda holder: say(f"waiting for another promotion: {holder}")):
        return promote_alone(client, name, challenger, champion, params, dry_run, out, progress, say, anew)


def promote_alone(
    client: Any,
    name: str,
    challenger: str | None,
    champion: str | None,
    params: Params,
    dry_run: bool,
    out: Path | None,
    progress: gate.Progress,
    say: Callable[[str], None],
    anew: bool,
) -> Outcome:
    """As promote, under its lock."""
    model = registered_name(client, name)
    stale = finish_interrupted(client, model, dry_run, say)
    sides = choose(client, model, challenger, champion, params.profile, dry_run, say)
    if sides is None:
        return Outcome(None, None, stale)
    new, old = sides
    evidence, table = weigh(client, fetch(new), fetch(old) if old else None, params, progress, anew)
    if dry_run:
        if out:
            write_json(out, evidence)
        return Outcome(evidence, out, None)
    file = out or evidence_file(new, evidence)
    write_json(file, evidence)
    store(client, new, file, table, evidence)
    if evidence["verdict"]["promote"]:
        stale = decide(client, new, old, evidence, say)
    return Outcome(evidence, file, stale)


def finish_interrupted(client: Any, model: str, dry_run: bool, say: Callable[[str], None]) -> dict[str, Any] | None:
    """As finish, where a decided promotion was interrupted; BadInput in a dry run, which changes nothing."""
    if PENDING not in client.get_registered_model(model).tags:
        return None
    if dry_run:
        raise BadInput(model, "a promotion was interrupted: run the command without --dry-run to finish it first")
    return finish(client, model, say)


def choose(
    client: Any,
    model: str,
    challenger: str | None,
    champion: str | None,
    profile: str,
    dry_run: bool,
    say: Callable[[str], None],
) -> tuple[Any, Any | None] | None:
    """The registered versions to compare, the champion None where there is none. None, with a line, where there is nothing
    to promote; BadInput for versions that cannot be compared."""
    named = aliases(client, model)
    if challenger is None and named.get(CHALLENGER) in (None, named.get(CHAMPION)):
        say(f"{model} has no challenger; champion is {named.get(CHAMPION, 'none')}")
        return None
    new = find(client, model, challenger or CHALLENGER)
    refuse_other_profile(new, profile)
    if champion is None and str(new.version) == named.get(CHAMPION):
        say(f"{model}/{new.version} is champion already")
        return None
    if champion is None and CHAMPION not in named:
        return new, None
    old = find(client, model, champion or CHAMPION)
    if str(old.version) != named.get(CHAMPION) and not dry_run:
        raise BadInput(f"{model}/{champion}", "is not the champion: comparing with it needs --dry-run")
    if str(new.version) == str(old.version):
        raise BadInput(f"{model}/{new.version}", "is the champion itself")
    refuse_other_profile(old, profile)
    return new, old


def evidence_file(version: Any, evidence: dict[str, Any]) -> Path:
    stamp = evidence["made"].replace("-", "").replace(":", "").removesuffix("+0000")
    return FOLDER / f"evidence-{version.name}-{version.version}-{stamp}.json"


def decide(
    client: Any, new: Any, old: Any | None, evidence: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Set the tag that decides the promotion, and finish it. BadInput where the champion was moved meanwhile."""
    before = old and str(old.version)
    refuse_moved(client, new.name, before)
    pending = {"to": str(new.version), "from": before, "made": evidence["made"]}
    client.set_registered_model_tag(new.name, PENDING, json.dumps(pending))
    return finish(client, new.name, say)


def refuse_moved(client: Any, model: str, champion: str | None) -> None:
    """BadInput where the champion is not the one that was compared with any more, or another promotion is decided: work
    trees that share a server do not wait for each other."""
    if aliases(client, model).get(CHAMPION) != champion or PENDING in client.get_registered_model(model).tags:
        raise BadInput(model, f"its champion was {champion or 'none'} and was moved from elsewhere meanwhile: call again")


def store(client: Any, version: Any, file: Path, table: Any, evidence: dict[str, Any]) -> None:
    """Evidence and table into the challenger's run, and the verdict onto its version."""
    folder = generators.CLIPS.split("/")[0]
    artifacts = artifacts_of(client, version.run_id)
    artifacts.log_artifact(str(file), folder)
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / Path(generators.CLIPS).name
        generators.write_clips(table, evidence.get("clips", {}).get("settings"), rows)
        artifacts.log_artifact(str(rows), folder)
    verdict = evidence["verdict"]
    said = "promoted" if verdict["promote"] else f"refused: {'; '.join(verdict['reasons'])}"
    for key, value in {"verdict": said, "evidence": f"{folder}/{file.name}"}.items():
        client.set_model_version_tag(version.name, version.version, f"promotion.{key}", value)


def finish(client: Any, model: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Do what is left of the promotion on record in `promotion.pending`; mark_stale's record for a reward model."""
    pending = json.loads(client.get_registered_model(model).tags[PENDING])
    number, named, stale = pending["to"], aliases(client, model), None
    if named.get(CHAMPION) not in (pending["from"], number):
        say(f"{model}: champion was moved to {named.get(CHAMPION)} by hand meanwhile: {number} is not promoted")
        client.delete_registered_model_tag(model, PENDING)
        return None
    if named.get(CHAMPION) != number:
        client.set_registered_model_alias(model, CHAMPION, number)
    if named.get(CHALLENGER) == number:
        client.delete_registered_model_alias(model, CHALLENGER)
    record = find(client, model, number)
    client.set_model_version_tag(model, number, "promotion.from", pending["from"] or "none")
    client.set_model_version_tag(model, number, "promotion.made", pending["made"])
    files = fetch(record)
    if (files.folder / FACTS).exists():
        stale = mark_stale(client, record, files.digest)
    client.delete_registered_model_tag(model, PENDING)
    say(f"{model}/{number} is champion{', after ' + pending['from'] if pending['from'] else ', the first'}")
    return stale


def as_lines(evidence: dict[str, Any], dry_run: bool) -> list[str]:
    """The figures and the verdict for a terminal: accuracies by dimension with their intervals, what they differ by, then
    gains and reasons."""
    verdict = evidence["verdict"]
    names = [evidence[side] and evidence[side]["version"] for side in ("challenger", "champion")]
    against = names[1] or ("base" if evidence["kind"] == "generator" else "no champion")
    lines = [f"{names[0]} against {against}"]
    if evidence.get("champion_measured_anew"):
        lines.append(f"  clips of {against} were drawn and judged anew")
    if evidence["kind"] == "reward model":
        lines += [line for name in filter(None, names) for line in accuracies(name, evidence["figures"][name])]
    for dimension, kinds in (evidence["differences"] or {}).items():
        cells = [f"{kind.replace('_', ' ')} {as_text(cell)}" for kind, cell in kinds.items() if cell]
        what = "" if evidence["kind"] == "generator" else "difference of "
        lines.append(f"  {dimension}: {what}{', '.join(cells) or 'no labels'}")
    lines += [f"  gain: {gain}" for gain in verdict["gains"]] + [f"  {reason}" for reason in verdict["reasons"]]
    said = (
        {True: "promoted", False: "not promoted"} if not dry_run else {True: "would be promoted", False: "would be refused"}
    )
    return [*lines, said[verdict["promote"]]]


def accuracies(name: str, found: dict[str, Any]) -> list[str]:
    """A line a dimension of a reward model's figures on the test pairs."""
    lines = []
    for dimension, entry in found["dimensions"].items():
        kinds = {kind: entry[kind] for kind in gate.KINDS if entry[kind]["value"] is not None}
        cells = [
            f"{kind.replace('_', ' ')} {as_text(cell)} over {counted(cell['n'], 'pair')}" for kind, cell in kinds.items()
        ]
        lines.append(f"  {name} {dimension}: {', '.join(cells) or 'no labelled pair'}")
    return lines
