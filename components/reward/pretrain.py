"""Frozen stage `pretrain_vlm`: a tiny Qwen2-VL that knows the shapes world, as the paper's starts from Qwen2-VL-2B.

From scratch, by next-token prediction of answers about rendered clips (lessons.py). It sees prompts of the train split
only and never a preference: what it is told are the renderer's own settings, not anybody's judgement.
"""

import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from components.pretrain_params import PretrainVlmParams, VlmShape, load_pretrain_params
from components.reward.inputs import PatchShape, collate
from components.reward.lessons import Lesson, Lessons
from components.reward.sight import Sight, sight_loss
from components.reward.tokens import train_tokenizer
from components.stage import Stage, run_stage, write_json
from components.training import fit, write_rows


def pretrain_vlm(stage: Stage) -> None:
    params = load_pretrain_params().vlm
    started = time.monotonic()
    torch.manual_seed(stage.seed("weights") % 2**32)
    lessons = Lessons(stage.params.world, stage.params.split, params.frames)
    tokenizer = train_tokenizer(lessons.corpus("train"), params.shape.vocabulary)
    model = Qwen2VLForConditionalGeneration(vlm_config(params.shape, tokenizer))
    stage.say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    look(stage, model, lessons, params)
    teacher = Teacher(lessons, tokenizer, params.shape)
    held_out = [lessons.draw("validation", stage.seed("held out", i)) for i in range(params.held_out)]

    def loss_fn(model: nn.Module, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        drawn = [lessons.draw("train", seed) for seed in draw_seeds(len(indices), generator)]
        logits, targets, _ = teacher.answer(model, drawn)
        return F.cross_entropy(logits.float(), targets), {}

    visual = list(model.model.visual.parameters())
    rest = [p for name, p in model.named_parameters() if ".visual." not in name]
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


def look(stage: Stage, model: Qwen2VLForConditionalGeneration, lessons: Lessons, params: PretrainVlmParams) -> None:
    """The first phase: train the vision tower alone (sight.py)."""
    shape = PatchShape(params.shape.patch, params.shape.temporal_patch, params.shape.merge)
    sight = Sight(model.model.visual, params.shape.hidden, shape)

    def loss_fn(sight: nn.Module, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        takes = [lessons.take("train", np.random.default_rng(seed)) for seed in draw_seeds(len(indices), generator)]
        return sight_loss(sight, takes, lessons.indices)

    fit(stage, sight, loss_fn, params.vision.steps * params.vision.batch_size, params.vision, name="vision")


def draw_seeds(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2**62, (count,), generator=generator).tolist()


def vlm_config(shape: VlmShape, tokenizer: Any) -> Qwen2VLConfig:
    """A Qwen2-VL of this size around a tokenizer."""
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "im_end", "image_pad", "video_pad")
    }
    pairs = shape.hidden // shape.heads // 2
    section = [pairs - 2 * (pairs * 3 // 8), pairs * 3 // 8, pairs * 3 // 8]  # Qwen2-VL's 16 : 24 : 24
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 4096,
            "initializer_range": 0.04,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
            "bos_token_id": ids["endoftext"],
            "eos_token_id": ids["im_end"],
            "pad_token_id": ids["endoftext"],
        },
        vision_config={
            "depth": shape.vision_layers,
            "embed_dim": shape.vision_dim,
            "num_heads": shape.vision_heads,
            "hidden_size": shape.hidden,
            "mlp_ratio": 4,
            "patch_size": shape.patch,
            "temporal_patch_size": shape.temporal_patch,
            "spatial_merge_size": shape.merge,
            "initializer_range": 0.04,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


class Teacher:
    """Puts lessons before a model and marks its answers."""

    def __init__(self, lessons: Lessons, tokenizer: Any, shape: VlmShape):
        self.tokenizer = tokenizer
        self.patch_shape = PatchShape(shape.patch, shape.temporal_patch, shape.merge)
        self.video_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")
        self._ids: dict[str, list[int]] = {}

    def answer(self, model: nn.Module, lessons: list[Lesson]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Logits [N, V] for the N tokens of all answers, the right tokens [N], and what each is about."""
        ids, where, targets, topics = [], [], [], []
        for row, lesson in enumerate(lessons):
            line: list[int] = []
            for text, topic in lesson.text:
                piece = self._encode(text, lesson)
                if topic:
                    where += [(row, len(line) + i - 1) for i in range(len(piece))]
                    targets += piece
                    topics += [topic] * len(piece)
                line += piece
            ids.append(line)
        batch = collate(ids, [lesson.frames for lesson in lessons], self.patch_shape, self.tokenizer.pad_token_id)
        positions = torch.arange(batch.input_ids.shape[1]).expand(3, *batch.input_ids.shape)
        logits = model(
            input_ids=batch.input_ids,
            pixel_values_videos=batch.pixels,
            video_grid_thw=batch.grid,
            position_ids=positions,
            use_cache=False,
        ).logits
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
            ids = [*ids[:at], *[self.video_id] * self.patch_shape.tokens(*lesson.frames.shape[:3]), *ids[at + 1 :]]
        return ids


if __name__ == "__main__":
    run_stage("pretrain_vlm", pretrain_vlm)
