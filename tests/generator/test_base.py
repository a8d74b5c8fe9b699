"""Stage base_generator on a folder of the user's: copied as it is, and what clips are drawn with is said."""

import pytest
from diffusers import UniPCMultistepScheduler

from components.errors import BadInput
from components.generator.base import base_generator
from components.generator.wan import save_generator
from components.stage import folder_digest
from components.text_files import read_json
from tests.generator.small import tiny_generator


@pytest.fixture
def stage(bare_stage, tmp_path):
    save_generator(tiny_generator(), tmp_path / "mine")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0).save_pretrained(
        tmp_path / "mine/scheduler"
    )
    mine = {"folder": str(tmp_path / "mine"), "probe_prompts": 0}
    chosen = bare_stage.params.base_generator.model_copy(update=mine)
    bare_stage.params = bare_stage.params.model_copy(update={"base_generator": chosen})
    bare_stage.output = lambda path: tmp_path / path
    return bare_stage


def test_a_folder_keeps_its_scheduler(stage, tmp_path):
    base_generator(stage)
    assert folder_digest(tmp_path / "models/base_generator") == folder_digest(tmp_path / "mine")
    assert read_json(tmp_path / "metrics/base_generator.json")["digest"] == folder_digest(tmp_path / "mine")
    assert "Euler steps with shift 3.0" in stage.said[0] and "FlowMapEulerDiscreteScheduler(shift=3.0)" in stage.said[0]
    assert stage.said[1].endswith("UniPCMultistepScheduler with shift 5.0")


def test_a_folder_that_cannot_draw_is_not_pinned(stage, tmp_path):
    (tmp_path / "mine/tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="tokenizer: no tokenizer here"):
        base_generator(stage)
    assert not (tmp_path / "models").exists() and not (tmp_path / "metrics").exists()
