"""Sections of params.yaml that no stage reads: promotion, monitoring of drift, and Airflow's orchestration."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.config.nodes import only_shared, shared
from components.config.types import Count, Fraction, Positive, Section


class JudgeFloorParams(Section):
    """What the card of the judge that decides must show, Overall: an accuracy without ties whose whole interval is above
    `min_accuracy`, and no verdict on at most the share `max_failures` of the pairs. Of a judge of pairs also a position bias
    of at most `max_position_bias`, and the same answers to repeated questions in at least the share
    `min_self_consistency`."""

    min_accuracy: Fraction
    max_failures: Fraction
    max_position_bias: Fraction
    min_self_consistency: Fraction


class PromotionParams(Section):
    """Conditions for a challenger to become champion (components/registry/). No stage reads it.

    For a reward model: the whole interval of each dimension's accuracy without ties is above `min_accuracy`, the calibration
    error is at most `max_calibration_error`, and contracts hold on `contract_clips` clips of test pairs. For a generator:
    the card of the judge that decides is above the floor `judge`. Gains are significant at `level`, after Holm's correction;
    intervals have `resamples` resamples of whole prompts."""

    min_accuracy: Fraction
    max_calibration_error: Fraction
    contract_clips: Count
    resamples: Count
    level: Annotated[float, Field(gt=0, lt=1)]
    judge: JudgeFloorParams


class MonitoringParams(Section):
    """Drift of served scores from the reference scores of the reward model (components/serving/monitor.py). No stage reads
    it.

    Scores of the last `window` hours, at least `min_clips` of them, are at a Kolmogorov-Smirnov distance above
    `max_distance`, which is no chance at `level` after Holm's correction. Then a retraining is requested, at most once in
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
    """Resources of a stage's task: cores, memory and shared memory (Mi or Gi), GPUs, allowed nodes, and number of retries. A
    local process is not limited. `nodes` pods share the stage, each with all of these."""

    cpu: Positive
    memory: Size
    shared_memory: Size
    gpu: Annotated[int, Field(ge=0)]
    nodes: Count
    node_selector: dict[str, str]
    tolerations: list[TolerationParams]
    retries: Annotated[int, Field(ge=0)]


class KubernetesParams(Section):
    """Names of objects in the cluster (infra/helm/reelign): pods get settings and secrets by reference."""

    namespace: str
    service_account: str
    config_map: str
    secret: str
    startup_timeout: Count  # seconds for scheduling and the image pull


class DockerParams(Section):
    """`work` is a folder or volume for work trees and cache; the variables named in `environment` are passed on from
    Airflow's environment where set."""

    work: str
    network: str
    environment: list[str]


class ServingParams(Section):
    """The server that DAG `deploy` updates, by its HTTP address from the tasks; the repository that it serves (`reelign
    serve --live`) and its log (`--served`). These two are folders, relative to the checkout or absolute, for processes;
    folders or volumes for containers; persistent volume claims for pods. `max_latency_ratio` is the largest
    allowed ratio of the latency of a new version to that of the serving version."""

    url: str
    live: str
    served: str
    max_latency_ratio: Positive


DagName = Literal["retrain", "deploy", "monitor", "label"]  # of dags/


class AlertsParams(Section):
    """An Airflow notifier for failed tasks and late DAG runs, by its class
    (`airflow.providers.smtp.notifications.smtp.SmtpNotifier`), and what it is made with. Secrets belong in Airflow's
    connections. `deadlines` are hours by DAG: a run is late that has not ended so long after it was queued."""

    notifier: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")] | None
    arguments: dict[str, Any]
    deadlines: dict[DagName, Positive]

    @model_validator(mode="after")
    def deadlines_have_a_notifier(self) -> "AlertsParams":
        if self.deadlines and self.notifier is None:
            raise ValueError("deadlines need a notifier: nobody would hear of a late run")
        return self


class LabellingParams(Section):
    """Label Studio of DAG `label`, by its address from the tasks, and the folder with `clips.csv` and its clips (a folder,
    volume or claim, as in ServingParams). The DAG writes there: scores, the folder `project` of `reelign annotate`, and
    `annotations.csv`. `base_url` is where the project's videos are, if not on Label Studio. Every `poll` minutes it looks
    whether the share `ready` of all tasks has all its answers; after `patience` days it fails. `reviewers` decide disputes,
    by mail address or number."""

    url: str
    folder: str
    base_url: str | None
    reviewers: list[str]
    ready: Annotated[float, Field(gt=0, le=1)]
    poll: Positive
    patience: Positive


class OrchestrationParams(Section):
    """How Airflow runs stages (dags/runners.py); no stage depends on it. `image` without a tag gets the running commit as
    its tag, as set by `make images`; `parallel` is the number of concurrent stages; `gpu_pool` is Airflow's pool of stages
    with GPUs; `stages` overrides `resources`, by stage (`align@dpo`) or for all of its kind (`align`)."""

    runner: Literal["local", "docker", "kubernetes"]
    image: str
    parallel: Count
    retry_delay: Annotated[float, Field(ge=0)]  # seconds
    gpu_pool: str | None
    alerts: AlertsParams
    labelling: LabellingParams
    serving: ServingParams
    docker: DockerParams
    kubernetes: KubernetesParams
    resources: ResourcesParams
    stages: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def stages_name_resources(self) -> "OrchestrationParams":
        if self.resources.nodes > 1:
            raise ValueError("orchestration.resources.nodes is for all stages: set orchestration.stages.NAME.nodes instead")
        for name in self.stages:
            if self.resources_of(name).nodes == 1:
                continue
            if not shared(name):
                raise ValueError(f"orchestration.stages.{name}.nodes: {only_shared(name)}")
            if self.runner != "kubernetes":
                why = (
                    f"runner {self.runner} starts one node, kubernetes several; `reelign run-stage --nodes` does it by hand"
                )
                raise ValueError(f"orchestration.stages.{name}.nodes: {why}")
        return self

    def resources_of(self, stage: str) -> ResourcesParams:
        own = self.stages.get(stage.partition("@")[0], {}) | self.stages.get(stage, {})
        return ResourcesParams.model_validate(self.resources.model_dump() | own)
