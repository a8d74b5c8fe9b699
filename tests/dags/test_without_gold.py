"""A whole retraining without a gold judge ends with a generator promoted by DAG `deploy`.

The team has clips and the preferences of four annotators. Two of them teach VideoReward, which aligns; two teach
`judge_reward`, which decides. The clips come from the shapes world, and nothing else of it is there. Half an hour.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-whole")

from tests.dags.conftest import REPOSITORY, clone, commit, run, run_dag, tasks

JUDGE = "model:models/judge_reward"
KEY = "model-judge_reward"  # the judge in metrics
MODEL = "reelign-own-aligned-dpo"
CHAMPION = f"""
from components.registry.versions import aliases, connect
print(aliases(connect(), "{MODEL}")["champion"])
"""
# The generator that is promoted is Flow-DPO's: what the others need is short.
CHANGES = {
    "profile: shapes\n": "profile: own\n",
    r"source:\n(  .*\n)+": "source: {kind: folder, folder: FOLDER, csv: annotations.csv}\n",
    r"judge_reward: \{held_out: \{\}\}": "judge_reward: {held_out: {annotators: 0.5}}",
    r"judges: \[gold\]": f'judges: ["{JUDGE}"]',
    "decides: gold": f"decides: {JUDGE}",
    "judge_files: judges": "judge_files: models/judge_reward",
    r"methods: \[sft, rwr, dpo, nrg, best_of_n\]": "methods: [dpo]",
    "tie_width: {gold: 1.0e-9,": f"tie_width: {{{KEY}: 1.0e-9,",
    r"(  (?:sft|rwr):\n.*\n(?:.*\n)?    training:\n)      steps: 100\n": r"\1      steps: 10\n",
    r"(latent_reward:\n(?:  .*\n)*?)    steps: 300\n": r"\1    steps: 20\n",
    r"(tradeoff:\n)  clips: 64\n": r"\1  clips: 8\n",
}


@pytest.fixture(scope="session")
def preferences(tmp_path_factory) -> Path:
    """Clips with annotations.csv beside them: stage `source` of the shapes profile, without its world."""
    folder = clone(tmp_path_factory.mktemp("team") / "checkout")
    (folder / "params.yaml").write_text((REPOSITORY / "infra/profiles/shapes.yaml").read_text())
    (folder / ".venv-ml").symlink_to((REPOSITORY / ".venv-ml").resolve())
    run(folder, ".venv-ml/bin/dvc", "repro", "--single-item", "source", env=in_ml(folder))
    videos = folder / "data/source/videos"
    (folder / "data/source/annotations.csv").rename(videos / "annotations.csv")
    return videos


@pytest.fixture(scope="session")
def checkout(tmp_path_factory, preferences) -> Path:
    """A clone with a profile of the team's own: no gold judge, and half of the annotators held out for a second model."""
    folder = clone(tmp_path_factory.mktemp("dags") / "checkout")
    params = (REPOSITORY / "infra/profiles/shapes.yaml").read_text()
    for before, after in CHANGES.items():
        params, count = re.subn(before, after, params)
        assert count, before
    (folder / "params.yaml").write_text(params.replace("FOLDER", str(preferences)))
    (folder / ".venv-ml").symlink_to((REPOSITORY / ".venv-ml").resolve())
    commit(folder)
    return folder


def in_ml(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{folder}/.venv-ml/bin:{os.environ['PATH']}", "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def retrained(checkout, environ) -> Iterator[str]:
    yield run_dag(checkout, environ, {"force": []})


def test_the_retraining_has_no_gold_judge(retrained, checkout, environ):
    assert retrained.rstrip().splitlines()[-1].endswith("success"), retrained[-6000:]
    assert {"judge_reward.annotators", "align.dpo", "evaluate"} <= tasks(environ).keys()
    found = json.loads((checkout / ".reelign/trees/evaluate/metrics/alignment.json").read_text())
    assert list(found["judges"]) == [KEY] and found["decides"] == KEY
    won = found["methods"]["dpo"]["win_rate"][KEY]["Overall"]
    print(f"Flow-DPO against base by {JUDGE}: {won}")
    assert won["ci95"][0] > 0.5
    assert "gold" not in json.dumps(found)


def test_deploy_promotes_the_generator(retrained, checkout, environ):
    log = run_dag(checkout, environ, {"model": "generator_dpo"}, "deploy")
    assert log.rstrip().splitlines()[-1].endswith("success"), log[-6000:]
    assert f"{MODEL}/1 is champion, the first" in log
    states = {task: state for task, (state, _) in tasks(environ).items()}
    assert states["promote"] == "success" and states["roll_over"] == "skipped", "a generator is not served"
    assert run(checkout, ".venv-ml/bin/python", "-c", CHAMPION, env=environ).strip() == "1"
