"""Samples: the same prompts and seeds for every method, the same bytes from any number of workers and after a kill."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from components.config.params import BestOfNParams, NrgParams, Params, SampleParams, load_params
from components.evaluation.paired import read_samples
from components.evaluation.sample import draw_samples
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.sampler import Loader
from components.generator.spec import SamplerSpec
from components.guidance.best_of_n import BestOfNSpec
from components.guidance.flow_nrg import NrgSpec
from components.guidance.latent_reward import save_latent_reward
from components.pipeline.stage import folder_digest
from components.preferences.schema import write_prompts
from tests.conftest import REPOSITORY, BareStage
from tests.generator.small import tiny_generator
from tests.guidance.test_flow_nrg import small_reward

PROMPTS = ["a cat", "a blue circle", "a red dog, barking", "停车标志", "a bird"]
SEEDS = 2
WAYS = [("local", 2), pytest.param("ray", 2, marks=pytest.mark.ray)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout with a generator, a latent reward model and a prompt set of 5."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    save_generator(tiny_generator(), folder / "base")
    reward = small_reward(load_generator(folder / "base").model, frozen=False)
    save_latent_reward(reward, folder / "reward", {"generator": folder_digest(folder / "base")})
    (folder / "data/source").mkdir(parents=True)
    write_prompts(folder / "data/source/prompts.csv", ["a red circle moving up", "a blue square moving down"])
    write_prompts(folder / "set.csv", PROMPTS)
    return folder


@pytest.fixture(autouse=True)
def in_checkout(folder, in_repository, monkeypatch):
    monkeypatch.chdir(folder)


def settings(engine: str = "local", workers: int = 1) -> Params:
    params = load_params()
    sample = {"prompt_set": "set.csv", "column": "prompt", "prompts": None, "seeds_per_prompt": SEEDS}
    size = {"height": 16, "width": 16, "frames": 5, "steps": 2, "batch_size": 3}
    sampling = params.sampling.model_copy(update=size)
    unjudged = params.evaluate.model_copy(update={"judges": [], "decides": None})  # gold has no such prompts
    own = SampleParams(**sample, engine=engine, workers=workers)
    return params.model_copy(update={"sample": own, "sampling": sampling, "evaluate": unjudged})


def samples(folder: Path, spec: Loader, state: Path | None = None, **how) -> Path:
    """The folder with the clips that `spec` draws."""
    stage = BareStage(state or folder / "state")
    stage.params = settings(**how)
    draw_samples(stage, spec, folder / "samples")
    return folder / "samples"


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def guided(**weights: float) -> NrgSpec:
    nrg = NrgParams(weights=weights, scale=30.0, start=0.0, stop=1.0, max_norm=None, gradient_checkpointing=False)
    return NrgSpec(SamplerSpec("base"), nrg, "reward")


BEST = BestOfNParams(n=3, judge="latent_reward", rank_step=1, weights={"TA": 1.0})
METHODS = {
    "base": SamplerSpec("base"),
    "nrg": guided(TA=1.0),
    "unguided": guided(TA=0.0),
    "best_of_n": BestOfNSpec(SamplerSpec("base"), BEST, "reward"),
}


def test_every_method_gets_the_same_prompts_and_seeds(tmp_path):
    made = {name: samples(tmp_path / name, spec) for name, spec in METHODS.items()}
    table = read_samples(made).table  # refuses what differs
    base = table[table.method == "base"]
    assert set(base.prompt) == set(PROMPTS) and len(base) == len(PROMPTS) * SEEDS
    first = content(made["base"])
    assert content(made["unguided"]) == first, "the same noise: guidance of no weight changes no bit"
    for name in ("nrg", "best_of_n"):
        other = content(made[name])
        assert other["samples.parquet"] == first["samples.parquet"]
        assert other.keys() == first.keys() and other != first
    assert len(set(first.values())) == len(first), "every seed another clip"


@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_workers_draw_the_same_bytes(tmp_path, engine, workers):
    alone = samples(tmp_path / "alone", METHODS["nrg"])
    others = samples(tmp_path / "others", METHODS["nrg"], engine=engine, workers=workers)
    assert content(others) == content(alone)


@pytest.mark.parametrize(("engine", "workers"), [("local", 1), pytest.param("ray", 2, marks=pytest.mark.ray)])
def test_killed_and_started_again(folder, tmp_path, engine, workers):
    """SIGKILL once a batch is done: the next run leaves it as it is, and ends with the bytes of an unbroken one."""
    (tmp_path / "script.py").write_text(f"""
import os, signal
from pathlib import Path
from tests.conftest import BareStage
from components.evaluation.sample import draw_samples
from components.generator.spec import SamplerSpec
from tests.evaluation.test_sample import settings

class Mortal(BareStage):
    def progress(self, items, what, total=None):
        for count, item in enumerate(items):
            if count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

if __name__ == "__main__":
    stage = Mortal(Path({str(tmp_path / "state")!r}))
    stage.params = settings({engine!r}, {workers})
    draw_samples(stage, SamplerSpec("base"), Path({str(tmp_path / "samples")!r}))
""")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, tmp_path / "script.py"], env=environment, cwd=folder)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "samples").exists()
    state = tmp_path / "state/samples"
    done = sorted(state.glob("chunk-*.json"))
    assert 1 <= len(done) < 4
    kept = {file: file.stat().st_mtime_ns for file in done}
    again = samples(tmp_path, METHODS["base"], engine=engine, workers=workers)
    assert len(list(state.glob("chunk-*.json"))) == 4
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert content(again) == content(samples(tmp_path / "unbroken", METHODS["base"]))


def test_the_table_says_what_was_drawn(tmp_path):
    table = pd.read_parquet(samples(tmp_path, METHODS["base"]) / "samples.parquet")
    assert list(table.columns) == ["prompt_id", "prompt", "seed", "path"]
    assert list(table.prompt) == [prompt for prompt in PROMPTS for _ in range(SEEDS)]
    assert all((tmp_path / "samples" / path).exists() for path in table.path)
    assert table.prompt_id.nunique() == len(PROMPTS)
