"""Frozen stage `pretrain_vlm`: a tiny Qwen2-VL that knows the shapes world, as the paper's starts from Qwen2-VL-2B.

From scratch, by next-token prediction of answers about rendered clips (captions.py). It sees prompts of the train split
only and never a preference: answers are the renderer's own settings, not anybody's judgement.
"""

import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from components.config.pretrain import PretrainVlmParams, VlmShape, load_pretrain_params
from components.pipeline.stage import Stage, stage_main, write_json
from components.reward.inputs import Clip
from components.runtime.training import fit, write_rows
from components.simulation.captions import Lesson, Lessons
from components.simulation.small_vlm import (
    VIDEO,
    SmallVlm,
    batch_of,
    next_token_logits,
    patch_shape,
    small_vlm,
    train_tokenizer,
    vision_tower,
)
from components.simulation.vision_pretraining import Sight, sight_loss


def pretrain_vlm(stage: Stage) -> None:
    """Reads pretrained/params.yaml and the prompt templates of components/reward. Writes pretrained/vlm, with training.json.

    Fails with NonFinite where a loss diverges. Resumes each phase from its checkpoint.
    """
    params = load_pretrain_params().vlm
    started = time.monotonic()
    torch.manual_seed(stage.seed("weights") % 2**32)
    lessons = Lessons(stage.params.world, stage.params.split, params.frames)
    tokenizer = train_tokenizer(lessons.corpus("train"), params.shape.vocabulary)
    model = small_vlm(params.shape, tokenizer)
    stage.say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    train_vision_tower(stage, model, lessons, params)
    teacher = Teacher(lessons, tokenizer, params.shape)
    held_out = [lessons.draw("validation", stage.seed("held out", i)) for i in range(params.held_out)]

    def loss_fn(model: nn.Module, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        drawn = [lessons.draw("train", seed) for seed in draw_seeds(len(indices), generator)]
        logits, targets, _ = teacher.answer(model, drawn)
        return F.cross_entropy(logits.float(), targets), {}

    visual = list(vision_tower(model).parameters())
    own = set(visual)
    rest = [p for p in model.parameters() if p not in own]
    rows = fit(
        stage,
        model,
        loss_fn,
        params.training.steps * params.training.batch_size,
        params.training,
        groups=[{"params": rest, "lr": params.training.learning_rate}, {"params": visual, "lr": params.tuning_rate}],
        validate=lambda model: teacher.accuracy(model, held_out),
    )
    folder = stage.output("pretrained/vlm")
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(
        folder / "training.json",
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "vision": {"steps": params.vision.steps, "clips": params.vision.steps * params.vision.batch_size},
            "language": {"steps": params.training.steps, "clips": params.training.steps * params.training.batch_size},
            # Of the last process only, when the stage was killed and went on.
            "minutes": round((time.monotonic() - started) / 60, 1),
            "train_prompts": len(lessons.scenes["train"]),
            "held_out": {
                "prompts": "validation split",
                "clips": len(held_out),
                "accuracy": teacher.accuracy(model.float(), held_out),
            },
        },
    )
    write_rows(folder / "training.csv", rows)


def train_vision_tower(stage: Stage, model: SmallVlm, lessons: Lessons, params: PretrainVlmParams) -> None:
    """The first phase: train the vision tower alone (vision_pretraining.py)."""
    sight = Sight(vision_tower(model), params.shape.hidden, patch_shape(params.shape))

    def loss_fn(sight: Sight, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        takes = [lessons.take("train", np.random.default_rng(seed)) for seed in draw_seeds(len(indices), generator)]
        return sight_loss(sight, takes, lessons.indices)

    fit(stage, sight, loss_fn, params.vision.steps * params.vision.batch_size, params.vision, name="vision")


def draw_seeds(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2**62, (count,), generator=generator).tolist()


class Teacher:
    """Puts lessons before a model and marks its answers."""

    def __init__(self, lessons: Lessons, tokenizer: Any, shape: VlmShape):
        self.tokenizer = tokenizer
        self.shape = shape
        self.video_id = tokenizer.convert_tokens_to_ids(VIDEO)
        self._ids: dict[str, list[int]] = {}

    def answer(self, model: nn.Module, lessons: list[Lesson]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Logits [N, V] for the N tokens of all answers, the right tokens [N], and what each is about."""
        inputs, where, targets, topics = [], [], [], []
        for row, lesson in enumerate(lessons):
            line: list[int] = []
            for text, topic in lesson.text:
                piece = self._encode(text, lesson)
                if topic:
                    where += [(row, len(line) + i - 1) for i in range(len(piece))]
                    targets += piece
                    topics += [topic] * len(piece)
                line += piece
            inputs.append((line, Clip(lesson.frames, math.nan)))  # positions do not depend on the rate
        logits = next_token_logits(model, batch_of(inputs, self.shape, self.tokenizer.pad_token_id))
        at = torch.tensor(where).T
        return logits[at[0], at[1]], torch.tensor(targets), topics

    def accuracy(self, model: nn.Module, lessons: list[Lesson], batch: int = 64) -> dict[str, float]:
        """Share of answer words that a model gets right, by topic, each given the right words before it."""
        hits: dict[str, list[bool]] = defaultdict(list)
        with torch.no_grad():
            for start in range(0, len(lessons), batch):
                logits, targets, topics = self.answer(model, lessons[start : start + batch])
                for topic, hit in zip(topics, (logits.argmax(1) == targets).tolist(), strict=True):
                    hits[topic].append(hit)
        return {topic: sum(values) / len(values) for topic, values in sorted(hits.items())}

    def _encode(self, text: str, lesson: Lesson) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self._ids[text]
        if self.video_id in ids:
            at = ids.index(self.video_id)
            ids = [*ids[:at], *[self.video_id] * patch_shape(self.shape).tokens(*lesson.frames.shape[:3]), *ids[at + 1 :]]
        return ids


if __name__ == "__main__":
    stage_main("pretrain_vlm", pretrain_vlm)
