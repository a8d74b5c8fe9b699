"""VideoReward of 2 billion parameters (Qwen2-VL-2B's architecture, random weights) on a GPU, in bf16: `make bench-gpu`.

Videos per second, share of the GPU's peak and peak memory, from batch 1 to the largest that fits. Speed does not depend on
the weights' values. torch counts FLOPs while the model runs; the peak of a GPU is its specified dense bf16 rate.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from components.errors import BadInput, exit_codes
from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.inputs import Batch, Clip
from components.reward.model import VideoReward
from components.reward.prompt import TEMPLATES, PromptBuilder, read_template
from components.simulation.small_vlm import train_tokenizer

DIMENSIONS = ["VQ", "MQ", "TA"]
# Dense bf16, FLOP/s, by a part of the driver's device name.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
REPEATS = 5


def main(
    frames: Annotated[int, typer.Option(help="Frames of a video that the model sees.")] = 10,
    side: Annotated[int, typer.Option(help="Height and width of a frame, px; a multiple of 28.")] = 448,
    largest: Annotated[int, typer.Option(help="Largest batch to try.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """Print a table of forward passes, a row a batch size."""
    if not torch.cuda.is_available():
        raise BadInput("benchmarks/gpu.py", "torch sees no GPU here")
    card = torch.cuda.get_device_name()
    peak = next((flops for name, flops in PEAK.items() if name in card), None)
    model = two_billion("cuda")
    print(
        f"{card}, torch {torch.__version__}, {sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion parameters, bf16"
    )
    print(f"{frames} frames of {side} x {side} px")
    print("batch  tokens  ms/forward  videos/s  TFLOP/s  of peak  memory GiB")
    rows = []
    batch = 1
    while batch <= largest:
        try:
            row = measure(model, batch, frames, side)
        except torch.cuda.OutOfMemoryError:
            print(f"{batch:5}  does not fit")
            break
        row["of_peak"] = row["flops_per_s"] / peak if peak else None
        rows.append(row)
        share = f"{row['of_peak']:7.1%}" if peak else "      ?"
        print(
            f"{batch:5}  {row['tokens']:6}  {1000 * row['seconds']:10.1f}  {batch / row['seconds']:8.2f}"
            f"  {row['flops_per_s'] / 1e12:7.1f}  {share}  {row['memory_gib']:10.2f}",
            flush=True,
        )
        batch *= 2
    if out is not None:
        out.write_text(json.dumps({"card": card, "frames": frames, "side": side, "rows": rows}, indent=1) + "\n")


def two_billion(device: str) -> VideoReward:
    """The published model's sizes in bf16, random weights, with a small tokenizer: a few dozen text tokens are negligible
    next to a video's."""
    tokenizer = train_tokenizer(["a red circle moving up"], 512)
    pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
            "pad_token_id": pad,
        },
        vision_config={"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=True,
    )
    config.dtype = torch.bfloat16
    with torch.device(device):
        network = Qwen2VLForConditionalGeneration._from_config(config)
    template = read_template(TEMPLATES / "detailed.txt", DIMENSIONS, "special")
    prompts = PromptBuilder(tokenizer, Qwen2VL.video_token, template, DIMENSIONS, "special")
    return VideoReward(Qwen2VL(network), prompts, "shared", "plain").to(device).eval()


def measure(model: VideoReward, count: int, frames: int, side: int) -> dict[str, float]:
    """Median seconds of a forward pass of `count` videos, its FLOPs and memory."""
    batch = inputs(model, count, frames, side).to(torch.device("cuda"))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            scores = model(batch)
        assert torch.isfinite(scores).all()
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(timed(model, batch) for _ in range(REPEATS))
    return {
        "batch": count,
        "tokens": batch.input_ids.numel(),
        "seconds": seconds,
        "flops_per_s": counter.get_total_flops() / seconds,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def timed(model: VideoReward, batch: Batch) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    model(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def inputs(model: VideoReward, count: int, frames: int, side: int) -> Batch:
    rng = np.random.default_rng(0)
    ids = model.prompts.ids("a red circle moving up", model.patch_shape.tokens(frames, side, side))
    videos = [rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8) for _ in range(count)]
    return model.batch([(ids, Clip(video, 2.0)) for video in videos])


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
