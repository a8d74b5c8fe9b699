"""Stage `latent_reward`: train the noise-aware reward model on the relabelled candidates.

Any two candidates of one prompt are a pair; a dimension's label is which one VideoReward scores higher, where they differ
by at least `min_margin` (in standard deviations of its validation set). Both clips get the same noise and the same
t ~ U(0, 1), and keep their preference.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import torch

from components.alignment.data import SCORES, Candidates, load_candidates
from components.alignment.reference import noised
from components.errors import BadInput
from components.generator.wan import load_transformer
from components.guidance.latent_reward import LatentReward, bradley_terry, first_blocks, save_latent_reward
from components.stage import Stage, folder_digest, run_stage, write_json
from components.tables import read_table
from components.training import fit, write_rows

BINS = 5
VALIDATION_SHARE = 0.15  # of the candidates' prompts


def latent_reward(stage: Stage) -> None:
    params = stage.params.latent_reward
    candidates = load_candidates()
    first, second, labels, prompts = labelled_pairs(candidates, params.dimensions, params.min_margin)
    held = held_out(prompts, stage.rng("held out"))
    torch.manual_seed(stage.seed("weights"))
    trunk = first_blocks(load_transformer("models/base_generator"), params.blocks)
    model = LatentReward(trunk.requires_grad_(True), params.dimensions)
    train = np.flatnonzero(~held)
    stage.say(f"{len(train)} pairs to train on, {held.sum()} to validate on")

    def both(net: torch.nn.Module, pairs: np.ndarray, t: torch.Tensor, x1: torch.Tensor) -> tuple:
        x0 = candidates.latents[np.concatenate([first[pairs], second[pairs]])]
        xt, _ = noised(x0, x1.repeat(2, 1, 1, 1, 1), t.repeat(2))
        text = candidates.text[first[pairs]].repeat(2, 1, 1)
        return net(xt, t.repeat(2), text).chunk(2)

    def loss_fn(net: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        pairs = train[indices]
        t = torch.rand(len(pairs), generator=draw)
        x1 = torch.randn((len(pairs), *candidates.latents.shape[1:]), generator=draw)
        a, b = both(net, pairs, t, x1)
        return bradley_terry(a, b, labels[pairs]), {}

    def validate(net: torch.nn.Module) -> dict[str, float]:
        """Accuracy on decided pairs of held-out prompts, by noise bin and dimension."""
        pairs = np.flatnonzero(held)
        result = {}
        draw = torch.Generator().manual_seed(stage.seed("validation"))
        for b in range(BINS):
            t = (b + torch.rand(len(pairs), generator=draw)) / BINS
            x1 = torch.randn((len(pairs), *candidates.latents.shape[1:]), generator=draw)
            parts = [both(net, pairs[s], t[s], x1[s]) for s in _slices(len(pairs), 64)]
            difference = torch.cat([a - b for a, b in parts])
            for d, name in enumerate(params.dimensions):
                decided = labels[pairs][:, d] != 0
                right = (difference[:, d] * labels[pairs][:, d] > 0)[decided]
                result[f"{name}/{b}"] = float(right.float().mean())
        return result

    rows = fit(stage, model, loss_fn, len(train), params.training, validate=validate)
    folder = stage.output("models/latent_reward")
    version = pd.DataFrame(read_table(SCORES)).reward_model.iloc[0]
    facts = {"generator": folder_digest("models/base_generator"), "reward_model": version}
    save_latent_reward(model, folder, facts)
    write_rows(folder / "training.csv", rows)
    accuracy = {name: [rows[-1][f"validation/{name}/{b}"] for b in range(BINS)] for name in params.dimensions}
    record = {
        "accuracy_by_noise_bin": accuracy,
        "bins": BINS,
        "pairs": {"train": len(train), "validation": int(held.sum())},
    }
    write_json(stage.output("metrics/latent_reward.json"), record)


def labelled_pairs(
    candidates: Candidates, dimensions: list[str], min_margin: float
) -> tuple[np.ndarray, np.ndarray, torch.Tensor, np.ndarray]:
    """Places of both clips [N], labels [N, D] (1, -1, 0 undecided) and the prompt id [N] of all pairs within prompts."""
    scores = pd.DataFrame(read_table(SCORES)).set_index("candidate_id")
    for name in dimensions:
        if name not in scores:
            raise BadInput(SCORES, "no such score", key=name)
    couples, labels, prompts = [], [], []
    for prompt_id, group in candidates.table.groupby("prompt_id", sort=True):
        values = scores.loc[group.candidate_id, dimensions].to_numpy()
        for i, j in combinations(range(len(group)), 2):
            difference = values[i] - values[j]
            label = np.sign(difference) * (np.abs(difference) >= min_margin)
            if label.any():
                couples.append((group.row.iloc[i], group.row.iloc[j]))
                labels.append(label)
                prompts.append(prompt_id)
    if not couples:
        raise BadInput(SCORES, "no two candidates of a prompt differ by the margin", key="latent_reward.min_margin")
    first, second = np.array(couples).T
    return first, second, torch.tensor(np.array(labels), dtype=torch.float32), np.array(prompts)


def held_out(prompts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mask [N] of pairs whose prompt is held out; all pairs of a prompt go together, at least one prompt is held."""
    names = np.unique(prompts)
    if len(names) < 2:
        raise BadInput(SCORES, "a single prompt cannot be split into training and validation")
    count = max(1, round(VALIDATION_SHARE * len(names)))
    return np.isin(prompts, rng.choice(names, count, replace=False))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


if __name__ == "__main__":
    run_stage("latent_reward", latent_reward)
