"""A new method is one file and one line of METHODS: it trains, samples, and stands in budget, summary and report."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from components.alignment.relabel import pair_of
from components.config.params import SampleParams, load_params
from components.contracts import ALIGNMENT_PAIRS, CANDIDATES
from components.evaluation.sample import sample
from components.evaluation.summary import summary
from components.files.tables import write_table
from components.generator.conditioning import Conditioning
from components.generator.families.wan_small import save_generator
from components.generator.shards import save_conditioning, save_shards
from components.methods import METHODS, Method, Training
from components.pipeline.stage import folder_digest
from components.preferences.schema import write_prompts
from components.schemas import CANDIDATES_SCHEMA, alignment_pairs_schema
from tests.alignment.test_align import scores
from tests.alignment.toy_method import toy
from tests.conftest import BareStage
from tests.evaluation import fixtures
from tests.generator.small import tiny_generator

TOY = Method(
    "Toy method", ("#123456", "#abcdef"), Training("tests.alignment.toy_method", params="sft"), lora="models/aligned/toy"
)


@pytest.fixture(autouse=True)
def one_line(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)


class InPlace(BareStage):
    """Writes outputs where they belong, and keeps what is registered."""

    def output(self, path: str | Path) -> Path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path)

    def register(self, model: str, folder: str, tags: dict[str, str]) -> None:
        self.registered = (model, folder, tags)


@pytest.fixture
def stage(tmp_path, monkeypatch) -> InPlace:
    """A checkout with a tiny generator, one relabelled pair of candidates and a prompt to draw."""
    stage = InPlace(tmp_path / "state")
    params = stage.params
    training = params.align.sft.training.model_copy(update={"steps": 1, "batch_size": 1, "accumulation": 1})
    lora = params.align.lora.model_copy(update={"rank": 2})
    align = params.align.model_copy(
        update={"compile": False, "lora": lora, "sft": params.align.sft.model_copy(update={"training": training})}
    )
    size = {"height": 16, "width": 16, "frames": 5, "steps": 2}
    alone = SampleParams(prompt_set="set.csv", column="prompt", prompts=None, seeds_per_prompt=1, engine="local", workers=1)
    unjudged = params.evaluate.model_copy(update={"judges": [], "decides": None})  # the gold judge knows no such prompt
    changed = {"align": align, "sampling": params.sampling.model_copy(update=size), "sample": alone, "evaluate": unjudged}
    stage.params = params.model_copy(update=changed)
    monkeypatch.chdir(tmp_path)
    save_generator(tiny_generator(), "models/base_generator")
    made_from = {"base generator": folder_digest("models/base_generator")}
    draw = torch.Generator().manual_seed(3)
    save_shards([torch.randn(2, 4, 3, 4, 4, generator=draw)], CANDIDATES / "latents", made_from)
    save_conditioning([Conditioning({"text": torch.randn(2, 16, 16, generator=draw)})], CANDIDATES / "text", made_from)
    row = {"prompt_id": "p0", "prompt": "a red circle moving up", "path": "", "text_row": 0}
    write_table(
        CANDIDATES / "candidates.parquet",
        [row | {"candidate_id": f"c{n}", "seed": n, "row": n} for n in (0, 1)],
        CANDIDATES_SCHEMA,
    )
    pair = pair_of(*scores(1.0, 0.0))
    write_table(ALIGNMENT_PAIRS, [pair | {"weight": 1.0, "tied": False}], alignment_pairs_schema(["VQ"]))
    Path("data/source").mkdir(parents=True)
    write_prompts(Path("data/source/prompts.csv"), ["a red circle moving up", "a blue square moving down"])
    write_prompts(Path("set.csv"), ["a green square moving left"])
    return stage


def test_it_trains_and_samples(stage):
    toy(stage)
    assert stage.registered[0] == f"reelign-{stage.params.profile}-aligned-toy"
    assert len(pd.read_csv("models/aligned/toy/training.csv")) == 1
    for method in ("base", "toy"):
        sample(method, stage)
        stage.folder = stage.folder.with_name(f"state-{method}")  # each stage has a state folder of its own
    base, own = (next(Path(f"data/samples/{name}/videos").iterdir()) for name in ("base", "toy"))
    assert base.name == own.name
    assert Path("data/samples/toy/settings.json").read_text() == Path("data/samples/base/settings.json").read_text()


def test_it_stands_in_summary_and_report(tmp_path, monkeypatch):
    params = fixtures.PARAMS.model_copy(update={"methods": ["toy", "dpo"]})
    monkeypatch.setattr(fixtures, "METHODS", params.methods)
    monkeypatch.setattr(fixtures, "PARAMS", params)
    monkeypatch.setitem(fixtures.GAIN, "toy", 0.1)
    page, metrics = fixtures.make_report(tmp_path)
    text = page.read_text()
    assert re.search(r'<article class="card toy">\s*<h3 class="name">Toy method</h3>', text)
    assert (
        "--method-toy: #123456;" in text
        and "--method-toy: #abcdef;" in text
        and ".toy { --hue: var(--method-toy); }" in text
    )
    fixtures.write(tmp_path / "metrics/alignment.json", json.loads(json.dumps(metrics | {"profile": "x"})))
    assert re.search(r"^  Toy method +gold", summary("x", tmp_path), re.M)


def test_params_may_name_it_and_no_unknown_one():
    evaluate = load_params().evaluate
    again = evaluate.model_validate(evaluate.model_dump() | {"methods": ["toy", "nrg"]})
    assert again.methods == ["toy", "nrg"]
    for wrong in ("base", "dpoo"):
        with pytest.raises(ValueError, match=r"unknown method; components/methods\.py has sft, .*toy"):
            evaluate.model_validate(evaluate.model_dump() | {"methods": [wrong]})


def test_its_training_is_in_the_budget():
    from components.planning.budget import budget

    found = budget(load_params())
    assert found.operations["align@toy"] == found.operations["align@sft"]
    assert found.steps["align@toy"] == load_params().align.sft.training.steps and "sample (5)" in found.draws
