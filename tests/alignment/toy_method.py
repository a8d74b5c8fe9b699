"""A toy method, as one file: flow matching on the rejected clips. Stage `align@toy`."""

import torch

from components.alignment.data import load_candidates, load_pairs
from components.alignment.policy import BASE, new_policy, save_aligned
from components.alignment.regression import regression
from components.methods import METHODS
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.runtime.training import fit


def toy_loss(errors: torch.Tensor, indices: list[int]) -> torch.Tensor:
    return errors.mean()


def toy(stage: Stage) -> None:
    params, base = stage.params.align, folder_digest(BASE)
    transformer = new_policy(stage)
    candidates = load_candidates(base)
    pairs = load_pairs(candidates)
    loss_fn = regression(candidates, pairs.rejected, params.sft, params.timesteps, toy_loss)
    rows = fit(stage, transformer, loss_fn, len(pairs), params.sft.training, name="toy")
    record = {"method": "toy", "base": base, "examples": len(pairs), "reward_model": pairs.labelled_by}
    save_aligned(stage, transformer, METHODS["toy"].lora, rows, record)


if __name__ == "__main__":
    stage_main("align@toy", toy)
