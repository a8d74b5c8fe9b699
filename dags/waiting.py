"""Tasks that wait for people: a command of any runner, run again later while its answer is no, as a deferrable sensor.

Between two looks the task is deferred to the triggerer. It takes no slot, no container and no pod, for days.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from components.errors import NO


def waiting(operator: type[BaseOperator], poll: timedelta, patience: timedelta) -> type[BaseOperator]:
    """The operator, which by exit code NO skips, as one that looks again after `poll`; it fails `patience` after its DAG run
    began, without retries."""

    class Waiting(operator):
        def __init__(self, **arguments: Any):
            super().__init__(**arguments, skip_on_exit_code=NO)

        def execute(self, context: Context) -> Any:
            with later(context):
                return super().execute(context)

        def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
            with later(context):  # pods are deferred themselves, and skip when they are back
                return super().resume_execution(next_method, next_kwargs, context)

        def look_again(self, context: Context, event: Any = None) -> Any:
            return self.execute(context)

    @contextmanager
    def later(context: Context) -> Iterator[None]:
        try:
            yield
        except AirflowSkipException as error:
            began = context["dag_run"].start_date
            if began is not None and datetime.now(UTC) - began > patience:
                raise AirflowFailException(f"the answer is still no, {patience.days} days after the run began") from error
            raise TaskDeferred(trigger=TimeDeltaTrigger(poll), method_name="look_again") from error

    Waiting.__name__ = Waiting.__qualname__ = f"Waiting{operator.__name__}"
    return Waiting
