"""Stage `sample@best_of_n`: clips of evaluation prompts, each the best of several by a reward model."""

import sys
from functools import partial

from components.evaluation.sample import sample_with, sampler_of
from components.guidance.best_of_n import BestOfNSpec
from components.methods import METHODS
from components.pipeline.stage import Stage, stage_main


def sample_best_of_n(method: str, stage: Stage) -> None:
    """Draw the clips of a method whose params section is one of best of N.

    Reads: the base generator, the method's LoRA, the reward model that ranks, the prompts. Writes: data/samples/<method>.
    Fails with BadInput where a model is of another generator, or a clip has no score. Resumes from the last finished batch.
    """
    sample_with(stage, method, BestOfNSpec(sampler_of(method, stage), *METHODS[method].guide(stage.params)))


if __name__ == "__main__":
    stage_main(f"sample@{sys.argv[1]}", partial(sample_best_of_n, sys.argv[1]))
