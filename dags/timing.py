"""When the time of a DAG with a timetable has come.

Airflow starts the last tick that has passed, however long ago, as soon as a DAG is unpaused or its scheduler is back:
`catchup=False` leaves out only the ticks before that one. Here a tick counts for LATE and is then left out, so that nothing
runs before its time comes or somebody asks.
"""

from datetime import timedelta

from airflow.sdk import Context, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowSkipException

LATE = timedelta(minutes=5)


def on_time(cron: str) -> CronTriggerTimetable:
    """Ticks in UTC. For a DAG without a start date, as otherwise its first run is the tick before it was unpaused. Without
    `run_immediately` that is so for a tenth of the interval."""
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=LATE)


def skip_late(context: Context) -> None:
    """Hook before a DAG's first tasks: skips them, and with them all others, in a run that began LATE after its tick, as
    the first one does after a pause. Clearing the run asks for it: then it runs."""
    run = context["dag_run"]
    if run.run_type == "scheduled" and not run.clear_number and run.start_date - run.run_after > LATE:
        why = f"its time was {run.run_after:%Y-%m-%d %H:%M} UTC, it began {run.start_date:%Y-%m-%d %H:%M}"
        raise AirflowSkipException(f"{why}: skipped; clear this run, or trigger the DAG, to run it now")
