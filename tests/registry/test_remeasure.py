"""A champion's clips drawn anew are the ones that the stage sample draws, judged as the stage evaluate judges them."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from components.alignment.lora import add_lora, save_lora
from components.config.params import load_params
from components.contracts import BASE_GENERATOR
from components.errors import BadInput
from components.evaluation import sample
from components.evaluation.judging import judged_with
from components.evaluation.settings import common_settings, drawn_with, write_settings
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.spec import SamplerSpec
from components.pipeline.stage import folder_digest, write_json
from components.registry.remeasure import remeasure
from components.registry.versions import Version
from components.simulation.judge import judge
from components.video.decode import read_frames
from tests.conftest import REPOSITORY, BareStage
from tests.evaluation.fixtures import GOLD_PANEL
from tests.generator.small import tiny_generator

PROMPTS = [(f"p{n}", f"a red circle moving {way}") for n, way in enumerate(("up", "down"))]


@pytest.fixture
def champion(tmp_path, monkeypatch) -> Version:
    """A LoRA of the generator in models/base_generator of the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    save_generator(tiny_generator(), Path(BASE_GENERATOR))
    transformer = load_generator(BASE_GENERATOR).model
    add_lora(transformer, load_params().align.lora, seed=1)
    for name, weight in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    save_lora(transformer, Path("lora"))
    write_json("lora/alignment.json", {"base": folder_digest(BASE_GENERATOR), "method": "dpo"})
    return Version("model", "3", "run", {}, Path("lora").absolute(), folder_digest("lora"))


def params(**sampling):
    given = load_params()
    size = {"height": 16, "width": 16, "frames": 5, "steps": 2, "batch_size": 3} | sampling
    one = given.sample.model_copy(update={"seeds_per_prompt": 2})
    return given.model_copy(update={"sampling": given.sampling.model_copy(update=size), "sample": one})


def test_the_clips_are_those_of_the_stage(champion, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "evaluation_prompts", lambda stage: PROMPTS)
    monkeypatch.setattr(sample, "evaluation_images", lambda stage: {})
    stage = BareStage(tmp_path / "state")
    stage.params = params()
    sample.draw_samples(stage, SamplerSpec(BASE_GENERATOR, "lora"), tmp_path / "samples")
    clips = pd.read_parquet(tmp_path / "samples/samples.parquet")
    settings = drawn_with(stage.params, folder_digest(BASE_GENERATOR)) | judged_with(GOLD_PANEL)
    found, _ = remeasure(champion, clips, Path("data/samples/dpo"), settings, stage.params, lambda items, *_: items)
    assert len(found) == 4 and list(found.prompt_id) == list(clips.prompt_id)
    (state,) = Path(".reelign/registry/clips").iterdir()
    for row in clips.itertuples():
        clip = f"{row.prompt_id}_{row.seed}"
        assert (state / f"{clip}.mp4").read_bytes() == (tmp_path / "samples" / row.path).read_bytes()
    verdict = judge(read_frames(state / "p0_0.mp4"), PROMPTS[0][1])
    assert found.gold_VQ[0] == verdict.VQ
    with pytest.raises(BadInput, match=r"params\.yaml: different settings: sampling\.steps is 3, and 2 for the challenger"):
        remeasure(champion, clips, Path("data/samples/dpo"), settings, params(steps=3), lambda items, *_: items)
    monkeypatch.setattr("components.registry.remeasure.code_digest", lambda modules: "of other libraries")
    remeasure(champion, clips, Path("data/samples/dpo"), settings, stage.params, lambda items, *_: items)
    assert len(list(Path(".reelign/registry/clips").iterdir())) == 2, "clips that other libraries drew do not serve again"
    write_json("lora/alignment.json", {"base": "another", "method": "dpo"})
    with pytest.raises(BadInput, match="was trained on base generator another"):
        remeasure(champion, clips, Path("data/samples/dpo"), settings, stage.params, lambda items, *_: items)


def test_methods_of_unlike_settings_are_not_compared(tmp_path):
    base, dpo = tmp_path / "base", tmp_path / "dpo"
    write_settings(base, drawn_with(params(), "b"))
    write_settings(dpo, drawn_with(params(batch_size=1), "b"))
    assert common_settings({"base": base, "dpo": dpo}) == drawn_with(params(), "b")
    write_settings(dpo, drawn_with(params(guidance_scale=9.0), "b"))
    with pytest.raises(BadInput, match=r"settings\.json: different settings: .*\.guidance_scale is 9\.0, and .* for base;"):
        common_settings({"base": base, "dpo": dpo})
    assert common_settings({"base": base, "others": tmp_path}) is None
