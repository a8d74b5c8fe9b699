"""Settings of the stack are those of infra/compose.yaml; its credentials are private, random and kept."""

import stat

import pytest

from components.errors import BadInput
from components.orchestration.compose import read_compose, secrets_of
from components.orchestration.credentials import make_credentials, read_credentials
from components.orchestration.stack import SERVICES
from tests.infra.test_compose import variables

NOT_HERE = {"REELIGN_TAG", "DOCKER_GID", "GRAFANA_PASSWORD"}  # of containers, and of monitoring


def test_every_secret_of_compose_is_made():
    assert secrets_of(SERVICES) == variables() - NOT_HERE


def test_commands_and_variables_are_those_of_compose_with_places_of_this_machine():
    secrets = {name: f"<{name}>" for name in secrets_of(SERVICES)}
    compose = read_compose(secrets, {"0.0.0.0": "127.0.0.1", "postgres:5432": "127.0.0.1:1"})
    assert compose.command("mlflow", **{"--port=5000": "--port=2"})[:4] == [
        "mlflow",
        "server",
        "--host=127.0.0.1",
        "--port=2",
    ]
    assert compose.command("s3", **{"-dir=/data": "-dir=here"})[:3] == ["weed", "server", "-dir=here"]
    store = compose.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"]
    assert store == "postgresql+psycopg://mlflow:<MLFLOW_DB_PASSWORD>@127.0.0.1:1/mlflow"
    assert '"secretKey": "<S3_STAGE_SECRET_KEY>"' in compose.environment("s3")["S3_IDENTITIES"]


def test_credentials_are_private_random_and_kept(tmp_path):
    file, data = tmp_path / "credentials.env", tmp_path / "data"
    first = make_credentials(file, ["A_PASSWORD", "A_FERNET_KEY"], data)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(first["A_PASSWORD"]) == 64 and len(first["A_FERNET_KEY"]) == 44
    data.mkdir()
    more = make_credentials(file, ["A_PASSWORD", "B_PASSWORD"], data)
    assert more.items() > first.items() and more == read_credentials(file)
    assert more["B_PASSWORD"] != more["A_PASSWORD"]


def test_credentials_that_are_gone_open_or_damaged_are_refused(tmp_path):
    file, data = tmp_path / "credentials.env", tmp_path / "data"
    data.mkdir()
    with pytest.raises(BadInput, match="bring it back"):
        make_credentials(file, ["A_PASSWORD"], data)
    assert not file.exists()
    data.rmdir()
    make_credentials(file, ["A_PASSWORD", "B_PASSWORD"], data)
    text = file.read_text()
    for damaged in ("", text[:90], text.replace("A_PASSWORD=", "A_PASSWORD=0"), text.splitlines()[1]):
        file.write_text(damaged)
        with pytest.raises(BadInput, match="damaged or edited"):
            read_credentials(file)
    file.write_text(text)
    assert len(read_credentials(file)) == 2
    file.chmod(0o640)
    with pytest.raises(BadInput, match="others may read it"):
        read_credentials(file)
