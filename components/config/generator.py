"""Sections of params.yaml on the generator: what is drawn, its relabelling, and guidance by reward."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.config.sources import SourceParams
from components.config.types import (
    Count,
    Decoding,
    Dimension,
    Dtype,
    Expert,
    Fraction,
    LoraParams,
    Positive,
    Section,
    TrainingParams,
    offloadable,
)


class BaseGeneratorParams(Section):
    """The generator to align. `dtype` is the precision of its transformer and text encoder in all stages. Trained adapters
    and heads have float32."""

    folder: str
    dtype: Dtype
    digest: str | None
    probe_prompts: Annotated[int, Field(ge=0)]


class StepCacheParams(Section):
    """A step cache of diffusers. `threshold` belongs to first_block: blocks after the first are left out where its output
    changes by less, relative to its mean. `interval` and `warm_up` belong to taylorseer."""

    method: Literal["none", "first_block", "taylorseer"]
    threshold: Positive
    interval: Annotated[int, Field(ge=2)]
    warm_up: Annotated[int, Field(ge=2)]  # steps computed in full first; an extrapolation needs two


class SamplingParams(Section):
    """Sampling of clips from a generator in all stages. Sizes in pixels and frames. `timesteps`: t before each of the steps,
    falling from 1, of a generator that was distilled for them. `decode`: the VAE's batch whole, clip by clip, or each clip
    in tiles of at most `tile` pixels a side."""

    solver: Literal["folder", "euler", "unipc"]
    steps: Count
    timesteps: list[Annotated[float, Field(gt=0, le=1)]] | None
    shift: Positive | None  # None is the folder's own
    negative_prompt: str
    guidance_scale: Annotated[float, Field(ge=1)]
    guidance_scale_2: Annotated[float, Field(ge=1)] | None  # of the second of two transformers; None is the first's
    guidance_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    height: Count
    width: Count
    frames: Count
    fps: Count
    batch_size: Count
    decode: Literal["whole", "sliced", "tiled"]
    tile: Count
    step_cache: StepCacheParams
    attention: str | None  # a backend of diffusers; None is its default

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.decode, self.tile)

    @model_validator(mode="after")
    def _an_interval_rises(self) -> "SamplingParams":
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError("guidance_interval is [lowest t, highest t]")
        return self

    @model_validator(mode="after")
    def _scale_1_is_for_both(self) -> "SamplingParams":
        if self.guidance_scale == 1 and self.guidance_scale_2 not in (None, 1):
            raise ValueError("guidance_scale 1 switches guidance off for both transformers, as diffusers does")
        return self

    @model_validator(mode="after")
    def _own_timesteps_are_euler_steps(self) -> "SamplingParams":
        own = self.timesteps
        if own is not None and (self.solver != "euler" or len(own) != self.steps):
            raise ValueError(f"{len(own)} timesteps of one's own need solver euler and steps {len(own)}")
        if own is not None and sorted(set(own), reverse=True) != own:
            raise ValueError("timesteps do not fall")
        return self


class CandidatesParams(Section):
    prompts: Count
    per_prompt: Annotated[int, Field(ge=2)]


class RelabelParams(Section):
    """Conversion of candidates' scores into pairs; reward = weighted mean of normalised dimensions. `margin_weighted` is all
    pairs, each weighted by its margin over the mean margin. Pairs within `min_margin` are ties. A dimension of a source is
    NAME.DIMENSION."""

    weights: dict[Dimension, float]
    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], SourceParams]
    choose: Literal["best_worst", "all_pairs", "margin_weighted"]
    min_margin: Annotated[float, Field(ge=0)]
    ties: Literal["drop", "keep"]  # kept ones need align.dpo.theta > 1
    example_pairs: Count  # pairs whose clips are copied for inspection


class LatentRewardParams(Section):
    """The noise-aware reward model: `blocks` of the generator, tuned in full, with `lora` or not at all."""

    blocks: Count
    expert: Expert  # whose blocks, of a generator with two transformers
    trunk: Literal["full", "lora", "frozen"]
    lora: LoraParams
    dimensions: list[Dimension]
    loss: Literal["bt", "btt"]
    theta: Annotated[float, Field(gt=1)]  # of btt
    max_noise: Fraction  # t is uniform on [0, max_noise]: 1 is the paper's model, 0 its ablation, trained on clean latents
    min_margin: Annotated[float, Field(ge=0)]
    labelled_pairs: bool  # also train on data/pairs, whose clips must have the generator's size
    gradient_checkpointing: bool  # of the trunk, as reward's
    offload: bool  # as reward's
    clips_at_once: Count | None  # that the trunk reads while training; None is the whole microbatch
    trunk_learning_rate: Positive
    training: TrainingParams

    @model_validator(mode="after")
    def offload_needs_checkpointing(self) -> "LatentRewardParams":
        return offloadable(self)


class NrgParams(Section):
    """Flow-NRG while sampling: weights per dimension, scale w of paper section 4.4, and its range of t in [0, 1]."""

    weights: dict[Dimension, float]
    scale: Positive
    start: Fraction
    stop: Fraction
    max_norm: Positive | None
    gradient_checkpointing: bool  # the reward model's blocks compute their activations again: less memory, more time


class BestOfNParams(Section):
    """Rejection sampling: the best of `n` clips by VideoReward, or by the latent reward model after `rank_step` steps."""

    n: Annotated[int, Field(ge=2)]
    judge: Literal["video_reward", "latent_reward"]
    rank_step: Count
    weights: dict[Dimension, float]


class TradeoffParams(Section):
    """Guidance over its weights, best of N, and plain sampling at other `guidance_scales` of classifier-free guidance, on
    base's first `clips` samples."""

    weights: list[dict[Dimension, float]]
    best_of: list[BestOfNParams]
    guidance_scales: list[Annotated[float, Field(ge=1)]]
    clips: Count
