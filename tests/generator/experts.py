"""A tiny Wan 2.2 A14B pipeline of the real classes: two transformers, UniPC, and text padded as WanPipeline does."""

from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from tests.generator.small import tiny_generator

STEPS = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4}
TIMESTEPS = (999, 900, 750, 500)  # of UniPC in 4 steps with shift 3


def save_experts(folder: Path, boundary: float | None = 0.875) -> None:
    first, second = tiny_generator(1), tiny_generator(2)
    first.text.tokenizer.model_max_length = 512
    WanPipeline(
        tokenizer=first.text.tokenizer,
        text_encoder=first.text.model,
        vae=first.vae,
        transformer=first.model.transformer,
        transformer_2=second.model.transformer,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        boundary_ratio=boundary,
    ).save_pretrained(folder)


def pipeline_latents(pipeline: WanPipeline, prompts: list[str], noise: torch.Tensor, *scales: float) -> torch.Tensor:
    """scales: guidance_scale and guidance_scale_2."""
    names = dict(zip(("guidance_scale", "guidance_scale_2"), scales, strict=False))
    return pipeline(prompts, latents=noise, output_type="latent", **STEPS, **names).frames
