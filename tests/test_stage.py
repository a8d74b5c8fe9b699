"""The contract of a stage: atomic outputs, state that survives, exit codes, tracking."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from components.errors import BadInput
from components.files.text import read_json
from components.pipeline.stage import folder_digest, rounded, write_json

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A tiny checkout with one stage `toy` whose body a test writes."""
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    (tmp_path / "input.txt").write_text("one")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  toy:\n    cmd: python toy.py\n    deps: [input.txt]\n    params: [seed, align.dpo.beta]\n"
        "    outs: [out/a.txt, out/b]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(checkout: Path, body: str, **environment: str) -> subprocess.CompletedProcess:
    code = (
        "from components.pipeline.stage import stage_main\nfrom components.errors import BadInput, NonFinite, Unreachable\n"
        f"def toy(stage):\n{textwrap.indent(textwrap.dedent(body), '    ')}\nstage_main('toy', toy)\n"
    )
    (checkout / "toy.py").write_text(code)
    command = [sys.executable, "toy.py"]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)} | environment
    )


GOOD = """
stage.output("out/a.txt").write_text("a")
folder = stage.output("out/b"); folder.mkdir(); (folder / "c").write_text("c")
stage.log({"number": 2.0})
"""


def test_outputs_appear_and_old_ones_are_replaced(checkout):
    assert run(checkout, GOOD).returncode == 0
    assert (checkout / "out/a.txt").read_text() == "a" and (checkout / "out/b/c").read_text() == "c"
    assert run(checkout, GOOD.replace('"a")', '"new")')).returncode == 0
    assert (checkout / "out/a.txt").read_text() == "new"
    assert not (checkout / ".reelign/partial/toy").exists() and not (checkout / ".reelign/state/toy").exists()


def test_what_a_run_took_lies_beside_its_outputs(checkout):
    """Not in them: dvc.lock pins their digests, and seconds differ from run to run."""
    took = GOOD + 'stage.measured({"seconds_per_clip/plain": 0.5})\n'
    assert run(checkout, took + 'raise BadInput("x.csv", "label is C")').returncode == 2
    assert not (checkout / ".reelign/measured").exists()
    assert run(checkout, took).returncode == 0
    assert json.loads((checkout / ".reelign/measured/toy.json").read_text()) == {"seconds_per_clip/plain": 0.5}


def test_the_last_digits_of_means_are_rounded():
    nested = {"a": {"b": 0.12345678901, "n": 3}, "c": "text", "d": 1 / 3, "e": None}
    assert rounded(nested) == {"a": {"b": 0.123457, "n": 3}, "c": "text", "d": 0.333333, "e": None}


def test_the_first_of_several_processes_alone_commits_speaks_and_tracks(checkout):
    second = run(checkout, GOOD + 'stage.register("m", folder, {})\nstage.say("hello")', RANK="1")
    assert (second.returncode, second.stderr) == (0, "")
    assert not (checkout / "out").exists() and not (checkout / "mlflow.db").exists()
    assert list((checkout / ".reelign/partial").iterdir()) == []
    assert run(checkout, GOOD, RANK="0").returncode == 0
    assert (checkout / "out/a.txt").exists()


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        ('raise BadInput("x.csv", "label is C", row=7, key="VQ")', 2, "error: x.csv, row 7, key 'VQ': label is C\n"),
        ('raise NonFinite("loss", 12)', 3, "error: loss is not finite at step 12"),
        ('raise Unreachable("s3://b/p", "no answer for 9 s")', 4, "error: s3://b/p: no answer for 9 s\n"),
        ('raise ZeroDivisionError("oops")', 1, "ZeroDivisionError: oops"),
        ("return", 1, "did not make out/a.txt"),
    ],
)
def test_a_failed_stage_leaves_no_output_and_says_why(checkout, failure, code, says):
    begun = 'stage.output("out/a.txt")\n' if failure == "return" else 'stage.output("out/a.txt").write_text("half")\n'
    result = run(checkout, begun + failure)
    assert result.returncode == code
    assert says in result.stderr
    assert not (checkout / "out").exists() and not (checkout / ".reelign/partial/toy").exists()


def test_params_that_changed_meanwhile_are_refused_as_dvc_would_write_them_into_its_lock(checkout):
    change = GOOD + "from pathlib import Path\np = Path('params.yaml')\np.write_text(p.read_text()"
    result = run(checkout, change + ".replace('seed: 17', 'seed: 18', 1))")
    assert result.returncode == 2
    assert result.stderr.endswith(
        "error: params.yaml: was changed while stage toy ran (key 'seed'); restore it, or run `dvc repro` again "
        "with the new params\n"
    )
    assert not (checkout / "out").exists()
    assert run(checkout, change + " + '# a note')").returncode == 0


def test_state_survives_a_failure_and_belongs_to_inputs_and_params(checkout):
    remember = """
    f = stage.state() / "f"
    print("found" if f.exists() else "fresh")
    f.write_text("x")
    raise BadInput("x", "y")
    """
    assert "fresh" in run(checkout, remember).stdout
    assert "found" in run(checkout, remember).stdout
    (checkout / "input.txt").write_text("two")
    assert "fresh" in run(checkout, remember).stdout
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("seed: 17", "seed: 18", 1))
    assert "fresh" in run(checkout, remember).stdout


def test_the_run_is_tracked_under_a_parent_with_lineage(checkout):
    assert run(checkout, GOOD).returncode == 0
    assert run(checkout, 'stage.output("out/a.txt")\nraise BadInput("x", "y")').returncode == 2
    import mlflow

    client = mlflow.MlflowClient(tracking_uri="sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("reelign-shapes")
    runs = {r.info.status: r for r in client.search_runs([experiment.experiment_id], "tags.`dvc.stage` = 'toy'")}
    assert set(runs) == {"FINISHED", "FAILED"}
    good = runs["FINISHED"]
    assert good.data.metrics["number"] == 2.0 and good.data.metrics["seconds"] > 0
    assert good.data.params["align.dpo.beta"] and good.data.params["seed"] == "17"
    assert {"git.commit", "dvc.lock.md5", "data.digest", "mlflow.parentRunId"} <= set(good.data.tags)
    assert json.loads(good.data.tags["data.inputs"]) == {"input.txt": folder_digest("input.txt")}
    assert json.loads(good.data.tags["data.outputs"]) == {path: folder_digest(path) for path in ("out/a.txt", "out/b")}
    for status, run_ in runs.items():
        parent = client.get_run(run_.data.tags["mlflow.parentRunId"])
        assert parent.data.tags["execution"] and parent.info.status == status


def test_a_server_that_does_not_answer_is_named_before_any_work(checkout):
    server = {"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = run(checkout, GOOD, **server)
    assert result.returncode == 4
    assert result.stderr.endswith("error: http://127.0.0.1:1: MLflow does not answer (ConnectionError)\n")
    assert "secret" not in result.stderr and not (checkout / "out").exists()


def test_a_failure_says_why_it_failed_though_mlflow_has_gone_meanwhile(checkout):
    body = """import components.pipeline.tracking as tracking
def gone(patience):
    raise Unreachable("http://mlflow:5000", f"no answer for {patience:g} s")
tracking.embedded_store, tracking.await_server = lambda: None, gone
"""
    failed = run(checkout, body + 'raise BadInput("x.csv", "label is C", row=7)')
    assert failed.returncode == 2, failed.stderr
    assert "the failure could not be recorded: http://mlflow:5000: no answer for 20 s\n" in failed.stderr
    assert failed.stderr.endswith("error: x.csv, row 7: label is C\n")
    assert run(checkout, body + GOOD).stderr.endswith("error: http://mlflow:5000: no answer for 240 s\n")


def test_a_missing_input_is_named(checkout):
    (checkout / "input.txt").unlink()
    result = run(checkout, GOOD)
    assert result.returncode == 2 and "input.txt: missing" in result.stderr


def test_digest_depends_on_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = folder_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    with pytest.raises(BadInput, match="missing"):
        read_json(tmp_path / "x.json")
