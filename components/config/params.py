"""Types of params.yaml: one frozen section per stage; an unknown or missing key is an error that names it.

There are no defaults here: a profile (infra/profiles/) is a complete file, which fully describes a run. Sections of data and
of alignment are in separate files and re-exported here.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from components.config.align import AlignParams, DpoParams, RwrParams, SftParams, TimestepParams  # noqa: F401
from components.config.data import (  # noqa: F401
    CurateParams,
    FolderSource,
    MeasureParams,
    Rule,
    S3Source,
    ShapesSource,
    SplitParams,
    WorldParams,
)
from components.config.online import OnlineParams
from components.config.operation import MonitoringParams, OrchestrationParams, PromotionParams
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
    read_section,
)
from components.contracts import JUDGE_REWARD
from components.errors import BadInput
from components.methods import BASE, METHODS


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


class BaseGeneratorParams(Section):
    """The generator to align. `dtype` is that of its transformer and text encoder in all stages; trained adapters and heads
    are float32."""

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


NO_PROMPT_SET = "infra/no_prompt_set.csv"  # stands for the source's prompts


class SampleParams(Section):
    """Evaluation prompts: `prompts` of the test split, or of `column` of the CSV `prompt_set` (infra/no_prompt_set.csv is
    none); null is all. `workers` of the engine sample their clips (components/runtime/engine.py)."""

    prompt_set: str
    column: Literal["prompt", "prompt_shorter", "prompt_zh"]
    prompts: Count | None
    seeds_per_prompt: Count
    engine: Literal["local", "ray"]
    workers: Count

    def named_set(self) -> str | None:
        """Name of the prompt set for display: its file name and column; None for the source's prompts."""
        return None if self.prompt_set == NO_PROMPT_SET else f"{Path(self.prompt_set).name}, {self.column}"


class HackingParams(Section):
    """Largest drift of a method from base without an alarm (components/evaluation/hacking.py)."""

    frame_count_shift: Fraction  # share of base's mean
    dynamic_degree_drop: Fraction  # share of base's mean
    brightness_shift: Fraction  # of mean luma, 0..1
    saturation_shift: Fraction  # share of base's mean
    diversity_drop: Fraction  # share of base's mean distance between seeds


def known_method(name: str) -> str:
    """A method that is compared with base; ValueError names all where it is none."""
    known = [method for method in METHODS if method != BASE]
    if name not in known:
        raise ValueError(f"unknown method; components/methods.py has {', '.join(known)}")
    return name


def judge_form(name: str) -> str:
    """A judge's name, KIND or KIND:ARGUMENT; which kinds there are is for components/judges/judges.py to tell."""
    if not re.fullmatch(r"[a-z]+(:\S.*)?", name):
        raise ValueError(f"'{name}' is no judge: write KIND or KIND:ARGUMENT, such as gold or model:FOLDER")
    return name


class EvaluateParams(Section):
    """`judges` are held-out judges, and `decides` is the one that promotion goes by; null is none. Their files lie below
    `judges/`, or are `judge_files`, a further file or folder. `tie_width`: differences of scores up to this size are ties,
    in the judge's unit, by its name in metrics; other judges have their own. `strict`: a sample that one generator lacks
    is an error. Otherwise the prompts and seeds that all have are compared, and the others are counted
    (components/evaluation/paired.py)."""

    judges: list[Annotated[str, AfterValidator(judge_form)]]
    decides: str | None
    judge_files: str
    methods: list[Annotated[str, AfterValidator(known_method)]]  # the samples compared with base's
    strict: bool
    resamples: Count
    tie_width: dict[str, Annotated[float, Field(ge=0)]]
    hacking: HackingParams
    report_prompts: Count

    @field_validator("tie_width")
    @classmethod
    def reward_has_a_tie_width(cls, tie_width: dict[str, float]) -> dict[str, float]:
        if "reward" not in tie_width:
            raise ValueError("names no width for reward, which always scores")
        return tie_width

    @model_validator(mode="after")
    def one_of_the_judges_decides(self) -> "EvaluateParams":
        if len(set(self.judges)) < len(self.judges):
            raise ValueError("evaluate.judges names one twice")
        if self.decides is not None and self.decides not in self.judges:
            raise ValueError(f"evaluate.decides is '{self.decides}', which is none of evaluate.judges")
        if self.judges and self.decides is None:
            raise ValueError("evaluate.decides is null, and evaluate.judges has judges: one of them decides")
        return self


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


class Params(Section):
    """All of params.yaml."""

    profile: str
    seed: int
    split: SplitParams
    world: WorldParams
    source: Annotated[ShapesSource | FolderSource | S3Source, Field(discriminator="kind")]
    limits: LimitParams
    measure: MeasureParams
    curate: CurateParams
    reward: RewardParams
    reward_bench: RewardBenchParams
    judge_reward: JudgeRewardParams
    base_generator: BaseGeneratorParams
    sampling: SamplingParams
    candidates: CandidatesParams
    relabel: RelabelParams
    align: AlignParams
    online: OnlineParams
    latent_reward: LatentRewardParams
    nrg: NrgParams
    best_of_n: BestOfNParams
    sample: SampleParams
    tradeoff: TradeoffParams
    evaluate: EvaluateParams
    package: PackageParams
    promotion: PromotionParams
    monitoring: MonitoringParams
    orchestration: OrchestrationParams

    @model_validator(mode="after")
    def a_judge_of_the_graph_is_made_first(self) -> "Params":
        judge = f"model:{JUDGE_REWARD}"
        if judge in self.evaluate.judges and not self.judge_reward.held_out:
            raise ValueError(f"evaluate.judges has {judge}: judge_reward.held_out keeps no pairs for it")
        if judge in self.evaluate.judges and self.evaluate.judge_files != JUDGE_REWARD:
            raise ValueError(f"evaluate.judges has {judge}: evaluate.judge_files must be {JUDGE_REWARD}, to be made first")
        return self

    @model_validator(mode="after")
    def ties_need_theta(self) -> "Params":
        if self.relabel.ties == "keep" and self.align.dpo.theta == 1:
            raise ValueError("relabel.ties 'keep' needs align.dpo.theta above 1: at 1 the probability of a tie is zero")
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file; BadInput names the key that is unknown, missing or wrong."""
    path = Path(path)
    if not path.exists():
        raise BadInput(path, "missing; `reelign profile shapes` makes it")
    return read_section(path, Params)
