"""Stage base_generator on a folder of the user's: copied as it is, and what clips are drawn with is said."""

import pytest

from components.alignment.base_generator import base_generator
from components.errors import BadInput
from components.files.text import read_json
from components.generator.families.wan_small import save_generator
from components.pipeline.stage import folder_digest
from tests.generator.small import tiny_generator
from tests.generator.test_integration import FLOW, put_scheduler


@pytest.fixture
def stage(bare_stage, tmp_path):
    save_generator(tiny_generator(), tmp_path / "mine")
    put_scheduler(tmp_path / "mine", {"_class_name": "UniPCMultistepScheduler", **FLOW, "flow_shift": 5.0})
    mine = {"folder": str(tmp_path / "mine"), "probe_prompts": 0}
    chosen = bare_stage.params.base_generator.model_copy(update=mine)
    bare_stage.params = bare_stage.params.model_copy(update={"base_generator": chosen})
    bare_stage.output = lambda path: tmp_path / path
    return bare_stage


def test_a_folder_keeps_its_scheduler(stage, tmp_path):
    base_generator(stage)
    assert folder_digest(tmp_path / "models/base_generator") == folder_digest(tmp_path / "mine")
    assert read_json(tmp_path / "metrics/base_generator.json")["digest"] == folder_digest(tmp_path / "mine")
    assert stage.said[0] == "clips are sampled by Euler steps, shift 3, 8 steps"
    assert stage.said[1].endswith("UniPCMultistepScheduler with shift 5.0")


def test_a_folder_that_cannot_draw_is_not_pinned(stage, tmp_path):
    (tmp_path / "mine/tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="tokenizer: no tokenizer here"):
        base_generator(stage)
    assert not (tmp_path / "models").exists() and not (tmp_path / "metrics").exists()
