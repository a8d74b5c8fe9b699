"""Stage `reward`: train VideoReward on labelled pairs (paper section 3.2), then fix its normalisation and tie
thresholds, and keep how its scores are distributed.

A and B of a pair go through the model in one forward pass. The reward's scale is free under Bradley-Terry losses, so
mean and standard deviation of the validation clips make it comparable between dimensions and models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components.config.params import RewardParams
from components.contracts import NO_LABEL, PAIRS, VIDEO_REWARD
from components.errors import BadInput
from components.pipeline.stage import Stage, folder_digest, how_to_get, stage_main
from components.reward.backbones.registry import load_backbone
from components.reward.card import CARD, STEPS, Norm, PlanCard, Reference, RewardCard
from components.reward.export_mlflow import package_mlflow
from components.reward.frame_cache import cached_clips
from components.reward.inputs import Clip, Input
from components.reward.learnt import write_learnt
from components.reward.losses import NEED_RATINGS, pair_loss
from components.reward.model import VideoReward, load_chat, load_video_reward
from components.reward.pairs import Pairs, need_ratings, read_pairs, shuffled
from components.reward.prompt import PromptBuilder, read_template
from components.reward.published import is_published, load_published
from components.reward.score import make_input, raw_scores, with_overall
from components.reward.scores import Unscored, score_names
from components.runtime.training import LossFn, fit, gathered, write_rows
from components.statistics.accuracy import fit_tie_threshold, without_ties
from components.video.frames import FramePlan


@dataclass(frozen=True)
class Trained:
    """A trained VideoReward with its card. train, validation: its pairs in the dimensions of `params.dimensions`; judged:
    validation pairs with Overall too. differences [N, D + 1]: of normalised scores of A and B on these. rows: the log."""

    model: VideoReward
    card: RewardCard
    train: Pairs
    validation: Pairs
    judged: Pairs
    differences: np.ndarray
    rows: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Write the model folder with the record of labels that it learnt from."""
        self.model.save(folder, self.card)
        base = Path(self.card.provenance["base"])
        write_learnt(folder, [self.train.file, self.validation.file], base)
        write_rows(folder / "training.csv", self.rows)


def reward(stage: Stage) -> None:
    """Reads the backbone `reward.base`, data/pairs and their videos. Writes models/video_reward.

    Fails with BadInput for a folder without a known backbone, a video that cannot be read and pairs without labels, and with
    NonFinite for a loss. Resumes from the frame cache and the last checkpoint of `fit`.
    """
    params: RewardParams = stage.params.reward
    found = train(stage, params, PAIRS, params.shuffle_labels)
    accuracies = {}
    for column, name in enumerate(score_names(params.dimensions)):
        known = found.judged.labels[:, column] != NO_LABEL
        target, difference = found.judged.labels[known, column], found.differences[known, column]
        decided = without_ties(target, difference, np.array(found.judged.prompts)[known], stage.rng(name), 1)
        if decided.value is not None:
            accuracies[f"validation/accuracy_without_ties/{name}"] = decided.value
    stage.log(accuracies, params.training.steps)
    stage.say(", ".join(f"{key} {value:.3f}" for key, value in accuracies.items()))
    found.save(stage.output(VIDEO_REWARD))
    pairs = {"pairs_digest": found.card.provenance["pairs_digest"]}
    stage.register("video_reward", Path(VIDEO_REWARD), pairs, package_mlflow)


def train(stage: Stage, params: RewardParams, folder: Path, shuffle: bool = False) -> Trained:
    """A VideoReward trained on the pairs of `folder`, PAIRS or a folder below it; `shuffle`: with the labels of others."""
    torch.manual_seed(stage.seed("weights") % 2**32)  # of LoRA
    model = build(params)
    plan = FramePlan(**params.frames.model_dump(), factor=model.patch_shape.factor)
    part = folder.relative_to(PAIRS)
    train, validation = (read_pairs(str(part / split), params.dimensions) for split in ("train", "validation"))
    judged = read_pairs(str(part / "validation"), score_names(params.dimensions))
    if params.loss in NEED_RATINGS:
        need_ratings(train, params.dimensions)
    clips = cached_clips(stage, [train, validation], plan, params.decode_threads)
    if shuffle:  # the control: shuffled labels teach nothing
        train = shuffled(train, stage.rng("shuffle labels"))

    prepare(model, params)
    inputs = pair_inputs(model, train, clips)
    loss_fn = pair_loss_fn(model, inputs, train, params)
    groups = parameter_groups(model, params)
    lengths, offload = pair_lengths(inputs), params.offload
    rows = fit(stage, model, loss_fn, len(train), params.training, groups=groups, lengths=lengths, offload=offload)
    model.merge(params.dtype)

    scores = score_pairs(model, validation, clips, params.token_budget)  # [2, N, D]
    distinct = distinct_scores(scores, validation)
    mean, std = normalisation(distinct, validation)
    differences = with_overall((scores[0] - scores[1]) / std, params.dimensions)
    thresholds = {}
    for column, name in enumerate(score_names(params.dimensions)):
        known = judged.labels[:, column] != NO_LABEL
        target, difference = judged.labels[known, column], differences[known, column]
        thresholds[name] = fit_tie_threshold(target, difference)[0] if known.any() else None
    card = RewardCard(
        dimensions=params.dimensions,
        readout=params.readout,
        head=params.head,
        head_trained=True,
        loss=params.loss,
        theta=params.theta,
        positions=params.positions,
        template=model.prompts.template,
        dtype=params.dtype,
        frame_plan=PlanCard(**params.frames.model_dump(), factor=plan.factor),
        normalisation={
            name: Norm(mean=float(m), std=float(s)) for name, m, s in zip(params.dimensions, mean, std, strict=True)
        },
        reference=reference((distinct - mean) / std, params.dimensions),
        tie_thresholds=thresholds,
        provenance={
            "base": params.base,
            "base_digest": folder_digest(params.base) if Path(params.base).exists() else None,
            "pairs_digest": folder_digest(folder),
            "train_pairs": len(train),
            "validation_pairs": len(validation),
            "steps": params.training.steps,
            "shuffled_labels": shuffle,
            "stage_digest": stage.digest,
        },
    )
    return Trained(model, card, train, validation, judged, differences, rows)


def build(params: RewardParams) -> VideoReward:
    """VideoReward around the base model, with an untrained head; or the VideoReward that `base` is, ours or one in the
    published layout, to be trained on."""
    template = read_template(params.template, params.dimensions, params.readout)
    base = Path(params.base)
    if is_published(base) or (base / CARD).exists():
        published = is_published(base)
        dtype = params.dtype
        model, card = load_published(base, params.template, dtype=dtype) if published else load_video_reward(base, dtype)
        wanted = params.model_dump() | {"template": template}
        for key in ("dimensions", "readout", "head", "positions", "template"):
            if (found := getattr(card, key)) != wanted[key]:
                raise BadInput("params.yaml", f"{base} was trained with {found!r}", key=f"reward.{key}")
        return model.train()
    if not any(base.glob("*")):
        raise BadInput(base, f"not there; {how_to_get(base)}", key="reward.base")
    backbone = load_backbone(base, params.dtype)
    tokenizer = load_chat(base, backbone)
    prompts = PromptBuilder(tokenizer, backbone.video_token, template, params.dimensions, params.readout)
    return VideoReward(backbone, prompts, params.head, params.positions)


def prepare(model: VideoReward, params: RewardParams) -> None:
    """Make ready for `fit`: what trains, and whether activations are kept for the backward pass or worked out again."""
    model.prepare_training(params.lora)
    if params.gradient_checkpointing:
        model.backbone.network.activation_checkpointing_enable({"use_reentrant": False})


def parameter_groups(model: VideoReward, params: RewardParams) -> list[dict[str, Any]]:
    """Three rates: the vision tower's, LoRA's, and that of what starts from nothing (head and reward tokens)."""
    lora = [p for name, p in model.named_parameters() if p.requires_grad and "lora_" in name]
    return [
        {"params": model.vision_parameters(), "lr": params.vision_learning_rate},
        {"params": lora, "lr": params.training.learning_rate},
        {"params": [model.head.weight, model.reward_tokens], "lr": params.head_learning_rate, "weight_decay": 0.0},
    ]


def pair_loss_fn(model: VideoReward, inputs: list[Input], pairs: Pairs, params: RewardParams) -> LossFn:
    """The loss of a batch of pairs, for `fit`; `inputs` as pair_inputs gives them."""
    loss_of = pair_loss(params.loss, params.theta)
    labels, ratings = torch.from_numpy(pairs.labels), torch.from_numpy(pairs.ratings)
    batch_of = model.batch  # `fit` may give a wrapper of the model to the loss

    def loss_fn(model: nn.Module, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        batch = batch_of([inputs[i] for i in [*indices, *(len(labels) + i for i in indices)]])
        device = next(model.parameters()).device
        a, b = map(gathered, model(batch.to(device)).chunk(2))  # the loss is a mean over the labels that a batch has
        label = gathered(labels[indices].to(device))
        rated_a, rated_b = map(gathered, ratings[:, indices].to(device))
        hits = torch.where(label.abs() == 1, ((a - b) * label > 0).float(), torch.nan)
        logs = {f"accuracy/{name}": hits[:, i].nanmean() for i, name in enumerate(params.dimensions)}
        return loss_of(a, b, label, (rated_a, rated_b)), logs

    return loss_fn


def pair_inputs(model: VideoReward, pairs: Pairs, clips: dict[str, Clip]) -> list[Input]:
    """Model inputs of all A, then of all B; BadInput for a prompt that cannot be used."""
    inputs = []
    for place, (path, prompt) in enumerate(pairs.sides()):
        made = make_input(model, clips[path], prompt)
        if isinstance(made, Unscored):
            raise pairs.refusal(place % len(pairs), made.reason, "prompt")
        inputs.append(made)
    return inputs


def pair_lengths(inputs: list[Input]) -> list[int]:
    """Tokens of the longer side of each pair, [N], of the inputs of all A and then of all B."""
    count = len(inputs) // 2
    return [max(len(a), len(b)) for (a, _), (b, _) in zip(inputs[:count], inputs[count:], strict=True)]


def score_pairs(model: VideoReward, pairs: Pairs, clips: dict[str, Clip], token_budget: int) -> np.ndarray:
    """Raw scores of A and of B, [2, N, D]; each distinct clip and prompt is scored once."""
    inputs, sides = pair_inputs(model, pairs, clips), pairs.sides()
    place = {side: number for number, side in enumerate(dict.fromkeys(sides))}
    distinct = dict(zip(sides, inputs, strict=True))
    scores = raw_scores(model, [distinct[side] for side in place], token_budget)
    return scores[[place[side] for side in sides]].reshape(2, len(pairs), -1)


def distinct_scores(scores: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Scores [C, D] of the distinct clips and prompts of scored pairs [2, N, D]."""
    return np.stack(list(dict(zip(pairs.sides(), scores.reshape(2 * len(pairs), -1), strict=True)).values()))


def normalisation(scores: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [D] over scores [C, D] of the clips of these pairs."""
    mean, std = scores.mean(0), scores.std(0)
    if not (std > 0).all():
        raise BadInput(pairs.file, "all clips score the same, so that scores cannot be normalised")
    return mean, std


def reference(normalised: np.ndarray, dimensions: list[str]) -> Reference:
    """How normalised scores [C, D] and Overall, their sum, are distributed. What is served is compared with it
    (components/serving/monitor.py)."""
    columns = with_overall(normalised, dimensions)
    quantiles = np.quantile(columns, np.linspace(0, 1, STEPS + 1), axis=0).round(4) + 0.0  # no -0.0
    names = score_names(dimensions)
    return Reference(clips=len(columns), quantiles=dict(zip(names, quantiles.T.tolist(), strict=True)))


if __name__ == "__main__":
    stage_main("reward", reward)
