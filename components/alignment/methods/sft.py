"""Stage `align@sft`: plain flow matching on the chosen clips (the paper's baseline).

loss = E[ |v - v_theta(x_t, t)|^2 ] over the winners
"""

import torch

from components.alignment.data import load_candidates, load_pairs
from components.alignment.policy import BASE, new_policy, save_aligned
from components.alignment.regression import regression
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.runtime.training import fit


def sft_loss(errors: torch.Tensor) -> torch.Tensor:
    """Mean of squared velocity errors [B] (each the mean over a clip's latents)."""
    return errors.mean()


def sft(stage: Stage) -> None:
    """Train a LoRA on the winners of the relabelled pairs; ties have none.

    Reads: the base generator, the candidates' latents and text, the pairs. Writes: models/aligned/sft. Fails with BadInput
    where latents or pairs are of other models. Resumes from the last checkpoint of `fit`.
    """
    params, base = stage.params.align, folder_digest(BASE)
    transformer = new_policy(stage)
    candidates = load_candidates(base)
    pairs = load_pairs(candidates)

    winners = pairs.chosen[~pairs.tied.numpy()]

    def plain(errors: torch.Tensor, indices: list[int]) -> torch.Tensor:
        return sft_loss(errors)

    loss_fn = regression(candidates, winners, params.sft, params.timesteps, plain, transformer.span)
    rows = fit(stage, transformer, loss_fn, len(winners), params.sft.training, offload=params.offload, name="sft")
    record = {"method": "sft", "base": base, "examples": len(winners), "reward_model": pairs.labelled_by}
    save_aligned(stage, transformer, "models/aligned/sft", rows, record)


if __name__ == "__main__":
    stage_main("align@sft", sft)
