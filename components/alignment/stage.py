"""Stage `align@{sft,rwr,dpo}`: fine-tune the base generator's LoRA on relabelled candidates.

Only the transformer is in memory: latents and text embeddings were made by `candidates`, and the frozen reference's errors
come from a table, so a step is one forward and one backward of the policy.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict

from components.alignment.candidates import FOLDER
from components.alignment.data import PAIRS, Candidates, load_candidates, load_pairs, load_rewards
from components.alignment.flow_dpo import change_by_timestep, flow_dpo_loss, squared_errors
from components.alignment.flow_rwr import flow_rwr_loss, reward_weights
from components.alignment.reference import make_grid, noised, pair_errors, reference_errors
from components.alignment.sft import sft_loss
from components.errors import BadInput
from components.generator.wan import load_transformer, velocity
from components.params import LoraParams
from components.stage import Stage, folder_digest, run_stage, write_json
from components.training import LossFn, fit, write_rows

BASE = "models/base_generator"


def align(method: str, stage: Stage) -> None:
    params = stage.params.align
    method_params = getattr(params, method)
    transformer = load_transformer(BASE)
    add_lora(transformer, params.lora, seed=stage.seed("lora"))
    candidates = load_candidates()

    if method == "dpo":
        loss_fn, count = dpo(stage, transformer, candidates)
    elif method == "rwr":
        weights = torch.from_numpy(reward_weights(load_rewards(candidates), method_params)).float()
        everything = np.arange(len(candidates.latents))
        loss_fn = regression(candidates, everything, method_params.prompt_dropout, lambda e, i: flow_rwr_loss(e, weights[i]))
        count = len(everything)
    else:
        winners = candidates.rows(load_pairs(candidates).table.chosen, PAIRS)
        loss_fn = regression(candidates, winners, method_params.prompt_dropout, lambda e, i: sft_loss(e))
        count = len(winners)

    rows = fit(stage, transformer, loss_fn, count, method_params.training, name=method)
    folder = stage.output(f"models/aligned/{method}")
    save_lora(transformer, folder)
    write_rows(folder / "training.csv", rows)
    record = {
        "method": method,
        "base": folder_digest(BASE),
        "examples": count,
        "reward_model": reward_model(candidates),
    }
    write_json(folder / "alignment.json", record)
    stage.register(f"reelign-{stage.params.profile}-aligned-{method}", f"models/aligned/{method}", record)


def dpo(stage: Stage, transformer: WanTransformer3DModel, candidates: Candidates) -> tuple[LossFn, int]:
    """The loss of Flow-DPO over pairs, its reference cached (default) or live (adapters off)."""
    params = stage.params.align
    pairs = load_pairs(candidates)
    grid = make_grid(len(pairs), params.grid, stage.seed("grid"))
    reduction = params.dpo.reduction
    if params.reference == "cached":
        identity = {
            "base": folder_digest(BASE),
            "pairs": folder_digest(PAIRS),
            "latents": folder_digest(FOLDER / "latents.safetensors"),
        }
        with adapters_off(transformer):
            table = reference_errors(stage, transformer, pairs, grid, reduction, identity)

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        draws = torch.randint(grid.t.shape[1], (len(indices),), generator=draw).tolist()
        chosen, rejected = pair_errors(model, pairs, indices, draws, grid, reduction)
        if params.reference == "cached":
            reference_chosen, reference_rejected = table[0, indices, draws], table[1, indices, draws]
        else:
            with torch.no_grad(), adapters_off(transformer):
                reference_chosen, reference_rejected = pair_errors(model, pairs, indices, draws, grid, reduction)
        return flow_dpo_loss(chosen, rejected, reference_chosen, reference_rejected, grid.t[indices, draws], params.dpo)

    return loss_fn, len(pairs)


def regression(candidates: Candidates, places: np.ndarray, prompt_dropout: float, loss: Callable) -> LossFn:
    """Flow matching on single clips, `loss(errors, indices)` deciding what each counts (SFT, Flow-RWR). A share of the
    prompts is dropped: sampling needs the model without a prompt as well."""

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = places[indices]
        t = torch.rand(len(rows), generator=draw)
        x0 = candidates.latents[rows]
        xt, target = noised(x0, torch.randn(x0.shape, generator=draw), t)
        dropped = torch.rand(len(rows), generator=draw) < prompt_dropout
        text = torch.where(dropped.view(-1, 1, 1), candidates.empty, candidates.text[rows])
        errors = squared_errors(target, velocity(model, xt, t, text), "mean")
        return loss(errors, indices), change_by_timestep("error", errors, t)

    return loss_fn


def add_lora(transformer: WanTransformer3DModel, params: LoraParams, seed: int) -> None:
    """A LoRA on the transformer's attention; B is zero, so the model is still the base."""
    names = [name for name, _ in transformer.named_modules()]
    for target in params.targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise BadInput("params.yaml", f"'{target}' matches no layer of the transformer", key="align.lora.targets")
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=params.rank, lora_alpha=params.alpha, target_modules=params.targets))


class adapters_off:
    """The base model, for as long as the block lasts."""

    def __init__(self, transformer: WanTransformer3DModel):
        self.transformer = transformer

    def __enter__(self) -> None:
        self.transformer.disable_adapters()

    def __exit__(self, *_: object) -> None:
        self.transformer.enable_adapters()


def save_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Write what WanPipeline.load_lora_weights reads, alpha included."""
    config = transformer.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order, and so the file, is another each run
    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=config,
    )
    sort_header(folder / "pytorch_lora_weights.safetensors")


def sort_header(file: Path) -> None:
    """Put a safetensors header in order: its writer orders metadata anew each time, and equal models would differ."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def reward_model(candidates: Candidates) -> str:
    """The version of the reward model whose labels this generator was aligned by."""
    return load_pairs(candidates).table.reward_model.iloc[0]


if __name__ == "__main__":
    run_stage(f"align@{sys.argv[1]}", partial(align, sys.argv[1]))
