"""Which scenes of the shapes world models may be trained on."""

from components.config.params import Params
from components.preferences.split import split_of
from components.simulation.world import Scene, all_scenes, prompt_of


def training_scenes(params: Params) -> list[Scene]:
    """Scenes whose prompts are in the training split: the only ones used for training anywhere."""
    return [scene for scene in all_scenes() if split_of(prompt_of(scene), params.split) == "train"]
