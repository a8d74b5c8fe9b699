"""Timetables that skip late ticks.

Airflow starts the last tick that has passed, however long ago, as soon as a DAG is unpaused or its scheduler restarts:
`catchup=False` skips only the ticks before that one. Here a tick is valid for LATE and is then skipped, so that a DAG runs
only on schedule or on request.
"""

from datetime import timedelta

from airflow.sdk import Context, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowSkipException

LATE = timedelta(minutes=5)


def on_time(cron: str) -> CronTriggerTimetable:
    """Ticks in UTC, for a DAG without a start date: with one, its first run is the tick before it was unpaused. Without
    `run_immediately` the same happens within a tenth of the interval."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=LATE)


def skip_late(context: Context) -> None:
    """Hook before a DAG's first tasks: skip them, and so all others, in a run that began LATE after its tick, as the first
    one after a pause does. A cleared run is not skipped."""
    run = context["dag_run"]
    if run.run_type == "scheduled" and not run.clear_number and run.start_date - run.run_after > LATE:
        why = f"scheduled for {run.run_after:%Y-%m-%d %H:%M} UTC, begun {run.start_date:%Y-%m-%d %H:%M}"
        raise AirflowSkipException(f"{why}: skipped; clear this run, or trigger the DAG, to run it now")
