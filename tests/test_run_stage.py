"""`reelign run-stage` as tasks use it: two machines with one remote, a kill, a second try, inputs that are lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from components.errors import BadInput
from components.pipeline.run_stage import run_stage, run_with
from tests.planted import open_to_all

REPOSITORY = Path(__file__).parents[1]
STAGE = """
import os, pathlib, sys, time
name = sys.argv[1]
text = "".join(pathlib.Path(path).read_text() for path in sys.argv[3:])
state = pathlib.Path(".reelign/state.txt")
with open(os.environ["RAN"], "a") as ran:
    ran.write(name + (" goes on" if state.exists() else "") + "\\n")
state.parent.mkdir(exist_ok=True)
state.write_text("half")
if pathlib.Path(os.environ["RAN"]).with_name(f"hold-{name}").exists():
    time.sleep(600)
while pathlib.Path(os.environ["RAN"]).with_name(f"pause-{name}").exists():
    time.sleep(0.1)
if pathlib.Path(os.environ["RAN"]).with_name(f"break-{name}").exists():
    sys.exit("error: labels.csv, row 7: label is C")
pathlib.Path(sys.argv[2]).parent.mkdir(exist_ok=True)
pathlib.Path(sys.argv[2]).write_text(text + name)
state.unlink()
"""
GRAPH = """
stages:
  first:
    {cmd: python s.py first made/first.txt input.txt, deps: [input.txt, s.py], params: [seed, rate], outs: [made/first.txt]}
  second: {cmd: python s.py second made/second.txt made/first.txt, deps: [made/first.txt, s.py], outs: [made/second.txt]}
  third: {cmd: python s.py third made/third.txt made/second.txt, deps: [made/second.txt, s.py], outs: [made/third.txt]}
"""


class Machine:
    """A clone of a project of three stages, with nothing in its cache."""

    def __init__(self, folder: Path, project: Path, remote: str | None):
        self.folder, self.ran = folder, project.with_name("ran")
        command(folder.parent, "git", "clone", "--quiet", project, folder)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAN": str(self.ran), "PATH": path}
        if remote:
            self.environ["REELIGN_REMOTE"] = remote

    def start(self, *words: str, command: str = "run-stage", **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "components.cli.main", command, *words],
            cwd=self.folder, env=self.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str, code: int = 0, command: str = "run-stage", **environ: str) -> str:
        process = self.start(*words, command=command, **environ)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        return said

    def made(self, name: str) -> str:
        return (self.folder / f".reelign/trees/{name}/made/{name}.txt").read_text()


def command(folder: Path, *words) -> None:
    subprocess.run([str(word) for word in words], cwd=folder, check=True)


def times(project: Path, name: str) -> int:
    ran = project.with_name("ran")
    return sum(line.split()[0] == name for line in ran.read_text().splitlines()) if ran.exists() else 0


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    params = "seed: 1\nrate: 1.0e-9\n"
    for name, text in {"dvc.yaml": GRAPH, "s.py": STAGE, "input.txt": "in ", "params.yaml": params}.items():
        (folder / name).write_text(text)
    (folder / "infra/profiles").mkdir(parents=True)
    (folder / "infra/profiles/other.yaml").write_text("seed: 2\nrate: 1.0e-9\n")
    command(folder, "git", "init", "--quiet")
    command(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    (folder / ".gitignore").write_text("/made/\n/.reelign/\n/remote/\n")
    command(folder, "git", "add", "-A")
    command(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a project")
    return folder


def test_a_second_machine_repeats_nothing(project, tmp_path):
    """Param `rate` is written as 1e-09 into dvc.lock: a number, which PyYAML takes for a text."""
    one, two = (Machine(tmp_path / name, project, str(tmp_path / "remote")) for name in ("one", "two"))
    one.run("first")
    one.run("second")
    assert "finished" in two.run("third")
    assert two.made("third") == "in firstsecondthird"
    assert not (two.folder / ".reelign/trees/third/made/first.txt").exists(), "only what the stage reads is fetched"
    assert "was run before" in two.run("first") and two.made("first") == "in first"
    assert "was run before" in one.run("third")
    assert [times(project, name) for name in ("first", "second", "third")] == [1, 1, 1]
    shutil.rmtree(one.folder / ".dvc/cache")
    shutil.rmtree(one.folder / ".reelign")
    assert "was run before" in one.run("second") and times(project, "second") == 1


def test_what_did_not_run_is_not_run_for_another(project, tmp_path):
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    said = machine.run("third", code=2)
    assert "error: stage first: not run yet with these inputs and params" in said and "Traceback" not in said
    assert times(project, "first") == 0
    machine.run("first")
    machine.run("second")
    shutil.rmtree(tmp_path / "remote/files")
    two = Machine(tmp_path / "two", project, str(tmp_path / "remote"))
    said = two.run("third", code=2)
    assert "error: made/second.txt: neither in the cache nor in" in said and "run stage second again" in said
    assert (times(project, "second"), times(project, "third")) == (1, 0)


def test_without_a_remote_stages_share_the_cache_of_the_checkout(project, tmp_path):
    machine = Machine(tmp_path / "one", project, None)
    machine.run("first")
    machine.run("second")
    assert machine.made("second") == "in firstsecond"
    assert "was run before" in machine.run("second") and times(project, "second") == 1
    assert open_to_all(machine.folder) == [], "nobody else can change a stage's state"


def test_force_is_seen_by_the_stages_after_it_in_the_same_dag_run(project, tmp_path):
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    for name in ("first", "second"):
        machine.run(name, AIRFLOW_CTX_DAG_RUN_ID="manual__1")
    machine.run("first", REELIGN_FORCE="True", AIRFLOW_CTX_DAG_RUN_ID="scheduled__2026-01-01T00:00:00+00:00")
    assert times(project, "first") == 2
    machine.run("second", AIRFLOW_CTX_DAG_RUN_ID="scheduled__2026-01-01T00:00:00+00:00")
    assert times(project, "second") == 1, "the same bytes came of it"
    records = sorted(path.parent.name for path in (tmp_path / "remote").glob("**/executions/*/first.yaml"))
    assert records == ["manual__1", "scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"]


def test_the_trees_of_a_moved_checkout_are_its_own(project, tmp_path):
    """A tree borrows git's objects of the checkout: of where it is now."""
    machine = Machine(tmp_path / "one", project, None)
    machine.run("first")
    machine.folder = machine.folder.rename(tmp_path / "moved")
    (machine.folder / "input.txt").write_text("out ")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    command(machine.folder, "git", *author, "commit", "--quiet", "-am", "another input")
    machine.run("first")
    assert machine.made("first") == "out first"


def test_profile_and_commit(project, tmp_path):
    machine = Machine(tmp_path / "one", project, None)
    machine.run("first")
    machine.run("first", "--profile", "other")
    assert times(project, "first") == 2, "another seed"
    assert "no such profile" in machine.run("first", "--profile", "none", code=2)
    (machine.folder / "mine.yaml").write_text("seed: 3\nrate: 1.0e-9\n")
    for path in (f"{machine.folder}/mine", "../../../../mine", "other/../other", ".other"):
        said = machine.run("first", code=2, REELIGN_PROFILE=path)
        assert said == f"error: --profile: '{path}' is no name of a profile: letters, digits, '.', '_', '-'\n"
    assert "git has no commit 'abcd'" in machine.run("first", "--commit", "abcd", code=2)
    assert "no such stage; there are first, second, third" in machine.run("fourth", code=2)


def test_killed_and_tried_again_it_goes_on_from_its_state(project, tmp_path):
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    hold = project.with_name("hold-first")
    hold.touch()
    process = machine.start("first")
    deadline = time.monotonic() + 120
    while times(project, "first") == 0:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)  # the stage itself lives on
    process.wait()
    hold.unlink()
    assert "of an earlier task still runs" in machine.run("first")
    assert project.with_name("ran").read_text().splitlines() == ["first", "first goes on"]
    assert machine.made("first") == "in first"


def test_a_lock_that_a_killed_task_left_cut_short_is_no_obstacle(project, tmp_path):
    """DVC writes it in place, and git does not have it."""
    machine = Machine(tmp_path / "one", project, None)
    machine.run("first")
    lock = machine.folder / ".reelign/trees/first/dvc.lock"
    whole = lock.read_text()
    for seed, left in enumerate(("", whole[: whole.index("outs")], whole[:-3]), start=2):
        lock.write_text(left)
        (machine.folder / "params.yaml").write_text(f"seed: {seed}\nrate: 1.0e-9\n")
        said = machine.run("first")
        assert said.count("dvc.lock was cut short by a kill") == 1 and times(project, "first") == seed, said


def test_a_run_of_which_a_killed_task_kept_only_the_folder_is_run_again(project, tmp_path):
    """DVC itself fails with such a folder in its run cache (components/pipeline/lock.py)."""
    machine = Machine(tmp_path / "one", project, None)
    machine.run("first")
    (kept,) = (machine.folder / ".dvc/cache/runs").glob("*/*/*")
    for left in (b"", kept.read_bytes()[:20], None):
        kept.unlink()
        if left is not None:
            kept.with_name(".x.tmp").write_bytes(left)
        (machine.folder / ".reelign/trees/first/dvc.lock").unlink()
        assert "finished" in machine.run("first")
        assert [file.name for file in kept.parent.iterdir()] == [kept.name]


def test_a_failed_stage_says_why_and_passes_its_exit_code_on(project, tmp_path):
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    project.with_name("break-first").touch()
    said = machine.run("first", code=1)
    assert "error: labels.csv, row 7: label is C" in said and "Traceback" not in said
    assert not (tmp_path / "remote").exists()
    project.with_name("break-first").unlink()
    machine.run("first")


def test_two_tasks_of_a_stage_take_turns_and_tasks_of_others_do_not_wait(project, tmp_path):
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    machine.run("first")
    tasks = [machine.start(name) for name in ("second", "second", "first", "first")]
    said = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 4, said
    assert (times(project, "first"), times(project, "second")) == (1, 1)


def test_a_command_runs_where_a_stage_does(project, tmp_path):
    """On another machine; its inputs and what it made before are there, options and exit code are the command's."""
    one, two = (Machine(tmp_path / name, project, str(tmp_path / "remote")) for name in ("one", "two"))
    one.run("first")
    score = ("score", "--csv", "made/first.txt")
    there = "made/{}.txt, row 1, key 'path': missing column"
    assert there.format("first") in two.run("second", *score, command="run-with", code=2)
    assert "made/second.txt: missing" in two.run("second", "score", "--csv", "made/second.txt", command="run-with", code=2)
    one.run("second")
    said = two.run("second", "score", "--csv", "made/second.txt", command="run-with", code=2)
    assert there.format("second") in said
    said = two.run("--profile", "other", "first", "profile", "other", "--force", command="run-with", code=2)
    assert "infra/profiles/other.yaml, row 2, key 'rate': unknown key" in said
    assert (two.folder / "params.yaml").read_text() == "seed: 1\nrate: 1.0e-9\n", "the tree's"
    assert "stage first: not run yet" in two.run("--profile", "other", "second", *score, command="run-with", code=2)
    assert "no such stage" in two.run("fourth", *score, command="run-with", code=2)


def test_a_remote_that_is_away_is_named(project, tmp_path):
    machine = Machine(tmp_path / "one", project, "s3://bucket/dvc")
    away = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    said = machine.run("first", code=4, AWS_DEFAULT_REGION="us-east-1", **away)
    assert "error: s3://bucket/dvc: " in said and "Traceback" not in said


@pytest.fixture
def s3(tmp_path):
    """A real server with the bucket `reelign`, and the environment that leads to it."""
    from tests.curation.s3_server import ENVIRONMENT, Server

    server = Server(tmp_path / "server")
    server.start()
    try:
        server.client().create_bucket(Bucket="reelign")
        yield server, ENVIRONMENT | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.port}"}
    finally:
        server.kill()


@pytest.mark.s3
def test_a_second_machine_repeats_nothing_on_s3(project, tmp_path, s3):
    _, environ = s3
    one, two = (Machine(tmp_path / name, project, "s3://reelign/dvc") for name in ("one", "two"))
    one.run("first", **environ)
    one.run("second", **environ)
    assert "was run before" in two.run("first", **environ)
    assert "finished" in two.run("third", **environ)
    assert two.made("third") == "in firstsecondthird"
    assert [times(project, name) for name in ("first", "second", "third")] == [1, 1, 1]


@pytest.mark.s3
def test_a_server_that_dies_while_a_stage_runs_is_named(project, tmp_path, s3):
    server, environ = s3
    machine = Machine(tmp_path / "one", project, "s3://reelign/dvc")
    pause = project.with_name("pause-first")
    pause.touch()
    process = machine.start("first", **environ)
    deadline = time.monotonic() + 120
    while times(project, "first") == 0:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    server.kill()
    pause.unlink()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 4 and "error: s3://reelign/dvc: " in said and "Traceback" not in said, said


def test_a_commit_is_given_by_its_hash(project, tmp_path):
    """A name would be another commit for the next task of the run; and a branch may look like a hash."""
    machine = Machine(tmp_path / "one", project, None)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.strip()
    command(machine.folder, "git", "branch", "cafe")
    machine.run("first", "--commit", head[:9])
    machine.run("first", REELIGN_COMMIT=head)
    assert times(project, "first") == 1
    for name in ("HEAD", "HEAD~0", "main", "--all"):
        said = machine.run("first", code=2, REELIGN_COMMIT=name)
        assert f"'{name}' is no hash of a commit" in said and said.count("\n") == 1
    assert "git has no commit 'cafe'" in machine.run("first", "--commit", "cafe", code=2)


def test_passwords_of_addresses_are_printed_nowhere(project, tmp_path):
    """Other accounts cannot read the remote: DVC has it in a file that only this user can read."""
    sentinel = "hush-hush"
    secret = {"MLFLOW_TRACKING_URI": f"http://me:{sentinel}@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for remote in (f"http://me:{sentinel}@127.0.0.1:9/dvc", f"s3://me:{sentinel}@bucket/dvc", f"{tmp_path}/remote"):
        machine = Machine(tmp_path / f"machine{len(remote)}", project, remote)
        away = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        process = machine.start("first", AWS_DEFAULT_REGION="us-east-1", **away, **secret)
        said, _ = process.communicate(timeout=300)
        assert sentinel not in said, said
        assert process.returncode in (0, 2, 4), said
        config = machine.folder / ".reelign/trees/first/.dvc/config.local"
        assert config.stat().st_mode & 0o077 == 0 and remote in config.read_text()
    for words in (("doctor",), ("lineage", "data/pairs"), ("promote",), ("score", f"http://me:{sentinel}@host/clip.mp4")):
        done = subprocess.run(
            [sys.executable, "-m", "components.cli.main", *words], cwd=REPOSITORY, env=machine.environ | secret,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert sentinel not in done.stdout + done.stderr, words
        assert done.returncode in (1, 2, 4), done.stderr


def test_what_is_no_name_of_a_stage_is_no_path(project, monkeypatch):
    """A lock is opened and a tree made by a stage's name: neither may be outside the trees' folder."""
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "made").mkdir()
    (project / "made/kept.txt").write_text("kept")
    (project / "input.txt").write_text("changed here")
    before = files_of(project)
    monkeypatch.chdir(project)
    for name in ("../../dvc", "../../made", "../..", "first/../../..", "/etc", ""):
        for commit, profile in ((None, None), ("0123456789", None), (None, "other")):
            for call in (partial(run_stage, force=False), partial(run_with, words=["--help"])):
                with pytest.raises(BadInput, match=r"dvc.yaml, key '.*': no (such|name of a) stage"):
                    call(name=name, commit=commit, profile=profile)
    assert files_of(project) == before


def test_a_stage_that_is_not_there_makes_no_tree(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(BadInput, match="no such stage; there are first, second, third"):
        run_stage("forth", None, None, False)
    assert not (project / ".reelign").exists()


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
