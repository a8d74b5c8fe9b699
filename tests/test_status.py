"""`dvc status` itself, in a copy of the pipeline: a comment in a method's code changes its stages and no others."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.pipeline.graph import stage_definition, stage_names
from tests.conftest import REPOSITORY

CACHE = Path(".dvc/cache/files/md5")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The code and the pipeline with one round more. A word stands for each output; dvc.lock and cache have them all."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["align"]["rounds"] = {"2": "models/aligned/dpo"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path(".dvc").mkdir()
        Path(".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
        definitions = {
            name: stage_definition(name) for name in (*stage_names(), "pretrain_generator", "pretrain_ltx", "pretrain_vlm")
        }
        for path in (path for entry in definitions.values() for path in (*entry["outs"], *entry["deps"])):
            if not Path(path).exists():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(path)
        stages = {name: locked(entry, params) for name, entry in definitions.items()}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return folder


def locked(definition: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The entry of dvc.lock of a stage that has just run; its outputs are in the cache."""
    values = {key: value_of(params, key) for key in definition["params"]}
    outs = [entry_of(Path(path)) for path in definition["outs"]]
    for out in outs:
        cached = CACHE / out["md5"][:2] / out["md5"][2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out["path"], cached)
    deps = [entry_of(Path(path)) for path in definition["deps"]]
    return {"cmd": definition["cmd"], "deps": deps, "params": {"params.yaml": values}, "outs": outs}


def value_of(params: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def entry_of(path: Path) -> dict[str, Any]:
    """Digest of a file, or as DVC makes it of a folder: of the list of its files."""
    if path.is_file():
        return {"path": str(path), "hash": "md5", "md5": hashlib.md5(path.read_bytes()).hexdigest()}
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    rows = [{"md5": entry_of(file)["md5"], "relpath": file.relative_to(path).as_posix()} for file in files]
    digest = hashlib.md5(json.dumps(sorted(rows, key=lambda row: row["relpath"])).encode()).hexdigest()
    return {"path": str(path), "hash": "md5", "md5": f"{digest}.dir"}


def changed() -> set[str]:
    """Stages that `dvc status` names."""
    from dvc.repo import Repo

    with Repo() as repo:
        return {name for name in repo.status() if "pretrain" not in name}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("reward/__pycache__/score.cpython.pyc", set()),
        ("alignment/methods/flow_dpo.py", {"align@dpo", "round@2"}),
        ("guidance/flow_nrg.py", {"sample@nrg", "tradeoff"}),
    ],
)
def test_stages_that_a_comment_in_a_methods_code_changes(copy, monkeypatch, file, stages):
    monkeypatch.chdir(copy)
    file = Path("components", file)
    before = file.read_text() if file.exists() else ""
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{before}# a comment\n")
    assert changed() == stages
    file.write_text(before) if before else file.unlink()
