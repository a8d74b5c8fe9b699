"""Flow-NRG for sampling with diffusers: the pipeline of a generator's folder with a latent reward model and weights.

    pipeline = FlowNRGPipeline.from_pretrained("models/base_generator")
    reward = load_latent_reward("models/latent_reward", pipeline.model, folder_digest("models/base_generator"))
    pipeline("a red circle moving up", reward=reward, nrg=NrgParams(...), height=32, width=32, num_frames=9)

Any scheduler that steps along a flow's velocity works. Text is padded to the length that the generator was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.config.params import NrgParams
from components.errors import BadInput
from components.generator.family import Pipeline, VelocityModel, WithSound
from components.generator.folder import family_of
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward


@dataclass(frozen=True)
class FlowNRGPipeline:
    """A diffusers pipeline with reward guidance after classifier-free guidance. `pipeline` may get another scheduler, a
    device, a LoRA; model: the velocity of its transformer."""

    pipeline: Pipeline
    model: VelocityModel

    @classmethod
    def from_pretrained(cls, folder: str | Path, **settings: Any) -> "FlowNRGPipeline":
        """The pipeline of a generator's folder; `settings` are those of diffusers' from_pretrained. BadInput where no family
        has the folder's class."""
        family = family_of(folder)
        pipeline = family.load_pipeline(Path(folder), **settings)
        return cls(pipeline, VelocityModel(family, pipeline.transformer))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        reward: LatentReward,
        nrg: NrgParams,
        weights: Sequence[Mapping[str, float] | None] | None = None,
        num_videos_per_prompt: int = 1,
        **settings: Any,
    ) -> Any:
        """As the pipeline's, with `nrg` and, per clip, `weights` (components/guidance/flow_nrg.py). BadInput for one that
        draws sound: its scheduler's step has the video alone, and the reward reads both."""
        family, scheduler = self.model.family, self.pipeline.scheduler
        if isinstance(family, WithSound):
            raise BadInput(type(self.pipeline).__name__, "draws sound beside the video: guide it by `reelign generate`")
        conditioning = family.pipeline_conditioning(self.pipeline, prompt, num_videos_per_prompt, **settings)
        pack, unpack = family.pipeline_layout(self.pipeline, **settings)
        step = scheduler.step
        predicted: Any = None  # the velocity, once the pipeline has computed one

        def guided_step(output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *more: Any, **named: Any) -> Any:
            nonlocal predicted
            predicted = family.pipeline_velocity(unpack(output))
            # Latents take the velocity's dtype in the scheduler; half precision would round the noise level as well.
            guided = flow(unpack(sample).float(), family.pipeline_time(timestep))
            return step(pack(family.pipeline_velocity(guided)), timestep, sample, *more, **named)

        # The pipeline computes the velocity before each call of the scheduler's step.
        flow = flow_nrg(lambda x, t: predicted, reward, conditioning, nrg, weights, shared=False)
        scheduler.step = guided_step
        try:
            return self.pipeline(prompt, num_videos_per_prompt=num_videos_per_prompt, **settings)
        finally:
            del scheduler.step
