"""Draw a clip with diffusers, guided by a reward while it samples (Flow-NRG).

    python examples/guide_wan.py models/base_generator models/latent_reward "a red circle moving up" guided.mp4

Sizes and steps are those of the demo's generator. The latent reward model has to be trained for this very generator.
"""

import sys

import numpy as np

from components.config.params import NrgParams
from components.guidance.latent_reward import load_latent_reward
from components.guidance.pipeline import FlowNRGPipeline
from components.pipeline.stage import folder_digest
from components.video.encode import write_video

SIZE = {"height": 32, "width": 32, "num_frames": 9}


def main(generator: str, latent_reward: str, prompt: str, out: str) -> None:
    pipeline = FlowNRGPipeline.from_pretrained(generator)
    reward = load_latent_reward(latent_reward, pipeline.model, folder_digest(generator))
    nrg = NrgParams(weights={"TA": 1.0}, scale=7.0, start=0.0, stop=1.0, max_norm=0.1, gradient_checkpointing=False)
    sampling = {"num_inference_steps": 8, "guidance_scale": 2.0}
    clip = pipeline(prompt, reward=reward, nrg=nrg, **SIZE, **sampling).frames[0]  # [T, H, W, 3], 0 to 1
    write_video(out, (clip * 255).round().astype(np.uint8), fps=8)
    print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
