"""Stage `latent_reward`: train the noise-aware reward model on relabelled candidates and on labelled pairs.

Any two candidates of one prompt are a pair. The label of a dimension is the clip that VideoReward scores higher, if the
scores differ by at least `min_margin` (in standard deviations of its validation set); otherwise it is a tie. Overall, a sum,
has a larger spread than a dimension, and its tie width grows by the same factor. All clips of a prompt share the noise and
t ~ U(0, 1). A batch is whole prompts, so that a clip is read once for all its pairs.

Latents stay on disk until a batch needs them. Only the trunk's blocks of the generator are read. A trunk that is tuned in
full is in float32; otherwise it has the generator's dtype, and all other trained weights are in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import init_empty_weights

from components.alignment.data import Candidates, load_candidates
from components.alignment.flow import noised
from components.alignment.lora import adapt
from components.config.params import Dtype, LatentRewardParams
from components.contracts import BASE_GENERATOR, CANDIDATE_SCORES, LATENT_REWARD, SOURCE_VIDEOS
from components.errors import BadInput
from components.files.atomic import discard, whole_folder
from components.files.tables import read_table
from components.generator.family import WithExperts, WithImage
from components.generator.folder import family_of
from components.generator.prompts import encode_ahead
from components.generator.sampler import with_settings
from components.generator.shards import ConditioningShards, Shards, save_conditioning, save_shards
from components.generator.spec import SamplerSpec
from components.guidance.latent_reward import LatentReward, save_latent_reward
from components.pipeline.stage import Stage, folder_digest, stage_main, write_json
from components.preferences.held_out import held_out
from components.reward.losses import bradley_terry, bradley_terry_ties
from components.reward.metrics import calibration
from components.reward.pairs import Pairs, read_pairs
from components.runtime.training import fit, write_rows
from components.video.decode import VideoInfo, read_chosen
from components.video.limits import Limits

BINS = 10  # of t
ENCODE_BATCH = 32  # clips
VALIDATION_BATCH = 16  # prompts
VALIDATION_SHARE = 0.15  # of the candidates' prompts


@dataclass(frozen=True)
class Comparisons:
    """Clips as M rows of latents [C, T', H', W'], with text, one row of conditioning per prompt, and the row of each clip's
    prompt [M]. Pairs of clips: row indices of both [N], labels [N, D + 1] (Overall last) of 1, -1, 0 (same) or NO_LABEL, and
    the prompt of each pair."""

    latents: Shards
    text: ConditioningShards
    text_row: np.ndarray
    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    prompts: np.ndarray

    def by_prompt(self, pairs: np.ndarray) -> list[np.ndarray]:
        """The selected pairs, grouped by prompt."""
        order = pairs[np.argsort(self.prompts[pairs], kind="stable")]
        _, starts = np.unique(self.prompts[order], return_index=True)
        return np.split(order, starts[1:])

    def scores(
        self, net: torch.nn.Module, groups: list[np.ndarray], t: torch.Tensor, x1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of both clips [n, D] of all pairs of the groups, one group per prompt, in order. All clips of a prompt
        share its t [P] and noise x1 [P, C, T', H', W']."""
        clips = [np.unique([self.first[pairs], self.second[pairs]]) for pairs in groups]
        rows = np.concatenate(clips)
        prompt = torch.from_numpy(np.repeat(np.arange(len(groups)), [len(own) for own in clips]))
        xt, _ = noised(self.latents[rows], x1[prompt], t[prompt])
        device = next(net.parameters()).device
        found = net(xt.to(device), t[prompt].to(device), self.text[self.text_row[rows]].to(device))
        place = {row: at for at, row in enumerate(rows)}
        pairs = np.concatenate(groups)
        a, b = (found[[place[row] for row in side[pairs]]] for side in (self.first, self.second))
        return a, b

    def differences(
        self, net: torch.nn.Module, groups: list[np.ndarray], t: torch.Tensor, draw: torch.Generator
    ) -> np.ndarray:
        """Scores of A minus those of B [n, D + 1] for the pairs of `groups`; Overall is the sum, as in VideoReward."""
        found = []
        for start in range(0, len(groups), VALIDATION_BATCH):
            part = groups[start : start + VALIDATION_BATCH]
            x1 = torch.randn((len(part), *self.latents.shape), generator=draw)
            a, b = self.scores(net, part, t[start : start + VALIDATION_BATCH], x1)
            found.append((a - b).cpu())
        found = torch.cat(found)
        return torch.cat([found, found.sum(1, keepdim=True)], dim=1).numpy()

    def __add__(self, other: "Comparisons") -> "Comparisons":
        shift = len(self.latents)
        return Comparisons(
            self.latents + other.latents,
            self.text + other.text,
            np.concatenate([self.text_row, len(self.text) + other.text_row]),
            np.concatenate([self.first, shift + other.first]),
            np.concatenate([self.second, shift + other.second]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.prompts, other.prompts]),
        )


def latent_reward(stage: Stage) -> None:
    """Reads models/base_generator, data/candidates with scores and, with `labelled_pairs`, data/pairs with videos. Writes
    models/latent_reward and metrics/latent_reward.json.

    Fails with BadInput for latents of another generator, and NonFinite for a loss. Resumes from encoded clips and the last
    checkpoint of `fit`.
    """
    params = stage.params.latent_reward
    base = folder_digest(BASE_GENERATOR)
    data = relabelled(load_candidates(base), params.dimensions, params.min_margin)
    sources = np.repeat(["candidates"], len(data.prompts))
    if params.labelled_pairs:
        data += human_labelled(stage, params.dimensions, base)
        sources = np.append(sources, np.repeat(["people"], len(data.prompts) - len(sources)))
    held = held_out(data.prompts, VALIDATION_SHARE, stage.rng("held out"), CANDIDATE_SCORES)
    model = build(BASE_GENERATOR, params, stage.params.base_generator.dtype, stage.seed)
    names = list(dict.fromkeys([*params.dimensions, "Overall"]))
    train, validation = (data.by_prompt(np.flatnonzero(side)) for side in (~held, held))
    count = {"train": int((~held).sum()), "validation": int(held.sum())}
    pair_loss = partial(bradley_terry_ties, theta=params.theta) if params.loss == "btt" else bradley_terry
    stage.say(f"{count['train']} pairs to train on, {count['validation']} to validate on")

    def loss_fn(net: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        groups = [train[index] for index in indices]
        t = params.max_noise * torch.rand(len(groups), generator=draw)
        x1 = torch.randn((len(groups), *data.latents.shape), generator=draw)
        a, b = data.scores(net, groups, t, x1)
        labels = torch.from_numpy(data.labels[np.concatenate(groups), : len(params.dimensions)])
        return pair_loss(a, b, labels.to(a.device)), {}

    def validate(net: torch.nn.Module) -> dict[str, float]:
        """Accuracy on decided pairs of held-out prompts, one noise level per prompt."""
        draw = torch.Generator().manual_seed(stage.seed("validation"))
        t = (torch.arange(len(validation)) % BINS + torch.rand(len(validation), generator=draw)) / BINS
        found, labels = data.differences(net, validation, t, draw), data.labels[np.concatenate(validation)]
        return {name: accuracy(labels[:, d], found[:, d]) for d, name in enumerate(names)}

    # The trunk is pretrained and has a lower learning rate; pooling and head start from scratch.
    trunk = [p for p in model.trunk.parameters() if p.requires_grad]
    rest = [p for name, p in model.named_parameters() if not name.startswith("trunk.")]
    groups = [{"params": rest, "lr": params.training.learning_rate}]
    groups += [{"params": trunk, "lr": params.trunk_learning_rate}] if trunk else []
    settings, offload = params.training, params.offload
    rows = fit(stage, model, loss_fn, len(train), settings, groups=groups, validate=validate, offload=offload)
    if params.trunk == "lora":
        model.trunk.float().fuse_lora()
        model.trunk.unload_lora()

    folder = stage.output(LATENT_REWARD)
    version = pd.DataFrame(read_table(CANDIDATE_SCORES)).reward_model.iloc[0]
    save_latent_reward(model, folder, {"generator": base, "reward_model": version})
    write_rows(folder / "training.csv", rows)
    found, pairs = by_noise(model, data, validation, stage.seed("by noise")), np.concatenate(validation)
    record = figures(data.labels[pairs], found, names) | {"bins": BINS, "by_source": {}}
    for source in np.unique(sources[held]).tolist():  # of the labels; people also compared clips of other generators
        own = sources[pairs] == source
        part = figures(data.labels[pairs[own]], found[:, own], names)
        record["by_source"][source] = {"pairs": int(own.sum()), "accuracy_by_noise_bin": part["accuracy_by_noise_bin"]}
    write_json(stage.output("metrics/latent_reward.json"), record | {"pairs": count})
    by_noise_table(record["accuracy_by_noise_bin"]).to_csv(stage.output("plots/accuracy_by_noise.csv"), index=False)


def build(folder: str, params: LatentRewardParams, dtype: Dtype, seed: Callable[[str], int]) -> LatentReward:
    """An untrained model on the generator in `folder` with dtype `dtype`. seed: gives the seeds of "weights" and "lora"."""
    family = family_of(folder)
    own_dtype: Dtype = "float32" if params.trunk == "full" else dtype
    if isinstance(family, WithExperts) and family.boundary is not None:
        if params.trunk == "frozen":
            why = "shares the generator's weights, and one of two transformers is in memory at a time: lora or full"
            raise BadInput("params.yaml", why, key="latent_reward.trunk")
        trunk = family.load_trunk_of(Path(folder), params.expert, params.blocks, own_dtype)
    else:
        trunk = family.load_trunk(Path(folder), params.blocks, own_dtype)
    torch.manual_seed(seed("weights"))
    with init_empty_weights():  # draws a whole transformer's random numbers: results of earlier runs stay
        family.untrained("transformer", family.read_configs(Path(folder)))
    model = LatentReward(family, trunk, params.dimensions, params.trunk == "frozen", params.clips_at_once)
    model.trunk.requires_grad_(params.trunk == "full")
    if params.trunk == "lora":
        adapt(model.trunk, params.lora, seed("lora"), family.lora_targets)
    if params.gradient_checkpointing:
        model.trunk.enable_gradient_checkpointing()
    return model


@torch.no_grad()
def by_noise(model: LatentReward, data: Comparisons, groups: list[np.ndarray], seed: int) -> np.ndarray:
    """Score differences [BINS, n, D + 1] of the pairs of `groups` in each of BINS equal bins of t."""
    draw = torch.Generator().manual_seed(seed)
    levels = ((b + torch.rand(len(groups), generator=draw)) / BINS for b in range(BINS))
    return np.stack([data.differences(model, groups, t, draw) for t in levels])


def figures(labels: np.ndarray, found: np.ndarray, names: list[str]) -> dict:
    """Metrics of score differences [BINS, n, D + 1] against labels [n, D + 1], per bin of t and dimension: accuracy without
    ties, and slope k and error of P(A is better) = sigma(k (r_a - r_b)) (components/reward/metrics.py)."""
    right, slopes, errors = ({name: [] for name in names} for _ in range(3))
    for differences in found:
        for d, name in enumerate(names):
            curve = calibration(np.where(np.abs(labels[:, d]) == 1, labels[:, d], 0), differences[:, d])
            known = accuracy(labels[:, d], differences[:, d])
            right[name].append(None if np.isnan(known) else known)
            slopes[name].append(curve["slope"])
            errors[name].append(curve["error"])
    return {"accuracy_by_noise_bin": right, "calibration": {"slope": slopes, "error": errors}}


def by_noise_table(found: dict[str, list[float | None]]) -> pd.DataFrame:
    """Accuracy by noise for DVC's plots, one row per bin of t and dimension: t at its middle, dimension, accuracy."""
    rows = [
        {"t": (part + 0.5) / BINS, "dimension": name, "accuracy": share}
        for name, shares in found.items()
        for part, share in enumerate(shares)
        if share is not None
    ]
    return pd.DataFrame(rows, columns=["t", "dimension", "accuracy"])


def accuracy(labels: np.ndarray, differences: np.ndarray) -> float:
    """Share of decided pairs that are ranked correctly; NaN where none is decided."""
    decided = np.abs(labels) == 1
    return float((differences * labels > 0)[decided].mean()) if decided.any() else float("nan")


def relabelled(candidates: Candidates, dimensions: list[str], min_margin: float) -> Comparisons:
    """All pairs of candidates within prompts, labelled by VideoReward's scores."""
    scores = pd.DataFrame(read_table(CANDIDATE_SCORES)).set_index("candidate_id")
    for name in dimensions:
        if name not in scores:
            raise BadInput(CANDIDATE_SCORES, "no such score", key=name)
    wanted: Any = scores[dimensions]
    spread = wanted.std(ddof=0)
    margins = min_margin * np.append(np.ones(len(dimensions)), wanted.sum(axis=1).std(ddof=0) / spread.mean())
    couples, labels, prompts = [], [], []
    for prompt, group in candidates.table.groupby("prompt", sort=True):
        values = scores.loc[group.candidate_id, dimensions].to_numpy()
        for i, j in combinations(range(len(group)), 2):
            difference = values[i] - values[j]
            difference = np.append(difference, difference.sum())
            label = np.sign(difference) * (np.abs(difference) >= margins)
            if label[:-1].any():
                couples.append((group.row.iloc[i], group.row.iloc[j]))
                labels.append(label)
                prompts.append(prompt)
    if not couples:
        raise BadInput(
            CANDIDATE_SCORES, "no two candidates of a prompt differ by the margin", key="latent_reward.min_margin"
        )
    first, second = np.array(couples).T
    signs = np.array(labels, np.float32)
    text_row = candidates.table.text_row.to_numpy()
    return Comparisons(candidates.latents, candidates.prompts, text_row, first, second, signs, np.array(prompts))


def human_labelled(stage: Stage, dimensions: list[str], base: str) -> Comparisons:
    """The training pairs that people labelled, with clips encoded by the generator's VAE (of the generator's clip size).
    base: the generator's digest."""
    pairs = read_pairs("train", [*dimensions, "Overall"])
    sides = list(dict.fromkeys(pairs.sides()))
    prompts = list(dict.fromkeys(prompt for _, prompt in sides))
    folder, made_from = stage.state() / "people", {"base generator": base}
    if (kept := read_kept(folder, made_from)) is None:
        encode_sides(stage, pairs, sides, prompts, folder, made_from)
        kept = open_kept(folder, made_from)
    latents, text = kept
    number = {prompt: row for row, prompt in enumerate(prompts)}
    text_row = np.array([number[prompt] for _, prompt in sides])
    place = {side: row for row, side in enumerate(sides)}
    first, second = np.array([place[side] for side in pairs.sides()]).reshape(2, -1)
    labels = pairs.labels.astype(np.float32)
    return Comparisons(latents, text, text_row, first, second, labels, np.array(pairs.prompts))


def open_kept(folder: Path, made_from: dict[str, str]) -> tuple[Shards, ConditioningShards]:
    return Shards(folder / "latents", made_from), ConditioningShards(folder / "text", made_from)


def read_kept(folder: Path, made_from: dict[str, str]) -> tuple[Shards, ConditioningShards] | None:
    """Latents and text that a run which was killed has left; None where there are none, or damaged ones, which go."""
    if not folder.exists():
        return None
    try:
        return open_kept(folder, made_from)
    except BadInput as error:
        discard(folder, error)
        return None


@torch.no_grad()
def encode_sides(
    stage: Stage,
    pairs: Pairs,
    sides: list[tuple[str, str]],
    prompts: list[str],
    folder: Path,
    made_from: dict[str, str],
) -> None:
    """Write latents of the clips of `sides` and text of `prompts` to `folder`, complete or not at all; at most ENCODE_BATCH
    clips are in memory."""
    base, dtype = Path(BASE_GENERATOR), stage.params.base_generator.dtype
    family = family_of(base)
    if isinstance(family, WithImage) and family.image:
        why = "people's pairs have no first frame, which this generator draws from"
        raise BadInput("params.yaml", why, key="latent_reward.labelled_pairs")
    encoded = encode_ahead(stage.state() / "people.prompts", SamplerSpec(BASE_GENERATOR, dtype=dtype), prompts)
    generator = family.load(base, None, dtype)  # not kept, as training comes next
    parts = range(0, len(sides), ENCODE_BATCH)
    clips = (clips_of(stage, pairs.file, sides[i : i + ENCODE_BATCH]) for i in stage.progress(parts, "encode"))
    texts = (prompts[i : i + ENCODE_BATCH] for i in range(0, len(prompts), ENCODE_BATCH))
    with whole_folder(folder) as partial:
        save_shards((generator.encode_video(part) for part in clips), partial / "latents", made_from)
        told = (with_settings(family, encoded(part), stage.params.sampling) for part in texts)
        save_conditioning(told, partial / "text", made_from)


def clips_of(stage: Stage, file: Path, sides: list[tuple[str, str]]) -> np.ndarray:
    """Clips uint8 [B, T, H, W, 3]; BadInput names a clip of `file` whose size is not that of the generator's clips."""
    sampling = stage.params.sampling
    size = (sampling.frames, sampling.height, sampling.width, 3)
    limits = Limits.of(stage.params.limits)

    def read(path: str) -> np.ndarray:
        def all_of_size(info: VideoInfo) -> range:
            found = (info.frames, info.height, info.width, 3)
            if found != size:
                raise BadInput(file, f"{path} is {found}, the generator's clips are {size}", key="path_A")
            return range(info.frames)

        return read_chosen(SOURCE_VIDEOS / path, all_of_size, limits=limits)

    return np.stack([read(path) for path, _ in sides])


if __name__ == "__main__":
    stage_main("latent_reward", latent_reward)
