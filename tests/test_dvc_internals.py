"""DVC's internals are those that components/pipeline/dvc_internals.py was written for."""

import importlib.metadata
import inspect
import re
from pathlib import Path

from components.pipeline import dvc_internals
from components.pipeline.code_digest import imported


def test_the_installed_version_is_the_one_they_were_written_for():
    """A new version: read each function of dvc_internals.py against it, run tests/test_run_stage.py, then raise VERSION."""
    assert importlib.metadata.version("dvc") == dvc_internals.VERSION
    assert f'"dvc=={dvc_internals.VERSION}"' in Path("pyproject.toml").read_text()


def test_internals_take_what_they_are_given():
    from dvc.output import Output, merge_file_meta_from_cloud
    from dvc.stage.cache import _get_cache_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    assert list(inspect.signature(_get_cache_hash).parameters) == ["cache", "key"]
    assert next(iter(inspect.signature(to_single_stage_lockfile).parameters)) == "stage"
    assert list(inspect.signature(merge_file_meta_from_cloud).parameters) == ["entry"]
    assert all(hasattr(Output, name) for name in ("changed_cache", "checkout", "save", "_compute_hash_info_from_meta"))


def test_a_run_has_one_key_whatever_it_made():
    entry = {"cmd": "true", "deps": [{"path": "a", "md5": "1"}], "outs": [{"path": "b", "md5": "2"}]}
    other = entry | {"outs": [{"path": "b", "md5": "3"}]}
    assert dvc_internals.run_key(entry) == dvc_internals.run_key(other)
    assert dvc_internals.run_value(entry) != dvc_internals.run_value(other)


def test_no_other_file_imports_internals():
    """Others use dvc.api and dvc.exceptions."""
    allowed = {"dvc.api", "dvc.exceptions"}
    for file in Path("components").rglob("*.py"):
        if file.name != "dvc_internals.py" and "dvc" in imported(Path(), str(file))[1]:
            used = set(re.findall(r"^\s*(?:from|import) (dvc[\w.]*)", file.read_text(), re.M))
            assert used <= allowed, f"{file} imports {used - allowed}"
