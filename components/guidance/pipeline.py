"""Flow-NRG for sampling with diffusers: a WanPipeline with a latent reward model and weights. Text is padded to the length
that the generator was trained on (components/generator/pipeline.py).

    pipeline = FlowNRGPipeline.from_pretrained("models/base_generator")
    reward = load_latent_reward("models/latent_reward", pipeline.transformer, folder_digest("models/base_generator"))
    pipeline("a red circle moving up", reward=reward, nrg=NrgParams(...), height=32, width=32, num_frames=9)

Any scheduler that steps along a flow's velocity works. All else is WanPipeline's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

from components.generator.pipeline import ShortTextWanPipeline
from components.generator.wan import TIMESTEPS
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward
from components.params import NrgParams


class FlowNRGPipeline(ShortTextWanPipeline):
    """WanPipeline with reward guidance after classifier-free guidance."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        reward: LatentReward,
        nrg: NrgParams,
        weights: Sequence[Mapping[str, float] | None] | None = None,
        num_videos_per_prompt: int = 1,
        max_sequence_length: int = 512,
        **settings: Any,
    ) -> WanPipelineOutput | tuple:
        """As WanPipeline's, with `nrg` and, per clip, `weights` (components/guidance/flow_nrg.py)."""
        text, _ = self.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            num_videos_per_prompt=num_videos_per_prompt,
            max_sequence_length=max_sequence_length,
            device=self._execution_device,
        )
        text = text.to(self.transformer.dtype)  # as the pipeline does
        step, said = self.scheduler.step, None

        def guided_step(
            velocity: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *more: Any, **named: Any
        ) -> Any:
            nonlocal said
            said = velocity
            # Latents take the velocity's dtype in the scheduler; half precision would round the noise level as well.
            return step(flow(sample.float(), float(timestep) / TIMESTEPS), timestep, sample, *more, **named)

        # The pipeline computes the velocity before each call of the scheduler's step.
        flow = flow_nrg(lambda x, t: said, reward, text, nrg, weights, shared=False)
        self.scheduler.step = guided_step
        try:
            return super().__call__(
                prompt,
                num_videos_per_prompt=num_videos_per_prompt,
                max_sequence_length=max_sequence_length,
                **settings,
            )
        finally:
            del self.scheduler.step
