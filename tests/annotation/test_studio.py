"""What the client says without a server; all else: test_label_studio.py."""

import pytest

from components.annotation import studio
from components.annotation.server import command, environment
from components.errors import BadInput
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
