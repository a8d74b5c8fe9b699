"""A round trip through a real Label Studio server: what people answer there is what comes back, un-blinded."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from components.annotation import studio
from components.annotation.server import command, environment
from components.annotation.tasks import read_key
from components.cli.main import app
from components.errors import NO, BadInput
from components.preferences.agreement import awaits, decide
from components.preferences.schema import group_by_pair, read_annotations
from components.serving.ports import free_ports
from tests.annotation.browser import browser
from tests.annotation.conftest import PROMPTS, QUESTIONS
from tests.evaluation.fixtures import make_samples

pytestmark = pytest.mark.labelstudio

PASSWORD = "a long enough password"
LEAD, ANNOTATORS, REVIEWER = (
    "lead@example.org",
    ("one@example.org", "two@example.org", "three@example.org"),
    "boss@example.org",
)
ANSWERS = {1: "A", 0: "tie", -1: "B"}


@dataclass
class Server:
    """A running Label Studio; people log in as its pages make them."""

    url: str
    folder: Path

    def enter(self, page: str, email: str) -> requests.Session:
        """A session of somebody who filled in the form of `page`: log-in, or sign-up by invitation."""
        session, answer = self.fill_in(page, email)
        assert answer.status_code == 302, answer.text
        return session

    def fill_in(self, page: str, email: str) -> tuple[requests.Session, requests.Response]:
        session = requests.Session()
        session.get(self.url + page)
        form = {"email": email, "password": PASSWORD, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        return session, session.post(self.url + page, data=form, headers={"Referer": self.url}, allow_redirects=False)

    def token(self, session: requests.Session) -> str:
        """A new personal access token."""
        headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": self.url}
        answer = session.post(f"{self.url}/api/token/", headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    def invitation(self, session: requests.Session) -> str:
        return session.get(f"{self.url}/api/invite").json()["invite_url"]


@pytest.fixture
def server(exported, monkeypatch):
    with started(exported.folder, monkeypatch) as found:
        yield found


@contextlib.contextmanager
def started(folder: Path, monkeypatch) -> Iterator[Server]:
    """Label Studio that `annotate serve` would start for the folder, on a free port, with an owner, whose token is set."""
    (port,) = free_ports(1)
    monkeypatch.setenv("LABEL_STUDIO_USERNAME", LEAD)
    monkeypatch.setenv("LABEL_STUDIO_PASSWORD", PASSWORD)
    log = folder.parent / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command(port), env=environment(folder), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url, process, log)
        found = Server(url, folder)
        monkeypatch.setenv(studio.TOKEN, found.token(found.enter("/user/login/", LEAD)))
        yield found
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_until_up(url: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 600  # the first start makes the data base, in hundreds of steps
    while True:
        try:
            if requests.get(f"{url}/health", timeout=10).status_code == 200:
                return
        except requests.RequestException:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.5)


def run(*arguments: object, area: str = "annotate") -> str:
    outcome = CliRunner().invoke(app, [area, *map(str, arguments)])
    assert outcome.exception is None, outcome.exception
    return outcome.output


def as_results(answers: dict[str, str]) -> list[dict]:
    return [
        {"from_name": name, "to_name": "video_A", "type": "choices", "value": {"choices": [said]}}
        for name, said in answers.items()
    ]


def test_round_trip(server, clips, exported, tmp_path, monkeypatch):
    url, folder, lead_token = server.url, exported.folder, os.environ[studio.TOKEN]
    with pytest.raises(BadInput, match="no project has the mark reelign-"):
        studio.pull(folder, url)
    assert "6 tasks uploaded" in run("push", folder, "--url", url)
    assert "0 tasks uploaded" in run("push", folder, "--url", url)
    clips.add(PROMPTS[0], "delta", (200, 10, 10))  # the data grows: three more pairs
    assert "9 tasks, 3 of them new" in run("export", "--clips", clips.csv, "--videos", clips.videos, "--out", folder)
    assert "3 tasks uploaded" in run("push", folder, "--url", url)
    key = {task.task: task for task in read_key(folder)}
    lead = server.enter("/user/login/", LEAD)
    assert server.fill_in("/user/signup/", "stranger@example.org")[1].status_code == 403
    (project,) = lead.get(f"{url}/api/projects/").json()["results"]
    tasks = studio.Studio(url).tasks(project["id"])
    assert sorted(task["data"]["task"] for task in tasks) == sorted(key)
    check_videos(server, lead, tasks, key)

    # What people think of the clips themselves, sides apart: 1 where the one is better whose path sorts first.
    draw = random.Random(5)
    think = {
        (name, task): {question: draw.choice([1, 0, -1]) for question in QUESTIONS} for name in ANNOTATORS for task in key
    }
    apart, skipped = sorted(key)[:2]
    for name, label in zip(ANNOTATORS, (1, 0, -1), strict=True):
        think[name, apart]["MQ"] = label
    think[REVIEWER, apart] = {question: 1 for question in QUESTIONS}
    del think[ANNOTATORS[2], skipped]
    numbers = {}
    for name in (*ANNOTATORS, REVIEWER):
        monkeypatch.setenv(studio.TOKEN, server.token(server.enter(server.invitation(lead), name)))
        numbers[name] = answer_all(url, name, tasks, key, think)
        assert numbers[name] is not None

    monkeypatch.setenv(studio.TOKEN, "f" * 40)
    with pytest.raises(BadInput, match=r"LABEL_STUDIO_API_KEY: .* does not accept it"):
        studio.push(folder, url, "Pairs")
    headers = {"X-CSRFToken": lead.cookies["csrftoken"], "Referer": url}
    allow = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    assert lead.post(f"{url}/api/jwt/settings", json=allow, headers=headers).ok
    monkeypatch.setenv(studio.TOKEN, lead.get(f"{url}/api/current-user/token").json()["token"])  # the older kind
    assert len(studio.pull(folder, url)) == 9
    monkeypatch.setenv(studio.TOKEN, lead_token)
    export, labels = tmp_path / "export.json", tmp_path / "annotations.csv"
    assert "9 tasks, 28 annotations" in run("pull", folder, "--url", url, "--out", export)
    said = run("import", export, "--folder", folder, "--out", labels, "--reviewer", REVIEWER)
    assert "27 annotations; left out: 1 drafts, never submitted, 1 skipped" in said
    differ = {
        task
        for task in key.keys() - {apart, skipped}
        for question in QUESTIONS
        if len({think[name, task][question] for name in ANNOTATORS}) == 3
    }
    assert differ, "the draw should leave something to the reviewer"
    assert f"{8 - len(differ)} pairs are ready, 1 await annotators, {len(differ)} a reviewer" in said

    by_hand, collected = tmp_path / "ready.csv", tmp_path / "collected.csv"
    run("import", export, "--folder", folder, "--out", by_hand, "--reviewer", REVIEWER, "--ready")
    words = ["collect", folder, "--url", url, "--out", collected, "--reviewer", REVIEWER]
    assert CliRunner().invoke(app, ["annotate", *map(str, words)]).exit_code == NO and not collected.exists()
    run(*words, "--ready", f"{(8 - len(differ)) / 9:.3f}")
    assert collected.read_bytes() == by_hand.read_bytes()

    annotations = read_annotations(labels)
    people = {str(number): name for name, number in numbers.items()} | {"reviewer": REVIEWER}
    came_back = {}
    models = {path: model for path, _, model in clips.rows}
    for view in annotations:
        (task,) = [task.task for task in key.values() if task.pair == view.pair]
        came_back[people[view.annotator], task] = {
            question: sign(view.path_A, view.path_B) * view.labels[question] for question in QUESTIONS
        }
        assert (view.model_A, view.model_B) == (models[view.path_A], models[view.path_B])
    assert came_back == think
    views = {views[0].pair: views for views in group_by_pair(labels, annotations)[0]}
    assert awaits(views[key[skipped].pair]) == "annotators"
    decided, by = decide(labels, views[key[apart].pair])
    assert (decided["MQ"], by) == (sign(key[apart].path_A, key[apart].path_B), "reviewer")

    page = tmp_path / "report.html"
    run("report", labels, "--out", page, "--folder", folder, "--export", export)
    assert '<td class="num">12 s</td>' in page.read_text()
    assert all((task in page.read_text()) == (task in differ) for task in key)


def sign(path_a: str, path_b: str) -> int:
    return 1 if path_a < path_b else -1


def answer_all(url: str, name: str, tasks: list[dict], key: dict, think: dict) -> int:
    """Answer by the API as `name`, whose token is set; the number of that person. An annotator
    with nothing to say skips the task and leaves a draft behind. The first answer is the contrary before it is changed."""
    person = studio.Studio(url)
    number = person.ask("GET", "/api/current-user/whoami")["id"]
    for place, task in enumerate(tasks):
        entry = key[task["data"]["task"]]
        opinion = think.get((name, entry.task))
        if opinion is None:
            if name != REVIEWER:
                person.ask("POST", f"/api/tasks/{task['id']}/annotations/", json={"result": [], "was_cancelled": True})
                body = {"result": as_results({"VQ": "A"}), "lead_time": 1.0}
                person.ask("POST", f"/api/tasks/{task['id']}/drafts", json=body)
            continue
        said = {question: ANSWERS[sign(entry.path_A, entry.path_B) * label] for question, label in opinion.items()}
        contrary = {question: ANSWERS[-sign(entry.path_A, entry.path_B) * label] for question, label in opinion.items()}
        body = {"result": as_results(contrary if place == 0 else said), "lead_time": 12.4}
        made = person.ask("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        if place == 0:
            person.ask("PATCH", f"/api/annotations/{made['id']}/", json={"result": as_results(said)})
    return number


def check_videos(server: Server, session: requests.Session, tasks: list[dict], key: dict) -> None:
    """Each task's videos are served, whole and in ranges, to people with an account; nothing else of the folder is."""
    for task in tasks:
        for side in "AB":
            name = getattr(key[task["data"]["task"]], f"video_{side}")
            answer = session.get(server.url + task["data"][f"video_{side}"])
            assert answer.headers["Content-Type"] == "video/mp4"
            assert answer.content == (server.folder / "media/videos" / name).read_bytes()
            assert b"alpha" not in answer.content
    address = server.url + tasks[0]["data"]["video_A"]
    part = session.get(address, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert requests.get(address, allow_redirects=False).status_code in (302, 401, 403)
    for elsewhere in ("key.csv", "../key.csv", "../settings.json", "videos/../../key.csv"):
        answer = session.get(f"{server.url}/data/local-files/?d={elsewhere}")
        assert answer.status_code >= 400 and b"alpha" not in answer.content
    # Nor can somebody who may add storages reach it.
    lead = studio.Studio(server.url)
    with pytest.raises(BadInput, match="must be a subdirectory"):
        studio.serve_videos(lead, tasks[0]["project"], server.folder.resolve())


def test_a_study(tmp_path, monkeypatch):
    """Two methods' samples go out blind as any folder does; people's answers come back as win rates."""
    make_samples(tmp_path, prompts=2, seeds=2)
    (tmp_path / "params.yaml").symlink_to(Path("params.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    folder, export, figures = Path("study"), Path("export.json"), Path("figures.json")
    run("export", "dpo", "base", "--out", folder, area="study")
    key = {task.task: task for task in read_key(folder)}
    with started(folder, monkeypatch) as server:
        assert "4 tasks uploaded" in run("push", folder, "--url", server.url)
        (project,) = studio.Studio(server.url).ask("GET", "/api/projects/")["results"]
        again = json.loads((folder / "tasks.json").read_text())[:2]  # as an import that a killed push began
        studio.Studio(server.url).ask("POST", f"/api/projects/{project['id']}/import", json=again)
        assert "0 tasks uploaded" in run("push", folder, "--url", server.url)
        tasks = studio.Studio(server.url).tasks(project["id"])
        for task in tasks[1:]:  # one is left to nobody
            straight = 1 if key[task["data"]["task"]].model_A == "dpo" else -1
            said = {"VQ": ANSWERS[straight], "MQ": "tie", "TA": ANSWERS[-straight], "Overall": ANSWERS[straight]}
            body = {"result": as_results(said), "lead_time": 3.0}
            studio.Studio(server.url).ask("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        assert "4 tasks, 3 annotations" in run("pull", folder, "--url", server.url, "--out", export)
    said = run("read", export, "--folder", folder, "--out", figures, area="study")
    assert "dpo over base: 3 of 4 pairs answered; prompts 2, annotators 1, answers 3" in said
    rates = json.loads(figures.read_text())["win_rate"]["people"]
    assert {name: rate["value"] for name, rate in rates.items()} == {"VQ": 1, "MQ": 0.5, "TA": 0, "Overall": 1}


@pytest.mark.browser
def test_labelling_page(server, exported, tmp_path):
    """A person labels in a browser: two players that play, answers, submit; the answers come back."""
    run("push", exported.folder, "--url", server.url)

    async def label() -> list[str]:
        async with browser(tmp_path / "profile") as page:
            await page.resize(1440, 1000)
            await page.open(f"{server.url}/user/login/")
            fill = "document.querySelector('[name={}]').value = '{}'"
            await page.evaluate(fill.format("email", LEAD))
            await page.evaluate(fill.format("password", PASSWORD))
            await page.evaluate("document.querySelector('form').submit()")
            await page.wait_for("!location.pathname.includes('login')")
            number = studio.Studio(server.url).ask("GET", "/api/projects/")["results"][0]["id"]
            await page.open(f"{server.url}/projects/{number}/data?labeling=1")
            players = "[...document.querySelectorAll('video')]"
            await page.wait_for(f"{players}.filter((v) => v.readyState >= 2).length === 2")
            assert await page.evaluate(f"{players}.map((v) => v.videoWidth)") == [32, 32]
            await page.wait_for("document.body.innerText.includes('Comparing two videos')")
            await page.evaluate("document.querySelector('[aria-label=\"Close modal\"]').click()")
            await page.evaluate(f"Promise.all({players}.map((v) => v.play()))")
            await page.wait_for(f"{players}.every((v) => v.currentTime > 0.2)")
            for place in (0, 4, 8):  # A for VQ, tie for MQ, B for TA
                await page.evaluate(f"document.querySelectorAll('input[type=checkbox]')[{place}].click()")
            submit = "document.querySelector('[aria-label=\"Submit current annotation\"]')"
            await page.wait_for(f"!{submit}.disabled")
            await page.evaluate(f"{submit}.click()")
            await page.wait_for("document.body.innerText.includes('2 of 2') || document.body.innerText.includes('#2')")
            return [address for address in page.requested if address.startswith("http")]

    asked = asyncio.run(label())
    assert [address for address in asked if not address.startswith(server.url)] == []  # nothing goes elsewhere
    tasks = studio.pull(exported.folder, server.url)
    (done,) = [task for task in tasks if task["annotations"]]
    said = {result["from_name"]: result["value"]["choices"] for result in done["annotations"][0]["result"]}
    assert said == {"VQ": ["A"], "MQ": ["tie"], "TA": ["B"]}
    assert done["annotations"][0]["completed_by"]["email"] == LEAD
    assert json.dumps(tasks).count("alpha") == 0
