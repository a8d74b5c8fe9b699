"""Stage `sample@nrg`: clips of evaluation prompts, guided by the latent reward model (Flow-NRG)."""

import sys
from functools import partial

from components.evaluation.sample import sample_with, sampler_of
from components.guidance.flow_nrg import NrgSpec
from components.methods import METHODS
from components.pipeline.stage import Stage, stage_main


def sample_nrg(method: str, stage: Stage) -> None:
    """Draw the clips of a method whose params section is one of Flow-NRG.

    Reads: the base generator, the method's LoRA and latent reward model, the prompts. Writes: data/samples/<method>. Fails
    with BadInput where LoRA or reward model are of another generator. Resumes from the last finished batch.
    """
    sample_with(stage, method, NrgSpec(sampler_of(method, stage), *METHODS[method].guide(stage.params)))


if __name__ == "__main__":
    stage_main(f"sample@{sys.argv[1]}", partial(sample_nrg, sys.argv[1]))
