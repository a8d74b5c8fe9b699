"""The plan of a generator with two transformers: one is in memory while sampling, those that train while training."""

import json

import pytest

from components.config.params import Params, load_params
from components.planning import costs
from components.planning.budget import budget
from tests.conftest import REPOSITORY
from tests.planning.test_rehearsal import narrow

PROFILE = "wan2.2-a14b"


@pytest.fixture
def params(tmp_path, monkeypatch) -> Params:
    (tmp_path / f"{PROFILE}.json").write_text(json.dumps(narrow(PROFILE)))
    monkeypatch.setattr(costs, "ARCHITECTURES", tmp_path)
    return load_params(REPOSITORY / f"infra/profiles/{PROFILE}.yaml")


def test_memory_disk_and_parameters(params):
    two = budget(params)
    file = costs.ARCHITECTURES / f"{PROFILE}.json"
    alone = {key: value for key, value in json.loads(file.read_text()).items() if key != "transformer_2"}
    file.write_text(json.dumps(alone))
    one = budget(params)
    weights = one.parameters["transformer"] * 2  # bfloat16
    assert two.parameters["transformer 2"] == two.parameters["transformer"] == one.parameters["transformer"]
    for stage in ("candidates", "sample@dpo", "sample@nrg"):
        assert two.memory[stage] == one.memory[stage] and two.operations["candidates"] == one.operations["candidates"]
    trained, single = (found.memory["align@dpo"]["training"] for found in (two, one))
    assert trained["transformer"] == 2 * weights and single["transformer"] == weights
    assert trained["LoRA and Adam"] == 2 * single["LoRA and Adam"] and two.parameters["LoRA"] == 2 * one.parameters["LoRA"]
    assert two.disk["generator"] - one.disk["generator"] == 3 * weights


def test_one_that_trains_alone_is_alone_in_memory(params):
    both = budget(params).memory["align@dpo"]["training"]
    align = params.align.model_copy(update={"experts": "high_noise"})
    alone = budget(params.model_copy(update={"align": align})).memory["align@dpo"]["training"]
    assert both["transformer"] == 2 * alone["transformer"] and both["activations"] == alone["activations"]
