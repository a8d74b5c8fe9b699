"""Stage `latent_reward`: train the noise-aware reward model on relabelled candidates and on labelled pairs.

Any two candidates of one prompt are a pair; the label of a dimension is which one VideoReward scores higher, if they differ
by at least `min_margin` (in standard deviations of its validation set). Both clips get the same noise and the same
t ~ U(0, 1), and keep their preference.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from components.alignment.data import SCORES, Candidates, load_candidates
from components.alignment.flow import noised
from components.errors import BadInput
from components.generator.wan import load_generator, load_transformer
from components.guidance.latent_reward import LatentReward, bradley_terry, first_blocks, save_latent_reward
from components.preferences.split import held_out
from components.reward.pairs import NO_LABEL, VIDEOS, read_pairs
from components.stage import Stage, folder_digest, run_stage, write_json
from components.tables import read_table
from components.training import fit, write_rows
from components.video.decode import read_frames

BASE = "models/base_generator"
BINS = 5
ENCODE_BATCH = 32  # clips
VALIDATION_SHARE = 0.15  # of the candidates' prompts


@dataclass(frozen=True)
class Comparisons:
    """Clips as latents [M, C, T', H', W'] with text [M, L, E]; pairs of them: places of both [N], labels [N, D] of 1, -1
    or 0 (undecided), and the prompt of each pair."""

    latents: torch.Tensor
    text: torch.Tensor
    first: np.ndarray
    second: np.ndarray
    labels: torch.Tensor
    prompts: np.ndarray

    def __add__(self, other: "Comparisons") -> "Comparisons":
        shift = len(self.latents)
        return Comparisons(
            torch.cat([self.latents, other.latents]),
            torch.cat([self.text, other.text]),
            np.concatenate([self.first, shift + other.first]),
            np.concatenate([self.second, shift + other.second]),
            torch.cat([self.labels, other.labels]),
            np.concatenate([self.prompts, other.prompts]),
        )


def latent_reward(stage: Stage) -> None:
    params = stage.params.latent_reward
    base = folder_digest(BASE)
    data = relabelled(load_candidates(base), params.dimensions, params.min_margin)
    if params.labelled_pairs:
        data += human_labelled(stage, params.dimensions)
    held = held_out(data.prompts, VALIDATION_SHARE, stage.rng("held out"), SCORES)
    torch.manual_seed(stage.seed("weights"))
    trunk = first_blocks(load_transformer(BASE), params.blocks)
    model = LatentReward(trunk.requires_grad_(True), params.dimensions)
    train, labels = np.flatnonzero(~held), data.labels
    stage.say(f"{len(train)} pairs to train on, {held.sum()} to validate on")

    def both(net: torch.nn.Module, pairs: np.ndarray, t: torch.Tensor, x1: torch.Tensor) -> tuple:
        x0 = data.latents[np.concatenate([data.first[pairs], data.second[pairs]])]
        xt, _ = noised(x0, x1.repeat(2, 1, 1, 1, 1), t.repeat(2))
        text = data.text[data.first[pairs]].repeat(2, 1, 1)
        device = next(net.parameters()).device
        return net(xt.to(device), t.repeat(2).to(device), text.to(device)).chunk(2)

    def loss_fn(net: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        pairs = train[indices]
        t = torch.rand(len(pairs), generator=draw)
        x1 = torch.randn((len(pairs), *data.latents.shape[1:]), generator=draw)
        a, b = both(net, pairs, t, x1)
        return bradley_terry(a, b, labels[pairs].to(a.device)), {}

    def validate(net: torch.nn.Module) -> dict[str, float]:
        """Accuracy on decided pairs of held-out prompts, by noise bin and dimension."""
        pairs = np.flatnonzero(held)
        result = {}
        draw = torch.Generator().manual_seed(stage.seed("validation"))
        for b in range(BINS):
            t = (b + torch.rand(len(pairs), generator=draw)) / BINS
            x1 = torch.randn((len(pairs), *data.latents.shape[1:]), generator=draw)
            parts = [both(net, pairs[s], t[s], x1[s]) for s in _slices(len(pairs), 64)]
            difference = torch.cat([a - b for a, b in parts]).cpu()
            for d, name in enumerate(params.dimensions):
                decided = labels[pairs][:, d] != 0
                right = (difference[:, d] * labels[pairs][:, d] > 0)[decided]
                result[f"{name}/{b}"] = float(right.float().mean())
        return result

    # The trunk knows its world already and is tuned gently; pooling and head start from nothing.
    trunk_parameters = list(model.trunk.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("trunk.")]
    groups = [
        {"params": rest, "lr": params.training.learning_rate},
        {"params": trunk_parameters, "lr": params.trunk_learning_rate},
    ]
    rows = fit(stage, model, loss_fn, len(train), params.training, groups=groups, validate=validate)
    folder = stage.output("models/latent_reward")
    version = pd.DataFrame(read_table(SCORES)).reward_model.iloc[0]
    facts = {"generator": base, "reward_model": version}
    save_latent_reward(model, folder, facts)
    write_rows(folder / "training.csv", rows)
    accuracy = {name: [rows[-1][f"validation/{name}/{b}"] for b in range(BINS)] for name in params.dimensions}
    record = {
        "accuracy_by_noise_bin": accuracy,
        "bins": BINS,
        "pairs": {"train": len(train), "validation": int(held.sum())},
    }
    write_json(stage.output("metrics/latent_reward.json"), record)


def relabelled(candidates: Candidates, dimensions: list[str], min_margin: float) -> Comparisons:
    """All pairs of candidates within prompts, labelled by VideoReward's scores."""
    scores = pd.DataFrame(read_table(SCORES)).set_index("candidate_id")
    for name in dimensions:
        if name not in scores:
            raise BadInput(SCORES, "no such score", key=name)
    couples, labels, prompts = [], [], []
    for prompt, group in candidates.table.groupby("prompt", sort=True):
        values = scores.loc[group.candidate_id, dimensions].to_numpy()
        for i, j in combinations(range(len(group)), 2):
            difference = values[i] - values[j]
            label = np.sign(difference) * (np.abs(difference) >= min_margin)
            if label.any():
                couples.append((group.row.iloc[i], group.row.iloc[j]))
                labels.append(label)
                prompts.append(prompt)
    if not couples:
        raise BadInput(SCORES, "no two candidates of a prompt differ by the margin", key="latent_reward.min_margin")
    first, second = np.array(couples).T
    decided = torch.tensor(np.array(labels), dtype=torch.float32)
    everything = range(len(candidates.latents))
    return Comparisons(
        candidates.latents[everything], candidates.text(everything), first, second, decided, np.array(prompts)
    )


def human_labelled(stage: Stage, dimensions: list[str]) -> Comparisons:
    """The training pairs that people labelled, their clips encoded by the generator's VAE (they must have its size)."""
    pairs = read_pairs("train", dimensions)
    sampling = stage.params.sampling
    size = (sampling.frames, sampling.height, sampling.width, 3)
    sides = list(dict.fromkeys(pairs.sides()))
    clips = []
    for path, _ in stage.progress(sides, "decode"):
        clip = read_frames(VIDEOS / path)
        if clip.shape != size:
            raise BadInput(pairs.file, f"{path} is {clip.shape}, the generator's clips are {size}", key="path_A")
        clips.append(clip)
    generator = load_generator(BASE, dtype=stage.params.base_generator.dtype)
    parts = range(0, len(sides), ENCODE_BATCH)
    with torch.no_grad():
        latents = [generator.encode_video(np.stack(clips[i : i + ENCODE_BATCH])) for i in stage.progress(parts, "encode")]
        text = [generator.encode_text([prompt for _, prompt in sides[i : i + ENCODE_BATCH]]) for i in parts]
    place = {side: number for number, side in enumerate(sides)}
    first, second = np.array([place[side] for side in pairs.sides()]).reshape(2, -1)
    labels = torch.from_numpy(np.where(pairs.labels == NO_LABEL, 0, pairs.labels)).float()
    return Comparisons(torch.cat(latents).cpu(), torch.cat(text).cpu(), first, second, labels, np.array(pairs.prompts))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


if __name__ == "__main__":
    run_stage("latent_reward", latent_reward)
