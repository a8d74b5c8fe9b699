"""What the client says without a server; all else: test_label_studio.py."""

import json

import pytest

from components.annotation import studio
from components.annotation.server import command, environment
from components.errors import BadInput
from components.files.locks import sole_writer
from components.serving.ports import free_ports


def test_an_address_where_nothing_is(exported, monkeypatch):
    monkeypatch.setenv(studio.TOKEN, "f" * 40)
    (port,) = free_ports(1)
    with pytest.raises(BadInput, match=f"http://127.0.0.1:{port}: no answer to GET /api/projects/: ConnectionError"):
        studio.push(exported.folder, f"http://127.0.0.1:{port}/", "Pairs")
    monkeypatch.delenv(studio.TOKEN)
    with pytest.raises(BadInput, match="LABEL_STUDIO_API_KEY: not set"):
        studio.push(exported.folder, "http://127.0.0.1", "Pairs")


def test_a_server_that_cannot_start(exported, tmp_path):
    with pytest.raises(BadInput, match="bin/label-studio: missing; `make annotation-server` installs it"):
        command(8080, environment=tmp_path)
    with pytest.raises(BadInput, match="media/videos: missing; `reelign annotate export` makes it"):
        environment(tmp_path)
    variables = environment(exported.folder)
    assert variables["LABEL_STUDIO_COLLECT_ANALYTICS"] == variables["LABEL_STUDIO_LATEST_VERSION_CHECK"] == "false"
    assert variables["LABEL_STUDIO_SENTRY_DSN"] == ""


class Server:
    """The calls of a push, without Label Studio: a project whose tasks stay."""

    def __init__(self):
        self.tasks: list[dict] = []
        self.project: dict | None = None

    def take(self, tasks: list[dict]) -> None:
        self.tasks += [{"id": 1 + len(self.tasks) + at, "annotations": []} | task for at, task in enumerate(tasks)]

    def ask(self, method: str, path: str, answers: bool = True, **more):
        if path == "/api/projects/":
            if method == "POST":
                self.project = {"id": 1, **more["json"]}
                return self.project
            return {"results": [self.project] if self.project else [], "next": None}
        if method == "POST" and path.endswith("/import"):
            self.take(more["json"])
            return {"task_count": len(more["json"])}
        if method == "DELETE":
            self.tasks = [task for task in self.tasks if path != f"/api/tasks/{task['id']}/"]
            return None
        return self.tasks if path.endswith("/export") else [] if "storages" in path else self.project


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv(studio.TOKEN, "f" * 40)
    monkeypatch.setattr(studio.Studio, "ask", lambda _, *given, **more: server.ask(*given, **more))
    return server


def test_an_import_that_a_killed_push_began_is_there_once(exported, server):
    """It ends after the next push has looked; what people labelled meanwhile stays."""
    tasks = json.loads((exported.folder / "tasks.json").read_text())
    assert studio.push(exported.folder, "http://studio", "Pairs")[1] == len(tasks)
    server.take(tasks)
    server.tasks[len(tasks)]["annotations"] = [{"id": 1}]
    server.tasks[1]["annotations"], server.tasks[len(tasks) + 1]["annotations"] = [{"id": 2}], [{"id": 3}]
    assert studio.push(exported.folder, "http://studio", "Pairs")[1] == 0
    names = [task["data"]["task"] for task in server.tasks]
    assert len(names) == len(tasks) + 1 and set(names) == {task["data"]["task"] for task in tasks}
    assert sorted(one["id"] for task in server.tasks for one in task["annotations"]) == [1, 2, 3]


def test_one_push_of_a_folder_at_a_time(exported, server):
    with sole_writer(exported.folder / "push"), pytest.raises(BadInput, match="push: is being written by process"):
        studio.push(exported.folder, "http://studio", "Pairs")
    assert server.project is None
