"""Sections of params.yaml on the reward model, its benchmark and its serving."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from components.config.types import Count, Dimension, Dtype, LoraParams, Positive, Section, TrainingParams, offloadable


class FramePlanParams(Section):
    """The frames that a reward model reads, by rate or by count (components/video/frames.py); pixels are per frame."""

    fps: Positive | None
    frames: Annotated[int, Field(ge=2)] | None
    min_pixels: Count
    max_pixels: Count

    @model_validator(mode="after")
    def _is_a_plan(self) -> "FramePlanParams":
        if (self.fps is None) == (self.frames is None):
            raise ValueError("a frame plan needs fps or frames, one of them")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class LimitParams(Section):
    """Limits of input: pixels of a frame, frames of a clip, bytes of a video file, characters of a prompt
    (components/video/limits.py). Larger videos are refused by their header, before they take memory."""

    pixels: Count
    frames: Count
    bytes: Count
    prompt: Count


class RewardParams(Section):
    """VideoReward. `base` is a Qwen2-VL folder or hub id, or a VideoReward to train further. Learning rates are per part, as
    in paper Tab. 11. `template` must match `readout` (components/reward/prompt.py). `regression`, `margin` and `scaled` need
    pairs with ratings. `dtype` is that of frozen weights, and of the trained model; what trains is float32."""

    base: str
    dtype: Dtype
    dimensions: Annotated[list[Dimension], Field(min_length=1)]
    template: str
    frames: FramePlanParams
    positions: Literal["plain", "multimodal"]
    readout: Literal["special", "single_special", "last", "mean"]
    head: Literal["shared", "per_dimension"]
    loss: Literal["btt", "bt", "constant_margin", "regression", "margin", "scaled"]
    theta: Annotated[float, Field(gt=1)]
    shuffle_labels: bool
    lora: LoraParams
    vision_learning_rate: Positive
    head_learning_rate: Positive
    gradient_checkpointing: bool  # layers recompute their activations in the backward pass: less memory, more time
    offload: bool  # inputs of these layers wait in the host's memory for the backward pass
    training: TrainingParams
    token_budget: Count
    decode_threads: Count

    @model_validator(mode="after")
    def offload_needs_checkpointing(self) -> "RewardParams":
        return offloadable(self)

    @field_validator("head")
    @classmethod
    def one_state_needs_a_row_a_dimension(cls, head: str, info: ValidationInfo) -> str:
        readout = info.data.get("readout", "special")  # absent where it is itself wrong
        if head == "shared" and readout != "special":
            raise ValueError(
                f"readout '{readout}' reads all dimensions at one token: a shared head would give them equal scores"
            )
        return head


class JudgeRewardParams(Section):
    """A second VideoReward, of the settings of `reward`, as held-out judge `model:models/judge_reward`. `held_out`: share of
    prompts whose pairs are its own, or of annotators whose labels are, which reward and alignment never read; {} is no such
    judge."""

    held_out: Annotated[dict[Literal["prompts", "annotators"], Annotated[float, Field(gt=0, lt=1)]], Field(max_length=1)]


class RewardBenchParams(Section):
    threshold_from: Literal["validation", "test"]
    bootstrap: Count


class PackageParams(Section):
    """VideoReward on Triton: up to `max_batch_size` requests that arrive during scoring or within `max_queue_delay`
    (microseconds) are scored together, in forward passes of at most `token_budget` padded tokens. A request beyond
    `max_queue_size` waiting ones is rejected; null is no bound, and faster: with a bound Triton prepares no batch ahead, and
    sometimes sleeps half a second with a full queue. processes: those with the model, on each GPU or on the CPU, sharing its
    cores. limits: of a request; a larger one is refused, other requests are still scored. environment: absolute path, on the
    server, of the model's Python; by default the first Python in the server's PATH.
    """

    max_batch_size: Count
    max_queue_delay: Annotated[int, Field(ge=0)]
    max_queue_size: Count | None
    token_budget: Count
    processes: Count
    limits: LimitParams
    environment: str | None
