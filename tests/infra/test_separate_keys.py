"""Each service has its own keys and user: what they may do, on real servers."""

import json
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError

from components.serving.ports import free_ports
from tests.curation import s3_server
from tests.infra.test_compose import COMPOSE, services, variables  # noqa: F401

DATABASES = Path("infra/helm/reelign/files/databases.sh")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def filled(text: str) -> str:
    """With a value for each variable: its own name."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1", text)


def test_no_service_has_the_keys_of_another(services):  # noqa: F811
    """The superuser and S3's admin are nobody's but the servers' own; Docker's socket is the scheduler's."""
    holders: dict[str, set[str]] = {}
    for name, service in services.items():
        for variable in re.findall(r"\$\{(\w+):\?", json.dumps(service)):
            holders.setdefault(variable, set()).add(name)
    airflow = {name for name in services if name.startswith("airflow-")}
    assert holders["POSTGRES_PASSWORD"] == {"postgres"}
    assert holders["AIRFLOW_DB_PASSWORD"] == {"postgres", *airflow}
    assert holders["MLFLOW_DB_PASSWORD"] == {"postgres", "mlflow"}
    assert holders["S3_ADMIN_SECRET_KEY"] == {"s3", "s3-init"}
    assert holders["S3_MLFLOW_SECRET_KEY"] == {"s3", "mlflow"}
    assert holders["S3_STAGE_SECRET_KEY"] == {"s3", "airflow-scheduler"}
    assert holders["GATEWAY_TOKEN"] == {"gateway"}
    assert holders["TRITON_KEY"] == {"triton", "airflow-scheduler"}
    assert {name for name, service in services.items() if "DOCKER_SOCKET" in json.dumps(service)} == {"airflow-scheduler"}
    assert {name for name, service in services.items() if "group_add" in service} == {"airflow-scheduler"}


@pytest.mark.s3
def test_what_each_key_may_do_on_s3(tmp_path, monkeypatch):
    identities = yaml.safe_load(COMPOSE.read_text())["services"]["s3"]["environment"]["S3_IDENTITIES"]
    (owner, _) = s3_server.IDENTITIES["identities"]  # by whom the test sees that the server is there
    ours = json.loads(filled(identities))["identities"]
    monkeypatch.setattr(s3_server, "IDENTITIES", {"identities": [owner, *ours]})
    server = s3_server.Server(tmp_path)

    def client(name: str):
        keys = {"aws_access_key_id": f"S3_{name}_ACCESS_KEY", "aws_secret_access_key": f"S3_{name}_SECRET_KEY"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}", region_name="us-east-1", **keys)

    def refused(call, **words) -> None:
        with pytest.raises(ClientError, match=r"AccessDenied|Forbidden|403"):
            call(**words)

    try:
        server.start()
        client("ADMIN").create_bucket(Bucket="reelign")
        for name, own, others in (("MLFLOW", "mlflow", "dvc"), ("STAGE", "dvc", "mlflow")):
            mine, key = client(name), f"{own}/a/b"
            mine.put_object(Bucket="reelign", Key=key, Body=b"x")
            assert mine.get_object(Bucket="reelign", Key=key)["Body"].read() == b"x"
            assert mine.list_objects_v2(Bucket="reelign", Prefix=f"{own}/")["KeyCount"] == 1
            client("ADMIN").put_object(Bucket="reelign", Key=f"{others}/secret", Body=b"x")
            refused(mine.get_object, Bucket="reelign", Key=f"{others}/secret")
            refused(mine.put_object, Bucket="reelign", Key=f"{others}/more", Body=b"x")
            refused(mine.delete_object, Bucket="reelign", Key=f"{others}/secret")
            refused(mine.create_bucket, Bucket="another")
            mine.delete_object(Bucket="reelign", Key=key)
            assert mine.list_objects_v2(Bucket="reelign", Prefix=f"{own}/")["KeyCount"] == 0
            client("ADMIN").delete_object(Bucket="reelign", Key=f"{others}/secret")
    finally:
        server.kill()


@pytest.mark.skipif(not POSTGRES, reason="no Postgres on this machine")
def test_each_database_is_its_users_alone(tmp_path):
    """The script of the first start, on a real Postgres."""
    run_as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.geteuid() == 0 else {}
    folder, port, bin = tmp_path / "pg", str(free_ports(1)[0]), POSTGRES[-1]
    folder.mkdir()
    if run_as:
        for place in (folder, *tmp_path.parents[:3], tmp_path):
            place.chmod(0o755)
        shutil.chown(folder, "nobody")

    def run(*command, **given) -> subprocess.CompletedProcess:
        environment = {"PATH": f"{bin}:{os.environ['PATH']}", "PGHOST": str(folder), "PGPORT": port, **given}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, cwd=folder, **run_as)

    script = DATABASES.read_text()
    (folder / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    assert run(bin / "initdb", "-D", folder / "data", "-U", "postgres").returncode == 0
    shutil.copyfile(folder / "pg_hba.conf", folder / "data/pg_hba.conf")
    start = run(bin / "pg_ctl", "-D", folder / "data", "-w", "-o", f"-k {folder} -h ''", "-l", folder / "log", "start")
    assert start.returncode == 0, start.stderr
    try:
        made = run("bash", "-euc", script, MLFLOW_DB_PASSWORD="one", AIRFLOW_DB_PASSWORD="two'$x")
        assert made.returncode == 0, made.stderr
        for user, password, other in (("mlflow", "one", "airflow"), ("airflow", "two'$x", "mlflow")):
            psql = ["psql", "-U", user, "-c", "CREATE TABLE t (a int)", "-d"]
            assert run(*psql, user, PGPASSWORD=password).returncode == 0
            for database in (other, "postgres"):
                assert "permission denied for database" in run(*psql, database, PGPASSWORD=password).stderr
            assert "password authentication failed" in run(*psql, user, PGPASSWORD="wrong").stderr
    finally:
        run(bin / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
