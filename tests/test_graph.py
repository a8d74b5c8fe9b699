"""dvc.yaml says the truth about the code: every stage lists the files it imports and the params it reads."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from components.config.params import Params, load_params
from components.methods import METHODS, ONLINE, trained
from components.pipeline import graph
from components.pipeline.code_digest import reached
from components.pipeline.graph import GROUPS, edges, stage_definition, stage_names

STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


ONLINE_STAGES = [f"online@{name}" for name in ONLINE]
ROUNDS = {"2": "models/aligned/dpo", "3": "models/rounds/2"}


@pytest.fixture(autouse=True)
def with_rounds(monkeypatch):
    """The graph as it is with two rounds more, the online methods and a judge from people's pairs; the demo has none."""
    params = graph._params()
    params["align"]["rounds"] = ROUNDS
    params["online"]["rounds"] = dict.fromkeys(ONLINE, 2)
    params["judge_reward"]["held_out"] = {"prompts": 0.5}
    params["evaluate"]["judge_files"] = "models/judge_reward"
    monkeypatch.setattr(graph, "_params", lambda: params)


def all_names() -> list[str]:
    return [
        "pretrain_generator",
        "pretrain_ltx",
        "pretrain_vlm",
        *stage_names(),
        "judge_reward@prompts",
        "round@2",
        "round@3",
        *ONLINE_STAGES,
    ]


# Read for titles and colours; all else in it is in the stages' entries.
TABLE = {"evaluate": {"components/methods.py"}}


@pytest.mark.parametrize("name", all_names())
def test_code_deps_are_what_the_stage_imports(name):
    """Files one by one; a folder stands for those of its files that are imported."""
    definition = stage_definition(name)
    code = {dep for dep in definition["deps"] if dep.startswith("components/")}
    listed = {dep for dep in code if dep.endswith(".py")}
    folders = {dep for dep in code if not Path(dep).suffix} - {"components/serving/backend"}  # packaged, not imported
    imported = reached([definition["cmd"].split()[2]], Path())
    within = {folder: {file for file in imported if file.startswith(f"{folder}/")} for folder in folders}
    assert all(within.values()), "a folder of which nothing is imported"
    assert listed | set().union(*within.values()) == imported | TABLE.get(name, set())


@pytest.mark.parametrize("name", METHODS)
def test_the_stages_of_a_method_are_those_of_the_table(name):
    method, params = METHODS[name], load_params()
    sample = stage_definition(f"sample@{name}")
    assert sample["cmd"] == f"python -m {method.program} {name}" and sample["outs"] == [f"data/samples/{name}"]
    models = {dep for dep in sample["deps"] if dep.startswith("models/")}
    assert models == {"models/base_generator", method.lora, method.reward_folder(params)} - {None}
    assert (method.guidance or "sampling") in sample["params"]
    assert {f"data/samples/{name}", *({method.lora} - {None})} <= set(stage_definition("evaluate")["deps"])
    assert (f"align@{name}" in all_names()) == (method.training is not None)
    if method.training:
        align = stage_definition(f"align@{name}")
        assert align["cmd"] == f"python -m {method.training.program}" and align["outs"] == [method.lora]
        assert f"align.{method.training.params}" in align["params"]


def resting_on(file: str) -> set[str]:
    """Stages with a code dep on the file."""
    found = {name: stage_definition(name)["deps"] for name in all_names()}
    return {name for name, deps in found.items() if any(file == dep or file.startswith(f"{dep}/") for dep in deps)}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("alignment/methods/sft.py", {"align@sft"}),
        ("alignment/methods/flow_rwr.py", {"align@rwr"}),
        ("alignment/methods/flow_dpo.py", {"align@dpo", "round@2", "round@3", *ONLINE_STAGES}),
        ("alignment/reference.py", {"align@dpo", "round@2", "round@3", *ONLINE_STAGES}),
        ("alignment/methods/diffusion_nft.py", set(ONLINE_STAGES)),
        ("online/loop.py", set(ONLINE_STAGES)),
        ("guidance/flow_nrg.py", {"sample@nrg", "tradeoff"}),
        ("guidance/best_of_n.py", {"sample@best_of_n", "tradeoff"}),
        (
            "guidance/latent_reward.py",
            {"latent_reward", "sample@nrg", "sample@best_of_n", "tradeoff", *ONLINE_STAGES},
        ),
        ("methods.py", {"evaluate"}),
    ],
)
def test_a_change_of_a_methods_code_is_a_change_of_its_stages_alone(file, stages):
    assert Path("components", file).exists() and resting_on(f"components/{file}") == stages


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
        *("pretrain_generator", "pretrain_ltx", "pretrain_vlm", "base_generator", "source", "measure", "curate", "pairs"),
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
        *("judge_reward", "round", "online"),
    }
    assert {name for name in all_names() if "@" in name} == {
        *("judge_reward@prompts", "round@2", "round@3", *ONLINE_STAGES),
        *(f"align@{method}" for method in trained()),
        *(f"sample@{method}" for method in METHODS),
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


@pytest.mark.parametrize("name", ONLINE)
def test_an_online_method_is_a_stage_that_the_default_graph_lacks(name):
    stage = stage_definition(f"online@{name}")
    assert stage["cmd"] == f"python -m components.online.run {name}" and ONLINE[name].lora in stage["outs"]
    assert f"online@{name}" in stage_names() and "online" in stage["params"]
    order = set(edges())
    assert {("reward", f"online@{name}"), ("sample@base", f"online@{name}")} <= order
    assert not {later for earlier, later in order if earlier.startswith("online@")}, "nothing depends on it"
    assert load_params().online.rounds == {}


def test_a_judge_from_peoples_pairs_is_made_before_it_judges():
    order = set(edges())
    assert ("pairs", "judge_reward@prompts") in order
    assert {("judge_reward@prompts", name) for name in ("evaluate", "tradeoff", "round@2")} <= order
    beside = {"reward", "relabel", "align@dpo", "latent_reward", "candidates", "sample@nrg", "sample@best_of_n"}
    assert not {("judge_reward@prompts", name) for name in beside} & order
    params = load_params("infra/profiles/wan2.1-1.3b.yaml").model_dump()
    for section, change, why in (
        ("judge_reward", {"held_out": {}}, "keeps no pairs for it"),
        ("evaluate", {"judge_files": "judges"}, "judge_files must be models/judge_reward"),
        ("judge_reward", {"held_out": {"clips": 0.5}}, "should be 'prompts' or 'annotators'"),
        ("judge_reward", {"held_out": {"prompts": 0.5, "annotators": 0.5}}, "at most 1 item"),
        ("judge_reward", {"held_out": {"prompts": 1.0}}, "less than 1"),
    ):
        with pytest.raises(ValidationError, match=why):
            Params.model_validate(params | {section: params[section] | change})


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


def test_every_stage_has_a_group():
    """Also those that params.yaml switches on: a DAG draws each in the box of its group."""
    assert set(STAGES) == {stage for stages in GROUPS.values() for stage in stages}
