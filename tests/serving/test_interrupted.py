"""Deployments and roll-backs that are killed or interrupted at any line, on a faithful fake of Triton's calls: never
an unverified version, never nothing where something served."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from components.cli.main import app
from components.cli.serving import mend
from components.errors import BadInput, disk_error
from components.files.locks import sole_writer
from components.pipeline.stage import folder_digest
from components.serving import deploy as deployment
from components.serving import management
from components.serving.access import make_key
from components.serving.client import score_remote
from components.serving.deploy import Rejected, deploy, rollback
from components.serving.install import install_triton
from components.serving.record import (
    DEPLOYMENT,
    front_version,
    is_consistent,
    loaded_by_config,
    read_deployment,
    versions_there,
)
from components.serving.repository import FRONTS, MODEL, write_repository
from components.serving.server import serving
from tests.running import PATIENCE, heed_interrupts, until
from tests.serving.conftest import PARAMS
from tests.serving.fake_triton import DAMAGED, FakeTriton
from tests.serving.test_deploy import other

URL = "http://127.0.0.1:1"
SAMPLE = [(Path("clip.mp4"), "a red circle")]
# Where a moment may lie: our own code, what copies and removes, and the server's own steps.
TRACED = ("/serving/deploy.py", "/serving/record.py", "/serving/repository.py", "/components/files/atomic.py", "/shutil.py")
TRACED += ("/serving/fake_triton.py", "/serving/management.py", "/contextlib.py", "/components/runtime/termination.py")
MOMENTS = 20


@pytest.fixture(scope="module")
def models(model_folder, tmp_path_factory) -> dict[str, Path]:
    """Model folders: of versions 1 and 2, a good third, one that scores otherwise than offline, one that cannot load."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        name: other(model_folder, folder / name, mean) for mean, name in enumerate(("second", "good", "bad", "damaged"), 1)
    }
    (made["damaged"] / DAMAGED).touch()
    return {"first": model_folder, **made}


@pytest.fixture
def prepared(models, tmp_path, monkeypatch) -> Path:
    """A repository with its fake server: version 2 serves, version 1 served before."""
    live = tmp_path / "live"
    write_repository(live, models["first"], PARAMS)
    make_key(live)
    for name in ("repository", "state", "verified"):
        monkeypatch.setattr(FakeTriton, name, {"repository": live}.get(name, tmp_path / name), raising=False)
    (tmp_path / "state").write_text(json.dumps({MODEL: [1], **dict.fromkeys(FRONTS, 1)}))
    (tmp_path / "verified").write_text("1\n")
    monkeypatch.setattr(management.triton, "InferenceServerClient", FakeTriton)
    monkeypatch.setattr(deployment, "compare", compare)
    assert deploy(URL, live, models["second"], SAMPLE, PARAMS) == 2
    return live


def compare(client, model, sample, params, old, new, max_latency_ratio) -> None:
    """In place of the scores: the model "bad" has others; what passes is noted as verified."""
    assert new in client.loaded()[MODEL]
    if model.name == "bad":
        raise Rejected("served otherwise than offline")
    with open(FakeTriton.verified, "a") as stream:
        stream.write(f"{new}\n")


def in_child(call, at: int | None = None, how: signal.Signals = signal.SIGKILL) -> tuple[int, int]:
    """Run `call` in a new process and send it a signal at its `at`-th line; returns (exit status, lines in all)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        count, code = 0, 1

        def line(frame, event, arg):
            nonlocal count
            if event == "line":
                count += 1
                if count == at:
                    os.kill(os.getpid(), how)
            return line

        def begin(frame, event, arg):
            return line if frame.f_code.co_filename.endswith(TRACED) else None

        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            sys.settrace(begin)
            call()
            code = 0
        except (KeyboardInterrupt, SystemExit, Rejected):
            code = 3
        finally:
            sys.settrace(None)
            os.write(write, str(count).encode())
            os._exit(code)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    with open(read) as stream:
        text = stream.read()
    return status, int(text or 0)


def fresh(prepared: Path, folder: Path):
    """A copy of the prepared repository and server, put where the fake looks."""
    shutil.rmtree(prepared)
    shutil.copytree(folder / "live", prepared)
    for name in ("state", "verified"):
        shutil.copyfile(folder / name, prepared.parent / name)


@pytest.fixture
def start(prepared, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(prepared, kept / "live")
    for name in ("state", "verified"):
        shutil.copyfile(tmp_path / name, kept / name)
    return lambda: fresh(prepared, kept)


def moments(call, start, kind: str, count: int = MOMENTS) -> list[int]:
    start()
    _, lines = in_child(call)
    assert lines > 100
    start()
    return sorted(random.Random(kind).sample(range(1, lines + 1), count))


def serves(live: Path) -> set[int]:
    """Versions that clients are sent to, on the server; all of them loaded and verified."""
    FakeTriton().check()
    loaded = FakeTriton().loaded()
    return {loaded[front] for front in FRONTS}


def starts_again(live: Path) -> None:
    """A server that starts now, by itself, has what it needs, and nothing unverified."""
    verified = {*map(int, FakeTriton.verified.read_text().split())}
    named = {*loaded_by_config(live)}
    assert {front_version(live, name) for name in FRONTS} <= named <= verified & {*versions_there(live)}
    FakeTriton()._versions(None)


def settled(live: Path, version: int) -> None:
    """All is in order, on the server and on disk, and nothing is left over."""
    record = read_deployment(live)
    assert serves(live) == {version} == {record.serving} and is_consistent(live, record)
    assert FakeTriton().loaded()[MODEL] == loaded_by_config(live)
    assert versions_there(live) == sorted(record.verified)
    assert not [*live.rglob("*.partial")] or versions_there(live)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["good", "bad", "damaged"])
def test_an_interrupted_deployment_serves_what_was_verified(prepared, models, start, name, how):
    def call():
        deploy(URL, prepared, models[name], SAMPLE, PARAMS)

    count = MOMENTS if name == "good" and how is not signal.SIGTERM else MOMENTS // 3
    for number, at in enumerate(moments(call, start, f"{name} {how}", count)):
        start()
        in_child(call, at, how)
        assert serves(prepared) <= {2, 3}, "what served before, or what was verified"
        starts_again(prepared)
        if how is signal.SIGINT:
            settled(prepared, read_deployment(prepared).serving)
        was = read_deployment(prepared)
        assert (was.serving, was.before) in ([(2, 1), (3, 2)] if name == "good" else [(2, 1)])
        after = number % 3
        if after == 0:
            assert rollback(URL, prepared, PARAMS) == was.before
            settled(prepared, was.before)
        elif after == 1:
            deploy(URL, prepared, models["first"], SAMPLE, PARAMS)
            settled(prepared, read_deployment(prepared).serving)
            assert read_deployment(prepared).before == was.serving
        else:
            mend(prepared)
            assert is_consistent(prepared, read_deployment(prepared))
            starts_again(prepared)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_rollback_is_finished_by_the_next(prepared, models, start, how):
    def call():
        rollback(URL, prepared, PARAMS)

    for at in moments(call, start, f"rollback {how}"):
        start()
        in_child(call, at, how)
        assert serves(prepared) <= {1, 2}
        starts_again(prepared)
        done = (
            read_deployment(prepared).serving == 1
            and serves(prepared) == {1}
            and is_consistent(prepared, read_deployment(prepared))
        )
        if done:
            with pytest.raises(BadInput, match="no roll-back"):
                rollback(URL, prepared, PARAMS)
        else:
            assert rollback(URL, prepared, PARAMS) == 1
        settled(prepared, 1)


def test_a_rollback_goes_to_what_served_before_and_nowhere_else(prepared, models):
    """Not to a version that was tried and killed, nor to one of a lower number that never served before this one."""
    _, lines = in_child(lambda: deploy(URL, prepared, models["bad"], SAMPLE, PARAMS))
    in_child(lambda: deploy(URL, prepared, models["damaged"], SAMPLE, PARAMS), lines // 2)
    assert rollback(URL, prepared, PARAMS) == 1
    with pytest.raises(BadInput, match="version 1 serves, and none before it is on record"):
        rollback(URL, prepared, PARAMS)
    assert deploy(URL, prepared, models["good"], SAMPLE, PARAMS) == 3
    assert rollback(URL, prepared, PARAMS) == 1, "version 2 has the lower number, but 1 served"
    assert read_deployment(prepared).rolled_back == folder_digest(models["good"])


def test_a_repository_of_before_the_record(prepared, models):
    """Without a record, a version that is loaded but younger than the serving one was never verified."""
    (prepared / DEPLOYMENT).unlink()
    assert read_deployment(prepared).before == 1
    text = (prepared / MODEL / "config.pbtxt").read_text()
    shutil.copytree(prepared / MODEL / "2", prepared / MODEL / "3")
    (prepared / MODEL / "config.pbtxt").write_text(text.replace("versions: [1, 2]", "versions: [2, 3]"))
    record = read_deployment(prepared)
    assert (record.serving, record.before, record.verified) == (2, None, [2])
    assert deploy(URL, prepared, models["good"], SAMPLE, PARAMS) == 3
    settled(prepared, 3)


def test_one_command_at_a_time(prepared, models):
    """The other is named, and a dead one's lock is free."""
    held, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with sole_writer(prepared / DEPLOYMENT):
            os.write(held[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(held[0], 1)
    for call in (
        lambda: deploy(URL, prepared, models["good"], SAMPLE, PARAMS),
        lambda: rollback(URL, prepared, PARAMS),
        lambda: deployment.serves_already(URL, prepared, models["good"], PARAMS),
    ):
        with pytest.raises(BadInput, match=rf"is being written by process {pid}, "):
            call()
    settled(prepared, 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert deploy(URL, prepared, models["good"], SAMPLE, PARAMS) == 3


def test_a_full_disk_leaves_nothing_and_is_code_4(prepared, models, capfd):
    """A limit on the size of files stands in for the disk."""

    def call():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            deploy(URL, prepared, models["good"], SAMPLE, PARAMS)
        except OSError as error:
            assert disk_error(error)[1] == 4, error
            os._exit(4)

    status, _ = in_child(call)
    assert os.waitstatus_to_exitcode(status) == 4, capfd.readouterr().err
    settled(prepared, 2)
    assert versions_there(prepared) == [1, 2]


def test_a_switch_that_fails_halfway_leads_clients_back(prepared, models, tmp_path, monkeypatch):
    load = FakeTriton.load_model

    def failing(self, name, headers=None, config=None):
        if name == [*FRONTS][1] and front_version(prepared, name) == 3:
            raise InferenceServerException("no\nway")
        load(self, name, headers, config)

    monkeypatch.setattr(FakeTriton, "load_model", failing)
    command = ["deploy", URL, "--live", str(prepared), "--model", str(models["good"]), "--csv", str(clips_csv(tmp_path))]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1 and told.stderr.count("\n") == 1, told.exception
    assert f"error: version 3 of {models['good']}: clients cannot be sent to it: no way" in told.stderr
    settled(prepared, 2)
    assert versions_there(prepared) == [1, 2] and read_deployment(prepared).before == 1


def test_a_roll_back_that_the_server_refuses_is_one_line(prepared, monkeypatch):
    def failing(*_, **__):
        raise InferenceServerException("no\nway")

    with monkeypatch.context() as patch:
        patch.setattr(FakeTriton, "load_model", failing)
        told = CliRunner().invoke(app, ["deploy", URL, "--live", str(prepared), "--rollback"])
    assert told.exit_code == 1 and told.stderr == f"error: {URL} refuses a call: no way\n"
    assert rollback(URL, prepared, PARAMS) == 1, "the next call finishes it"
    settled(prepared, 1)


def test_a_load_that_a_killed_command_began_is_waited_for(prepared, models, monkeypatch):
    """The load continues in the server. A front loaded meanwhile finds no version; a second load waits for it."""
    under_way, load = {MODEL: [2, 3]}, FakeTriton.load_model

    def loading(self, name, headers=None, config=None):
        if under_way:
            self._keep(self.loaded() | under_way)
            under_way.clear()
            if name != MODEL:
                raise InferenceServerException(f"{name} depends on a version that is not loaded")
        load(self, name, headers, config)

    shutil.copytree(prepared / MODEL / "2", prepared / MODEL / "3")
    monkeypatch.setattr(FakeTriton, "load_model", loading)
    assert rollback(URL, prepared, PARAMS) == 1
    settled(prepared, 1)


def test_a_clip_that_is_missing_is_found_before_anything_is_loaded(prepared, models, tmp_path):
    csv, before = clips_csv(tmp_path), (tmp_path / "state").read_bytes()
    (tmp_path / "clip.mp4").unlink()
    told = CliRunner().invoke(
        app, ["deploy", URL, "--live", str(prepared), "--model", str(models["good"]), "--csv", str(csv)]
    )
    assert isinstance(told.exception, BadInput)
    assert str(told.exception) == f"{csv}, key 'path': no such video: {tmp_path / 'clip.mp4'}"
    assert versions_there(prepared) == [1, 2] and (tmp_path / "state").read_bytes() == before


def clips_csv(folder: Path) -> Path:
    (folder / "clip.mp4").write_bytes(b"compared by the fake")
    (folder / "sample.csv").write_text("path,prompt\nclip.mp4,a red circle\n")
    return folder / "sample.csv"


def test_old_versions_go_but_none_that_is_needed(prepared, models):
    for number, name in enumerate(["good", "first", "second", "good"], start=3):
        assert deploy(URL, prepared, models[name], SAMPLE, PARAMS, keep=3) == number
        settled(prepared, number)
    assert versions_there(prepared) == read_deployment(prepared).verified == [4, 5, 6]
    assert rollback(URL, prepared, PARAMS) == 5
    assert deploy(URL, prepared, models["first"], SAMPLE, PARAMS, keep=2) == 7
    assert versions_there(prepared) == [5, 7] and read_deployment(prepared).before == 5
    settled(prepared, 7)


def held_by(live: Path) -> str:
    """Whose work is under way on a repository, if anybody's."""
    lock = live / f".{DEPLOYMENT}.lock"
    return lock.read_text() if lock.exists() else ""


@pytest.mark.serving
def test_interrupted_on_a_real_server(models, videos, tmp_path):
    """The command, killed or interrupted at moments of its work; then a roll-back, another deployment, and a server that is
    started again."""
    install_triton()
    live, log, printed = tmp_path / "live", tmp_path / "triton.log", tmp_path / "printed.txt"
    write_repository(live, models["first"], PARAMS)
    (tmp_path / "sample.csv").write_text("path,prompt\n" + "".join(f"{video},a red circle\n" for video in videos[:2]))
    digests = {folder_digest(models[name]) for name in ("first", "second")}

    def command(url: str, name: str) -> subprocess.Popen:
        words = [
            "deploy",
            url,
            "--live",
            live,
            "--model",
            models[name],
            "--csv",
            tmp_path / "sample.csv",
            "--max-latency-ratio",
            "50",
        ]
        command = [sys.executable, "-m", "components.cli.main", *words]
        with printed.open("a") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts)

    with serving(live, log) as server:
        url = f"http://{server.http}"

        def answers() -> str:
            [score] = score_remote(url, [(videos[0], "a red circle")])
            return score.model_version

        assert command(url, "second").wait(5 * PATIENCE) == 0
        # What a killed one has set going on the server is still there for a while: the lock tells whose work it is.
        for how, moment in (
            (signal.SIGINT, lambda: server.backends("3")),
            (signal.SIGKILL, lambda: 3 in versions_there(live)),
            (signal.SIGKILL, lambda: server.backends("3")),
        ):
            process = command(url, "good")

            def come(process=process, moment=moment) -> bool:
                assert process.poll() is None, printed.read_text()
                return f"process {process.pid}, " in held_by(live) and moment()

            until(come, f"the moment of {how.name}", 5 * PATIENCE)
            process.send_signal(how)
            assert process.wait(5 * PATIENCE) != 0
            assert answers() in digests
            record = read_deployment(live)
            assert (record.serving, record.before) == (2, 1) and loaded_by_config(live) == [1, 2]
            if how is signal.SIGINT:
                assert versions_there(live) == [1, 2]
        assert rollback(url, live, PARAMS) == 1
        assert answers() == folder_digest(models["first"]) and versions_there(live) == [1, 2]
        process = command(url, "damaged")
        until(lambda: 3 in versions_there(live), "a third version", 5 * PATIENCE)
        process.kill()
        process.wait()
    assert "Traceback" not in printed.read_text()
    mend(live)
    with serving(live, log) as server:
        [score] = score_remote(server.http, [(videos[0], "a red circle")])
        assert score.model_version == folder_digest(models["first"])
