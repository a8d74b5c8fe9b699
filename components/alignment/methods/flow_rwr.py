"""Stage `align@rwr`: Flow-RWR, reward-weighted regression of a rectified flow (paper section 4.3).

    loss = E[ w(r) |v - v_theta(x_t, t)|^2 ],   w(r) = exp(r / temperature)

The paper leaves the scale of r and of the weights open. Here r is the reward normalised over the validation set of the
reward model, and `weighting` selects the weights:

    exp          exp(r / temperature), the equation unchanged: the effective learning rate depends on r
    mean_one     the same divided by its mean over the data set: the effective learning rate is that of SFT
    per_prompt   a softmax of r / temperature over each prompt's clips, times their number (Flow-GRPO's baseline of this
                 name): an easy prompt does not outweigh a hard one
"""

import numpy as np
import torch

from components.alignment.data import load_candidates, load_pairs, load_rewards
from components.alignment.policy import BASE, new_policy, save_aligned
from components.alignment.regression import regression
from components.config.params import RwrParams
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.runtime.training import fit


def reward_weights(rewards: np.ndarray, prompts: np.ndarray, params: RwrParams) -> np.ndarray:
    """Weights [N] of clips with normalised rewards [N] of `prompts` [N], at most `params.clip`. Weights of mean one are
    rescaled to mean one after clipping."""
    clip = np.inf if params.clip is None else params.clip
    if params.weighting == "exp":
        return np.minimum(np.exp(rewards / params.temperature), clip)
    groups = np.zeros(len(rewards), int) if params.weighting == "mean_one" else np.unique(prompts, return_inverse=True)[1]
    weights = np.empty(len(rewards))
    for group in np.unique(groups):
        members = groups == group
        # The largest exponent is subtracted first: only ratios matter, and exp must not overflow.
        raw = np.exp((rewards[members] - rewards[members].max()) / params.temperature)
        clipped = np.minimum(raw / raw.mean(), clip)
        weights[members] = clipped / clipped.mean()
    return weights


def flow_rwr_loss(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of squared velocity errors [B] (each the mean over a clip's latents)."""
    return (weights * errors).mean()


def rwr(stage: Stage) -> None:
    """Train a LoRA on all candidates, each weighted by its relabelled reward.

    Reads: the base generator, the candidates' latents and text, their scores, the pairs. Writes: models/aligned/rwr. Fails
    with BadInput where latents or scores are of other models. Resumes from the last checkpoint of `fit`.
    """
    params, base = stage.params.align, folder_digest(BASE)
    transformer = new_policy(stage)
    candidates = load_candidates(base)
    pairs = load_pairs(candidates)

    rewards = load_rewards(candidates)
    weights = torch.from_numpy(reward_weights(rewards, candidates.table.prompt_id.to_numpy(), params.rwr)).float()

    def weighted(errors: torch.Tensor, indices: list[int]) -> torch.Tensor:
        return flow_rwr_loss(errors, weights[indices].to(errors.device))

    loss_fn = regression(candidates, np.arange(len(rewards)), params.rwr, params.timesteps, weighted, transformer.span)
    rows = fit(stage, transformer, loss_fn, len(rewards), params.rwr.training, offload=params.offload, name="rwr")
    record = {"method": "rwr", "base": base, "examples": len(rewards), "reward_model": pairs.labelled_by}
    save_aligned(stage, transformer, "models/aligned/rwr", rows, record)


if __name__ == "__main__":
    stage_main("align@rwr", rwr)
