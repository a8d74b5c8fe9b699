from pathlib import Path

import yaml

from components.evaluation.lineage import locked_outputs, upstream_outputs
from components.pipeline.graph import upstream


def test_the_report_names_what_it_rests_on_and_not_its_own_digest(tmp_path):
    """With its own digest of the run before, the page would be another one each time."""
    lock = tmp_path / "dvc.lock"
    entry = {"outs": [{"path": "out", "md5": "0" * 32}]}
    outs = dict.fromkeys(("reward", "evaluate", "package", "source"), entry)
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": outs}, sort_keys=False))
    assert [out["stage"] for out in upstream_outputs(lock, "evaluate")] == ["reward", "source"]
    assert [out["stage"] for out in locked_outputs(lock)] == list(outs)
    assert upstream_outputs(Path("none/dvc.lock"), "evaluate") == []
    rests_on = set(upstream("evaluate"))
    assert {"source", "reward", "align@dpo", "tradeoff"} <= rests_on and "package" not in rests_on
