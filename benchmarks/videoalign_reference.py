"""The public VideoReward code, run in an environment of its own for videoalign.py. Imports nothing of this repository.

    python videoalign_reference.py REPOSITORY JOB.json

Without a video it writes a random checkpoint of the job's base. With videos it prints one JSON object: seconds of scoring
them in batches of the given size, and raw scores.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

# A torchvision of another build than torch's lacks these operators, and its import needs their names. None is called.
OPERATORS = ("nms", "qnms", "roi_align", "qroi_align", "ps_roi_align", "ps_roi_pool", "roi_pool", "deform_conv2d")
BACKWARD = ("_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward", "_ps_roi_pool_backward")


def main(repository: str, job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    names = torch.library.Library("torchvision", "FRAGMENT")
    for name in (*OPERATORS, *BACKWARD, "_deform_conv2d_backward"):
        names.define(f"{name}(Tensor a) -> Tensor")
    sys.path.insert(0, repository)
    os.chdir(job["folder"])
    import inference  # the repository's
    import utils

    # The repository's default of its TrainingConfig is FlashAttention 2, which no CPU has.
    plain = utils.TrainingConfig
    inference.TrainingConfig = lambda **settings: plain(**settings | {"disable_flash_attn2": True, "use_cpu": True})
    if not job["videos"]:
        make(job["run"], inference)
        return
    reward = inference.VideoVLMRewardInference(job["run"], device="cpu", dtype=torch.float32)
    print(json.dumps(measure(reward, job)))


def make(run: str, inference) -> None:
    """Write checkpoint-1 of a run with random weights: every tensor of the model that the run's settings describe."""
    _, _, model, lora, _ = inference.load_configs_from_json(f"{run}/model_config.json")
    parts = (inference.ModelConfig(**model), inference.PEFTLoraConfig(**lora), inference.TrainingConfig(output_dir=""))
    torch.manual_seed(0)
    made, *_ = inference.create_model_and_processor(*parts)
    Path(run, "checkpoint-1").mkdir()
    torch.save(made.state_dict(), f"{run}/checkpoint-1/model.pth")


def measure(reward, job: dict) -> dict:
    videos, prompts, size = job["videos"], job["prompts"], job["batch"]

    def score() -> list[dict[str, float]]:
        starts = range(0, len(videos), size)
        with torch.inference_mode():
            parts = [reward.reward(videos[i : i + size], prompts[i : i + size], use_norm=False) for i in starts]
        return [row for part in parts for row in part]

    scores = score()
    start = time.perf_counter()
    score()
    seconds = (time.perf_counter() - start) / len(videos)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "scores": [[row["VQ"], row["MQ"], row["TA"]] for row in scores]}


if __name__ == "__main__":
    main(*sys.argv[1:])
