"""Types of params.yaml: one frozen section per stage; an unknown or missing key is an error that names it.

There are no defaults here: a profile (infra/profiles/) is a complete file, which fully describes a run. The sections are in
files by subject and re-exported here.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

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
from components.config.evaluation import NO_PROMPT_SET, EvaluateParams, HackingParams, SampleParams  # noqa: F401
from components.config.generator import (  # noqa: F401
    BaseGeneratorParams,
    BestOfNParams,
    CandidatesParams,
    LatentRewardParams,
    NrgParams,
    RelabelParams,
    SamplingParams,
    StepCacheParams,
    TradeoffParams,
)
from components.config.online import OnlineParams
from components.config.operation import MonitoringParams, OrchestrationParams, PromotionParams
from components.config.reward import (  # noqa: F401
    FramePlanParams,
    JudgeRewardParams,
    LimitParams,
    PackageParams,
    RewardBenchParams,
    RewardParams,
)
from components.config.types import Dtype, LoraParams, Section, TrainingParams, read_section  # noqa: F401
from components.contracts import JUDGE_REWARD
from components.errors import BadInput


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
