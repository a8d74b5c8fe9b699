"""Flow-DPO in a cell's folder, with the policy's weights kept along the way: python -m benchmarks.claims.align SETTINGS.json

It is stage align@dpo with four differences: all labelled pairs train; nothing is held out; snapshots are kept at the steps
that SETTINGS.json lists; and with "weights": "full" all weights of the transformer train instead of a LoRA.
"""

import json
import sys
from pathlib import Path

import torch

from components.alignment.data import load_candidates, load_pairs
from components.alignment.lora import save_lora
from components.alignment.methods.flow_dpo import pair_loss
from components.alignment.policy import BASE, new_policy
from components.alignment.reference import CACHE
from components.contracts import ALIGNMENT_PAIRS, CANDIDATES
from components.generator.family import VelocityModel
from components.generator.folder import load_transformer
from components.pipeline.stage import Stage, folder_digest
from components.runtime.training import fit, write_rows

OUT = "models/aligned/dpo"


def train(stage: Stage, weights: str, snapshots: list[int]) -> None:
    """Write OUT/<step>, a LoRA or a transformer, for each of `snapshots`, and OUT/training.csv."""
    base, settings = folder_digest(BASE), stage.params.align.dpo
    policy = whole_policy() if weights == "full" else new_policy(stage)
    pairs = load_pairs(load_candidates(base))
    files = {"pairs": folder_digest(ALIGNMENT_PAIRS)}
    files |= {name: folder_digest(CANDIDATES / name) for name in ("latents", "text", "candidates.parquet")}
    loss_of = pair_loss(stage, policy, pairs, settings, {"base generator": base, "dtype": "float32", **files}, CACHE, None)
    draws, out, every = stage.params.align.draws, stage.output(OUT), settings.training.validate_every
    done = 0

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        return loss_of(model, indices, torch.randint(draws, (len(indices),), generator=draw).tolist())

    def keep(model: torch.nn.Module) -> dict[str, float]:
        nonlocal done
        done += every  # `fit` calls it once in so many steps; a killed cell begins anew
        if done in snapshots:
            save(policy, out / str(done), weights)
        return {}

    rows = fit(stage, policy, loss_fn, len(pairs), settings.training, validate=keep, name="dpo")
    missing = [step for step in snapshots if not (out / str(step)).exists()]
    if missing:
        raise ValueError(f"no snapshot at {missing}: each must be a multiple of {every} up to {settings.training.steps}")
    write_rows(out / "training.csv", rows)


def whole_policy() -> VelocityModel:
    """The base generator's transformer, all weights of which train."""
    policy = load_transformer(BASE)
    for weight in policy.parameters():
        weight.requires_grad_(True)
    return policy


def save(policy: VelocityModel, folder: Path, weights: str) -> None:
    if weights == "lora":
        folder.mkdir(parents=True)
        save_lora(policy, folder)
    else:
        policy.networks[""].save_pretrained(folder / "transformer")


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    Stage("align@dpo").run(lambda stage: train(stage, settings["weights"], settings["snapshots"]))
