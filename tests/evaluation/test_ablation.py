"""The table of experiments: what differs is a column, what does not is none, and DVC's experiments are really read."""

import json
import subprocess

import pytest

from components.errors import BadInput
from components.evaluation.ablation import Variant, as_rows, flat, read_variants, write_page


def bench(overall: float) -> dict:
    found = {"value": overall, "ci95": [overall - 0.1, overall + 0.1], "n": 50}
    none = {"value": None, "ci95": None, "n": 0}
    return {"pairs": 60, "dimensions": {"Overall": {"accuracy_without_ties": found, "accuracy_with_ties": none}}}


def test_rows_are_ordered_by_overall_and_show_what_differs():
    params = flat({"seed": 1, "reward": {"loss": "bt", "theta": 5.0}})
    variants = [Variant("one", params, bench(0.6), {}), Variant("two", params | {"reward.loss": "btt"}, bench(0.8), {})]
    header, rows = as_rows(variants)
    assert header == ["experiment", "reward.loss", "Overall without ties", "Overall with ties"]
    assert rows == [["two", "btt", "0.800 (0.700–0.900)", "none"], ["one", "bt", "0.600 (0.500–0.700)", "none"]]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def test_experiments_of_a_repository_become_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key, value in {"AUTHOR_NAME": "a", "AUTHOR_EMAIL": "a@b", "COMMITTER_NAME": "a", "COMMITTER_EMAIL": "a@b"}.items():
        monkeypatch.setenv(f"GIT_{key}", value)
    run("git", "init", "-q", ".")
    run("dvc", "init", "-q")
    (tmp_path / "params.yaml").write_text("reward: {loss: bt, score: 0.5}\n")
    (tmp_path / "stage.py").write_text(
        "import json, pathlib, yaml\n"
        "params = yaml.safe_load(open('params.yaml'))['reward']\n"
        f"bench = json.loads({json.dumps(bench(0.5))!r})\n"
        "bench['dimensions']['Overall']['accuracy_without_ties']['value'] = params['score']\n"
        "pathlib.Path('metrics').mkdir(exist_ok=True)\n"
        "json.dump(bench, open('metrics/reward_bench.json', 'w'))\n"
    )
    (tmp_path / "dvc.yaml").write_text(
        "stages: {reward_bench: {cmd: python stage.py, deps: [stage.py, data/pairs], params: [reward],"
        " metrics: [metrics/reward_bench.json]}}"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pairs").write_text("pairs")
    run("dvc", "repro", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "start")
    with pytest.raises(BadInput, match="no finished experiments"):
        read_variants()
    run("dvc", "exp", "run", "-q", "-n", "lower", "-S", "reward.loss=regression", "-S", "reward.score=0.4")
    run("dvc", "exp", "run", "-q", "-n", "higher", "-S", "reward.loss=btt", "-S", "reward.score=0.9")
    variants = read_variants()
    _, rows = as_rows(variants)
    assert [row[:3] for row in rows] == [["higher", "btt", "0.9"], ["lower", "regression", "0.4"]]
    write_page(tmp_path / "report/ablation.html", variants)
    assert "0.900 (0.400–0.600)" in (tmp_path / "report/ablation.html").read_text()
    (tmp_path / "data/pairs").write_text("other pairs")
    run("dvc", "exp", "run", "-q", "-n", "unlike", "-S", "reward.loss=btt", "-S", "reward.score=1.0")
    with pytest.raises(
        BadInput, match=r"experiment .*: data/pairs is another one than in .*: `dvc exp remove` one of the two"
    ):
        read_variants()
