"""dvc.yaml says the truth about the code: every stage lists the files it imports and the params it reads."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from components import graph
from components.code_digest import reached
from components.graph import edges, stage_definition, stage_names
from components.params import Params, load_params

STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


ROUNDS = {"2": "models/aligned/dpo", "3": "models/rounds/2"}


@pytest.fixture(autouse=True)
def with_rounds(monkeypatch):
    """The graph as it is with two rounds more; the demo has none."""
    params = graph._params()
    params["align"]["rounds"] = ROUNDS
    monkeypatch.setattr(graph, "_params", lambda: params)


def all_names() -> list[str]:
    return ["pretrain_generator", "pretrain_vlm", *stage_names(), "round@2", "round@3"]


@pytest.mark.parametrize("name", all_names())
def test_code_deps_are_what_the_stage_imports(name):
    definition = stage_definition(name)
    module = definition["cmd"].split()[2]
    listed = {dep for dep in definition["deps"] if dep.endswith(".py")}
    assert listed == reached([module], Path())


@pytest.mark.parametrize("name", all_names())
def test_params_deps_exist(name):
    for key in stage_definition(name)["params"]:
        model = Params
        *path, last = key.split(".")
        for part in path:
            model = model.model_fields[part].annotation
        assert last in model.model_fields


def test_the_stages_of_the_design_are_all_there():
    assert set(STAGES) == {
        *("pretrain_generator", "pretrain_vlm", "base_generator", "source", "measure", "curate", "pairs"),
        *(
            "reward",
            "reward_bench",
            "candidates",
            "relabel",
            "align",
            "latent_reward",
            "sample",
            "tradeoff",
            "evaluate",
            "package",
        ),
        "round",
    }
    assert {name for name in all_names() if "@" in name} == {
        *("round@2", "round@3"),
        *(f"align@{method}" for method in ("sft", "rwr", "dpo")),
        *(f"sample@{method}" for method in ("base", "sft", "rwr", "dpo", "nrg", "best_of_n")),
    }


def test_rounds_follow_each_other():
    order = set(edges())
    assert {("align@dpo", "round@2"), ("round@2", "round@3"), ("sample@base", "round@2"), ("reward", "round@3")} <= order
    params = load_params().model_dump()
    for wrong in (
        {"2": "models/rounds/2"},
        {"3": "models/aligned/dpo"},
        {"2": "models/aligned/dpo", "3": "models/aligned/dpo"},
    ):
        params["align"]["rounds"] = wrong
        with pytest.raises(ValidationError, match="each round starts from the one before"):
            Params.model_validate(params)
    params["align"] |= {"rounds": ROUNDS, "reference": "live"}
    with pytest.raises(ValidationError, match="rounds need reference 'cached'"):
        Params.model_validate(params)


def test_every_input_is_made_by_a_stage_or_checked_in():
    made = {out for name in all_names() for out in stage_definition(name)["outs"]}
    for name in all_names():
        for dep in stage_definition(name)["deps"]:
            assert dep in made or Path(dep).exists() or dep.startswith("pretrained/"), f"{name} reads {dep}"


def test_the_order_is_that_of_the_design():
    order = set(edges())
    for before, after in [
        ("source", "measure"), ("measure", "curate"), ("curate", "pairs"), ("pairs", "reward"),
        ("reward", "reward_bench"), ("reward", "package"),
        ("base_generator", "candidates"), ("candidates", "relabel"), ("reward", "relabel"), ("relabel", "align@dpo"),
        ("relabel", "latent_reward"), ("align@dpo", "sample@dpo"), ("latent_reward", "sample@nrg"),
        ("base_generator", "sample@base"), ("sample@rwr", "evaluate"),
    ]:  # fmt: skip
        assert (before, after) in order
    assert ("align@sft", "sample@dpo") not in order
