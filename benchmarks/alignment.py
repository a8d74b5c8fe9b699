"""Flow-DPO's training step five ways: seconds and peak memory, same batch, LoRA on a Wan transformer.

    python benchmarks/alignment.py                     two small transformers on the CPU
    python benchmarks/alignment.py --size 1.3b         Wan 2.1's 1.3B architecture with random weights, on a GPU

    separate_model     four passes, a second model as the reference: the common implementation of DPO
    separate_adapters  four passes, the reference is the model with its adapters off
    joined_live        chosen and rejected in one pass, for policy and for reference
    joined_cached      chosen and rejected in one pass; the reference's errors come from the table (what `align` does)
    joined_compiled    the same with the transformer's layers compiled (`align.compile: true`)

Each measurement runs in a separate process for a separate peak of memory; the ways alternate.
"""

import copy
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import psutil
import torch
import typer
from turns import middle, take_turns

from components.alignment.flow import flow_errors
from components.alignment.lora import adapters_off, add_lora, make_lean
from components.alignment.methods.flow_dpo import flow_dpo_loss
from components.config.params import LoraParams, load_params
from components.generator.conditioning import Conditioning
from components.generator.families.wan import Wan
from components.generator.family import VelocityModel

WAYS = ("separate_model", "separate_adapters", "joined_live", "joined_cached", "joined_compiled")


def shape(
    heads: int, width: int, layers: int, ffn: int, text: int, latents: tuple[int, ...], words: int, pairs: int
) -> dict:
    """A transformer and a batch of `pairs`: latents are [C, T', H', W'] of one clip, `words` the length of its text."""
    channels = latents[0]
    config = {"num_attention_heads": heads, "attention_head_dim": width, "num_layers": layers, "ffn_dim": ffn}
    config |= {"in_channels": channels, "out_channels": channels, "text_dim": text, "freq_dim": 256}
    return {"config": config, "latents": latents, "words": words, "pairs": pairs}


SHAPES = {
    "tiny": shape(4, 24, 6, 384, 48, (8, 3, 16, 16), 16, 16),
    "mid": shape(6, 64, 12, 1536, 512, (16, 5, 16, 16), 64, 4),
    "1.3b": shape(12, 128, 30, 8960, 4096, (16, 5, 60, 104), 512, 1),  # 17 frames of 480 x 832
}
STEPS = {"tiny": 12, "mid": 4, "1.3b": 6}

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def main(
    size: Annotated[str, typer.Option(help="Transformers to measure, of tiny, mid and 1.3b.")] = "tiny,mid",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print seconds and peak memory of a step, absolute and relative to the first way."""
    if way is not None:
        print(json.dumps(measure(size, way)))
        return
    for name in size.split(","):
        turns = take_turns(__file__, ["--size", name], WAYS, repeats)
        first, pairs = WAYS[0], SHAPES[name]["pairs"]
        about = turns[0][first]
        print(f"{name}: {about['parameters'] / 1e6:.1f}M parameters, {pairs} pairs a step, on {about['device']}")
        for way in WAYS:
            print(
                f"  {way:18} {middle(turns, way, 'seconds'):7.3f} s a step  {middle(turns, first, 'seconds', way):.2f}x   "
                f"{middle(turns, way, 'peak') / 2**20:7.0f} MB  {middle(turns, way, 'peak', first):.2f} of the first",
                flush=True,
            )
        fill = middle(turns, "joined_cached", "fill")
        saved = middle(turns, "joined_live", "seconds") - middle(turns, "joined_cached", "seconds")
        print(f"  a cell of the table costs {fill / pairs:.4f} s a pair; it has paid after"
              f" {fill / saved:.1f} uses, in time against joined_live")  # fmt: skip


def measure(size: str, way: str) -> dict:
    """Median seconds of a step, peak memory in bytes above that of the process before the model was made."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = psutil.Process().memory_info().rss
    sizes = SHAPES[size]
    model = make_model(sizes).to(device, dtype).requires_grad_(False)
    if device == "cuda":
        model.transformer.enable_gradient_checkpointing()
    reference = copy.deepcopy(model) if way == "separate_model" else None
    params = load_params().align
    add_lora(model, LoraParams(rank=64, alpha=128, targets=["to_q", "to_k", "to_v", "to_out.0"]), seed=0)
    for name, weight in model.named_parameters():  # a zero LoRA would measure a step of the base
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    batch = make_batch(sizes, device, dtype)
    with torch.no_grad(), adapters_off(model):
        fill = timed(lambda: joined(model, batch), device)
        table = joined(model, batch)
    if way == "joined_compiled":
        make_lean(model, params.model_copy(update={"compile": True}))
    errors = {
        "separate_model": lambda: (*separate(model, batch), *without_gradient(lambda: separate(reference, batch))),
        "separate_adapters": lambda: (*separate(model, batch), *base_errors(model, lambda: separate(model, batch))),
        "joined_live": lambda: (*joined(model, batch), *base_errors(model, lambda: joined(model, batch))),
        "joined_cached": lambda: (*joined(model, batch), *table),
        "joined_compiled": lambda: (*joined(model, batch), *table),
    }[way]

    def step() -> None:
        loss, _ = flow_dpo_loss(*errors(), batch["t"], params.dpo)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    gc.collect()
    seconds = statistics.median(timed(step, device) for _ in range(STEPS[size]))
    peak = (
        torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "seconds": seconds,
        "fill": fill,
        "peak": peak if device == "cuda" else peak - before,
        "parameters": sum(weight.numel() for weight in model.parameters()) - sum(weight.numel() for weight in trained),
        "device": torch.cuda.get_device_name() if device == "cuda" else "the CPU",
    }


def make_model(sizes: dict) -> VelocityModel:
    return VelocityModel(Wan(), Wan().untrained("transformer", {"transformer": sizes["config"]}))


def make_text(sizes: dict, rows: int) -> Conditioning:
    return Conditioning({"text": torch.randn(rows, sizes["words"], sizes["config"]["text_dim"])})


def make_batch(sizes: dict, device: str, dtype: torch.dtype) -> dict[str, Any]:
    pairs, latents = sizes["pairs"], sizes["latents"]
    chosen, rejected, x1 = (torch.randn(pairs, *latents, device=device, dtype=dtype) for _ in range(3))
    t = torch.rand(pairs, device=device)
    return {"chosen": chosen, "rejected": rejected, "x1": x1, "t": t, "text": make_text(sizes, pairs).to(device, dtype)}


def separate(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of chosen and rejected clips, one pass each."""
    shared = (batch["x1"], batch["t"], batch["text"], "mean")
    return flow_errors(model, batch["chosen"], *shared), flow_errors(model, batch["rejected"], *shared)


def joined(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of chosen and rejected clips from one pass."""
    both = torch.cat([batch["chosen"], batch["rejected"]])
    x1, t = (torch.cat([batch[key]] * 2) for key in ("x1", "t"))
    return flow_errors(model, both, x1, t, batch["text"].repeat(2), "mean").chunk(2)


def without_gradient(errors: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return errors()


def base_errors(model: VelocityModel, errors: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad(), adapters_off(model):
        return errors()


def timed(function: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    app()
