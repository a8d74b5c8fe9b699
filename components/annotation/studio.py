"""Label Studio's HTTP API, as far as the annotation loop needs it: one project, its tasks, their annotations.

The token is what Label Studio's account page gives: a personal access token, or a legacy one where the server allows
those. It comes from the environment, never from the command line, where others on the machine could read it.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import requests

from components.annotation.tasks import VIDEOS, Settings, read_settings
from components.errors import BadInput
from components.files.atomic import atomic_write
from components.files.locks import sole_writer
from components.files.text import read_json, read_text
from components.preferences.agreement import ANNOTATORS_PER_PAIR

TOKEN = "LABEL_STUDIO_API_KEY"
TIMEOUT = 600  # seconds; an import or export of a whole project is one request
ACCESS_SECONDS = 120  # that an access token is used; Label Studio's lives for five minutes


class Studio:
    """A Label Studio server; requests are those of the token's owner. BadInput, naming the address, when it refuses."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.token = os.environ.get(TOKEN, "").strip()
        if not self.token:
            raise BadInput(TOKEN, "not set; Label Studio shows a token under Account & Settings")
        self.access: tuple[str, float] | None = None

    def ask(self, method: str, path: str, answers: bool = True, **more: Any) -> Any:
        """The answer to a request, from JSON; None without `answers`. `more` as requests.request takes it."""
        return self._send(method, path, answers, headers={"Authorization": self._authorization()}, **more)

    def _authorization(self) -> str:
        if self.token.count(".") != 2:
            return f"Token {self.token}"  # legacy: 40 hex digits
        # A personal access token is a JWT that is exchanged for short-lived ones.
        if self.access is None or time.monotonic() - self.access[1] > ACCESS_SECONDS:
            answer = self._send("POST", "/api/token/refresh", json={"refresh": self.token})
            self.access = answer["access"], time.monotonic()
        return f"Bearer {self.access[0]}"

    def _send(self, method: str, path: str, answers: bool = True, **more: Any) -> Any:
        try:
            answer = requests.request(method, self.url + path, timeout=TIMEOUT, allow_redirects=False, **more)
        except requests.RequestException as error:
            raise BadInput(self.url, f"no answer to {method} {path}: {type(error).__name__}") from error
        if answer.status_code == 401:
            raise BadInput(TOKEN, f"{self.url} does not accept it: {said(answer)}")
        if not 200 <= answer.status_code < 300:
            raise BadInput(self.url, f"{method} {path} answered {answer.status_code}: {said(answer)}")
        if not answers:
            return None
        try:
            return answer.json()
        except requests.JSONDecodeError as error:
            raise BadInput(self.url, f"the answer to {method} {path} is not JSON; is this Label Studio?") from error

    def find(self, settings: Settings) -> dict | None:
        """The folder's project, known by a mark in its description; its title is free to change."""
        found, page = [], 1
        while True:
            answer = self.ask("GET", "/api/projects/", params={"page": page, "page_size": 100})
            found += [project for project in answer["results"] if mark(settings) in (project["description"] or "")]
            if answer["next"] is None:
                break
            page += 1
        if len(found) > 1:
            raise BadInput(
                self.url, f"projects {', '.join(str(one['id']) for one in found)} have {mark(settings)} in common"
            )
        return found[0] if found else None

    def tasks(self, project: int) -> list[dict]:
        """All tasks of a project with their annotations, as Label Studio's own JSON export has them."""
        return self.ask(
            "GET", f"/api/projects/{project}/export", params={"exportType": "JSON", "download_all_tasks": "true"}
        )


def said(answer: requests.Response) -> str:
    """The reason of a refusal, in one line."""
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        return answer.reason
    if isinstance(body, dict):
        body = body.get("validation_errors") or body.get("detail") or body
    return json.dumps(body, ensure_ascii=False)


def mark(settings: Settings) -> str:
    """Marker in the project's description that identifies this folder. It does not reveal the seed."""
    return f"reelign-{settings.digest('project')}"


def read_project(folder: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """Interface, guidelines and tasks of a folder. BadInput where one is missing or damaged: nothing of it is uploaded."""
    interface, guidelines = (read_text(folder / name) for name in ("config.xml", "guidelines.md"))
    if not interface.rstrip().endswith("</View>"):
        raise BadInput(folder / "config.xml", "damaged, its end is missing; `reelign annotate export` writes it anew")
    return interface, guidelines, read_json(folder / "tasks.json")


def push(folder: Path, url: str, title: str) -> tuple[dict, int]:
    """Make the folder's project, or bring it up to date, and upload tasks that it has not; the project, and how many.

    `title` names a new project. Where Label Studio serves the videos itself, their folder becomes a storage of the project.
    An import that a killed push began goes on in the server, and may end after this push looks: a later one removes the
    tasks that then are there twice. BadInput where another push of the folder is under way.
    """
    with sole_writer(folder / "push"):
        return _push(folder, url, title)


def _push(folder: Path, url: str, title: str) -> tuple[dict, int]:
    from markdown_it import MarkdownIt

    settings = read_settings(folder)
    interface, guidelines, tasks = read_project(folder)
    studio = Studio(url)
    wanted = {
        "label_config": interface,
        "expert_instruction": MarkdownIt().render(guidelines).replace("<h2>", "<br><h2>"),  # its page leaves no space
        "show_instruction": True,
        "maximum_annotations": ANNOTATORS_PER_PAIR,
    }
    project = studio.find(settings)
    if project is None:
        about = {"title": title, "description": f"Pairs of videos for Reelign. Keep this mark: {mark(settings)}"}
        # Nobody should come to know the labels of others: no history, no predictions.
        rest = {"show_annotation_history": False, "show_collab_predictions": False, "enable_empty_annotation": False}
        project = studio.ask("POST", "/api/projects/", json=wanted | about | rest)
    else:
        project = studio.ask("PATCH", f"/api/projects/{project['id']}/", json=wanted)
    if settings.base_url is None:
        serve_videos(studio, project["id"], (folder / VIDEOS).resolve())
    uploaded = studio.tasks(project["id"])
    for task in repeated(uploaded):
        studio.ask("DELETE", f"/api/tasks/{task}/", answers=False)
    there = {task["data"].get("task") for task in uploaded}
    missing = [task for task in tasks if task["data"]["task"] not in there]
    if missing:
        answer = studio.ask("POST", f"/api/projects/{project['id']}/import", json=missing)
        if answer.get("task_count") != len(missing):
            raise BadInput(url, f"took {answer.get('task_count')} of {len(missing)} tasks")
    return project, len(missing)


def repeated(uploaded: list[dict]) -> list[int]:
    """Ids of tasks that are there again under another id and that nobody has labelled; one of each stays."""
    copies: dict[Any, list[dict]] = {}
    for task in uploaded:
        copies.setdefault(task["data"].get("task"), []).append(task)
    spare = []
    for name, tasks in copies.items():
        _, *rest = sorted(tasks, key=lambda task: (not task["annotations"], task["id"]))
        spare += [task["id"] for task in rest if name is not None and not task["annotations"]]
    return spare


def serve_videos(studio: Studio, project: int, videos: Path) -> None:
    """Let Label Studio serve `videos` to those who may see the project: it serves no file that no storage names."""
    storages = studio.ask("GET", "/api/storages/localfiles", params={"project": project})
    if any(storage["path"] == str(videos) for storage in storages):
        return
    about = {"project": project, "title": "videos", "path": str(videos), "use_blob_urls": True}
    studio.ask("POST", "/api/storages/localfiles", json=about)


def write_export(out: Path, tasks: list[dict]) -> None:
    """What `pull` returned, as Label Studio's JSON export: its owner's alone to read, as it has people's addresses."""
    atomic_write(out, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", private=True)


def pull(folder: Path, url: str) -> list[dict]:
    """The project's tasks and annotations as its JSON export has them, each annotation with its author's address."""
    settings = read_settings(folder)
    studio = Studio(url)
    project = studio.find(settings)
    if project is None:
        raise BadInput(url, f"no project has the mark {mark(settings)}; `reelign annotate push` makes it")
    people = {user["id"]: user["email"] for user in studio.ask("GET", "/api/users/")}
    tasks = studio.tasks(project["id"])
    for task in tasks:
        for annotation in task["annotations"]:
            number = annotation["completed_by"]
            if isinstance(number, int):  # some servers give the person already
                annotation["completed_by"] = {"id": number, "email": people.get(number)}
    return tasks
