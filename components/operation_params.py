"""Sections of params.yaml that no stage reads: who is promoted, what is drift, and how Airflow runs stages."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.param_types import Count, Fraction, Positive, Section


class PromotionParams(Section):
    """What a challenger must show to become champion (components/registry/). No stage reads it.

    Of a reward model: each dimension's accuracy without ties is above `min_accuracy`, with its whole interval, and its error
    of calibration at most `max_calibration_error`; contracts hold on `contract_clips` clips of test pairs. Gains are called
    real at `level`, after Holm's correction; intervals have `resamples` resamples of whole prompts."""

    min_accuracy: Fraction
    max_calibration_error: Fraction
    contract_clips: Count
    resamples: Count
    level: Annotated[float, Field(gt=0, lt=1)]


class MonitoringParams(Section):
    """When served scores have drifted from those that the reward model was fixed on (components/serving/monitor.py). No
    stage reads it.

    Scores of the last `window` hours, at least `min_clips` of them, are at a Kolmogorov-Smirnov distance above
    `max_distance`, which is no chance at `level` after Holm's correction. Then retraining is asked for, at most once in
    `cooldown` hours. Of at least `min_clips` requests, more than the share `max_refused` without a score is an alarm."""

    window: Annotated[float, Field(gt=0, le=24 * 30)]  # lines are kept for 30 days
    min_clips: Count
    max_distance: Fraction
    max_refused: Fraction
    level: Annotated[float, Field(gt=0, lt=1)]
    cooldown: Annotated[float, Field(ge=0)]


class TolerationParams(Section):
    key: str
    operator: Literal["Equal", "Exists"]
    value: str | None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


Size = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]


class ResourcesParams(Section):
    """What the task of a stage gets: cores, memory and shared memory (Mi or Gi), GPUs, nodes it may go to, and how often it
    is tried again. A local process takes what there is."""

    cpu: Positive
    memory: Size
    shared_memory: Size
    gpu: Annotated[int, Field(ge=0)]
    node_selector: dict[str, str]
    tolerations: list[TolerationParams]
    retries: Annotated[int, Field(ge=0)]


class KubernetesParams(Section):
    """Names of what the cluster holds (infra/kubernetes): settings and secrets are given to pods by reference."""

    namespace: str
    service_account: str
    config_map: str
    secret: str
    startup_timeout: Count  # seconds for a node and the image to be found


class DockerParams(Section):
    """`work` is a folder or volume for work trees and cache; variables of `environment` are handed on from Airflow's own, by
    name, where they are set."""

    work: str
    network: str
    environment: list[str]


class ServingParams(Section):
    """The server that DAG `deploy` brings new versions to, by its HTTP address as tasks see it; the repository that it
    serves (`reelign serve --live`) and its log (`--served`). These two are folders, of the checkout or absolute, where tasks
    are processes; folders or volumes where they are containers; persistent volume claims where they are pods. `slowest` is
    how much longer a request to a new version may take than one to the serving version."""

    url: str
    live: str
    served: str
    slowest: Positive


class OrchestrationParams(Section):
    """How Airflow runs stages (dags/runners.py): no stage depends on it. `image` without a tag is that of the commit that
    runs, as `make images` tags it; `parallel` is how many stages at a time; `stages` has what differs from `resources`, by
    stage (`align@dpo`) or for all of its kind (`align`)."""

    runner: Literal["local", "docker", "kubernetes"]
    image: str
    parallel: Count
    retry_delay: Annotated[float, Field(ge=0)]  # seconds
    serving: ServingParams
    docker: DockerParams
    kubernetes: KubernetesParams
    resources: ResourcesParams
    stages: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def stages_name_resources(self) -> "OrchestrationParams":
        for name in self.stages:
            self.resources_of(name)
        return self

    def resources_of(self, stage: str) -> ResourcesParams:
        own = self.stages.get(stage.partition("@")[0], {}) | self.stages.get(stage, {})
        return ResourcesParams.model_validate(self.resources.model_dump() | own)
