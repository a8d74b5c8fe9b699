"""Alerts for failed tasks and late runs, by the notifier of params.yaml (`orchestration.alerts`); none by default."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback
from airflow.sdk.module_loading import import_string

from components.config.operation import AlertsParams, DagName
from components.config.params import load_params
from components.errors import BadInput

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


def notifier(alerts: AlertsParams) -> Any:
    """The notifier of params.yaml; BadInput where it cannot be made, so that the DAGs do not load without it."""
    try:
        return import_string(alerts.notifier)(**alerts.arguments)
    except (ImportError, TypeError) as error:
        raise BadInput("params.yaml", f"{alerts.notifier}: {error}", key="orchestration.alerts.notifier") from error


def deadline(dag_id: DagName) -> DeadlineAlert | None:
    """The deadline of a DAG's runs in params.yaml, from the time when a run is queued."""
    return deadline_of(dag_id, load_params(PARAMS).orchestration.alerts)


def deadline_of(dag_id: DagName, alerts: AlertsParams) -> DeadlineAlert | None:
    """The executor calls the notifier for a run that has not ended by then. Its context has `dag_run` and `deadline`, and no
    task."""
    hours = alerts.deadlines.get(dag_id)
    if hours is None or alerts.notifier is None:
        return None
    notifier(alerts)
    callback = SyncCallback(alerts.notifier, kwargs=alerts.arguments)
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=hours), callback, name=f"{dag_id} {hours:g} h")
