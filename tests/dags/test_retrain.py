"""The DAG is the graph of dvc.yaml, and light to parse. Runs in the orchestrator environment: `make test-dags`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

from airflow.dag_processing.dagbag import DagBag

REPOSITORY = Path(__file__).parents[2]
# What it takes to parse any DAG has been imported by then; seconds are of the processor.
PARSE = """
import json, pathlib, sys, tempfile, time
from airflow.dag_processing.dagbag import DagBag
import airflow.providers.standard.operators.bash, airflow.providers.standard.operators.empty
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, BaseOperator, CronTriggerTimetable, Param
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "bare.py").write_text("from airflow.sdk import DAG; dag = DAG('bare', schedule=None)")
    assert DagBag(folder).dags
before, begun = set(sys.modules), time.process_time()
bag = DagBag(sys.argv[1])
seconds = time.process_time() - begun
print(json.dumps([bag.import_errors, seconds, sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def dag():
    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return bag.dags["retrain"]


def reachable(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs of which the second can be reached from the first."""
    pairs = set(edges)
    while more := {(a, d) for a, b in pairs for c, d in edges if b == c} - pairs:
        pairs |= more
    return pairs


def test_each_stage_waits_for_those_that_dvc_says_and_no_arrow_is_implied_by_others(dag):
    """Compared with what DVC itself says, not with our own reading of dvc.yaml."""
    dot = subprocess.run(
        [REPOSITORY / ".venv-ml/bin/dvc", "dag", "--dot"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    said = {tuple(part.strip(' ";') for part in line.split("->")) for line in dot.splitlines() if "->" in line}
    theirs = {(a.replace("@", "."), b.replace("@", ".")) for a, b in said if not a.startswith("pretrain")}
    ours = {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}
    last = {edge for edge in ours if edge[1] == "new_reward_model"}
    drawn = ours - last
    assert reachable(drawn) == reachable(theirs) and len(theirs) > 60
    assert not [edge for edge in drawn if edge in reachable(drawn - {edge})]
    assert len(ours) <= 45
    ends = {task.task_id for task in dag.tasks} - {before for before, _ in theirs} - {"new_reward_model"}
    assert {before for before, _ in last} == ends, "the asset is updated when all stages are done"


def test_tasks_are_in_groups_and_say_what_they_read_and_write(dag):
    groups = {name: sorted(group.children) for name, group in dag.task_group_dict.items() if name}
    assert list(groups) == ["data", "reward_models", "alignment", "evaluation", "release"]
    assert "align.dpo" in groups["alignment"] and "evaluate" in groups["evaluation"]
    text = dag.get_task("align.dpo").doc_md
    assert "python -m components.alignment.methods.flow_dpo" in text and "`models/aligned/dpo`" in text
    assert "components/alignment/" not in text, "code is no input that people look for"


def test_it_runs_one_at_a_time_on_time_or_on_new_preferences(dag):
    assert dag.max_active_runs == 1 and not dag.catchup
    assert [asset.name for asset in dag.timetable.asset_condition.objects] == ["new_preferences"]
    assert [outlet.name for outlet in dag.get_task("new_reward_model").outlets] == ["new_reward_model"]


def test_parsing_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", PARSE, REPOSITORY / "dags"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    errors, seconds, modules = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert not {"torch", "mlflow", "dvc", "pandas", "transformers", "docker", "kubernetes"} & set(modules)
    print(f"parse: {seconds:.2f} s beyond Airflow's own imports, {len(modules)} modules")


@pytest.mark.parametrize("name", ["retrain", "deploy"])
@pytest.mark.parametrize(
    ("key", "given", "fine"),
    [
        ("commit", "0123456789abcdef0123456789abcdef01234567", True),
        ("commit", None, True),
        ("commit", "main", False),
        ("commit", "0123456", False),
        ("profile", "wan2.1-1.3b", True),
        ("profile", "../../secret", False),
        ("profile", "/etc/other", False),
    ],
)
def test_a_commit_is_asked_for_by_its_full_hash_and_a_profile_by_its_name(name, key, given, fine):
    """What a name means may change while a run is under way; a path may be any file."""
    param = DagBag(str(REPOSITORY / "dags")).dags[name].params.get_param(key)
    if fine:
        assert param.resolve(given) == given
    else:
        with pytest.raises(ValueError, match="does not match"):
            param.resolve(given)


@pytest.mark.parametrize(("given", "fine"), [(["reward", "align@dpo"], True), ([], True), (["../../dvc"], False)])
def test_stages_to_run_again_are_given_by_their_names(given, fine):
    param = DagBag(str(REPOSITORY / "dags")).dags["retrain"].params.get_param("force")
    if fine:
        assert param.resolve(given) == given
    else:
        with pytest.raises(ValueError, match="does not match"):
            param.resolve(given)
