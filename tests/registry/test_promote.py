"""Promotion: who becomes champion, what is written, and that no alias is ever half-moved."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from components.config.params import load_params
from components.errors import BadInput, Unreachable
from components.pipeline.mlflow_store import answering, artifacts_of, mlflow_client
from components.pipeline.stage import folder_digest
from components.registry import promote as promote_module
from components.registry.promote import PENDING, promote
from components.registry.versions import aliases, connect, fetch, files_of
from tests.conftest import REPOSITORY
from tests.registry.server import Server
from tests.registry.world import environment, make_checkout, make_pairs, random_model, register, train

MODEL = "reelign-smoke-video-reward"


def call(client=None, **changes):
    given = {"name": "video_reward", "challenger": None, "champion": None, "dry_run": False, "out": None} | changes
    with answering():
        return promote(
            client or connect(), params=load_params(), progress=lambda items, *_: items, say=lambda text: None, **given
        )


def reasons(outcome) -> set[str]:
    return {reason.split(":")[0] for reason in outcome.evidence["verdict"]["reasons"]}


def tags(client) -> dict[str, str]:
    return client.get_registered_model(MODEL).tags


def test_a_model_that_learnt_nothing_is_not_even_the_first_champion(here):
    register(random_model(here / "random"))
    client = connect()
    outcome = call(dry_run=True)
    assert reasons(outcome) >= {"accuracy"} and outcome.file is None and not Path("registry").exists()
    lines = promote_module.as_lines(outcome.evidence, dry_run=True)
    assert lines[0] == f"{MODEL}/1 against no champion" and lines[-1] == "would be refused"
    for name in ("VQ", "MQ", "TA", "Overall"):
        figures = rf"  {MODEL}/1 {name}: accuracy without ties 0\.\d+ \[0\.\d+, 0\.\d+\] over \d+ pairs"
        assert [line for line in lines if re.match(figures, line)]
    outcome = call()
    assert promote_module.as_lines(outcome.evidence, dry_run=False) == [*lines[:-1], "not promoted"]
    assert aliases(client, MODEL) == {"challenger": "1"} and PENDING not in tags(client)
    evidence = json.loads(outcome.file.read_text())
    assert evidence["verdict"]["promote"] is False and evidence["champion"] is None
    assert evidence["challenger"]["digest"] == folder_digest("models/video_reward")
    assert evidence["pairs"]["digest"] == folder_digest("data/pairs/test.parquet") and evidence["pairs"]["count"] == 240
    version = client.get_model_version(MODEL, "1")
    assert version.tags["promotion.verdict"].startswith("refused: accuracy")
    kept = artifacts_of(client, version.run_id).download_artifacts(version.tags["promotion.evidence"])
    assert json.loads(Path(kept).read_text()) == evidence


def test_versions_say_what_they_are_and_where_they_came_from(here):
    version = connect().get_model_version(MODEL, "1")
    said = json.loads(version.tags["signature"])
    assert said["outputs"]["normalised"] == ["VQ", "MQ", "TA", "Overall"] and said["frame_plan"]["frames"] == 4
    assert version.tags["model.digest"] == folder_digest("models/video_reward")
    assert json.loads(version.tags["data.inputs"])["data/pairs"] == folder_digest("data/pairs")
    assert {"git.commit", "params.digest", "execution", "dvc.stage"} <= set(version.tags)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "no_such"}, "no_such: no such registered model; there are reelign-smoke-video-reward"),
        ({"name": "generator_dpo"}, "reelign-smoke-aligned-dpo: no such registered model"),
        ({"challenger": "7"}, "reelign-smoke-video-reward/7: no such version; there are 1, challenger"),
        (
            {"champion": "champion"},
            "reelign-smoke-video-reward/champion: no version is champion yet",
        ),
        ({"champion": "1"}, "is not the champion: comparing with it needs --dry-run"),
        ({"champion": "1", "dry_run": True}, "reelign-smoke-video-reward/1: is the champion itself"),
    ],
)
def test_what_is_not_there_is_named(here, changes, says):
    with pytest.raises(BadInput) as caught:
        call(**changes)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_test_pairs_that_a_version_learnt_from_are_refused(here):
    """The pairs were made anew meanwhile, and what was a training prompt is a test prompt now."""
    kept = shutil.copytree("data/pairs", here / "kept")
    make_pairs("test", 20)
    pairs = here / "data/pairs/test.parquet"
    make_pairs("train", 20)
    shutil.copyfile("data/pairs/train.parquet", pairs)
    with pytest.raises(BadInput, match=r"test\.parquet, row 0, key 'prompt': 'train prompt 0': .*-reward/1 learnt from"):
        call()
    shutil.rmtree("data/pairs")
    os.replace(kept, "data/pairs")


def test_files_that_are_not_those_registered_are_fetched_again_and_then_refused(here, capsys):
    version = connect().get_model_version(MODEL, "1")
    kept = here / ".reelign/registry/versions" / version.run_id / MODEL / "head.safetensors"
    stored = here / files_of(version) / "head.safetensors"
    before = stored.read_bytes()
    kept.write_bytes(before[:-1] + b"x")
    fetch(version)
    assert kept.read_bytes() == before and f"{kept.parent.relative_to(here)}: damaged" in capsys.readouterr().err
    for file in (kept, stored):
        file.write_bytes(before[:-1] + b"x")
    with pytest.raises(BadInput, match=r"reelign-smoke-video-reward/1: its files in .* are .*, registered was"):
        call()
    stored.write_bytes(before)
    shutil.rmtree(kept.parent)


def test_an_interrupted_promotion_is_finished_by_the_next_call(here):
    """As after a kill at each point behind the decision."""
    client = connect()
    for moved in (False, True):
        client.set_registered_model_alias(MODEL, "challenger", "1")
        if "champion" in aliases(client, MODEL):
            client.delete_registered_model_alias(MODEL, "champion")
        client.set_registered_model_tag(MODEL, PENDING, json.dumps({"to": "1", "from": None, "made": "then"}))
        if moved:
            client.set_registered_model_alias(MODEL, "champion", "1")
        with pytest.raises(BadInput, match="interrupted"):
            call(dry_run=True)
        outcome = call()
        assert outcome.evidence is None and outcome.stale["champion"] == f"{MODEL}/1"
        assert aliases(client, MODEL) == {"champion": "1"} and PENDING not in tags(client)
    assert client.get_model_version(MODEL, "1").tags["promotion.made"] == "then"


def test_a_champion_moved_by_hand_ends_an_interrupted_promotion(here):
    register(random_model(here / "other", scale=2.0))
    client = connect()
    assert aliases(client, MODEL) == {"champion": "1", "challenger": "2"}
    client.set_registered_model_tag(MODEL, PENDING, json.dumps({"to": "2", "from": "none such", "made": "then"}))
    assert call().evidence["verdict"]["promote"] is False
    assert aliases(client, MODEL) == {"champion": "1", "challenger": "2"} and PENDING not in tags(client)


def command(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "components.cli.main", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables,
        capture_output=True,
        text=True,
    )


def test_the_command_says_in_a_line_what_is_wrong(here):
    nobody = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = command(here, "promote", **nobody)
    assert (result.returncode, result.stderr.count("\n")) == (4, 1)
    assert result.stderr.startswith("error: http://127.0.0.1:1: MLflow does not answer")
    assert command(here, "lineage", "video_reward/1", **nobody).returncode == 4


def test_refused_is_no_failure_and_a_crash_is_no_refusal(here):
    register(random_model(here / "refused", scale=3.0))
    result = command(here, "promote", "--dry-run")
    assert result.returncode == 5 and result.stdout.endswith("would be refused\n")
    assert re.search(r"difference of accuracy without ties -?0\.\d+ \[", result.stdout), result.stdout
    result = command(here, "promote", "--dry-run", "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 5 and found["evidence"]["verdict"]["promote"] is False
    assert found["dry_run"] is True and found["evidence_file"] is None and found["stale"] is None
    result = command(here, "promote")
    assert result.returncode == 5 and "not promoted" in result.stdout
    # Named by the variables of a DAG's task; the champion named as challenger is what a second try finds.
    champion = aliases(connect(), MODEL)["champion"]
    result = command(here, "promote", REELIGN_CHALLENGER=champion, REELIGN_MODEL=MODEL)
    assert result.returncode == 0 and f"{MODEL}/{champion} is champion already" in result.stderr


def test_models_of_two_profiles_are_not_compared(here):
    """A smoke run's model is no challenger of another profile's champion, nor is a copy of it."""
    client = connect()
    before = aliases(client, MODEL)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("profile: smoke", "profile: shapes"))
    register(random_model(here / "of shapes", scale=4.0))
    other = "reelign-shapes-video-reward"
    assert aliases(client, other) == {"challenger": "1"} and aliases(client, MODEL) == before
    assert client.get_model_version(other, "1").tags["profile"] == "shapes"
    with pytest.raises(BadInput, match=r"-video-reward/1: is of profile smoke, params\.yaml is profile shapes"):
        call(name=MODEL, challenger="1", dry_run=True)
    Path("params.yaml").write_text(text)
    version = client.get_model_version(other, "1")
    copied = client.create_model_version(MODEL, version.source, version.run_id, tags=version.tags)
    with pytest.raises(BadInput, match=r"/\d+: is of profile shapes, params\.yaml is profile smoke"):
        call(challenger=str(copied.version))
    client.delete_model_version(MODEL, copied.version)


def test_the_name_of_older_stores_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "infra/profiles/smoke.yaml", "params.yaml")
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        mlflow_client().create_registered_model("video_reward")
        with pytest.raises(BadInput, match=r"reelign-smoke-video-reward: no such .*; video_reward was of all profiles"):
            call()


def test_where_no_stage_has_run_there_is_no_store_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match=r"mlflow\.db: missing"):
        connect()
    assert list(tmp_path.iterdir()) == []


def test_a_champion_that_was_moved_from_elsewhere_is_not_overwritten(here, monkeypatch):
    """Work trees that share a server: the alias moves while this one scores."""
    client = connect()
    register(random_model(here / "elsewhere", scale=5.0))
    number, before = aliases(client, MODEL)["challenger"], aliases(client, MODEL)["champion"]

    def weigh(client, challenger, champion, params, progress, anew):
        client.set_registered_model_alias(MODEL, "champion", "2")
        made = {"model": MODEL, "kind": "reward model", "made": "2026-01-01T00:00:00+00:00"}
        return made | {"verdict": {"promote": True, "reasons": [], "gains": []}}, pd.DataFrame({"a": [1]})

    monkeypatch.setattr(promote_module, "weigh", weigh)
    with pytest.raises(BadInput, match=rf"its champion was {before} and was moved from elsewhere meanwhile: call again"):
        call(challenger=number)
    assert aliases(client, MODEL)["champion"] == "2" and PENDING not in tags(client)
    client.set_registered_model_alias(MODEL, "champion", before)


def test_a_second_promotion_waits_for_the_first(here):
    """The lock ends with the process that holds it, even a killed one."""
    place = here / "mlartifacts/promotion"
    script = f"""
import time
from components.files.locks import sole_writer

with sole_writer({str(place)!r}):
    print(1, flush=True)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert holder.stdout.readline() == b"1\n"
    said = []

    def say(text):
        said.append(text)
        holder.kill()

    with answering():
        promote(connect(), "video_reward", None, None, load_params(), True, None, lambda items, *_: items, say)
    holder.wait()
    assert said[0] == f"waiting for another promotion: process {holder.pid}, -c"
    assert not place.with_name(".promotion.lock").exists()


@pytest.mark.registry
def test_only_the_better_one_is_promoted(tmp_path, in_repository, monkeypatch):
    """Real models of the real stages, by more and fewer steps: the first, a worse, the same again, and a better one."""
    monkeypatch.chdir(make_checkout(tmp_path))
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        train(15)
        client = connect()
        assert call().evidence["verdict"]["promote"], "first"
        assert aliases(client, MODEL) == {"champion": "1"}

        train(2)
        worse = call()
        assert reasons(worse) >= {"loss", "no_gain"}
        assert aliases(client, MODEL) == {"champion": "1", "challenger": "2"}

        train(15)
        same = call()
        assert same.evidence["challenger"]["digest"] == same.evidence["champion"]["digest"]
        assert reasons(same) == {"no_gain"}
        assert aliases(client, MODEL) == {"champion": "1", "challenger": "3"}

        train(40)
        better = call()
        for outcome in (worse, same, better):
            print("\n".join(promote_module.as_lines(outcome.evidence, dry_run=False)))
        assert better.evidence["verdict"] == {"promote": True, "reasons": [], "gains": better.evidence["verdict"]["gains"]}
        assert better.evidence["verdict"]["gains"] and aliases(client, MODEL) == {"champion": "4"}
        figures = json.loads(client.get_model_version(MODEL, "4").tags["reward_bench.figures"])
        assert "test/accuracy_without_ties/Overall" in figures
        assert call().evidence is None


class Dies:
    """A client whose server is killed just before its n-th write."""

    WRITES = ("set_", "delete_", "get_run")  # a run is looked up to write an artifact of it

    def __init__(self, client, server: Server, at: int):
        self.client, self.server, self.at, self.writes = client, server, at, []

    def __getattr__(self, name: str):
        if name.startswith(self.WRITES):
            self.writes.append(name)
            if len(self.writes) == self.at + 1:
                self.server.kill()
        return getattr(self.client, name)


@pytest.mark.registry
def test_a_server_that_dies_at_any_write_leaves_whole_aliases(tmp_path, in_repository, monkeypatch):
    """A real server, killed before each write of a promotion in turn. The verdict is given: scoring is not what breaks."""
    monkeypatch.chdir(make_checkout(tmp_path))
    server = Server(tmp_path)
    server.start()
    verdict = {"promote": True, "reasons": [], "gains": []}

    def weigh(client, challenger, champion, params, progress, anew):
        import pandas as pd

        made = {"model": MODEL, "kind": "reward model", "made": "2026-01-01T00:00:00+00:00", "verdict": verdict}
        return made | {"challenger": challenger.as_json()}, pd.DataFrame({"a": [1]})

    monkeypatch.setattr(promote_module, "weigh", weigh)
    random = random_model(tmp_path / "random")
    with environment(MLFLOW_TRACKING_URI=server.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="20"):
        client, at = connect(), 0
        while True:
            register(random)
            number = aliases(client, MODEL)["challenger"]
            before = aliases(client, MODEL).get("champion")
            dies = Dies(client, server, at)
            try:
                call(dies)
            except Unreachable as error:
                assert server.uri in str(error)
            else:
                break  # the promotion has no more writes
            server.start()
            named = aliases(client, MODEL)
            decided = PENDING in tags(client)
            assert named.get("champion") in ((before, number) if decided else (before,)), dies.writes
            outcome = call()
            assert (outcome.evidence is None) == decided  # finished, or weighed anew
            assert aliases(client, MODEL) == {"champion": number} and PENDING not in tags(client)
            at += 1
        print(f"killed before each of {at} writes: {', '.join(dies.writes)}")
        assert at >= 9
    server.kill()
