"""Every stage in float32 and in bfloat16, frozen weights and training alike: its own command, but in this process.

The shapes world is smaller here than in the smoke profile. source, measure, curate and pairs have no dtype: they run once.
"""

import gc
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from accelerate.state import AcceleratorState

from components.generator.spec import generator_once
from components.guidance.best_of_n import video_reward_once
from components.guidance.latent_reward import latent_reward_once
from components.pipeline.graph import stage_definition, stage_names, upstream
from tests.conftest import REPOSITORY

LOADED_ONCE = (generator_once, video_reward_once, latent_reward_once)

DTYPES = {"float32": "fp32", "bfloat16": "bf16"}  # of frozen weights, and of training's passes
WITHOUT = ("source", "measure", "curate", "pairs")
ROUND = "round@2"


def in_order() -> list[str]:
    """The stages of dvc.yaml and a round, each after those that it reads from."""
    order: list[str] = []
    for name in stage_names():
        order += [before for before in (*upstream(name), name) if before not in order]
    return [*order, ROUND]


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    """A tree for each dtype, with a copy of what has none."""
    return {dtype: tmp_path_factory.mktemp(dtype) for dtype in DTYPES}


@pytest.fixture
def in_tree(trees, monkeypatch):
    """Go into the tree of a dtype, which is made when it is first asked for."""

    def enter(dtype: str, **latent_reward: Any) -> None:
        tree = trees[dtype]
        if not (tree / "dvc.yaml").exists():
            for name in ("components", "infra", "judges", "pretrained", "dvc.yaml"):
                (tree / name).symlink_to(REPOSITORY / name)
            for path in ("data/source", "data/pairs", "metrics"):
                if dtype != "float32":
                    shutil.copytree(trees["float32"] / path, tree / path)
        (tree / "params.yaml").write_text(yaml.safe_dump(small_params(dtype, latent_reward)))
        monkeypatch.chdir(tree)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trees['float32']}/mlflow.db")
        for once in LOADED_ONCE:
            once.cache_clear()  # by paths, which are the same in another tree

    yield enter
    for once in LOADED_ONCE:
        once.cache_clear()


def small_params(dtype: str, latent_reward: dict[str, Any]) -> dict[str, Any]:
    params = yaml.safe_load((REPOSITORY / "infra/profiles/smoke.yaml").read_text())
    params["base_generator"] |= {"dtype": dtype, "probe_prompts": 1}
    params["reward"]["dtype"] = dtype
    params["align"]["rounds"] = {"2": "models/aligned/dpo"}
    params["latent_reward"] |= latent_reward
    params["source"] |= {"workers": 1, "prompts": 40}
    params["measure"]["workers"] = 1
    params["sampling"]["steps"] = 2
    params["candidates"]["prompts"] = 4
    params["tradeoff"] |= {"clips": 2, "weights": params["tradeoff"]["weights"][-1:]}
    params["evaluate"]["resamples"] = 20
    methods = [params["align"][method] for method in ("sft", "rwr", "dpo")]
    for section in (params["reward"], params["latent_reward"], *methods):
        section["training"] |= {"precision": DTYPES[dtype], "steps": 2, "log_every": 1}
    return params


def run(name: str) -> int:
    """The exit code of a stage's own command."""
    module, *arguments = stage_definition(name)["cmd"].split()[2:]
    before, sys.argv = sys.argv, [module, *arguments]
    AcceleratorState._reset_state()  # the precision of one process is fixed once
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before
        AcceleratorState._reset_state()
        gc.unfreeze()  # what the stage made
        gc.collect()
        gc.freeze()
    return ended.value.code


CASES = [(dtype, name) for dtype in DTYPES for name in in_order() if dtype == "float32" or name not in WITHOUT]


@pytest.mark.parametrize(("dtype", "name"), CASES)
def test_a_stage_ends_well(in_tree, dtype, name):
    in_tree(dtype)
    assert run(name) == 0
    for path in stage_definition(name)["outs"]:
        assert Path(path).exists(), path
    if name.startswith("sample@"):
        assert len(pd.read_parquet(f"data/samples/{name.removeprefix('sample@')}/samples.parquet")) == 8
