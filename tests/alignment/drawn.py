"""Candidates drawn by the stage's own code."""

from pathlib import Path

from components.alignment.candidates import draw_candidates
from components.generator.spec import SamplerSpec
from components.preferences.prompts import sampled_prompts

FOLDER = Path("data/candidates")


def draw_base_candidates(stage, base: str = "models/base_generator") -> Path:
    """Those of the stage's params and prompts, by the generator in the folder `base`; their folder."""
    params = stage.params.candidates
    prompts = sampled_prompts(stage, "train", params.prompts)
    draw_candidates(stage, SamplerSpec(base), prompts, params.per_prompt, lambda name: FOLDER / name)
    return FOLDER
