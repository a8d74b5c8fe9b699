"""Keys have the code that a result rests on, and no other."""

from pathlib import Path

import pytest

from components.pipeline import code_digest as module
from components.pipeline.code_digest import DECODING, DRAWING, JUDGING, SCORING, code_digest, reached, sources_digest


@pytest.fixture
def tree(tmp_path) -> Path:
    (tmp_path / "components").mkdir()
    files = {
        "score": "import numpy\nfrom components import decode\n",
        "decode": "from components.files.atomic import x\n",
        "other": "",
    }
    for name, text in (files | {"files": ""}).items():
        (tmp_path / f"components/{name}.py").write_text(text)
    return tmp_path


def change(file: Path) -> None:
    file.write_text(file.read_text() + "# changed\n")
    sources_digest.cache_clear()
    code_digest.cache_clear()


def test_what_is_imported_counts_and_nothing_else(tree):
    before = code_digest(("components.score",), tree)
    for name in ("other", "files"):  # not imported, and infrastructure
        change(tree / f"components/{name}.py")
        assert code_digest(("components.score",), tree) == before
    change(tree / "components/decode.py")
    assert code_digest(("components.score",), tree) != before


def test_a_library_of_another_version_counts_for_caches_alone(tree, monkeypatch):
    before, sources = code_digest(("components.score",), tree), sources_digest(("components.score",), tree)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0")
    code_digest.cache_clear()
    assert code_digest(("components.score",), tree) != before
    assert sources_digest(("components.score",), tree) == sources


def test_each_purpose_reaches_what_decides_its_result():
    for purpose, wanted in (
        (
            SCORING,
            {
                "video/decode",
                "video/timing",
                "video/frames",
                "reward/inputs",
                "reward/backbones/qwen2_vl",
                "reward/published",
            },
        ),
        (DECODING, {"video/decode", "video/container", "video/timing", "video/frames"}),
        (JUDGING, {"simulation/judge", "simulation/world", "video/decode"}),
        (DRAWING, {"generator/sampler", "generator/families/wan", "generator/lora_file", "video/encode"}),
    ):
        assert {f"components/{name}.py" for name in wanted} <= reached(purpose)
    assert not reached(SCORING) & {"components/cli/reward.py", "components/reward/train.py", "components/pipeline/stage.py"}
